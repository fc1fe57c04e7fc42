"""The embedded dataset."""

import pathlib
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

import equifed.data as eqd

from .shared import script


def test_digits_is_what_it_says():
    dataset = eqd.digits()
    assert dataset.num_clients == 14
    assert dataset.num_examples == 1797
    assert dataset.client_ids[0] == "writer00"
    assert dataset.client_sizes.tolist() == [
        130, 126, 130, 130, 130, 130, 130, 123, 128, 130, 128, 130, 122, 130
    ]  # fmt: skip
    image, label = (np.asarray(dataset.columns[c]) for c in ("image", "label"))
    assert (image.shape, image.dtype) == ((1797, 8, 8), np.uint8)
    assert (image.min(), image.max()) == (0, 16)
    assert label.dtype == np.int32
    assert set(label) == set(range(10))
    # Whole forms have the same labels, in the same order.
    for i in (3, 4, 5, 6, 9, 11, 13):
        np.testing.assert_array_equal(
            dataset.client(0)["label"], dataset.client(i)["label"]
        )


def test_digits_names_its_authors_and_licence():
    path = pathlib.Path(eqd.__file__).parent / "digits.parquet"
    metadata = pq.read_schema(path).metadata
    assert metadata[b"licence"] == b"CC BY 4.0"
    assert metadata[b"authors"] == b"E. Alpaydin, C. Kaynak"
    assert path.stat().st_size < 60_000
    for name in ("Alpaydin", "Kaynak", "CC BY 4.0"):
        assert name in (eqd.digits.__doc__ or "")


def test_digits_are_scikit_learns(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    output = tmp_path / "digits.parquet"
    monkeypatch.setattr(sys, "argv", ["make_digits.py", "--output", str(output)])
    script("make_digits").main()
    shipped = pathlib.Path(eqd.__file__).parent / "digits.parquet"
    assert pq.read_table(output).equals(pq.read_table(shipped), check_metadata=True)


def test_importing_is_cheap():
    code = (
        "import sys, equifed.data; "
        "assert not {'datasets', 'pyarrow', 'PIL'} & set(sys.modules); "
        "equifed.data.digits(); "
        "assert not {'datasets', 'PIL'} & set(sys.modules)"
    )
    root = pathlib.Path(eqd.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)

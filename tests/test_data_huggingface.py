"""Data of the Hugging Face `datasets` library: as it hands them out, or refused."""

import datetime
import decimal
import io
import itertools
import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets.table import embed_table_storage
from PIL import Image

import equifed.data as eqd


Value = datasets.Value
TEXT = Value("string")


def read(dataset, **kwargs):
    return eqd.FederatedDataset.from_huggingface(dataset, by="who", **kwargs)


def table_of(values, feature, who=None):
    who = [f"c{i}" for i in range(len(values))] if who is None else who
    return datasets.Dataset.from_dict(
        {"who": who, "x": values},
        features=datasets.Features({"who": TEXT, "x": feature}),
    )


def refused(call, *parts):
    """The error is one sentence or two, and says all of this."""
    with pytest.raises(ValueError, match=r"\.") as caught:
        call()
    assert type(caught.value) is ValueError
    text = str(caught.value)
    assert len(text) < 600
    assert "\n" not in text
    for part in parts:
        assert part in text, f"{part!r} is not in {text!r}"
    return caught.value


# Formats, transforms, selections.


@pytest.fixture(scope="module")
def rows():
    columns = {"who": ["a", "b"], "x": [1, 2], "y": [1.0, 2.0]}
    return datasets.Dataset.from_dict(columns)


@pytest.mark.parametrize(
    ("form", "columns"),
    [
        (lambda d: d.with_format("numpy"), ["x", "y"]),
        (lambda d: d.with_format("arrow"), ["x", "y"]),
        (lambda d: d.with_format("numpy", columns=["who", "y"]), ["y"]),
        (lambda d: d.with_format(None, columns=["x"]), ["x"]),  # `by` is not shown
        (
            lambda d: d.with_format("numpy", columns=["x"], output_all_columns=True),
            ["x", "y"],
        ),
        (lambda d: d.select_columns(["who", "y"]), ["y"]),
        (lambda d: d.remove_columns(["x"]), ["y"]),
        (lambda d: d.with_format("numpy", columns=["who", "x"]).shuffle(0), ["x"]),
    ],
)
def test_only_the_columns_that_a_format_shows_are_kept(rows, form, columns):
    dataset = read(form(rows))
    assert list(dataset.columns) == columns
    assert [dataset["b"][name].tolist() for name in columns] == [[2]] * len(columns)
    # What is asked for by name is what is got.
    if "y" in form(rows).column_names:
        assert list(read(form(rows), columns=["y"]).columns) == ["y"]


def test_what_changes_values_as_they_are_looked_up_is_refused(rows):
    double = lambda batch: {k: 2 * v for k, v in batch.items()}  # noqa: E731
    for dataset in (rows.with_transform(double), rows.shuffle(0)):
        dataset.set_transform(double)
        refused(lambda d=dataset: read(d), "transform", "map(transform, batched=True)")
    refused(
        lambda: read(rows.with_format("numpy", dtype=np.float16)),
        "format",
        "'dtype'",
        "with_format(None)",
    )


@pytest.mark.parametrize(
    ("lazy", "expected"),
    [
        (lambda s: s.map(lambda r: {"z": 2 * r["x"]}), {"x": 2, "y": 2.0, "z": 4}),
        (lambda s: s.select_columns(["who", "x"]), {"x": 2}),
        (lambda s: s.remove_columns(["x"]), {"y": 2.0}),
        (lambda s: s.rename_column("x", "z"), {"z": 2, "y": 2.0}),
        (lambda s: s.filter(lambda r: r["x"] > 1), {"x": 2, "y": 2.0}),
        (lambda s: s.skip(1).with_format("numpy"), {"x": 2, "y": 2.0}),
        (lambda s: s.shuffle(0, buffer_size=2), {"x": 2, "y": 2.0}),
    ],
)
def test_what_is_done_lazily_to_a_stream_is_done(rows, lazy, expected):
    stream = lazy(rows.to_iterable_dataset())
    client = next(c for c in eqd.ClientStream(stream, by="who") if c.client_id == "b")
    for got in (read(stream)["b"], client.examples):
        assert {name: x.tolist() for name, x in got.items()} == {
            name: [x] for name, x in expected.items()
        }


# Images.


def encoded(image, form="PNG", **options):
    file = io.BytesIO()
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    image.save(file, form, **options)
    return {"bytes": file.getvalue(), "path": None}


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


COLOUR = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
RGB = Image.fromarray(COLOUR)
GREY16 = Image.fromarray(np.arange(24, dtype=np.uint16).reshape(4, 6) * 2000)
PALETTE = RGB.quantize(5)
CLEAR = RGB.quantize(5)
CLEAR.info["transparency"] = bytes([0, 100, 200, 255, 255])
IMAGES = {
    **{f"PNG {m}": encoded(RGB.convert(m)) for m in ("1", "L", "LA", "RGB", "RGBA")},
    "PNG P": encoded(PALETTE),
    "PNG P, transparent": encoded(CLEAR),
    "PNG I;16": encoded(GREY16),
    "GIF": encoded(PALETTE, "GIF", transparency=1),
    **{f"JPEG {m}": encoded(RGB.convert(m), "JPEG") for m in ("L", "RGB", "CMYK")},
    **{f"TIFF {m}": encoded(RGB.convert(m), "TIFF") for m in ("1", "F", "CMYK")},
    **{f"TIFF {m}": encoded(RGB.convert(m), "TIFF") for m in ("YCbCr", "LAB", "I")},
    "TIFF I;16": encoded(GREY16, "TIFF"),
    "BMP": encoded(RGB, "BMP"),
    **{f"PNG turned {i}": encoded(RGB, exif=turned(i)) for i in range(1, 9)},
    **{f"JPEG turned {i}": encoded(RGB, "JPEG", exif=turned(i)) for i in (3, 6, 8)},
    "PNG P turned": encoded(PALETTE, exif=turned(6)),
}


@pytest.mark.parametrize("mode", [None, "RGB", "L"])
@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_images_are_those_that_datasets_decodes(name, mode):
    image = IMAGES[name]
    source = table_of([image, image], datasets.Image(mode=mode))
    try:
        expected = np.asarray(source[0]["x"])
    except Exception:  # `datasets` cannot convert it: nor do we.
        refused(
            lambda: read(source), "'x'", "cannot be decoded in row 0 of client 'c0'"
        )
        return
    for dataset in (source, source.select([1, 0]), source.to_iterable_dataset()):
        got = read(dataset)["c1"]["x"]
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected[None])


def test_images_of_parquet_files_are_decoded_alike(tmp_path):
    source = table_of([IMAGES["JPEG turned 6"]], datasets.Image())
    source.to_parquet(tmp_path / "a.parquet")
    got = eqd.FederatedDataset.from_parquet(tmp_path / "a.parquet", by="who")
    np.testing.assert_array_equal(got["c0"]["x"][0], np.asarray(source[0]["x"]))


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (("PNG RGB", "PNG L"), ("colour (mode 'RGB') in", "grey (mode 'L') in")),
        (("PNG L", "PNG P"), ("grey (mode 'L') in", "palette")),
        (("PNG RGBA", "JPEG CMYK"), ("mode 'RGBA'", "CMYK in")),
        (("PNG RGB", "TIFF YCbCr"), ("mode 'RGB'", "YCbCr in")),
        (("PNG L", "PNG 1"), ("mode 'L'", "mode '1'")),
        (("PNG RGB", "PNG turned 6"), ("sizes: (4, 6, 3) in", "(6, 4, 3) in")),
    ],
)
def test_images_that_do_not_fit_together_are_named(names, parts):
    images = [IMAGES[name] for name in names]
    source = table_of([images[0], *images], datasets.Image())
    try:
        _ = source[:]
    except OSError:
        pytest.skip("This Pillow decodes no such image.")
    way_out = "map" if "sizes" in parts[0] else "Image(mode='RGB')"
    places = ("row 0 of client 'c0'", "row 2 of client 'c2'")
    refused(lambda: read(source), "'x'", *parts, *places, way_out)
    # The client is the one of the row as it is seen, and the row too.
    chosen = source.select([2, 1])
    refused(lambda: read(chosen), "row 0 of client 'c2'", "row 1 of client 'c1'")


def test_images_of_a_stream_that_do_not_fit_together_are_named():
    images = [IMAGES["PNG RGB"]] * 1001 + [IMAGES["PNG L"]]
    source = table_of(images, datasets.Image(), who=["a"] * 1001 + ["b"])
    stream = eqd.ClientStream(source.to_iterable_dataset(), by="who")
    refused(
        lambda: list(stream), "row 0 of client 'a'", "row 1001 of client 'b'", "grey"
    )


def test_only_embedded_bytes_are_decoded(tmp_path, monkeypatch):
    path = str(tmp_path / "private.png")
    RGB.save(path)
    source = table_of([path], datasets.Image())
    opened = []
    monkeypatch.setattr(Image, "open", lambda file, *_: opened.append(file))
    for dataset in (source, source.to_iterable_dataset()):
        refused(
            lambda d=dataset: read(d), "'x'", "row 0 of client 'c0'", "private.png",
            "embed_table_storage",
        )  # fmt: skip
    pq.write_table(source.data.table, tmp_path / "a.parquet")
    load = eqd.FederatedDataset.from_parquet
    refused(lambda: load(tmp_path / "a.parquet", by="who"), "private.png", "not opened")
    assert opened == []
    monkeypatch.undo()
    # The ways out that the error names.
    embedded = source.with_format("arrow").map(embed_table_storage, batched=True)
    np.testing.assert_array_equal(read(embedded)["c0"]["x"][0], COLOUR)
    arrays = source.to_iterable_dataset().map(lambda row: {"x": np.asarray(row["x"])})
    np.testing.assert_array_equal(read(arrays)["c0"]["x"][0], COLOUR)


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda i: table_of([i, None], datasets.Image()), ("nulls", "row 1 of client")),
        (
            lambda i: table_of([i, {"bytes": b"no", "path": None}], datasets.Image()),
            ("cannot be decoded in row 1 of client 'c1'",),
        ),
        (
            lambda i: table_of([i], datasets.Image()).cast_column(
                "x", datasets.Image(decode=False)
            ),
            ("decode=False", "cast_column('x', datasets.Image())"),
        ),
        (lambda i: table_of([[i]], datasets.List(datasets.Image())), ("columns=...",)),
    ],
)
def test_images_that_are_none(make, parts):
    refused(lambda: read(make(IMAGES["PNG RGB"])), "'x'", *parts)


def test_encoded_sound_is_refused_by_name():
    features = datasets.Features({"who": TEXT, "x": datasets.Audio()})
    audio = pa.array([{"bytes": b"", "path": None}], features["x"].pa_type)
    table = pa.table({"who": ["a"], "x": audio})
    source = datasets.Dataset(table, info=datasets.DatasetInfo(features=features))
    refused(lambda: read(source), "'x'", "datasets.Audio", "columns=...")


@pytest.mark.skipif(not hasattr(datasets, "Json"), reason="Later ones have it.")
def test_what_datasets_decodes_otherwise_is_refused_by_name():
    for feature in (datasets.Json(), datasets.List(datasets.Json())):
        values = [{"a": 1}] if isinstance(feature, datasets.Json) else [[{"a": 1}]]
        refused(lambda v=values, f=feature: read(table_of(v, f)), "'x'", "columns=...")


# Other columns.


@pytest.mark.parametrize(
    ("values", "feature", "expected"),
    [
        ([[[1.0, 2.0]]] * 2, datasets.Array2D((1, 2), "float32"), np.float32),
        ([[1, 2], [3, 4]], datasets.List(Value("int16"), length=2), np.int16),
        ([[], []], datasets.List(Value("int32")), np.int32),
        ([1.5, 2.5], Value("float16"), np.float16),
        (["u", "v"], datasets.ClassLabel(names=["v", "u"]), np.int64),
        ([datetime.date(2020, 1, 1)] * 2, Value("date32"), "M8[D]"),
        ([datetime.datetime(2020, 1, 1)] * 2, Value("timestamp[us]"), "M8[us]"),
        ([datetime.timedelta(1)] * 2, Value("duration[s]"), "m8[s]"),
        ([decimal.Decimal("1.50")] * 2, Value("decimal128(5, 2)"), object),
        ([b"ab", b"c"], Value("binary"), object),
        (["ab", "c"], Value("large_string"), object),
        ([[[1], [2, 3]], [[4]]], datasets.List(datasets.List(Value("int8"))), object),
    ],
)
def test_columns_are_arrays_of_their_dtype(values, feature, expected):
    source = table_of(values, feature)
    for dataset in (source, source.select([1, 0])):
        got = read(dataset)
        assert got.columns["x"].dtype == expected
        for client, x in zip(source["who"], source["x"], strict=True):
            assert plain(got[client]["x"][0]) == x


def plain(x):
    """An array in lists, whatever is in it."""
    if isinstance(x, np.ndarray) and x.ndim > 0:
        return [plain(y) for y in x]
    return np.asarray(x).item()


@pytest.mark.parametrize(
    ("values", "feature"),
    [
        ([1, None, 3], Value("int32")),
        (["a", None, "c"], TEXT),
        ([1.0, None, 3.0], Value("float64")),
        ([[1.0], [None], [2.0]], datasets.List(Value("float32"), length=1)),
        ([[1.0, 2.0], None, [3.0, 4.0]], datasets.List(Value("float32"), length=2)),
        (
            [[[1.0]], [[2.0], [None]], [[3.0]]],
            datasets.List(datasets.List(Value("float32"))),
        ),
        ([[[1.0]], None, [[1.0]]], datasets.Array2D((1, 1), "float32")),
        (["u", None, "v"], datasets.ClassLabel(names=["u", "v"])),
    ],
)
def test_nulls_are_named_by_row_and_client(values, feature):
    source = table_of(values, feature, who=["b", "a", "b"])
    refused(lambda: read(source), "'x'", "nulls: 1 among 3", "row 1 of client 'a'")
    refused(
        lambda: read(source.select([2, 0, 1])), "'x'", "row 2 of client 'a'", "filter"
    )
    stream = eqd.ClientStream(source.select([0, 2, 1]).to_iterable_dataset(), by="who")
    refused(lambda: list(stream), "row 2 of client 'a'")
    assert read(source.select([0, 2])).num_examples == 2


@pytest.mark.parametrize(
    ("ids", "parts"),
    [
        (["a", None, "b"], ("1 nulls among its 3", "row 1")),
        ([1.0, 2.0, float("nan")], ("1 nulls among its 3", "row 2")),
        (["a", "", "b"], ("empty id",)),
    ],
)
def test_rows_of_nobody_are_refused(ids, parts):
    source = datasets.Dataset.from_dict({"who": ids, "x": [1, 2, 3]})
    refused(lambda: read(source), "'who'", *parts)


# Streams whose rows change.


def stream_of(*parts, **kwargs):
    def rows():
        for number, row in parts:
            yield from itertools.repeat(row, number)

    return datasets.IterableDataset.from_generator(rows, **kwargs)


CHANGES = {
    "whole numbers, then fractions": ({"x": 1}, {"x": 1.5}, ("double", "int64")),
    "nulls, then text": ({"x": None}, {"x": "hi"}, ("string", "null")),
    "lists, then numbers": ({"x": [1]}, {"x": 1}, ("int64", "list")),
    "a column that goes missing": ({"x": 1}, {}, ("no column 'x'", "int64")),
    "a column that comes later": ({}, {"x": 1}, ("'x' is int64", "no such column")),
}


# Inside a batch, and at its end.
@pytest.mark.parametrize(
    ("number", "change"),
    [*((3, change) for change in CHANGES), (1000, "whole numbers, then fractions")],
)
def test_a_stream_that_changes_says_where_and_how(change, number):
    one, two, parts = CHANGES[change]
    make = lambda: stream_of(  # noqa: E731
        (number, {"who": "a", **one}), (2, {"who": "b", **two})
    )
    places = (f"row {number - 1} of client 'a'", f"row {number} of client 'b'")
    parts = ("'x'", *parts, *places, "features=")
    refused(lambda: read(make()), *parts)
    columns = ["x"] if "x" in one else None
    refused(lambda: read(make(), columns=columns), *parts)
    if one.get("x", 0) is None:  # Which is seen before the text comes.
        parts = ("'x'", "nulls", "row 0 of client 'a'")
    refused(lambda: list(eqd.ClientStream(make(), by="who")), *parts)
    loader = eqd.StreamLoader(
        eqd.ClientStream(make(), by="who"), 2, eqd.Steps(1, batch_size=1), prefetch=0
    )
    if "x" in one and one["x"] == 1:
        refused(lambda: next(iter(loader.cohorts())), *parts)


def test_declared_types_hold_for_a_stream_that_changes():
    features = datasets.Features({"who": TEXT, "x": Value("float32")})
    parts = ((3, {"who": "a", "x": 1}), (2, {"x": 1.5, "who": "b"}))
    for stream in (
        stream_of(*parts, features=features),
        stream_of(*parts).cast(features),
    ):
        dataset = read(stream)
        assert dataset.columns["x"].dtype == np.float32
        assert dataset["b"]["x"].tolist() == [1.5, 1.5]
    features["x"] = Value("int32")
    refused(
        lambda: read(stream_of(*parts, features=features)),
        "the row after row 2 of client 'a'", "1.5", "'x': int32",
    )  # fmt: skip


def test_the_order_of_columns_may_change():
    dataset = read(stream_of((1, {"who": "a", "x": 1}), (1, {"x": 2, "who": "b"})))
    assert dataset["b"]["x"].tolist() == [2]


# Parquet files.


@pytest.fixture
def write(tmp_path):
    def make(name, table=None, **kwargs):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if table is None:
            table = pa.table({"who": ["a", "b"], "x": [1.0, 2.0]})
        pq.write_table(table, path, **kwargs)
        return str(path)

    return make


def from_parquet(files, **kwargs):
    return eqd.FederatedDataset.from_parquet(files, by="who", **kwargs)


@pytest.mark.parametrize(
    "name",
    [
        "[v2] data/train.parquet",
        "a*b.parquet",
        "what?.parquet",
        "[ab].parquet",
        "x=3/a",
    ],
)
def test_a_name_that_looks_like_a_pattern_is_a_name_first(write, name):
    path = write(name)
    write("aab.parquet", pa.table({"who": ["other"], "x": [3.0]}))
    dataset = from_parquet(path)
    assert dataset.client_ids == ["a", "b"]
    assert list(dataset.columns) == ["x"]


def test_a_pattern_in_a_folder_that_looks_like_one(write, tmp_path):
    write("[v2] data/0.parquet")
    write("[v2] data/1.parquet", pa.table({"x": [3.0], "who": ["c"]}))
    files = str(tmp_path / "[v2] data" / "*.parquet")
    assert from_parquet(files).client_ids == ["a", "b", "c"]
    refused(lambda: from_parquet(files + "x"), "no file that matches", "*.parquetx")


def damaged(path, change):
    with open(path, "rb") as file:
        data = file.read()
    with open(path, "wb") as file:
        file.write(change(data))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"who,x\na,1\n" * 20,
        lambda data: data[:4] + bytes(range(1, 101)) + data[104:],
    ],
    ids=["truncated", "empty", "not parquet", "overwritten"],
)
def test_damaged_files_are_named(write, tmp_path, change):
    whole, path = write("whole.parquet"), write("damaged.parquet")
    damaged(path, change)
    error = refused(lambda: from_parquet([whole, path]), path, "parquet file")
    assert error.__cause__ is not None
    stream = datasets.load_dataset(
        "parquet",
        data_files=[whole, path],
        split="train",
        streaming=True,
        cache_dir=str(tmp_path / "cache"),
    )
    refused(lambda: read(stream), "damaged.parquet", "rows after its beginning")


def test_files_that_differ_name_both_and_the_column(write, tmp_path):
    one = write("one.parquet")
    for columns, parts in (
        ({"x": [1]}, ("'x' is int64 against double",)),
        ({}, ("no column 'x'",)),
        ({"x": [1.0], "z": [1]}, ("'z' is int64",)),
    ):
        two = write("two.parquet", pa.table({"who": ["c"], **columns}))
        refused(lambda t=two: from_parquet([one, t]), one, two, *parts)
    refused(lambda: from_parquet([one, write("three.parquet", pa.table({"x": [1]}))],
                                 columns=["x"]), "'who'", "three.parquet")  # fmt: skip
    refused(lambda: from_parquet(tmp_path), "is a folder", "*.parquet")
    refused(lambda: from_parquet([one, str(tmp_path / "one*")]), one, "twice")


@pytest.mark.parametrize(
    "metadata",
    [
        b"{",
        b"1",
        b"\xff",
        json.dumps({"info": {"features": {"x": {"_type": "Nope"}}}}).encode(),
        json.dumps({"info": {"features": 3}}).encode(),
    ],
)
def test_damaged_metadata_names_the_file(write, metadata):
    table = pa.table({"who": ["a"], "x": [1.0]})
    path = write("a.parquet", table.replace_schema_metadata({"huggingface": metadata}))
    refused(lambda: from_parquet(path), path, "metadata", "replace_schema_metadata")


def test_lists_of_a_client_that_differ_between_batches_are_ragged():
    source = table_of([[1, 2]] * 1000 + [[3]], datasets.List(Value("int8")))
    source = source.remove_columns("who").add_column("who", ["a"] * 1001)
    (client,) = eqd.ClientStream(source.to_iterable_dataset(), by="who")
    assert client.examples["x"].shape == (1001,)
    assert [x.tolist() for x in client.examples["x"][-2:]] == [[1, 2], [3]]

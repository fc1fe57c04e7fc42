"""Writes `equifed/data/digits.parquet` from scikit-learn's copy of the digits.

    python scripts/make_digits.py

The images come in the order in which they were scanned: form after form, one for each
writer. A form has the same sequence of labels as any other, so its beginning can be
found; these are the rows at which the 14 forms begin.
"""

import argparse
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_digits


STARTS = [0, 130, 256, 386, 516, 646, 776, 906, 1029, 1157, 1287, 1415, 1545, 1667]
METADATA = {
    "title": "Optical Recognition of Handwritten Digits (test part), by writer",
    "authors": "E. Alpaydin, C. Kaynak",
    "source": "UCI Machine Learning Repository, set 80, doi:10.24432/C50P49; copied "
    "from scikit-learn's load_digits",
    "licence": "CC BY 4.0",
    "changes": "Grouped by writer, as found from the repeating sequence of labels.",
}
DEFAULT = pathlib.Path(__file__).parents[1] / "equifed" / "data" / "digits.parquet"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, default=DEFAULT)
    output = parser.parse_args().output

    images, labels = load_digits(return_X_y=True)
    sizes = np.diff([*STARTS, len(labels)])
    names = [f"writer{i:02d}" for i in range(len(STARTS))]
    pixels = pa.array(images.astype(np.uint8).reshape(-1))
    table = pa.table(
        {
            "client_id": pa.array(np.repeat(names, sizes)),
            "image": pa.FixedSizeListArray.from_arrays(pixels, 64),
            "label": pa.array(labels.astype(np.uint8)),
        }
    )
    table = table.replace_schema_metadata(METADATA)
    pq.write_table(table, output, compression="zstd", compression_level=19)


if __name__ == "__main__":
    main()

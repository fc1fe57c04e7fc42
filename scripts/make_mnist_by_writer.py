"""Writes MNIST with its writers as clients, from the files of QMNIST.

    python scripts/make_mnist_by_writer.py --source qmnist --output mnist_by_writer

The folder `--source` holds QMNIST's images and `idx2-int` labels, as they are published
or unpacked. QMNIST keeps MNIST's order: its training set is MNIST's, and the first
10,000 of its test set are MNIST's test set. Of the eight numbers of a label the first
is the digit and the third the writer.
"""

import argparse
import gzip
import pathlib

import numpy as np

import equifed as eqf


FILES = {
    "train": ("qmnist-train-images-idx3-ubyte", "qmnist-train-labels-idx2-int"),
    "test": ("qmnist-test-images-idx3-ubyte", "qmnist-test-labels-idx2-int"),
}
TYPES = {8: np.dtype("u1"), 12: np.dtype(">i4")}


def read(source: pathlib.Path, name: str) -> np.ndarray:
    """An array of an IDX file, which may be compressed."""
    path = source / name
    if not path.exists():
        path = source / f"{name}.gz"
    if not path.exists():
        raise SystemExit(f"{source / name} is missing, with or without .gz.")
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix == ".gz" else data
    kind, num_axes = data[2], data[3]
    shape = np.frombuffer(data, ">i4", num_axes, offset=4)
    return np.frombuffer(data, TYPES[kind], offset=4 + 4 * num_axes).reshape(shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for part, (images, labels) in FILES.items():
        image, label = read(args.source, images), read(args.source, labels)
        if part == "test":
            image, label = image[:10_000], label[:10_000]
        dataset = eqf.data.FederatedDataset.from_arrays(
            {
                "image": image.reshape(len(image), -1),
                "label": label[:, 0].astype(np.int32),
            },
            by=label[:, 2].astype(np.int64),
        )
        dataset.to_parquet(args.output / f"{part}.parquet")
        print(f"{part}: {dataset.num_examples} of {dataset.num_clients} writers")


if __name__ == "__main__":
    main()

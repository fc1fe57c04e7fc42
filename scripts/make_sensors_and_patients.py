"""Writes three sets of real clients, those of `examples/personal.py`.

    python scripts/make_sensors_and_patients.py --source downloads --output data

The folder `--source` holds what is published of any of them: of phone users (WISDM)
`WISDM_ar_v1.1_transformed.arff`; of hospitals (heart disease) the four
`processed.NAME.data`; of patients (Parkinson's telemonitoring)
`parkinsons_updrs.data`. What is missing in them, a `?`, is NaN here.
"""

import argparse
import pathlib

import numpy as np

import equifed as eqf


HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
PARKINSONS = "parkinsons_updrs.data"
WISDM = "WISDM_ar_v1.1_transformed.arff"


def rows_of(path: pathlib.Path) -> list[list[str]]:
    """The fields of each line that is not empty, without the quotes around them."""
    lines = path.read_text("utf-8").splitlines()
    return [[x.strip(' "') for x in line.split(",")] for line in lines if line.strip()]


def numbers(fields: list[list[str]]) -> np.ndarray:
    return np.array([[np.nan if x == "?" else x for x in row] for row in fields], "f4")


def written(folder: pathlib.Path, who: list[str], **columns: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    dataset = eqf.data.FederatedDataset.from_arrays(columns, by=np.array(who))
    dataset.to_parquet(folder / "all.parquet")
    print(f"{folder.name}: {dataset.num_examples} of {dataset.num_clients} clients")


def phone_users(source: pathlib.Path, output: pathlib.Path) -> None:
    rows = rows_of(source / WISDM)
    rows = rows[[row[0].lower() for row in rows].index("@data") + 1 :]
    activity = [row[-1] for row in rows]
    names = sorted(set(activity))
    written(
        output / "wisdm_har",
        [f"user{int(row[1]):02d}" for row in rows],
        features=numbers([row[2:-1] for row in rows]),
        label=np.array([names.index(x) for x in activity], np.int8),
    )


def hospitals(source: pathlib.Path, output: pathlib.Path) -> None:
    paths = {name: source / f"processed.{name}.data" for name in HOSPITALS}
    missing = [path.name for path in paths.values() if not path.exists()]
    if missing:
        raise SystemExit(f"{source} lacks {', '.join(missing)} of the four hospitals.")
    rows = {name: rows_of(path) for name, path in paths.items()}
    found = [row for part in rows.values() for row in part]
    written(
        output / "heart_disease",
        [name for name, part in rows.items() for _ in part],
        features=numbers([row[:-1] for row in found]),
        label=np.array([row[-1] for row in found], np.int8),
    )


def patients(source: pathlib.Path, output: pathlib.Path) -> None:
    head, *rows = rows_of(source / PARKINSONS)
    targets = ("motor_UPDRS", "total_UPDRS")
    others = [i for i, name in enumerate(head) if i > 0 and name not in targets]
    motor, total = (numbers([[row[head.index(n)]] for row in rows]) for n in targets)
    written(
        output / "parkinsons_telemonitoring",
        [f"subject{int(row[0]):02d}" for row in rows],
        features=numbers([[row[i] for i in others] for row in rows]),
        motor_updrs=motor[:, 0],
        total_updrs=total[:, 0],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    files = {WISDM: phone_users, PARKINSONS: patients}
    files |= {f"processed.{name}.data": hospitals for name in HOSPITALS}
    found = {make for name, make in files.items() if (args.source / name).exists()}
    if not found:
        raise SystemExit(f"{args.source} has none of the files {', '.join(files)}.")
    for make in sorted(found, key=lambda f: f.__name__):
        make(args.source, args.output)


if __name__ == "__main__":
    main()

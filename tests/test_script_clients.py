"""The script that makes the phone users', hospitals' and patients' data of what is
published of them."""

import numpy as np
import pytest

import equifed as eqf

from .shared import script as load


ARFF = """\
@relation activity

@attribute "UNIQUE_ID" numeric
@attribute "user" { "3", "12" }
@attribute "X0" numeric
@attribute "XPEAK" numeric
@attribute class

@data
1,12,0.04,?,Jogging
2,"3",0.5,2075,"Downstairs"
3,12,.11,-2e-1,Walking
"""
UPDRS = """\
subject#,age,sex,test_time,motor_UPDRS,total_UPDRS,PPE
1,72,0,5.6431,28.199,34.398,0.16006
1,72,0,12.666,28.447,34.894,0.1081
40,61,1,-1.5,10,14.5,0.3
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    script = load("make_sensors_and_patients")
    (tmp_path / "raw").mkdir()
    words = ["--source", str(tmp_path / "raw"), "--output", str(tmp_path / "out")]

    def run(**files):
        for name, text in files.items():
            (tmp_path / "raw" / name).write_text(text)
        monkeypatch.setattr("sys.argv", ["script", *words])
        script.main()
        return tmp_path / "out"

    return run


def read(folder, *columns):
    return eqf.data.FederatedDataset.from_parquet(
        folder / "all.parquet", by="client_id", columns=list(columns)
    )


def test_of_phone_users_and_patients(run, capsys):
    out = run(
        **{"WISDM_ar_v1.1_transformed.arff": ARFF, "parkinsons_updrs.data": UPDRS}
    )
    assert sorted(x.name for x in out.iterdir()) == [
        "parkinsons_telemonitoring",
        "wisdm_har",
    ]
    assert "wisdm_har: 3 of 2 clients" in capsys.readouterr().out
    users = read(out / "wisdm_har", "features", "label")
    assert list(users.client_ids) == ["user03", "user12"]
    assert np.asarray(users.columns["label"]).tolist() == [
        0,
        1,
        2,
    ]  # in the order of their names
    assert np.array_equal(
        users.columns["features"],
        np.array([[0.5, 2075], [0.04, np.nan], [0.11, -0.2]], np.float32),
        equal_nan=True,
    )
    patients = read(out / "parkinsons_telemonitoring", "features", "total_updrs")
    assert list(patients.client_ids) == ["subject01", "subject40"]
    assert np.allclose(patients.columns["total_updrs"], [34.398, 34.894, 14.5])
    assert np.allclose(np.asarray(patients.columns["features"])[2], [61, 1, -1.5, 0.3])


def test_of_hospitals(run):
    row = "63.0,1.0,?,145.0,233.0,1.0,2.0,150.0,0.0,2.3,3.0,0.0,6.0,{}\n"
    names = ("cleveland", "hungarian", "switzerland", "va")
    files = {f"processed.{n}.data": row.format(i) for i, n in enumerate(names)}
    last = files.pop("processed.va.data")
    with pytest.raises(SystemExit, match="lacks processed.va.data"):
        run(**files)
    found = read(
        run(**{"processed.va.data": last}) / "heart_disease", "features", "label"
    )
    assert tuple(found.client_ids) == names
    assert np.asarray(found.columns["label"]).tolist() == [0, 1, 2, 3]
    assert found.columns["features"].shape == (4, 13)
    assert np.isnan(np.asarray(found.columns["features"])[:, 2]).all()


def test_of_nothing(run):
    with pytest.raises(SystemExit, match="has none of the files WISDM"):
        run()

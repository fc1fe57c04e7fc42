"""Evaluations of the same clients, side by side: against sums by hand."""

from typing import Any

import numpy as np
import pytest

import equifed as eqf


IDS = [f"c{i}" for i in range(10)]
ACCURACY = np.linspace(0.1, 1.0, 10)
SIZES = np.arange(1, 11)


def metrics(values, ids=IDS, sizes: Any = SIZES, unseen=()):
    values = {"accuracy": np.asarray(values, np.float32)}
    return eqf.ClientMetrics(values, np.asarray(sizes), list(ids), unseen)


def compared(mode: Any = "max", **others):
    found = {"FedAvg": metrics(ACCURACY), **others}
    return eqf.ClientComparison(found, "accuracy", mode=mode, baselines=["FedAvg"])


def test_a_row_is_what_its_clients_have():
    own = metrics(ACCURACY + 0.05)
    first, second = compared(own=own).rows
    assert first["name"] == "FedAvg"
    assert first["gain over FedAvg"] == first["gain FedAvg"] == 0
    assert second["mean"] == pytest.approx(0.6)
    weights = SIZES / SIZES.sum()
    assert second["examples"] == pytest.approx(float(weights @ (ACCURACY + 0.05)))
    assert second["p50"] == pytest.approx(float(np.quantile(ACCURACY + 0.05, 0.5)))
    assert second["worst 10%"] == pytest.approx(0.15)
    assert second["gain over FedAvg"] == pytest.approx(0.05)
    assert (second["gain FedAvg"], second["lose FedAvg"]) == (1, 0)


def test_the_worst_of_a_loss_are_the_highest_and_gains_are_falls():
    _, row = compared("min", own=metrics(ACCURACY - 0.05)).rows
    assert row["worst 10%"] == pytest.approx(0.95)
    assert row["gain over FedAvg"] == pytest.approx(0.05)
    assert row["gain FedAvg"] == 1


def test_clients_are_matched_by_their_ids():
    order = [7, 2, 5]
    own = metrics(
        [ACCURACY[7] + 0.1, np.nan, ACCURACY[5] - 0.3],
        [*(IDS[i] for i in order)],
        [2, 0, 2],
    )
    table = compared(own=own)
    gains = table.gains("own", "FedAvg")
    assert list(gains) == [IDS[i] for i in order]
    np.testing.assert_allclose(list(gains.values()), [0.1, np.nan, -0.3], atol=1e-6)
    row = table.rows[1]
    assert row["gain over FedAvg"] == pytest.approx(-0.1)
    assert (row["gain FedAvg"], row["lose FedAvg"]) == (0.5, 0.5)
    assert (row["matched FedAvg"], row["clients"], row["without"]) == (2, 2, 1)


def test_its_table_has_a_line_for_each():
    own = metrics([*ACCURACY[:-1] + 0.05, np.nan], unseen=("c0", "c1"))
    lines = repr(compared(own=own)).splitlines()
    assert lines[0].split() == [
        *("accuracy", "mean", "examples", "p10", "p50", "p90", "worst", "10%"),
        *("over", "FedAvg", "gain", "/", "lose", "clients", "without", "unseen"),
    ]
    assert lines[1].split()[-3:] == ["10", "0", "0"]
    assert lines[2].split()[-7:] == ["+0.05", "100%", "/", "0%", "9", "1", "2"]
    assert len({len(line) for line in lines}) == 1


def test_two_baselines_at_once():
    """Over the model of all, and over training alone, each with its own clients."""
    alone = metrics([*ACCURACY[:2] + 0.2, *ACCURACY[2:] - 0.1])
    own = metrics([*ACCURACY[:9] + 0.1, np.nan])
    found = {"FedAvg": metrics(ACCURACY), "alone": alone, "own": own}
    table = eqf.ClientComparison(
        found, "accuracy", mode="max", baselines=["FedAvg", "alone"]
    )
    row = table.rows[2]
    assert row["gain over FedAvg"] == pytest.approx(0.1)
    assert (row["gain FedAvg"], row["lose FedAvg"]) == (1, 0)
    # Two lose a tenth, and seven gain two; the last one has no number.
    assert row["gain over alone"] == pytest.approx((2 * -0.1 + 7 * 0.2) / 9)
    assert row["gain alone"] == pytest.approx(7 / 9)
    assert row["lose alone"] == pytest.approx(2 / 9)
    assert row["matched FedAvg"] == row["matched alone"] == 9
    head, first, second, third = (x.split() for x in repr(table).splitlines())
    at = head.index("over")
    wanted = "over FedAvg gain / lose over alone gain / lose"
    assert head[at : at + 10] == wanted.split()
    assert first[7:11] == ["+0.04", "80%", "/", "20%"]  # over alone; none over itself
    assert second[7:11] == ["-0.04", "20%", "/", "80%"]  # over FedAvg alone
    assert third[7:15] == ["+0.1", "100%", "/", "0%", "+0.1333", "78%", "/", "22%"]


def test_nobody_that_both_know_is_no_gain():
    ids = ["c0", "other"]
    table = compared(own=metrics([np.nan, 1.0], ids, [1, 1]))
    row = table.rows[1]
    assert row["matched FedAvg"] == 0
    assert np.isnan([row["gain over FedAvg"], row["gain FedAvg"]]).all()
    assert "- / -" in repr(table)

"""Records of devices, in files that are written here."""

import json
import os
import pickle

import numpy as np
import pytest

import equifed.clock as eqt


# As FedScale's README has them: `benchmark/dataset/data/device_info`.
DEVICES = {
    1: {"computation": 50.0, "communication": 2000.0},
    2: {"computation": 200.0, "communication": 500.0},
    7: {"computation": 100, "communication": 1000},
}
BEHAVIOUR = {
    1: {
        "duration": 211625,
        "inactive": [30, 100],
        "finish_time": 200,
        "active": [10, 80],
        "model": "CPH1801",
    },
    2: {
        "duration": 5,
        "inactive": [20, 150],
        "finish_time": 150,
        "active": [0, 100],
        "model": "MI 6",
    },
    3: {
        "duration": 5,
        "inactive": [],
        "finish_time": 100,
        "active": [],
        "model": "",
    },
    4: {
        "duration": 5,
        "inactive": [100],
        "finish_time": 100,
        "active": [0],
        "model": "",
    },
}


def write(path, content, kind):
    if kind == "json":
        path.write_text(json.dumps(content))
    else:
        path.write_bytes(pickle.dumps(content, protocol=kind))
    return path


@pytest.mark.parametrize("kind", [0, 2, 4, "json"])
def test_devices_have_the_times_that_fedscale_gives_them(tmp_path, kind):
    path = write(tmp_path / "client_device_capacity", DEVICES, kind)
    batch, steps, flops = 20, 7, 3e6
    devices = eqt.read_devices(path, num_clients=5, flops=flops / batch)
    system = eqt.SystemModel(
        speed=devices.speed, downlink=devices.bandwidth, uplink=devices.bandwidth
    )
    kilobits = 400.0
    times = system.times(
        np.arange(5),
        0,
        flops=steps * flops,
        bits_down=1024 * kilobits,
        bits_up=1024 * kilobits,
    )
    for i, name in enumerate([1, 2, 7, 1, 2]):
        device = DEVICES[name]
        assert times.compute[i] == pytest.approx(
            3.0 * batch * steps * device["computation"] / 1000
        )
        sent = times.download[i] + times.upload[i]
        assert sent == pytest.approx(2 * kilobits / device["communication"])


@pytest.mark.parametrize("kind", [2, "json"])
def test_availability_is_as_it_was_recorded(tmp_path, kind):
    path = write(tmp_path / "client_behave_trace", BEHAVIOUR, kind)
    system = eqt.SystemModel(availability=eqt.read_availability(path, num_clients=6))
    records = list(BEHAVIOUR.values())
    for time in np.arange(0.5, 700.0, 7.0):
        for i in range(6):
            record = records[i % 4]
            now = time % record["finish_time"]
            spans = list(zip(record["active"], record["inactive"], strict=True))
            there = any(a <= now < b for a, b in spans)
            assert system.available([i], time)[0] == there
            until = system.until([i], time)[0]
            come = system.next_available([i], time)[0]
            if there:
                assert come == time
                end = next(b for a, b in spans if a <= now < b) - now
                if end == record["finish_time"] - now and spans[0][0] == 0:
                    end = end + spans[0][1] if len(spans) > 1 else np.inf
                assert until == pytest.approx(time + end)
            else:
                assert until == time
                period = record["finish_time"]
                waits = [(a - now) % period for a, _ in spans]
                assert come == pytest.approx(time + min(waits, default=np.inf))


def test_a_client_has_its_times_to_the_digit_beside_any_other():
    # A period that is never over, and many clients beside.
    starts = np.linspace(0, 86_000, 50_000)
    trace = eqt.AvailabilityTrace(
        [[(0, 1)], *([(start, start + 1e-3)] for start in starts)],
        period=[1e15, *(86_400.0 for _ in starts)],
    )
    system, clients = eqt.SystemModel(availability=trace), np.arange(1, 50_001)
    assert system.available(clients, starts).all()
    assert not system.available(clients[1:], starts[1:] - 1e-3).any()
    assert not system.available(clients, starts + 2e-3).any()
    come = system.next_available(clients[1:], starts[1:] - 1e-3)
    np.testing.assert_array_equal(come, starts[1:])


def test_intervals_that_touch_are_one_and_what_is_beyond_is_cut_off():
    trace = eqt.AvailabilityTrace(
        [[(50, 60), (10, 20), (20, 30), (55, 500)], [(0, 5)]], period=[100, 10]
    )
    np.testing.assert_array_equal(trace.starts, [10, 50, 0])
    np.testing.assert_array_equal(trace.stops, [30, 100, 5])
    np.testing.assert_array_equal(trace.offsets, [0, 2, 3])


class _Runs:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_a_pickle_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "evil", {1: _Runs()}, 4)
    with pytest.raises(ValueError, match="neither JSON nor a pickle of dictionaries"):
        eqt.read_devices(path, num_clients=1, flops=1)
    assert not (tmp_path / "ran").exists()
    path = write(tmp_path / "arrays", {1: {"computation": np.float64(1.0)}}, 4)
    with pytest.raises(ValueError, match="numpy"):
        eqt.read_devices(path, num_clients=1, flops=1)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("computation", None, "`computation` of client '2' in .* above 0, got None"),
        ("computation", 0, "above 0, got 0"),
        ("communication", float("nan"), "`communication` .* got nan"),
        ("communication", "fast", "got 'fast'"),
        ("communication", 10**400, "must be a number above 0, got 100"),
    ],
)
def test_a_hole_in_the_devices_is_named(tmp_path, field, value, words):
    devices = {str(k): dict(v) for k, v in DEVICES.items()}
    devices["2"][field] = value
    path = write(tmp_path / "devices", devices, "json")
    with pytest.raises(ValueError, match=words):
        eqt.read_devices(path, num_clients=3, flops=1)
    assert eqt.read_devices(path, num_clients=1, flops=1).speed.num_clients == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"active": [10]}, "Client 1 in .* two lists of one length"),
        ({"active": [10, None]}, "times of client 1 .* must be numbers, got None"),
        ({"active": [40, 80]}, "Client 1 in .* has an interval from 40 to 30"),
        (
            {"active": [10, float("nan")]},
            "client 1 .* must be numbers, got nan",
        ),
        ({"active": [10, 10**400]}, "times of client 1 .* must be numbers, got 100"),
        ({"active": [-5, 80]}, "Client 1 in .* has an interval from -5 to 30"),
        # Milliseconds, and a period in seconds.
        (
            {"active": [10_000, 80_000], "inactive": [30_000, 100_000]},
            "All intervals of client 1 in .* begin after its `finish_time` of 200",
        ),
        ({"finish_time": None}, "`finish_time`, a number above 0, got"),
        ({"finish_time": 0}, "`finish_time`, a number above 0, got .* and 0"),
        ({"finish_time": 10**400}, "`finish_time`, a number above 0"),
    ],
)
def test_a_hole_in_the_behaviour_is_named(tmp_path, change, words):
    behaviour = BEHAVIOUR | {1: BEHAVIOUR[1] | change}
    path = write(tmp_path / "behaviour", behaviour, 4)
    with pytest.raises(ValueError, match=words):
        eqt.read_availability(path, num_clients=4)


@pytest.mark.parametrize("content", [[1, 2], {}, {"1": 3}])
def test_another_format_is_refused(tmp_path, content):
    path = write(tmp_path / "other", content, 4)
    with pytest.raises(ValueError, match="must hold a dictionary that has for each"):
        eqt.read_availability(path, num_clients=1)
    for text in ("{not json", '{"a":' * 100_000):
        (tmp_path / "text").write_text(text)
        with pytest.raises(ValueError, match="is not JSON"):
            eqt.read_availability(tmp_path / "text", num_clients=1)


def test_nobody_is_ever_there(tmp_path):
    path = write(tmp_path / "behaviour", {1: BEHAVIOUR[3]}, 4)
    with pytest.raises(ValueError, match="No client of the trace is ever there"):
        eqt.read_availability(path, num_clients=2)

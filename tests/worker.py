"""One of the processes that `test_processes.py` starts, and what it shares with them.

Run as `python -m tests.worker TASK PROCESS PORT DIRECTORY`. Two of them, each with two
devices, make up one program; what a process finds out it writes to a file of its own.
"""

import os
import pathlib
import pickle
import signal
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec as P
from jaxtyping import Int

import equifed as eqf
from equifed import testing
from equifed.data import _placement


SIZES = (5, 3, 8, 2, 7, 4, 6, 1, 5, 3)
ROUNDS, KILLED = 8, 5  # the rounds of the long training, and the one that is not made

# name: algorithm, resident, ordered, rounds in a call. Each pair of what these are is
# in one of them: clients that keep something (`Scaffold`'s) or nothing, data that is
# resident or streamed, sums in order or not, and a call of one round or of two.
CASES = {
    "FedAvg, in any order": (eqf.FedAvg, True, False, 1),
    "Scaffold": (eqf.Scaffold, True, True, 1),
    "Scaffold, streamed": (eqf.Scaffold, False, True, 2),
    "Mime, streamed": (eqf.Mime, False, True, 1),  # two passes
}
STREAMED = [case for case, (_, resident, _, _) in CASES.items() if not resident]


class Recorded(np.ndarray):
    """A column that notes which of its rows are read."""

    rows: set[int] = set()

    def __getitem__(self, item):
        assert isinstance(item, slice)
        Recorded.rows.update(range(*item.indices(len(self))))
        return np.asarray(self)[item]


class Everyone(eqf.data.AbstractSampler):
    """All clients; kills its process when it is asked for a certain round."""

    last: int = sys.maxsize
    seed: int = 0

    def __call__(self, round: int, num_clients: int) -> Int[np.ndarray, " clients"]:
        if round == self.last:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.arange(num_clients)

    def max_clients(self, num_clients: int) -> int:
        return num_clients


class Logger(eqf.AbstractLogger):
    """Keeps what it is given."""

    def __init__(self):
        self.rows = []

    def start(self, num_rounds, first_round):
        self.rows.append((first_round, num_rounds))

    def log(self, round, metrics):
        self.rows.append((round, dict(metrics)))

    def close(self):
        self.rows.append("closed")


def dataset(*, recorded: bool = False) -> eqf.data.FederatedDataset:
    made = testing.ragged_clients(SIZES)
    if not recorded:
        return made
    columns = {name: np.asarray(x).view(Recorded) for name, x in made.columns.items()}
    return eqf.data.FederatedDataset(columns, made.offsets, made.client_ids)


def train(case, mesh, *, data=None, last=sys.maxsize, num_rounds=3, **options):
    """A training on a mesh: the numbers of its model, its client states, its rounds."""
    kind, resident, ordered, rounds_per_call = CASES[case]
    algorithm = kind(
        testing.noisy_loss, optax.sgd(0.05), eqf.data.Epochs(2, batch_size=2)
    )
    loader = eqf.data.Loader(
        dataset() if data is None else data,
        Everyone(last),
        algorithm.batching,
        mesh=mesh,
        resident=resident,
        prefetch=0 if last < sys.maxsize else 2,
    )
    solution = eqf.train(
        algorithm,
        testing.Linear(),
        loader,
        num_rounds=num_rounds,
        key=jr.key(0),
        executor=eqf.Executor(ordered=ordered),
        rounds_per_call=rounds_per_call,
        **options,
    )
    arrays = eqx.filter((solution.model, solution.state.clients), eqx.is_array)
    return [np.asarray(x) for x in jtu.tree_leaves(arrays)], solution.history


def evaluate(mesh, data):
    """Metrics over all examples and for each client."""
    evaluator = eqf.Evaluator(data, testing.noisy_loss, mesh=mesh)
    model = testing.Linear()
    return evaluator(model), evaluator.per_client(model).values


def same_numbers(mesh):
    found: dict = {case: train(case, mesh) for case in CASES}
    data = dataset(recorded=True)
    for case in STREAMED:
        Recorded.rows = set()
        train(case, mesh, data=data, num_rounds=1)
        found["rows", case] = Recorded.rows
    Recorded.rows = set()
    found["evaluation"] = evaluate(mesh, data)
    found["rows", "evaluation"] = Recorded.rows
    found["agreed"] = agreement(mesh)
    logger = Logger()
    _, history = train(
        "Scaffold", mesh, logger=logger, evaluation={"all": dataset()}, eval_every=2
    )
    found["logged"] = logger.rows, history
    found["elsewhere"] = np.asarray(
        eqf.evaluate(on_mesh(mesh), dataset(), testing.noisy_loss)["loss"]
    )
    return found


def agreement(mesh):
    """Whether a dataset is resident, where there is room for it on process 0 only."""
    loader = eqf.data.Loader(
        dataset(), Everyone(), eqf.data.Epochs(1, batch_size=2), mesh=mesh
    )
    with_room = loader.resident
    _placement.RESIDENT_BYTES = 2**30 if jax.process_index() == 0 else 0
    loader = eqf.data.Loader(
        dataset(), Everyone(), eqf.data.Epochs(1, batch_size=2), mesh=mesh
    )
    return with_room, loader.resident


def on_mesh(mesh):
    return jax.device_put(testing.Linear(), NamedSharding(mesh, P()))


def checkpoint(mesh, directory):
    """Arrays of every kind, saved and restored; and a directory that is not shared."""
    values = np.arange(8, dtype=np.float32) / 3

    def state(values):
        put = {
            kind: jax.make_array_from_callback(
                values.shape, NamedSharding(mesh, spec), values.__getitem__
            )
            for kind, spec in {"copies": P(), "parts": P("clients")}.items()
        }
        key = jr.key(int(values.sum()))
        return {**put, "free": jnp.asarray(values), "host": values, "key": key}

    checkpointer = eqf.Checkpointer(directory / "state")
    checkpointer.save(3, state(values), [{"round": 3}])
    restored = checkpointer.restore(state(np.zeros_like(values)))
    assert restored is not None
    number, got, history = restored
    assert (number, history) == (3, [{"round": 3}])
    assert (jr.key_data(got["key"]) == jr.key_data(jr.key(int(values.sum())))).all()
    for name, like in state(values).items():
        if name == "host":
            assert got[name].tobytes() == values.tobytes()
        elif name != "key":
            assert got[name].sharding == like.sharding
            for shard in got[name].addressable_shards:
                assert np.asarray(shard.data).tobytes() == values[shard.index].tobytes()
    errors = []
    own = eqf.Checkpointer(directory / f"process{jax.process_index()}" / "state")
    for call in (
        lambda: own.save(1, values, []),
        lambda: checkpointer.save(2, values, []),
    ):
        try:
            call()
        except ValueError as error:
            errors.append(str(error))
    return errors


def long_training(mesh, directory, last=sys.maxsize):
    """The training that is killed, and begun again."""
    checkpointer = eqf.Checkpointer(directory / "run", every=2)
    options = {"num_rounds": ROUNDS, "checkpointer": checkpointer}
    return train("Scaffold, streamed", mesh, last=last, **options)


class LastOnly(eqf.AbstractStop):
    """Ends after three rounds, if the last process is asked."""

    metric: str = "all/loss"
    mode: str = "max"

    def __call__(self, history):
        return len(history) == 3 and jax.process_index() == jax.process_count() - 1


def stopped(mesh, directory):
    """A training that is saved, gone on with, and ends early with its best model."""
    options = {"evaluation": {"all": dataset()}, "eval_every": 1, "stop": LastOnly()}
    for num_rounds in (2, 9):
        options["checkpointer"] = eqf.Checkpointer(directory / "stopped", every=1)
        found = train("Scaffold", mesh, num_rounds=num_rounds, **options)
    return found


def main(task, process, port, directory):
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        f"127.0.0.1:{port}",
        2,
        process,
        initialization_timeout=60,
        heartbeat_timeout_seconds=10,
        shutdown_timeout_seconds=20,
    )
    mesh = jax.make_mesh((jax.device_count(),), ("clients",))
    if task == "killed":
        found = long_training(mesh, directory, KILLED if process == 1 else sys.maxsize)
    else:
        # What a process imports and compiles for one of these it need not for others.
        found = {
            **same_numbers(mesh),
            "stopped": stopped(mesh, directory),
            "again": long_training(mesh, directory),
            "checkpoint": checkpoint(mesh, directory),
        }
    path = directory / f"{task}-{process}.pickle"
    path.write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], pathlib.Path(sys.argv[4]))

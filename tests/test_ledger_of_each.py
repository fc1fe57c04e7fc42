"""What each client has sent and was sent: of every algorithm, and wherever it runs."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
import equifed.compress as eqc
import equifed.privacy as eqp
from equifed import testing

from .deployed import InProcess, Node
from .shared import line_loss
from .test_ledger import ALGORITHMS, BATCHING, DATASET, PARAMS, SGD, WEIGHT


EACH = {
    "bits_up": "ledger_up",
    "bits_down": "ledger_down",
    "bits_up_entropy": "ledger_up_entropy",
    "bits_up_arithmetic": "ledger_up_arithmetic",
    "bits_down_entropy": "ledger_down_entropy",
    "bits_down_arithmetic": "ledger_down_arithmetic",
}


def trained(algorithm, sampler=None, num_rounds=4, dataset=DATASET, **kwargs):
    sampler = eqf.data.AllClients() if sampler is None else sampler
    how = {"mesh": kwargs.pop("mesh", None)}
    loader = eqf.data.Loader(dataset, sampler, algorithm.batching, **how)
    kwargs = {"num_rounds": num_rounds, "key": jr.key(0), **kwargs}
    return eqf.train(algorithm, testing.Linear(), loader, **kwargs).history


def of_each(row):
    """The bits up and down by client."""
    there = row["ledger_clients"] >= 0
    assert not any(row[n][~there].any() for n in ("ledger_up", "ledger_down"))
    columns = (
        row[n][there].tolist() for n in ("ledger_clients", *EACH.values()) if n in row
    )
    clients, *bits = columns
    return {i: x[:2] for i, *x in zip(clients, *bits, strict=True)}


def check_sums(row):
    for name, each in EACH.items():
        assert (name in row) == (each in row)
        if name in ("bits_up", "bits_down"):
            assert row[each].dtype == np.int64
            assert int(row[each].sum()) == row[name]
        elif name in row:
            np.testing.assert_allclose(row[each].sum(), row[name], rtol=1e-5)


def averaged(aggregator):
    return eqf.FedAvg(line_loss, SGD, BATCHING, aggregator=aggregator)


QUANTISED = eqc.Compress(eqf.WeightedMean(), eqc.UniformQuantizer(3))
MORE = {
    "optimal": lambda: averaged(eqf.OptimalClientSampling(1.5)),
    "approximate": lambda: averaged(
        eqf.Clip(eqf.OptimalClientSampling(1.5, approximate=True), max_norm=1.0)
    ),
    "both ways": lambda: eqf.CompressDown(averaged(QUANTISED), eqc.TopK(0.5)),
    "feedback": lambda: eqf.Algorithm(
        eqc.CompressedClient(
            eqf.LocalSGD(line_loss, SGD, BATCHING), eqc.ErrorFeedback(eqc.Sign())
        ),
        eqf.WeightedMean(),
        eqf.OptaxServer(SGD),
    ),
    "sketch": lambda: averaged(eqc.CountSketch(num_rows=3, num_columns=2, num_kept=2)),
    "attacked": lambda: eqf.attacks.Attacked(
        eqf.Mime(line_loss, SGD, BATCHING, aggregator=QUANTISED),
        eqf.attacks.ALIE(),
        [0],
    ),
    "shown": lambda: eqf.Diagnose(eqf.Mime(line_loss, SGD, BATCHING)),
    "root": lambda: eqf.FLTrust(line_loss, SGD, BATCHING, root=0),
    "decaying": lambda: eqf.OverRounds(
        lambda n: eqf.FedAvg(
            line_loss, optax.sgd(jnp.where(n < 2, 0.1, 0.05)), BATCHING
        )
    ),
}


class Given(eqf.data.AbstractSampler):
    """These clients in these rounds."""

    rounds: tuple[tuple[int, ...], ...]
    seed: int = 0

    def __call__(self, round, num_clients):
        return np.array(self.rounds[round])

    def max_clients(self, num_clients):
        return max(map(len, self.rounds))


# All in two rounds; then one place is empty.
SOME = Given(rounds=((0, 1, 2, 3), (0, 1, 2, 3), (1, 2, 3), (3, 0, 2)))


def made(name):
    return MORE[name]() if name in MORE else ALGORITHMS[name][0]()


@functools.cache
def known(name):
    """A history in which it is known of each client."""
    return trained(eqf.Ledger(made(name)), SOME, rounds_per_call=4)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_pass_is_counted(name):
    _, up, down = ALGORITHMS[name]
    for number, row in enumerate(known(name)):
        check_sums(row)
        assert sorted(of_each(row)) == sorted(SOME(number, 4))
        if number < 2:
            assert (row["bits_up"], row["bits_down"]) == (up, down)
            assert type(row["bits_up"]) is int


# Of each algorithm the law `ledger` says so too, and of its state. FLTrust rejects
# rounds of clients whom its server does not trust.
@pytest.mark.filterwarnings("ignore:Round . was rejected")
@pytest.mark.parametrize("name", ("FedAvg", "Mime", "PowerOfChoice", *MORE))
def test_they_add_up_and_nothing_else_changes(name):
    plain = trained(made(name), SOME, rounds_per_call=4)
    for number, (before, row) in enumerate(zip(plain, known(name), strict=True)):
        for metric, x in before.items():
            np.testing.assert_array_equal(row[metric], x, metric)
        assert row.keys() - before.keys() <= {"ledger_clients", *EACH.values()}
        check_sums(row)
        assert sorted(of_each(row)) == sorted(SOME(number, 4))


def test_who_is_chosen_sends_more():
    asked, model = (32 + WEIGHT, PARAMS), (PARAMS + WEIGHT, PARAMS)
    both = [x + y for x, y in zip(asked, model, strict=True)]
    for row in known("PowerOfChoice")[:2]:
        each = of_each(row)
        # The one without examples was asked.
        assert each.pop(2) == [0, PARAMS]
        assert sorted(map(tuple, each.values())) == sorted([asked, (*both,), (*both,)])


def test_who_was_away_for_long_is_sent_the_model():
    top = eqc.TopK(0.5)
    model = testing.Linear()
    zero = jnp.zeros((), jnp.int32)
    _, _, sent = top.compress(model, top.init(model), key=jr.key(0), round=zero)
    change = int(sent.bits)
    assert PARAMS < 2 * change < 2 * PARAMS
    sampler = Given(rounds=((0, 1, 3), (0,), (0, 1), (0, 3)))
    algorithm = eqf.Ledger(eqf.CompressDown(averaged(eqf.WeightedMean()), top))
    found = []
    rows = trained(algorithm, sampler, rounds_per_call=4)
    for row, clients in zip(rows, sampler.rounds, strict=True):
        check_sums(row)
        found.append([of_each(row)[i][1] for i in clients])
    # A whole model is less than two changes, and what a new one is sent.
    assert found == [[PARAMS] * 3, [change], [change, PARAMS], [change, PARAMS]]


def test_clients_of_other_ranks_send_other_numbers():
    layer = eqf.nn.lora(eqx.nn.Linear(3, 3, key=jr.key(0)), 2, alpha=1, key=jr.key(1))
    ranks = np.array([1, 2, 2, 1])

    def squared(model, example, key):
        return (model(example["x"]).sum() - example["y"]) ** 2

    algorithm = eqf.Ledger(eqf.HetLoRA(squared, SGD, BATCHING, lam=0.0, gamma=1.0))
    loader = eqf.data.Loader(
        *(DATASET, eqf.data.AllClients(), BATCHING),
        info=lambda _, clients: {"rank": ranks[clients]},
    )
    roles = eqf.roles(layer, shared=eqf.nn.adapters)
    (row,) = eqf.train(
        algorithm, layer, loader, num_rounds=1, key=jr.key(0), roles=roles
    ).history
    check_sums(row)
    # A row of A and a column of B for each rank, and the weight.
    one, two = (rank * (3 + 3) * 32 + WEIGHT for rank in (1, 2))
    assert of_each(row) == {
        i: [up, 2 * 6 * 32] for i, up in enumerate((one, two, 0, one))
    }


def test_those_of_symbols_differ_from_client_to_client():
    row = known("both ways")[0]
    there = row["ledger_up"] > 0
    assert len(set(row["ledger_up"][there])) == 1
    assert len(set(row["ledger_up_entropy"][there])) > 1


@pytest.mark.parametrize(
    ("name", "executor"),
    (
        ("both ways", eqf.Executor(block_size=3)),
        ("both ways", eqf.Executor(ordered=True)),
        ("Scaffold", eqf.Executor(debug=True)),
    ),
    ids=("blocks", "ordered", "debug"),
)
def test_however_it_is_run(name, executor):
    got = trained(eqf.Ledger(made(name)), SOME, num_rounds=2, executor=executor)
    assert list(map(of_each, got)) == list(map(of_each, known(name)[:2]))


@pytest.mark.skipif(jax.device_count() < 2, reason="there is one device")
@pytest.mark.parametrize("ordered", (False, True))
def test_on_two_devices(ordered):
    auto, devices = (jax.sharding.AxisType.Auto,), jax.devices()[:2]
    mesh = jax.make_mesh((2,), ("clients",), axis_types=auto, devices=devices)
    algorithm = eqf.Ledger(
        eqf.PowerOfChoice(averaged(eqf.OptimalClientSampling(1.5)), num_chosen=2)
    )
    expected = [of_each(row) for row in trained(algorithm)]
    executor = eqf.Executor(ordered=ordered)
    got = trained(algorithm, mesh=mesh, executor=executor)
    assert [of_each(row) for row in got] == expected


def test_deployed():
    full = testing.ragged_clients((5, 3, 6, 8))
    algorithm = eqf.Ledger(eqf.Mime(line_loss, SGD, BATCHING))
    client = eqf.deploy.Client(
        *(algorithm, testing.Linear()),
        lambda node: dict(full.client(node["partition-id"])),
    )
    nodes = {
        9 - i: Node(client, {"partition-id": i, "num-partitions": 4}) for i in range(4)
    }
    server = eqf.deploy.Server(
        *(algorithm, testing.Linear(), eqf.data.UniformSampler(3, seed=1)),
        num_clients=4,
        num_rounds=2,
        key=jr.key(0),
    )
    _, got = server.run(InProcess(nodes))
    sampler = eqf.data.UniformSampler(3, seed=1)
    expected = trained(algorithm, sampler, num_rounds=2, dataset=full)
    assert [of_each(row) for row in got] == [of_each(row) for row in expected]


def test_a_plan_keeps_it_only_if_it_is_named():
    def history(**kwargs):
        mechanism = eqp.PrivateMean(
            eqp.FlatClip(0.5), noise_multiplier=1.0, expected_clients=2.0
        )
        plan = eqp.PrivacyPlan(
            *(eqf.data.PoissonSampler(0.5, seed=3), mechanism),
            num_clients=4,
            num_rounds=2,
            delta=1e-3,
            **kwargs,
        )
        algorithm = eqf.Ledger(averaged(plan.mechanism))
        return trained(algorithm, plan.sampler, num_rounds=2, privacy=plan)

    assert not {"ledger_clients", "ledger_up"} & set(history()[0])
    kept = history(unprotected=("ledger_clients", "ledger_up", "ledger_down"))
    for row in kept:
        for client, sent in of_each(row).items():
            assert sent == [0 if client == 2 else PARAMS + WEIGHT, PARAMS]


def test_what_a_part_counts_for_all_together_is_refused():
    class Together(eqf.AbstractAggregator):
        @property
        def gathers(self):
            return False

        def init(self, payload):
            return None

        def encode(self, message, state, *, key):
            return eqf.WeightedMean().encode(message, state, key=key)

        def decode(self, encoded, state, *, key):
            out, state, metrics = eqf.WeightedMean().decode(encoded, state, key=key)
            return out, state, {**metrics, "bits_down": eqf.Bits(7)}

    assert trained(averaged(Together()))[0]["bits_down"] == 4 * PARAMS + 7
    with pytest.raises(ValueError, match="`Together.decode` counts the `bits_down`"):
        trained(eqf.Ledger(averaged(Together())))


def test_a_step_that_counts_by_itself_is_refused():
    class Own(eqf.AbstractAlgorithm):
        algorithm: eqf.AbstractAlgorithm

        @property
        def loss(self):
            return self.algorithm.loss

        @property
        def batching(self):
            return self.algorithm.batching

        def begin(self, params, *, num_clients, key):
            return self.algorithm.begin(params, num_clients=num_clients, key=key)

        def step(self, state, clients, *, key):
            state, metrics, accept = self.algorithm.step(state, clients, key=key)
            return state, {n: x for n, x in metrics.items() if n != "ledger_up"}, accept

        def model(self, state):
            return self.algorithm.model(state)

    own: Any = Own  # Its fields are the arguments.
    own = own(averaged(eqf.WeightedMean()))
    with pytest.raises(ValueError, match="`Own.step` reports `bits_up` of its own"):
        trained(eqf.Ledger(own))


def test_one_is_enough():
    inner = eqf.PowerOfChoice(eqf.Ledger(averaged(eqf.WeightedMean())), num_chosen=1)
    with pytest.raises(TypeError, match="has a `Ledger` in it"):
        eqf.Ledger(inner)
    # It would know of one pass, and the metrics of two.
    with pytest.raises(
        ValueError, match="`clients.bits`; and `Ledger` goes around all"
    ):
        trained(inner)

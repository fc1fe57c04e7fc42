"""What is sent, bit by bit: counts that are exact, of every pass of every round."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing

from .shared import line_loss


BATCHING = eqf.data.Epochs(1, batch_size=4)
# One client has no example: it is asked, and sends nothing.
DATASET = testing.ragged_clients((5, 3, 0, 8))
SGD = optax.sgd(0.1)
PARAMS = 4 * 32  # three weights and a bias
WEIGHT = 32


@pytest.mark.parametrize("number", (0, 1, 2047, 2048, 2**24 + 1, 2**40 - 1, 2**53 - 1))
def test_a_number_is_itself(number):
    bits = eqf.Bits(number)
    assert int(bits) == number
    assert np.asarray(bits).tolist() == number
    assert float(bits.compute()) == np.float32(number)


def test_sums_are_exact_where_those_of_float32_are_not():
    number, count = 2**24 + 1, 100_001

    @jax.jit
    def total():
        each = jnp.broadcast_to(eqf.Bits(number).digits, (count, 3))
        one = eqf.Bits(jnp.asarray(number, jnp.int32))
        summed = eqx.tree_at(lambda b: b.digits, one, each.sum(0))
        return summed.merge(one)

    assert int(total()) == number * (count + 1)
    assert int(jnp.float32(number)) != number


def trained(algorithm, **kwargs):
    loader = eqf.data.Loader(DATASET, eqf.data.AllClients(), algorithm.batching)
    kwargs = {"num_rounds": 2, "key": jr.key(0), **kwargs}
    return eqf.train(algorithm, testing.Linear(), loader, **kwargs).history


def shape(model, example, key):
    return model.weight * example["x"]


def sign(example):
    return example["y"] > 0


# What all clients send in a round, and are sent: `test_ledger_of_each.py` holds it.
ALGORITHMS = {
    # Its params down; up the change and a weight.
    "FedAvg": (
        lambda: eqf.FedAvg(testing.noisy_loss, SGD, BATCHING),
        3 * (PARAMS + WEIGHT),
        4 * PARAMS,
    ),
    # The control variate too, both ways.
    "Scaffold": (
        lambda: eqf.Scaffold(line_loss, SGD, BATCHING),
        3 * (2 * PARAMS + WEIGHT),
        4 * 2 * PARAMS,
    ),
    # Twice the params down, and the mean gradient; twice a tree up.
    "Mime": (
        lambda: eqf.Mime(line_loss, SGD, BATCHING),
        3 * 2 * (PARAMS + WEIGHT),
        4 * (2 * PARAMS + PARAMS),
    ),
    "FedLin": (
        lambda: eqf.FedLin(line_loss, 0.1, BATCHING),
        3 * 2 * (PARAMS + WEIGHT),
        4 * (2 * PARAMS + PARAMS),
    ),
    # A perturbation too, both ways, and its length down.
    "FedSMOO": (
        lambda: eqf.FedSMOO(line_loss, SGD, BATCHING, alpha=0.1, rho=0.1),
        3 * (2 * PARAMS + WEIGHT),
        4 * (2 * PARAMS + 32),
    ),
    # All are measured, one number each, and two train.
    "PowerOfChoice": (
        lambda: eqf.PowerOfChoice(eqf.FedAvg(line_loss, SGD, BATCHING), num_chosen=2),
        3 * (32 + WEIGHT) + 2 * (PARAMS + WEIGHT),
        (4 + 2) * PARAMS,
    ),
    # Two are chosen, and say how high their losses are at the model that they are sent.
    "Oort": (
        lambda: eqf.Oort(
            eqf.FedAvg(line_loss, SGD, BATCHING), 2, preferred_seconds=None, window=1
        ),
        2 * (PARAMS + WEIGHT) + 2 * (32 + WEIGHT),
        2 * PARAMS,
    ),
    # No model: of two classes 3 numbers each both ways, and how many examples, or
    # whether there is a prototype.
    "FedProto": (
        lambda: eqf.FedProto(
            *(line_loss, SGD, BATCHING),
            representation=shape,
            label=sign,
            num_classes=2,
            num_features=3,
        ),
        3 * (2 * (3 + 1) * 32 + WEIGHT),
        4 * 2 * (3 + 1) * 32,
    ),
    # Three models down; up one, its number, and a weight.
    "IFCA": (
        lambda: eqf.IFCA(line_loss, SGD, BATCHING, num_clusters=3, spread=0.1),
        3 * (PARAMS + WEIGHT + 32),
        4 * 3 * PARAMS,
    ),
}


def test_in_64_bits():
    with jax.enable_x64(True):  # noqa: FBT003
        # Integers are wider, and digits are not.
        assert int(eqf.Bits(2**53 - 1)) == 2**53 - 1
        wide = eqf.Bits(jnp.asarray(2**40 + 1))
        assert np.asarray(wide.merge(wide)) == 2**41 + 2
        assert wide.compute() == 2**40 + 1
        make, up, down = ALGORITHMS["Mime"]
        for row in trained(make()):
            assert (row["bits_up"], row["bits_down"]) == (2 * up, 2 * down)


@pytest.mark.parametrize("rounds_per_call", (1, 2))
def test_they_are_logged_and_kept(rounds_per_call, tmp_path):
    algorithm = eqf.FedAvg(line_loss, SGD, BATCHING)
    lines = tmp_path / "rows.jsonl"
    history = trained(
        algorithm,
        rounds_per_call=rounds_per_call,
        logger=eqf.Loggers(eqf.JSONLines(lines), eqf.Table(every=1)),
        checkpointer=eqf.Checkpointer(tmp_path / "state", every=1),
    )
    assert '"bits_up": 480' in lines.read_text()
    assert [row["bits_down"] for row in history] == [512, 512]
    again = trained(
        algorithm, checkpointer=eqf.Checkpointer(tmp_path / "state", every=1)
    )
    assert again == history


def test_a_message_that_is_not_finite_was_sent():
    def nan(model, example, key):
        factor = jnp.where(example["y"] > 0, jnp.nan, 1)
        return line_loss(model, example, key)[0] * factor

    aggregator = eqf.DropNonfinite(eqf.WeightedMean())
    algorithm = eqf.FedAvg(nan, SGD, BATCHING, aggregator=aggregator)
    state = algorithm.init(testing.Linear(), num_clients=4)
    cohort = eqf.data.cohort(DATASET, BATCHING)
    _, metrics = algorithm.round(state, cohort, key=jr.key(0))
    assert metrics["nonfinite"] > 0
    assert int(metrics["bits_up"]) == 480


def test_whoever_compresses_says_how_many_are_left():
    class Halves(eqf.AbstractAggregator):
        """Says that it sends a half."""

        @property
        def gathers(self):
            return False

        def init(self, payload):
            return None

        def encode(self, message, state, *, key):
            out, _ = eqf.WeightedMean().encode(message, None, key=key)
            return out, {"bits_up": eqf.Bits(80)}

        def decode(self, encoded, state, *, key):
            return eqf.WeightedMean().decode(encoded, None, key=key)

    algorithm = eqf.FedAvg(line_loss, SGD, BATCHING, aggregator=Halves())
    assert [row["bits_up"] for row in trained(algorithm)] == [240, 240]


@pytest.mark.parametrize(
    "inner",
    (
        eqf.OptimalClientSampling(1.0),
        eqf.compress.Compress(eqf.WeightedMean(), eqf.compress.Sign()),
    ),
    ids=lambda x: type(x).__name__,
)
def test_what_the_server_makes_of_messages_is_not_sent(inner):
    aggregator = eqf.robust.Bucketing(inner, 2)
    algorithm = eqf.FedAvg(line_loss, SGD, BATCHING, aggregator=aggregator)
    for row in trained(algorithm):
        assert (row["bits_up"], row["bits_down"]) == (3 * (PARAMS + WEIGHT), 4 * PARAMS)
        assert "bits_up_entropy" not in row

"""Numbers by which a loss reads rows: one that has no row is refused by name, and what
is in order, or is meant, is not."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
import equifed.data as eqd
from equifed._client import traced_loss
from equifed.data._participants import participants

from .test_data_stream import stream_of


__all__ = ["stream_of"]  # a fixture

SIZE = 6
BATCHING = eqd.Epochs(1, batch_size=4)
KEY = jr.key(0)
FROZEN = np.random.default_rng(0).normal(size=(SIZE, 3)).astype(np.float32)
MISSING = 200


class Model(eqx.Module):
    """A table, and what is made of the rows that an example reads."""

    table: eqx.nn.Embedding
    cell: eqx.nn.LSTMCell
    lstm: eqf.nn.LSTM
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jr.split(key, 4)
        self.table = eqx.nn.Embedding(SIZE, 3, key=keys[0])
        self.cell = eqx.nn.LSTMCell(3, 3, key=keys[1])
        self.lstm = eqf.nn.LSTM(3, 3, key=keys[2])
        self.head = eqx.nn.Linear(3, 2, key=keys[3])


@functools.cache
def made():
    return eqx.filter_jit(Model)(KEY)


@functools.cache
def small():
    """The table and the head alone."""
    return eqx.tree_at(lambda m: (m.cell, m.lstm), made(), (None, None))


def scanned(model, tokens):
    def step(carry, token):
        return model.cell(model.table(token), carry), None

    zero = jnp.zeros(3)
    return jax.lax.scan(step, (zero, zero), tokens)[0][0]


def looped(model, tokens):
    def body(i, total):
        return total + model.table(tokens[i])

    return jax.lax.fori_loop(0, 4, body, jnp.zeros(3))


def whiled(model, tokens):
    def body(carry):
        i, total = carry
        return i + 1, total + model.table.weight[tokens[i]]

    return jax.lax.while_loop(lambda c: c[0] < 4, body, (0, jnp.zeros(3)))[1]


def branched(model, tokens):
    table = model.table.weight
    return jax.lax.cond(tokens[0] >= 0, lambda: table[tokens[3]], lambda: table[0])


def with_a_derivative(model, tokens):
    @jax.custom_vjp
    def read(table, tokens):
        return table[tokens]

    read.defvjp(lambda t, i: (t[i], None), lambda _, g: (g, None))
    return read(model.table.weight, tokens)


def joined(model, tokens):
    first = jnp.zeros(1, tokens.dtype)
    return model.table.weight[jnp.concatenate([first, tokens])[1:]]


def both_axes(model, tokens):
    return jnp.tile(model.table.weight[tokens, 0][:, None], (1, 3))


READS = {
    "an embedding": lambda m, t: jax.vmap(m.table)(t),
    "an embedding of one token": lambda m, t: m.table(t[3]),
    "a table": lambda m, t: m.table.weight[t],
    "windows": lambda m, t: m.table.weight[t.reshape(2, 2)],
    "a table on its side": lambda m, t: m.table.weight.T[:, t].T,
    "a table in half precision": lambda m, t: m.table.weight.astype(jnp.bfloat16)[t],
    "a frozen table": lambda m, t: made().table.weight[t],
    "a table of NumPy's": lambda m, t: jnp.asarray(FROZEN)[t],
    "a compiled read": lambda m, t: jax.jit(lambda w, t: w[t])(m.table.weight, t),
    "a read that is computed again": lambda m, t: jax.checkpoint(jax.vmap(m.table))(t),
    "the library's LSTM": lambda m, t: m.lstm(jax.vmap(m.table)(t))[0],
    "a layer that sees no shift": lambda m, t: jax.vmap(eqx.nn.LayerNorm(3))(
        m.table.weight[t]
    ),
    "a scan": scanned,
    "a loop": looped,
    "a loop with a condition": whiled,
    "a branch": branched,
    "a derivative of its own": with_a_derivative,
    "joined tokens": joined,
    "an entry": both_axes,
}
# Reads that say themselves what is read where there is no row, or read none.
MEANT = {
    "clipped ids": lambda m, t: m.table.weight[jnp.clip(t, 0, SIZE - 1)],
    "masked ids": lambda m, t: m.table.weight[jnp.where(t < SIZE, t, 0)],
    "a remainder": lambda m, t: m.table.weight[t % SIZE],
    "an offset": lambda m, t: m.table.weight[t - MISSING + SIZE - 1],
    "a read that clips": lambda m, t: jnp.take(m.table.weight, t, axis=0, mode="clip"),
    "a read that wraps": lambda m, t: jnp.take(m.table.weight, t, axis=0, mode="wrap"),
    "a read that gives NaN": lambda m, t: jnp.take(m.table.weight, t, axis=0),
    "one-hot vectors": lambda m, t: jax.nn.one_hot(t, SIZE) @ m.table.weight,
    "rows that are thrown away": lambda m, t: jnp.where(
        (t < SIZE)[:, None], m.table.weight[t], 0.0
    ),
    "rows times zero": lambda m, t: (t < SIZE)[:, None] * jax.vmap(m.table)(t),
    "a longer table": lambda m, t: jnp.zeros((MISSING + 1, 3))[t],
}


@functools.cache
def loss_of(read):
    def loss(model, example, key):
        rows = read(model, example["tokens"]).astype(jnp.float32)
        logits = model.head(rows.reshape(-1, 3).mean(0))
        return eqf.cross_entropy(logits, example["label"])

    return loss


def dataset_of(tokens, dtype: type[np.integer] = np.int32):
    """Two clients, of whom the second has these tokens in its second row."""
    good = np.array([[1, 2, 3, 4]])
    clients = {"anna": good, "bert": np.stack([good[0], np.array(tokens)])}
    return eqd.FederatedDataset.from_mapping(
        {
            name: {"tokens": rows.astype(dtype), "label": np.ones(len(rows), np.int32)}
            for name, rows in clients.items()
        }
    )


def check(loss, example=None):
    """What is done with data sets before a training, by a loss that is traced once."""
    example = dataset_of([0, 1, 2, 3]).example if example is None else example
    _, lookups = traced_loss(loss, made(), example, "anna")
    return lambda dataset: lookups.check_dataset(dataset, made())


def begin(loss, dataset, model=None, **kwargs):
    """The checks of a training, of which no round is run."""
    model = small() if model is None else model
    algorithm = eqf.FedAvg(loss, optax.sgd(0.1), BATCHING)
    loader = eqd.Loader(dataset, eqd.AllClients(), BATCHING, **kwargs)
    state = algorithm.init(model, num_clients=loader.num_clients)
    return eqf.rounds(algorithm, state, loader, num_rounds=2, key=KEY)


WORDS = (
    rf"Column 'tokens' of client 'bert' holds {MISSING} in row 1, but .* a table of "
    rf"{SIZE} rows \(0 to {SIZE - 1}\).*jnp.clip\(example\['tokens'\], 0, {SIZE - 1}\)"
)


@pytest.mark.parametrize("read", READS)
def test_a_number_without_a_row_is_refused(read):
    refuse = check(loss_of(READS[read]))
    refuse(dataset_of([0, 5, 1, SIZE - 1]))
    with pytest.raises(ValueError, match=WORDS):
        refuse(dataset_of([0, 1, 2, MISSING]))
    # Negative numbers count from the end.
    refuse(dataset_of([0, 1, -1, -3]))
    if read != "an entry":  # of which the other axis would be too short
        refuse(dataset_of([0, 1, -1, -SIZE]))
    with pytest.raises(ValueError, match=rf"holds -7 .*, or -1 to -{SIZE} from"):
        refuse(dataset_of([0, 1, 2, -SIZE - 1]))


@pytest.mark.parametrize("dtype", (np.uint8, np.int64))
@pytest.mark.parametrize("read", list(READS)[:3])
def test_so_it_is_of_any_dtype_when_a_training_begins(read, dtype):
    loss = loss_of(READS[read])
    begin(loss, dataset_of([0, 5, 1, SIZE - 1], dtype))
    with pytest.raises(ValueError, match=WORDS):
        begin(loss, dataset_of([0, 1, 2, MISSING], dtype))


@pytest.mark.parametrize("dtype", (np.int32, np.uint8))
@pytest.mark.parametrize("read", MEANT)
def test_what_is_meant_is_not_refused(read, dtype):
    dataset = dataset_of([0, 1, 2, MISSING], dtype)
    check(loss_of(MEANT[read]), dataset.example)(dataset)


def test_padding_beyond_the_table_may_be_masked():
    def loss(model, example, key):
        tokens = example["tokens"].astype(jnp.int32)
        inputs, targets = tokens[:-1], tokens[1:]
        hidden = jnp.cumsum(jax.vmap(model.table)(inputs), 0)  # of no later token
        losses = eqf.cross_entropy(jax.vmap(model.head)(hidden), targets)
        return jnp.where(targets < SIZE, losses, 0.0).sum()

    begin(loss, dataset_of([0, 1, MISSING, MISSING], np.uint8))
    with pytest.raises(ValueError, match=f"holds {MISSING} in row 1"):
        begin(loss, dataset_of([0, MISSING, MISSING, 1], np.uint8))


def test_a_last_layer_of_zeros_hides_nothing():
    model = eqx.tree_at(lambda m: m.head.weight, small(), jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match=WORDS):
        begin(loss_of(READS["a table"]), dataset_of([0, 1, 2, MISSING]), model)


def test_labels_that_are_read_by_count_too():
    def loss(model, example, key):
        logits = model.head(model.table.weight[example["tokens"][0]])
        return -jax.nn.log_softmax(logits)[example["label"]]

    dataset = dataset_of([0, 1, 2, MISSING])
    begin(loss, dataset)
    bad = dataset.map(lambda columns: {**columns, "label": columns["label"] + 1})
    with pytest.raises(ValueError, match=r"'label' of client 'anna' holds 2 .* 2 rows"):
        begin(loss, bad)


def test_columns_are_told_apart():
    def loss(model, example, key):
        read = jax.vmap(lambda i, j: model.table.weight[i, j])
        return read(example["tokens"], example["axis"]).sum()

    dataset = dataset_of([5, 5, 5, 5])
    dataset = dataset.map(
        lambda c: {**c, "axis": np.full((3, 4), 2), "label": c["label"]}
    )
    begin(loss, dataset)
    bad = dataset.map(lambda c: {**c, "axis": c["axis"] + 1})
    with pytest.raises(ValueError, match="'axis' of client 'anna' holds 3 in row 0"):
        begin(loss, bad)


def test_evaluations_refuse_it():
    loss = loss_of(READS["an embedding"])
    good, bad = dataset_of([0, 1, 2, 3]), dataset_of([0, 1, 2, MISSING])
    with pytest.raises(ValueError, match=WORDS):
        eqf.evaluate(small(), bad, loss)
    with pytest.raises(ValueError, match=WORDS):
        eqf.evaluate(
            small(), bad, lambda m, e, k: {"a": loss(m, e, k)}, per_client=True
        )
    algorithm = eqf.FedAvg(loss, optax.sgd(0.1), BATCHING)
    loader = eqd.Loader(good, eqd.AllClients(), BATCHING)
    with pytest.raises(ValueError, match=WORDS):
        eqf.train(
            algorithm, small(), loader, num_rounds=1, key=KEY, evaluation={"test": bad}
        )
    # A metric may be of no read at all.
    eqf.evaluate(small(), bad, lambda m, e, k: {"a": e["tokens"].sum()})


@pytest.mark.parametrize("rounds_per_call", (1, 2))
def test_a_dataset_that_is_streamed_is_looked_at_round_by_round(rounds_per_call):
    class Turns(eqd.AbstractSampler):
        seed: int = 0

        def __call__(self, round, num_clients):
            return np.array([0 if round < 2 else 1])

        def max_clients(self, num_clients):
            return 1

    algorithm = eqf.FedAvg(loss_of(READS["a table"]), optax.sgd(0.1), BATCHING)
    dataset = dataset_of([0, 1, 2, MISSING])
    loader = eqd.Loader(dataset, Turns(), BATCHING, resident=False)
    with pytest.raises(ValueError, match=WORDS) as caught:
        eqf.train(
            algorithm,
            small(),
            loader,
            num_rounds=4,
            key=KEY,
            rounds_per_call=rounds_per_call,
        )
    assert len(caught.value.solution.history) == 2  # pyright: ignore


@pytest.mark.parametrize("resident", [True, False])
def test_so_is_what_several_models_read(resident):
    loss = loss_of(READS["a table"])
    algorithm = eqf.IFCA(loss, optax.sgd(0.1), BATCHING, num_clusters=2)
    dataset = dataset_of([0, 1, 2, MISSING])
    loader = eqd.Loader(dataset, eqd.AllClients(), BATCHING, resident=resident)
    for some in (algorithm, eqf.OverRounds(lambda t: algorithm)):
        with pytest.raises(ValueError, match=WORDS):
            eqf.train(some, small(), loader, num_rounds=1, key=KEY)
        state = some.init(small(), num_clients=len(dataset), key=KEY)
        assert len(some.models(state)) == 2
        with pytest.raises(ValueError, match=f"holds {MISSING}"):
            some.round(state, loader(0), key=KEY)


def test_so_is_that_of_a_sweep():
    algorithm = eqf.FedAvg(loss_of(READS["a table"]), optax.sgd(0.1), BATCHING)
    sampler = eqd.AllClients()
    for rows, fails in (([0, 1, 2, MISSING], True), ([0, 1, 2, 3], False)):
        loader = eqd.Loader(dataset_of(rows), sampler, BATCHING, resident=False)
        arguments = {"num_rounds": 2, "keys": [KEY]}
        if fails:
            with pytest.raises(ValueError, match=WORDS):
                eqf.sweep({"a": algorithm}, lambda key: small(), loader, **arguments)
        else:
            eqf.sweep({"a": algorithm}, lambda key: small(), loader, **arguments)


def test_a_stream_is_looked_at_round_by_round(stream_of):
    ids = ["anna", "anna", "bert", "bert"]
    rows = [[0, 1, 2, 3]] * 3 + [[0, 1, 2, MISSING]]
    stream = stream_of(ids, tokens=rows, label=[0, 1, 0, 1])
    loader = eqd.StreamLoader(
        eqd.ClientStream(stream, by="who"), 1, BATCHING, buffer_size=1
    )
    algorithm = eqf.FedAvg(loss_of(READS["a table"]), optax.sgd(0.1), BATCHING)
    with pytest.raises(ValueError, match=WORDS) as caught:
        eqf.train(algorithm, small(), loader, num_rounds=2, key=KEY)
    assert len(caught.value.solution.history) == 1  # pyright: ignore


def test_the_loss_is_traced_no_more_often_for_it():
    calls = []
    read = loss_of(READS["a table"])

    def loss(model, example, key):
        calls.append(1)
        return read(model, example, key)

    begin(loss, dataset_of([0, 1, 2, 3]))
    assert len(calls) == 1


def test_only_columns_that_are_asked_for_are_read():
    class Unreadable:
        """A column whose rows a disk does not give."""

        shape, dtype, ndim, nbytes = (3, 2), np.dtype(np.float32), 2, 24

        def __len__(self):
            return 3

        def __getitem__(self, rows):
            raise OSError("the disk is gone")

    dataset = dataset_of([0, 1, 2, 3])
    loader = eqd.Loader(dataset, eqd.AllClients(), BATCHING)
    dataset.columns["image"] = Unreadable()  # pyright: ignore
    (_, columns), _ = participants(loader, 0)
    assert columns["tokens"].tolist() == [[1, 2, 3, 4]]
    assert set(columns) == {"tokens", "label", "image"}
    loss = loss_of(READS["a table"])
    _, lookups = traced_loss(loss, small(), dataset.example, "anna")
    lookups.check(participants(loader, 0), lambda: small())
    lookups.check_dataset(dataset, small())


def test_a_single_round_refuses_it():
    read = loss_of(READS["a table"])
    traces = []

    def loss(model, example, key):
        traces.append(1)
        return read(model, example, key)

    algorithm = eqf.FedAvg(loss, optax.sgd(0.1), BATCHING)
    state = algorithm.init(small(), num_clients=2)
    words = f"Column 'tokens' of client 1 holds {MISSING} in row 1"
    for resident in (True, False):
        dataset = dataset_of([0, 1, 2, MISSING])
        cohort = eqd.cohort(dataset, BATCHING, resident=resident)
        with pytest.raises(ValueError, match=words):
            algorithm.round(state, cohort, key=KEY)
    good = eqd.cohort(dataset_of([0, 1, 2, 3]), BATCHING)
    algorithm.round(state, good, key=KEY)
    # Later rounds cost nothing.
    traces.clear()
    algorithm.round(state, good, key=KEY)
    algorithm.round(state, eqd.cohort(dataset_of([3, 2, 1, 0]), BATCHING), key=KEY)
    assert not traces

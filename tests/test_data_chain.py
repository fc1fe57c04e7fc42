"""From files of conversations and posts to a round of training and its perplexity."""

import functools
import json

import datasets
import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed.data import FederatedDataset, sets
from equifed.nn import adapters, lora

from .shared import drawn


KEY = jr.key(0)
LETTERS = eqf.data.Vocabulary("abcdefghijklmnopqrstuvwxyz_<|>\n ")
END = LETTERS.eos
LENGTH = 160
# Nobody's rows lie together.
SAID = [
    ("ann", [("user", "who"), ("assistant", "me")]),
    ("bob", [("system", "be"), ("user", "why"), ("assistant", "so")]),
    ("ann", [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "de")]),
    ("bob", [("user", "when"), ("assistant", "now")]),
    ("cid", [("user", "x"), ("assistant", "yes")]),
]
POSTS = [
    ("u2", "to be"),
    ("u10", "or not"),
    ("u2", "that is"),
    ("u10", "be"),
    ("u7", "me"),
]
CONVERSATIONS = {
    "user": [user for user, _ in SAID],
    "messages": [
        [{"role": role, "content": text} for role, text in turns] for _, turns in SAID
    ],
}
STACK_OVERFLOW = {
    "client_id": [user for user, _ in POSTS],
    "tokens": [text for _, text in POSTS],
    "type": ["question", "answer", "question", "answer", "question"],
}


def loss(model, example, key):
    logits = model(example["x"], documents=example["document"])
    tokens = eqf.token_cross_entropy(logits, example["y"], masked=(-1,))
    perplexity = eqf.Perplexity(logits, example["y"], masked=(-1,))
    return tokens.total / example["y"].size, {"perplexity": perplexity}


BATCHING = eqf.data.Epochs(2, batch_size=2)


@functools.cache
def model():
    """Its adapters begin with nothing, as they do."""
    config = eqf.models.LlamaConfig(
        vocab_size=LETTERS.size,
        dim=8,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        mlp_size=8,
        max_length=LENGTH,
    )
    llama = drawn(lambda key: eqf.models.Llama(config, key=key), 0, 0.3)
    return eqx.filter_jit(lora)(llama, 2, key=KEY)


@pytest.fixture(params=["parquet", "json"])
def kind(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["copied", "streaming"])
def load(request, kind, tmp_path):
    """Writes rows, and has `datasets` read them."""

    def load(columns):
        path = tmp_path / f"rows.{kind}"
        if kind == "parquet":
            datasets.Dataset.from_dict(columns).to_parquet(path)
        else:
            rows = zip(*columns.values(), strict=True)
            lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
            path.write_text("\n".join(lines))
        return datasets.load_dataset(
            kind,
            data_files=str(path),
            split="train",
            streaming=request.param,
            cache_dir=str(tmp_path / "cache"),
        )

    return load


def told(rows):
    """Conversations by user, as rows of tokens."""
    rows = rows.map(lambda row: {"messages": json.dumps(row["messages"])})
    return sets.instructions(
        FederatedDataset.from_huggingface(rows, by="user", columns=["messages"]),
        LETTERS,
        sets.chat_ml_messages("messages"),
        columns=["messages"],
        length=LENGTH,
        end=END,
    )


def written(rows, length=8):
    """Posts by user, as rows of tokens."""
    clients = FederatedDataset.from_huggingface(
        rows, by="client_id", columns=["tokens"]
    )
    return sets.token_chunks(clients, LETTERS, length=length, end=END, column="tokens")


def asked(client):
    y = client["y"]
    return "".join(LETTERS.decode(y[y >= 0]))


def test_conversations(load):
    clients = told(load(CONVERSATIONS))
    assert set(clients.client_ids) == {"ann", "bob", "cid"}
    for name, own in clients.items():
        answers = [
            text + "<|im_end|>"
            for user, turns in SAID
            for role, text in turns
            if user == name and role == "assistant"
        ]
        assert asked(own) == "".join(answers)
        assert not own["cut"].any()


def test_posts(load):
    clients = written(load(STACK_OVERFLOW))
    assert set(clients.client_ids) == {"u2", "u10", "u7"}
    for name, own in clients.items():
        texts = [text for user, text in POSTS if user == name]
        read = own["x"][own["document"] > 0]
        assert "".join(LETTERS.decode(read)) == "".join(texts)
        # All but the first of a text, and its end.
        count = sum(map(len, texts))
        assert (own["y"] >= 0).sum() == count
        assert (own["y"] == END).sum() == len(texts)


def test_a_round():
    """Of clients who talk and clients who write: each is learnt from, and the base
    stays."""
    both = (
        told(datasets.Dataset.from_dict(CONVERSATIONS)),
        written(datasets.Dataset.from_dict(STACK_OVERFLOW), LENGTH),
    )
    columns = ("x", "y", "document")
    clients = FederatedDataset.from_mapping(
        {name: {c: own[c] for c in columns} for x in both for name, own in x.items()}
    )
    assert clients.num_clients == 6
    start = model()
    roles = eqf.roles(start, shared=adapters)
    solution = eqf.train(
        eqf.FedAvg(loss, optax.adam(0.05), BATCHING),
        start,
        eqf.data.Loader(clients, eqf.data.AllClients(), BATCHING),
        num_rounds=1,
        key=KEY,
        roles=roles,
    )
    before, after = (
        eqf.evaluate(x, clients, loss, per_client=True).values["perplexity"]
        for x in (start, solution.model)
    )
    assert (after < 0.99 * before).all()
    assert eqx.tree_equal(roles.split(solution.model)[2], roles.split(start)[2])


def test_perplexity_over_devices_and_clients():
    """Of 1 device and of 2 the same, and what that of all tokens is: clients differ in
    how many they have, so that a mean over clients is another number."""
    clients = written(datasets.Dataset.from_dict(STACK_OVERFLOW))
    totals, counts = [], []
    run = eqx.filter_jit(model())
    for _, own in clients.items():
        for x, y, document in zip(own["x"], own["y"], own["document"], strict=True):
            logits = np.asarray(run(x, documents=document), np.float64)
            there = np.flatnonzero(y >= 0)
            log_sums = np.log(np.exp(logits).sum(-1))
            totals.append((log_sums[there] - logits[there, y[there]]).sum())
            counts.append(len(there))
    expected = np.exp(sum(totals) / sum(counts))
    for count in (1, 2):
        mesh = jax.make_mesh((count,), ("clients",), devices=jax.devices()[:count])
        found = eqf.evaluate(model(), clients, loss, mesh=mesh, batch_size=1)
        np.testing.assert_allclose(found["perplexity"], expected, rtol=1e-6)
        alone = eqf.evaluate(model(), clients, loss, mesh=mesh, per_client=True)
        of_clients = alone.values["perplexity"]
        assert abs(np.mean(of_clients) / expected - 1) > 1e-5
        weights = [(own["y"] >= 0).sum() for _, own in clients.items()]
        merged = np.exp(np.average(np.log(of_clients), weights=weights))
        np.testing.assert_allclose(merged, expected, rtol=1e-6)


def test_perplexities_merge_exactly():
    """However they are grouped: cost and number are sums over tokens."""
    rng = np.random.default_rng(0)
    lengths = (1, 7, 2, 5)
    logits = [rng.normal(0, 4, (n, 6)).astype(np.float32) for n in lengths]
    targets = [rng.integers(0, 6, n).astype(np.int32) for n in lengths]
    y = np.concatenate(targets)
    x = np.concatenate(logits)
    costs = np.log(np.exp(x.astype(np.float64)).sum(-1)) - x[np.arange(len(y)), y]
    expected = np.exp(costs[y != 0].mean())

    @jax.jit
    def run(logits, targets, x, y):
        parts = [eqf.Perplexity(x, y) for x, y in zip(logits, targets, strict=True)]
        a, b, c, d = parts
        wholes = [
            a.merge(b).merge(c).merge(d),
            d.merge(b).merge(a.merge(c)),
            eqf.Perplexity(x, y),
        ]
        return parts, wholes

    parts, wholes = run(logits, targets, x, y)
    for whole in wholes:
        np.testing.assert_allclose(whole.compute(), expected, rtol=1e-5)
        assert float(whole.weight) == (y != 0).sum()
    mean = np.mean([part.compute() for part in parts if float(part.weight) > 0])
    assert abs(mean / expected - 1) > 0.1

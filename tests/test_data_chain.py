"""From files of conversations and posts to a round of training and its perplexity."""

import json
from typing import Any

import datasets
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed.data import FederatedDataset, sets
from equifed.nn import adapters, lora


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
POSTS = [("u2", "to be"), ("u10", "or not"), ("u2", "that is"), ("u10", "be")]
CONVERSATIONS = {
    "user": [user for user, _ in SAID],
    "messages": [
        [{"role": role, "content": text} for role, text in turns] for _, turns in SAID
    ],
}
STACK_OVERFLOW = {
    "client_id": [user for user, _ in POSTS],
    "tokens": [text for _, text in POSTS],
    "type": ["question", "answer"] * 2,
}


def loss(model, example, key):
    logits = model(example["x"], documents=example["document"])
    tokens = eqf.token_cross_entropy(logits, example["y"], masked=(-1,))
    perplexity = eqf.Perplexity(logits, example["y"], masked=(-1,))
    return tokens.total / example["y"].size, {"perplexity": perplexity}


@eqx.filter_jit
def model():
    config = eqf.models.LlamaConfig(
        vocab_size=LETTERS.size,
        dim=8,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        mlp_size=8,
        max_length=LENGTH,
    )
    return lora(eqf.models.Llama(config, key=KEY), 2, key=KEY)


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


def written(rows):
    """Posts by user, as rows of tokens."""
    clients = FederatedDataset.from_huggingface(
        rows, by="client_id", columns=["tokens"]
    )
    return sets.token_chunks(clients, LETTERS, length=8, end=END, column="tokens")


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
    assert set(clients.client_ids) == {"u2", "u10"}
    for name, own in clients.items():
        texts = [text for user, text in POSTS if user == name]
        read = own["x"][own["document"] > 0]
        assert "".join(LETTERS.decode(read)) == "".join(texts)
        # All but the first of a text, and its end.
        count = sum(map(len, texts))
        assert (own["y"] >= 0).sum() == count
        assert (own["y"] == END).sum() == len(texts)


@pytest.mark.parametrize("make", [told, written])
def test_a_round(make):
    """It is learnt from, and the base stays."""
    rows = CONVERSATIONS if make is told else STACK_OVERFLOW
    clients = make(datasets.Dataset.from_dict(rows))
    start, batching = model(), eqf.data.Epochs(2, batch_size=2)
    roles = eqf.roles(start, shared=adapters)
    solution = eqf.train(
        eqf.FedAvg(loss, optax.adam(0.02), batching),
        start,
        eqf.data.Loader(clients, eqf.data.AllClients(), batching),
        num_rounds=1,
        key=KEY,
        roles=roles,
    )
    before, after = (
        eqf.evaluate(x, clients, loss)["perplexity"] for x in (start, solution.model)
    )
    assert after < 0.99 * before
    assert eqx.tree_equal(roles.split(solution.model)[2], roles.split(start)[2])


def test_perplexity_over_devices_and_clients():
    """Of 1, 2 and 3 devices the same, and what that of all tokens is: clients differ in
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
    for count in (1, 2, 3):
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
    logits = [jnp.asarray(rng.normal(0, 4, (n, 6)), jnp.float32) for n in lengths]
    targets = [rng.integers(0, 6, n).astype(np.int32) for n in lengths]
    parts = [eqf.Perplexity(x, y) for x, y in zip(logits, targets, strict=True)]
    y = np.concatenate(targets)
    x = np.concatenate(logits).astype(np.float64)
    costs = np.log(np.exp(x).sum(-1)) - x[np.arange(len(y)), y]
    expected = np.exp(costs[y != 0].mean())
    a, b, c, d = parts
    wholes: list[Any] = [
        a.merge(b).merge(c).merge(d),
        d.merge(b).merge(a.merge(c)),
        eqf.Perplexity(jnp.concatenate(logits), y),
    ]
    for whole in wholes:
        np.testing.assert_allclose(whole.compute(), expected, rtol=1e-5)
        assert float(whole.weight) == (y != 0).sum()
    mean = np.mean([part.compute() for part in parts if float(part.weight) > 0])
    assert abs(mean / expected - 1) > 0.1

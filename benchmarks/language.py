"""Fine-tuning a Llama: what travels, how long it takes, and what it holds.

Bytes are those of the ledger on a small Llama, where they must be what its shapes give;
by the same sum they are told for SmolLM2-135M. A round is timed beside the same steps
in plain JAX and Optax, one compiled loop on one model; all take turns. Activations are
those of a compiled gradient at SmolLM2's shapes, of two and of four of its layers,
continued to 30.

    python benchmarks/language.py [--repeats 15] [--output language.json]
"""

import argparse
import statistics
import time
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
from _report import print_table, stepper, write_json

import equifed as eqf
from equifed._stepper.compile import _BARRIERS
from equifed.models import Llama, LlamaConfig
from equifed.nn import adapters, lora, lora_a, lora_b


NAMES = "vocab_size dim num_layers num_heads num_kv_heads mlp_size max_length".split()


def config(*sizes: int, tied: bool = False) -> LlamaConfig:
    return LlamaConfig(**dict(zip(NAMES, sizes, strict=True)), tied=tied)


SMALL = config(512, 128, 2, 4, 2, 384, 64)
SMOLLM2 = config(49_152, 576, 30, 9, 3, 1536, 8192, tied=True)
LARGER = {
    "SmolLM2-135M": SMOLLM2,
    "TinyLlama-1.1B": config(32_000, 2048, 22, 32, 4, 5632, 2048),
    "Llama-3-8B": config(128_256, 4096, 32, 32, 8, 14_336, 8192),
}
RANK = 8
CLIENTS, STEPS, BATCH = 4, 4, 4
BATCHING = eqf.data.Epochs(1, batch_size=BATCH)
OPTIM = optax.adamw(1e-3)


def loss(model, example, key):
    tokens = eqf.token_cross_entropy(model(example["x"]), example["y"])
    return tokens.total / example["y"].size


@eqx.filter_jit
def llama(sizes, key, *, dtype=jnp.float32, rank=RANK, remat=False):
    """One with adapters beside each linear layer."""
    keys = jr.split(key)
    model = Llama(sizes, dtype=dtype, remat=remat, key=keys[0])
    return lora(model, rank, key=keys[1]) if rank else model


def shapes(sizes, **kwargs):
    return eqx.filter_eval_shape(partial(llama, sizes, **kwargs), jr.key(0))


def numbers(tree) -> int:
    return sum(x.size for x in jtu.tree_leaves(tree) if hasattr(x, "size"))


def methods():
    """The algorithms, whose leaves they share, and what of them a client sends."""
    fedavg = eqf.FedAvg(loss, OPTIM, BATCHING)
    fedper = eqf.FedPer(loss, OPTIM, BATCHING)
    rolora = eqf.RoLoRA(loss, OPTIM, BATCHING)
    return {
        "full": (fedavg, {}, lambda m: m, lambda m: m),
        "FedIT": (fedavg, {"shared": adapters}, adapters, adapters),
        "FFA-LoRA": (fedavg, {"shared": lora_b}, lora_b, lora_b),
        "FedSA-LoRA": (
            fedper,
            {"shared": lora_a, "personal": lora_b},
            lora_a,
            lora_a,
        ),
        "RoLoRA": (rolora, {"shared": adapters}, None, adapters),
    }


def clients():
    rng = np.random.default_rng(0)
    count = CLIENTS * STEPS * BATCH
    text = rng.integers(0, SMALL.vocab_size, (count, SMALL.max_length + 1))
    text = text.astype(np.int32)
    columns = {"x": text[:, :-1], "y": text[:, 1:]}
    return eqf.data.FederatedDataset.from_arrays(columns, by=np.arange(count) % CLIENTS)


def by_shapes(model, up, down) -> tuple[float, int]:
    """Bytes of a client's messages: each number in four, and the weight of its message.
    RoLoRA sends B and A in turn."""
    if up is None:
        return 2 * (numbers(lora_a(model)) + numbers(lora_b(model))) + 4, 4 * numbers(
            down(model)
        )
    return 4 * numbers(up(model)) + 4, 4 * numbers(down(model))


def travelling(loader) -> list[dict]:
    rows = []
    for name, (algorithm, kinds, up, down) in methods().items():
        rank = 0 if name == "full" else RANK
        model = llama(SMALL, jr.key(0), rank=rank)
        roles = eqf.roles(model, **kinds)
        state = algorithm.init(model, num_clients=CLIENTS, roles=roles)
        sent = np.zeros(2)
        for i in range(2):  # RoLoRA's rounds differ in turn.
            state, metrics = algorithm.round(state, loader(i), key=jr.key(0))
            bits = np.array([int(metrics["bits_up"]), int(metrics["bits_down"])])
            sent += bits / (2 * 8 * CLIENTS)
        expected = by_shapes(model, up, down)
        # Beside the params a broadcast may say which of two is trained.
        np.testing.assert_allclose(sent, expected, rtol=0, atol=1)
        large = by_shapes(shapes(SMOLLM2, rank=rank), up, down)
        rows.append(
            {
                "method": name,
                "small up kB": sent[0] / 1e3,
                "small down kB": sent[1] / 1e3,
                "SmolLM2 up MB": large[0] / 1e6,
                "SmolLM2 down MB": large[1] / 1e6,
            }
        )
    return rows


def bare_loop(model, trained, examples):
    """The floor: every client's steps by one optimiser on one model, in one program."""
    params, rest = trained, model

    @partial(jax.jit, donate_argnums=(0, 1))
    def run(params, at, examples, order):
        def step(i, carry):
            params, at = carry
            batch = jax.tree.map(lambda x: x[order[i]], examples)

            def mean_loss(params):
                whole = eqx.combine(params, rest)
                return jax.vmap(lambda e: loss(whole, e, None))(batch).mean()

            grads = jax.grad(mean_loss)(params)
            updates, at = OPTIM.update(grads, at, params)
            return optax.apply_updates(params, updates), at

        return jax.lax.fori_loop(0, order.shape[0], step, (params, at))

    carry = jax.tree.map(jnp.copy, (params, OPTIM.init(params)))
    order = jnp.arange(CLIENTS * STEPS * BATCH).reshape(-1, BATCH)

    def turn():
        nonlocal carry
        carry = run(*carry, examples, order)
        return carry

    return turn


def seconds(f) -> float:
    start = time.perf_counter()
    jax.block_until_ready(f())
    return time.perf_counter() - start


def timed(loader, repeats: int) -> list[dict]:
    cohort = loader(0)
    examples = jax.tree.map(lambda x: x[0], cohort.examples)
    sides = {}
    for name in ("full", "FedIT"):
        algorithm, kinds, _, _ = methods()[name]
        model = llama(SMALL, jr.key(0), rank=0 if name == "full" else RANK)
        roles = eqf.roles(model, **kinds)
        shared, _, rest = roles.split(model)
        step = stepper(algorithm, model, loader, roles=roles)
        sides[name, "round"] = partial(step, cohort)
        sides[name, "bare"] = bare_loop(rest, shared, examples)
    times = {side: [] for side in sides}
    for i in range(repeats + 2):
        for side, run in sides.items():
            taken = seconds(run)
            if i >= 2:
                times[side].append(taken)
    return [
        {
            "method": name,
            "steps": CLIENTS * STEPS,
            "round_ms": 1e3 * statistics.median(times[name, "round"]),
            "bare_ms": 1e3 * statistics.median(times[name, "bare"]),
            "ratio": statistics.median(
                x / y
                for x, y in zip(times[name, "round"], times[name, "bare"], strict=True)
            ),
        }
        for name in ("full", "FedIT")
    ]


def activations(batch: int, length: int, size: int | None, dtype, *, remat) -> float:
    """What a gradient of the adapters holds beside its arguments, at SmolLM2's shapes:
    a straight line through two and four layers, at 30."""

    def held(num_layers: int) -> int:
        sizes = LlamaConfig(**{**vars(SMOLLM2), "num_layers": num_layers})
        model = shapes(sizes, dtype=dtype, remat=remat)
        roles = eqf.roles(model, shared=adapters)
        arrays, static = eqx.partition(model, lambda x: hasattr(x, "shape"))
        row = jax.ShapeDtypeStruct((batch, length), jnp.int32)
        mask = jax.ShapeDtypeStruct((batch,), bool)
        of = loss if size is None else eqf.Microbatched(loss, size=size)

        def gradient(arrays, examples, mask):
            params, _, rest = roles.split(eqx.combine(arrays, static))
            given = (params, rest, examples, mask)
            return eqf.batch_gradient(of, *given, key=jr.key(0))[0]

        lowered = jax.jit(gradient).lower(arrays, {"x": row, "y": row}, mask)
        options = _BARRIERS if remat else None  # As rounds are compiled.
        compiled = lowered.compile(options)
        return compiled.memory_analysis().temp_size_in_bytes

    two, four = held(2), held(4)
    return two + (SMOLLM2.num_layers - 2) * (four - two) / 2


def holding(batch: int, length: int) -> list[dict]:
    ways = {
        "as it is": (None, jnp.float32, False),
        "remat": (None, jnp.float32, True),
        "remat, microbatches of 1": (1, jnp.float32, True),
        "the same in bfloat16": (1, jnp.bfloat16, True),
    }
    return [
        {
            "a step": name,
            "activations_GB": activations(batch, length, size, dtype, remat=remat)
            / 1e9,
        }
        for name, (size, dtype, remat) in ways.items()
    ]


def fitting() -> list[dict]:
    rows = []
    for name, sizes in LARGER.items():
        model = shapes(sizes, dtype=jnp.bfloat16)
        own = numbers(adapters(model))
        base = numbers(eqx.filter(model, lambda x: hasattr(x, "size"))) - own
        rows.append(
            {
                "model": name,
                "parameters": base,
                "base_GB": 2 * base / 1e9,
                "adapters_MB": 4 * own / 1e6,
                # What it trains, the gradient, two moments, and the change it sends.
                "LoRA, a client_MB": 5 * 4 * own / 1e6,
                "full, a client_GB": 5 * 4 * base / 1e9,
            }
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--output", default="language.json")
    args = parser.parse_args()
    loader = eqf.data.Loader(clients(), eqf.data.AllClients(), BATCHING)
    tables = {
        "Bytes that a client sends and is sent in a round": travelling(loader),
        "A round beside its bare steps": timed(loader, args.repeats),
        f"A step on {args.batch} x {args.length} tokens of SmolLM2-135M": holding(
            args.batch, args.length
        ),
        f"What lies on a device, adapters of rank {RANK}": fitting(),
    }
    for title, rows in tables.items():
        print_table(title, rows)
    write_json(args.output, tables)


if __name__ == "__main__":
    main()

"""What is wrong with layers of low rank, and with who trains them."""

import equinox as eqx
import jax.numpy as jnp

import equifed as eqf

from .parts import counts
from .shared import BATCHING, KEY, LOSS, MODEL, SGD


LAYERS = eqx.nn.MLP(3, 2, 5, 1, key=KEY)


def lora(**kwargs):
    return eqf.nn.lora(**{"model": LAYERS, "rank": 1, "key": KEY, **kwargs})


ADAPTED = lora()


class Doubled(eqx.nn.Linear):
    def __call__(self, x, *, key=None):
        return 2 * super().__call__(x)


def tied():
    """Two layers of one weight, of which the second has none of its own."""
    layers = eqx.nn.Linear(3, 3, key=KEY), eqx.nn.Linear(3, 3, key=KEY)
    return eqx.nn.Shared(layers, lambda x: x[1].weight, lambda x: x[0].weight)


def whole_numbers():
    layer = eqx.nn.Linear(2, 2, key=KEY)
    return eqx.tree_at(lambda x: x.weight, layer, jnp.ones((2, 2), jnp.int8))


def method(kind, **more):
    def begun(model, **kinds):
        roles = eqf.roles(model, **kinds) if kinds else None
        algorithm = kind(LOSS, SGD, BATCHING, **more)
        return lambda: algorithm.init(model, num_clients=4, roles=roles)

    name = kind.__name__
    return {
        "a number for the loss": (
            lambda: kind(1.0, SGD, BATCHING, **more),
            TypeError,
            "`loss`",
        ),
        "a rate": (
            lambda: kind(LOSS, 0.1, BATCHING, **more),
            TypeError,
            "`client_optim`",
        ),
        "a number of epochs": (
            lambda: kind(LOSS, SGD, 2, **more),
            TypeError,
            "`batching`",
        ),
        "a model without adapters": (
            begun(MODEL),
            ValueError,
            (f"`{name}` needs layers with a change of low rank", "equifed.nn.lora"),
        ),
        "adapters of which half is frozen": (
            begun(ADAPTED, shared=eqf.nn.lora_b),
            ValueError,
            (f"`{name}` needs both A and B", "shared=equifed.nn.adapters"),
        ),
        "personal leaves": (
            begun(ADAPTED, shared=eqf.nn.lora_a, personal=eqf.nn.lora_b),
            ValueError,
            f"`{name}`",
        ),
    }


def needs_layers(function):
    """A role that no leaf of a model without adapters has."""
    return {
        "a model without adapters": (
            lambda: eqf.roles(LAYERS, shared=function),
            ValueError,
            "`shared` names no floating-point array",
        )
    }


TABLE = {
    "nn.lora": {
        **counts(lambda x: lora(rank=x), name="rank", least=1),
        "a rank above that of a layer": (
            lambda: lora(rank=3),
            ValueError,
            ("`rank` must be at most 2 for `.layers[1]`", "got 3"),
        ),
        "no such part": (
            lambda: lora(where=lambda m: m["head"]),
            ValueError,
            "`where` could not be found in the model",
        ),
        "a part without such a layer": (
            lambda: lora(where=lambda m: m.layers[0].bias),
            ValueError,
            ("`where` chooses no `equinox.nn.Linear`", "`.layers[0]`"),
        ),
        "a function of the path that chooses none": (
            lambda: lora(by=lambda path, layer: False),
            ValueError,
            "`by` chooses no `equinox.nn.Linear`",
        ),
        "a function of the path alone": (
            lambda: lora(by=lambda path: True),
            ValueError,
            ("`by` could not be asked of `.layers[0]`: TypeError:", "a path and what"),
        ),
        "a function that says a role": (
            lambda: lora(by=lambda path, layer: "frozen"),
            ValueError,
            ("`by` must say True or False of `.layers[0]`, got 'frozen'",),
        ),
        "both": (
            lambda: lora(where=lambda m: m, by=lambda path, layer: True),
            ValueError,
            "`where` and `by` both say",
        ),
        "a name for the layers": (
            lambda: lora(where="layers"),
            TypeError,
            "`where`",
        ),
        "embeddings alone": (
            lambda: lora(model=eqx.nn.Embedding(3, 2, key=KEY)),
            ValueError,
            ("embeddings and no `equinox.nn.Linear`", "where=lambda m: m"),
        ),
        "a weight of whole numbers": (
            lambda: lora(model=whole_numbers()),
            ValueError,
            ("The weight of `the model` must be floating-point", "int8[2,2]"),
        ),
        "a layer whose weight is another's": (
            lambda: lora(model=tied()),
            ValueError,
            ("The weight of `.pytree[1]` must be floating-point", "SharedNode"),
        ),
        "a layer that computes something else": (
            lambda: lora(model=[Doubled(3, 2, key=KEY)]),
            ValueError,
            "`[0]` is a `Doubled`, which computes something else",
        ),
        "a layer whose weight is made anew": (
            lambda: lora(model=[eqx.nn.WeightNorm(eqx.nn.Linear(3, 2, key=KEY))]),
            ValueError,
            "`[0].layer` cannot be adapted: `WeightNorm` makes its weight",
        ),
        "a model without layers": (
            lambda: lora(model={"weight": jnp.ones((3, 3))}),
            ValueError,
            "`model` has no `equinox.nn.Linear` or `equinox.nn.Embedding` to adapt",
        ),
        "layers that are adapted already": (
            lambda: lora(model=ADAPTED),
            ValueError,
            ("`.layers[0]` has a change of rank 1 already", "equifed.nn.merge"),
        ),
        "an alpha of 0": (
            lambda: lora(alpha=0.0),
            ValueError,
            "`alpha` must be more than 0",
        ),
        "a seed for the key": (lambda: lora(key=0), TypeError, "`key`"),
    },
    "nn.merge": {
        "a model without adapters": (
            lambda: eqf.nn.merge(LAYERS),
            ValueError,
            ("`model` has no layer with a change of low rank", "equifed.nn.lora"),
        ),
    },
    "nn.adapters": needs_layers(eqf.nn.adapters),
    "nn.lora_a": needs_layers(eqf.nn.lora_a),
    "nn.lora_b": needs_layers(eqf.nn.lora_b),
    "FedExLoRA": method(eqf.FedExLoRA),
    "FLoRA": method(eqf.FLoRA),
    "FlexLoRA": method(eqf.FlexLoRA),
    "HetLoRA": {
        **method(eqf.HetLoRA, lam=0.1, gamma=0.9),
        "a pull upwards": (
            lambda: eqf.HetLoRA(LOSS, SGD, BATCHING, lam=-1.0, gamma=0.9),
            ValueError,
            "`lam` must be at least 0",
        ),
        "no rank that is left": (
            lambda: eqf.HetLoRA(LOSS, SGD, BATCHING, lam=0.1, gamma=0.0),
            ValueError,
            "`gamma` must be more than 0",
        ),
        "more ranks than there were": (
            lambda: eqf.HetLoRA(LOSS, SGD, BATCHING, lam=0.1, gamma=1.5),
            ValueError,
            "`gamma` must be at most 1",
        ),
    },
    "RoLoRA": method(eqf.RoLoRA),
}

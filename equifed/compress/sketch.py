"""FetchSGD: sums of sketches are sketches of sums.

A count sketch adds each number, with a random sign, to one of a few columns, in several
rows with other hashes. Any number is found again, if it is large, as the median over
the rows of what its columns hold. As all of this is linear, momentum and errors can be
kept as sketches at the server, and clients need no memory.
"""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, ArrayLike, Float, PyTree

from .._aggregator import AbstractAggregator, WeightedMean
from .._bits import payload_bits
from .._check import as_number, check_count, check_kind, check_seed, checked
from .._tree import tree_wide, tree_zeros_like
from .._wire import check_additive, Message
from .base import Sent


class CountSketch(AbstractAggregator):
    r"""Clients send count sketches, of whose mean the server takes the largest numbers.

    With the mean $S$ of the sketches, a momentum $u \leftarrow \rho u + S$ and errors
    $e \leftarrow e + u$, the payload is made of the $k$ largest numbers of what $e$
    says, whose sketch is taken from $e$. In FetchSGD clients send gradients, and $e$
    sums $\eta u$; here they send changes of the params, and $\eta$ is the server's
    optimiser, `optax.sgd(1.0)` say.

    **Arguments:**

    - `num_rows`, `num_columns`: the size of a sketch, which is that of a message.
    - `num_kept`: $k$, how many numbers change in a round.
    - `momentum`: $\rho$, in [0, 1); 0 if not given.
    - `seed`: of the hashes, which all know.
    - `aggregator`: of the sketches, a mean; [`equifed.WeightedMean`][] if not given.

    ??? cite "Reference"

        [FetchSGD: Communication-Efficient Federated Learning with
        Sketching](https://arxiv.org/abs/2007.07682)

        ```bibtex
        @inproceedings{rothchild2020fetchsgd,
            title={{F}etch{SGD}: {C}ommunication-{E}fficient {F}ederated {L}earning with
                   {S}ketching},
            author={Rothchild, Daniel and Panda, Ashwinee and Ullah, Enayat and Ivkin,
                    Nikita and Stoica, Ion and Braverman, Vladimir and Gonzalez, Joseph
                    and Arora, Raman},
            booktitle={ICML},
            year={2020},
        }
        ```
    """

    num_rows: int
    num_columns: int
    num_kept: int
    momentum: Float[Array, ""]
    seed: int
    aggregator: AbstractAggregator

    @checked()
    def __init__(
        self,
        num_rows: int,
        num_columns: int,
        *,
        num_kept: int,
        momentum: ArrayLike = 0.0,
        seed: int = 0,
        aggregator: AbstractAggregator | None = None,
    ):
        self.num_rows = check_count("num_rows", num_rows)
        self.num_columns = check_count("num_columns", num_columns)
        self.num_kept = check_count("num_kept", num_kept)
        self.momentum = as_number("momentum", momentum, least=0, below=1)
        self.seed = check_seed(seed)
        self.aggregator = WeightedMean() if aggregator is None else aggregator

    def __check_init__(self):
        check_kind("aggregator", self.aggregator, AbstractAggregator)

    @property
    def gathers(self):
        return self.aggregator.gathers

    def init(self, payload):
        # The form of the payload, by which a vector becomes one again.
        shapes = tree_zeros_like(payload)
        empty = self._sketch(_flat(shapes))
        return self.aggregator.init(empty), empty, empty, shapes

    def encode(self, message, state, *, key):
        check_additive(message.payload, self)
        sketch = self._sketch(_flat(message.payload))
        aside = payload_bits((message.stats, message.weight))
        sent = Sent.plain(payload_bits(sketch) + aside)
        message = Message(sketch, message.weight, message.stats)
        encoded, metrics = self.aggregator.encode(message, state[0], key=key)
        return encoded, {"bits_up": sent.bits, **metrics}

    def decode(self, encoded, state, *, key):
        inner, momentum, errors, shapes = state
        aggregate, inner, metrics = self.aggregator.decode(encoded, inner, key=key)
        momentum = self.momentum.astype(momentum.dtype) * momentum + aggregate.payload
        errors = errors + momentum
        guess = self._found(errors, _flat(shapes).size)
        kept = min(self.num_kept, guess.size)
        _, index = jax.lax.top_k(jnp.abs(guess), kept)
        largest = jnp.zeros_like(guess).at[index].set(guess[index])
        errors = errors - self._sketch(largest)
        aggregate = dataclasses.replace(aggregate, payload=_like(largest, shapes))
        return aggregate, (inner, momentum, errors, shapes), metrics

    def _hashes(self, size: int) -> tuple[Array, Array]:
        """The column and the sign of each number, in each row."""
        column_key, sign_key = jr.split(jr.key(self.seed % 2**32))
        shape = (self.num_rows, size)
        columns = jr.randint(column_key, shape, 0, self.num_columns)
        return columns, jr.rademacher(sign_key, shape, jnp.float32)

    def _sketch(self, x: Float[Array, " size"]) -> Float[Array, "rows columns"]:
        columns, signs = self._hashes(x.size)
        empty = jnp.zeros(self.num_columns, x.dtype)
        return jax.vmap(lambda c, s: empty.at[c].add(s.astype(x.dtype) * x))(
            columns, signs
        )

    def _found(
        self, sketch: Float[Array, "rows columns"], size: int
    ) -> Float[Array, " size"]:
        """What each number was, as far as the sketch tells."""
        columns, signs = self._hashes(size)
        rows = jax.vmap(lambda r, c, s: r[c] * s.astype(r.dtype))(
            sketch, columns, signs
        )
        return jnp.median(rows, axis=0)


def _flat(payload: PyTree) -> Float[Array, " size"]:
    parts = [x.reshape(-1) for x in jtu.tree_leaves(tree_wide(payload))]
    dtype = max((x.dtype for x in parts), key=lambda d: d.itemsize)
    return jnp.concatenate([x.astype(dtype) for x in parts])


def _like(flat: Float[Array, " size"], shapes: PyTree) -> PyTree:
    leaves, structure = jtu.tree_flatten(shapes)
    out, start = [], 0
    for x in leaves:
        out.append(flat[start : start + x.size].reshape(x.shape).astype(x.dtype))
        start += x.size
    return jtu.tree_unflatten(structure, out)

"""FLTrust: an update counts as far as it points where the server's own does."""

import dataclasses
import functools

import jax
import jax.core
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import optax
from jaxtyping import Array, Int, PyTree

from .._aggregator import AbstractAggregator, UniformMean, WeightedMean
from .._check import check_count, checked
from .._client import LocalSGD
from .._client.reach import only, reached
from .._cohort import NO_CLIENT
from .._metrics import Average, Sum
from .._noise import reseed_noise
from .._optim import OptimLike
from .._round import Beginning
from .._server import OptaxServer
from .._tree import tree_divide, tree_isfinite, tree_norm, tree_scale, tree_wide
from .._types import Loss
from .._wire import Broadcast, check_additive, Message
from ..data import AbstractBatching
from ..robust.base import rejected
from .of_client import _AbstractOfClient


class _TrustedMean(AbstractAggregator):
    """The mean of the messages' directions by the trust in them, as long as the
    server's update, which is the state and comes from the round's first pass."""

    @property
    def gathers(self):
        return False

    def init(self, payload):
        return payload

    def encode(self, message, state, *, key):
        check_additive(message.payload, self)
        towards, own = _direction(message.payload), _direction(state)
        products = jtu.tree_map(lambda x, y: jnp.sum(x * y), towards, own)
        cosine = functools.reduce(jnp.add, jtu.tree_leaves(products))
        there = message.weight > 0
        # What is not finite is not trusted.
        counts = there & (cosine > 0) & tree_isfinite(message.stats)
        trust = jnp.where(counts, cosine, 0).astype(message.weight.dtype)
        payload = tree_scale(tree_norm(state), towards)
        message = Message(payload, trust, message.stats)
        encoded, _ = WeightedMean().encode(message, None, key=key)
        came = there.astype(trust.dtype)
        metrics = {"trust": Average(trust, came), "trusted": Sum(encoded.count)}
        return (encoded, came), metrics

    def decode(self, encoded, state, *, key):
        total, came = encoded
        aggregate, _, _ = WeightedMean().decode(total, None, key=key)
        # The metric `clients` is of all who came.
        aggregate = dataclasses.replace(aggregate, count=came)
        return aggregate, state, {"rejected": rejected(aggregate.accept)}


def _direction(x: PyTree[Array]) -> PyTree[Array]:
    """A tree of norm 1, and 0 of one that is 0. Its largest number is made 1 first, so
    that no square overflows, and none that counts is lost."""
    x = tree_wide(x)
    largest = [jnp.max(jnp.abs(leaf)) for leaf in jtu.tree_leaves(x) if leaf.size]
    x = tree_divide(x, functools.reduce(jnp.maximum, largest))
    return tree_divide(x, tree_norm(x))


class FLTrust(_AbstractOfClient):
    r"""The server trains on a few examples of its own, and trusts a client as far as it
    goes the same way.

    With the change $g_0$ of the model that the server's root examples make, and the
    changes $g_i$ of the round's clients, all by the same local SGD from the server's
    $x$,

    $$T_i = \max(0, \cos(g_i, g_0)), \qquad x \leftarrow x + \eta \sum_i T_i
    \frac{\lVert g_0 \rVert}{\lVert g_i \rVert} g_i \Big/ \sum_i T_i.$$

    However many clients are Byzantine, and however large their messages are, the model
    moves by at most $\eta \lVert g_0 \rVert$, and not away from $g_0$. How good it
    becomes depends on the root examples: the paper has 100 by default, and shows that
    they may be of somewhat other shares of classes than the clients', not of one alone.

    The root examples are those of one client of the population, `root`, which must take
    part in every round: draw the others with [`equifed.data.Including`][]. A round has
    two passes, of the root client and of the others; these are added up as they come,
    so that memory does not grow with the cohort. Every client counts by its trust
    alone, whatever its number of examples.

    A round in which nobody is trusted is *rejected*: no client's cosine is positive,
    the root client did not take part, or its change is 0 or not finite. The metric
    `rejected` is 1 then, and the model stays as it was. `trust` is the mean of $T_i$
    over the clients, `trusted` counts those for whom it is positive, and all other
    metrics leave the root client out too, but for `nonfinite`. `stats`, and statistics
    of a [`equifed.Stateful`][] loss, are averaged by trust.

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `server_optim`: as in [`equifed.FedAvg`][].
        `optax.sgd(1.0)`, the default, has $\eta = 1$.
    - `root`: the number of the client that holds the root examples.

    **Raises:**

    `ValueError` for a root client beyond the population.

    !!! example

        ```python
        algorithm = eqf.FLTrust(loss, optax.sgd(0.1), batching, root=0)
        sampler = eqf.data.Including(eqf.data.UniformSampler(20), [0])
        loader = eqf.data.Loader(dataset, sampler, batching)
        ```

    ??? cite "Reference"

        [FLTrust: Byzantine-robust Federated Learning via Trust
        Bootstrapping](https://arxiv.org/abs/2012.13995), Algorithm 2

        ```bibtex
        @inproceedings{cao2021fltrust,
            title={{FLT}rust: {B}yzantine-robust {F}ederated {L}earning via {T}rust
                   {B}ootstrapping},
            author={Cao, Xiaoyu and Fang, Minghong and Liu, Jia and Gong, Neil
                    Zhenqiang},
            booktitle={NDSS},
            year={2021},
        }
        ```
    """

    client: LocalSGD
    server: OptaxServer
    root: Int[Array, ""]
    rejects = (
        "since none of its {clients:g} clients was trusted: no change of one points "
        "where that of the root examples does, or there was no such change",
        "Have the root client take part in every round, by `Including`, with examples "
        "of all classes.",
    )

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        root: int,
        server_optim: OptimLike | None = None,
    ):
        self.client = LocalSGD(loss, client_optim, batching)
        server_optim = optax.sgd(1.0) if server_optim is None else server_optim
        self.server = OptaxServer(server_optim)
        number = check_count("root", root, least=0, most=NO_CLIENT - 1)
        self.root = jnp.asarray(number, jnp.int32)

    @property
    def trusted_client(self) -> Int[Array, ""]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.root

    @property
    def carries_state(self) -> bool:
        return self.client.carries_state

    def begin(self, params, *, num_clients, key):
        if not isinstance(self.root, jax.core.Tracer):
            check_count("root", int(self.root), least=0, most=num_clients - 1)
        return Beginning(params, self.server.init(params, num_clients=num_clients))

    def step(self, state, clients, *, key):
        root_key, client_key, noise_key, server_key = jr.split(key, 4)
        x, statistics = state.params, state.statistics
        sent = Broadcast(x, state.others, None, statistics)
        is_root = clients.index == self.root
        root = clients.only(is_root)(self.client, UniformMean(), sent, key=root_key)
        out = clients.only(clients.present & ~is_root)(
            self.client,
            _TrustedMean(),
            sent,
            None,
            root.aggregate.payload,
            key=client_key,
        )
        server, inner = reseed_noise((self.server, state.server), noise_key)
        moved, inner = server.round(x, out.aggregate, inner, key=server_key)
        # The server does not move what the clients do not train either.
        moved = only(reached(self.loss, sent, clients.example), moved, x)
        state = dataclasses.replace(
            state, params=moved, server=inner, statistics=out.statistics
        )
        # The server's own training is not sent; that it diverged is to be known.
        nonfinite = out.metrics["nonfinite"].merge(root.metrics["nonfinite"])
        metrics = {**out.metrics, "nonfinite": nonfinite}
        return state, metrics, out.aggregate.accept

    def model(self, state):
        return state.model

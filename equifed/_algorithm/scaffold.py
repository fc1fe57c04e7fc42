"""SCAFFOLD: the clients' correction, the server's part, and the algorithm."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
import optax
from jaxtyping import Array, Float, PyTree

from .._aggregator import AbstractAggregator, UniformMean
from .._check import check_choice, check_kind, checked
from .._client import AbstractCorrection, LocalSGD
from .._client.correction import mean_of_steps
from .._optim import OptimLike
from .._server import AbstractServer, OptaxServer
from .._tree import (
    tree_add,
    tree_add_scaled,
    tree_cast_like,
    tree_sub,
    tree_where,
    tree_wide,
    tree_zeros_like,
)
from .._types import Loss, Params
from .._wire import AbstractPayload
from .._words import shown
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


SCAFFOLD = "SCAFFOLD's two changes (`ControlVariate`, `ScaffoldServer`)"
_REMEDY = "`ScaffoldServer` goes with clients that correct by a `ControlVariate`."


class ScaffoldPayload(AbstractPayload):
    """The change of the params, and that of the control variate."""

    additive: ClassVar[bool] = True
    delta: Params
    control: Params


class ControlVariate(AbstractCorrection):
    r"""SCAFFOLD's control variates: $g - c_i + c$.

    After its $K$ steps the client renews its own, $c_i$, in one of two ways: by
    `option=1`, the gradient over all its data at the broadcast model; by `option=2`,
    the mean of the gradients that it computed on the way, $\frac1K \sum_k g_k$. For
    plain SGD with step size $\eta$ the second is what the paper writes as
    $c_i - c + \frac{1}{K\eta}(x - y_i)$, and it asks for no step size, so that it
    holds for any optimiser.
    """

    sends = (SCAFFOLD,)
    option: int = 2

    def __check_init__(self):
        check_choice("option", self.option, (1, 2))

    def init(self, params):
        return tree_zeros_like(params)

    def payload(self, params):
        return ScaffoldPayload(params, params)

    def begin(self, params, shared, state, gradient):
        if jtu.tree_structure(shared) != jtu.tree_structure(params):
            raise TypeError(
                "`ControlVariate` takes the server's control variate from its "
                f"broadcast, got {shown(shared)}. It goes with `ScaffoldServer`."
            )
        seen = (
            gradient(params) if self.option == 1 else tree_wide(tree_zeros_like(params))
        )
        return tree_sub(shared, state), seen, state

    def correct(self, grads, params, carry, gradient):
        offset, seen, state = carry
        if self.option == 2:
            seen = tree_add(seen, grads)
        return tree_add(grads, offset), (offset, seen, state)

    def end(self, delta, num_steps, carry):
        _, seen, state = carry
        if self.option == 2:
            seen = mean_of_steps(seen, num_steps, state)
        seen = tree_cast_like(seen, state)
        # A client that took no step has seen nothing.
        new = tree_where(num_steps > 0, seen, state)
        return ScaffoldPayload(delta, tree_sub(new, state)), new


class ScaffoldState(eqx.Module):
    """The inner server's state, and SCAFFOLD's control variate."""

    server: PyTree
    control: Params
    num_clients: Float[Array, ""]


class ScaffoldServer(AbstractServer):
    r"""Hands the change of the params to another server, and keeps the mean of all
    clients' control variates: $c \leftarrow c + \frac{|S|}{N} \overline{\Delta c}$."""

    understands = (SCAFFOLD,)
    server: AbstractServer

    def __check_init__(self):
        check_kind("server", self.server, AbstractServer)

    def init(self, params, *, num_clients):
        return ScaffoldState(
            self.server.init(params, num_clients=num_clients),
            tree_zeros_like(params),
            jnp.asarray(num_clients, jnp.result_type(float)),
        )

    def broadcast(self, params, state):
        return state.control

    def round(self, params, aggregate, state, *, key):
        check_kind("payload", aggregate.payload, ScaffoldPayload, _REMEDY)
        control = aggregate.payload.control
        aggregate = eqx.tree_at(lambda a: a.payload, aggregate, aggregate.payload.delta)
        params, server = self.server.round(params, aggregate, state.server, key=key)
        share = aggregate.count / state.num_clients
        control = tree_add_scaled(state.control, share, control)
        return params, ScaffoldState(server, control, state.num_clients)


class Scaffold(AbstractOnePass):
    r"""Stochastic controlled averaging: client drift is measured and taken out.

    Client $i$ steps with $g_i(y) - c_i + c$ from the server's $x$ to $y_i$, and renews
    its control variate to $c_i^+$: by option I, its gradient at $x$; by option II,
    $c_i - c + \frac{1}{K \eta} (x - y_i)$. Over the participants $S$ of $N$ clients,

    $$x \leftarrow x + \frac{\eta_g}{|S|} \sum_{i \in S} (y_i - x), \qquad
    c \leftarrow c + \frac1N \sum_{i \in S} (c_i^+ - c_i).$$

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][]. The paper's
        clients run plain SGD.
    - `option`: how a client renews its control variate, by option 1 or 2.
    - `server_optim`: `optax.sgd(1.0)` if not given; its learning rate is $\eta_g$.
    - `aggregator`: [`equifed.UniformMean`][] if not given, as in the paper.

    ??? cite "Reference"

        [SCAFFOLD: Stochastic Controlled Averaging for Federated
        Learning](https://arxiv.org/abs/1910.06378)

        ```bibtex
        @inproceedings{karimireddy2020scaffold,
            title={{SCAFFOLD}: {S}tochastic {C}ontrolled {A}veraging for {F}ederated
                   {L}earning},
            author={Karimireddy, Sai Praneeth and Kale, Satyen and Mohri, Mehryar and
                    Reddi, Sashank and Stich, Sebastian and Suresh, Ananda Theertha},
            booktitle={ICML},
            year={2020},
        }
        ```
    """

    client: LocalSGD
    aggregator: AbstractAggregator
    server: ScaffoldServer

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        option: int = 2,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = LocalSGD(loss, client_optim, batching, ControlVariate(option))
        self.aggregator = UniformMean() if aggregator is None else aggregator
        server_optim = optax.sgd(1.0) if server_optim is None else server_optim
        self.server = ScaffoldServer(OptaxServer(server_optim))

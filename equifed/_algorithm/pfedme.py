"""pFedMe: each client's own model is a proximal point of its copy of the server's."""

import equinox as eqx
import jax
import optax
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, UniformMean
from .._check import as_number, check_count, checked
from .._client import AbstractCorrection, LocalSGD
from .._optim import OptimLike
from .._server import OptaxServer
from .._tree import tree_add_scaled, tree_scale, tree_sub, tree_where
from .._types import Loss
from .._wire import CHANGE
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class _MoreauEnvelope(AbstractCorrection):
    r"""$\lambda (w - \hat\theta)$ in place of the gradient, which is that of the
    envelope: $\hat\theta$ is where some steps down $f(\theta) + \frac\lambda2 \lVert
    \theta - w \rVert^2$ end, of the batch's loss $f$. It is what the client keeps."""

    lam: Float[Array, ""]
    own_learning_rate: Float[Array, ""]
    own_steps: int
    sends = (CHANGE,)

    def init(self, params):
        return params

    def payload(self, params):
        return params

    def begin(self, params, shared, state, gradient):
        return params, state

    def correct(self, grads, params, carry, gradient):
        theta, state = carry

        def descend(theta, _):
            pull = tree_sub(theta, params)
            slope = tree_add_scaled(gradient(theta), self.lam, pull)
            return tree_add_scaled(theta, -self.own_learning_rate, slope), None

        theta, _ = jax.lax.scan(descend, theta, None, length=self.own_steps)
        return tree_scale(self.lam, tree_sub(params, theta)), (theta, state)

    def end(self, delta, num_steps, carry):
        theta, state = carry
        return delta, tree_where(num_steps > 0, theta, state)


class PFedMe(AbstractOnePass):
    r"""pFedMe: personalisation by Moreau envelopes.

    The server minimises the mean of $\min_\theta F_i(\theta) + \frac\lambda2 \lVert
    \theta - w \rVert^2$, whose minimum $\theta_i(w)$ is client $i$'s own model. When
    it is sent $w$, it takes local steps from $w_i = w$: on each batch $B$ it finds
    $\theta_i$ by $K$ steps of gradient descent,

    $$\theta_i \leftarrow \theta_i - \eta_\theta \big(\nabla F_B(\theta_i) + \lambda
    (\theta_i - w_i)\big), \qquad \text{then} \qquad w_i \leftarrow w_i - \eta \lambda
    (w_i - \theta_i),$$

    and it sends the change of $w_i$, of which the server adds $\beta$ times the mean.
    The paper solves for $\theta_i$ by any method to a given accuracy, from anywhere;
    here it begins at $w$ in each round and goes on from one batch to the next, as its
    authors' program does. The metrics are those of $w_i$.

    `algorithm.own_model(state, kept)` is the $\theta_i$ of the client's last step, the
    initial model before there is one; `state.model` is the server's.

    **Arguments:**

    - `loss`, `batching`: as in [`equifed.FedAvg`][].
    - `client_optim`: $\eta$, as `optax.sgd(eta)`, in the paper; any optimiser is given
        $\lambda (w_i - \theta_i)$ for a gradient.
    - `lam`: $\lambda > 0$: the larger it is, the nearer own models stay.
    - `own_learning_rate`: $\eta_\theta > 0$. Steps grow where $\eta_\theta$ times the
        sum of $\lambda$ and the loss's curvature is more than 2.
    - `own_steps`: $K$, the steps of gradient descent on each batch.
    - `server_optim`: `optax.sgd(beta)`, in the paper; `optax.sgd(1.0)` if not given.
    - `aggregator`: [`equifed.UniformMean`][] if not given, as in the paper.

    ??? cite "Reference"

        Algorithm 1 of [Personalized Federated Learning with Moreau
        Envelopes](https://arxiv.org/abs/2006.08848)

        ```bibtex
        @inproceedings{dinh2020personalized,
            title={{P}ersonalized {F}ederated {L}earning with {M}oreau {E}nvelopes},
            author={Dinh, Canh T. and Tran, Nguyen H. and Nguyen, Tuan Dung},
            booktitle={NeurIPS},
            year={2020},
        }
        ```
    """

    client: LocalSGD
    aggregator: AbstractAggregator
    server: OptaxServer

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        lam: ArrayLike,
        own_learning_rate: ArrayLike,
        own_steps: int = 5,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        correction = _MoreauEnvelope(
            as_number("lam", lam, least=0, strict=True),
            as_number("own_learning_rate", own_learning_rate, least=0, strict=True),
            check_count("own_steps", own_steps),
        )
        self.client = LocalSGD(loss, client_optim, batching, correction)
        self.aggregator = UniformMean() if aggregator is None else aggregator
        server_optim = optax.sgd(1.0) if server_optim is None else server_optim
        self.server = OptaxServer(server_optim)

    def own_model(self, state, kept):
        return eqx.combine(kept, state.rest)

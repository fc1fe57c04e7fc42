r"""Langevin dynamics on mini-batch gradients.

Gradient steps with just as much noise as makes $\exp(-f / T)$ their stationary
distribution, but for an error that vanishes with the step size.
"""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import optax
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree

from .._check import as_number, checked, within
from .._optim import Optim
from .._tree import tree_wide, tree_zeros_like
from .._types import Params
from .chain import AbstractChainSampler
from .windows import Windows


_NO_OPTIMISER = (
    "Langevin dynamics makes its own steps: give a number or an Optax schedule "
    "instead of an optimiser."
)


class _StepSize(eqx.Module):
    """A step size: a number, or a schedule of them over a chain's steps."""

    optim: Optim

    def __init__(self, learning_rate: ArrayLike | optax.Schedule):
        if not callable(learning_rate):
            learning_rate = within("learning_rate", learning_rate, least=0, strict=True)
        # Optax's own SGD knows of schedules, and `Optim` opens them.
        self.optim = Optim(optax.sgd(learning_rate))  # pyright: ignore[reportArgumentType]

    def init(self) -> PyTree:
        return self.optim.init(jnp.zeros((), jnp.result_type(float)))

    def __call__(self, state: PyTree) -> tuple[Float[Array, ""], PyTree]:
        one = jnp.ones((), jnp.result_type(float))
        update, state = self.optim.update(-one, state, one)
        return update, state


class SGLD(AbstractChainSampler):
    r"""Stochastic gradient Langevin dynamics.

    $$\theta_{k+1} = \theta_k - \eta_k g_k + \sqrt{2 \eta_k T}\, \xi_k, \qquad
    \xi_k \sim N(0, I).$$

    **Arguments:**

    - `learning_rate`: $\eta_k$: a number, or an Optax schedule over the chain's steps.
        The paper's decreasing step sizes $a (b + k)^{-\gamma}$ make the samples exact
        in the limit; weights for them are left to the averages.
    - `temperature`: $T$. At 1 the samples are of $\exp(-f)$, where $f$ is the client's
        *mean* loss; at $1/n$ they are of the posterior of all its $n$ examples.
    - `burnin`, `average`, `discard`, `chains`: as in [`equifed.posterior.IASG`][]. With
        `average=1` and `Steps` a sample is one iterate.

    ??? cite "Reference"

        [Bayesian Learning via Stochastic Gradient Langevin
        Dynamics](https://www.stats.ox.ac.uk/~teh/research/compstats/WelTeh2011a.pdf)

        ```bibtex
        @inproceedings{welling2011bayesian,
            title={{B}ayesian {L}earning via {S}tochastic {G}radient {L}angevin
                   {D}ynamics},
            author={Welling, Max and Teh, Yee Whye},
            booktitle={ICML},
            year={2011},
        }
        ```
    """

    step_size: _StepSize
    temperature: Float[Array, ""]
    windows: Windows

    @checked(learning_rate=_NO_OPTIMISER)
    def __init__(
        self,
        learning_rate: ArrayLike | optax.Schedule,
        *,
        temperature: ArrayLike = 1.0,
        burnin: int = 0,
        average: int = 1,
        discard: int = 0,
        chains: int = 1,
    ):
        self.step_size = _StepSize(learning_rate)
        self.temperature = as_number("temperature", temperature, least=0)
        self.windows = Windows(burnin, average, discard, chains)

    def begin(self, params):
        return self.step_size.init()

    def update(self, grads, params, state, *, key):
        eta, state = self.step_size(state)
        return _langevin(grads, None, eta, self.temperature, key), state


class PreconditionedSGLD(AbstractChainSampler):
    r"""SGLD with RMSprop's preconditioner, for losses of very different curvatures.

    $$v_k = \alpha v_{k-1} + (1 - \alpha) g_k^2, \qquad
    G_k = 1 / (\lambda + \sqrt{v_k}), \qquad
    \theta_{k+1} = \theta_k - \eta_k G_k g_k + \sqrt{2 \eta_k T G_k}\, \xi_k,$$

    element by element, from $v_{-1} = 0$. As in the paper's experiments the term with
    the derivative of $G$ is left out, so that the samples keep a small bias.

    **Arguments:**

    - `learning_rate`, `temperature`, `burnin`, `average`, `discard`, `chains`: as in
        [`equifed.posterior.SGLD`][].
    - `decay`: $\alpha$, from 0 to less than 1.
    - `eps`: $\lambda$, more than 0.

    ??? cite "Reference"

        [Preconditioned Stochastic Gradient Langevin Dynamics for Deep Neural
        Networks](https://arxiv.org/abs/1512.07666)

        ```bibtex
        @inproceedings{li2016preconditioned,
            title={{P}reconditioned {S}tochastic {G}radient {L}angevin {D}ynamics for
                   {D}eep {N}eural {N}etworks},
            author={Li, Chunyuan and Chen, Changyou and Carlson, David and Carin,
                    Lawrence},
            booktitle={AAAI},
            year={2016},
        }
        ```
    """

    step_size: _StepSize
    temperature: Float[Array, ""]
    decay: Float[Array, ""]
    eps: Float[Array, ""]
    windows: Windows

    @checked(learning_rate=_NO_OPTIMISER)
    def __init__(
        self,
        learning_rate: ArrayLike | optax.Schedule,
        *,
        temperature: ArrayLike = 1.0,
        decay: ArrayLike = 0.99,
        eps: ArrayLike = 1e-5,
        burnin: int = 0,
        average: int = 1,
        discard: int = 0,
        chains: int = 1,
    ):
        self.step_size = _StepSize(learning_rate)
        self.temperature = as_number("temperature", temperature, least=0)
        self.decay = as_number("decay", decay, least=0, below=1)
        self.eps = as_number("eps", eps, least=0, strict=True)
        self.windows = Windows(burnin, average, discard, chains)

    def begin(self, params):
        return self.step_size.init(), tree_zeros_like(tree_wide(params))

    def update(self, grads, params, state, *, key):
        size, v = state
        eta, size = self.step_size(size)

        def second(v, g):
            decay = self.decay.astype(v.dtype)
            return decay * v + (1 - decay) * jnp.square(g.astype(v.dtype))

        v = jtu.tree_map(second, v, grads)
        scales = jtu.tree_map(lambda v: 1 / (self.eps.astype(v.dtype) + jnp.sqrt(v)), v)
        return _langevin(grads, scales, eta, self.temperature, key), (size, v)


def _langevin(
    grads: Params,
    scales: Params | None,
    eta: Float[Array, ""],
    temperature: Float[Array, ""],
    key: PRNGKeyArray,
) -> Params:
    """One step of Langevin dynamics, with a diagonal preconditioner or none."""
    leaves, treedef = jtu.tree_flatten(grads)
    factors = [None] * len(leaves) if scales is None else jtu.tree_leaves(scales)
    updates = []
    for i, (g, scale) in enumerate(zip(leaves, factors, strict=True)):
        wide = tree_wide(g)
        rate = eta.astype(wide.dtype)
        if scale is not None:
            rate = rate * scale
        # Apart, so that the rate has a derivative at temperature 0 too.
        spread = jnp.sqrt(2 * rate) * jnp.sqrt(temperature.astype(wide.dtype))
        noise = jr.normal(jr.fold_in(key, i), g.shape, wide.dtype)
        updates.append((spread * noise - rate * wide).astype(g.dtype))
    return jtu.tree_unflatten(treedef, updates)

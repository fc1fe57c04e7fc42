"""Hamiltonian Monte Carlo on all of a client's examples, by BlackJAX.

BlackJAX keeps step size and mass matrix in JAX's default floating dtype, and its loops
want the position in the same. So a chain runs on one vector of that dtype, and the loss
sees it with the shapes and dtypes of the params.
"""

import abc
import importlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from .._check import as_number, check_count, checked
from .._metrics import add_metrics, Average, Sum
from .._tree import tree_cast_like, tree_wide
from .base import AbstractPosteriorSampler, check_whole, Samples
from .objective import ClientObjective, learnable, with_the_rest


class AbstractHamiltonian(AbstractPosteriorSampler):
    r"""A Markov chain on $\exp(-f / T)$ that starts from the server's model."""

    num_samples: eqx.AbstractVar[int]
    num_warmup: eqx.AbstractVar[int]
    step_size: eqx.AbstractVar[Float[Array, ""]]
    target_acceptance: eqx.AbstractVar[Float[Array, ""]]
    temperature: eqx.AbstractVar[Float[Array, ""]]

    @abc.abstractmethod
    def kernel(self) -> tuple[Any, dict[str, Any]]:
        """BlackJAX's algorithm, and its options beside step size and mass matrix."""

    @abc.abstractmethod
    def scale(self, key: PRNGKeyArray) -> Float[Array, ""]:
        """What the step size is multiplied with for one sample."""

    def count(self, batching):
        check_whole(self, batching)
        return self.num_samples

    def sample(self, loss, broadcast, data, batching, *, key):
        begin = learnable(loss, broadcast, data.example)
        params = begin.params
        pass_key, warmup_key, draw_key = jr.split(key, 3)
        objective = ClientObjective(
            loss, begin.rest, data, batching.batch_size, pass_key
        )
        dtype = jnp.result_type(float)
        start, unravel = jax.flatten_util.ravel_pytree(
            jtu.tree_map(lambda x: x.astype(dtype), params)
        )

        def density(position):
            value = objective.log_density(
                tree_cast_like(unravel(position), params), self.temperature
            )
            return value.astype(dtype)

        # BlackJAX's own code leans on both kinds of promotion.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            positions, infos = self._run(density, start, warmup_key, draw_key)
        displacements = jax.vmap(unravel)(positions - start[None])
        values = tree_cast_like(displacements, tree_wide(params))
        mean = jtu.tree_map(lambda s: s.mean(0), values)
        _, metrics = objective.full_gradient(params)
        # A client without examples has no posterior, and its message weighs nothing.
        there = (data.num_examples > 0).astype(dtype)
        zero = jnp.zeros_like(there)
        rate = jnp.where(there > 0, infos.acceptance_rate.mean().astype(dtype), zero)
        diverged = jnp.where(there > 0, infos.is_divergent.sum().astype(dtype), zero)
        new = {"acceptance": Average(rate, there), "divergences": Sum(diverged)}
        metrics = add_metrics(metrics, new)
        samples = Samples(values, tree_cast_like(mean, params))
        return with_the_rest(samples, broadcast.params), metrics

    def _run(
        self,
        density: Callable[[Array], Array],
        start: Float[Array, " params"],
        warmup_key: PRNGKeyArray,
        draw_key: PRNGKeyArray,
    ) -> tuple[Float[Array, "samples params"], Any]:
        blackjax = _blackjax()
        algorithm, options = self.kernel()
        step_size = self.step_size.astype(start.dtype)
        tuned = {"step_size": step_size, "inverse_mass_matrix": jnp.ones_like(start)}
        if self.num_warmup > 0:
            warmup = blackjax.window_adaptation(
                algorithm,
                density,
                initial_step_size=step_size,
                target_acceptance_rate=self.target_acceptance,
                adaptation_info_fn=lambda *_: None,
                **options,
            )
            result, _ = warmup.run(warmup_key, start, self.num_warmup)
            state, tuned = result.state, result.parameters
            options = {}
        else:
            state = algorithm(density, **tuned, **options).init(start)
        tuned = dict(tuned)
        step_size = tuned.pop("step_size")

        def advance(state, key):
            scale_key, key = jr.split(key)
            size = step_size * self.scale(scale_key).astype(start.dtype)
            step = algorithm(density, step_size=size, **tuned, **options).step
            state, info = step(key, state)
            return state, (state.position, info)

        draw_keys = jr.split(draw_key, self.num_samples)
        _, (positions, infos) = jax.lax.scan(advance, state, draw_keys)
        return positions, infos


class HMC(AbstractHamiltonian):
    r"""Hamiltonian Monte Carlo on the client's whole mean loss, by BlackJAX.

    Needs `pip install "equifed[mcmc]"`. Each sample takes `num_integration_steps`
    passes over all the client's examples: for small problems, and as a reference for
    cheaper samplers. The metrics gain `acceptance` and `divergences`.

    The step size of each sample is drawn from between a half and the whole of what was
    given or adapted. On a nearly Gaussian posterior trajectories are nearly periodic:
    if all had one length, they might all end where they began in some direction, whose
    variance would come out far too small.

    With a warm-up in float32, how many clients run side by side changes the samples
    themselves and not only their last digits, for a chain amplifies differences of
    rounding; their distribution stays.

    **Arguments:**

    - `num_samples`: how many to draw, one after another.
    - `num_integration_steps`: the leapfrog steps of each.
    - `num_warmup`: the steps that adapt the step size and a diagonal mass matrix; with
        0 both stay as they are (the mass matrix the identity).
    - `step_size`: the step size, or where its adaptation begins.
    - `target_acceptance`: the acceptance rate that the step size is adapted to.
    - `temperature`: $T$; see [`equifed.posterior.SGLD`][].

    **Raises:**

    `ImportError` if BlackJAX is not installed. `ValueError` where the loss reports a
    metric called `acceptance` or `divergences`.
    """

    num_samples: int
    num_integration_steps: int
    num_warmup: int
    step_size: Float[Array, ""]
    target_acceptance: Float[Array, ""]
    temperature: Float[Array, ""]

    @checked()
    def __init__(
        self,
        num_samples: int,
        *,
        num_integration_steps: int = 10,
        num_warmup: int = 100,
        step_size: ArrayLike = 0.1,
        target_acceptance: ArrayLike = 0.8,
        temperature: ArrayLike = 1.0,
    ):
        self.num_samples = check_count("num_samples", num_samples)
        self.num_integration_steps = check_count(
            "num_integration_steps", num_integration_steps
        )
        _blackjax()
        self.num_warmup = check_count("num_warmup", num_warmup, least=0)
        self.step_size = as_number("step_size", step_size, least=0, strict=True)
        self.target_acceptance = as_number(
            "target_acceptance", target_acceptance, least=0, strict=True, below=1
        )
        self.temperature = as_number("temperature", temperature, least=0, strict=True)

    def kernel(self):
        options = {"num_integration_steps": self.num_integration_steps}
        return _blackjax().hmc, options

    def scale(self, key):
        # Trajectories of one length may all come back to where they began.
        return jr.uniform(key, (), jnp.result_type(float), minval=0.5)


class NUTS(AbstractHamiltonian):
    r"""The No-U-Turn sampler on the client's whole mean loss, by BlackJAX.

    Hamiltonian Monte Carlo that chooses the length of each trajectory itself, up to
    $2^{10}$ passes over all the client's examples. Needs
    `pip install "equifed[mcmc]"`.

    With a warm-up in float32, how many clients run side by side changes the samples
    themselves and not only their last digits, for a chain amplifies differences of
    rounding; their distribution stays.

    **Arguments:**

    - `num_samples`, `num_warmup`, `step_size`, `target_acceptance`, `temperature`: as
        in [`equifed.posterior.HMC`][].

    **Raises:**

    `ImportError` if BlackJAX is not installed. `ValueError` where the loss reports a
    metric called `acceptance` or `divergences`.
    """

    num_samples: int
    num_warmup: int
    step_size: Float[Array, ""]
    target_acceptance: Float[Array, ""]
    temperature: Float[Array, ""]

    @checked()
    def __init__(
        self,
        num_samples: int,
        *,
        num_warmup: int = 100,
        step_size: ArrayLike = 0.1,
        target_acceptance: ArrayLike = 0.8,
        temperature: ArrayLike = 1.0,
    ):
        self.num_samples = check_count("num_samples", num_samples)
        _blackjax()
        self.num_warmup = check_count("num_warmup", num_warmup, least=0)
        self.step_size = as_number("step_size", step_size, least=0, strict=True)
        self.target_acceptance = as_number(
            "target_acceptance", target_acceptance, least=0, strict=True, below=1
        )
        self.temperature = as_number("temperature", temperature, least=0, strict=True)

    def kernel(self):
        return _blackjax().nuts, {}

    def scale(self, key):
        return jnp.ones((), jnp.result_type(float))


def _blackjax() -> Any:
    try:
        return importlib.import_module("blackjax")
    except ImportError as error:
        raise ImportError(
            "`HMC` and `NUTS` need BlackJAX, which is not installed. Run "
            '`pip install "equifed[mcmc]"`.'
        ) from error

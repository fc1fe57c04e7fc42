r"""The optimisers of the literature's tables, as their plain numbers.

What Optax makes of an optimiser's numbers is a pair of functions. A table, a file and a
command line want the numbers themselves. In each, a rate may fall from round to round:
that of round $t$ is $\eta d^{\lfloor t / n \rfloor}$.
"""

import dataclasses
from typing import Any, ClassVar, TypeAlias

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from .._check import check_count, check_number


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decay:
    """How a learning rate changes from round to round: it falls by a factor every few
    rounds, and may rise before.

    **Arguments:**

    - `factor`: what the rate is multiplied with.
    - `every`: after how many rounds.
    - `warmup`: over how many rounds it rises from 0, that of the first one, by the same
        amount each; 0 for none.
    """

    factor: float = 1.0
    every: int = 1
    warmup: int = 0

    def __post_init__(self) -> None:
        check_number("factor", self.factor, least=0, strict=True)
        check_count("every", self.every)
        check_count("warmup", self.warmup, least=0)

    def __call__(
        self, rate: float, round: Int[Array, ""] | int
    ) -> float | Float[Array, ""]:
        """The rate in a round."""
        if self == Decay():
            return rate
        round = jnp.asarray(round)
        share = self.factor ** (round // self.every).astype(float)
        if self.warmup > 0:
            share = share * jnp.minimum(round.astype(float) / self.warmup, 1)
        return rate * share


def _check(optimizer: Any, **bounds: dict[str, Any]) -> None:
    check_number("learning_rate", optimizer.learning_rate, least=0)
    check_number("weight_decay", optimizer.weight_decay, least=0)
    if optimizer.clip_norm is not None:
        check_number("clip_norm", optimizer.clip_norm, least=0, strict=True)
    for name, bound in bounds.items():
        check_number(name, getattr(optimizer, name), **bound)


def _around(
    optimizer: Any, inner: optax.GradientTransformation
) -> optax.GradientTransformation:
    """With what comes before the step itself: clipping, and then weight decay."""
    parts = []
    if optimizer.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(optimizer.clip_norm))
    if optimizer.weight_decay > 0:
        parts.append(optax.add_decayed_weights(optimizer.weight_decay))
    return optax.chain(*parts, inner) if parts else inner


_SHARE = {"least": 0, "below": 1}
_POSITIVE = {"least": 0, "strict": True}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SGD:
    """Plain stochastic gradient descent.

    **Arguments:**

    - `learning_rate`: the learning rate of the first round.
    - `decay`: how it falls from round to round.
    - `weight_decay`: how much of the parameters is added to the gradient.
    - `clip_norm`: the largest norm of a gradient, before that; none, by default.
    """

    kind: ClassVar[str] = "sgd"
    learning_rate: float
    decay: Decay = Decay()
    weight_decay: float = 0.0
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        _check(self)

    def build(self, round: Int[Array, ""] | int = 0) -> optax.GradientTransformation:
        """The Optax optimiser of a round."""
        rate = self.decay(self.learning_rate, round)
        return _around(self, optax.sgd(rate))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Momentum:
    """Stochastic gradient descent with momentum.

    **Arguments:**

    - `learning_rate`: the learning rate of the first round.
    - `momentum`: the momentum, from 0 to below 1.
    - `nesterov`: whether it is Nesterov's.
    - `decay`: how it falls from round to round.
    - `weight_decay`: how much of the parameters is added to the gradient.
    - `clip_norm`: the largest norm of a gradient, before that; none, by default.
    """

    kind: ClassVar[str] = "momentum"
    learning_rate: float
    momentum: float = 0.9
    nesterov: bool = False
    decay: Decay = Decay()
    weight_decay: float = 0.0
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        _check(self, momentum=_SHARE)

    def build(self, round: Int[Array, ""] | int = 0) -> optax.GradientTransformation:
        """The Optax optimiser of a round."""
        rate = self.decay(self.learning_rate, round)
        return _around(self, optax.sgd(rate, self.momentum, nesterov=self.nesterov))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam, as Optax has it.

    The server of FedAdam's paper is another: [`equifed.server_adam`][].

    **Arguments:**

    - `learning_rate`: the learning rate of the first round.
    - `b1`: of the first moment.
    - `b2`: of the second moment.
    - `eps`: what is added to the root of the second moment.
    - `decay`: how it falls from round to round.
    - `weight_decay`: how much of the parameters is added to the gradient.
    - `clip_norm`: the largest norm of a gradient, before that; none, by default.
    """

    kind: ClassVar[str] = "adam"
    learning_rate: float
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    decay: Decay = Decay()
    weight_decay: float = 0.0
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        _check(self, b1=_SHARE, b2=_SHARE, eps=_POSITIVE)

    def build(self, round: Int[Array, ""] | int = 0) -> optax.GradientTransformation:
        """The Optax optimiser of a round."""
        rate = self.decay(self.learning_rate, round)
        return _around(self, optax.adam(rate, self.b1, self.b2, self.eps))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adagrad:
    """Adagrad, as Optax has it.

    **Arguments:**

    - `learning_rate`: the learning rate of the first round.
    - `initial_accumulator`: where the sum of squares begins.
    - `eps`: what is added to the sum of squares.
    - `decay`: how it falls from round to round.
    - `weight_decay`: how much of the parameters is added to the gradient.
    - `clip_norm`: the largest norm of a gradient, before that; none, by default.
    """

    kind: ClassVar[str] = "adagrad"
    learning_rate: float
    initial_accumulator: float = 0.1
    eps: float = 1e-7
    decay: Decay = Decay()
    weight_decay: float = 0.0
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        _check(self, initial_accumulator={"least": 0}, eps=_POSITIVE)

    def build(self, round: Int[Array, ""] | int = 0) -> optax.GradientTransformation:
        """The Optax optimiser of a round."""
        rate = self.decay(self.learning_rate, round)
        return _around(self, optax.adagrad(rate, self.initial_accumulator, self.eps))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Yogi:
    """Yogi, as Optax has it.

    **Arguments:**

    - `learning_rate`: the learning rate of the first round.
    - `b1`: of the first moment.
    - `b2`: of the second moment.
    - `eps`: what is added to the root of the second moment.
    - `decay`: how it falls from round to round.
    - `weight_decay`: how much of the parameters is added to the gradient.
    - `clip_norm`: the largest norm of a gradient, before that; none, by default.
    """

    kind: ClassVar[str] = "yogi"
    learning_rate: float
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-3
    decay: Decay = Decay()
    weight_decay: float = 0.0
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        _check(self, b1=_SHARE, b2=_SHARE, eps=_POSITIVE)

    def build(self, round: Int[Array, ""] | int = 0) -> optax.GradientTransformation:
        """The Optax optimiser of a round."""
        rate = self.decay(self.learning_rate, round)
        return _around(self, optax.yogi(rate, self.b1, self.b2, self.eps))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RMSprop:
    """RMSprop, as Optax has it.

    **Arguments:**

    - `learning_rate`: the learning rate of the first round.
    - `b2`: of the mean square.
    - `eps`: what is added to the mean square.
    - `decay`: how it falls from round to round.
    - `weight_decay`: how much of the parameters is added to the gradient.
    - `clip_norm`: the largest norm of a gradient, before that; none, by default.
    """

    kind: ClassVar[str] = "rmsprop"
    learning_rate: float
    b2: float = 0.9
    eps: float = 1e-8
    decay: Decay = Decay()
    weight_decay: float = 0.0
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        _check(self, b2=_SHARE, eps=_POSITIVE)

    def build(self, round: Int[Array, ""] | int = 0) -> optax.GradientTransformation:
        """The Optax optimiser of a round."""
        rate = self.decay(self.learning_rate, round)
        return _around(self, optax.rmsprop(rate, self.b2, self.eps))


Optimizer: TypeAlias = SGD | Momentum | Adam | Adagrad | Yogi | RMSprop
OPTIMIZERS: dict[str, type[Any]] = {
    cls.kind: cls for cls in (SGD, Momentum, Adam, Adagrad, Yogi, RMSprop)
}

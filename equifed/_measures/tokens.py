"""Metrics of the tokens of ONE sequence: how well each of them was foretold.

A token whose target is padding is masked: it has no weight, and neither its logits nor
their gradient matter. So an average is one over tokens, however they fall into
sequences, batches and clients.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Integer

from .._check import check_count
from .._metrics import Average
from .._tree import wide_dtype
from .classification import cross_entropy
from .labels import among, as_int32, check_ids, classes_of, has_logit


def token_cross_entropy(
    logits: Float[Array, "length classes"],
    targets: Integer[ArrayLike, " length"],
    *,
    masked: Sequence[int] = (0,),
    per_position: bool = False,
) -> Average:
    """The cross-entropy of a token, over the tokens of a sequence.

    Its `total` is that of the sequence, which makes a loss too: divided by the length
    it is that of FedJAX's Shakespeare, where a mean over no token would be NaN.

    !!! example

        ```python
        def loss(model, example, key):
            tokens = eqf.token_cross_entropy(model(example["x"]), example["y"])
            return tokens.total / example["y"].size, {"token_loss": tokens}
        ```

    **Arguments:**

    - `logits`: a vector for each token.
    - `targets`: the token that is right at each place.
    - `masked`: targets that do not count; padding, by default.
    - `per_position`: whether there is an average for each place, not one for all.

    **Raises:**

    `ValueError` or `TypeError` if these are not logits and targets of one sequence.
    """
    losses, real = losses_of("token_cross_entropy", logits, targets, masked)
    return averaged(losses, real, per_position=per_position)


def token_accuracy(
    logits: Float[Array, "length classes"],
    targets: Integer[ArrayLike, " length"],
    *,
    masked: Sequence[int] = (0,),
    blocked: Sequence[int] = (),
    per_position: bool = False,
) -> Average:
    """Whether the largest logit is the target's, over the tokens of a sequence; the
    lowest index wins a tie.

    !!! example

        How often the next word is right, of words that are in the vocabulary:

        ```python
        v = vocabulary
        eqf.token_accuracy(logits, y, masked=(v.pad, v.eos, *v.oov), blocked=v.special)
        ```

        FedJAX's `accuracy_in_vocab` is another number: it masks padding and the end
        alone, `masked=(v.pad, v.eos)`, so that an unknown word is always a mistake.

    **Arguments:** as those of [`equifed.token_cross_entropy`][], and

    - `blocked`: tokens that are never guessed, whatever their logits.
    """
    logits, targets = _tokens("token_accuracy", logits, targets)
    blocked, real = _blocked(blocked, logits.shape[-1]), counted(targets, masked)
    right = _among_best(_quiet(logits, real), targets, 1, blocked)
    return averaged(right, real, per_position=per_position)


def token_top_k_accuracy(
    logits: Float[Array, "length classes"],
    targets: Integer[ArrayLike, " length"],
    *,
    k: int,
    masked: Sequence[int] = (0,),
    blocked: Sequence[int] = (),
    per_position: bool = False,
) -> Average:
    """Whether the target is among the `k` largest logits, over the tokens of a
    sequence; the lowest indices win ties.

    **Arguments:** as those of [`equifed.token_accuracy`][].

    **Raises:**

    `ValueError` if `k` is not between 1 and the number of logits.
    """
    logits, targets = _tokens("token_top_k_accuracy", logits, targets)
    k = check_count("k", k, most=logits.shape[-1])
    blocked, real = _blocked(blocked, logits.shape[-1]), counted(targets, masked)
    right = _among_best(_quiet(logits, real), targets, k, blocked)
    return averaged(right, real, per_position=per_position)


def losses_of(
    name: str, logits: Array, targets: ArrayLike, masked: Sequence[int]
) -> tuple[Float[Array, " length"], Bool[Array, " length"]]:
    """The cross-entropy of each token, and whether it counts."""
    logits, targets = _tokens(name, logits, targets)
    real = counted(targets, masked)
    return cross_entropy(_quiet(logits, real), targets), real


def _among_best(
    logits: Float[Array, "length classes"],
    targets: Int[Array, " length"],
    k: int,
    blocked: Sequence[int],
) -> Float[Array, " length"]:
    """1 or 0 for each token; NaN where there is nothing to say."""
    num_classes = logits.shape[-1]
    valid = has_logit(targets, num_classes) & ~jnp.isnan(logits).any(-1)
    if blocked:
        never = among(jnp.arange(num_classes, dtype=jnp.int32), blocked)
        logits = jnp.where(never[None], jnp.full_like(logits, -jnp.inf), logits)
    if k == 1:
        right = jnp.argmax(logits, axis=-1).astype(jnp.int32) == targets
    else:
        _, best = jax.lax.top_k(logits, k)
        right = jnp.any(best.astype(jnp.int32) == targets[:, None], axis=-1)
    # With a large `k` the blocked ones are among the best, though never guessed.
    right = (right & ~among(targets, blocked)).astype(jnp.result_type(float))
    return jnp.where(valid, right, jnp.full_like(right, jnp.nan))


def _blocked(ids: Sequence[int], num_classes: int) -> list[int]:
    """Tokens that are never guessed, which leave one that is."""
    ids = check_ids("blocked", ids, size=num_classes)
    if len(set(ids)) == num_classes:
        raise ValueError(
            f"`blocked` must leave a token to be guessed, got all {num_classes}."
        )
    return ids


def _tokens(
    name: str, logits: Array, targets: ArrayLike
) -> tuple[Array, Int[Array, " length"]]:
    """The logits and the targets of one sequence, if that is what they are."""
    logits, _ = classes_of(name, logits, 0)
    targets = targets_of(name, targets)
    if logits.ndim != 2 or logits.shape[:1] != targets.shape:
        raise ValueError(
            f"`{name}` is of ONE sequence: a vector of logits and a target for each "
            f"token. These logits have shape {logits.shape}, the targets "
            f"{targets.shape}. For many at once write `jax.vmap`."
        )
    return logits, targets


def _quiet(
    logits: Float[Array, "length classes"], real: Bool[Array, " length"]
) -> Float[Array, "length classes"]:
    """The logits without those of masked tokens. What comes of them is left out anyway,
    but a NaN among them would spoil their gradient."""
    return jnp.where(real[:, None], logits, jnp.zeros_like(logits))


def targets_of(name: str, targets: ArrayLike) -> Int[Array, " length"]:
    """The targets of one sequence, if that is what they are."""
    targets = as_int32(f"The targets of `{name}` must be integers", targets)
    if targets.ndim != 1:
        raise ValueError(
            f"`{name}` is of ONE sequence, a vector of targets, got targets of shape "
            f"{targets.shape}. For many at once write `jax.vmap`."
        )
    return targets


def counted(
    targets: Int[Array, " length"], masked: Sequence[int]
) -> Bool[Array, " length"]:
    """Whether each target is none of those that are masked."""
    return ~among(targets, check_ids("masked", masked))


def averaged(
    values: Float[Array, " length"], real: Bool[Array, " length"], *, per_position: bool
) -> Average:
    """The average of what is said of the tokens that count."""
    values = values.astype(wide_dtype(values.dtype))
    total = jnp.where(real, values, jnp.zeros_like(values))
    weight = real.astype(total.dtype)
    if per_position:
        return Average(total, weight)
    return Average(total.sum(), weight.sum())

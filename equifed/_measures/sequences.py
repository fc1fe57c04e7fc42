"""Metrics of ONE sequence as a whole, and of what its targets are.

A sequence none of whose tokens counts is no sequence: it has no weight.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Integer

from .._metrics import Average, Sum
from .labels import among, check_ids
from .tokens import averaged, counted, losses_of, targets_of


def sequence_cross_entropy(
    logits: Float[Array, "length classes"],
    targets: Integer[ArrayLike, " length"],
    *,
    masked: Sequence[int] = (0,),
) -> Average:
    """The cross-entropy of a sequence, the sum of that of its tokens.

    **Arguments:**

    - `logits`: a vector for each token.
    - `targets`: the token that is right at each place.
    - `masked`: targets that do not count; padding, by default.

    **Raises:**

    `ValueError` or `TypeError` if these are not logits and targets of one sequence.
    """
    losses, real = losses_of("sequence_cross_entropy", logits, targets, masked)
    tokens = averaged(losses, real, per_position=False)
    return Average(tokens.total, _one(real))


def token_count(
    targets: Integer[ArrayLike, " length"], *, masked: Sequence[int] = (0,)
) -> Sum:
    """The number of tokens.

    **Arguments:** as those of [`equifed.sequence_cross_entropy`][].
    """
    real = counted(targets_of("token_count", targets), masked)
    return Sum(real.astype(jnp.result_type(float)).sum())


def sequence_count(
    targets: Integer[ArrayLike, " length"], *, masked: Sequence[int] = (0,)
) -> Sum:
    """The number of sequences that have a token.

    **Arguments:** as those of [`equifed.sequence_cross_entropy`][].
    """
    real = counted(targets_of("sequence_count", targets), masked)
    return Sum(_one(real))


def sequence_length(
    targets: Integer[ArrayLike, " length"], *, masked: Sequence[int] = (0,)
) -> Average:
    """The number of tokens of a sequence, over those that have one.

    **Arguments:** as those of [`equifed.sequence_cross_entropy`][].
    """
    real = counted(targets_of("sequence_length", targets), masked)
    return Average(real.astype(jnp.result_type(float)).sum(), _one(real))


def truncation_rate(
    targets: Integer[ArrayLike, " length"], *, eos: int, masked: Sequence[int] = (0,)
) -> Average:
    """Whether a sequence lacks its end: so it does where it was cut.

    **Arguments:** as those of [`equifed.sequence_cross_entropy`][], and

    - `eos`: the target that ends a sequence.
    """
    targets = targets_of("truncation_rate", targets)
    (eos,) = check_ids("eos", [eos])
    real = counted(targets, masked)
    ends = jnp.any(targets == eos)
    return Average(_one(real) * (1 - ends.astype(jnp.result_type(float))), _one(real))


def oov_rate(
    targets: Integer[ArrayLike, " length"],
    *,
    oov: Sequence[int],
    masked: Sequence[int] = (0,),
    per_position: bool = False,
) -> Average:
    """Whether a token is out of the vocabulary, over the tokens of a sequence.

    **Arguments:** as those of [`equifed.token_cross_entropy`][], and

    - `oov`: the targets that stand for what is in no vocabulary: any of them.
    """
    targets = targets_of("oov_rate", targets)
    ids = check_ids("oov", oov)
    if not ids:
        raise ValueError("`oov` must be one token at least, `(89,)` say, got none.")
    real = counted(targets, masked)
    outside = among(targets, ids).astype(jnp.result_type(float))
    return averaged(outside, real, per_position=per_position)


def _one(real: Bool[Array, " length"]) -> Float[Array, ""]:
    """1 if a token counts."""
    return jnp.any(real).astype(jnp.result_type(float))

"""What the models are called on, and what is wrong with it if anything is."""

from collections.abc import Sequence

import jax
import jax.core
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, DTypeLike, Integer, PRNGKeyArray

from .._check import check_count, check_kind
from .._words import shown


def check_shape(image_shape: Sequence[int], least: int = 1) -> tuple[int, int, int]:
    """Returns the shape of an image, if it is one of at least so many pixels a side."""
    if not isinstance(image_shape, Sequence) or len(image_shape) != 3:
        raise ValueError(
            "`image_shape` must be (height, width, channels), (28, 28, 1) say, got "
            f"{shown(image_shape)}."
        )
    height, width, channels = (check_count("image_shape", x) for x in image_shape)
    if min(height, width) < least:
        raise ValueError(
            f"`image_shape` must have at least {least} x {least} pixels, for what the "
            f"model's layers take away, got {height} x {width}."
        )
    return height, width, channels


def image_of(
    model: object, image: Array, shape: Sequence[int | None], dtype: DTypeLike
) -> Array:
    """The image in the parameters' dtype, if it is one of the model's.

    **Arguments:**

    - `shape`: with `None` where any size will do.
    """
    check_kind("image", image, (jax.Array, np.ndarray))
    sizes = zip(image.shape, shape, strict=False)
    if image.ndim != len(shape) or any(y not in (x, None) for x, y in sizes):
        wanted = ", ".join("any" if x is None else str(x) for x in shape)
        raise ValueError(
            f"This `{type(model).__name__}` takes one image of shape ({wanted}), got "
            f"one of shape {image.shape}. Use `jax.vmap` for a batch, and "
            "`image[..., None]` for grey images without an axis of channels."
        )
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(
            f"`image` must be of floating-point numbers, got {image.dtype}. Write "
            "`image.astype(jnp.float32) / 255`, or what your data ask for."
        )
    return jnp.asarray(image).astype(dtype)


def two_keys(
    model: object, key: PRNGKeyArray | None, *, random: bool
) -> tuple[PRNGKeyArray | None, PRNGKeyArray | None]:
    """A key for each of two dropouts, which need them while the model is trained."""
    if key is None and random:
        raise ValueError(
            f"`{type(model).__name__}` leaves out units at random while it is trained, "
            "and needs a key: write `model(image, key=key)`. To evaluate it, write "
            "`eqx.nn.inference_mode(model)`."
        )
    if key is None:
        return None, None
    first, second = jr.split(key)
    return first, second


def check_tokens(
    model: object,
    tokens: Array,
    max_length: int | None = None,
    vocab_size: int | None = None,
) -> Integer[Array, " length"]:
    """The tokens, if they are one sequence that the model can take; their numbers are
    looked at where they are known, outside of a compiled program."""
    check_kind("tokens", tokens, (jax.Array, np.ndarray))
    if tokens.ndim != 1 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(
            "`tokens` must be one sequence of integers, got "
            f"{tokens.dtype}{list(tokens.shape)}. Use `jax.vmap` for a batch."
        )
    if len(tokens) == 0:
        raise ValueError("`tokens` is empty. A sequence has at least one token.")
    if max_length is not None and len(tokens) > max_length:
        raise ValueError(
            f"This `{type(model).__name__}` takes sequences of at most {max_length} "
            f"tokens, got one of {len(tokens)}. Cut the data to shorter ones."
        )
    if vocab_size is None:
        return jnp.asarray(tokens)
    place = _place_beyond(tokens, vocab_size)
    if place is not None:
        raise ValueError(
            f"This `{type(model).__name__}` of {vocab_size} tokens knows 0 to "
            f"{vocab_size - 1}, got {tokens[place]} at place {place}. Take the "
            "tokeniser that it was trained with."
        )
    return jnp.asarray(tokens)


def _place_beyond(numbers: Array, count: int) -> int | None:
    """The first that is not one of so many, where they are known."""
    if isinstance(numbers, jax.core.Tracer) or not (
        isinstance(numbers, np.ndarray) or numbers.is_fully_addressable
    ):
        return None
    found = np.asarray(numbers)
    wrong = np.flatnonzero((found < 0) | (found >= count))
    return int(wrong[0]) if len(wrong) else None


def check_mask(mask: Array | None, tokens: Array) -> Bool[Array, " length"]:
    """Which of the tokens are text: all, if it is not said."""
    if mask is None:
        return jnp.ones(len(tokens), bool)
    check_kind("mask", mask, (jax.Array, np.ndarray))
    if mask.shape != tokens.shape or mask.dtype != bool:
        raise ValueError(
            f"`mask` must be true or false for each of the {len(tokens)} tokens, got "
            f"{mask.dtype}{list(mask.shape)}."
        )
    return jnp.asarray(mask)


def check_types(
    types: Array | None, tokens: Array, num_types: int
) -> Integer[Array, " length"]:
    """The segments of the tokens: the first, if it is not said."""
    if types is None:
        return jnp.zeros(len(tokens), jnp.int32)
    check_kind("types", types, (jax.Array, np.ndarray))
    if types.shape != tokens.shape or not jnp.issubdtype(types.dtype, jnp.integer):
        raise ValueError(
            f"`types` must have an integer for each of the {len(tokens)} tokens, got "
            f"{types.dtype}{list(types.shape)}."
        )
    place = _place_beyond(types, num_types)
    if place is not None:
        raise ValueError(
            f"`types` must be from 0 to {num_types - 1}, the model's {num_types} "
            f"segments, got {types[place]} at place {place}."
        )
    return jnp.asarray(types)


def check_documents(documents: Array | None, tokens: Array) -> Array | None:
    """The documents of the tokens, if there is one for each."""
    if documents is None:
        return None
    check_kind("documents", documents, (jax.Array, np.ndarray))
    integers = jnp.issubdtype(documents.dtype, jnp.integer)
    if documents.shape != tokens.shape or not integers:
        raise ValueError(
            f"`documents` must have an integer for each of the {len(tokens)} tokens, "
            f"got {documents.dtype}{list(documents.shape)}."
        )
    return jnp.asarray(documents)

"""What the models are called on, and what is wrong with it if anything is."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, DTypeLike, Integer, PRNGKeyArray

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
    model: object, tokens: Array, max_length: int | None = None
) -> Integer[Array, " length"]:
    """The tokens, if they are one sequence that the model can take."""
    check_kind("tokens", tokens, (jax.Array, np.ndarray))
    if tokens.ndim != 1 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(
            "`tokens` must be one sequence of integers, got "
            f"{tokens.dtype}{list(tokens.shape)}. Use `jax.vmap` for a batch."
        )
    if max_length is not None and len(tokens) > max_length:
        raise ValueError(
            f"This `{type(model).__name__}` takes sequences of at most {max_length} "
            f"tokens, got one of {len(tokens)}. Cut the data to shorter ones."
        )
    return jnp.asarray(tokens)


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

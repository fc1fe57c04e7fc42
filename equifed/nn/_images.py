"""What is done to one image on its way into a model: cropped, flipped, standardised.

These are for the first lines of a loss, where an image is one example, with a key of
its own: each image of each batch is cropped and flipped anew, inside the compiled loop.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from .._check import check_count, check_sizes, checked


@checked()
def standardize(
    image: Shaped[Array, "height width channels"],
) -> Float[Array, "height width channels"]:
    r"""Gives one image mean 0 and standard deviation 1.

    $(x - \mathrm{mean}) / \max(\mathrm{std}, 1 / \sqrt{N})$ over all its $N$
    numbers, as TensorFlow's `per_image_standardization` does: an image of one colour is
    zero. Of integers it makes `float32`; floats keep their dtype.

    **Arguments:**

    - `image`: The image.
    """
    if not jnp.issubdtype(image.dtype, jnp.floating):
        image = image.astype(jnp.float32)
    mean, std = jnp.mean(image), jnp.std(image)
    return (image - mean) / jnp.maximum(std, image.size**-0.5)


@checked()
def center_crop(
    image: Shaped[Array, "height width channels"], size: int | tuple[int, int]
) -> Shaped[Array, "new_height new_width channels"]:
    """Cuts out the middle of one image.

    **Arguments:**

    - `image`: The image.
    - `size`: The height and width of the part; of an odd rest, the larger half is cut
        off below and to the right.
    """
    height, width = _fitting(image.shape, size, 0)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


@checked()
def random_crop(
    image: Shaped[Array, "height width channels"],
    size: int | tuple[int, int],
    *,
    padding: int = 0,
    key: PRNGKeyArray,
) -> Shaped[Array, "new_height new_width channels"]:
    """Cuts a random part out of one image, with a border of zeros around it.

    Every place is as likely as any other: with a padding of 4 and the size as it is,
    offsets are 0 to 8 along each axis.

    !!! example

        ```python
        def loss(model, example, key):
            crop_key, flip_key, key = jr.split(key, 3)
            x = eqf.nn.random_crop(example["x"], 32, padding=4, key=crop_key)
            x = eqf.nn.random_flip(x, key=flip_key)
            logits = model(eqf.nn.standardize(x), key=key)
            return eqf.cross_entropy(logits, example["y"])
        ```

    **Arguments:**

    - `image`: The image.
    - `size`: The height and width of the part.
    - `padding`: The width of the border.
    - `key`: What the place depends on.
    """
    padding = check_count("padding", padding, least=0)
    height, width = _fitting(image.shape, size, padding)
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    most = jnp.array([padded.shape[0] - height, padded.shape[1] - width])
    top, left = jr.randint(key, (2,), 0, most + 1)
    part = (height, width, image.shape[2])
    return jax.lax.dynamic_slice(padded, (top, left, jnp.zeros_like(top)), part)


@checked()
def random_flip(
    image: Shaped[Array, "height width channels"], *, key: PRNGKeyArray
) -> Shaped[Array, "height width channels"]:
    """Mirrors one image, left for right, or leaves it, each with probability 1/2.

    **Arguments:**

    - `image`: The image.
    - `key`: What is drawn depends on it.
    """
    return jnp.where(jr.bernoulli(key), image[:, ::-1], image)


def _fitting(
    shape: tuple[int, ...], size: int | tuple[int, int], padding: int
) -> tuple[int, int]:
    height, width = check_sizes("size", size)
    most = tuple(x + 2 * padding for x in shape[:2])
    if height > most[0] or width > most[1]:
        raise ValueError(
            f"`size` must be at most {most}, the image with its border, got "
            f"{(height, width)}. Lower it, or raise `padding`."
        )
    return height, width

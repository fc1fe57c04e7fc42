"""The convolutional layer: `equinox.nn.Conv2d` with the channels last.

Equinox makes the parameters and checks the arguments, so both layers begin with the
same numbers; only how they are stored and convolved differs (see `_conv.py`).
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from .._check import check_count, check_kind, check_sizes, checked
from ._conv import conv2d, Pads, spell_padding
from ._lowering import Lowering


class Conv2d(eqx.Module):
    """A two-dimensional convolution of one image, stored channels last.

    Takes the arguments of `equinox.nn.Conv2d` and, for the same key, computes the same
    function, up to where the channels are. Inside a compiled loop on a CPU it is many
    times faster: there XLA keeps a convolution in the layout that it was written in,
    and only this one has fast kernels.

    !!! example

        ```python
        conv = eqf.nn.Conv2d(1, 32, kernel_size=3, key=jr.key(0))
        conv(jnp.ones((28, 28, 1))).shape  # (26, 26, 32)
        ```
    """

    weight: Float[Array, "kernel_height kernel_width group_channels out_channels"]
    bias: Float[Array, " out_channels"] | None
    in_channels: int = eqx.field(static=True)
    out_channels: int = eqx.field(static=True)
    kernel_size: tuple[int, ...] = eqx.field(static=True)
    stride: tuple[int, ...] = eqx.field(static=True)
    padding: str | tuple[tuple[int, int], ...] = eqx.field(static=True)
    dilation: tuple[int, ...] = eqx.field(static=True)
    groups: int = eqx.field(static=True)
    lowering: Lowering = eqx.field(static=True)

    @checked()
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = (1, 1),
        padding: str | int | Sequence[int] | Sequence[tuple[int, int]] = (0, 0),
        dilation: int | Sequence[int] = (1, 1),
        groups: int = 1,
        use_bias: bool = True,  # noqa: FBT001, FBT002
        padding_mode: str = "ZEROS",
        dtype: DTypeLike | None = None,
        *,
        lowering: Lowering = "auto",
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_channels`: The number of input channels.
        - `out_channels`: The number of output channels.
        - `kernel_size`: The size of the kernel, along height and width.
        - `stride`: The step of the window, along height and width.
        - `padding`: Zeros to add around the image: a number, one for height and one for
            width, a `(before, after)` pair for each of them, or one of `'VALID'`,
            `'SAME'` and `'SAME_LOWER'`.
        - `dilation`: The spacing between the points of the kernel.
        - `groups`: The number of groups into which the channels fall; each is convolved
            on its own.
        - `use_bias`: Whether to add a bias after the convolution.
        - `padding_mode`: Only `'ZEROS'`.
        - `dtype`: The dtype of the parameters; by default JAX's floating-point type.
        - `lowering`: How clients that run side by side, each with a kernel of its own,
            are computed: as one `'grouped'` convolution, `'one-by-one'`, or by
            `'im2col'` as a batch of matrix products. This changes a result by no more
            than rounding. `'auto'` takes clients one by one on a CPU and as one
            grouped convolution elsewhere.
        - `key`: The randomness of the initial parameters.

        **Raises:**

        `ValueError` if the padding is not with zeros, if `groups` does not divide both
        numbers of channels, or if some other argument makes no convolution.
        """
        if padding_mode.upper() != "ZEROS":
            raise ValueError(
                "`equifed.nn.Conv2d` pads with zeros only, got "
                f"`padding_mode={padding_mode!r}`. Pad the image beforehand with "
                "`jax.numpy.pad`, or use `equinox.nn.Conv2d`."
            )
        check_count("in_channels", in_channels)
        check_count("out_channels", out_channels)
        check_count("groups", groups)
        for name, size in (
            ("kernel_size", kernel_size),
            ("stride", stride),
            ("dilation", dilation),
        ):
            check_sizes(name, size)
        if out_channels % groups != 0 or in_channels % groups != 0:
            raise ValueError(
                f"`in_channels` (={in_channels}) and `out_channels` (={out_channels}) "
                f"must be divisible by `groups` (={groups})."
            )
        conv = eqx.nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            use_bias,
            dtype=dtype,
            key=key,
        )
        self.weight, self.bias = _channels_last(conv)
        self.in_channels = conv.in_channels
        self.out_channels = conv.out_channels
        self.kernel_size = conv.kernel_size
        self.stride = conv.stride
        self.padding = conv.padding
        self.dilation = conv.dilation
        self.groups = conv.groups
        self.lowering = lowering

    @classmethod
    def from_equinox(
        cls, conv: eqx.nn.Conv, *, lowering: Lowering = "auto"
    ) -> "Conv2d":
        """Turns a layer of Equinox's into one of ours that keeps its parameters.

        To convert a whole model, which then keeps its channels first, use
        [`equifed.nn.canonicalize`][].

        **Arguments:**

        - `conv`: The layer to convert.
        - `lowering`: As in `Conv2d`.

        **Returns:**

        A layer that computes on `(height, width, channels)` what `conv` computes on
        `(channels, height, width)`.

        !!! warning

            Flattening an image lists its pixels in another order now, so a linear layer
            behind it must have the columns of its weight permuted likewise.

        **Raises:**

        `ValueError` if `conv` is not such a layer, or does not pad with zeros.
        """
        if not isinstance(conv, eqx.nn.Conv) or conv.num_spatial_dims != 2:
            raise ValueError(
                "`Conv2d.from_equinox` takes an `equinox.nn.Conv2d`, got "
                f"`{type(conv).__name__}`."
            )
        layer = eqx.filter_eval_shape(
            cls,
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            conv.use_bias,
            conv.padding_mode,
            lowering=lowering,
            key=jr.key(0),
        )
        return eqx.tree_at(
            lambda layer: (layer.weight, layer.bias),
            layer,
            _channels_last(conv),
            is_leaf=lambda x: x is None,
        )

    @jax.named_scope("equifed.nn.Conv2d")
    def __call__(
        self,
        x: Float[Array, "height width in_channels"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "new_height new_width out_channels"]:
        """Convolves one image.

        **Arguments:**

        - `x`: The image.
        - `key`: Ignored; there for `equinox.nn.Sequential`.

        **Returns:**

        The convolved image.

        **Raises:**

        `ValueError` if `x` is not an image of `in_channels` channels, channels last, of
        the parameters' dtype, and at least as large as the kernel.
        """
        del key
        padding = self._padding_of(x)
        out = conv2d(
            x[None],
            self.weight,
            stride=self.stride,
            padding=padding,
            kernel_dilation=self.dilation,
            groups=self.groups,
            lowering=self.lowering,
        )[0]
        return out if self.bias is None else out + self.bias[None, None, :]

    def _padding_of(self, x: Array) -> Pads:
        """Checks the image, and spells the padding out."""
        check_kind("x", x, (jax.Array, np.ndarray))
        if x.ndim != 3 or x.shape[2] != self.in_channels:
            raise ValueError(
                "`equifed.nn.Conv2d` takes one image of shape (height, width, "
                f"{self.in_channels}), got one of shape {x.shape}. Use `jax.vmap` for "
                "a batch, and `jax.numpy.moveaxis(x, 0, -1)` if the channels come "
                "first, as in `equinox.nn.Conv2d`."
            )
        if x.dtype != self.weight.dtype:
            raise ValueError(
                f"The image is of dtype {x.dtype} and the kernel of dtype "
                f"{self.weight.dtype}. Cast the image with `x.astype(...)`."
            )
        sizes = zip(self.kernel_size, self.dilation, strict=True)
        window = [(size - 1) * dilation + 1 for size, dilation in sizes]
        top, left = spell_padding(
            self.padding, x.shape[:2], self.kernel_size, self.stride, self.dilation
        )
        padded = (x.shape[0] + sum(top), x.shape[1] + sum(left))
        if padded[0] < window[0] or padded[1] < window[1]:
            raise ValueError(
                f"The kernel spans {window[0]} x {window[1]} pixels, more than the "
                f"padded image, which has {padded[0]} x {padded[1]}. Use a smaller "
                "kernel or more padding, or pool less before this layer."
            )
        return top, left


def _channels_last(conv: eqx.nn.Conv) -> tuple[Array, Array | None]:
    weight = jnp.transpose(conv.weight, (2, 3, 1, 0))
    return weight, None if conv.bias is None else conv.bias[:, 0, 0]

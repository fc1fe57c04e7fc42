"""A convolution that stays fast inside a compiled loop.

XLA brings a convolution to its canonical layout (NHWC images, HWIO kernels) only
outside of loops. Inside the loop of a client's local steps whatever is not canonical
already runs many times slower on a CPU, and the gradients that JAX derives for
`jax.lax.conv_general_dilated` are not: they relabel dimensions instead of moving them.

So here is a primitive which knows no other layout. It is linear in each argument and
closed under transposition: both of its gradients are again calls of itself, with the
small operand transposed beforehand. And as models and losses are of one example, what
matters most is how it batches:

- examples that share a kernel are folded into N (the usual case, and the reason for a
  primitive: `jax.custom_vjp` would form a gradient for each example, and
  `jax.custom_batching.custom_vmap` is not differentiable);
- kernels that share their images are folded into O;
- clients with a kernel each become the groups of one grouped convolution, of which
  `_lowering.py` knows other ways to compute it.
"""

from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from ._lowering import grouped, lower, Lowering, Sizes


Pads: TypeAlias = tuple[tuple[int, int], ...]


def conv2d(
    x: Float[Array, "batch height width in_channels"],
    kernel: Float[Array, "kernel_height kernel_width group_channels out_channels"],
    *,
    stride: Sizes,
    padding: Pads,
    x_dilation: Sizes = (1, 1),
    kernel_dilation: Sizes = (1, 1),
    groups: int = 1,
    lowering: Lowering = "auto",
) -> Float[Array, "batch new_height new_width out_channels"]:
    """Convolves a batch of images, stored channels last, with one kernel.

    **Arguments:**

    - `x`: The images.
    - `kernel`: The kernel; `group_channels` is `in_channels / groups`.
    - `stride`: The step of the window, along height and width.
    - `padding`: Zeros to add before and after, along height and width. May be negative,
        which crops.
    - `x_dilation`: The spacing between the pixels of `x`, as if zeros lay in between.
    - `kernel_dilation`: The spacing between the points of the kernel.
    - `groups`: The number of groups into which the channels fall.
    - `lowering`: How groups are computed, those included that `jax.vmap` makes.

    **Returns:**

    The convolved images.
    """
    x, kernel = _vary_alike(x, kernel)
    return conv2d_p.bind(
        x,
        kernel,
        stride=stride,
        padding=padding,
        x_dilation=x_dilation,
        kernel_dilation=kernel_dilation,
        groups=groups,
        lowering=lowering,
    )


def _vary_alike(*arrays: Array) -> list[Array]:
    """Inside `jax.shard_map`, makes all vary over the axes that any varies over.

    `jax.lax` does so for its own functions. Without `check_vma` nothing varies.
    """
    varying = [jax.typeof(x).manual_axis_type.varying for x in arrays]
    union = frozenset().union(*varying)
    return [
        jax.lax.pcast(x, tuple(union - axes), to="varying") if union - axes else x
        for x, axes in zip(arrays, varying, strict=True)
    ]


def _abstract(x, kernel, *, lowering, **params):
    # Shape, dtype, sharding and varying axes are those of `jax.lax`, errors included.
    (aval,) = jax.make_jaxpr(partial(grouped, **params))(x, kernel).out_avals
    return aval


def _dilate(size: Sizes, dilation: Sizes) -> Sizes:
    return tuple((n - 1) * d + 1 for n, d in zip(size, dilation, strict=True))


def _transpose_x(
    ct, x, kernel, *, stride, padding, x_dilation, kernel_dilation, groups, lowering
):
    """The gradient of the images: a convolution of `ct` with the mirrored kernel."""
    height, width, group_channels, out_channels = kernel.shape
    mirrored = kernel[::-1, ::-1].reshape(height, width, group_channels, groups, -1)
    mirrored = jnp.transpose(mirrored, (0, 1, 4, 3, 2))
    mirrored = mirrored.reshape(height, width, out_channels // groups, -1)
    x_size = _dilate(x.aval.shape[1:3], x_dilation)
    ct_size = _dilate(ct.shape[1:3], stride)
    kernel_size = _dilate(kernel.shape[:2], kernel_dilation)
    before = [k - 1 - low for k, (low, _) in zip(kernel_size, padding, strict=True)]
    pads = tuple(
        (low, n + k - 1 - m - low)
        for low, n, k, m in zip(before, x_size, kernel_size, ct_size, strict=True)
    )
    return conv2d(
        ct,
        mirrored,
        stride=x_dilation,
        padding=pads,
        x_dilation=stride,
        kernel_dilation=kernel_dilation,
        groups=groups,
        lowering=lowering,
    )


def _transpose_kernel(
    ct, x, kernel, *, stride, padding, x_dilation, kernel_dilation, groups, lowering
):
    """The gradient of the kernel: a convolution of `x` with `ct` over the examples.

    The images' channels play the batch, and the examples play the channels.
    """
    batch, x_height, x_width, _ = x.shape
    columns = x.reshape(batch, x_height, x_width, groups, -1)
    columns = jnp.transpose(columns, (4, 1, 2, 3, 0))
    columns = columns.reshape(-1, x_height, x_width, groups * batch)
    x_size = _dilate((x_height, x_width), x_dilation)
    ct_size = _dilate(ct.shape[1:3], stride)
    kernel_size = _dilate(kernel.aval.shape[:2], kernel_dilation)
    pads = tuple(
        (low, m + k - 1 - n - low)
        for (low, _), n, k, m in zip(padding, x_size, kernel_size, ct_size, strict=True)
    )
    out = conv2d(
        columns,
        jnp.transpose(ct, (1, 2, 0, 3)),
        stride=kernel_dilation,
        padding=pads,
        x_dilation=x_dilation,
        kernel_dilation=stride,
        groups=groups,
        lowering=lowering,
    )
    return jnp.transpose(out, (1, 2, 0, 3))


def _batch(args, axes, *, groups, **params):
    x, kernel = args
    x_axis, kernel_axis = axes
    if kernel_axis is None:
        x = jnp.moveaxis(x, x_axis, 0)
        out = conv2d(x.reshape(-1, *x.shape[2:]), kernel, groups=groups, **params)
        return out.reshape(*x.shape[:2], *out.shape[1:]), 0
    # Groups are outermost among the channels, so the new axis goes right behind them,
    # or, where the images have it as well, in front of them: it is then a group itself.
    size = kernel.shape[kernel_axis]
    if x_axis is None:
        kernel = jnp.moveaxis(kernel, kernel_axis, 3)
        height, width, channels, _, _ = kernel.shape
        kernel = kernel.reshape(height, width, channels, size, groups, -1)
        kernel = jnp.swapaxes(kernel, 3, 4).reshape(height, width, channels, -1)
        out = conv2d(x, kernel, groups=groups, **params)
        out = jnp.swapaxes(out.reshape(*out.shape[:3], groups, size, -1), 3, 4)
        return out.reshape(*out.shape[:4], -1), 3
    x = jnp.moveaxis(x, x_axis, 3)
    kernel = jnp.moveaxis(kernel, kernel_axis, 3)
    x = x.reshape(*x.shape[:3], -1)
    kernel = kernel.reshape(*kernel.shape[:3], -1)
    out = conv2d(x, kernel, groups=size * groups, **params)
    return out.reshape(*out.shape[:3], size, -1), 3


def spell_padding(
    padding: str | Pads, size: Sizes, kernel_size: Sizes, stride: Sizes, dilation: Sizes
) -> Pads:
    """The padding of an image of this size, in numbers."""
    if isinstance(padding, str):
        window = _dilate(kernel_size, dilation)
        pads = jax.lax.padtype_to_pads(size, window, stride, padding)
    else:
        pads = padding
    return tuple((int(before), int(after)) for before, after in pads)


_static = ("stride", "padding", "x_dilation", "kernel_dilation", "groups", "lowering")
conv2d_p = Primitive("equifed_conv2d")
conv2d_p.def_abstract_eval(_abstract)
conv2d_p.def_impl(jax.jit(conv2d_p.bind, static_argnames=_static))
ad.defbilinear(conv2d_p, _transpose_x, _transpose_kernel)
batching.primitive_batchers[conv2d_p] = _batch
for platform, auto in ((None, "grouped"), ("cpu", "one-by-one")):
    lowering = mlir.lower_fun(partial(lower, auto=auto), multiple_results=False)
    mlir.register_lowering(conv2d_p, lowering, platform=platform)

"""Three ways to compute one convolution: they differ by rounding, and in speed.

Where every client of a block has a kernel of its own, the clients are the groups of one
convolution (see `_conv.py`). Which way is fastest then depends on the hardware:

- as it stands, a grouped convolution: what a library for GPUs takes;
- one group after another: for CPUs, where groups at once take about twice as long (only
  with depthwise kernels is it the other way round, by a quarter);
- as products of matrices, one for each group, computed as one batch: for hardware whose
  matrix units are fast and whose grouped convolutions are not.
"""

import itertools
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array


Lowering: TypeAlias = Literal["auto", "grouped", "im2col", "one-by-one"]
Sizes: TypeAlias = tuple[int, ...]


def grouped(x, kernel, *, stride, padding, x_dilation, kernel_dilation, groups):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=stride,
        padding=padding,
        lhs_dilation=x_dilation,
        rhs_dilation=kernel_dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def one_by_one(x, kernel, *, groups, **params):
    x = x.reshape(*x.shape[:3], groups, x.shape[3] // groups)
    kernel = kernel.reshape(*kernel.shape[:3], groups, kernel.shape[3] // groups)
    out = jax.lax.map(
        lambda group: grouped(*group, groups=1, **params),
        (jnp.moveaxis(x, 3, 0), jnp.moveaxis(kernel, 3, 0)),
    )
    out = jnp.moveaxis(out, 0, 3)
    return out.reshape(*out.shape[:3], groups * out.shape[4])


def im2col(x, kernel, *, stride, padding, x_dilation, kernel_dilation, groups):
    """Copies out what each point of the kernel, or each point of the result, sees.

    A kernel has few points, and the gradient of a kernel, whose "kernel" is an image,
    is a result with few points: the fewer of the two are gone through one by one.
    """
    spatial = ((*pad, by - 1) for pad, by in zip(padding, x_dilation, strict=True))
    zero = jnp.zeros((), x.dtype)
    x = jax.lax.pad(x, zero, ((0, 0, 0), *spatial, (0, 0, 0)))
    height, width, group_channels, out_channels = kernel.shape
    sizes = zip((height, width), kernel_dilation, x.shape[1:3], stride, strict=True)
    new_height, new_width = (
        (size - (points - 1) * by - 1) // step + 1 for points, by, size, step in sizes
    )
    kernel = kernel.reshape(height * width, group_channels, groups, -1)
    by_kernel = height * width <= new_height * new_width
    here = ((height, width), kernel_dilation)
    there = ((new_height, new_width), stride)
    if not by_kernel:
        here, there = there, here
    columns = _windows(x, *here, *there)
    num_there = columns.shape[2] * columns.shape[3]
    columns = columns.reshape(*columns.shape[:2], num_there, groups, group_channels)
    # columns: (points here, batch, points there, groups, group_channels)
    contracted = (0, 4) if by_kernel else (2, 4)
    out = jax.lax.dot_general(columns, kernel, ((contracted, (0, 1)), ((3,), (2,))))
    # out: (groups, batch, new points, group_out_channels), or the middle two swapped
    out = jnp.transpose(out, (1, 2, 0, 3) if by_kernel else (2, 1, 0, 3))
    return out.reshape(x.shape[0], new_height, new_width, out_channels)


def _windows(
    x: Array, counts: Sizes, strides: Sizes, points: Sizes, steps: Sizes
) -> Array:
    """For each of `counts` places, `strides` apart, the `points` that lie `steps` apart
    from there on."""
    windows = []
    for place in itertools.product(*map(range, counts)):
        start = [i * stride for i, stride in zip(place, strides, strict=True)]
        stop = [
            first + (n - 1) * step + 1
            for first, n, step in zip(start, points, steps, strict=True)
        ]
        windows.append(
            jax.lax.slice(
                x,
                (0, *start, 0),
                (x.shape[0], *stop, x.shape[3]),
                (1, *steps, 1),
            )
        )
    return jnp.stack(windows)


_ways = {"grouped": grouped, "one-by-one": one_by_one, "im2col": im2col}


def lower(x, kernel, *, groups, lowering, auto, **params):
    """The convolution as it reaches the compiler; `auto` is the platform's choice.

    With one group all ways are the plain convolution.
    """
    way = grouped if groups == 1 else _ways[auto if lowering == "auto" else lowering]
    return way(x, kernel, groups=groups, **params)

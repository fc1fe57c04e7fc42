"""Stochastic rounding to a few levels: unbiased, whatever the numbers.

A number between two levels becomes one of them by chance, the nearer one the more
often, so that its expectation is the number itself.
"""

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._check import as_number, check_count, checked
from .._tree import safe_divide, tree_wide
from .base import AbstractLeafwise, draw, unit, width
from .coding import sent


def _rounded(x: Array, most: int, uniform: Array) -> Array:
    """Numbers in [0, most] to whole ones: up as often as they lie above the lower."""
    # A NaN is none of them; whoever sent it is told by the whole vector.
    return jnp.clip(jnp.floor(jnp.nan_to_num(x) + uniform), 0, most)


class UniformQuantizer(AbstractLeafwise):
    r"""Rounds stochastically to one of $L$ levels, evenly spaced over the range of each
    array.

    With two levels this is binary quantisation. The range, two numbers, is sent too,
    unless `bounds` say it. Unbiased, with a variance of at most
    $\frac{d}{4} \big(\frac{\max - \min}{L - 1}\big)^2$ for $d$ numbers. An array whose
    numbers are all the same arrives as it is.

    **Arguments:**

    - `num_levels`: $L$, how many levels there are, at least 2.
    - `bounds`: a range that both ends know, `(-1.0, 1.0)` say; numbers outside of it
        are clipped, and are not unbiased.

    ??? cite "Reference"

        [Distributed Mean Estimation with Limited
        Communication](https://arxiv.org/abs/1611.00429)

        ```bibtex
        @inproceedings{suresh2017distributed,
            title={{D}istributed {M}ean {E}stimation with {L}imited {C}ommunication},
            author={Suresh, Ananda Theertha and Yu, Felix X. and Kumar, Sanjiv and
                    McMahan, H. Brendan},
            booktitle={ICML},
            year={2017},
        }
        ```
    """

    num_levels: int
    bounds: tuple[Float[Array, ""], Float[Array, ""]] | None

    @checked()
    def __init__(
        self, num_levels: int, *, bounds: tuple[ArrayLike, ArrayLike] | None = None
    ):
        self.num_levels = check_count("num_levels", num_levels, least=2, most=2**16)
        if bounds is not None:
            low, high = (as_number("bounds", x) for x in bounds)
            known = not any(isinstance(x, jax.core.Tracer) for x in (low, high))
            if known and float(low) >= float(high):
                raise ValueError(
                    "`bounds` must be a lower and a higher number, got "
                    f"{float(low):g} and {float(high):g}."
                )
            bounds = (low, high)
        self.bounds = bounds

    def leaf(self, x, *, key, round):
        x = tree_wide(x)
        if self.bounds is None:
            low, high, aside = x.min(), x.max(), 2 * width(x)
        else:
            low, high = (bound.astype(x.dtype) for bound in self.bounds)
            x, aside = jnp.clip(x, low, high), 0
        most, wide = self.num_levels - 1, high - low
        share = safe_divide(x - low, jnp.broadcast_to(wide, x.shape))
        symbols = _rounded(share * most, most, draw(x, key))
        decoded = jnp.where(symbols == most, high, low + symbols / most * wide)
        return decoded, sent(symbols.astype(jnp.int32), self.num_levels, aside=aside)


class QSGD(AbstractLeafwise):
    r"""Rounds stochastically to $s$ levels of the norm, and the sign.

    $Q(x)_i = \lVert x \rVert \operatorname{sign}(x_i)\, \xi_i$, where $\xi_i$ is $s
    \lvert x_i \rvert / \lVert x \rVert$ rounded stochastically, over $s$. Unbiased,
    with a variance of at most $\min(d / s^2, \sqrt d / s) \lVert x \rVert^2$. What is
    sent is the norm, and a symbol of $2 s + 1$ kinds for each number; the paper's Elias
    code, which is short where most are zero, is bounded by what the entropy says.

    **Arguments:**

    - `num_levels`: $s$, how many levels there are above zero, at least 1.

    ??? cite "Reference"

        [QSGD: Communication-Efficient SGD via Gradient Quantization and
        Encoding](https://arxiv.org/abs/1610.02132)

        ```bibtex
        @inproceedings{alistarh2017qsgd,
            title={{QSGD}: {C}ommunication-{E}fficient {SGD} via {G}radient
                   {Q}uantization and {E}ncoding},
            author={Alistarh, Dan and Grubic, Demjan and Li, Jerry and Tomioka, Ryota
                    and Vojnovic, Milan},
            booktitle={NeurIPS},
            year={2017},
        }
        ```
    """

    num_levels: int

    @checked()
    def __init__(self, num_levels: int):
        self.num_levels = check_count("num_levels", num_levels, most=2**15)

    def leaf(self, x, *, key, round):
        x, scale = unit(tree_wide(x))
        most, norm = self.num_levels, jnp.linalg.norm(x)
        share = safe_divide(jnp.abs(x), jnp.broadcast_to(norm, x.shape))
        symbols = jnp.sign(jnp.nan_to_num(x)) * _rounded(
            share * most, most, draw(x, key)
        )
        kinds = (symbols + most).astype(jnp.int32)
        decoded = norm * symbols / most * scale
        return decoded, sent(kinds, 2 * most + 1, aside=width(x))


class TernGrad(AbstractLeafwise):
    r"""Sends of each number whether it is $-s$, 0 or $s$.

    Numbers are clipped to $c\,\sigma$ first; $s$ is the largest that is left, and $x_i$
    becomes $s \operatorname{sign}(x_i)$ with probability $\lvert x_i \rvert / s$, else
    0. What is clipped is biased; without clipping it is unbiased. $\sigma$ is the root
    of the mean square: the paper's standard deviation where the mean is 0, as it takes
    it to be, and not 0 where all numbers are the same.

    **Arguments:**

    - `clip`: $c$; 2.5, as in the paper, if not given; `None` for no clipping.

    ??? cite "Reference"

        [TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep
        Learning](https://arxiv.org/abs/1705.07878)

        ```bibtex
        @inproceedings{wen2017terngrad,
            title={{T}ern{G}rad: {T}ernary {G}radients to {R}educe {C}ommunication in
                   {D}istributed {D}eep {L}earning},
            author={Wen, Wei and Xu, Cong and Yan, Feng and Wu, Chunpeng and Wang,
                    Yandan and Chen, Yiran and Li, Hai},
            booktitle={NeurIPS},
            year={2017},
        }
        ```
    """

    clip: Float[Array, ""] | None

    @checked()
    def __init__(self, clip: ArrayLike | None = 2.5):
        if clip is not None:
            clip = as_number("clip", clip, least=0, strict=True)
        self.clip = clip

    def leaf(self, x, *, key, round):
        x, power = unit(tree_wide(x))
        if self.clip is not None:
            bound = self.clip.astype(x.dtype) * jnp.sqrt(jnp.mean(x * x))
            x = jnp.clip(x, -bound, bound)
        scale = jnp.abs(x).max()
        share = safe_divide(jnp.abs(x), jnp.broadcast_to(scale, x.shape))
        symbols = jnp.sign(jnp.nan_to_num(x)) * _rounded(share, 1, draw(x, key))
        kinds = (symbols + 1).astype(jnp.int32)
        return scale * symbols * power, sent(kinds, 3, aside=width(x))


class Sign(AbstractLeafwise):
    r"""Sends the sign of each number, and one scale for all.

    With the scale $\lVert x \rVert_1 / d$, the nearest such vector; it is biased, and
    goes with [`equifed.compress.ErrorFeedback`][] (EF-signSGD). With `rotated`, the
    scale $\lVert x \rVert_2^2 / \lVert x \rVert_1$, which is unbiased for a vector that
    was rotated uniformly at random before, as in [`equifed.compress.DRIVE`][].

    **Arguments:**

    - `rotated`: which scale.

    ??? cite "Reference"

        [Error Feedback Fixes SignSGD and other Gradient Compression
        Schemes](https://arxiv.org/abs/1901.09847)

        ```bibtex
        @inproceedings{karimireddy2019error,
            title={{E}rror {F}eedback {F}ixes {S}ign{SGD} and other {G}radient
                   {C}ompression {S}chemes},
            author={Karimireddy, Sai Praneeth and Rebjock, Quentin and Stich, Sebastian
                    U. and Jaggi, Martin},
            booktitle={ICML},
            year={2019},
        }
        ```
    """

    rotated: bool = eqx.field(static=True)

    @checked()
    def __init__(self, *, rotated: bool = False):
        self.rotated = rotated

    def leaf(self, x, *, key, round):
        x, power = unit(tree_wide(x))
        length = jnp.abs(x).sum()
        scale = safe_divide(jnp.sum(x * x), length) if self.rotated else length / x.size
        up = (x >= 0).astype(jnp.int32)
        signed = jnp.where(up > 0, scale, -scale)
        return signed * power, sent(up, 2, aside=width(x))

"""What epsilon the canaries' scores speak for.

In high dimensions a canary's direction is all but orthogonal to everything that does
not depend on it: its cosine with the change of the model is normal, of mean 0 and
variance $1/d$. That of a canary which took part is larger, by how much of it is left.
"""

import math

import equinox as eqx
import numpy as np
from jaxtyping import Float

from .extra import dp_accounting, jax_privacy


class AuditReport(eqx.Module):
    """How well canaries that took part are told from those that did not.

    The `lower_bound` is what an epsilon cannot be below, with the confidence that was
    asked for, whatever the mechanism is; if it is above the plan's epsilon, what was
    run is not what the plan says. The `estimate` is no bound: it is about the epsilon
    of a Gaussian mechanism against someone who sees the last model alone.
    """

    lower_bound: float
    """By guessing which canaries took part (Steinke et al., 2023, arXiv 2305.08846)."""
    confidence: float
    """The probability with which the bound holds and the interval covers."""
    estimate: float
    """From the cosines' mean and variance (Andrew et al., 2023, arXiv 2302.03098). NaN
    if only one canary took part."""
    interval: tuple[float, float]
    """Of the estimate, as uncertain as the cosines' mean and variance are."""
    ceiling: float
    r"""About the largest estimate that these canaries can give: that of no noise at
    all. To each of the $k$ that took part the others are noise, of a multiplier of
    $\sqrt{(k - 1) / d}$ where the model has $d$ numbers."""
    auroc: float
    """How often a canary that took part has a higher score than one that did not."""
    included: Float[np.ndarray, " included"]
    """The cosines of the canaries that took part."""
    excluded: Float[np.ndarray, " excluded"]
    """Those of the others."""


def report(
    included: Float[np.ndarray, " included"],
    excluded: Float[np.ndarray, " excluded"],
    *,
    dimension: int,
    delta: float,
    confidence: float,
) -> AuditReport:
    """What both kinds of cosines say together."""
    auditor = jax_privacy("auditing").CanaryScoreAuditor(included, excluded)
    bound = auditor.epsilon_one_run(1 - confidence, delta)
    # One has no variance, and nothing can be estimated from it.
    estimate, ends = math.nan, [math.nan]
    if len(included) > 1:
        mean, spread = float(included.mean()), float(included.std(ddof=1))
        null = 1 / math.sqrt(dimension)
        estimate = epsilon_of_normals(max(mean, 0.0), spread, null, delta)
        ends = [
            epsilon_of_normals(max(m, 0.0), s, null, delta)
            for m, s in _plausible(mean, spread, len(included), null, confidence)
        ]
    low, high = min(ends), max(ends)
    auroc = float(auditor.attack_auroc())
    others = math.sqrt((len(included) - 1) / dimension)
    ceiling = dp_accounting().get_epsilon_gaussian(others, delta)
    parts = (float(bound), confidence, estimate, (low, high), float(ceiling), auroc)
    return AuditReport(*parts, included, excluded)


def _plausible(
    mean: float, spread: float, count: int, null: float, confidence: float
) -> list[tuple[float, float]]:
    """The corners of what the true mean and spread may be, each with half the doubt;
    and the spread among these of which the epsilon is least."""
    from scipy import stats  # A second, which an import of this package need not take.

    doubt = (1 - confidence) / 4  # on either side of either of the two
    width = float(stats.t.isf(doubt, count - 1)) * spread / math.sqrt(count)
    least, most = (
        spread * math.sqrt((count - 1) / stats.chi2.ppf(p, count - 1))
        for p in (1 - doubt, doubt)
    )
    spreads = (least, min(max(null, least), most), most)
    return [(m, s) for m in (mean - width, mean + width) for s in spreads]


def epsilon_of_normals(mean: float, spread: float, null: float, delta: float) -> float:
    r"""The least epsilon at which $N(\mu, \sigma^2)$ and $N(0, \sigma_0^2)$ cannot be
    told apart better than $(\varepsilon, \delta)$ allows."""
    # In units of the null; the log of the ratio of the densities is a parabola.
    mean, spread = mean / null, spread / null
    reach = 12.0
    ends = (min(-reach, mean - reach * spread), max(reach, mean + reach * spread))
    x, step = np.linspace(*ends, 20_001, retstep=True)
    with_it = -0.5 * ((x - mean) / spread) ** 2 - math.log(spread)
    without = -0.5 * x**2
    scale = step / math.sqrt(2 * math.pi)

    def excess(epsilon: float) -> float:
        return max(
            scale * np.maximum(np.exp(p) - np.exp(epsilon + q), 0).sum()
            for p, q in ((with_it, without), (without, with_it))
        )

    if excess(0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while excess(high) > delta:
        low, high = high, 2 * high
        if high > 700:  # beyond what double precision can tell
            return math.inf
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > delta else (low, middle)
    return high

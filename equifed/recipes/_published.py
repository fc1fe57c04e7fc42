"""A figure that others report, and one's own of the same kind.

It is a metric's value, of the last round for example, or the number of rounds until it
has come to a level.
"""

import dataclasses
import math
from typing import Literal

from .._check import check_choice, check_count, check_number
from .._words import shown


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """A figure that others report, to be held beside one's own.

    !!! example

        ```python
        eqf.recipes.Published(value=0.8252, source="a paper, its Table 1")
        eqf.recipes.Published(value=67, reaches=0.814, source="a paper, its Table 2")
        ```

    **Arguments:**

    - `value`: the figure: a share, not a percentage, or, with `reaches`, a number of
        rounds.
    - `source`: where it stands: a paper and its table, or a file and its commit.
    - `spread`: its standard deviation over seeds; `None` if the source gives none.
    - `metric`: of what it is the value.
    - `over`: of which rounds: the last one that was evaluated, the best, or the mean of
        the evaluations in the last so many rounds.
    - `reaches`: a level of the metric, a share as well. With it `value` is the first
        round that was evaluated to at least that level, and `over` is left out.
    """

    value: float | int
    source: str
    spread: float | None = None
    metric: str = "test/accuracy"
    over: Literal["last", "best"] | int = "last"
    reaches: float | int | None = None

    def __post_init__(self) -> None:
        of_rounds = self.reaches is not None
        check_number("value", self.value, least=1 if of_rounds else -math.inf)
        if self.spread is not None:
            check_number("spread", self.spread, least=0)
        if not isinstance(self.over, int):
            check_choice("over", self.over, ("last", "best"))
        else:
            check_count("over", self.over)
        if of_rounds:
            check_number("reaches", self.reaches)
            if self.over != "last":
                raise ValueError(
                    "`over` must be left out if `reaches` is given, as the figure is "
                    f"then a number of rounds, got {shown(self.over)}. Leave out one "
                    "of the two."
                )


def measured(published: Published, rounds: list[int], values: list[float]) -> float:
    """One's own figure of the same kind, of a metric's values over rounds; NaN if there
    is none."""
    pairs = list(zip(rounds, values, strict=True))
    if published.reaches is not None:
        reach = (float(n) for n, x in pairs if x >= published.reaches)
        return next(reach, math.nan)
    if not values:
        return math.nan
    if published.over == "best":
        return max(values)
    if published.over == "last":
        return values[-1]
    late = [x for n, x in pairs if n > rounds[-1] - published.over]
    return sum(late) / len(late)

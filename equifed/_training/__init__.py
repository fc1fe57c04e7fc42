from .farthest import farthest_first as farthest_first
from .rounds import rounds as rounds
from .solution import RESULTS as RESULTS, Solution as Solution
from .stop import (
    AbstractStop as AbstractStop,
    Patience as Patience,
    Target as Target,
)
from .sweep import sweep as sweep
from .train import train as train

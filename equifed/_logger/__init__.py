"""Where the numbers of each round go.

A logger is given the metrics of one round at a time and shows or stores them. It never
changes the training, there is always one (`NoLogger` does nothing), and several are one
(`Loggers`). What is written to disk survives a kill: each round is written out before
the next one begins. A run that is resumed takes back the rounds that it is about to
repeat, so that no round is ever on record twice; a run that begins leaves what another
one has written.
"""

from .base import (
    AbstractLogger as AbstractLogger,
    Loggers as Loggers,
    NoLogger as NoLogger,
)
from .console import (
    ProgressBar as ProgressBar,
    Table as Table,
)
from .files import JSONLines as JSONLines
from .tracking import (
    TensorBoard as TensorBoard,
    WandB as WandB,
)

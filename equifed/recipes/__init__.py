"""Experiments of the literature, with every number and its source.

A *task* is data, whose they are, a model, a loss and metrics. A *recipe* is a task, an
algorithm with its numbers, and a figure that others report, if there is one that is
certain. The command line runs both by their names.
"""

from ._aggregators import Aggregator as Aggregator
from ._batching import Batching as Batching
from ._compression import Compression as Compression
from ._lookup import (
    algorithm as algorithm,
    algorithms as algorithms,
    recipe as recipe,
    recipes as recipes,
    task as task,
    tasks as tasks,
)
from ._optimizers import (
    Adagrad as Adagrad,
    Adam as Adam,
    Decay as Decay,
    Momentum as Momentum,
    RMSprop as RMSprop,
    SGD as SGD,
    Yogi as Yogi,
)
from ._privacy import Privacy as Privacy
from ._published import Published as Published
from ._recipe import Recipe as Recipe
from ._task import Task as Task

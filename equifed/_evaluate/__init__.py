"""How good a model is: over all examples, and for each client.

Both are one pass in large batches that take no notice of whose examples they hold.
The statistics of each example are added to its client's row, so that a thousand
clients cost what one does.

On a mesh each device takes an equal share of the rows, and the sums are added up: a
metric is a sum, so it does not matter how the rows are cut.
"""

from .clients import ClientMetrics as ClientMetrics
from .comparison import ClientComparison as ClientComparison
from .during import (
    AnyEvaluator as AnyEvaluator,
    Evaluated as Evaluated,
    evaluator_of as evaluator_of,
)
from .evaluator import Evaluator as Evaluator
from .fine_tune import FineTune as FineTune
from .once import evaluate as evaluate, evaluate_own as evaluate_own
from .own_clients import Personal as Personal
from .personal import evaluate_personal as evaluate_personal
from .quantiles import ClientQuantiles as ClientQuantiles
from .sampled import SampledClients as SampledClients

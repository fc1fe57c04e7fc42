"""What can be said of ONE example: metrics of classes, sequences and domains. Each is a
sum, so they are exact over examples, clients and devices.
"""

from .auroc import AUROC as AUROC
from .class_counts import F1 as F1, Precision as Precision, Recall as Recall
from .classification import (
    accuracy as accuracy,
    ConfusionMatrix as ConfusionMatrix,
    cross_entropy as cross_entropy,
    top_k_accuracy as top_k_accuracy,
)
from .domains import PerDomain as PerDomain
from .perplexity import Perplexity as Perplexity
from .sequences import (
    oov_rate as oov_rate,
    sequence_count as sequence_count,
    sequence_cross_entropy as sequence_cross_entropy,
    sequence_length as sequence_length,
    token_count as token_count,
    truncation_rate as truncation_rate,
)
from .tokens import (
    token_accuracy as token_accuracy,
    token_cross_entropy as token_cross_entropy,
    token_top_k_accuracy as token_top_k_accuracy,
)

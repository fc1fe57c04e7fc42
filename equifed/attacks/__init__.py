"""Clients that attack a training: what a robust rule is to be tested against.

[`equifed.attacks.Attacked`][] goes around any algorithm, with an attack on messages;
`flip_labels`, `backdoored` and `triggered` attack through the data.
"""

from .adaptive import Adaptive as Adaptive
from .alie import ALIE as ALIE
from .attacked import Attacked as Attacked
from .base import AbstractAttack as AbstractAttack, Seen as Seen
from .clients import byzantine_clients as byzantine_clients
from .data import (
    backdoored as backdoored,
    flip_labels as flip_labels,
    triggered as triggered,
)
from .ipm import IPM as IPM
from .mimic import Mimic as Mimic
from .min_max import MinMax as MinMax, MinSum as MinSum
from .own import (
    ModelReplacement as ModelReplacement,
    Noise as Noise,
    SignFlip as SignFlip,
)

from .base import AbstractClient as AbstractClient
from .correction import (
    AbstractCorrection as AbstractCorrection,
    Control as Control,
    ControlVariate as ControlVariate,
    DynamicRegularizer as DynamicRegularizer,
    NoCorrection as NoCorrection,
    Proximal as Proximal,
)
from .full_gradient import FullGradient as FullGradient
from .local_sgd import LocalSGD as LocalSGD
from .loss import check_loss as check_loss, traced_loss as traced_loss
from .normalized import Normalized as Normalized
from .sharpness import SharpnessAware as SharpnessAware

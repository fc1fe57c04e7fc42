"""Privacy by a plan that is what was run."""

from .adaptive import AdaptiveClip as AdaptiveClip
from .audit import Audit as Audit
from .banded import BandedNoise as BandedNoise
from .buffered import BufferedToeplitzNoise as BufferedToeplitzNoise
from .canary import CanaryClient as CanaryClient
from .clipping import (
    AbstractClipping as AbstractClipping,
    FlatClip as FlatClip,
    GroupClip as GroupClip,
)
from .deployment import Deployment as Deployment
from .distributed import DistributedDiscreteGaussian as DistributedDiscreteGaussian
from .estimates import AuditReport as AuditReport
from .example_level import PrivateSGD as PrivateSGD
from .example_plan import ExampleLevelPlan as ExampleLevelPlan
from .local import LocalGaussian as LocalGaussian, LocalLaplace as LocalLaplace
from .mean import PrivateMean as PrivateMean
from .mechanism import AbstractMechanism as AbstractMechanism
from .modular import ModularMean as ModularMean
from .noise import AbstractNoise as AbstractNoise, IndependentNoise as IndependentNoise
from .plan import PrivacyPlan as PrivacyPlan
from .tree import TreeNoise as TreeNoise

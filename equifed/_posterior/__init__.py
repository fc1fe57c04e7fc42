from .base import (
    AbstractPosteriorSampler as AbstractPosteriorSampler,
    Samples as Samples,
)
from .chain import AbstractChainSampler as AbstractChainSampler
from .client import PosteriorClient as PosteriorClient
from .ep import EPClient as EPClient, Natural as Natural
from .ess import effective_sample_size as effective_sample_size
from .exact import ExactGaussian as ExactGaussian
from .iasg import IASG as IASG
from .laplace import Curvature as Curvature, Laplace as Laplace
from .mcmc import HMC as HMC, NUTS as NUTS
from .moments import (
    AbstractMomentEstimator as AbstractMomentEstimator,
    Gaussian as Gaussian,
    GaussianMoments as GaussianMoments,
    Shrinkage as Shrinkage,
)
from .sgld import PreconditionedSGLD as PreconditionedSGLD, SGLD as SGLD
from .windows import Windows as Windows

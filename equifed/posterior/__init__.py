"""Posteriors of clients: how they are sampled, summed up, sent and multiplied."""

from .base import (
    AbstractPosteriorSampler as AbstractPosteriorSampler,
    Samples as Samples,
)
from .burn_in import BurnIn as BurnIn, BurnInServer as BurnInServer
from .chain import AbstractChainSampler as AbstractChainSampler
from .client import PosteriorClient as PosteriorClient
from .ep import EPClient as EPClient, EPServer as EPServer, Natural as Natural
from .ess import effective_sample_size as effective_sample_size
from .exact import ExactGaussian as ExactGaussian
from .iasg import IASG as IASG
from .laplace import Laplace as Laplace
from .mcmc import HMC as HMC, NUTS as NUTS
from .moments import (
    AbstractMomentEstimator as AbstractMomentEstimator,
    Gaussian as Gaussian,
    GaussianMoments as GaussianMoments,
    Shrinkage as Shrinkage,
)
from .product import PosteriorProduct as PosteriorProduct
from .sgld import PreconditionedSGLD as PreconditionedSGLD, SGLD as SGLD
from .windows import Windows as Windows

"""Iterate-averaged stochastic gradient."""

from .._check import checked
from .._optim import as_optim, Optim, OptimLike
from .chain import AbstractChainSampler
from .windows import Windows


class IASG(AbstractChainSampler):
    r"""Iterate-averaged stochastic gradient: a sample is the mean of successive
    iterates of an optimiser with a constant step size.

    Near a minimum such iterates scatter around it, and by Mandt et al. their averages
    over windows that are long enough are nearly independent samples of a Gaussian
    approximation of the posterior. It costs no more than the steps themselves. It is
    what FedPA runs on real tasks, with one sample an epoch.

    **Arguments:**

    - `optim`: an Optax optimiser, whose state (momentum, say) persists over all of a
        chain.
    - `burnin`: what each chain leaves out at its beginning.
    - `average`: how much makes one sample.
    - `discard`: what is left out between two samples.
    - `chains`: chains that start side by side from the server's model and share the
        client's steps, each taking an equal part of them.

    The three lengths are counted in epochs if the batching is
    [`equifed.data.Epochs`][], and in steps if it is [`equifed.data.Steps`][].

    !!! example

        ```python
        eqf.posterior.IASG(optax.sgd(0.02, momentum=0.9), burnin=1)
        ```

    ??? cite "Reference"

        [Stochastic Gradient Descent as Approximate Bayesian
        Inference](https://arxiv.org/abs/1704.04289)

        ```bibtex
        @article{mandt2017stochastic,
            title={{S}tochastic {G}radient {D}escent as {A}pproximate {B}ayesian
                   {I}nference},
            author={Mandt, Stephan and Hoffman, Matthew D. and Blei, David M.},
            journal={Journal of Machine Learning Research},
            year={2017},
        }
        ```
    """

    optim: Optim
    windows: Windows

    @checked()
    def __init__(
        self,
        optim: OptimLike,
        *,
        burnin: int = 0,
        average: int = 1,
        discard: int = 0,
        chains: int = 1,
    ):
        self.optim = as_optim(optim)
        self.windows = Windows(burnin, average, discard, chains)

    def begin(self, params):
        return self.optim.init(params)

    def update(self, grads, params, state, *, key):
        return self.optim.update(grads, state, params)

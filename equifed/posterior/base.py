r"""A client's posterior, and samples of it.

A client's mean loss $f$ is read as the energy of a probability distribution over the
params, $p(\theta) \propto \exp(-f(\theta))$: its posterior, tempered by its number of
examples. A client of $n$ examples counts $n$ times in the server's mean, and that puts
the number back.

Whatever is said of a client's posterior here is said relative to the server's model
$x$, as messages are: a sample is the displacement $\theta - x$.
"""

import abc

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._client.loss import Metrics
from .._cohort import ClientData
from .._overrides import inherit_types
from .._types import Loss, Params
from .._wire import Broadcast
from ..data import AbstractBatching, Epochs


Stacked = PyTree[Float[Array, "samples ..."]]


class Samples(eqx.Module):
    """Samples of a client's posterior, as displacements from the server's model."""

    values: Stacked
    """Stacked along a leading axis, in float32 at least."""
    last: Params
    """What is sent in burn-in rounds. For one chain it is the last iterate (with
    [`equifed.posterior.IASG`][], what FedAvg sends); for several the mean of theirs;
    for samplers without iterates the mean of the posterior."""


class AbstractPosteriorSampler(eqx.Module):
    """How a client draws samples of its posterior."""

    def __init_subclass__(cls) -> None:
        inherit_types(cls)

    @abc.abstractmethod
    def count(self, batching: AbstractBatching) -> int:
        """How many samples come of a client's visits to its examples.

        **Raises:**

        `ValueError` if the sampler cannot work with that batching.
        """

    @abc.abstractmethod
    def sample(
        self,
        loss: Loss,
        broadcast: Broadcast,
        data: ClientData,
        batching: AbstractBatching,
        *,
        key: PRNGKeyArray,
    ) -> tuple[Samples, Metrics]:
        """Draws the samples.

        **Arguments:**

        - `loss`: the loss of one example.
        - `broadcast`: what the server sent: where the client starts.
        - `data`: the client's examples and the planned order of its visits.
        - `batching`: what they were planned with.
        - `key`: this client's key for this round.

        **Returns:**

        The samples, and metrics that are summed over the cohort.
        """


def check_whole(sampler: AbstractPosteriorSampler, batching: AbstractBatching) -> None:
    """For a sampler whose every step looks at all the client's examples.

    **Raises:**

    `ValueError` if the batching says otherwise.
    """
    whole = (
        isinstance(batching, Epochs)
        and batching.num_epochs == 1
        and batching.last == "short"
    )
    if not whole:
        raise ValueError(
            f"`{type(sampler).__name__}` works on the loss of all the client's "
            f"examples and takes no mini-batches, got {batching!r}. Give "
            f"`Epochs(1, batch_size={batching.batch_size})`: the batch size then only "
            "says how many examples are looked at side by side."
        )

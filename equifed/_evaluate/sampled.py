"""A sample of the clients, evaluated while a model is trained."""

import equinox as eqx

from .._check import checked
from ..data import AbstractSampler, FederatedDataset


class SampledClients(eqx.Module):
    """A dataset of which [`equifed.train`][] evaluates some of the clients at a time,
    which a sampler draws anew after each round.

    A sampler is a function of the round. So that of the loader draws the clients that
    have just been trained on: of the dataset that they are trained on it gives the new
    model's metrics on the round's training clients, and of a dataset with the same
    clients and other examples those on what they hold back.

    The examples of all that are drawn are pooled. A client that is drawn twice counts
    once; where none is drawn that has an example, all means are NaN.

    !!! example

        ```python
        sampler = eqf.data.UniformSampler(10, seed=0)
        loader = eqf.data.Loader(train, sampler, algorithm.batching)
        evaluation = {
            "trained": eqf.SampledClients(train, sampler),
            "some": eqf.SampledClients(test, eqf.data.UniformSampler(100, seed=1)),
            "all": test,
        }
        ```
    """

    dataset: FederatedDataset
    sampler: AbstractSampler

    @checked(dataset="Build one with `FederatedDataset.from_arrays` or its siblings.")
    def __init__(self, dataset: FederatedDataset, sampler: AbstractSampler):
        """**Arguments:**

        - `dataset`: the clients.
        - `sampler`: draws those that are evaluated after a round.

        **Raises:**

        `ValueError` if the sampler draws more clients than there are.
        """
        sampler(0, dataset.num_clients)  # which raises it
        self.dataset, self.sampler = dataset, sampler

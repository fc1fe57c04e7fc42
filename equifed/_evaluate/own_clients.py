"""The clients' own models, evaluated while they are trained."""

import equinox as eqx

from .._check import checked
from ..data import FederatedDataset
from .fine_tune import FineTune
from .quantiles import ClientQuantiles


class Personal(eqx.Module):
    """A dataset of which [`equifed.train`][] evaluates each client's own model on that
    client's examples.

    With the name `"test"` the history has `"test/accuracy"`, over all examples, and
    `"test/accuracy/clients"`, the mean over the clients that have some; around
    [`equifed.ClientQuantiles`][] also what that adds. Clients are known by their ids:
    see [`equifed.evaluate_personal`][].

    !!! example

        ```python
        evaluation = {"test": eqf.Personal(eqf.ClientQuantiles(test, tail=0.1))}
        ```
    """

    of: FederatedDataset | ClientQuantiles
    fine_tune: FineTune | None
    support: FederatedDataset | None

    @checked(of="Give a dataset, or a `ClientQuantiles` of one.")
    def __init__(
        self,
        of: FederatedDataset | ClientQuantiles,
        *,
        fine_tune: FineTune | None = None,
        support: FederatedDataset | None = None,
    ):
        """**Arguments:**

        - `of`: the clients and their examples to evaluate on.
        - `fine_tune`, `support`: as those of [`equifed.evaluate_personal`][].
        """
        self.of, self.fine_tune, self.support = of, fine_tune, support

    @property
    def dataset(self) -> FederatedDataset:
        return self.of.dataset if isinstance(self.of, ClientQuantiles) else self.of

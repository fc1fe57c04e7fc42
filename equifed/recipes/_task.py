"""What is learned from which data: a task, which is loaded when it is asked for."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import TypeAlias

from jaxtyping import PRNGKeyArray

from .._check import checked
from .._types import Loss, Measure, Model
from .._words import shown
from ..data import FederatedDataset


Data: TypeAlias = tuple[FederatedDataset, dict[str, FederatedDataset]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """Data, whose they are, a model, a loss and metrics.

    Nothing is loaded before `load` is called, and no model is made before `model` is.
    """

    name: str
    """What `--task` takes."""
    data: str
    """Where the data come from."""
    partition: str
    """Whose an example is."""
    licence: str
    """Under which licence the data are."""
    cite: str
    """What to cite for the data."""
    make: Callable[[PRNGKeyArray], Model]
    """Makes the model to start from, of a key."""
    loss: Loss
    """The loss of ONE example, as clients train on it."""
    metrics: Measure
    """What is measured of ONE example in an evaluation."""
    reads: Callable[[pathlib.Path | None], Data]
    """Loads the data: see `load`."""
    files: str = ""
    """What the folder of `load` holds; empty if there is nothing to read from one."""
    logits: Callable | None = None
    """The logits of ONE example, `logits(model, example, key)`."""
    representation: Callable | None = None
    """What the model's last layer is given, likewise."""
    head: Callable | None = None
    """The model's last layer, `head(model)`."""
    label: str = "label"
    """The column of labels."""

    def __post_init__(self) -> None:
        for name in ("make", "loss", "metrics", "reads"):
            if not callable(getattr(self, name)):
                raise TypeError(
                    f"`{name}` must be a function, got {shown(getattr(self, name))}."
                )

    @checked()
    def load(self, folder: str | pathlib.Path | None = None) -> Data:
        """The clients that train, and the sets to evaluate on, by name.

        **Arguments:**

        - `folder`: where the data's files lie; if not given, they come with the library
            or are downloaded by `datasets`, which keeps them.

        **Raises:**

        `ValueError` if the folder is missing where it is needed, or given where there
        is nothing to read; `FileNotFoundError` if a file is not in it.
        """
        if folder is not None and not self.files:
            raise ValueError(
                f"`folder` is not needed for {self.name!r}, whose data come with the "
                f"library, got {str(folder)!r}. Leave it out."
            )
        path = None if folder is None else pathlib.Path(folder)
        if path is not None and not path.is_dir():
            raise FileNotFoundError(
                f"`folder` must be a folder with {self.files}, got {str(folder)!r}, "
                "which is none."
            )
        return self.reads(path)

    @checked()
    def model(self, key: PRNGKeyArray) -> Model:
        """The model to start from.

        **Arguments:**

        - `key`: the randomness of its first parameters.
        """
        return self.make(key)

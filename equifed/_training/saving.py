"""The checkpoints of a training: from which it goes on, and which it leaves."""

from jaxtyping import PRNGKeyArray

from .._algorithm import AbstractAlgorithm
from .._checkpoint import Checkpointer
from .._checkpoint.fingerprint import outlined
from .._history import Row
from .._roles import Roles
from .._round import State
from ..data import AbstractLoader
from ..privacy.promise import AbstractPlan
from .best import Best
from .rounds import check_ahead


class Saving:
    """Restores a training and saves it, if it has a checkpointer."""

    def __init__(
        self,
        checkpointer: Checkpointer | None,
        algorithm: AbstractAlgorithm,
        best: Best,
        privacy: AbstractPlan | None,
        roles: Roles | None,
    ):
        self._privacy, self._roles = privacy, roles
        self._checkpointer, self._algorithm, self._best = checkpointer, algorithm, best
        self._name, self._made_with = type(algorithm).__name__, None

    @property
    def breaks(self) -> list[int]:
        """After every so many rounds one is saved, so that a call ends there."""
        return [] if self._checkpointer is None else [self._checkpointer.every]

    def restored(
        self,
        state: State,
        loader: AbstractLoader,
        key: PRNGKeyArray,
        num_rounds: int,
    ) -> tuple[State, list[Row]]:
        """Where this training had come to, and its history; or where it begins."""
        saves = self._checkpointer
        if saves is None:
            return state, []
        made_with = saves.fingerprint(
            self._algorithm, state.model, loader, key=key, roles=self._roles
        )
        self._made_with = made_with | self._best.made_with
        if self._privacy is not None:
            self._made_with |= outlined("privacy", self._privacy)
        found = saves.restore(
            self._best.with_state(state),
            algorithm=self._name,
            fingerprint=self._made_with,
        )
        if found is None:
            return state, []
        number, saved, history = found
        what = f"`{saves.directory}` has a checkpoint"
        check_ahead(num_rounds, number, what, ", or another directory")
        return self._best.state_of(saved), history

    def after(
        self, number: int, state: State, history: list[Row], *, last: bool
    ) -> None:
        """Saves a round that is due, or the last one."""
        saves = self._checkpointer
        if saves is not None and (saves.should_save(number) or last):
            saves.save(
                *(number, self._best.with_state(state), history),
                algorithm=self._name,
                fingerprint=self._made_with,
                roles=self._roles,
            )

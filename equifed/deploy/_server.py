"""The server: the rounds of a training whose clients are elsewhere."""

from collections.abc import Callable
from typing import Any

import jax.random as jr
from jaxtyping import PRNGKeyArray

from .._algorithm import AbstractAlgorithm
from .._check import check_count, check_number, checked
from .._checkpoint import Checkpointer
from .._checkpoint.fingerprint import typed_key
from .._history import Row
from .._logger import AbstractLogger, NoLogger
from .._roles import Roles
from .._round import State
from .._round.elsewhere import Elsewhere
from .._types import Measure, Model
from ..data import AbstractSampler
from ..data._draw import drawn_of
from ._plan import (
    begun,
    check_waits,
    Columns,
    cut,
    digits_of_model,
    digits_of_passes,
    evaluated,
    warn_of_noise,
)
from ._roster import Roster
from ._rounds import Rounds
from ._same import made_of
from ._transport import AbstractTransport


class Server:
    """What runs where the model is: it draws clients, sends them the model, and makes
    of their answers what a simulated round makes of its clients'.

    !!! example

        ```python
        server = eqf.deploy.Server(
            algorithm, model, eqf.data.AllClients(),
            num_clients=2, num_rounds=10, key=jr.key(0),
        )
        ```
    """

    @checked(sampler="Write `AllClients()`, or `UniformSampler(10)`, for example.")
    def __init__(
        self,
        algorithm: AbstractAlgorithm,
        model: Model,
        sampler: AbstractSampler,
        *,
        num_clients: int,
        num_rounds: int,
        key: PRNGKeyArray,
        roles: Roles | None = None,
        min_clients: int | None = None,
        patience: float = 600.0,
        evaluate_every: int = 0,
        metrics: Measure | None = None,
        checkpointer: Checkpointer | None = None,
        logger: AbstractLogger | None = None,
        on_end: Callable[[Model | None, list], Any] | None = None,
    ):
        """**Arguments:**

        - `algorithm`, `model`, `key`, `roles`: as for a simulated training.
        - `sampler`: who takes part in a round. Of those drawn who are not there the
            round goes without.
        - `num_clients`: the size of the population. A client's number is its node's
            `partition-id`, from 0.
        - `num_rounds`: how many rounds in all.
        - `min_clients`: how many have to be there before the first round; all if not
            given.
        - `patience`: how many seconds to wait for these.
        - `evaluate_every`: after how many rounds all clients that are there evaluate
            the model; 0 for never.
        - `metrics`: what they compute, the same as theirs; by default the loss.
        - `checkpointer`: where to save, and to go on from.
        - `logger`: what is told of each round.
        - `on_end`: given the trained model and the history, when all rounds are run.
        """
        check_waits(algorithm)
        warn_of_noise(algorithm)
        self.algorithm, self.model, self.sampler = algorithm, model, sampler
        self.num_clients = check_count("num_clients", num_clients)
        self.num_rounds = check_count("num_rounds", num_rounds, least=0)
        least = num_clients if min_clients is None else min_clients
        self._least = check_count("min_clients", least, most=num_clients)
        check_number("patience", patience, least=0)
        self._patience = float(patience)
        self._every = check_count("evaluate_every", evaluate_every, least=0)
        if self._every:
            one = begun(algorithm, model, num_clients=num_clients, roles=roles, key=key)
            evaluated(algorithm, one)
        most = check_count("max_clients", sampler.max_clients(num_clients), least=0)
        # Fails now rather than in the first round.
        drawn_of(sampler, 0, num_clients, most)
        self._metrics: Measure = algorithm.loss if metrics is None else metrics
        self._checkpointer = checkpointer
        self._logger = NoLogger() if logger is None else logger
        key = typed_key(key)
        self._on_end, self._key, self._roles = on_end, key, roles
        # What every message says.
        self._config = {
            "clients": num_clients,
            "slots": most,
            "keys": str(jr.key_impl(key)),
        }

    def run(self, transport: AbstractTransport) -> tuple[State, list[Row]]:
        """Runs all rounds that are left.

        **Returns:**

        The last state, and the history.
        """
        state = begun(
            self.algorithm,
            self.model,
            num_clients=self.num_clients,
            roles=self._roles,
            key=self._key,
        )
        found: list[Elsewhere] = []

        def passes(columns: Columns) -> str:
            slots, keys = self._config["slots"], self._config["keys"]
            found.append(cut(self.algorithm, state, columns, slots, keys))
            return digits_of_passes(found[0])

        model = digits_of_model(state)
        made = made_of(self.algorithm, state)
        roster = Roster(transport, self._config, model, passes, made)
        roster.wait(self._least, self._patience)
        run = Rounds(self, transport, roster, found[0], state)
        with self._logger:
            history = run.all()
        if self._on_end is not None:
            self._on_end(self.algorithm.model(run.state), history)
        return run.state, history

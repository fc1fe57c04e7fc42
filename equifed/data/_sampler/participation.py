"""How a client comes to take part: what a statement about its privacy rests on.

A sampler that draws at random hides who took part in a round, which makes the round
more private; one that follows an order hides nothing, but limits how often, and how
soon again, a client takes part. A sampler says here which of these it does.
"""

import equinox as eqx


class PoissonParticipation(eqx.Module):
    """In every round each client with probability `rate`, independently of all else;
    of more than `most` of them a random `most` stay, if there is such a limit.

    Of two populations that differ in one client `num_clients` is the larger one's.
    """

    rate: float
    num_clients: int
    most: int | None = None

    @property
    def expected(self) -> float:
        """The mean number of clients that are drawn, before any are left out."""
        return self.rate * self.num_clients


class FixedSizeParticipation(eqx.Module):
    """In every round `cohort_size` different clients, every such set equally likely."""

    cohort_size: int
    num_clients: int

    @property
    def expected(self) -> float:
        return float(self.cohort_size)


class OrderedParticipation(eqx.Module):
    """Passes over the population: no client takes part in a second round before
    `min_separation` rounds after its last, nor more than once in a pass."""

    cohort_size: int
    num_clients: int
    min_separation: int

    @property
    def expected(self) -> float:
        return float(self.cohort_size)

    def most_rounds(self, num_rounds: int) -> int:
        """In how many of so many rounds a client takes part at most."""
        passes_begun = -(-num_rounds * self.cohort_size // self.num_clients)
        return min(passes_begun, -(-num_rounds // self.min_separation))


Participation = PoissonParticipation | FixedSizeParticipation | OrderedParticipation

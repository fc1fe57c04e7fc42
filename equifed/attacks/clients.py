"""Who the attackers are."""

import numpy as np
from jaxtyping import Int

from .._check import check_count, check_seed


def byzantine_clients(
    num_clients: int, num_byzantine: int, *, seed: int = 0
) -> Int[np.ndarray, " byzantine"]:
    """Draws which clients of a population attack: with the same seed the same ones, and
    with more of them all of those, and others.

    **Arguments:**

    - `num_clients`: the size of the population.
    - `num_byzantine`: how many of them attack. (A share of them is
        `round(share * num_clients)`.)
    - `seed`: for another draw.

    **Returns:**

    The clients' numbers, in ascending order.

    **Raises:**

    `ValueError` for more attackers than clients.
    """
    check_count("num_clients", num_clients)
    check_count("num_byzantine", num_byzantine, least=0, most=num_clients)
    drawn = np.random.default_rng(check_seed(seed)).permutation(num_clients)
    return np.sort(drawn[:num_byzantine]).astype(np.int32)

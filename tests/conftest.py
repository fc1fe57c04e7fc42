"""Four host devices for every test, set before JAX starts."""

import jax


jax.config.update("jax_num_cpu_devices", 4)

import pathlib  # noqa: E402

import jax.random as jr  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture
def getkey():
    """A new key at every call."""
    count = 0

    def next_key():
        nonlocal count
        count += 1
        return jr.fold_in(jr.key(5678), count)

    return next_key


@pytest.fixture
def shared_data():
    """The folder of larger real datasets, which a clone may lack."""
    path = pathlib.Path(__file__).parents[2] / "shared" / "data"
    if not path.exists():
        pytest.skip("The folder of shared datasets is absent.")
    return path

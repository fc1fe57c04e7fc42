"""Four host devices for every test, set before JAX starts, and no promotion."""

import jax


jax.config.update("jax_num_cpu_devices", 4)

import gc  # noqa: E402
import itertools  # noqa: E402
import pathlib  # noqa: E402
import signal  # noqa: E402

import jax.random as jr  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

from . import typechecks  # noqa: E402


jaxtyping.jaxtyped = typechecks.jaxtyped
TESTS = itertools.count()


@pytest.fixture(autouse=True)
def few_compiled_programs():
    """Forgets compiled programs before they are too many.

    Each maps memory of its own, and Linux allows a process 65,530 mappings: beyond
    that the compiler crashes. Counting them takes 10 ms, so not every test does.
    """
    if next(TESTS) % 16:
        return
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


# Files in which operands may become another dtype or rank by themselves: two with what
# a user might write, and those whose references and losses promote (take a name away,
# run the file, mend what fails). Single calls into Optax or Equinox say it there.
PROMOTE = {"test_docs", "test_lookups"}
PROMOTE |= {"test_claims", "test_memory", "test_plot", "test_posterior_mcmc"}


@pytest.fixture(autouse=True, scope="module")
def promotion(request):
    promotes = pathlib.Path(request.module.__file__).stem in PROMOTE
    jax.config.update("jax_numpy_dtype_promotion", "standard" if promotes else "strict")
    jax.config.update("jax_numpy_rank_promotion", "allow" if promotes else "raise")


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
def listens_to_interrupts():
    """Tests that were started in the background of a shell ignore them."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)


@pytest.fixture
def shared_data():
    """The folder of larger real datasets, which a clone may lack."""
    path = pathlib.Path(__file__).parents[2] / "shared" / "data"
    if not path.exists():
        pytest.skip("The folder of shared datasets is absent.")
    return path


def pytest_collection_finish():
    """Leaves what is there by now alone, for Python looks through all objects again and
    again while JAX traces: a tenth to a fifth of the time of the tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)

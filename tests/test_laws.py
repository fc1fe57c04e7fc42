"""Every algorithm obeys every law: see `equifed.testing`."""

import functools

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest

import equifed as eqf
from equifed import testing
from equifed.testing._at_once import AT_ONCE, hold_at_once
from equifed.testing._setup import setup, shared

from .algorithms import Adapted, ALGORITHMS, OF_ADAPTERS
from .broken import BROKEN


# These differ from another row in a part that how clients are run, the laws below, does
# not see; that row is put through all. Server optimisers come after the clients, and
# FedAvg-adam has a state to carry along; IFCA is HypCluster with other means; MimeLite
# leaves out a part of what Mime computes, and SCAFFOLD's second option of the first;
# MoFedSAM is FedCM with FedSAM's gradient; MIFA keeps what FedVARP keeps before it is
# scaled; FedLESAM remembers, and looks uphill, as FedSpeed does, and so do APFL and
# pFedMe, elsewhere; Ditto and FedALA keep a tree and go over the data twice, as
# SCAFFOLD does; a median gathers messages as the trimmed mean of the wrappers does.
# So does one that draws some of them.
# LG-FedAvg and FedBN are FedPer with other leaves, FedAlt is FedRep in other parts, and
# FedBABU is FedAvg of some leaves. The asynchronous ones take old models as FedBuff.
# Of adapters, FLoRA and FlexLoRA make another thing of the mean that FedEx-LoRA takes.
LIKE = {
    "FedAvgM": "FedAvg",
    "FedAdagrad": "FedAvg",
    "FedAdam": "FedAvg",
    "FedYogi": "FedAvg",
    "IFCA": "HypCluster",
    "MimeLite": "Mime",
    "Scaffold-2": "Scaffold-1",
    "MoFedSAM": "FedCM",
    "MIFA": "FedVARP",
    "FedLESAM": "FedSpeed",
    "FedSMOO": "FedDC",
    "FedLC": "FedNTD",
    "FedDecorr": "FedNTD",
    "Ditto": "Scaffold-1",
    "FedALA": "Scaffold-1",
    "MOON": "FedNTD",
    "FedRoD": "FedNTD",
    "APFL": "FedSpeed",
    "PFedMe": "FedSpeed",
    "Median": "wrappers",
    "OptimalClientSampling": "wrappers",
    "LGFedAvg": "FedPer",
    "FedBN": "FedPer",
    "FedAlt": "FedRep",
    "FedBABU": "FedAvg",
    "FedAsync": "FedBuff",
    "CA2FL": "FedBuff",
    "FADAS": "FedBuff",
    "FLoRA": "FedExLoRA",
    "FlexLoRA": "FedExLoRA",
}
OF_CLIENTS_AND_RUNS = {
    "empty_places",
    "absent_messages",
    "ledger",
    "block_size",
    "rounds_per_call",
    "ordered",
    "devices",
    "sweep",
}


ALL = {**ALGORITHMS, **OF_ADAPTERS}


@functools.cache
def adapted():
    model = Adapted()
    return {"model": model, "roles": eqf.roles(model, shared=eqf.nn.adapters)}


def tried(name):
    """All laws of one, which share what they have had computed."""
    return shared(ALL[name], **(adapted() if name in OF_ADAPTERS else {}))


@pytest.fixture(scope="module", params=[x for x in ALL if x not in LIKE])
def name(request):
    with tried(request.param):
        yield request.param


@pytest.fixture(scope="module", params=LIKE)
def like(request):
    with tried(request.param):
        yield request.param


# Not all clients are trained, and the metrics are of those that are; labels are drawn
# by the keys of their places in a batch, which more empty places change. The client
# that is FLTrust's server sends nothing, and what it measures is not reported.
DOES_NOT_HOLD = {
    ("PowerOfChoice", "metrics_are_means"),
    ("Oort", "metrics_are_means"),
    ("FedSophia", "empty_places"),
    ("FLTrust", "ledger"),
    ("FLTrust", "metrics_are_means"),
}


# Of these it is known whether six laws hold at once: where they do not, each is tried.
LOOKED_AT = {"FedAvg-adam", "Scaffold-1", "Mime", "FedNTD", "FedExLoRA", "HetLoRA"}
LOOKED_AT |= {"FedSophia", "PowerOfChoice", "FLTrust"}


@pytest.mark.parametrize("law", testing.LAWS)
def test_law(name, law):
    if (name, law) in DOES_NOT_HOLD:
        with pytest.raises(AssertionError, match=law):
            testing.LAWS[law](ALL[name])
    else:
        testing.LAWS[law](ALL[name])
    if law == "sweep" and name in LOOKED_AT:
        # Nor was any of them compiled for by itself.
        broken = any((name, x) in DOES_NOT_HOLD for x in AT_ONCE)
        assert hold_at_once(setup(ALL[name])) is not broken


# Two passes, compiled as users' programs are; `test_bits.py` has those of one.
@pytest.mark.exact
def test_bits_of_what_is_optimised():
    testing.LAWS["devices"](ALGORITHMS["Mime"])


@pytest.mark.parametrize(
    "law", [x for x in testing.LAWS if x not in OF_CLIENTS_AND_RUNS]
)
def test_law_of_one_like_it(like, law):
    testing.LAWS[law](ALL[like])


def test_those_are_alike():
    def made(name):
        batching = eqf.data.Steps(1, batch_size=1)
        return ALL[name](testing.noisy_loss, batching)

    for name, like in LIKE.items():
        one, other = made(name), made(like)
        if like == "FedAvg":
            assert isinstance(one, eqf.AbstractOnePass)
            assert isinstance(other, eqf.AbstractOnePass)
            assert isinstance(one.server, eqf.OptaxServer)
            assert eqx.tree_equal(one.client, other.client)
            assert eqx.tree_equal(one.aggregator, other.aggregator)
        else:
            assert type(one) is type(other) or type(one).step is type(other).step


@pytest.mark.parametrize("mistake", BROKEN)
def test_a_mistake_is_seen(mistake):
    make, law = BROKEN[mistake]
    others = tuple(x for x in testing.LAWS if x != law)
    with pytest.raises(AssertionError) as caught:
        testing.check_laws(make, skip=others)
    message = str(caught.value)
    assert message.startswith(f"The law '{law}' fails.")
    assert len(message) < 600


def test_it_says_how_long_it_took(capsys):
    cheap = ("key_reuse", "one_trace", "resume")
    skip = tuple(law for law in testing.LAWS if law not in cheap)
    seconds = testing.check_laws(ALGORITHMS["FedSGD"], skip=skip)
    assert set(seconds) == set(cheap)
    assert all(s >= 0 for s in seconds.values())
    out = capsys.readouterr().out
    assert out.startswith("3 laws hold. It took ")
    assert out.endswith(" seconds of CPU time.\n")


def ignores_the_loss(loss, batching):
    def own_loss(model, example, key):
        return model.bias**2

    return eqf.FedAvg(own_loss, optax.sgd(0.1), batching)


def on_the_plain_model(loss, batching):
    """Another function than that of the table, whose laws share a model of adapters as
    long as they are being tried."""
    return OF_ADAPTERS["FLoRA"](loss, batching)


def ignores_the_batching(loss, batching):
    own_batching = eqf.data.Epochs(1, batch_size=10)
    return eqf.FedAvg(loss, optax.sgd(0.1), own_batching)


@pytest.mark.parametrize(
    ("make", "skip", "kind", "words"),
    [
        (
            eqf.FedAvg(
                testing.noisy_loss, optax.sgd(0.1), eqf.data.Steps(1, batch_size=1)
            ),
            (),
            TypeError,
            "`make` must be a function, got a `FedAvg`. Give `make(loss, batching)`",
        ),
        (eqf.FedAvg, (), TypeError, "the class `FedAvg` cannot be"),
        (lambda loss: None, (), TypeError, "is called as `make(loss, batching)`"),
        (lambda loss, batching: loss, (), TypeError, "must be an `AbstractAlgorithm`"),
        (ignores_the_loss, (), ValueError, "Give `loss` on to its client."),
        (ignores_the_batching, (), ValueError, "asked for a batch size of 4, got 10"),
        (ALGORITHMS["FedAvg"], "sweep", TypeError, "`skip` must be names"),
        (ALGORITHMS["FedAvg"], ("sweeps",), ValueError, "There is no law 'sweeps'"),
        (on_the_plain_model, (), ValueError, "`FLoRA` needs layers with a change"),
    ],
)
def test_what_is_of_no_use_is_refused(make, skip, kind, words):
    with pytest.raises(kind) as caught:
        testing.check_laws(make, skip=skip)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 600


def test_reuse_of_a_key_is_pointed_at():
    make, law = BROKEN["noise with the client's key"]
    with pytest.raises(AssertionError, match=r"used again at .*broken\.py:\d+\."):
        testing.LAWS[law](make)


def test_a_metric_that_is_no_mean_is_told_with_what_it_should_be():
    make, law = BROKEN["mean of batches"]
    words = r"`metrics\['y'\]` is .* instead of .*, the mean over all visits"
    with pytest.raises(AssertionError, match=words):
        testing.LAWS[law](make)


def test_a_sweep_over_hyper_parameters_is_the_loop():
    dataset = testing.ragged_clients((5, 3, 8))
    batching = eqf.data.Epochs(1, batch_size=4)
    loader = eqf.data.Loader(dataset, eqf.data.AllClients(), batching)
    cohort = loader(0)
    model = testing.Linear()

    def final(rate, mu, momentum):
        algorithm = eqf.FedProx(
            testing.noisy_loss,
            optax.sgd(rate, momentum=0.9),
            batching,
            mu=mu,
            server_optim=optax.sgd(1.0, momentum=momentum),
        )
        state = algorithm.init(model, num_clients=3)
        for _ in range(2):
            state, _ = algorithm.round(state, cohort, key=jr.key(0))
        return state.model.weight

    values = (
        jnp.array([0.1, 0.01]),
        jnp.array([0.0, 1.0]),
        jnp.array([0.5, 0.9]),
    )
    together = eqx.filter_vmap(final)(*values)
    for i in range(2):
        alone = final(*(v[i] for v in values))
        assert jnp.allclose(together[i], alone, rtol=1e-5, atol=1e-6)


def test_changing_a_hyper_parameter_does_not_retrace():
    traces = 0

    def loss(model, example, key):
        nonlocal traces
        traces += 1
        return testing.noisy_loss(model, example, key)

    dataset = testing.ragged_clients((5, 3))
    batching = eqf.data.Epochs(1, batch_size=4)
    loader = eqf.data.Loader(dataset, eqf.data.AllClients(), batching)
    counts = []
    for rate in (0.1, 0.2, 0.3):
        algorithm = eqf.FedAdam(
            loss, optax.sgd(rate, momentum=rate), batching, server_learning_rate=rate
        )
        state = algorithm.init(testing.Linear(), num_clients=2)
        algorithm.round(state, loader(0), key=jr.key(0))
        counts.append(traces)
    assert counts[0] == counts[1] == counts[2]

"""What the guides say is so, where no other test asks it."""

# Optax's annotations do not know of modules.
# pyright: reportArgumentType=false

import inspect
import pathlib
import re
import tomllib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

import equifed as eqf
import equifed.posterior as eqp
from equifed import testing
from equifed._cohort import NO_CLIENT

from .broken import BROKEN


ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
BATCHING = eqf.data.Epochs(1, batch_size=4)
DATA = testing.ragged_clients((4, 3))
COHORT = eqf.data.cohort(DATA, BATCHING)
SGD = optax.sgd(0.1)


def plain(model, example, key):
    return testing.noisy_loss(model, example, key)[0]


def one_round(algorithm, cohort=COHORT, model=None):
    model = testing.Linear() if model is None else model
    state = algorithm.init(model, num_clients=2)
    return algorithm.round(state, cohort, key=jr.key(0))


def after_a_round(loss, optim):
    return one_round(eqf.FedAvg(loss, optim, BATCHING))[0].model


def assert_close(x, y):
    jtu.tree_map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), x, y
    )


# From FedJAX.


def test_an_l2_regulariser_is_a_term_of_the_loss_or_decayed_weights():
    # FedJAX's is `weight` times the sum of squares, without a half.
    weight = 0.3

    def regularised(model, example, key):
        squares = jnp.sum(model.weight**2) + model.bias**2
        return plain(model, example, key) + weight * squares

    decayed = optax.chain(optax.add_decayed_weights(2 * weight), optax.sgd(0.1))
    jtu.tree_map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
        after_a_round(regularised, optax.sgd(0.1)),
        after_a_round(plain, decayed),
    )


def test_equinox_serialises_a_state(tmp_path):
    algorithm = eqf.Scaffold(plain, optax.sgd(0.1), BATCHING)
    state = algorithm.init(testing.Linear(), num_clients=2)
    eqx.tree_serialise_leaves(tmp_path / "state.eqx", state)
    again = eqx.tree_deserialise_leaves(tmp_path / "state.eqx", state)
    assert eqx.tree_equal(again, state)


def test_a_server_optimiser_sees_minus_the_mean_change():
    # FedJAX's FedAvg with `optimizers.adam` is Optax's Adam on it.
    server = optax.adam(0.1, eps=1e-4)
    model = testing.Linear()
    moved = after_a_round(plain, optax.sgd(0.1))
    minus = jtu.tree_map(lambda old, new: old - new, model, moved)
    updates, _ = server.update(minus, server.init(model), model)
    algorithm = eqf.FedAvg(plain, optax.sgd(0.1), BATCHING, server_optim=server)
    state = algorithm.init(model, num_clients=2)
    state, _ = algorithm.round(state, COHORT, key=jr.key(0))
    jtu.tree_map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
        state.model,
        optax.apply_updates(model, updates),
    )


def test_mu_is_fedjaxs_proximal_weight():
    # FedJAX adds `proximal_weight / 2` times the squared distance from the server's
    # model. It takes more than one step to see it.
    weight, batching, model = 0.7, eqf.data.Steps(3, batch_size=2), testing.Linear()
    cohort = eqf.data.cohort(DATA, batching)

    def proximal(new, example, key):
        squares = jnp.sum((new.weight - model.weight) ** 2)
        squares += (new.bias - model.bias) ** 2
        return plain(new, example, key) + 0.5 * weight * squares

    assert_close(
        one_round(eqf.FedProx(plain, SGD, batching, mu=weight), cohort)[0].model,
        one_round(eqf.FedAvg(proximal, SGD, batching), cohort)[0].model,
    )


def test_drop_remainder_cuts_once_and_drop_each_epoch():
    sizes = np.array([6])
    assert eqf.data.Epochs(2, batch_size=4, last="drop").num_steps(sizes) == [2]
    assert 2 * sizes // 4 == [3]  # FedJAX's.
    # `last="fill"` is FedJAX's default: as few full batches as cover all passes.
    assert eqf.data.Epochs(2, batch_size=5, last="fill").num_steps(sizes) == [3]


def test_the_debug_backend(capfd):
    def printing(model, example, key):
        jax.debug.print("seen {}", example["b"])
        return testing.quadratic_loss(model, example, key)

    data = testing.Quadratics((1.0, 4.0), (1.0, -1.0), (1, 1)).dataset()
    cohort = eqf.data.cohort(data, BATCHING)
    algorithm, model = eqf.FedAvg(printing, SGD, BATCHING), testing.Point(3.0)
    with jax.disable_jit():
        slow, _ = one_round(algorithm, cohort, model)
        assert float(slow.model.x) == pytest.approx(2.1)
    jax.effects_barrier()
    assert {"seen 1.0", "seen -1.0"} <= set(capfd.readouterr().out.splitlines())
    fast, _ = one_round(algorithm, cohort, model)
    jax.effects_barrier()
    assert {"seen 1.0", "seen -1.0"} <= set(capfd.readouterr().out.splitlines())
    assert_close(slow.model, fast.model)


class Twice(eqf.data.AbstractSampler):
    """Draws the first client twice."""

    seed: int = 0

    def __call__(self, round, num_clients):
        return np.array([0, 0, 1])

    def max_clients(self, num_clients):
        return 3


def test_deltas_are_new_minus_old_and_a_client_drawn_twice_counts_twice():
    problem = testing.Quadratics((1.0, 4.0), (1.0, -1.0), (4, 2))
    algorithm = eqf.FedAvg(testing.quadratic_loss, SGD, BATCHING)
    cohort = eqf.data.Loader(problem.dataset(), Twice(), BATCHING)(0)
    state, metrics = one_round(algorithm, cohort, testing.Point(3.0))
    # Each takes one step of length 0.1 down its slope a (x - b).
    deltas = [-0.1 * 1.0 * (3.0 - 1.0), -0.1 * 4.0 * (3.0 + 1.0)]
    expected = 3.0 + (4 * deltas[0] + 4 * deltas[0] + 2 * deltas[1]) / 10
    np.testing.assert_allclose(state.model.x, expected, rtol=1e-6)
    assert metrics["clients"] == 3


def test_the_order_of_examples_is_new_in_every_round():
    data, batching = testing.ragged_clients((30, 30)), eqf.data.Epochs(1, batch_size=30)

    def order(round, seed):
        loader = eqf.data.Loader(data, eqf.data.AllClients(seed=seed), batching)
        cohort = jtu.tree_map(np.asarray, loader(round))
        return cohort.order[0, cohort.start[0, 0]].tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(1, 0)
    assert order(0, 0) != order(0, 1)


def test_what_there_is_not():
    assert not any(other.lower() == "kmeansinit" for other in dir(eqf))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["dependencies"]
    assert not [x for x in project["dependencies"] if x.startswith("tensorflow")]


# The tables of all pages.

CALL = re.compile(r"`([A-Za-z_][\w.]*)\(([^`]*)\)`")
KEYWORD = re.compile(r"(?:^|, )(\w+)=")
SPACES = (
    eqf,
    eqf.data,
    eqf.objectives,
    eqf.objectives.LeastSquares,
    eqf.testing,
    {"data": eqf.ClientData, "dataset": eqf.data.FederatedDataset, "equifed": eqf},
)


def found(name):
    """The public object of a name, as the pages write it."""
    head, *rest = name.removeprefix("eqf.").removeprefix("equifed.").split(".")
    for space in SPACES:
        get = (
            space.get
            if isinstance(space, dict)
            else lambda n, s=space: getattr(s, n, 0)
        )
        out = get(head)
        for part in rest:
            out = getattr(out, part, None)
        if out:
            return out
    return None


def calls():
    """Every call in the text of a page whose function is ours, and its keywords."""
    for page in PAGES:
        for row in page.read_text("utf-8").splitlines():
            # The left column is another library's.
            cells = row.split(" | ")[1:] if page.name == "from-fedjax.md" else [row]
            for name, arguments in CALL.findall(" | ".join(cells)):
                if (thing := found(name)) is not None:
                    inner = re.sub(r"\([^()]*\)", "", arguments)
                    yield page.name, name, thing, KEYWORD.findall(inner)


def test_arguments_that_the_text_names_are_there():
    seen = list(calls())
    assert len(seen) > 50
    assert {"from-fedjax.md", "choosing.md", "posterior-averaging.md"} <= {
        page for page, *_ in seen
    }
    wrong = [
        (page, name, keyword)
        for page, name, thing, keywords in seen
        for keyword in keywords
        if keyword not in inspect.signature(thing).parameters
    ]
    assert wrong == []


def test_files_that_the_text_names_are_there():
    text = "".join(page.read_text("utf-8") for page in PAGES)
    files = set(re.findall(r"(?:benchmarks|examples|tests)/[\w/]+\.\w+", text))
    assert len(files) > 8
    assert [file for file in files if not (ROOT / file).exists()] == []


# The README and the first page.


def test_one_word_or_one_argument_away():
    fed_avg = eqf.FedAvg(plain, SGD, BATCHING)
    eqf.Scaffold(plain, SGD, BATCHING)
    eqf.FedAdam(plain, SGD, BATCHING, server_learning_rate=0.01)
    robust = eqf.FedAvg(plain, SGD, BATCHING, aggregator=eqf.Median())
    changed = eqx.tree_at(lambda a: a.aggregator, fed_avg, eqf.Median())
    assert eqx.tree_equal(changed, robust)


def usual_mean(kind):
    """The aggregator of an algorithm that is given what it must have, and no more."""
    given = {
        "client_optim": SGD,
        "server_optim": SGD,
        "optim": SGD,
        "sampler": eqp.IASG(SGD, burnin=0),
        "batching": BATCHING,
        "loss": plain,
        "logits": plain,
        "representation": plain,
        "head": plain,
        "num_clusters": 2,
        "num_domains": 2,
        "max_staleness": 2,
    }
    must = {
        name: given.get(name, 0.5)
        for name, x in inspect.signature(kind).parameters.items()
        if x.default is inspect.Parameter.empty
    }
    made = kind(**must)
    return getattr(made, "algorithm", made).aggregator


def test_who_takes_an_aggregator_and_who_a_server_optimiser():
    algorithms = [
        thing
        for name, thing in vars(eqf).items()
        if inspect.isclass(thing)
        and issubclass(thing, eqf.AbstractAlgorithm)
        and not name.startswith("Abstract")
        and name
        not in (
            *("Algorithm", "OverRounds", "PowerOfChoice", "CompressDown"),
            *("Asynchronous", "Diagnose", "Ledger", "Oort"),
        )
    ]
    assert len(algorithms) == 64
    takes = {x.__name__: inspect.signature(x).parameters for x in algorithms}
    none = {name for name, x in takes.items() if "aggregator" not in x}
    of_adapters = {"FedExLoRA", "FLoRA", "FlexLoRA", "HetLoRA", "RoLoRA"}
    others = {"FedEP", "FedExP", "FedProto", "FLTrust", "LocalOnly", "StreamingDiLoCo"}
    assert none == others | of_adapters
    # As the README has it: two more take only a mean.
    readme = PAGES[0].read_text("utf-8")
    first, second = re.findall(
        r"All but (`[^:.]*?`)\s+and the five\s+of adapters", readme
    )
    assert set(re.findall(r"`(\w+)`", first)) == others | {"IFCA", "HypCluster"}
    server = ("server_optim", "server_learning_rate")
    none = {name for name, x in takes.items() if not any(word in x for word in server)}
    without = {"FedACG", "FedDC", "FedDyn", "FedEP", "FedExP", "FedSpeed", "IFCA"}
    without |= {"FedLin", "FedSMOO", "Scaffnew", "LocalOnly", "FedProto", "QFedAvg"}
    assert none == {"MIFA", "FedAsync"} | without | of_adapters
    assert set(re.findall(r"`(\w+)`", second)) == none - of_adapters
    # As docs/choosing.md has it.
    weighted = {
        "AFL",
        "TERM",
        "AgnosticFedAvg",
        "FedSGD",
        "FedAvg",
        "FedAvgM",
        "FedAdagrad",
        "FedAdam",
        "FedYogi",
    }
    weighted |= {"FedProx", "FedNova", "FedSAM", "HypCluster", "FedPA"}
    weighted |= {"FedDecorr", "FedLC", "FedNTD", "MOON", "FedALA", "FedRoD"}
    weighted |= {"FedPer", "LGFedAvg", "FedAlt", "FedBABU"}
    alone = (eqf.FedEP, eqf.FedProto, eqf.FLTrust, eqf.LocalOnly, eqf.StreamingDiLoCo)
    algorithms = [
        x for x in algorithms if x not in alone and x.__name__ not in of_adapters
    ]
    assert {x.__name__: type(usual_mean(x)) for x in algorithms} == {
        name: eqf.WeightedMean if name in weighted else eqf.UniformMean
        for name in takes.keys() - of_adapters - {x.__name__ for x in alone}
    }


def test_an_algorithm_can_be_read():
    algorithm = eqf.FedProx(plain, SGD, BATCHING, mu=0.25)
    for part in (*vars(algorithm).values(), BATCHING):
        assert type(part).__name__ in repr(algorithm)
    # Optimisers show their numbers, the other parts their shapes.
    assert "scale: -0.1" in repr(algorithm)
    assert "mu=f32[]" in repr(algorithm)
    assert "mu=Array(0.25" in eqx.tree_pformat(algorithm, short_arrays=False)


# How to choose.

WITH = {
    "FedAvg": {},
    "FedAdagrad": {},
    "FedAdam": {},
    "FedYogi": {},
    "FedProx": {"mu": 0.1},
    "Scaffold": {},
    "FedNova": {},
    "FedDyn": {"alpha": 0.1},
    "FedEP": {},
}


def begun(name):
    algorithm = getattr(eqf, name)(plain, SGD, BATCHING, **WITH[name])
    return algorithm, algorithm.init(testing.Linear(), num_clients=5)


def numbers(tree):
    leaves = jtu.tree_leaves(eqx.filter(tree, eqx.is_inexact_array))
    return sum(x.size for x in leaves)


@pytest.mark.parametrize("name", WITH)
def test_what_an_algorithm_keeps(name):
    algorithm, state = begun(name)
    model = numbers(state.model)
    kept = {"Scaffold": 1, "FedDyn": 1, "FedEP": 2}
    assert numbers(state.clients) == 5 * model * kept.get(name, 0)
    if name in ("FedAdagrad", "FedAdam", "FedYogi"):
        assert numbers(state.server) == 2 * model
    uniform = ("Scaffold", "FedDyn", "FedEP")
    kind = eqf.UniformMean if name in uniform else eqf.WeightedMean
    assert type(algorithm.aggregator) is kind


def test_fednova_is_fedavg_if_all_take_as_many_steps():
    batching, optim = eqf.data.Steps(3, batch_size=2), optax.sgd(0.1, momentum=0.5)
    cohort = eqf.data.cohort(DATA, batching)
    assert_close(
        one_round(eqf.FedNova(plain, optim, batching), cohort)[0].model,
        one_round(eqf.FedAvg(plain, optim, batching), cohort)[0].model,
    )


def test_adam_with_a_large_tau_is_momentum_sgd():
    optim, x, momentum = eqf.server_adam(1.0, tau=1e4), jnp.zeros(3), np.zeros(3)
    state = optim.init(x)
    for number in range(3):
        gradient = jr.normal(jr.key(number), (3,))
        momentum = 0.9 * momentum + 0.1 * np.asarray(gradient)
        updates, state = optim.update(gradient, state, x)
        ratios = np.asarray(updates) / momentum
        np.testing.assert_allclose(ratios, ratios[0], rtol=1e-3)


def test_a_round_of_clients_whose_batches_are_all_dropped():
    batching = eqf.data.Epochs(1, batch_size=5, last="drop")
    cohort = eqf.data.cohort(DATA, batching)
    state, metrics = one_round(eqf.FedAvg(plain, SGD, batching), cohort)
    assert eqx.tree_equal(state.model, testing.Linear())
    assert jnp.isnan(metrics["loss"])


# Write your own algorithm.


def test_the_laws_that_see_mistakes():
    text = (ROOT / "docs" / "own-algorithm.md").read_text("utf-8")
    table = text.split("| what is wrong | which law fails |")[1].split("\n\n")[0]
    named = {law for row in table.splitlines() for law in re.findall(r"`(\w+)`", row)}
    assert len(named) == 10
    # `test_laws.py` holds that each of these is seen.
    assert named <= {law for _, law in BROKEN.values()}


class Scaled(eqf.AbstractCorrection):
    """Multiplies each gradient with a number."""

    alpha: object

    def init(self, params):
        return None

    def payload(self, params):
        return params

    def begin(self, params, shared, state, gradient):
        return None

    def correct(self, grads, params, carry, gradient):
        return jtu.tree_map(lambda g: self.alpha * g, grads), carry

    def end(self, delta, num_steps, carry):
        return delta, None


@pytest.mark.parametrize("kind", (float, eqf.floating))
def test_a_plain_float_is_traced_anew(kind):
    count = [0]

    def counted(model, example, key):
        count[0] += 1
        return plain(model, example, key)

    def traced(number):
        client = eqf.LocalSGD(counted, SGD, BATCHING, Scaled(kind(number)))
        algorithm = eqf.Algorithm(client, eqf.UniformMean(), server)
        jax.eval_shape(lambda: one_round(algorithm)[1])
        before, count[0] = count[0], 0
        return before

    server = eqf.OptaxServer(optax.sgd(1.0))
    assert traced(0.5) > 0
    assert (traced(0.25) > 0) == (kind is float)


# Posterior averaging.


def test_messages_grow_with_rho_up_to_a_bound():
    samples = 1 + 0.3 * jr.normal(jr.key(0), (4, 6))
    mean = np.linalg.norm(samples.mean(0))
    lengths = [np.linalg.norm(eqp.Shrinkage(rho)(samples)) for rho in (0.0, 1.0, 10.0)]
    np.testing.assert_allclose(lengths[0], mean, rtol=1e-5)
    assert lengths[0] < lengths[1] < lengths[2] < (1 + 3 * 10.0) * mean
    # It is reached where samples hardly vary.
    alike = jnp.broadcast_to(samples[0], (4, 6)) + 1e-4 * samples
    length = np.linalg.norm(eqp.Shrinkage(10.0)(alike))
    np.testing.assert_allclose(length, 31 * np.linalg.norm(alike.mean(0)), rtol=1e-3)


def test_another_rate_of_a_sampler_does_not_recompile():
    count, batching = [0], eqf.data.Steps(2, batch_size=2)
    cohort = eqf.data.cohort(DATA, batching)

    def counted(model, example, key):
        count[0] += 1
        return plain(model, example, key)

    algorithm = eqf.FedPA(counted, eqp.IASG(optax.sgd(0.1), average=1), batching)
    before, _ = one_round(algorithm, cohort)
    traced = count[0]
    slower = eqp.IASG(optax.sgd(0.05), average=1)
    algorithm = eqx.tree_at(lambda a: a.client.sampler, algorithm, slower)
    after, _ = one_round(algorithm, cohort)
    assert count[0] == traced
    assert not jnp.allclose(before.model.weight, after.model.weight)


# Design.


def test_the_keys_are_folded_as_the_design_says():
    # One example and one step: the gradient is a number drawn by the example's key.
    def drawn(model, example, key):
        return model.x * jr.uniform(key)

    data = testing.Quadratics((1.0,), (0.0,), (1,)).dataset()
    batching = eqf.data.Epochs(1, batch_size=1)
    algorithm = eqf.FedSGD(drawn, optax.sgd(1.0), batching)
    state = algorithm.init(testing.Point(0.0), num_clients=1)
    state = eqx.tree_at(lambda s: s.round, state, state.round + 5)
    cohort = eqf.data.cohort(data, batching)
    state, _ = algorithm.round(state, cohort, key=jr.key(7))
    client = jr.fold_in(jr.split(jr.fold_in(jr.key(7), 5), 3)[0], 0)
    training, _ = jr.split(client)
    (example,) = jr.split(jr.fold_in(training, 0), 1)
    np.testing.assert_allclose(state.model.x, -jr.uniform(example), rtol=1e-6)


def test_the_number_of_an_empty_slot():
    assert NO_CLIENT == 2**31 - 1

"""Agnostic FedAvg against its paper's pseudo-code in NumPy: two quadratics that differ
by domain, mixed in unlike shares."""

import re

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf


ETA, RATE, ROUNDS, WINDOW = 0.1, 0.3, 5, 2
CENTRES = np.array([1.0, -2.0, 4.0])
# The domains of each client's examples; the last domain is in one client alone.
DOMAINS = {"a": [0, 0, 0, 1], "b": [1, 0], "c": [2, 2, 0, 1, 1]}
DATASET = eqf.data.FederatedDataset.from_mapping(
    {k: {"domain": np.array(v, np.int32)} for k, v in DOMAINS.items()}
)
COHORTS = [["a", "b"], ["a", "c"], ["b", "c"], ["a", "b"], ["a", "b", "c"]]


def loss(model, example, key):
    return 0.5 * (model - jnp.asarray(CENTRES, model.dtype)[example["domain"]]) ** 2


def paper():
    """All of a client's examples in each of two steps."""
    x, lam, window = 3.0, np.full(3, 1 / 3), [np.zeros(3)] * WINDOW
    for cohort in COHORTS:
        counts = {k: np.bincount(DOMAINS[k], minlength=3) for k in cohort}
        total = sum(counts.values())
        seen = np.mean(window, axis=0)
        seen = np.where(seen > 0, seen, total)
        alpha = np.where(seen > 0, lam / np.where(seen > 0, seen, 1), 0)
        losses = 0.5 * (x - CENTRES) ** 2
        deltas, betas = [], []
        for k in cohort:
            beta, y = alpha @ counts[k], x
            for _ in range(2):
                y -= ETA * (alpha * counts[k]) @ (y - CENTRES) / beta
            deltas.append(y - x)
            betas.append(beta)
        x += np.dot(betas, deltas) / np.sum(betas)
        new = np.where(total > 0, lam * np.exp(RATE * losses), 0)
        share = lam[total > 0].sum()
        lam = np.where(total > 0, new / new.sum() * share, lam)
        window = [*window[1:], total]
    return x, lam, np.array(window)


def trained(**kwargs):
    batching = eqf.data.Epochs(2, batch_size=5)
    algorithm = eqf.AgnosticFedAvg(
        loss,
        optax.sgd(ETA),
        batching,
        num_domains=3,
        domain_learning_rate=RATE,
        window=WINDOW,
        **kwargs,
    )
    state = algorithm.init(jnp.asarray(3.0), num_clients=3)
    metrics = {}
    for cohort in COHORTS:
        clients = [DATASET.client_ids.index(k) for k in cohort]
        cohort = eqf.data.cohort(DATASET, batching, clients=clients)
        state, metrics = algorithm.round(state, cohort, key=jr.key(0))
    return state, metrics


def test_as_in_the_paper():
    x, lam, window = paper()
    state, metrics = trained()
    np.testing.assert_allclose(state.model, x, rtol=1e-5)
    np.testing.assert_allclose(state.server.weights, lam, rtol=1e-5)
    np.testing.assert_array_equal(state.server.window, window)
    # An absent domain keeps its weight, and the weights stay a distribution.
    np.testing.assert_allclose(lam.sum(), 1)
    assert metrics.keys() >= {"loss", "clients"}


def test_metrics_are_of_the_plain_loss():
    batching = eqf.data.Epochs(1, batch_size=5)
    algorithm = eqf.AgnosticFedAvg(
        loss, optax.sgd(0.0), batching, num_domains=3, domain_learning_rate=0.0
    )
    state = algorithm.init(jnp.asarray(3.0), num_clients=3)
    cohort = eqf.data.cohort(DATASET, batching)
    _, metrics = algorithm.round(state, cohort, key=jr.key(0))
    all_of_them = np.concatenate([*DOMAINS.values()])
    expected = np.mean(0.5 * (3 - CENTRES[all_of_them]) ** 2)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)


def test_exponentiated_gradient():
    # FedJAX's numbers.
    algorithm = eqf.AgnosticFedAvg(
        loss,
        optax.sgd(ETA),
        eqf.data.Epochs(1, batch_size=5),
        num_domains=4,
        domain_weights=np.array([0.1, 0.2, 0.3, 0.4]),
        domain_learning_rate=0.1,
    )
    losses = jnp.array([10.0, 0.0, 5.0, 0.0])
    got = algorithm._reweighted(algorithm.domain_weights, losses, jnp.ones(4))
    expected = [0.198931, 0.14636526, 0.36197326, 0.2927305]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_with_one_domain_it_is_fedavg():
    batching = eqf.data.Epochs(2, batch_size=2)
    models = []
    for make in (
        lambda *x: eqf.FedAvg(*x),
        lambda *x: eqf.AgnosticFedAvg(
            *x, num_domains=1, domain=lambda e: 0 * e["domain"], domain_learning_rate=1
        ),
    ):
        algorithm = make(loss, optax.sgd(ETA, momentum=0.9), batching)
        state = algorithm.init(jnp.asarray(3.0), num_clients=3)
        for number in range(2):
            cohort = eqf.data.cohort(DATASET, batching, seed=number)
            state, _ = algorithm.round(state, cohort, key=jr.key(0))
        models.append(state.model)
    np.testing.assert_allclose(*models, rtol=1e-5)


def with_another_domain(other):
    """In "c" a part of the examples are of it, in "d" all."""
    domains = {k: np.array(v) for k, v in {**DOMAINS, "d": [2]}.items()}
    return eqf.data.FederatedDataset.from_mapping(
        {k: {"domain": np.where(v == 2, other, v)} for k, v in domains.items()}
    )


def of_two_domains(**kwargs):
    def of_the_model(model, example, key):
        return 0.5 * model**2

    batching = eqf.data.Epochs(1, batch_size=2)
    kwargs = {"num_domains": 2, "domain_learning_rate": 0.1, **kwargs}
    return eqf.AgnosticFedAvg(of_the_model, optax.sgd(ETA), batching, **kwargs)


@pytest.mark.parametrize("other", (2, -1))
def test_a_domain_that_there_is_not_is_found_out(other):
    # Of a number that is computed nobody knows before.
    algorithm = of_two_domains(domain=lambda e: e["domain"] * 3 - e["domain"] * 2)
    state = algorithm.init(jnp.asarray(3.0), num_clients=4)
    dataset = with_another_domain(other)
    cohort = eqf.data.cohort(dataset, algorithm.batching, clients=[0, 2, 3])
    state, metrics = algorithm.round(state, cohort, key=jr.key(0))
    assert metrics["nonfinite"] == 2
    assert np.isfinite(state.model)


@pytest.mark.parametrize("other", (5, -1))
@pytest.mark.parametrize("domain", ("domain", lambda e: e["domain"].astype("int8")))
def test_a_column_of_domains_is_looked_at(domain, other):
    dataset = with_another_domain(other)
    algorithm, model = of_two_domains(domain=domain), jnp.asarray(3.0)
    row = int(np.flatnonzero(np.array(DOMAINS["c"]) == 2)[0])
    remedy = "Give `num_domains=6`, or number" if other == 5 else "Number"
    words = f"`domain` gives {other} for row {row} of client 'c', by column 'domain', "
    words += f"but there are `num_domains=2`, from 0 to 1. {remedy} the column"
    for around in (lambda x: x, eqf.Diagnose, lambda x: eqf.OverRounds(lambda t: x)):
        wrapped = around(algorithm)
        loader = eqf.data.Loader(dataset, eqf.data.AllClients(), algorithm.batching)
        with pytest.raises(ValueError, match=re.escape(words)):
            eqf.train(wrapped, model, loader, num_rounds=1, key=jr.key(0))
        state = wrapped.init(model, num_clients=4)
        cohort = eqf.data.cohort(dataset, algorithm.batching, clients=[0, 2, 3])
        with pytest.raises(ValueError, match=re.escape(words.replace("'c'", "2"))):
            wrapped.round(state, cohort, key=jr.key(0))


def test_a_domain_that_is_meant_is_not_refused():
    def first_or_other(example):
        return jnp.where(example["domain"] > 1, 0, example["domain"])

    algorithm, model = of_two_domains(domain=first_or_other), jnp.asarray(3.0)
    clients = with_another_domain(7)
    loader = eqf.data.Loader(clients, eqf.data.AllClients(), algorithm.batching)
    solution = eqf.train(algorithm, model, loader, num_rounds=1, key=jr.key(0))
    assert solution.history[-1]["nonfinite"] == 0


def test_a_column_that_is_not_there():
    batching = eqf.data.Epochs(1, batch_size=2)
    algorithm = eqf.AgnosticFedAvg(
        loss,
        optax.sgd(ETA),
        batching,
        num_domains=2,
        domain="language",
        domain_learning_rate=0.1,
    )
    state = algorithm.init(jnp.asarray(3.0), num_clients=3)
    with pytest.raises(ValueError, match="no 'language' in"):
        algorithm.round(state, eqf.data.cohort(DATASET, batching), key=jr.key(0))


def test_the_server_leaves_alone_what_the_loss_does_not_reach():
    def of_part(model, example, key):
        return loss(model["used"], example, key)

    batching = eqf.data.Epochs(1, batch_size=2)
    algorithm = eqf.AgnosticFedAvg(
        of_part,
        optax.sgd(ETA),
        batching,
        num_domains=3,
        domain_learning_rate=0.1,
        server_optim=optax.adamw(0.1, weight_decay=0.5),
    )
    start = {"used": jnp.asarray(3.0), "unused": jnp.asarray(2.0)}
    state = algorithm.init(start, num_clients=3)
    cohort = eqf.data.cohort(DATASET, batching)
    state, _ = algorithm.round(state, cohort, key=jr.key(0))
    assert state.model["used"] != 3
    assert state.model["unused"] == 2

"""A recipe that promises something to its clients: its plan is what is run."""

import dataclasses
import json

import equinox as eqx
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

import equifed as eqf
import equifed.privacy as eqp
from equifed import recipes, testing
from equifed._cli import main
from equifed.recipes._privacy import with_plan


pytest.importorskip("dp_accounting")
BATCHING = eqf.data.Epochs(1, batch_size=4)
NAME = "pfl-cifar10-iid-private"
ALL = (NAME, "pfl-cifar10-dir0.1-private", "pfl-stackoverflow-private")


def test_the_noise_of_pfl_s_benchmark():
    from dp_accounting.pld import privacy_loss_distribution as pld

    recipe = recipes.recipe(NAME)
    assert recipe.privacy is not None
    given = {"num_clients": 1000, "clients_per_round": 50, "rounds": recipe.rounds}
    plan = recipe.privacy.plan(**given, seed=0)
    # As pfl accounts for a cohort of 1,000 out of a million, and scales the noise.
    multiplier = plan.noise_multiplier * 1000 / 50
    found = pld.from_gaussian_mechanism(
        multiplier,
        sensitivity=1,
        sampling_prob=1e-3,
        value_discretization_interval=1e-4,
    )
    epsilon = found.self_compose(recipe.rounds).get_epsilon_for_delta(1e-6)
    np.testing.assert_allclose(epsilon, 2.0, rtol=1e-3)
    np.testing.assert_allclose(plan.deployed_epsilon(), 2.0, rtol=1e-3)
    assert plan.epsilon() > 100_000
    # The figures of the recipe's notes.
    assert f"{multiplier:.3f}" in recipe.notes
    drawn = eqp.PrivacyPlan(
        eqf.data.UniformSampler(1000),
        eqp.PrivateMean(
            eqp.FlatClip(0.4), noise_multiplier=1.487, expected_clients=1000
        ),
        num_clients=1_000_000,
        num_rounds=recipe.rounds,
        delta=1e-6,
    )
    np.testing.assert_allclose(drawn.epsilon(), 2.0, rtol=1e-3)
    assert "1.487" in recipe.notes


def test_a_changing_rate_of_the_server_costs_no_privacy():
    # What a plan promises is of the noised sums: any rate is made of these alone.
    plan = eqp.PrivacyPlan(
        eqf.data.PoissonSampler(0.5, seed=3),
        eqp.PrivateMean(eqp.FlatClip(0.5), noise_multiplier=1.0, expected_clients=2),
        **{"num_clients": 4, "num_rounds": 4, "delta": 1e-3},
    )
    data, batching = testing.ragged_clients((5, 3, 4, 8)), BATCHING
    loader = eqf.data.Loader(data, plan.sampler, batching)

    def make(round):
        rate = recipes.Decay(warmup=4)(0.4, round)
        parts = (testing.noisy_loss, optax.sgd(0.1), batching)
        return eqf.FedAvg(*parts, server_optim=optax.sgd(rate))

    changing = with_plan(eqf.OverRounds(make), plan)
    kwargs = {"key": jr.key(0), "privacy": plan, "num_rounds": 4}
    found = eqf.train(changing, testing.Linear(), loader, **kwargs)
    steady = with_plan(make(4), plan)
    same = eqf.train(steady, testing.Linear(), loader, **kwargs)
    epsilons = [[row["epsilon"] for row in x.history] for x in (found, same)]
    assert epsilons[0] == epsilons[1] == [plan.epsilon(i) for i in (1, 2, 3, 4)]
    # One round after another by hand, each with its own rate.
    state = steady.init(testing.Linear(), num_clients=4)
    for round, cohort in loader.cohorts(0, 4):
        one = with_plan(make(round), plan)
        state, _ = one.round(state, cohort, key=jr.key(0))
    for x, y in zip(
        jtu.tree_leaves(state.model), jtu.tree_leaves(found.model), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=1e-5)
    # And not another mechanism in some round.
    other = dataclasses.replace(plan.mechanism, noise_multiplier=0.5)
    wrong = eqf.OverRounds(
        lambda t: eqx.tree_at(lambda a: a.aggregator, make(t), other)
    )
    with pytest.raises(ValueError, match="must aggregate with the plan's own"):
        eqf.train(wrong, testing.Linear(), loader, **kwargs)


@pytest.mark.parametrize("name", ALL)
def test_its_small_form_trains_with_its_plan(name):
    # Few clients, with noise of their own.
    promised = recipes.Privacy(epsilon=8.0, delta=1e-3, clip_norm=0.4)
    recipe = dataclasses.replace(recipes.recipe(name).small(), privacy=promised)
    train, _ = recipe.task.load()
    plan, loader = recipe.plan(train, seed=1), recipe.loader(train, seed=1)
    assert eqx.tree_equal(loader.sampler, plan.sampler)
    assert plan.deployment is None
    solution = eqf.train(
        recipe.build(plan),
        recipe.task.model(jr.key(0)),
        loader,
        num_rounds=recipe.rounds,
        key=jr.key(0),
        privacy=plan,
    )
    assert 7.9 < solution.history[-1]["epsilon"] <= 8.0
    assert "loss" not in solution.history[-1]
    with pytest.raises(ValueError, match=r"Write `recipe.build\(recipe.plan\("):
        recipe.build()


@pytest.mark.parametrize("seeds", (1, 2))
def test_the_command_line_says_both_epsilons(seeds, tmp_path, capsys):
    pytest.importorskip("tyro")
    folder = tmp_path / "run"
    words = ["run", "--recipe", NAME, "--small", "--rounds", "2", "--seeds", f"{seeds}"]
    assert main([*words, "--output", str(folder)]) == 0
    assert "deployed_epsilon 2" in capsys.readouterr().out
    ends = json.loads((folder / "result.json").read_text())
    assert len(ends) == seeds
    for end in ends:
        assert end["last"]["deployed_epsilon"] == pytest.approx(2.0, rel=1e-3)
        assert end["last"]["epsilon"] > 1000
    if seeds == 1:
        (lines,) = folder.glob("metrics*.jsonl")
        first = json.loads(lines.read_text().splitlines()[0])
        assert first["epsilon"] < ends[0]["last"]["epsilon"]
        assert "loss" not in first
        again = ["run", "--config", str(folder / "config.json")]
        other = [*again, "--aggregator", "median", "--output", str(tmp_path / "other")]
        assert main(other) == 1
        assert "`aggregator` and `privacy` are two ways" in capsys.readouterr().err

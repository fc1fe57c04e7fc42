"""Each algorithm against its paper's pseudo-code, written here in plain NumPy.

The clients are quadratics whose every batch gives the exact gradient, so that the
pseudo-code is a few lines on numbers. Clients have unequal numbers of steps, and only
two of three take part in a round.
"""

import numpy as np
import optax
import pytest

import equifed as eqf
import equifed.posterior as eqp
from equifed import testing


ETA, ROUNDS = 0.05, 6
PROBLEM = testing.Quadratics((1.0, 4.0, 2.0), (1.0, -1.0, 3.0), (4, 8, 20))
A, B, N = (
    np.array(v) for v in (PROBLEM.curvatures, PROBLEM.centres, PROBLEM.num_examples)
)
BATCHING = eqf.data.Epochs(2, batch_size=4)
STEPS = 2 * N // 4
SAMPLER = eqf.data.UniformSampler(2, seed=3)
COHORTS = [SAMPLER(r, 3) for r in range(ROUNDS)]


def check(make, expected):
    got = testing.run(
        make, PROBLEM, num_rounds=ROUNDS, batching=BATCHING, sampler=SAMPLER
    )
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


def local(i, x, correct=lambda y: 0.0, momentum=0.0):
    """Local SGD of client i: the last iterate, and the gradients met."""
    y, v, grads = x, 0.0, []
    for _ in range(STEPS[i]):
        grads.append(A[i] * (y - B[i]))
        v = momentum * v + grads[-1] + correct(y)
        y = y - ETA * v
    return y, grads


def mean_delta(x, cohort, **kwargs):
    deltas = np.array([local(i, x, **kwargs)[0] - x for i in cohort])
    return (N[cohort] * deltas).sum() / N[cohort].sum()


def test_the_cohorts_differ():
    assert len({tuple(sorted(c)) for c in COHORTS}) > 1


def test_fedavg():
    x = [3.0]
    for cohort in COHORTS:
        x.append(x[-1] + mean_delta(x[-1], cohort))
    check(lambda f, b: eqf.FedAvg(f, optax.sgd(ETA), b), x)


def test_fedavg_with_client_momentum():
    x = [3.0]
    for cohort in COHORTS:
        x.append(x[-1] + mean_delta(x[-1], cohort, momentum=0.9))
    check(lambda f, b: eqf.FedAvg(f, optax.sgd(ETA, momentum=0.9), b), x)


def test_fedsgd():
    x = [3.0]
    for cohort in COHORTS:
        grads = A[cohort] * (x[-1] - B[cohort])
        x.append(x[-1] - ETA * (N[cohort] * grads).sum() / N[cohort].sum())
    check(lambda f, b: eqf.FedSGD(f, optax.sgd(ETA), b), x)


def test_fedavgm():
    x, v = [3.0], 0.0
    for cohort in COHORTS:
        v = 0.7 * v + mean_delta(x[-1], cohort)
        x.append(x[-1] + 0.5 * v)
    check(
        lambda f, b: eqf.FedAvgM(
            f, optax.sgd(ETA), b, momentum=0.7, server_learning_rate=0.5
        ),
        x,
    )


SECOND_MOMENTS = {
    "FedAdagrad": lambda v, d, b2: v + d**2,
    "FedAdam": lambda v, d, b2: b2 * v + (1 - b2) * d**2,
    "FedYogi": lambda v, d, b2: v - (1 - b2) * d**2 * np.sign(v - d**2),
}


@pytest.mark.parametrize("name", SECOND_MOMENTS)
def test_adaptive(name):
    rate, b1, b2, tau = 0.3, 0.6, 0.8, 0.05
    x, m, v = [3.0], 0.0, tau**2
    for cohort in COHORTS:
        delta = mean_delta(x[-1], cohort)
        m = b1 * m + (1 - b1) * delta
        v = SECOND_MOMENTS[name](v, delta, b2)
        x.append(x[-1] + rate * m / (np.sqrt(v) + tau))
    kwargs = {"b1": b1, "tau": tau}
    if name != "FedAdagrad":
        kwargs["b2"] = b2
    algorithm = getattr(eqf, name)
    check(
        lambda f, b: algorithm(
            f, optax.sgd(ETA), b, server_learning_rate=rate, **kwargs
        ),
        x,
    )


def test_fedprox():
    x, mu = [3.0], 0.7
    for cohort in COHORTS:
        start = x[-1]
        x.append(
            start + mean_delta(start, cohort, correct=lambda y, s=start: mu * (y - s))
        )
    check(lambda f, b: eqf.FedProx(f, optax.sgd(ETA), b, mu=mu), x)


@pytest.mark.parametrize("option", (1, 2))
def test_scaffold(option):
    x, c, ci, server_rate = [3.0], 0.0, np.zeros(3), 0.8
    for cohort in COHORTS:
        dx, dc = [], []
        for i in cohort:
            y, _ = local(i, x[-1], correct=lambda y, i=i, c=c: c - ci[i])
            if option == 1:
                new = A[i] * (x[-1] - B[i])
            else:
                new = ci[i] - c + (x[-1] - y) / (STEPS[i] * ETA)
            dx.append(y - x[-1])
            dc.append(new - ci[i])
            ci[i] = new
        x.append(float(x[-1] + server_rate * np.mean(dx)))
        c = c + len(cohort) / 3 * np.mean(dc)
    check(
        lambda f, b: eqf.Scaffold(
            f, optax.sgd(ETA), b, option=option, server_optim=optax.sgd(server_rate)
        ),
        x,
    )


@pytest.mark.parametrize("momentum, mu", ((0.0, 0.0), (0.9, 0.0), (0.0, 0.7)))
def test_fednova(momentum, mu):
    x = [3.0]
    for cohort in COHORTS:
        start, directions, norms = x[-1], [], []
        for i in cohort:
            y, _ = local(
                i,
                start,
                correct=lambda y, s=start: mu * (y - s),
                momentum=momentum,
            )
            # The paper's section 4: a for SGD, for momentum, for the proximal term.
            k = np.arange(int(STEPS[i]))
            if momentum:
                a = (1 - momentum ** (STEPS[i] - k)) / (1 - momentum)
            else:
                a = (1 - ETA * mu) ** (STEPS[i] - 1 - k)
            norms.append(a.sum())
            directions.append((start - y) / ETA / a.sum())
        p = N[cohort] / N[cohort].sum()
        x.append(start - (p * norms).sum() * ETA * (p * directions).sum())
    correction = eqf.Proximal(mu) if mu else None
    check(
        lambda f, b: eqf.FedNova(
            f, optax.sgd(ETA, momentum=momentum or None), b, correction=correction
        ),
        x,
    )


def test_feddyn():
    x, h, hi, alpha = [3.0], 0.0, np.zeros(3), 0.6
    for cohort in COHORTS:
        start, thetas = x[-1], []
        for i in cohort:
            y, _ = local(
                i, start, correct=lambda y, i=i, s=start: alpha * (y - s) - hi[i]
            )
            hi[i] -= alpha * (y - start)
            thetas.append(y)
        h -= alpha / 3 * sum(y - start for y in thetas)
        x.append(float(np.mean(thetas) - h / alpha))
    check(lambda f, b: eqf.FedDyn(f, optax.sgd(ETA), b, alpha=alpha), x)


@pytest.mark.parametrize("burnin", (0, 1))
def test_fedpa(burnin):
    """The benchmark's version: one sample an epoch, burn-in epochs and rounds."""
    batching = eqf.data.Epochs(4, batch_size=4)
    rho, start_round, rate, momentum = 0.7, 2, 0.6, 0.5
    x, v = [3.0], 0.0
    for r, cohort in enumerate(COHORTS):
        deltas = []
        for i in cohort:
            y, velocity, iterates = x[-1], 0.0, []
            for _ in range(4 * N[i] // 4):
                velocity = 0.9 * velocity + A[i] * (y - B[i])
                y = y - ETA * velocity
                iterates.append(y)
            samples = np.reshape(iterates, (4, -1)).mean(1)[burnin:]
            length = len(samples)
            shrink = 1 / (1 + (length - 1) * rho)
            sigma = shrink + (1 - shrink) * samples.var(ddof=1)
            exact = (x[-1] - samples.mean()) / sigma
            deltas.append(x[-1] - y if r < start_round else exact)
        gradient = (N[cohort] * deltas).sum() / N[cohort].sum()
        v = momentum * v + gradient
        x.append(x[-1] - rate * v)

    def make(loss, batching):
        return eqf.FedPA(
            loss,
            eqp.IASG(optax.sgd(ETA, momentum=0.9), burnin=burnin),
            batching,
            rho=rho,
            start_round=start_round,
            server_optim=optax.sgd(rate, momentum=momentum),
        )

    got = testing.run(
        make, PROBLEM, num_rounds=ROUNDS, batching=batching, sampler=SAMPLER
    )
    np.testing.assert_allclose(got, x, rtol=2e-5, atol=2e-5)


def test_fedep():
    """Cavity, tilted distribution, new factor; in natural parameters."""
    prior, damping, rate = 20.0, 0.7, 0.02
    x, precision, linear = [3.0], prior, prior * 3.0
    factors = np.zeros((3, 2))
    for cohort in COHORTS:
        changes = []
        for i in cohort:
            cavity = np.array([precision, linear]) - factors[i]
            y = x[-1]
            for _ in range(int(STEPS[i])):
                pull = (cavity[0] * y - cavity[1]) / N[i]
                y = y - rate * (A[i] * (y - B[i]) + pull)
            tilted = np.array([1.0, y]) * (cavity[0] + N[i] * A[i])
            changes.append(damping * (tilted - cavity - factors[i]))
        for i, change in zip(cohort, changes, strict=True):
            factors[i] += change
        precision, linear = np.array([precision, linear]) + sum(changes)
        x.append(float(linear / precision))
    check(
        lambda f, b: eqf.FedEP(
            f,
            optax.sgd(rate),
            b,
            prior_precision=prior,
            damping=damping,
            curvature="hessian",
        ),
        x,
    )

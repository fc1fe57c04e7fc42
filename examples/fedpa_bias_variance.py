r"""What FedPA's correction buys, and what it costs: bias and variance of its messages.

Random least squares, so that everything is known. A client with the mean loss f should
send the *exact delta* $\Sigma^{-1} (\mu - x) = -\nabla f(x)$, the gradient of all its
examples. Its messages vary with the order in which it visits them. Their lengths do not
matter, as the server's learning rate absorbs them, so the mean message is scaled to the
exact delta's length. As shares of that length,

- **bias** is the distance between the two after that, 0 if they point the same way;
- **spread** is the standard deviation of the messages around their mean. Its square is
  the variance.

Part 1 measures both at one x, as root mean squares over the clients. Part 2 trains: the
distance to the global optimum, by round, with the learning rates and the rho that end
closest to it. It shows where FedPA loses, too.

    python examples/fedpa_bias_variance.py [--output .]
"""

import argparse
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import equifed as eqf


DIM, CLIENTS, EXAMPLES, BATCH = 10, 5, 200, 10
RATES = {"FedAvg": 0.05, "FedAvg, small rate": 0.0005}  # in part 1; FedPA's is 0.05
REPEATS = 100  # orders of the examples
EPOCHS = (10, 20, 40, 80)  # of 20 steps
RHOS = np.logspace(0, 4, 9)
SHOWN = {"FedPA, rho 1": 0, "FedPA, rho 10": 2, "FedPA, rho 100": 4}  # of RHOS
ROUNDS, SEEDS = 40, 4  # of part 2, where clients take max(EPOCHS)


def problem_of(seed, smallest=1.0):
    """Clients with curvatures from 1 to 10, before their features are scaled."""
    problem = eqf.objectives.random_least_squares(
        CLIENTS, DIM, num_examples=EXAMPLES, noise=3.0, key=jr.key(seed)
    )
    scales = jnp.geomspace(1, smallest, DIM)
    rows = [(o.features * scales, o.targets) for o in problem.objectives]
    return eqf.objectives.FederatedProblem(
        [eqf.objectives.LeastSquares(x, y) for x, y in rows]
    )


def mbsgd(loss, epochs, *, rate=0.05, rho=0.0, server_rate=1.0):
    """An epoch's gradients have an exact mean: those of more would be the same."""
    batching = eqf.data.Epochs(1, batch_size=BATCH)
    return eqf.FedSGD(loss, optax.sgd(server_rate), batching)


def fedavg(loss, epochs, *, rate=0.05, rho=0.0, server_rate=1.0):
    batching = eqf.data.Epochs(epochs, batch_size=BATCH)
    server_optim = optax.sgd(server_rate)
    return eqf.FedAvg(loss, optax.sgd(rate), batching, server_optim=server_optim)


def fedpa(loss, epochs, *, rate=0.05, rho=100.0, server_rate=1.0):
    """The same steps. A fifth of the epochs are burn-in, the others a sample each."""
    burnin = epochs // 5
    longest = 1 + (epochs - burnin - 1) * rho
    return eqf.FedPA(
        loss,
        eqf.IASG(optax.sgd(rate), burnin=burnin),
        eqf.data.Epochs(epochs, batch_size=BATCH),
        rho=rho,
        server_optim=optax.sgd(server_rate / longest),
    )


def exact_fedpa(loss, epochs, *, rate=0.05, rho=300.0, server_rate=1.0):
    """With independent samples of the posterior itself, as many as there are epochs."""
    longest = 1 + (epochs - 1) * rho
    return eqf.FedPA(
        loss,
        eqf.ExactGaussian(epochs, temperature=0.01),
        eqf.data.Epochs(1, batch_size=BATCH),
        rho=rho,
        server_optim=optax.sgd(server_rate / longest),
    )


# What part 2 chooses from: the clients' learning rate, rho, and the server's learning
# rate, for FedPA in multiples of 1 / (1 + (l - 1) rho) for l samples. Where FedAvg ends
# hardly depends on the server's.
GRIDS = {
    "MB-SGD": (mbsgd, (0.0,), (0.0,), (0.1, 0.15, 0.2, 0.3, 0.4)),
    "FedAvg": (fedavg, (0.02, 0.05), (0.0,), (1.0,)),
    "FedAvg, small rate": (fedavg, (1e-4, 5e-4), (0.0,), (1.5,)),
    "FedPA": (fedpa, (0.02, 0.05), (3.0, 30.0), (0.3, 1.0)),
    "FedPA, exact samples": (exact_fedpa, (0.0,), (300.0,), (1.0, 3.0, 10.0, 30.0)),
}


# Part 1: the messages of one round.


def cohorts_of(problem, batching, number):
    """As many rounds of all the clients, stacked."""
    sampler = eqf.data.AllClients()
    loader = eqf.data.Loader(problem.dataset(), sampler, batching)
    return jax.tree.map(lambda *x: jnp.stack(x), *map(loader, range(number)))


@eqx.filter_jit
def messages(make, loss, epochs, rates, rhos, cohorts):
    """What every client sends from x = 0: [rates, rhos, repeats, clients, dim]."""
    broadcast = eqf.Broadcast(jnp.zeros(DIM), None)

    def message(rate, rho, cohort, slot):
        # Of the one device: its pool of examples, and its slot's steps in the order.
        examples = {name: x[0] for name, x in cohort.examples.items()}
        slots = (cohort.start, cohort.stop, cohort.first, cohort.num_examples)
        data = eqf.ClientData(examples, cohort.order[0], *(x[0, slot] for x in slots))
        client = make(loss, epochs, rate=rate, rho=rho).client
        sent, _, _ = client.round(broadcast, data, None, key=jr.key(0))
        return sent.payload

    for i in (3, 2, 1, 0):
        axes = tuple(0 if i == j else None for j in range(4))
        message = eqx.filter_vmap(message, in_axes=axes)
    return message(rates, rhos, cohorts, jnp.arange(CLIENTS))


def bias_and_spread(problem, make, epochs, cohorts, rates, rhos):
    """Both by learning rate and by rho: [2, rates, rhos]."""
    rates, rhos = jnp.asarray(rates), jnp.asarray(rhos)
    sent = np.asarray(messages(make, problem.loss, epochs, rates, rhos, cohorts))
    exact = np.stack([o.quadratic().linear for o in problem.objectives])  # at 0
    mean = sent.mean(2, keepdims=True)
    length = np.linalg.norm(mean, axis=-1, keepdims=True)
    unit = exact / np.linalg.norm(exact, axis=-1, keepdims=True)
    variances = np.square((sent - mean) / length).sum((2, -1)) / (REPEATS - 1)
    biases = np.square((mean / length)[:, :, 0] - unit).sum(-1)
    biases = biases - variances / REPEATS  # the mean of repeats is itself off by that
    return np.sqrt([biases.mean(-1).clip(min=0), variances.mean(-1)])


def measure_messages():
    """By the number of steps: {name: [2, epochs]}; and FedPA's by rho: [2, rhos]."""
    problem = problem_of(0)
    averaged, corrected = [], []
    for epochs in EPOCHS:
        batching = eqf.data.Epochs(epochs, batch_size=BATCH)
        given = epochs, cohorts_of(problem, batching, REPEATS)
        values = bias_and_spread(problem, fedavg, *given, [*RATES.values()], [0.0])
        averaged.append(values[:, :, 0])
        values = bias_and_spread(problem, fedpa, *given, [0.05], RHOS)
        corrected.append(values[:, 0])
    averaged, corrected = np.stack(averaged, axis=-1), np.stack(corrected, axis=-1)
    by_steps = {name: averaged[:, i] for i, name in enumerate(RATES)}
    by_steps |= {name: corrected[:, i] for name, i in SHOWN.items()}
    return by_steps, corrected[:, :, -1]


# Part 2: training.


@eqx.filter_jit
def train(make, loss, epochs, settings, cohorts, optima):
    """The relative distance to the optimum: [settings, seeds, rounds]."""

    at_once = eqf.Executor(block_size=CLIENTS)

    def one(setting, cohorts, optimum):
        rate, rho, server_rate = setting
        algorithm = make(loss, epochs, rate=rate, rho=rho, server_rate=server_rate)

        def step(state, cohort):
            state, _ = algorithm.round(state, cohort, key=jr.key(0), executor=at_once)
            return state, jnp.linalg.norm(state.model - optimum)

        start = algorithm.init(jnp.zeros(DIM), num_clients=CLIENTS)
        _, distances = jax.lax.scan(step, start, cohorts)
        return distances / jnp.linalg.norm(optimum)

    for axes in ((None, 0, 0), (0, None, None)):
        one = eqx.filter_vmap(one, in_axes=axes)
    return one(settings, cohorts, optima)


def compare(smallest):
    """{name: (the best setting, its distances [seeds, rounds])}."""
    problems = [problem_of(seed, smallest) for seed in range(1, SEEDS + 1)]
    loss, epochs = problems[0].loss, max(EPOCHS)
    optima = jnp.stack([problem.optimum() for problem in problems])
    cohorts, best = {}, {}
    for name, (make, *choices) in GRIDS.items():
        settings = tuple(jnp.asarray(x.ravel()) for x in np.meshgrid(*choices))
        batching = make(loss, epochs).batching
        if batching not in cohorts:
            rounds = [cohorts_of(problem, batching, ROUNDS) for problem in problems]
            cohorts[batching] = jax.tree.map(lambda *x: jnp.stack(x), *rounds)
        curves = train(make, loss, epochs, settings, cohorts[batching], optima)
        curves = np.asarray(curves)
        final = np.log(curves[:, :, -1]).mean(1)
        at = int(np.argmin(np.where(np.isfinite(final), final, np.inf)))
        best[name] = [float(x[at]) for x in settings], curves[at]
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("."))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)

    by_steps, by_rho = measure_messages()
    steps = np.array(EPOCHS) * (EXAMPLES // BATCH)
    print("bias / spread of the messages, by the number of local steps")
    print(" " * 22 + "".join(f"{n:>14}" for n in steps))
    for name, values in by_steps.items():
        print(f"{name:>22}" + "".join(f"{b:8.3f} /{s:5.2f}" for b, s in values.T))
    print(f"the same of FedPA by rho, with {steps[-1]} local steps")
    for rho, (bias, spread) in zip(RHOS, by_rho.T, strict=True):
        print(f"{rho:22.0f}{bias:8.3f} /{spread:5.2f}")

    trained = {smallest: compare(smallest) for smallest in (1.0, 0.3)}
    for smallest, best in trained.items():
        print(f"\ndistance to the optimum, if features are scaled by 1 to {smallest:g}")
        print(f"{'round':>22}{5:>9}{10:>9}{20:>9}{40:>9}   best (client, rho, server)")
        for name, (setting, curves) in best.items():
            mean = np.exp(np.log(curves).mean(0))[[4, 9, 19, 39]]
            row = "".join(f"{x:9.2g}" for x in mean)
            print(f"{name:>22}{row}   " + ", ".join(f"{x:g}" for x in setting))
    plot(steps, by_steps, by_rho, trained, args.output / "fedpa_bias_variance.png")


BLUE, _, GREEN, PINK, _, SKY, BLACK = eqf.plot.COLOURS
STYLES = {
    "MB-SGD": {"color": BLACK},
    "FedAvg": {"color": PINK},
    "FedAvg, small rate": {"color": PINK, "linestyle": "--"},
    "FedPA": {"color": GREEN},
    "FedPA, exact samples": {"color": GREEN, "linestyle": "--"},
    "FedPA, rho 1": {"color": SKY, "marker": "o"},
    "FedPA, rho 10": {"color": BLUE, "marker": "s"},
    "FedPA, rho 100": {"color": GREEN, "marker": "D"},
}


def plot(steps, by_steps, by_rho, trained, file):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(8, 9.4), layout="constrained")
    top, bottom = figure.subfigures(2, height_ratios=(1.5, 1))
    axes = top.subplots(2, 2, sharex="col", sharey="row")
    for row, quantity in enumerate(("bias", "spread")):
        left, right = axes[row]
        right.plot(RHOS, by_rho[row], color=GREEN)
        for name, values in by_steps.items():
            left.plot(steps, values[row], label=name, **STYLES[name])
            if name in RATES:
                right.axhline(values[row, -1], **STYLES[name])
            else:  # the point that the left panel ends with
                right.plot(RHOS[SHOWN[name]], values[row, -1], **STYLES[name])
        left.set(ylabel=quantity, ylim=(-0.02, 0.58))
    left.set(xscale="log", xlabel="local steps")
    left.set_xticks(steps, steps)
    left.minorticks_off()
    right.set(xscale="log", xlabel="rho")
    axes[0, 0].set_title("messages, by local steps")
    axes[0, 1].set_title(f"messages, with {steps[-1]} local steps")
    top.legend(
        *left.get_legend_handles_labels(),
        loc="outside upper center",
        ncols=3,
        frameon=False,
    )

    maps = bottom.subplots(1, 2, sharey=True)
    for ax, (smallest, best) in zip(maps, trained.items(), strict=True):
        for name, (_, curves) in best.items():
            rounds = np.arange(1, ROUNDS + 1)
            ax.plot(rounds, np.exp(np.log(curves).mean(0)), label=name, **STYLES[name])
            low, high = curves.min(0), curves.max(0)
            ax.fill_between(rounds, low, high, color=STYLES[name]["color"], alpha=0.12)
        scale = "all features alike" if smallest == 1 else "features of unlike scale"
        ax.set(title=scale, xlabel="round", yscale="log", ylim=(3e-3, 1.2))
        ax.margins(x=0)
    maps[0].set_ylabel("distance to the optimum")
    bottom.legend(
        *ax.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )
    for ax in (*axes.flat, *maps):
        ax.grid(color="0.9")
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)
    print(f"wrote {file}")


if __name__ == "__main__":
    main()

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
distance to the global optimum as a share of what it is at the start, by round, with
the setting in `GRIDS` that ends closest. It shows where FedPA loses, too.

    python examples/fedpa_bias_variance.py [--output .]
"""

import argparse
import functools
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import equifed as eqf


DIM, CLIENTS, EXAMPLES, BATCH = 10, 5, 200, 10
EPOCH = EXAMPLES // BATCH  # in steps
STEPS = (200, 400, 800, 1600)  # local ones, of part 1; part 2 takes the last
RATE, SMALL_RATE = 0.05, 0.0005  # of clients in part 1; FedPA has the first
RHOS = np.logspace(0, 4, 9)
SHOWN = (0, 2, 4)  # of RHOS, by the number of steps
REPEATS = 100  # orders of the examples
ROUNDS, SEEDS = 40, 4  # of part 2


def problem_of(seed, smallest=1.0):
    """Clients with curvatures from 1 to 10, before their features are scaled."""
    problem = eqf.objectives.random_least_squares(
        CLIENTS, DIM, num_examples=EXAMPLES, noise=3.0, key=jr.key(seed)
    )
    scale = jnp.geomspace(1, smallest, DIM)
    pairs = [(o.features * scale, o.targets) for o in problem.objectives]
    scaled = [eqf.objectives.LeastSquares(*pair) for pair in pairs]
    return eqf.objectives.FederatedProblem(scaled)


def mbsgd(loss, steps, rate, rho, server_rate):
    """An epoch's gradients have an exact mean: those of more would be the same."""
    batching = eqf.data.Epochs(1, batch_size=BATCH)
    return eqf.FedSGD(loss, optax.sgd(server_rate), batching)


def fedavg(loss, steps, rate, rho, server_rate):
    batching = eqf.data.Steps(steps, batch_size=BATCH)
    server_optim = optax.sgd(server_rate)
    return eqf.FedAvg(loss, optax.sgd(rate), batching, server_optim=server_optim)


def posterior(loss, sampler, samples, batching, rho, server_rate):
    """Server rates are multiples of the inverse of what messages grow by at most."""
    server_optim = optax.sgd(server_rate / (1 + (samples - 1) * rho))
    return eqf.FedPA(loss, sampler, batching, rho=rho, server_optim=server_optim)


def fedpa(loss, steps, rate, rho, server_rate, window=EPOCH):
    """The same steps. A fifth are burn-in, and each epoch of the others a sample."""
    burnin = steps // 5
    sampler = eqf.posterior.IASG(optax.sgd(rate), burnin=burnin, average=window)
    batching = eqf.data.Steps(steps, batch_size=BATCH)
    samples = (steps - burnin) // window
    return posterior(loss, sampler, samples, batching, rho, server_rate)


def exact_fedpa(loss, steps, rate, rho, server_rate):
    """As many samples, but independent ones of the posterior itself, only colder."""
    samples = (steps - steps // 5) // EPOCH
    sampler = eqf.posterior.ExactGaussian(samples, temperature=0.01)
    batching = eqf.data.Epochs(1, batch_size=BATCH)
    return posterior(loss, sampler, samples, batching, rho, server_rate)


# What part 2 chooses from: the clients' learning rate, rho and the server's learning
# rate. FedAvg's server has no choice: the larger its rate may be, the smaller the best
# rate of clients, and the nearer is FedAvg to gradient descent. FedPA's clients have
# large rates only: with small ones IASG averages one slow descent, and FedPA nears
# gradient descent, too.
LARGE = (0.01, 0.02, 0.05, 0.1, 0.2)
SMALL = (5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4)
GRIDS = {
    "MB-SGD": (mbsgd, (0,), (0,), (0.1, 0.15, 0.2, 0.3, 0.4)),
    f"FedAvg, rate {RATE:g}": (fedavg, (RATE,), (0,), (1,)),
    "FedAvg, small rate": (fedavg, SMALL, (0,), (1,)),
    "FedAvg, small, server rate 4": (fedavg, SMALL, (0,), (4,)),
    "FedPA, IASG": (fedpa, LARGE, (0.1, 0.3, 3, 10, 30), (0.1, 0.3, 1, 3)),
    "FedPA, exact samples": (exact_fedpa, (0,), (1000,), (5, 10, 20, 30, 50, 100, 200)),
}


def grid_of(rates, rhos, server_rates=1):
    """All combinations, as three arrays."""
    axes = np.meshgrid(rates, rhos, server_rates)
    return tuple(jnp.asarray(x.ravel(), jnp.float32) for x in axes)


def cohorts_of(problem, batching, number):
    """As many rounds of all the clients, stacked."""
    sampler = eqf.data.AllClients()
    loader = eqf.data.Loader(problem.dataset(), sampler, batching)
    return jax.tree.map(lambda *x: jnp.stack(x), *map(loader, range(number)))


@eqx.filter_jit
def messages(make, loss, steps, settings, cohorts):
    """What every client sends from x = 0: [settings, repeats, clients, dim]."""
    broadcast = eqf.Broadcast.of(jnp.zeros(DIM))

    def message(setting, cohort, slot):
        # Of the one device: its pool of examples, and its slot's steps in the order.
        examples = {name: x[0] for name, x in cohort.examples.items()}
        slots = (cohort.start, cohort.stop, cohort.first, cohort.num_examples)
        data = eqf.ClientData(examples, cohort.order[0], *(x[0, slot] for x in slots))
        client = make(loss, steps, *setting).client
        sent, _, _ = client.round(broadcast, data, None, key=jr.key(0))
        return sent.payload

    for axes in ((None, None, 0), (None, 0, None), (0, None, None)):
        message = eqx.filter_vmap(message, in_axes=axes)
    return message(settings, cohorts, jnp.arange(CLIENTS))


def bias_and_spread(make, problem, steps, cohorts, rates, rhos):
    """Both, by rates and rhos: [2, settings]."""
    settings = grid_of(rates, rhos)
    sent = np.asarray(messages(make, problem.loss, steps, settings, cohorts))
    exact = np.stack([o.quadratic().linear for o in problem.objectives])  # at 0
    mean = sent.mean(1, keepdims=True)
    length = np.linalg.norm(mean, axis=-1, keepdims=True)
    unit = exact / np.linalg.norm(exact, axis=-1, keepdims=True)
    variances = np.square((sent - mean) / length).sum((1, -1)) / (REPEATS - 1)
    biases = np.square((mean / length)[:, 0] - unit).sum(-1)
    biases = biases - variances / REPEATS  # the mean of repeats is itself off by that
    return np.sqrt([biases.mean(-1).clip(min=0), variances.mean(-1)])


def measure_messages():
    """{name: [2, steps]}; and after the last steps FedPA by rho: [2, rhos]; and with
    samples of half an epoch: [2]."""
    problem, values = problem_of(0), []
    for steps in STEPS:
        batching = eqf.data.Steps(steps, batch_size=BATCH)
        given = problem, steps, cohorts_of(problem, batching, REPEATS)
        averaged = bias_and_spread(fedavg, *given, (RATE, SMALL_RATE), 0.0)
        corrected = bias_and_spread(fedpa, *given, RATE, RHOS)
        values.append([*averaged.T, *corrected[:, SHOWN].T])
    by_steps = dict(zip(MESSAGES, np.stack(values, -1), strict=True))
    half_epochs = functools.partial(fedpa, window=EPOCH // 2)
    return by_steps, corrected, bias_and_spread(half_epochs, *given, RATE, 100.0)[:, 0]


@eqx.filter_jit
def train(make, loss, settings, cohorts, optima):
    """The relative distance to the optimum: [settings, seeds, rounds]."""
    at_once = eqf.Executor(block_size=CLIENTS)

    def one(setting, cohorts, optimum):
        algorithm = make(loss, STEPS[-1], *setting)

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
    loss = problems[0].loss
    optima = jnp.stack([problem.optimum() for problem in problems])
    cohorts, best = {}, {}
    for name, (make, *choices) in GRIDS.items():
        settings = grid_of(*choices)
        batching = make(loss, STEPS[-1], *(x[0] for x in settings)).batching
        if batching not in cohorts:
            rounds = [cohorts_of(problem, batching, ROUNDS) for problem in problems]
            cohorts[batching] = jax.tree.map(lambda *x: jnp.stack(x), *rounds)
        curves = np.asarray(train(make, loss, settings, cohorts[batching], optima))
        final = np.log(curves[:, :, -1]).mean(1)
        at = int(np.argmin(np.where(np.isfinite(final), final, np.inf)))
        best[name] = [float(x[at]) for x in settings], curves[at]
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("."))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)

    by_steps, by_rho, halves = measure_messages()
    print("bias / spread of the messages, by the number of local steps")
    print(" " * 28 + "".join(f"{n:>14}" for n in STEPS))
    for name, values in by_steps.items():
        print(f"{name:>28}" + "".join(f"{b:8.3f} /{s:5.2f}" for b, s in values.T))
    print(f"the same of FedPA by rho, with {STEPS[-1]} local steps")
    for rho, (bias, spread) in zip(RHOS, by_rho.T, strict=True):
        print(f"{rho:28.0f}{bias:8.3f} /{spread:5.2f}")
    print("{:>28}{:8.3f} /{:5.2f}".format("100, half epochs", *halves))

    trained = {smallest: compare(smallest) for smallest in (1.0, 0.3)}
    for smallest, best in trained.items():
        print(f"\nrelative distance to the optimum, scales from 1 to {smallest:g}")
        print(f"{'round':>28}{5:>9}{10:>9}{20:>9}{40:>9}   best (client, rho, server)")
        for name, (setting, curves) in best.items():
            mean = np.exp(np.log(curves).mean(0))[[4, 9, 19, 39]]
            row = "".join(f"{x:9.2g}" for x in mean)
            print(f"{name:>28}{row}   " + ", ".join(f"{x:g}" for x in setting))
    plot(by_steps, by_rho, trained, args.output / "fedpa_bias_variance.png")


BLUE, _, GREEN, PINK, _, SKY, BLACK = eqf.plot.COLOURS
MESSAGES = {  # in the order of `measure_messages`
    f"FedAvg, rate {RATE:g}": (PINK, "-"),
    f"FedAvg, rate {SMALL_RATE:g}": (PINK, "--"),
    f"FedPA, rate {RATE:g}, rho 1": (SKY, "o-"),
    f"FedPA, rate {RATE:g}, rho 10": (BLUE, "s-"),
    f"FedPA, rate {RATE:g}, rho 100": (GREEN, "D-"),
}
TRAINED = [(BLACK, "-"), (PINK, "-"), (PINK, "--"), (PINK, ":")]
TRAINED = dict(zip(GRIDS, [*TRAINED, (GREEN, "-"), (GREEN, "--")], strict=True))


def plot(by_steps, by_rho, trained, file):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(8, 9.4), layout="constrained")
    top, bottom = figure.subfigures(2, height_ratios=(1.5, 1))
    axes = top.subplots(2, 2, sharex="col", sharey="row")
    for row, (left, right) in enumerate(axes):
        right.plot(RHOS, by_rho[row], color=GREEN)
        rhos = (RHOS, RHOS, *RHOS[[*SHOWN]])  # FedAvg has none
        for rho, (name, (colour, line)) in zip(rhos, MESSAGES.items(), strict=True):
            values = by_steps[name][row]
            left.plot(STEPS, values, line, label=name, color=colour)
            right.plot(rho, np.full_like(rho, values[-1]), line, color=colour)
        left.set(ylabel=("bias", "spread")[row], ylim=(-0.02, 0.58))
    left.set(xscale="log", xlabel="local steps")
    left.set_xticks(STEPS, STEPS)
    left.minorticks_off()
    right.set(xscale="log", xlabel="rho")
    axes[0, 0].set_title("messages, by local steps")
    axes[0, 1].set_title(f"messages, with {STEPS[-1]} local steps")

    maps = bottom.subplots(1, 2, sharey=True)
    rounds = np.arange(1, ROUNDS + 1)
    for ax, (smallest, best) in zip(maps, trained.items(), strict=True):
        for name, (colour, line) in TRAINED.items():
            _, curves = best[name]
            mean = np.exp(np.log(curves).mean(0))
            ax.plot(rounds, mean, line, label=name, color=colour)
            band = curves.min(0), curves.max(0)
            ax.fill_between(rounds, *band, color=colour, alpha=0.12)
        scale = "all features alike" if smallest == 1 else "features of unlike scale"
        ax.set(title=scale, xlabel="round", yscale="log", ylim=(3e-3, 1.2))
        ax.margins(x=0)
    maps[0].set_ylabel("relative distance to the optimum")
    for part, drawn, side in ((top, left, "upper"), (bottom, ax, "lower")):
        given = drawn.get_legend_handles_labels()
        part.legend(*given, loc=f"outside {side} center", ncols=3, frameon=False)
    for ax in (*axes.flat, *maps):
        ax.grid(color="0.9")
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)
    print(f"wrote {file}")


if __name__ == "__main__":
    main()

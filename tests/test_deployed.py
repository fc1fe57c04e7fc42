"""A deployed training ends where the simulated one does: to the bit, in one process.

What Flower carries is tested with Flower, in `test_deployed_flower.py`.
"""

import functools
import json
import re
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import deploy
from equifed.deploy._arrays import check_arrays, from_wire, to_wire, wire_kind
from equifed.deploy._memory import FolderMemory
from equifed.deploy._same import made_of, unlike
from equifed.testing._losses import plain_loss, quiet_loss
from equifed.testing._problems import law_roles, Linear, ragged_clients

from .algorithms import ALGORITHMS
from .deployed import InProcess, Node


# Clients of 18 or 20 steps, for whom there is one program: plans have room for 20.
SIZES = (33, 40, 36, 38, 35)
BATCHING = eqf.data.Epochs(2, batch_size=4)


def dataset(sizes):
    made = ragged_clients(sizes)
    columns = dict(made.columns)
    columns["noise"] = np.full(sum(sizes), 0.1, np.float32)
    return eqf.data.FederatedDataset(columns, made.offsets, made.client_ids)


DATA = dataset(SIZES)


def data(node):
    return dict(DATA.client(node["partition-id"]))


def made(name):
    # Noise is nearly half of a program: one pass, two and both kinds of them have it.
    noisy = name in ("FedAvg-adam", "Mime", "PowerOfChoice", "Diagnose")
    algorithm = ALGORITHMS[name](plain_loss if noisy else quiet_loss, BATCHING)
    return algorithm, law_roles(algorithm.needs)


def simulated(algorithm, roles, sampler, num_rounds, dataset=DATA):
    loader = eqf.data.Loader(dataset, sampler, BATCHING)
    state = algorithm.init(Linear(), num_clients=len(SIZES), key=jr.key(1), roles=roles)
    rows = []
    for round in range(num_rounds):
        state, metrics = algorithm.round(
            state,
            loader(round),
            key=jr.key(1),
            executor=eqf.Executor(ordered=True),
        )
        rows.append({n: np.asarray(x) for n, x in metrics.items()})
    return state, rows


def server_of(algorithm, roles, sampler, num_rounds, **more):
    return deploy.Server(
        algorithm,
        Linear(),
        sampler,
        num_clients=len(SIZES),
        num_rounds=num_rounds,
        roles=roles,
        **{"key": jr.key(1), **more},
    )


def engine(algorithm, roles=None, data=data):
    """Nodes whose ids are in another order than the clients' numbers."""
    client = deploy.Client(algorithm, Linear(), data, roles=roles)
    nodes = {
        100 - i: Node(client, {"partition-id": i, "num-partitions": len(SIZES)})
        for i in range(len(SIZES))
    }
    return InProcess(nodes)


def same(x, y):
    assert jtu.tree_structure(x) == jtu.tree_structure(y)
    for (path, a), b in zip(
        jtu.tree_leaves_with_path(x), jtu.tree_leaves(y), strict=True
    ):
        if isinstance(a, jax.Array):
            assert np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True), path


# One of each kind of what travels and what stays: all others of the table go through
# as well, and add nothing.
KINDS = (
    "Mime",  # two passes
    "PowerOfChoice",  # the first measures, and only some are in the second
    "AFL",  # something of each client's goes down, and something comes up
    "OverRounds",  # numbers of the client that change from round to round
    "FedPer",  # personal leaves
    "FedVARP",  # a table of all clients at the server
    "Median",  # messages are gathered
    "Diagnose",  # and twice
    "FedEP",  # messages that are no change of the params
    "FedAvg-adam",  # a server's state, two seeds of an optimiser
    "Scaffold-2",  # what clients keep, and the server sends beside the model
)


@pytest.mark.parametrize("name", KINDS)
def test_the_bits_of_a_simulation(name):
    algorithm, roles = made(name)
    sampler = eqf.data.UniformSampler(4, seed=3)
    state, rows = simulated(algorithm, roles, sampler, 3)
    there = engine(algorithm, roles)
    got, history = server_of(algorithm, roles, sampler, 3).run(there)
    for part in ("params", "server", "aggregator", "statistics", "round"):
        same(getattr(got, part), getattr(state, part))
    for row, other in zip(history, rows, strict=True):
        for metric, x in other.items():
            assert np.array_equal(row[metric], x, equal_nan=True), metric
        assert row["dropped"] == 0
    _check_kept(there, state)
    passes = [x.config["pass"] for x in there.sent if x.kind == "train"]
    if name == "Mime":  # Two messages for two passes.
        assert passes == 3 * [*(4 * [0]), *(4 * [1])]


def test_the_bits_of_clients_of_all_sizes():
    algorithm, roles = made("FedAvg")
    ragged = dataset((5, 1, 12, 3, 7))
    sampler = eqf.data.AllClients()
    state, _ = simulated(algorithm, roles, sampler, 2, ragged)
    there = engine(
        algorithm, data=lambda node: dict(ragged.client(node["partition-id"]))
    )
    got, _ = server_of(algorithm, roles, sampler, 2).run(there)
    same(got.params, state.params)


def _check_kept(there, state):
    """What clients keep lies with them."""
    leaves = jtu.tree_leaves(state.clients)
    for node in there.all.values():
        rounds = [
            int(x.removeprefix("round-")) for x in node.memory.names() if x != "now"
        ]
        if not rounds:
            continue
        kept = node.memory.load(f"round-{max(rounds)}")
        client = node.config["partition-id"]
        for i, x in enumerate(leaves):
            assert np.array_equal(kept[f"kept{i}"], to_wire(x[client]))


def test_what_travels():
    # The model, what the method sends beside it, a key and a number: nothing else.
    algorithm, roles = made("Scaffold-2")
    there = engine(algorithm)
    server_of(algorithm, roles, eqf.data.AllClients(), 2).run(there)
    trains = [x for x in there.sent if x.kind == "train"]
    assert len(trains) == 2 * len(SIZES)
    for request in trains:
        assert set(request.shared) == {
            ".broadcast.params.weight",
            ".broadcast.params.bias",
            ".broadcast.shared.weight",
            ".broadcast.shared.bias",
            ".round",
            ".key",
        }
        # What clients begin with is sent once.
        assert set(request.own) == ({"kept0", "kept1"} if request.round == 0 else set())


def _shortened(reply):
    name = next(n for n, x in reply.arrays.items() if x.ndim > 0)
    return reply._replace(arrays=reply.arrays | {name: reply.arrays[name][:-1]})


def _without_metric(reply):
    metrics = dict(list(reply.metrics.items())[1:])
    return reply._replace(metrics=metrics)


WRONG = {
    "silent": (lambda reply: None, None),
    "error": (
        lambda reply: reply._replace(arrays={}, error="Out of memory."),
        "Out of",
    ),
    "truncated": (_shortened, r"float32\[2\] instead of float32\[3\]"),
    "empty": (lambda reply: reply._replace(arrays={}), "lacks `message"),
    "more": (
        lambda reply: reply._replace(arrays=reply.arrays | {"x": np.zeros(1)}),
        "`x`, which nobody asked for",
    ),
    "no metric": (_without_metric, "as the metric"),
    "no arrays by name": (
        lambda reply: reply._replace(arrays=[1.0]),
        r"\[1.0\] in place of arrays",
    ),
    "lists for arrays": (
        lambda reply: reply._replace(
            arrays={n: x.tolist() for n, x in reply.arrays.items()}
        ),
        "which is no array",
    ),
    "no metrics by name": (
        lambda reply: reply._replace(metrics=None),
        "None in place of metrics",
    ),
    "lists of two lengths": (
        lambda reply: reply._replace(metrics=dict.fromkeys(reply.metrics, [[1], []])),
        "as the metric",
    ),
    "a fraction of a bit": (
        lambda reply: reply._replace(
            metrics={n: np.add(x, 0.5).tolist() for n, x in reply.metrics.items()}
        ),
        "as the metric",
    ),
    "more than 32 bits": (
        lambda reply: reply._replace(
            metrics={
                n: (np.asarray(x) * 0 + 2**32).tolist()
                for n, x in reply.metrics.items()
            }
        ),
        "as the metric",
    ),
    "a weight that is no number": (
        lambda reply: reply._replace(
            arrays={n: np.full_like(x, np.nan) for n, x in reply.arrays.items()}
        ),
        "nan as its weight, which is no number",
    ),
}


def test_who_does_not_answer_as_asked_has_dropped_out():
    # And the round is that of the others: each case has a round, and a client, of its
    # own, before and after which all answer.
    algorithm, roles = made("Scaffold-2")
    there, cases = engine(algorithm), dict(enumerate(WRONG.values(), 1))
    num_rounds = len(cases) + 2

    def spoils(client):
        def change(request, reply):
            wrong = request.kind == "train" and request.round % 5 == client
            case = cases.get(request.round) if wrong else None
            return reply if case is None else case[0](reply)

        return change

    for client in range(5):
        there.all[100 - client].change = spoils(client)
    server = server_of(algorithm, roles, eqf.data.AllClients(), num_rounds)
    with pytest.warns(UserWarning, match="has dropped out") as caught:
        got, history = server.run(there)
    told = [(i % 5, words) for i, (_, words) in cases.items() if words is not None]
    assert len(caught) == len(told)
    for said, (client, words) in zip(caught, told, strict=True):
        wanted = f"Client {client} has dropped out.*{words}"
        assert re.search(wanted, str(said.message))
    assert [row["dropped"] for row in history] == [0, *(1 for _ in cases), 0]
    state = algorithm.init(Linear(), num_clients=len(SIZES), key=jr.key(1))
    for round in range(num_rounds):
        clients = [i for i in range(5) if round not in cases or i != round % 5]
        cohort = eqf.data.cohort(DATA, BATCHING, clients=clients, round=round)
        how = eqf.Executor(ordered=True)
        state, _ = algorithm.round(state, cohort, key=jr.key(1), executor=how)
    same(got.params, state.params)
    same(got.server, state.server)


def test_the_first_of_two_replies_counts():
    algorithm, roles = made("FedAvg")
    straight, _ = server_of(algorithm, roles, eqf.data.AllClients(), 2).run(
        engine(algorithm)
    )
    there = engine(algorithm)
    whole = there.exchange

    def twice(requests):
        replies = whole(requests)
        wrong = [x._replace(arrays={}) for x in replies if x.arrays]
        return [*replies, *wrong, *replies]

    there.exchange = twice
    server = server_of(algorithm, roles, eqf.data.AllClients(), 2, evaluate_every=1)
    got, history = server.run(there)
    same(got.params, straight.params)
    assert [row["dropped"] for row in history] == [0, 0]


def test_a_rejected_round_names_who_sent_what_is_not_finite():
    algorithm, roles = made("FedAvg")
    there = engine(algorithm)

    def broken(request, reply):
        if request.kind != "train":
            return reply
        name = next(n for n in reply.arrays if "payload" in n)
        x = np.full_like(reply.arrays[name], np.inf)
        return reply._replace(arrays=reply.arrays | {name: x})

    there.all[97].change = there.all[99].change = broken
    server = server_of(algorithm, roles, eqf.data.AllClients(), 1)
    with pytest.warns(UserWarning, match=r"rejected\. Nor is .* by number: 1, 3\."):
        server.run(there)


def test_nobody_answers():
    algorithm, roles = made("FedAvg")
    there = engine(algorithm)
    for node in there.all.values():
        node.change = lambda request, reply: reply if request.kind == "query" else None
    got, history = server_of(algorithm, roles, eqf.data.AllClients(), 1).run(there)
    same(got.params, algorithm.init(Linear(), num_clients=5).params)
    assert history[0]["clients"] == 0
    assert history[0]["dropped"] == 5


class Killed(Exception):
    pass


@functools.cache
def never_killed():
    algorithm, roles = made("Scaffold-2")
    server = server_of(algorithm, roles, eqf.data.AllClients(), 5)
    return server.run(engine(algorithm))


@pytest.mark.parametrize("every", [1, 2])
def test_a_killed_server_goes_on(tmp_path, every):
    # With checkpoints after every second round a round is run again: of what clients
    # keep, they still have that from before it.
    algorithm, roles = made("Scaffold-2")
    sampler = eqf.data.AllClients()
    straight, history = never_killed()
    there = engine(algorithm)
    for i, node in enumerate(there.all.values()):
        node.memory = FolderMemory(tmp_path / str(i))

    def kill(request, reply):
        if request.kind == "train" and request.round == 3 and not killed:
            killed.append(request)
            raise Killed
        return reply

    killed = []
    there.all[97].change = kill

    def server():
        checkpointer = eqf.Checkpointer(tmp_path / "server", every=every)
        more = {"checkpointer": checkpointer}
        return server_of(algorithm, roles, sampler, 5, **more)

    with pytest.raises(Killed):
        server().run(there)
    got, again = server().run(there)
    same(got.params, straight.params)
    same(got.server, straight.server)
    assert again == history
    # What no server asks for any more is gone.
    kept = [x for x in there.all[100].memory.names() if x != "now"]
    assert set(kept) <= {f"round-{i}" for i in range(2, 5)}


def test_a_checkpoint_of_a_server_has_no_frozen_base(tmp_path):
    algorithm, _ = made("FedAvg")
    roles = eqf.roles(Linear(), frozen=lambda m: m.bias)
    straight, _ = server_of(algorithm, roles, eqf.data.AllClients(), 2).run(
        engine(algorithm, roles=roles)
    )
    saves = eqf.Checkpointer(tmp_path)
    for num_rounds in (1, 2):
        server = server_of(
            *(algorithm, roles, eqf.data.AllClients(), num_rounds), checkpointer=saves
        )
        got, _ = server.run(engine(algorithm, roles=roles))
    same(got.params, straight.params)
    for file in tmp_path.glob("*/leaves.json"):
        assert json.loads(file.read_text())["base"]["paths"] == [".rest.bias"]


def test_what_was_kept_is_broken(tmp_path):
    memory = FolderMemory(tmp_path)
    memory.save("round-0", {"kept0": np.arange(1000.0)})
    path = tmp_path / "round-0.npz"
    for content in (b"", path.read_bytes()[:500], b"neither"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="`.*round-0.npz`, is broken"):
            memory.load("round-0")


def test_what_was_kept_is_lost():
    algorithm, roles = made("Scaffold-2")
    there = engine(algorithm)

    def forget(request, reply):
        if request.kind == "train" and request.round == 0:
            there.all[99].memory.drop("round-0")
        return reply

    there.all[99].change = forget
    with pytest.warns(UserWarning, match="no longer has what it kept in round 1"):
        _, history = server_of(algorithm, roles, eqf.data.AllClients(), 2).run(there)
    assert [row["dropped"] for row in history] == [0, 1]


def test_two_nodes_are_one_client():
    algorithm, roles = made("FedAvg")
    there = engine(algorithm)
    there.all[7] = there.all[100]
    with pytest.raises(ValueError, match="Two nodes are client 0"):
        server_of(algorithm, roles, eqf.data.AllClients(), 1).run(there)


@pytest.mark.parametrize("said", [{}, {"examples": "five"}, {"client": 5}])
def test_a_node_that_does_not_say_who_it_is(said):
    algorithm, roles = made("FedAvg")
    there = engine(algorithm)
    there.all[100].change = lambda request, reply: reply._replace(
        config=reply.config | said if said else {}
    )
    sampler = eqf.data.AllClients()
    with pytest.warns(UserWarning, match="did not say who it is"):
        _, history = server_of(algorithm, roles, sampler, 1, min_clients=4).run(there)
    assert history[0]["dropped"] == 1


def _says(**about):
    return lambda request, reply: (
        reply._replace(config=reply.config | about)
        if request.kind == "query"
        else reply
    )


NONSENSE = {
    "a number beyond the last": ({"client": 5}, "`client` must be .* to 4, got 5"),
    "a negative number": ({"client": -1}, "`client` must be .* got -1"),
    "a text for a number": ({"client": "4"}, "`client` must be .* got '4'"),
    "a text for examples": ({"examples": "7"}, "`examples` must be .* got '7'"),
    "no number of examples": ({"examples": -7}, "`examples` must be .* got -7"),
    "a list of columns": ({"columns": "[]"}, r"`columns` must have .* got \[\]"),
    "no shapes": ({"columns": '{"x": 5}'}, "`columns` must have .* got"),
    "nothing of its parts": ({"made_of": "[]"}, r"`made_of` must .* got \[\]"),
}


def test_a_node_that_says_nonsense_is_refused():
    algorithm, roles = made("FedAvg")
    there = engine(algorithm)
    first, *others, last = there.all.values()
    # Such nodes in place of the first to be asked, and of the last.
    nodes: list[Node] = []
    for node, more in ((first, others), (last, [])):
        nodes += [
            Node(node.client, node.config, change=_says(**about))
            for about, _ in NONSENSE.values()
        ]
        nodes += more
    there.all = dict(enumerate(nodes))
    sampler = eqf.data.AllClients()
    with pytest.warns(UserWarning, match="did not say who it is") as caught:
        _, history = server_of(algorithm, roles, sampler, 1, min_clients=3).run(there)
    told = [words for _, words in NONSENSE.values()] * 2
    for said, words in zip(caught, told, strict=True):
        assert re.search(f"did not say who it is: {words}", str(said.message))
    assert history[0]["dropped"] == 2


def test_the_first_node_has_columns_that_the_loss_does_not_know():
    algorithm, roles = made("FedAvg")
    there = engine(algorithm)
    there.all[100].change = _says(columns='{"z": [[2], "float32"]}')
    sampler = eqf.data.AllClients()
    with pytest.warns(UserWarning, match="cannot train on client 0's .* 'z'"):
        _, history = server_of(algorithm, roles, sampler, 1, min_clients=4).run(there)
    assert history[0]["dropped"] == 1


class Draws(eqf.data.AbstractSampler):
    """One of the user's own."""

    drawn: Callable = eqx.field(static=True)
    seed: int = 0

    def __call__(self, round, num_clients):
        return self.drawn(round)

    def max_clients(self, num_clients):
        return 3


@pytest.mark.parametrize(
    "drawn, words",
    [
        (lambda round: np.ones(5, bool), "array of integers"),
        (lambda round: np.arange(4), "drew 4 clients .* `max_clients` is 3"),
        (lambda round: np.array([0, 5]), "drew client number 5"),
        (lambda round: np.array([-1]), "drew client number -1"),
    ],
)
def test_a_sampler_draws_what_it_must(drawn, words):
    algorithm, roles = made("FedAvg")
    with pytest.raises((TypeError, ValueError), match=words):
        server_of(algorithm, roles, Draws(drawn=drawn), 1)
    later = Draws(drawn=lambda round: drawn(round) if round else np.array([0, 1]))
    with pytest.raises((TypeError, ValueError), match=f"{words}|in round 1"):
        server_of(algorithm, roles, later, 2).run(engine(algorithm))


def test_a_key_of_the_old_style_is_the_same():
    algorithm, roles = made("FedAvg-adam")
    found = [
        server_of(algorithm, roles, eqf.data.AllClients(), 2, key=key).run(
            engine(algorithm)
        )[0]
        for key in (jr.key(3), jr.PRNGKey(3))
    ]
    same(*(state.params for state in found))


def test_old_states_are_forgotten():
    algorithm, roles = made("Scaffold-2")
    there = engine(algorithm)
    server_of(algorithm, roles, eqf.data.AllClients(), 4).run(there)
    assert set(there.all[100].memory.names()) == {"round-2", "round-3"}


def test_a_node_is_started_anew():
    # It has another id; the old one is still on the engine's list.
    algorithm, roles = made("FedAvg")
    there = engine(algorithm)

    def anew(request, reply):
        if request.kind == "train" and request.round == 0:
            there.all[7] = Node(there.all[100].client, there.all[100].config)
            there.all[100].change = lambda request, reply: None
        return reply

    there.all[99].change = anew
    _, history = server_of(algorithm, roles, eqf.data.AllClients(), 2).run(there)
    assert [row["dropped"] for row in history] == [0, 0]


def test_an_intruder_is_refused():
    algorithm, roles = made("FedAvg")
    there = engine(algorithm)

    def comes(request, reply):
        if request.kind == "train":
            there.all[7] = Node(there.all[100].client, there.all[100].config)
        return reply

    there.all[99].change = comes
    with pytest.warns(UserWarning, match="Two nodes are client 0"):
        _, history = server_of(algorithm, roles, eqf.data.AllClients(), 2).run(there)
    assert [row["dropped"] for row in history] == [0, 0]


def in_bfloat16():
    return jtu.tree_map(lambda x: x.astype(jnp.bfloat16), Linear())


def _client(model=None, algorithm=None, columns=data):
    algorithm = made("FedAvg")[0] if algorithm is None else algorithm
    return deploy.Client(algorithm, Linear() if model is None else model, columns)


def _sgd(rate, batching=BATCHING, loss=quiet_loss):
    return eqf.FedAvg(loss, optax.sgd(rate), batching)


OTHERS = {
    "model": (lambda: _client(in_bfloat16()), "Client 4 has another model"),
    "algorithm": (
        lambda: _client(algorithm=made("Scaffold-2")[0]),
        "Client 4 has another algorithm",
    ),
    "rate": (
        lambda: _client(algorithm=_sgd(0.3)),
        r"Client 4 has another algorithm.*`algorithm.client.optim` .*-0.3.* -> .*-0.05",
    ),
    "batches": (
        lambda: _client(algorithm=_sgd(0.05, eqf.data.Epochs(3, batch_size=4))),
        "Client 4 has another .*`algorithm.client.batching.num_epochs` 3 -> 2",
    ),
    "loss": (
        lambda: _client(
            algorithm=_sgd(0.05, loss=lambda *x: quiet_loss(*x)),
        ),
        r"Client 4 has another algorithm.*`algorithm.client.loss`",
    ),
    "columns": (
        lambda: _client(columns=lambda node: data(node) | {"z": np.zeros((35, 2))}),
        r"Client 4 has examples of the columns .*'z' \(float32\[2\]\)",
    ),
    "no examples": (lambda: _client(columns=lambda node: {}), "no columns"),
    "not a mapping": (lambda: _client(columns=lambda node: [1]), "`data` must be"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_node_of_another_kind_is_refused(case):
    algorithm, roles = made("FedAvg")
    make, words = OTHERS[case]
    there = engine(algorithm)
    there.all[96].client = make()
    sampler = eqf.data.AllClients()
    with pytest.warns(UserWarning, match=words):
        _, history = server_of(algorithm, roles, sampler, 1, min_clients=4).run(there)
    assert history[0]["dropped"] == 1
    with (
        pytest.warns(UserWarning, match="refused"),
        pytest.raises(ValueError, match=f"4 of 5 clients can.*{words}"),
    ):
        server_of(algorithm, roles, sampler, 1).run(there)


def test_a_node_has_another_base():
    # Which does not travel, and is none of what is trained.
    algorithm, _ = made("FedAvg")
    roles = eqf.roles(Linear(), frozen=lambda m: m.bias)
    there = engine(algorithm, roles=roles)
    other = eqx.tree_at(lambda m: m.bias, Linear(), jnp.asarray(9.0))
    there.all[96].client = deploy.Client(algorithm, other, data, roles=roles)
    sampler = eqf.data.AllClients()
    server = server_of(algorithm, roles, sampler, 1, min_clients=4)
    with pytest.warns(UserWarning, match="Client 4 has another .*`model.frozen`"):
        _, history = server.run(there)
    assert history[0]["dropped"] == 1


def test_in_another_python_code_is_known_by_its_name():
    algorithm, other = made("FedAvg")[0], _sgd(0.3)
    ours, theirs = (
        made_of(x, x.init(Linear(), num_clients=5)) for x in (algorithm, other)
    )
    elsewhere = json.loads(ours) | {"python": "3.99"}
    elsewhere = {
        name: re.sub(" #.*", " #ffff", x) if isinstance(x, str) else x
        for name, x in elsewhere.items()
    }
    assert unlike(json.dumps(elsewhere), ours) == []
    assert unlike(json.dumps(json.loads(theirs) | {"python": "3.99"}), ours)


@pytest.mark.parametrize(
    "config, words",
    [
        ({}, "which client it is"),
        ({"partition-id": "one"}, "got 'one'"),
        ({"partition-id": 5}, "number 5 of 5"),
        ({"partition-id": 1, "num-partitions": 9}, "number 1 of 9"),
    ],
)
def test_a_node_does_not_know_who_it_is(config, words):
    algorithm, roles = made("FedAvg")
    there = engine(algorithm)
    there.all[96].config = config
    with pytest.warns(UserWarning, match=words):
        server_of(algorithm, roles, eqf.data.AllClients(), 1, min_clients=4).run(there)


def test_too_few_come():
    algorithm, roles = made("FedAvg")
    there = engine(algorithm)
    del there.all[100]
    with pytest.raises(TimeoutError, match="4 of 5 clients are there"):
        server_of(algorithm, roles, eqf.data.AllClients(), 1, patience=0.0).run(there)


def test_what_clients_keep_is_not_the_servers():
    algorithm, roles = made("Scaffnew")
    with (
        pytest.warns(UserWarning, match="computes with what its clients keep"),
        pytest.raises(ValueError, match="0 of 5 clients can.*`Scaffnew` computes"),
    ):
        server_of(algorithm, roles, eqf.data.AllClients(), 1).run(engine(algorithm))


def test_evaluation():
    algorithm, roles = made("FedAvg")
    there = engine(algorithm)
    server = server_of(algorithm, roles, eqf.data.AllClients(), 2, evaluate_every=2)
    state, history = server.run(there)
    whole = eqf.evaluate(state.model, DATA, algorithm.loss)
    assert "test/loss" not in history[0]
    for name, x in whole.items():
        np.testing.assert_allclose(history[1][f"test/{name}"], x, rtol=1e-6)


def test_the_noise_of_a_server_is_the_same_and_no_secret_from_its_clients():
    mean = eqf.privacy.PrivateMean(
        eqf.privacy.FlatClip(0.1), noise_multiplier=1.0, expected_clients=5.0
    )
    algorithm = eqf.FedAvg(quiet_loss, optax.sgd(0.05), BATCHING, aggregator=mean)
    for around in (algorithm, eqf.OverRounds(lambda t: algorithm)):
        with pytest.warns(UserWarning, match="noise of `PrivateMean` follows from key"):
            server = server_of(around, None, eqf.data.AllClients(), 2)
    there, sampler = engine(algorithm), eqf.data.AllClients()
    state, _ = server.run(engine(eqf.OverRounds(lambda t: algorithm)))
    with pytest.warns(UserWarning, match="take it off again"):
        plain, _ = server_of(algorithm, None, sampler, 2).run(there)
    wanted, _ = simulated(algorithm, None, sampler, 2)
    same(plain.params, wanted.params)
    same(state.params, wanted.params)
    # The key of the pass: the server's noise follows from it by `NO_CLIENT`.
    sent = [x.shared for x in there.sent if x.kind == "train"]
    assert all(any(name.endswith(".key") for name in x) for x in sent)


def test_a_secure_sum_of_what_is_sent():
    # Masks that cancel modulo 2^32 hide each message, and change no bit of the sum.
    mean = eqf.privacy.ModularMean(step=1e-4, num_bits=32)
    algorithm = eqf.FedAvg(quiet_loss, optax.sgd(0.05), BATCHING, aggregator=mean)
    sampler = eqf.data.AllClients()
    plain, _ = server_of(algorithm, None, sampler, 2).run(engine(algorithm))
    there = engine(algorithm)
    hidden = []

    def masked(sign):
        def change(request, reply):
            if request.kind != "train":
                return reply
            arrays = dict(reply.arrays)
            for i, (name, x) in enumerate(arrays.items()):
                if ".residue" in name:
                    mask = np.random.default_rng([request.round, i]).integers(
                        -(2**31), 2**31, x.shape, np.int32
                    )
                    with np.errstate(over="ignore"):
                        arrays[name] = x + mask if sign > 0 else x - mask
                    hidden.append(not np.array_equal(arrays[name], x))
            return reply._replace(arrays=arrays)

        return change

    there.all[98].change, there.all[97].change = masked(1), masked(-1)
    got, _ = server_of(algorithm, None, sampler, 2).run(there)
    same(got.params, plain.params)
    assert len(hidden) == 8
    assert all(hidden)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float32", "bool"])
def test_arrays_travel_to_the_bit(dtype):
    x = jnp.asarray([[0.1, -3.0], [jnp.nan, 7.0]]).astype(dtype)
    sent = to_wire(x)
    assert sent.dtype.kind in "ufb"
    check_arrays({"x": sent}, {"x": x}, "It")
    assert sent.tobytes() == to_wire(from_wire(sent, x)).tobytes()
    assert from_wire(sent, x).dtype == x.dtype
    assert wire_kind(x, (3,)).shape == (3, 2, 2)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_travel(impl):
    key = jr.key(3, impl=impl)
    got = from_wire(to_wire(key), key)
    assert got.dtype == key.dtype
    assert np.array_equal(jr.key_data(got), jr.key_data(key))


def test_a_model_in_bfloat16():
    algorithm, roles = made("FedAvg")
    model = in_bfloat16()
    there = engine(algorithm)
    for node in there.all.values():
        node.client = deploy.Client(algorithm, model, data)
    server = deploy.Server(
        *(algorithm, model, eqf.data.AllClients()),
        **{"num_clients": 5, "num_rounds": 1, "key": jr.key(1)},
    )
    state, _ = server.run(there)
    cohort = eqf.data.cohort(DATA, BATCHING)
    start = algorithm.init(model, num_clients=5)
    how = eqf.Executor(ordered=True)
    wanted, _ = algorithm.round(start, cohort, key=jr.key(1), executor=how)
    assert state.params.weight.dtype == jnp.bfloat16
    same(state.params, wanted.params)


def test_what_a_query_says_is_json():
    algorithm, _ = made("FedAvg")
    node = engine(algorithm).all[100]
    config = {"clients": 5, "slots": 5, "keys": "threefry2x32"}
    answer = node.client.answer("query", {}, config, node.config, node.memory)
    assert json.loads(answer.config["columns"])["x"] == [[3], "float32"]
    assert answer.config["examples"] == SIZES[0]

"""Training, rounds, evaluation, metrics, loggers, checkpoints and results."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import equifed as eqf
from equifed import testing

from .parts import counts
from .shared import (
    BATCHING,
    DATASET,
    fresh_loss,
    KEY,
    LOADER,
    LOSS,
    mesh_of,
    MODEL,
    NAN,
    returns,
    rounds,
    SGD,
    train,
    WHOLE,
)


EITHER = (TypeError, ValueError)
LOGITS = jnp.ones(3)


class Sampler(eqf.data.AbstractSampler):
    """One whose `max_clients` is given."""

    seed: int
    most: object

    def __call__(self, round, num_clients):
        return np.arange(2)

    def max_clients(self, num_clients):
        return self.most


def loader_of(dataset=DATASET, batching=BATCHING, sampler=None, **kwargs):
    sampler = eqf.data.AllClients() if sampler is None else sampler
    return eqf.data.Loader(dataset, sampler, batching, **kwargs)


def debugged(key):
    algorithm = eqf.FedAvg(LOSS, SGD, BATCHING)
    state = algorithm.init(MODEL, num_clients=len(DATASET))
    cohort, executor = LOADER(0), eqf.Executor(debug=True)
    return algorithm.round(state, cohort, key=key, executor=executor)[1]


def labels_and_logits(function):
    """What all that take the logits and the label of an example refuse."""
    name = function.__name__
    return {
        "no logits": (
            lambda: function(None, 1),
            TypeError,
            f"The logits of `{name}` must be floating-point numbers, got None",
        ),
        "no label": (
            lambda: function(LOGITS, None),
            TypeError,
            f"The label of `{name}` must be an integer, the number of a class, got N",
        ),
        "an empty vector": (
            lambda: function(jnp.zeros(0), 0),
            ValueError,
            f"`{name}` needs one logit at least",
        ),
    }


def other_columns():
    columns = {"x": np.ones((2, 7), np.float32), "y": np.ones(2, np.float32)}
    return eqf.data.FederatedDataset.from_mapping({"held out": columns})


def with_tokens(last):
    """Examples of one client that ask for an entry of the weights."""
    columns = {"token": np.array([0, 2, -3, last])}
    return eqf.data.FederatedDataset.from_mapping({"anna": columns})


READS = returns(lambda m, e: m.weight[e["token"]])
NO_ROW = (
    "Column 'token' of client 'anna' holds 3 in row 3",
    "a table of 3 rows (0 to 2)",
    "silently take the nearest row",
    "give it 4 rows",
    "`jnp.clip(example['token'], 0, 2)`",
)


def later(number):
    """A state of some round."""
    state = eqf.FedAvg(LOSS, SGD, BATCHING).init(MODEL, num_clients=4)
    return eqx.tree_at(lambda s: s.round, state, jnp.asarray(number, jnp.int32))


def scaffold():
    return eqf.Scaffold(fresh_loss(), SGD, BATCHING)


ONE = "one floating-point number"
LOSSES = {
    "a vector": (
        returns(lambda m, e: m.weight * e["x"]),
        (ONE, "float32[3]", "client 'client000'", "Take the mean"),
    ),
    "a vector and metrics": (returns(lambda m, e: (m.weight, {})), (ONE, "float32[3]")),
    "an integer": (returns(lambda m, e: jnp.asarray(1)), (ONE, "int32[]")),
    "a boolean": (returns(lambda m, e: e["y"] > 0), (ONE, "bool[]")),
    "a complex number": (returns(lambda m, e: m.bias * 1j), (ONE, "complex64[]")),
    "a Python number": (
        returns(lambda m, e: 1.0),
        (ONE, "as an array", "got 1.0", "make an array"),
    ),
    "nothing": (returns(lambda m, e: None), (ONE, "None")),
    "three things": (returns(lambda m, e: (m.bias, {}, {})), (ONE, "or a pair")),
    "metrics that are no dictionary": (
        returns(lambda m, e: (m.bias, m.bias)),
        "must return a dictionary of metrics, got an array float32[]",
    ),
    "a metric with the name of the loss": (
        returns(lambda m, e: (m.bias, {"loss": m.bias})),
        ("'loss'", "another name"),
    ),
    "a metric with a name of the library": (
        returns(lambda m, e: (m.bias, {"clients": m.bias})),
        ("'clients'", "another name"),
    ),
    "a metric with the name of the round": (
        returns(lambda m, e: (m.bias, {"round": m.bias})),
        ("'round'", "another name"),
    ),
    "an error of its own": (
        returns(lambda m, e: e["label"]),
        ("client 'client000'", "float32[3]", "KeyError: 'label'"),
    ),
    "too few arguments": (
        lambda model, example: model.bias,
        "loss(model, example, key)",
    ),
}

TABLE = {
    "train": {
        **{
            f"a loss that returns {k}": (
                (lambda loss=loss: train(loss)),
                ValueError,
                words,
            )
            for k, (loss, words) in LOSSES.items()
        },
        "a metric that is text": (
            lambda: train(returns(lambda m, e: (m.bias, {"a": "good"}))),
            TypeError,
            ("The metric 'a' must be one real number", "'good'"),
        ),
        **{
            f"a metric that is {x}": (
                lambda x=x: train(returns(lambda m, e: (m.bias, {"a": x}))),
                TypeError,
                ("The metric 'a' must be one real number", f"got {x}"),
            )
            for x in (None, 1j, {})
        },
        "a complex metric": (
            lambda: train(returns(lambda m, e: (m.bias, {"a": m.bias * 1j}))),
            TypeError,
            ("The metric 'a' must be one real number", "complex64[]"),
        ),
        "a model that holds NaN": (
            lambda: train(model={"w": jnp.asarray([1.0, NAN])}),
            ValueError,
            "`model['w']` holds nan",
        ),
        **{
            f"an evaluation called {name!r}": (
                lambda name=name: train(evaluation={name: DATASET}),
                ValueError,
                ("`evaluation`", f"got {name!r}", "{'test': dataset}"),
            )
            for name in (1, "")
        },
        **{
            f"a sampler of at most {most!r}": (
                lambda most=most: train(loader=loader_of(sampler=Sampler(0, most))),
                TypeError,
                f"`Sampler.max_clients` must be an integer, got {most!r}",
            )
            for most in (None, 1.5)
        },
        "a metric whose name is no text": (
            lambda: train(returns(lambda m, e: (m.bias, {1: m.bias}))),
            EITHER,
            "1",
        ),
        "a model without arrays": (
            lambda: train(model={"f": jnp.tanh}),
            ValueError,
            "nothing to train",
        ),
        "no model": (lambda: train(model=None), ValueError, "nothing to train"),
        "a model that refuses the examples": (
            lambda: train(model=testing.Linear(5)),
            ValueError,
            ("client 'client000'", "float32[3]", "without a batch axis"),
        ),
        "a loss for an algorithm": (
            lambda: eqf.train(LOSS, MODEL, LOADER, num_rounds=1, key=KEY),
            TypeError,
            ("`algorithm` must be an `AbstractAlgorithm`", "the function"),
        ),
        "a class for an algorithm": (
            lambda: eqf.train(eqf.FedAvg, MODEL, LOADER, num_rounds=1, key=KEY),
            TypeError,
            ("`algorithm`", "the class `FedAvg`", "Call it first"),
        ),
        "a data set for a loader": (
            lambda: train(loader=DATASET),
            TypeError,
            (
                "`loader`",
                "a `FederatedDataset`",
                "Loader(dataset, sampler, algorithm.batching)",
            ),
        ),
        "no loader": (lambda: train(loader=None), TypeError, ("`loader`", "None")),
        "an integer for a key": (
            lambda: train(key=0),
            TypeError,
            ("`key` must be one random key, got 0", "jax.random.key(0)"),
        ),
        "an old-style key of another kind": (
            lambda: train(key=jr.key_data(jr.key(0, impl="rbg"))),
            TypeError,
            ("`key` must be one random key, got an array uint32[4]", "key(0)"),
        ),
        "several keys": (
            lambda: train(key=jr.split(KEY)),
            TypeError,
            "`key` must be one random key",
        ),
        "no key": (
            lambda: eqf.train(scaffold(), MODEL, LOADER, num_rounds=1),
            TypeError,
            "missing a required argument: 'key'",
        ),
        **counts(lambda x: train(num_rounds=x), name="num_rounds", least=0),
        **counts(lambda x: train(eval_every=x), name="eval_every", least=1),
        **counts(lambda x: train(rounds_per_call=x), name="rounds_per_call", least=1),
        "a place for what clients keep that is none": (
            lambda: train(client_states="disk"),
            ValueError,
            ("`client_states` must be 'device', 'sharded', 'host' or a f", "'./disk'"),
        ),
        "a number for a place": (
            lambda: train(client_states=3),
            TypeError,
            ("`client_states` must be", "got 3"),
        ),
        "a data set for the evaluation": (
            lambda: train(evaluation=DATASET),
            TypeError,
            (
                "`evaluation` must be a dictionary",
                "a `FederatedDataset`",
                "{'test': dataset}",
            ),
        ),
        "arrays for a data set": (
            lambda: train(evaluation={"test": {"x": np.ones(3)}}),
            TypeError,
            "`evaluation`",
        ),
        "a data set among others": (
            lambda: train(evaluation={"a": DATASET, "b": 3}),
            TypeError,
            "`evaluation`",
        ),
        "a token without a row": (
            lambda: train(READS, loader=loader_of(with_tokens(3))),
            ValueError,
            NO_ROW,
        ),
        "a token without a row, before the first": (
            lambda: train(READS, loader=loader_of(with_tokens(-4))),
            ValueError,
            ("holds -4 in row 3", "3 rows (0 to 2, or -1 to -3 from the end)"),
        ),
        "an evaluation's token without a row": (
            lambda: train(
                READS,
                loader=loader_of(with_tokens(0)),
                evaluation={"test": with_tokens(3)},
            ),
            ValueError,
            NO_ROW,
        ),
        "an evaluation of other examples": (
            lambda: train(evaluation={"test": other_columns()}),
            ValueError,
            ("'test'", "float32[7]"),
        ),
        "metrics that are no function": (
            lambda: train(metrics="accuracy"),
            TypeError,
            "`metrics`",
        ),
        "an evaluation of nothing": (
            lambda: train(
                evaluation={"a": DATASET}, metrics=returns(lambda m, e: None)
            ),
            ValueError,
            ("The metrics of one example", "got None for an example of 'a'"),
        ),
        "a path for a logger": (
            lambda: train(logger="log.jsonl"),
            TypeError,
            ("`logger`", "'log.jsonl'"),
        ),
        "a class for a logger": (
            lambda: train(logger=eqf.ProgressBar),
            TypeError,
            ("`logger`", "the class `ProgressBar`"),
        ),
        "a path for a checkpointer": (
            lambda: train(checkpointer="runs"),
            TypeError,
            ("`checkpointer`", "'runs'"),
        ),
        "a number for an executor": (
            lambda: train(executor=4),
            TypeError,
            ("`executor`", "got 4"),
        ),
        "another batching": (
            lambda: train(loader=loader_of(batching=eqf.data.Steps(2, batch_size=4))),
            ValueError,
            ("Steps", "Epochs", "algorithm.batching"),
        ),
        "another batch size": (
            lambda: train(loader=loader_of(batching=WHOLE)),
            ValueError,
            "batch_size=8",
        ),
        "a typing mistake": (
            lambda: train(rounds=3),
            TypeError,
            "unexpected keyword argument 'rounds'",
        ),
    },
    "rounds": {
        "a model for a state": (
            lambda: rounds(state=MODEL),
            TypeError,
            ("`state`", "a `Linear`"),
        ),
        "a data set for a loader": (
            lambda: rounds(loader=DATASET),
            TypeError,
            "`loader`",
        ),
        "an integer for a key": (
            lambda: rounds(key=0),
            TypeError,
            "`key` must be one random key, got 0",
        ),
        "a token without a row": (
            lambda: rounds(
                algorithm=eqf.FedAvg(READS, SGD, BATCHING),
                loader=loader_of(with_tokens(3)),
            ),
            ValueError,
            NO_ROW,
        ),
        **counts(lambda x: rounds(num_rounds=x), name="num_rounds", least=0),
        **counts(lambda x: rounds(rounds_per_call=x), name="rounds_per_call", least=1),
        "another place for what clients keep that is none": (
            lambda: rounds(client_states="disk"),
            ValueError,
            ("`client_states` must be 'device', 'sharded', 'host' or a f", "'./disk'"),
        ),
        "a state of a later round": (
            lambda: rounds(state=later(5)),
            ValueError,
            ("`num_rounds` is 3, but the state is of round 5", "Give 5 or more"),
        ),
        "a state of fewer clients": (
            lambda: rounds(
                algorithm=scaffold(), state=scaffold().init(MODEL, num_clients=3)
            ),
            ValueError,
            ("3 clients", "has 4"),
        ),
        "a state of more clients": (
            lambda: rounds(
                algorithm=scaffold(), state=scaffold().init(MODEL, num_clients=9)
            ),
            ValueError,
            ("9 clients", "has 4"),
        ),
        "a state of another algorithm": (
            lambda: rounds(state=scaffold().init(MODEL, num_clients=4)),
            ValueError,
            ("not of this algorithm", "it has `state.server", "should not have"),
        ),
        "another batching": (
            lambda: rounds(loader=loader_of(batching=WHOLE)),
            ValueError,
            "algorithm.batching",
        ),
    },
    "Executor": {
        **counts(lambda x: eqf.Executor(block_size=x), name="block_size", least=1),
        "a block beyond any cohort": (
            lambda: eqf.Executor(block_size=2**33),
            ValueError,
            "`block_size` must be at most 2147483647, got 8589934592",
        ),
        "a block of some speed": (
            lambda: eqf.Executor(block_size="fast"),
            ValueError,
            "`block_size` must be an integer or 'auto', got 'fast'",
        ),
        "a number for ordered": (
            lambda: eqf.Executor(ordered=1),
            TypeError,
            "`ordered` must be True or False, got 1",
        ),
        "text for differentiable": (
            lambda: eqf.Executor(differentiable="no"),
            TypeError,
            "`differentiable` must be True or False, got 'no'",
        ),
        **{
            f"{name} while debugging": (
                lambda how=how: eqf.Executor(debug=True, **how),
                ValueError,
                ("without `block_size`, `ordered` and `differentiable`", *words),
            )
            for name, how, words in (
                ("a block", {"block_size": 2}, ("block_size=2",)),
                ("order", {"ordered": True}, ("ordered=True",)),
                ("a derivative", {"differentiable": True}, ("Leave these out",)),
            )
        },
        "several rounds in a call while debugging": (
            lambda: list(rounds(executor=eqf.Executor(debug=True), rounds_per_call=2)),
            ValueError,
            ("runs one round in a call", "rounds_per_call=2"),
        ),
        "a traced round while debugging": (
            lambda: jax.jit(debugged)(KEY),
            ValueError,
            ("cannot be traced", "outside of `jax.jit`"),
        ),
        "an option by position": (
            lambda: eqf.Executor(None),
            TypeError,
            "too many positional arguments",
        ),
    },
    "evaluate": {
        "a token without a row": (
            lambda: eqf.evaluate(MODEL, with_tokens(3), READS),
            ValueError,
            NO_ROW,
        ),
        "a model for a data set": (
            lambda: eqf.evaluate(MODEL, MODEL, LOSS),
            TypeError,
            ("`dataset`", "a `Linear`"),
        ),
        "a loader for a data set": (
            lambda: eqf.evaluate(MODEL, LOADER, LOSS),
            TypeError,
            ("`dataset`", "a `Loader`"),
        ),
        "metrics that are no function": (
            lambda: eqf.evaluate(MODEL, DATASET, {"loss": LOSS}),
            TypeError,
            "`metrics`",
        ),
        "metrics of nothing": (
            lambda: eqf.evaluate(MODEL, DATASET, returns(lambda m, e: None)),
            ValueError,
            ("The metrics of one example must be a dictionary, or a loss", "got None"),
        ),
        "metrics that fail": (
            lambda: eqf.evaluate(MODEL, DATASET, returns(lambda m, e: e["label"])),
            ValueError,
            ("The metrics failed", "`metrics(model, example, key)`", "KeyError: 'lab"),
        ),
        "a metric of a vector": (
            lambda: eqf.evaluate(MODEL, DATASET, returns(lambda m, e: m.weight)),
            ValueError,
            "float32[3]",
        ),
        "a model that refuses the examples": (
            lambda: eqf.evaluate(testing.Linear(5), DATASET, fresh_loss()),
            ValueError,
            ("float32[3]", "without a batch axis"),
        ),
        **counts(
            lambda x: eqf.evaluate(MODEL, DATASET, fresh_loss(), batch_size=x),
            name="batch_size",
            least=1,
        ),
        "an integer for a key": (
            lambda: eqf.evaluate(MODEL, DATASET, LOSS, key=0),
            TypeError,
            "`key`",
        ),
        "a number for a flag": (
            lambda: eqf.evaluate(MODEL, DATASET, LOSS, per_client=1),
            TypeError,
            "`per_client` must be True or False",
        ),
        "a mesh without clients": (
            lambda: eqf.evaluate(MODEL, DATASET, LOSS, mesh=mesh_of("data")),
            ValueError,
            ("'clients'", "('data',)"),
        ),
    },
    "Evaluator": {
        "a model for a data set": (
            lambda: eqf.Evaluator(MODEL, LOSS),
            TypeError,
            ("`dataset`", "a `Linear`"),
        ),
        "metrics that are no function": (
            lambda: eqf.Evaluator(DATASET, "loss"),
            TypeError,
            "`metrics`",
        ),
        **counts(
            lambda x: eqf.Evaluator(DATASET, LOSS, batch_size=x),
            name="batch_size",
            least=1,
        ),
        "an integer for a key": (
            lambda: eqf.Evaluator(DATASET, fresh_loss())(MODEL, key=0),
            TypeError,
            "`key`",
        ),
    },
    "ClientMetrics": {
        "no such client": (
            lambda: client_metrics()["nobody"],
            EITHER + (KeyError,),
            "'nobody'",
        ),
    },
    "accuracy": {
        **labels_and_logits(eqf.accuracy),
        "a batch": (lambda: eqf.accuracy(jnp.ones((4, 3)), 0), EITHER, "(4, 3)"),
        "a fraction for a label": (
            lambda: eqf.accuracy(LOGITS, 0.5),
            EITHER,
            "float32[]",
        ),
    },
    "top_k_accuracy": {
        "k=0": (
            lambda: eqf.top_k_accuracy(LOGITS, 0, k=0),
            ValueError,
            ("`k`", "got 0"),
        ),
        "k=4": (
            lambda: eqf.top_k_accuracy(LOGITS, 0, k=4),
            ValueError,
            ("`k`", "got 4"),
        ),
        "k=1.5": (
            lambda: eqf.top_k_accuracy(LOGITS, 0, k=1.5),
            TypeError,
            "`k` must be an integer, got 1.5",
        ),
        "a batch": (
            lambda: eqf.top_k_accuracy(jnp.ones((4, 3)), 0, k=1),
            EITHER,
            "(4, 3)",
        ),
    },
    "cross_entropy": {
        **labels_and_logits(eqf.cross_entropy),
        "a fraction for a label": (
            lambda: eqf.cross_entropy(LOGITS, 0.5),
            EITHER,
            "float32[]",
        ),
    },
    "ConfusionMatrix": {
        **labels_and_logits(eqf.ConfusionMatrix),
        "a batch": (lambda: eqf.ConfusionMatrix(jnp.ones((4, 3)), 0), EITHER, "(4, 3)"),
    },
    "Average": {
        "text": (lambda: eqf.Average("good"), EITHER, "'good'"),
        "nothing": (lambda: eqf.Average(None), EITHER, "None"),
        "a complex number": (lambda: eqf.Average(1j), TypeError, ("real", "1j")),
        "text for a weight": (lambda: eqf.Average(1.0, "a"), TypeError, "'a'"),
        "more weights than totals": (
            lambda: eqf.Average(1.0, np.ones(2)),
            ValueError,
            "`weight` must be one number, or one for each total",
        ),
        "a negative weight": (
            lambda: eqf.Average(1.0, -1.0),
            ValueError,
            "`weight` must be at least 0 in an `Average`, got -1.0",
        ),
    },
    "Sum": {
        "text": (lambda: eqf.Sum("good"), EITHER, "'good'"),
    },
    "Checkpointer": {
        "a number for a directory": (
            lambda: eqf.Checkpointer(3),
            TypeError,
            ("`directory`", "got 3"),
        ),
        "no directory": (
            lambda: eqf.Checkpointer(None),
            TypeError,
            ("`directory`", "None"),
        ),
        "a file for a directory": (
            lambda: train(checkpointer=eqf.Checkpointer("taken")),
            EITHER + (OSError,),
            "taken",
        ),
        **counts(lambda x: eqf.Checkpointer("made", every=x), name="every", least=1),
        **counts(lambda x: eqf.Checkpointer("made", keep=x), name="keep", least=1),
        "on_change='ignore'": (
            lambda: eqf.Checkpointer("made", on_change="ignore"),
            ValueError,
            ("`on_change`", "'ignore'"),
        ),
    },
    "JSONLines": {
        "a number for a path": (
            lambda: eqf.JSONLines(3),
            TypeError,
            ("`path`", "got 3"),
        ),
        "no path": (lambda: eqf.JSONLines(None), TypeError, ("`path`", "None")),
        "a file of another's": (
            lambda: with_logger(eqf.JSONLines("taken")),
            EITHER + (OSError,),
            "taken",
        ),
    },
    "TensorBoard": {
        "a number for a directory": (
            lambda: eqf.TensorBoard(3),
            TypeError,
            ("`directory`", "got 3"),
        ),
    },
    "Loggers": {
        "a class": (lambda: eqf.Loggers(eqf.ProgressBar), TypeError, "ProgressBar"),
        "a path": (lambda: eqf.Loggers("log.jsonl"), TypeError, "'log.jsonl'"),
        "a list": (lambda: eqf.Loggers([eqf.ProgressBar()]), TypeError, "list"),
    },
    "Table": {
        **counts(lambda x: eqf.Table("loss", every=x), name="every", least=1),
        "a number for a name": (lambda: eqf.Table(3), TypeError, "3"),
    },
    "ProgressBar": {
        "a number for a name": (lambda: eqf.ProgressBar(3), TypeError, "3"),
        "a list of names": (lambda: eqf.ProgressBar(["loss"]), TypeError, "['loss']"),
    },
}


def with_logger(logger):
    with logger:
        logger.start(3, 0)
        logger.log(1, {"loss": 1.0})


def client_metrics():
    values = {"loss": np.ones(2)}
    return eqf.ClientMetrics(values, np.ones(2, int), ["a", "b"])

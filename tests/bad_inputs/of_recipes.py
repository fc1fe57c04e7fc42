"""Recipes: names that there are not, and numbers that fit nothing."""

import dataclasses
import functools

import equifed as eqf
from equifed import recipes

from .shared import DATASET, NAN


def fedavg(**changes):
    return dataclasses.replace(recipes.recipe("digits-fedavg"), **changes)


def numbers(**given):
    return fedavg(numbers=given)


def names(look_up, wrong, near, kind):
    return {
        "an unknown name": (
            lambda: look_up(wrong),
            ValueError,
            (f"`{kind}` must be the name of one, got {wrong!r}", f"mean {near!r}"),
        ),
        "a number for a name": (
            lambda: look_up(1),
            ValueError,
            (f"`{kind}` must be the name of one, got 1", "There are: "),
        ),
    }


def rates(cls, **others):
    make = functools.partial(cls, learning_rate=0.1)
    cases = {
        "a negative rate": (
            lambda: cls(learning_rate=-1.0),
            ValueError,
            "`learning_rate` must be at least 0, got -1",
        ),
        "text for a rate": (
            lambda: cls(learning_rate="0.1"),
            TypeError,
            "`learning_rate` must be a number, got '0.1'",
        ),
        "a largest norm of 0": (
            lambda: make(clip_norm=0.0),
            ValueError,
            "`clip_norm` must be more than 0, got 0",
        ),
        "a negative decay of weights": (
            lambda: make(weight_decay=-1.0),
            ValueError,
            "`weight_decay` must be at least 0, got -1",
        ),
    }
    for name, (value, words) in others.items():
        cases[f"{name}={value}"] = (
            lambda name=name, value=value: make(**{name: value}),
            ValueError,
            f"`{name}` must be {words}",
        )
    return cases


BETA = (1.0, "less than 1, got 1")
EPS = (0.0, "more than 0, got 0")
TABLE = {
    "recipes.task": names(recipes.task, "digits-dens", "digits-dense", "task"),
    "recipes.algorithm": names(recipes.algorithm, "fedadm", "fedadam", "algorithm"),
    "recipes.recipe": names(
        recipes.recipe, "flsim-fedavg-dir0.5", "flsim-fedavg-dir0.6", "recipe"
    ),
    "recipes.SGD": rates(recipes.SGD),
    "recipes.Momentum": rates(recipes.Momentum, momentum=BETA),
    "recipes.Adam": rates(recipes.Adam, b1=BETA, b2=BETA, eps=EPS),
    "recipes.Adagrad": rates(
        recipes.Adagrad, initial_accumulator=(-1.0, "at least 0, got -1"), eps=EPS
    ),
    "recipes.Yogi": rates(recipes.Yogi, b1=BETA, b2=BETA, eps=EPS),
    "recipes.RMSprop": rates(recipes.RMSprop, b2=BETA, eps=EPS),
    "recipes.Decay": {
        "a factor of 0": (
            lambda: recipes.Decay(factor=0.0),
            ValueError,
            "`factor` must be more than 0, got 0",
        ),
        "every 0 rounds": (
            lambda: recipes.Decay(every=0),
            ValueError,
            "`every` must be at least 1, got 0",
        ),
    },
    "recipes.Aggregator": {
        "an unknown kind": (
            lambda: recipes.Aggregator(kind="mode"),
            ValueError,
            ("`kind` must be 'weighted-mean', ", "got 'mode'"),
        ),
        "a trimmed mean of nothing said": (
            lambda: recipes.Aggregator(kind="trimmed-mean"),
            ValueError,
            "`trim` must be given for 'trimmed-mean': the fraction",
        ),
        "a median that trims": (
            lambda: recipes.Aggregator(kind="median", trim=0.1),
            ValueError,
            "`trim` is no number of 'median', which has no number, got trim=0.1",
        ),
        "half at each end": (
            lambda: recipes.Aggregator(kind="trimmed-mean", trim=0.5),
            ValueError,
            ("`trim`", "0.5, got 0.5"),
        ),
        "Krum of nothing said": (
            lambda: recipes.Aggregator(kind="krum"),
            ValueError,
            "`num_byzantine` must be given for 'krum': the f: how many",
        ),
        "a number of another rule": (
            lambda: recipes.Aggregator(kind="krum", num_byzantine=1, nu=0.1),
            ValueError,
            "which has `num_byzantine`, `num_selected`, got nu=0.1",
        ),
        "a number out of bounds": (
            lambda: recipes.Aggregator(kind="krum", num_byzantine=-1),
            ValueError,
            "`num_byzantine` must be at least 0, got -1",
        ),
        "mixed and in buckets": (
            lambda: recipes.Aggregator(kind="median", mixing=1, bucket_size=2),
            ValueError,
            "`mixing=1` and `bucket_size=2` are two ways",
        ),
        "a norm of 0": (
            lambda: recipes.Aggregator(kind="median", clip_norm=0.0),
            ValueError,
            "`clip_norm` must be more than 0, got 0",
        ),
        "a number for a flag": (
            lambda: recipes.Aggregator(kind="median", drop_nonfinite=1),
            TypeError,
            "`drop_nonfinite` must be",
        ),
    },
    "recipes.Compression": {
        "an unknown kind": (
            lambda: recipes.Compression(kind="zip"),
            ValueError,
            ("`kind` must be 'uniform-quantizer', ", "got 'zip'"),
        ),
        "levels of nothing said": (
            lambda: recipes.Compression(kind="qsgd"),
            ValueError,
            "`num_levels` must be given for 'qsgd': s, how many levels there are above",
        ),
        "a number of another kind": (
            lambda: recipes.Compression(kind="drive", fraction=0.1),
            ValueError,
            "`fraction` is no number of 'drive', which has no number, got fraction=0.1",
        ),
        "a number out of bounds": (
            lambda: recipes.Compression(kind="eden", num_bits=9),
            ValueError,
            "`num_bits` must be from 1 to 8, got 9",
        ),
        "a sketch of one vector": (
            lambda: recipes.Compression(
                kind="count-sketch",
                num_rows=1,
                num_columns=1,
                num_kept=1,
                whole=True,
            ),
            ValueError,
            "`whole` is of a compressor that takes each array for itself, and",
        ),
        "a sketch with feedback": (
            lambda: recipes.Compression(
                kind="count-sketch",
                num_rows=1,
                num_columns=1,
                num_kept=1,
                feedback="ef21",
            ),
            ValueError,
            "of a 'count-sketch' the server does",
        ),
        "feedback of what is made longer": (
            lambda: recipes.Compression(
                kind="random-k", fraction=0.1, feedback="error-feedback"
            ),
            ValueError,
            "Say `scaled=False`, or leave `feedback` out",
        ),
        "a seed of no rotation": (
            lambda: recipes.Compression(kind="sign", seed=0),
            ValueError,
            (
                "`seed` is of a rotation, and 'sign' has none, got seed=0",
                "rotated=True",
            ),
        ),
        "another feedback": (
            lambda: recipes.Compression(kind="sign", feedback="ef22"),
            ValueError,
            "`feedback` must be 'error-feedback' or 'ef21', got 'ef22'",
        ),
        "a number for a flag": (
            lambda: recipes.Compression(kind="sign", whole=1),
            TypeError,
            "`whole` must be",
        ),
    },
    "recipes.Batching": {
        "epochs and steps": (
            lambda: recipes.Batching(epochs=1, steps=3),
            ValueError,
            ("`epochs=1` and `steps=3` are two ways", "Give one"),
        ),
        "steps that are filled": (
            lambda: recipes.Batching(steps=3, last="fill"),
            ValueError,
            ("`last='fill'`", "Leave one of"),
        ),
        "another last": (
            lambda: recipes.Batching(last="pad"),
            ValueError,
            "`last` must be 'short', 'drop' or 'fill', got 'pad'",
        ),
        "a batch of nothing": (
            lambda: recipes.Batching(batch_size=0),
            ValueError,
            "`batch_size` must be at least 1, got 0",
        ),
        "half an epoch": (
            lambda: recipes.Batching(epochs=0.5),
            TypeError,
            "`epochs` must be an integer, got 0.5",
        ),
    },
    "recipes.Published": {
        "a figure that is none": (
            lambda: recipes.Published(value=NAN, source="a table"),
            ValueError,
            "`value` must be finite, got nan",
        ),
        "a negative spread": (
            lambda: recipes.Published(value=0.5, spread=-1.0, source="a table"),
            ValueError,
            "`spread` must be at least 0, got -1",
        ),
        "over other rounds": (
            lambda: recipes.Published(value=0.5, over="mean", source="a table"),
            ValueError,
            "`over` must be 'last' or 'best', got 'mean'",
        ),
        "a share for a number of rounds": (
            lambda: recipes.Published(value=0.814, reaches=0.814, source="a table"),
            ValueError,
            "`value` must be at least 1, got 0.814",
        ),
        "a level that is none": (
            lambda: recipes.Published(value=67, reaches=NAN, source="a table"),
            ValueError,
            "`reaches` must be finite, got nan",
        ),
        "a word for a level": (
            lambda: recipes.Published(value=67, reaches="81.4%", source="a table"),
            TypeError,
            "`reaches` must be a number, got '81.4%'",
        ),
        "the best of the rounds to a level": (
            lambda: recipes.Published(
                value=67, reaches=0.814, over="best", source="a table"
            ),
            ValueError,
            (
                "`over` must be left out if `reaches` is given",
                "got 'best'",
                "Leave out one of the two",
            ),
        ),
    },
    "recipes.Task": {
        "a number for a loss": (
            lambda: dataclasses.replace(recipes.task("digits-dense"), loss=1),
            TypeError,
            "`loss` must be a function, got 1",
        ),
    },
    "recipes.Task.load": {
        "a folder that is not needed": (
            lambda: recipes.task("digits-dense").load("."),
            ValueError,
            ("`folder` is not needed for 'digits-dense'", "Leave it out"),
        ),
        "no folder where one is needed": (
            lambda: recipes.task("stackoverflow-word").load(),
            ValueError,
            ("`folder` is needed for 'stackoverflow-word'", "stackoverflow.sqlite"),
        ),
        "a folder that there is not": (
            lambda: recipes.task("emnist-conv").load("nowhere"),
            FileNotFoundError,
            ("`folder` must be a folder with", "got 'nowhere', which is none"),
        ),
        "a folder without the files": (
            lambda: recipes.task("emnist-conv").load("."),
            FileNotFoundError,
            "`folder` has no file *.parquet",
        ),
        "one without the file": (
            lambda: recipes.task("shakespeare-character").load("."),
            FileNotFoundError,
            "`folder` has no file shakespeare_train.sqlite",
        ),
    },
    "recipes.Task.model": {
        "an integer for a key": (
            lambda: recipes.task("digits-dense").model(0),
            TypeError,
            "`key` must be one random key, got 0",
        ),
    },
    "recipes.Recipe": {
        "a name for a task": (
            lambda: fedavg(task="digits-dense"),
            TypeError,
            ("`task` must be a `Task`, got 'digits-dense'", "recipes.task("),
        ),
        "a wrapper": (
            lambda: fedavg(algorithm=eqf.OverRounds),
            ValueError,
            "`algorithm` must be the name of one, got 'overrounds'",
        ),
        "an algorithm that needs a clock": (
            lambda: fedavg(algorithm=eqf.FedBuff),
            ValueError,
            ("`FedBuff` needs a clock", "--algorithm fedbuff --clock asynchronous"),
        ),
        "a number that the algorithm has not": (
            lambda: numbers(client_optim=recipes.SGD(learning_rate=0.1), mu=0.1),
            ValueError,
            ("`numbers of FedAvg` must be the name of one, got 'mu'", "client_optim"),
        ),
        "a number that is missing": (
            lambda: numbers(),
            ValueError,
            "`FedAvg` needs `client_optim`",
        ),
        "a number for an optimiser": (
            lambda: numbers(client_optim=0.1),
            TypeError,
            "`client_optim` must be a `SGD`",
        ),
        "another aggregator": (
            lambda: numbers(
                client_optim=recipes.SGD(learning_rate=0.1), aggregator="mode"
            ),
            ValueError,
            "`aggregator` must be 'weighted-mean', ",
        ),
        "feedback at the server": (
            lambda: fedavg(
                compress_down=recipes.Compression(kind="sign", feedback="ef21")
            ),
            ValueError,
            "`compress_down` has no `feedback`, got 'ef21'",
        ),
        "sketches of the server": (
            lambda: fedavg(
                compress_down=recipes.Compression(
                    kind="count-sketch", num_rows=1, num_columns=1, num_kept=1
                )
            ),
            ValueError,
            "`compress_down` cannot be a 'count-sketch'",
        ),
        "no source": (
            lambda: fedavg(source=""),
            ValueError,
            "`source` must say where the numbers are from, got ''",
        ),
        "no figure and no reason": (
            lambda: fedavg(without=""),
            ValueError,
            "`without` must say why there is no figure to compare with",
        ),
        "no round": (
            lambda: fedavg(rounds=0),
            ValueError,
            "`rounds` must be at least 1, got 0",
        ),
    },
    "recipes.Recipe.source_of": {
        "a number that there is not": (
            lambda: fedavg().source_of("mu"),
            ValueError,
            ("`name` must be the name of one, got 'mu'", "batching"),
        ),
    },
    "recipes.Recipe.loader": {
        "a number for a set": (
            lambda: fedavg().loader(3, seed=0),
            TypeError,
            "`train` must be a `FederatedDataset`, got 3",
        ),
        "a negative seed": (
            lambda: fedavg().loader(DATASET, seed=-1),
            ValueError,
            "`seed` must be between 0 and",
        ),
    },
}

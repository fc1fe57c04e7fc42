"""`examples/lora.py`: what is held out stays so, and each method leaves its numbers."""

import dataclasses
import json

import numpy as np
import pytest

from equifed.data import FederatedDataset, Steps
from equifed.models import Llama

from .shared import drawn, script


@pytest.fixture(scope="module")
def example():
    return script("lora", "examples")


@pytest.fixture(scope="module")
def setting(example):
    """The tiny one, with a round of one step, and a model of one layer that is not
    trained: each that there is more is compiled in eleven programs."""
    setting = example.tiny(None, num_steps=1)
    config = dataclasses.replace(setting.base.config, num_layers=1)
    base = drawn(lambda key: Llama(config, key=key), 0.0, 0.1)
    batching = Steps(1, batch_size=4)
    return dataclasses.replace(setting, base=base, num_rounds=1, batching=batching)


def test_who_trains_and_who_is_never_seen(setting):
    train, test, unseen = setting.split()
    assert train.client_ids == test.client_ids
    assert len(train) == setting.num_clients
    assert len(unseen) == setting.num_unseen
    assert not {*train.client_ids} & {*unseen.client_ids}
    assert max(test.client_sizes) <= setting.most


def test_nothing_is_trained_on_that_is_held_out(setting):
    """Every line is said once, and four of them make a sequence."""
    count, size = 400, setting.length // 4
    letters = np.random.default_rng(0).integers(
        ord("a"), ord("z") + 1, (12 * count, size)
    )
    lines = np.array(["".join(map(chr, row)) for row in letters])
    by = np.repeat([f"client {i}" for i in range(12)], count)
    said = {name: {*lines[by == name].tolist()} for name in by}
    assert len(set().union(*said.values())) == len(lines)
    own = dataclasses.replace(
        setting, lines=FederatedDataset.from_arrays({"text": lines}, by=by)
    )
    train, test, unseen = own.split()
    kept = {n: {*train[n]["text"].tolist()} for n in train.client_ids}

    def read(rows):
        """The lines that a client's sequences are of."""
        text = "".join(setting.tokenizer.decode(rows["x"][rows["document"] > 0]))
        return {text[i : i + size] for i in range(0, len(text), size)}

    trained = own.chunks(train)
    seen = {n: read(trained[n]) for n in trained.client_ids}
    assert seen == kept
    for name in test.client_ids:
        assert len(seen[name]) == 0.8 * count
        assert read(test[name]) <= said[name] - seen[name]
    for name in unseen.client_ids:
        assert read(unseen[name]) <= said[name]
        assert not read(unseen[name]) & set().union(*seen.values())
    assert min(unseen.client_sizes) == setting.most


def test_every_method_leaves_its_numbers(example, setting, tmp_path):
    run = example.Run(setting, tmp_path / "lora.json")
    run.as_it_was()
    # The base is frozen in each; one of those that have a model for all, and one not.
    for name in ("FedIT", "FedSA-LoRA"):
        run.measure(name, example.methods(run.model)[name], 0.01, 0)
    found = json.loads((tmp_path / "lora.json").read_text())
    assert list(found["methods"]) == ["FedIT", "FedIT + tuning", "FedSA-LoRA"]
    for name, seeds in found["methods"].items():
        assert len(seeds["0"]["own"]) == setting.num_clients
        assert ("unseen" in seeds["0"]) == (name == "FedIT")
    sent = 1 + sum(x.size for x in example.adapters(run.model))  # and its weight
    assert found["methods"]["FedIT"]["0"]["kB"][0] == pytest.approx(sent * 4 / 1000)
    example.plot(found, tmp_path / "lora.png")
    assert (tmp_path / "lora.png").stat().st_size > 1000

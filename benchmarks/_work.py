"""The workloads: the same clients, batches, model and first parameters on every side.

NumPy only, so that each peer can import it in its own virtual environment. The data
are random but not noise (an example is its class's pattern under a random mask, so
there is something to learn), and are written to a directory once, from where every
side maps them into memory.

Batches are the client's examples as they are stored, one epoch, no shuffling. Clients
differ in size, but always have whole batches: libraries treat a short last batch
differently (fill it, pad it, keep it short), and their results could not be compared.

Parameters have the same names and layouts everywhere: `conv1/weight` is (height,
width, in, out), `dense1/weight` is (in, out). Images are (height, width, channels) of
`uint8`, divided by 255 inside the model, and flattened in that order.
"""

import dataclasses
import json
import os
import pathlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class Data:
    """Client `i` owns the rows `offsets[i]:offsets[i + 1]` of `x` and `y`."""

    x: np.ndarray
    y: np.ndarray
    offsets: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        return np.diff(self.offsets)

    def client(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(int(self.offsets[i]), int(self.offsets[i + 1]))
        return self.x[rows], self.y[rows]


@dataclasses.dataclass(frozen=True)
class Work:
    """A population, a model, and how it is trained.

    - `model`: `"cnn"` is conv 3x3x32, relu, conv 3x3x64, relu (no padding), max pool
      2, dense 128, relu, dense; `"dense"` is 200, relu, 200, relu, dense;
      `"logistic"` is one dense layer; `"lstm"` is an embedding, an LSTM, a dense
      layer to the embedding's size and one to the vocabulary. The LSTM's gates are i,
      g, f, o, of the input and the state side by side, and f has 1 added to it. The
      loss of a sentence is the mean over its words; 0 is no word.
    - `spread`: the standard deviation of the logarithm of the clients' sizes; 0 gives
      every client `mean_examples`.
    - `cohorts`: the numbers of clients a round to measure.
    - `tolerance`: how far two sides may be apart after the check's two rounds, as a
      part of how far the parameters have moved. One relu that rounding puts on the
      other side of 0 has been seen to make 1e-3, and a CNN of many steps 5e-3.
    """

    name: str
    model: str
    input_shape: tuple[int, ...]
    num_classes: int
    num_clients: int
    mean_examples: int
    spread: float
    batch_size: int
    learning_rate: float
    cohorts: tuple[int, ...]
    tolerance: float
    hidden: int = 0
    embedding: int = 0
    eval_batch_size: int = 256

    def sizes(self) -> np.ndarray:
        """The clients' numbers of examples, all of them whole batches."""
        rng = np.random.default_rng(1)
        mean = np.log(self.mean_examples) - self.spread**2 / 2
        sizes = rng.lognormal(mean, self.spread, self.num_clients)
        num_batches = np.maximum(1, np.rint(sizes / self.batch_size))
        return num_batches.astype(np.int64) * self.batch_size

    def clients(self, round: int, num_clients: int) -> np.ndarray:
        """The numbers of the clients that take part in a round."""
        rng = np.random.default_rng([2, round])
        return rng.choice(self.num_clients, num_clients, replace=False)

    def num_steps(self, round: int, num_clients: int) -> int:
        """How many batches the clients of a round go through in all."""
        sizes = self.sizes()[self.clients(round, num_clients)]
        return int(sizes.sum()) // self.batch_size

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The parameters' names and shapes."""
        if self.model == "lstm":
            gates = 4 * self.hidden
            layers = {
                "lstm": ((self.embedding + self.hidden, gates), (gates,)),
                **_dense([self.hidden, self.embedding, self.num_classes]),
            }
            embedding = {"embed/weight": (self.num_classes, self.embedding)}
            return {**embedding, **_named(layers)}
        num_inputs = int(np.prod(self.input_shape))
        if self.model == "logistic":
            return _named(_dense([num_inputs, self.num_classes]))
        if self.model == "dense":
            return _named(_dense([num_inputs, 200, 200, self.num_classes]))
        height, width, channels = self.input_shape
        flat = (height - 4) // 2 * ((width - 4) // 2) * 64
        layers = {
            "conv1": ((3, 3, channels, 32), (32,)),
            "conv2": ((3, 3, 32, 64), (64,)),
            **_dense([flat, 128, self.num_classes]),
        }
        return _named(layers)

    def params(self) -> dict[str, np.ndarray]:
        """The first parameters: weights of variance 1 / fan-in, and zeros."""
        rng = np.random.default_rng(3)
        params = {}
        for name, shape in self.shapes().items():
            value = np.zeros(shape)
            if name.endswith("weight"):
                fan_in = shape[-1] if name.startswith("embed") else np.prod(shape[:-1])
                value = rng.standard_normal(shape) / np.sqrt(fan_in)
            params[name] = value.astype(np.float32)
        return params

    def num_params(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.shapes().values())

    def quick(self) -> "Work":
        """The same work on few clients, to try the scripts."""
        return dataclasses.replace(self, num_clients=min(self.num_clients, 50))

    def data(self, directory: str | os.PathLike) -> Data:
        """The data; written to the directory first, if they are not there."""
        offsets = np.concatenate([[0], np.cumsum(self.sizes())])
        shape = "x".join(str(n) for n in self.input_shape)
        name = f"{shape}-{self.num_clients}x{self.mean_examples}"
        path = pathlib.Path(directory) / name
        if not (path / "done.json").exists():
            path.mkdir(parents=True, exist_ok=True)
            num_examples = int(offsets[-1])
            make = self._sentences if self.model == "lstm" else self._images
            make(path, num_examples)
            (path / "done.json").write_text(json.dumps({"examples": num_examples}))
        x, y = (np.load(path / f"{name}.npy", mmap_mode="r") for name in "xy")
        return Data(x, y, offsets)

    def _images(self, path: pathlib.Path, num_examples: int) -> None:
        rng = np.random.default_rng(4)
        shape = self.input_shape
        patterns = rng.integers(0, 256, (self.num_classes, *shape), dtype=np.uint8)
        patterns *= rng.random(patterns.shape) < 0.2
        masks = (rng.random((1024, *shape)) < 0.7).astype(np.uint8)
        labels = rng.integers(0, self.num_classes, num_examples, dtype=np.int32)
        np.save(path / "y.npy", labels)
        images = _file(path / "x.npy", np.uint8, (num_examples, *shape))
        for start in range(0, num_examples, 4096):
            some = labels[start : start + 4096]
            images[start : start + 4096] = (
                patterns[some] * masks[rng.integers(0, len(masks), len(some))]
            )
        images.flush()

    def _sentences(self, path: pathlib.Path, num_examples: int) -> None:
        """Words of Zipf's frequencies; half of them follow from the word before."""
        rng = np.random.default_rng(4)
        length, num_words = self.input_shape[0], self.num_classes - 1
        words = 1 + (rng.zipf(1.2, (num_examples, length + 1)) - 1) % num_words
        follows = rng.random(words.shape) < 0.5
        for i in range(1, length + 1):
            next_word = 1 + (7 * words[:, i - 1]) % num_words
            words[:, i] = np.where(follows[:, i], next_word, words[:, i])
        ends = rng.integers(length // 4, length + 1, num_examples)
        there = np.arange(length) < ends[:, None]
        np.save(path / "x.npy", np.where(there, words[:, :-1], 0).astype(np.int32))
        np.save(path / "y.npy", np.where(there, words[:, 1:], 0).astype(np.int32))


def _dense(sizes: list[int]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    pairs = zip(sizes[:-1], sizes[1:], strict=True)
    return {f"dense{i}": (pair, pair[1:]) for i, pair in enumerate(pairs, 1)}


def _named(layers) -> dict[str, tuple[int, ...]]:
    return {
        f"{layer}/{kind}": shape
        for layer, pair in layers.items()
        for kind, shape in zip(("weight", "bias"), pair, strict=True)
    }


def _file(path: pathlib.Path, dtype, shape: tuple[int, ...]) -> np.memmap:
    return np.lib.format.open_memmap(path, "w+", dtype, shape)


def _emnist(model: str, tolerance: float) -> Work:
    return Work(
        name=f"emnist_{model}",
        model=model,
        input_shape=(28, 28, 1),
        num_classes=62,
        num_clients=3400,
        mean_examples=200,
        spread=0.4,
        batch_size=20,
        learning_rate=0.05,
        cohorts=(10, 100),
        tolerance=tolerance,
    )


def _small(model: str, tolerance: float) -> Work:
    return dataclasses.replace(
        _emnist(model, tolerance),
        name=f"small_{model}",
        num_clients=1000,
        mean_examples=100,
        spread=0.0,
        cohorts=(50,),
    )


WORKS = {
    work.name: work
    for work in [
        _emnist("cnn", 2e-2),
        _emnist("dense", 1e-2),
        _emnist("logistic", 1e-4),
        Work(
            name="stackoverflow_lstm",
            model="lstm",
            input_shape=(20,),
            num_classes=10004,
            num_clients=1000,
            mean_examples=32,
            spread=1.0,
            batch_size=16,
            learning_rate=0.3,
            cohorts=(50,),
            tolerance=1e-3,
            hidden=670,
            embedding=96,
        ),
        Work(
            name="cifar_cnn",
            model="cnn",
            input_shape=(32, 32, 3),
            num_classes=10,
            num_clients=1000,
            mean_examples=50,
            spread=0.0,
            batch_size=10,
            learning_rate=0.05,
            cohorts=(50,),
            tolerance=2e-2,
        ),
        _small("dense", 1e-2),
        _small("logistic", 1e-4),
    ]
}

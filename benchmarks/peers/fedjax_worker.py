"""FedJAX's side: its FedAvg, its jit backend, its models' layers, its evaluation.

The models are those of `fedjax.models` without dropout and without the LSTM's extra
tanh, so that both sides compute the same. `--pooling reshape --ynn-off` gives FedJAX
two things which make its CNN faster on a CPU and which it does not ship with.

    fedjax/bin/python benchmarks/peers/fedjax_worker.py --work small_dense --data DIR
"""

import os

import _protocol as protocol
import fedjax
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np


# FedJAX 0.0.17 uses a name that JAX no longer has.
jax.tree_map = jax.tree_util.tree_map


def forward(work, pooling):
    """The model of a batch, of Haiku's layers."""

    def cnn(batch):
        x = batch["x"].astype(jnp.float32) / 255
        x = jax.nn.relu(hk.Conv2D(32, 3, padding="VALID", name="conv1")(x))
        x = jax.nn.relu(hk.Conv2D(64, 3, padding="VALID", name="conv2")(x))
        if pooling == "reshape":
            n, height, width, channels = x.shape
            x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))
        else:
            x = hk.MaxPool((1, 2, 2, 1), (1, 2, 2, 1), padding="VALID")(x)
        x = jax.nn.relu(hk.Linear(128, name="dense1")(hk.Flatten()(x)))
        return hk.Linear(work.num_classes, name="dense2")(x)

    def dense(batch):
        x = hk.Flatten()(batch["x"].astype(jnp.float32) / 255)
        x = jax.nn.relu(hk.Linear(200, name="dense1")(x))
        x = jax.nn.relu(hk.Linear(200, name="dense2")(x))
        return hk.Linear(work.num_classes, name="dense3")(x)

    def logistic(batch):
        x = hk.Flatten()(batch["x"].astype(jnp.float32) / 255)
        return hk.Linear(work.num_classes, name="dense1")(x)

    def lstm(batch):
        embed = hk.Embed(work.num_classes, work.embedding, name="embed")
        layers = [
            hk.LSTM(work.hidden, name="lstm"),
            hk.Linear(work.embedding, name="dense1"),
        ]
        core = hk.DeepRNN(layers, name="core")
        state = core.initial_state(batch_size=batch["x"].shape[0])
        x, _ = hk.static_unroll(core, embed(batch["x"].T), state)
        return hk.Linear(work.num_classes, name="dense2")(x).transpose(1, 0, 2)

    return {"cnn": cnn, "dense": dense, "logistic": logistic, "lstm": lstm}[work.model]


def token_losses(targets, logits):
    return fedjax.metrics.unreduced_cross_entropy_loss(targets, logits)


def over_words(values, targets):
    there = targets != 0
    return (values * there).sum(-1) / there.sum(-1)


@fedjax.dataclass
class SentenceLoss(fedjax.metrics.Metric):
    """The mean loss of a sentence's words."""

    def zero(self):
        return fedjax.metrics.MeanStat.new(0.0, 0.0)

    def evaluate_example(self, example, prediction):
        losses = token_losses(example["y"], prediction)
        return fedjax.metrics.MeanStat.new(over_words(losses, example["y"]), 1.0)


@fedjax.dataclass
class SentenceAccuracy(fedjax.metrics.Metric):
    """The part of a sentence's words that were foretold."""

    def zero(self):
        return fedjax.metrics.MeanStat.new(0.0, 0.0)

    def evaluate_example(self, example, prediction):
        right = prediction.argmax(-1) == example["y"]
        return fedjax.metrics.MeanStat.new(over_words(right, example["y"]), 1.0)


class FedJAXPeer(protocol.Peer):
    packages = ("fedjax", "jax", "jaxlib", "dm-haiku", "numpy")

    def __init__(self, work, data, args):
        self.names = {}  # As the workload has them -> as Haiku has them.
        for name in work.shapes():
            layer, kind = name.split("/")
            if layer == "lstm":
                layer = "lstm/linear"
            kind = "embeddings" if layer == "embed" else kind[0]
            self.names[name] = (layer, kind)
        self.work, self.num_clients = work, args.clients
        sample = {"x": np.zeros_like(data.x[:1]), "y": np.zeros_like(data.y[:1])}
        if work.model == "lstm":
            metrics = {"loss": SentenceLoss(), "accuracy": SentenceAccuracy()}
        else:
            loss, accuracy = fedjax.metrics.CrossEntropyLoss, fedjax.metrics.Accuracy
            metrics = {"loss": loss(), "accuracy": accuracy()}

        def train_loss(batch, logits):
            losses = token_losses(batch["y"], logits)
            return over_words(losses, batch["y"]) if work.model == "lstm" else losses

        self.model = fedjax.create_model_from_haiku(
            transformed_forward_pass=hk.transform(forward(work, args.pooling)),
            sample_batch=sample,
            train_loss=train_loss,
            eval_metrics=metrics,
        )
        self.evaluator = fedjax.ModelEvaluator(self.model)
        self.algorithm = fedjax.algorithms.fed_avg.federated_averaging(
            fedjax.model_grad(self.model),
            fedjax.optimizers.sgd(work.learning_rate),
            fedjax.optimizers.sgd(1.0),
            fedjax.ShuffleRepeatBatchHParams(
                batch_size=work.batch_size, num_epochs=1, skip_shuffle=True
            ),
        )
        clients = {}
        for i in range(work.num_clients):
            clients[i] = dict(zip("xy", data.client(i), strict=True))
        self.data = fedjax.InMemoryFederatedData(clients)

    def reset(self):
        params = {}
        for name, value in self.work.params().items():
            layer, kind = self.names[name]
            params.setdefault(layer, {})[kind] = jnp.asarray(value)
        self.state = self.algorithm.init(params)

    def round(self, number):
        # As `fedjax.client_samplers.UniformGetClientSampler` does, with our clients.
        ids = self.work.clients(number, self.num_clients)
        keys = jax.random.split(jax.random.PRNGKey(number), len(ids))
        clients = [
            (i, dataset, keys[place])
            for place, (i, dataset) in enumerate(self.data.get_clients(ids))
        ]
        self.state, _ = self.algorithm.apply(self.state, clients)
        jax.block_until_ready(self.state.params)

    def params(self):
        names = self.names.items()
        params = self.state.params
        return {name: np.asarray(params[layer][kind]) for name, (layer, kind) in names}

    def evaluate(self, num_clients):
        datasets = (d for _, d in self._first(num_clients))
        batches = fedjax.padded_batch_client_datasets(
            datasets, batch_size=self.work.eval_batch_size
        )
        metrics = fedjax.evaluate_model(self.model, self.state.params, batches)
        return {name: float(value) for name, value in metrics.items()}

    def evaluate_per_client(self, num_clients):
        size = self.work.eval_batch_size
        clients = [
            (i, d.padded_batch(batch_size=size)) for i, d in self._first(num_clients)
        ]
        results = [
            metrics
            for _, metrics in self.evaluator.evaluate_global_params(
                self.state.params, clients
            )
        ]
        results = jax.device_get(results)
        names = results[0]
        return {name: float(np.mean([r[name] for r in results])) for name in names}

    def _first(self, num_clients):
        return self.data.get_clients(range(num_clients))


def main():
    parser = protocol.parser(__doc__)
    parser.add_argument("--pooling", default="haiku", choices=["haiku", "reshape"])
    parser.add_argument("--ynn-off", action="store_true", help="an XLA:CPU fusion")
    args = parser.parse_args()
    if args.ynn_off:
        # XLA reads them when its backend starts, at the first array.
        flag = "--xla_cpu_experimental_ynn_fusion_type="
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    protocol.serve(args, FedJAXPeer)


if __name__ == "__main__":
    main()

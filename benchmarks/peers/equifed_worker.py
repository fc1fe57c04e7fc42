"""equifed's side: `equifed.rounds` over a loader, as a user would run it.

python benchmarks/peers/equifed_worker.py --work small_dense --data DIR
"""

import _protocol as protocol
import jax
import jax.random as jr
import optax
from _models import loss_of, make_model, metrics_of, params_of

import equifed as eqf


class Sampler(eqf.data.AbstractSampler):
    """The workload's clients of each round."""

    work: protocol.Work
    num_clients: int
    seed: int = 0

    def __call__(self, round, num_clients):
        return self.work.clients(round, self.num_clients)

    def max_clients(self, num_clients):
        return self.num_clients


class EquifedPeer(protocol.Peer):
    packages = ("equifed", "jax", "jaxlib", "equinox", "optax", "numpy")

    def __init__(self, work, data, args):
        mesh = None
        if args.devices > 1:
            mesh = jax.make_mesh((args.devices,), ("clients",))
        ids = [f"client{i}" for i in range(work.num_clients)]
        columns = {"x": data.x, "y": data.y}
        self.dataset = eqf.data.FederatedDataset(columns, data.offsets, ids)
        batching = eqf.data.Epochs(1, batch_size=work.batch_size, shuffle=False)
        self.metrics = metrics_of(work)
        self.algorithm = eqf.FedAvg(
            loss_of(work), optax.sgd(work.learning_rate), batching
        )
        sampler = Sampler(work, args.clients)
        self.loader = eqf.data.Loader(self.dataset, sampler, batching, mesh=mesh)
        self.work, self.first, self.iterator = work, make_model(work), None
        self.evaluators = {}

    def reset(self):
        self.close()
        num_clients = self.loader.num_clients
        self.state = self.algorithm.init(self.first, num_clients=num_clients)
        self.iterator = eqf.rounds(
            self.algorithm, self.state, self.loader, num_rounds=10**6, key=jr.key(0)
        )

    def round(self, number):
        self.state, _ = next(self.iterator)
        jax.block_until_ready(self.state.model)

    def params(self):
        return params_of(self.work, self.state.model)

    def evaluate(self, num_clients):
        return self._evaluator(num_clients)(self.state.model)

    def evaluate_per_client(self, num_clients):
        metrics = self._evaluator(num_clients).per_client(self.state.model)
        return {name: metrics.mean(name) for name in metrics.values}

    def _evaluator(self, num_clients):
        if num_clients not in self.evaluators:
            first = self.dataset[:num_clients]
            self.evaluators[num_clients] = eqf.Evaluator(
                first, self.metrics, mesh=self.loader.mesh
            )
        return self.evaluators[num_clients]

    def close(self):
        if self.iterator is not None:
            self.iterator.close()  # And with it the thread that makes cohorts.
            self.iterator = None


def main():
    parser = protocol.parser(__doc__)
    parser.add_argument("--devices", type=int, default=1)
    args = parser.parse_args()
    if args.devices > 1:
        jax.config.update("jax_num_cpu_devices", args.devices)
    protocol.serve(args, EquifedPeer)


if __name__ == "__main__":
    main()

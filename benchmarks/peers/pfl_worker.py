"""pfl-research: federated averaging by its own simulation.

The parts are pfl's: `FederatedDataset`, `SimulatedBackend`, `PyTorchModel`,
`FederatedAveraging`, and its loop `run`. The settings are those of its CIFAR-10
benchmark, but that clients are weighted by their examples. Each user's dataset is made
once and kept, so that its batches are cut once. In pfl's virtual environment:

    python benchmarks/peers/pfl_worker.py --work cifar_cnn --data DIRECTORY
"""

import time

import _protocol as protocol
import torch
from _torch import LAYOUTS, Net, Tensors
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel


NEVER = 10**9


class WithoutEvaluation(FederatedAveraging):
    """Counts iterations from one: in iteration 0, pfl evaluates every user twice."""

    def get_next_central_contexts(self, model, iteration, *args, **kwargs):
        return super().get_next_central_contexts(model, iteration + 1, *args, **kwargs)


class Stopwatch(TrainingProcessCallback):
    """Stops the loop after some iterations, and keeps the seconds of each."""

    def __init__(self, count: int):
        self.count = count
        self.seconds: list[float] = []

    def on_train_begin(self, *, model) -> Metrics:
        self.began = time.perf_counter()
        return Metrics()

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        now = time.perf_counter()
        self.seconds.append(now - self.began)
        self.began = now
        return len(self.seconds) == self.count, Metrics()


class PFL(protocol.Peer):
    packages = ("numpy", "torch", "pfl")

    def __init__(self, work, data, args):
        torch.set_num_threads(args.threads)
        self.work = work
        self.num_clients = args.clients
        self.net = Net(work, args.layout)
        # pfl asks for `metrics`, and calls it only to evaluate.
        self.net.metrics = None
        tensors = Tensors(work, data, args.layout)
        users = {i: Dataset(tensors.client(i)) for i in range(work.num_clients)}
        self.users = iter(())
        population = FederatedDataset(users.__getitem__, lambda: next(self.users))
        self.backend = SimulatedBackend(
            training_data=population,
            val_data=population,
            postprocessors=[WeightByDatapoints()],
        )
        self.model = PyTorchModel(
            model=self.net,
            local_optimizer_create=torch.optim.SGD,
            central_optimizer=torch.optim.SGD(self.net.parameters(), lr=1.0),
        )
        self.algorithm = WithoutEvaluation()

    def reset(self):
        self.net.load(self.work.params())

    def rounds(self, start, count):
        plan = (
            client
            for number in range(start, start + count)
            for client in self.work.clients(number, self.num_clients).tolist()
        )
        self.users = plan
        stopwatch = Stopwatch(count)
        self.algorithm.run(
            algorithm_params=NNAlgorithmParams(
                central_num_iterations=NEVER,
                evaluation_frequency=NEVER,
                train_cohort_size=self.num_clients,
                val_cohort_size=0,
            ),
            backend=self.backend,
            model=self.model,
            model_train_params=NNTrainHyperParams(
                local_num_epochs=1,
                local_learning_rate=self.work.learning_rate,
                local_batch_size=self.work.batch_size,
            ),
            callbacks=[stopwatch],
            # It would print them.
            send_metrics_to_platform=False,
        )
        return stopwatch.seconds

    def params(self):
        return self.net.params()


if __name__ == "__main__":
    arguments = protocol.parser(__doc__)
    arguments.add_argument("--layout", choices=LAYOUTS, default="channels_last")
    arguments.add_argument("--threads", type=int, default=2)
    protocol.serve(arguments.parse_args(), PFL)

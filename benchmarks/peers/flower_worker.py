"""Flower's simulation: NumPy clients with PyTorch models in Ray's actors.

`start_simulation` with one CPU a client, so as many actors as CPUs. It is deprecated in
favour of `flwr run`, whose engine took half as long again over the same small rounds
(it polls every node for messages), so this is Flower at its fastest. It runs in a
thread, and its strategy waits in `configure_fit` until a round is asked for. Each actor
keeps the data and one model in memory. In Flower's virtual environment:

    python benchmarks/peers/flower_worker.py --work cifar_cnn --data DIRECTORY
"""

import functools
import logging
import os
import pathlib
import queue
import threading

import _protocol as protocol


# They are read when Flower and Ray are imported.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import flwr  # noqa: E402
import flwr.client  # noqa: E402
import flwr.server.strategy  # noqa: E402
import ray  # noqa: E402
import torch  # noqa: E402
from _torch import LAYOUTS, local_sgd, Net, Tensors  # noqa: E402


@functools.cache
def actor_state(name: str, quick: bool, directory: str, layout: str):
    """What an actor makes once: the work, its data and a model."""
    torch.set_num_threads(1)
    work = protocol.WORKS[name]
    work = work.quick() if quick else work
    return work, Tensors(work, work.data(directory), layout), Net(work, layout)


class Client(flwr.client.NumPyClient):
    def __init__(self, number: int, settings: tuple):
        self.number = number
        self.work, self.tensors, self.net = actor_state(*settings)

    def fit(self, parameters, config):
        with torch.no_grad():
            for variable, value in zip(self.net.parameters(), parameters, strict=True):
                variable.copy_(torch.from_numpy(value))
        x, y = self.tensors.client(self.number)
        local_sgd(self.net, x, y, self.work)
        return [p.detach().numpy() for p in self.net.parameters()], len(y), {}


class OnDemand(flwr.server.strategy.FedAvg):
    """Flower's FedAvg on the workload's clients, one round each time it is asked."""

    def __init__(self):
        super().__init__(fraction_evaluate=0.0, accept_failures=False)
        self.requests: queue.SimpleQueue = queue.SimpleQueue()
        self.answers: queue.SimpleQueue = queue.SimpleQueue()
        self.current: flwr.common.Parameters | None = None

    def initialize_parameters(self, client_manager):
        return self.current

    def configure_fit(self, server_round, parameters, client_manager):
        clients = self.requests.get()
        if clients is None:
            raise SystemExit  # Ends the simulation's thread.
        proxies = {proxy.partition_id: proxy for proxy in client_manager.all().values()}
        instruction = flwr.common.FitIns(self.current, {})
        return [(proxies[i], instruction) for i in clients]

    def aggregate_fit(self, server_round, results, failures):
        aggregated = super().aggregate_fit(server_round, results, failures)
        self.current, _ = aggregated
        self.answers.put(len(failures))
        return aggregated


class Flower(protocol.Peer):
    packages = ("numpy", "torch", "flwr", "ray")

    def __init__(self, work, data, args):
        logging.getLogger("flwr").setLevel(logging.ERROR)
        self.work = work
        self.num_clients = args.clients
        self.net = Net(work, args.layout)
        self.strategy = OnDemand()
        settings = (args.work, args.quick, os.path.abspath(args.data), args.layout)

        def client_fn(context):
            number = int(context.node_config["partition-id"])
            return Client(number, settings).to_client()

        self.reset()
        # Not by the simulation: Ray's server is stopped when the thread that started it
        # ends, and leaves its agents behind.
        ray.init(num_cpus=args.actors, include_dashboard=False, log_to_driver=False)
        simulate = functools.partial(
            flwr.simulation.start_simulation,
            client_fn=client_fn,
            num_clients=work.num_clients,
            client_resources={"num_cpus": 1, "num_gpus": 0.0},
            config=flwr.server.ServerConfig(num_rounds=10**9),
            strategy=self.strategy,
            ray_init_args={"ignore_reinit_error": True},
            keep_initialised=True,
        )
        self.thread = threading.Thread(target=self._run, args=(simulate,))
        self.thread.start()

    def _run(self, simulate):
        try:
            simulate()
        except Exception as error:
            self.strategy.answers.put(error)

    def reset(self):
        self.net.load(self.work.params())
        values = [p.detach().numpy() for p in self.net.parameters()]
        self.strategy.current = flwr.common.ndarrays_to_parameters(values)

    def round(self, number):
        self.strategy.requests.put(self.work.clients(number, self.num_clients).tolist())
        if answer := self.strategy.answers.get():
            raise RuntimeError(f"the round failed: {answer}")

    def params(self):
        values = flwr.common.parameters_to_ndarrays(self.strategy.current)
        with torch.no_grad():
            for variable, value in zip(self.net.parameters(), values, strict=True):
                variable.copy_(torch.from_numpy(value))
        return self.net.params()

    def peak_rss_mb(self):
        """The sum of the peaks of this process, Ray's servers and the actors."""
        return protocol.Peer.peak_rss_mb(self) + sum(descendants().values())

    def close(self):
        self.strategy.requests.put(None)
        self.thread.join()
        # It looks for new actors every ten seconds; the process would wait for it.
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.cancel()
        ray.shutdown()


def descendants() -> dict[int, float]:
    """What this process has started, and what that has: the peak of each in MB."""
    parents, peaks = {}, {}
    for status in pathlib.Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(x.split(":", 1) for x in status.read_text().splitlines())
        except OSError:  # It has ended.
            continue
        pid = int(fields["Pid"])
        parents[pid] = int(fields["PPid"])
        peaks[pid] = int(fields.get("VmHWM", "0 kB").split()[0]) / 1024
    found = {}
    for pid, peak in peaks.items():
        ancestor = parents[pid]
        while ancestor not in (0, os.getpid()):
            ancestor = parents.get(ancestor, 0)
        if ancestor:
            found[pid] = peak
    return found


def main():
    parser = protocol.parser(__doc__)
    parser.add_argument("--layout", choices=LAYOUTS, default="channels_last")
    parser.add_argument("--actors", type=int, default=os.cpu_count())
    protocol.serve(parser.parse_args(), Flower)


if __name__ == "__main__":
    # By its own name: what belongs to `__main__` would be sent to the actors by value,
    # and each message would come with an empty cache of the data.
    import flower_worker

    flower_worker.main()

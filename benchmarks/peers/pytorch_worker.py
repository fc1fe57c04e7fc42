"""Federated averaging in plain PyTorch: what a loop without a library costs.

Clients train one after another on one model, which each takes the global parameters
into first. In PyTorch's virtual environment:

    python benchmarks/peers/pytorch_worker.py --work cifar_cnn --data DIRECTORY
"""

import _protocol as protocol
import numpy as np
import torch
from _torch import LAYOUTS, local_sgd, Net, Tensors


class PyTorch(protocol.Peer):
    packages = ("numpy", "torch")

    def __init__(self, work, data, args):
        torch.set_num_threads(args.threads)
        self.work = work
        self.num_clients = args.clients
        self.tensors = Tensors(work, data, args.layout)
        self.net = Net(work, args.layout)
        self.initial = work.params()
        self.current = [torch.empty_like(p) for p in self.net.parameters()]
        self.mean = [torch.empty_like(p) for p in self.current]

    @torch.no_grad()
    def reset(self):
        self.net.load(self.initial)
        for to, p in zip(self.current, self.net.parameters(), strict=True):
            to.copy_(p)

    def round(self, number):
        clients = self.work.clients(number, self.num_clients).tolist()
        total = sum(len(self.tensors.client(i)[1]) for i in clients)
        local = list(self.net.parameters())
        torch._foreach_zero_(self.mean)
        for i in clients:
            x, y = self.tensors.client(i)
            with torch.no_grad():
                torch._foreach_copy_(local, self.current)
            local_sgd(self.net, x, y, self.work)
            with torch.no_grad():
                torch._foreach_add_(self.mean, local, alpha=len(y) / total)
        self.current, self.mean = self.mean, self.current

    @torch.no_grad()
    def params(self) -> dict[str, np.ndarray]:
        # Between rounds the model itself holds the last client's parameters.
        for to, p in zip(self.net.parameters(), self.current, strict=True):
            to.copy_(p)
        return self.net.params()


if __name__ == "__main__":
    arguments = protocol.parser(__doc__)
    arguments.add_argument("--layout", choices=LAYOUTS, default="channels_last")
    arguments.add_argument("--threads", type=int, default=2)
    protocol.serve(arguments.parse_args(), PyTorch)

"""What the sides built on PyTorch share: the models, the layouts and the data.

A convolution's weight is (out, in, height, width) in PyTorch and a dense layer's (out,
in). How the images lie in memory is a choice: with `nchw` a picture's rows follow each
other channel by channel, with `channels_last` pixel by pixel. Each is flattened in its
own order, which costs no copy, so the rows of the dense layer after it are permuted
when parameters come in and go out.
"""

import math

import numpy as np
import torch
from _protocol import Data, Unsupported, Work
from torch import nn
from torch.nn import functional as F


LAYOUTS = ("nchw", "channels_last")


class Net(nn.Module):
    """A workload's model; its `loss` is the mean over a batch."""

    def __init__(self, work: Work, layout: str):
        super().__init__()
        if work.model == "lstm":
            raise Unsupported("the LSTM is not written in PyTorch")
        self.convolutions = 0
        self.dense = 0
        # Whether flattening goes through the pixels first.
        self.pixels_first = layout == "channels_last"
        self.flat: tuple[int, int, int] | None = None
        for name, shape in work.shapes().items():
            layer, kind = name.split("/")
            if kind == "bias":
                continue
            if layer.startswith("conv"):
                self.convolutions += 1
                self.add_module(layer, nn.Conv2d(*shape[2:], kernel_size=shape[:2]))
            else:
                self.dense += 1
                self.add_module(layer, nn.Linear(*shape))
        if self.convolutions:
            height, width, _ = work.input_shape
            self.flat = ((height - 4) // 2, (width - 4) // 2, 64)
            self.to(memory_format=_memory_format(layout))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.float() / 255
        for i in range(1, self.convolutions + 1):
            x = F.relu(getattr(self, f"conv{i}")(x))
        if self.convolutions:
            x = F.max_pool2d(x, 2)
            if self.pixels_first:
                x = x.permute(0, 2, 3, 1)
        x = x.flatten(1)
        for i in range(1, self.dense):
            x = F.relu(getattr(self, f"dense{i}")(x))
        return getattr(self, f"dense{self.dense}")(x)

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self(x), y)

    @torch.no_grad()
    def load(self, params: dict[str, np.ndarray]) -> None:
        """Takes parameters by the workload's names and in its layouts."""
        for name, variable in self.named_parameters():
            name = name.replace(".", "/")
            value = params[name]
            if value.ndim == 2 and self._is_permuted(name):
                value = value.reshape(*self.flat, -1).transpose(3, 2, 0, 1)
                value = value.reshape(len(value), -1)
            elif value.ndim == 2:
                value = value.T
            elif value.ndim == 4:
                value = value.transpose(3, 2, 0, 1)
            variable.copy_(torch.from_numpy(np.ascontiguousarray(value)))

    def params(self) -> dict[str, np.ndarray]:
        """Copies of the parameters, by the workload's names and in its layouts."""
        params = {}
        for name, variable in self.named_parameters():
            name = name.replace(".", "/")
            value = variable.detach().numpy()
            if value.ndim == 2 and self._is_permuted(name):
                height, width, channels = self.flat
                value = value.reshape(-1, channels, height, width)
                value = value.transpose(2, 3, 1, 0).reshape(math.prod(self.flat), -1)
            elif value.ndim == 2:
                value = value.T
            elif value.ndim == 4:
                value = value.transpose(2, 3, 1, 0)
            params[name] = np.array(value, order="C")
        return params

    def _is_permuted(self, name: str) -> bool:
        return (
            self.flat is not None and name == "dense1/weight" and not self.pixels_first
        )


class Tensors:
    """All clients' examples in memory, as they are stored: `uint8` images."""

    def __init__(self, work: Work, data: Data, layout: str):
        x = torch.from_numpy(np.array(data.x))
        if work.model == "cnn":
            x = x.permute(0, 3, 1, 2)
            x = x.contiguous(memory_format=_memory_format(layout))
        else:
            x = x.flatten(1)
        self.x = x
        self.y = torch.from_numpy(np.array(data.y)).long()
        self.offsets = data.offsets.tolist()

    def client(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = slice(self.offsets[i], self.offsets[i + 1])
        return self.x[rows], self.y[rows]


def local_sgd(net: Net, x: torch.Tensor, y: torch.Tensor, work: Work) -> None:
    """One epoch over a client's batches, as they are stored."""
    optim = torch.optim.SGD(net.parameters(), lr=work.learning_rate)
    batches = zip(x.split(work.batch_size), y.split(work.batch_size), strict=True)
    for xs, ys in batches:
        optim.zero_grad()
        net.loss(xs, ys).backward()
        optim.step()


def _memory_format(layout: str) -> torch.memory_format:
    last = layout == "channels_last"
    return torch.channels_last if last else torch.contiguous_format

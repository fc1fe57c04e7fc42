"""Layers that stay fast inside a compiled loop. Those for images take them as they are
stored: `(height, width, channels)`. `canonicalize` makes a model of `equinox.nn`'s
layers as fast, and leaves its channels first.

`lora` gives layers a change of low rank, which alone is trained.
"""

from ._canonicalize import canonicalize as canonicalize
from ._conv2d import Conv2d as Conv2d
from ._images import (
    center_crop as center_crop,
    random_crop as random_crop,
    random_flip as random_flip,
    standardize as standardize,
)
from ._lora import (
    adapters as adapters,
    lora as lora,
    lora_a as lora_a,
    lora_b as lora_b,
    merge as merge,
)
from ._lora_layer import LoRA as LoRA
from ._lstm import LSTM as LSTM
from ._pool import AvgPool2d as AvgPool2d, MaxPool2d as MaxPool2d

"""Messages of fewer bits, and how many they are."""

from .aggregator import Compress as Compress
from .base import (
    AbstractCompressor as AbstractCompressor,
    AbstractLeafwise as AbstractLeafwise,
    Sent as Sent,
)
from .client import CompressedClient as CompressedClient
from .coding import arithmetic_bits as arithmetic_bits, packed_bits as packed_bits
from .feedback import EF21 as EF21, ErrorFeedback as ErrorFeedback
from .low_rank import PowerSGD as PowerSGD
from .quantize import (
    QSGD as QSGD,
    Sign as Sign,
    TernGrad as TernGrad,
    UniformQuantizer as UniformQuantizer,
)
from .rotation import (
    DRIVE as DRIVE,
    EDEN as EDEN,
    rotate as rotate,
    rotate_back as rotate_back,
    Rotated as Rotated,
    walsh_hadamard as walsh_hadamard,
)
from .sketch import CountSketch as CountSketch
from .sparse import RandomK as RandomK, TopK as TopK
from .whole import Whole as Whole

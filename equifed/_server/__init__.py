from .adaptive import (
    adagrad as adagrad,
    adam as adam,
    yogi as yogi,
)
from .base import AbstractServer as AbstractServer
from .dyn import DynServer as DynServer
from .nova import NovaServer as NovaServer
from .optax import OptaxServer as OptaxServer
from .scaffold import ScaffoldServer as ScaffoldServer

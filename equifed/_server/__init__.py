from .adaptive import (
    server_adagrad as server_adagrad,
    server_adam as server_adam,
    server_yogi as server_yogi,
)
from .base import AbstractServer as AbstractServer
from .burn_in import BurnInServer as BurnInServer
from .dyn import DynServer as DynServer
from .ep import EPServer as EPServer
from .nova import NovaServer as NovaServer
from .optax import OptaxServer as OptaxServer
from .scaffold import ScaffoldServer as ScaffoldServer

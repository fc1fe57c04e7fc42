from .base import AbstractServer as AbstractServer
from .optax import OptaxServer as OptaxServer

from .base import (
    AbstractAlgorithm as AbstractAlgorithm,
    Algorithm as Algorithm,
    State as State,
)
from .fedadaptive import (
    FedAdagrad as FedAdagrad,
    FedAdam as FedAdam,
    FedYogi as FedYogi,
)
from .fedavg import FedAvg as FedAvg
from .fedavgm import FedAvgM as FedAvgM
from .feddyn import FedDyn as FedDyn
from .fedep import FedEP as FedEP
from .fednova import FedNova as FedNova
from .fedpa import FedPA as FedPA
from .fedprox import FedProx as FedProx
from .fedsgd import FedSGD as FedSGD
from .scaffold import Scaffold as Scaffold

from .base import AbstractAlgorithm as AbstractAlgorithm
from .fedadaptive import (
    FedAdagrad as FedAdagrad,
    FedAdam as FedAdam,
    FedYogi as FedYogi,
)
from .fedavg import FedAvg as FedAvg
from .fedavgm import FedAvgM as FedAvgM
from .feddyn import FedDyn as FedDyn
from .fedep import FedEP as FedEP
from .fedexp import FedExP as FedExP
from .fednova import FedNova as FedNova
from .fedpa import FedPA as FedPA
from .fedprox import FedProx as FedProx
from .fedsam import FedSAM as FedSAM
from .fedsgd import FedSGD as FedSGD
from .ifca import IFCA as IFCA
from .mime import Mime as Mime, MimeLite as MimeLite
from .one_pass import AbstractOnePass as AbstractOnePass, Algorithm as Algorithm
from .over_rounds import OverRounds as OverRounds
from .power_of_choice import PowerOfChoice as PowerOfChoice
from .scaffold import Scaffold as Scaffold

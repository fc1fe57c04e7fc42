from .afl import AFL as AFL
from .agnostic import AgnosticFedAvg as AgnosticFedAvg
from .apfl import APFL as APFL
from .asynchronous import (
    AbstractAsynchronous as AbstractAsynchronous,
    Asynchronous as Asynchronous,
)
from .base import AbstractAlgorithm as AbstractAlgorithm
from .ca2fl import CA2FL as CA2FL
from .clusters import AbstractClusters as AbstractClusters, PicksBest as PicksBest
from .compress_down import CompressDown as CompressDown
from .diagnose import Diagnose as Diagnose
from .diloco import DiLoCo as DiLoCo
from .ditto import Ditto as Ditto
from .fadas import FADAS as FADAS
from .fedacg import FedACG as FedACG
from .fedala import FedALA as FedALA
from .fedalt import FedAlt as FedAlt
from .fedasync import FedAsync as FedAsync
from .fedavg import FedAvg as FedAvg
from .fedavgm import FedAvgM as FedAvgM
from .fedbabu import FedBABU as FedBABU
from .fedbn import FedBN as FedBN
from .fedbuff import FedBuff as FedBuff
from .fedcm import FedCM as FedCM
from .feddc import FedDC as FedDC
from .feddecorr import Decorrelation as Decorrelation, FedDecorr as FedDecorr
from .feddyn import (
    DynamicRegularizer as DynamicRegularizer,
    DynServer as DynServer,
    FedDyn as FedDyn,
)
from .fedep import FedEP as FedEP
from .fedex_lora import FedExLoRA as FedExLoRA
from .fedexp import FedExP as FedExP
from .fedlc import (
    CalibratedCrossEntropy as CalibratedCrossEntropy,
    FedLC as FedLC,
)
from .fedlesam import FedLESAM as FedLESAM
from .fedlin import FedLin as FedLin
from .fednova import (
    FedNova as FedNova,
    Normalized as Normalized,
    NovaServer as NovaServer,
)
from .fedntd import FedNTD as FedNTD, NotTrueDistillation as NotTrueDistillation
from .fedopt import (
    FedAdagrad as FedAdagrad,
    FedAdam as FedAdam,
    FedYogi as FedYogi,
    server_adagrad as server_adagrad,
    server_adam as server_adam,
    server_yogi as server_yogi,
)
from .fedpa import FedPA as FedPA
from .fedper import FedPer as FedPer
from .fedproto import FedProto as FedProto
from .fedprox import FedProx as FedProx
from .fedrep import FedRep as FedRep
from .fedrod import FedRoD as FedRoD
from .fedsam import FedSAM as FedSAM, SharpnessAware as SharpnessAware
from .fedsgd import FedSGD as FedSGD
from .fedsmoo import FedSMOO as FedSMOO
from .fedsophia import FedSophia as FedSophia
from .fedspeed import FedSpeed as FedSpeed
from .fedvarp import FedVARP as FedVARP
from .flexlora import FlexLoRA as FlexLoRA
from .flora import FLoRA as FLoRA
from .fltrust import FLTrust as FLTrust
from .hetlora import HetLoRA as HetLoRA
from .hyp_cluster import HypCluster as HypCluster
from .ifca import IFCA as IFCA
from .ledger import Ledger as Ledger
from .lg_fedavg import LGFedAvg as LGFedAvg
from .local_only import LocalOnly as LocalOnly
from .mifa import MIFA as MIFA
from .mime import Mime as Mime, MimeLite as MimeLite
from .mofedsam import MoFedSAM as MoFedSAM
from .moon import MOON as MOON
from .one_pass import AbstractOnePass as AbstractOnePass, Algorithm as Algorithm
from .oort import Oort as Oort
from .over_rounds import OverRounds as OverRounds
from .perfedavg import PerFedAvg as PerFedAvg
from .pfedme import PFedMe as PFedMe
from .power_of_choice import PowerOfChoice as PowerOfChoice
from .qfedavg import QFedAvg as QFedAvg
from .rolora import RoLoRA as RoLoRA
from .scaffnew import Scaffnew as Scaffnew
from .scaffold import (
    ControlVariate as ControlVariate,
    Scaffold as Scaffold,
    ScaffoldPayload as ScaffoldPayload,
    ScaffoldServer as ScaffoldServer,
)
from .staleness import (
    AbstractStaleness as AbstractStaleness,
    ConstantStaleness as ConstantStaleness,
    HingeStaleness as HingeStaleness,
    PolynomialStaleness as PolynomialStaleness,
)
from .streaming_diloco import StreamingDiLoCo as StreamingDiLoCo
from .term import TERM as TERM

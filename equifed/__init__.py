"""equifed: federated learning in JAX, whole rounds compiled."""

from . import (
    compress as compress,
    data as data,
    nn as nn,
    posterior as posterior,
    privacy as privacy,
    robust as robust,
)
from ._aggregator import (
    AbstractAggregator as AbstractAggregator,
    Clip as Clip,
    DropNonfinite as DropNonfinite,
    FixedDenominatorMean as FixedDenominatorMean,
    Median as Median,
    NonzeroMean as NonzeroMean,
    OptimalClientSampling as OptimalClientSampling,
    TrimmedMean as TrimmedMean,
    UniformMean as UniformMean,
    WeightedMean as WeightedMean,
)
from ._algorithm import (
    AbstractAlgorithm as AbstractAlgorithm,
    AbstractAsynchronous as AbstractAsynchronous,
    AbstractClusters as AbstractClusters,
    AbstractOnePass as AbstractOnePass,
    AbstractStaleness as AbstractStaleness,
    AFL as AFL,
    AgnosticFedAvg as AgnosticFedAvg,
    Algorithm as Algorithm,
    APFL as APFL,
    Asynchronous as Asynchronous,
    CA2FL as CA2FL,
    CalibratedCrossEntropy as CalibratedCrossEntropy,
    CompressDown as CompressDown,
    ConstantStaleness as ConstantStaleness,
    ControlVariate as ControlVariate,
    Decorrelation as Decorrelation,
    Diagnose as Diagnose,
    DiLoCo as DiLoCo,
    Ditto as Ditto,
    DynamicRegularizer as DynamicRegularizer,
    DynServer as DynServer,
    FADAS as FADAS,
    FedACG as FedACG,
    FedAdagrad as FedAdagrad,
    FedAdam as FedAdam,
    FedALA as FedALA,
    FedAlt as FedAlt,
    FedAsync as FedAsync,
    FedAvg as FedAvg,
    FedAvgM as FedAvgM,
    FedBABU as FedBABU,
    FedBN as FedBN,
    FedBuff as FedBuff,
    FedCM as FedCM,
    FedDC as FedDC,
    FedDecorr as FedDecorr,
    FedDyn as FedDyn,
    FedEP as FedEP,
    FedExLoRA as FedExLoRA,
    FedExP as FedExP,
    FedLC as FedLC,
    FedLESAM as FedLESAM,
    FedLin as FedLin,
    FedNova as FedNova,
    FedNTD as FedNTD,
    FedPA as FedPA,
    FedPer as FedPer,
    FedProto as FedProto,
    FedProx as FedProx,
    FedRep as FedRep,
    FedRoD as FedRoD,
    FedSAM as FedSAM,
    FedSGD as FedSGD,
    FedSMOO as FedSMOO,
    FedSophia as FedSophia,
    FedSpeed as FedSpeed,
    FedVARP as FedVARP,
    FedYogi as FedYogi,
    FlexLoRA as FlexLoRA,
    FLoRA as FLoRA,
    FLTrust as FLTrust,
    HetLoRA as HetLoRA,
    HingeStaleness as HingeStaleness,
    HypCluster as HypCluster,
    IFCA as IFCA,
    Ledger as Ledger,
    LGFedAvg as LGFedAvg,
    LocalOnly as LocalOnly,
    MIFA as MIFA,
    Mime as Mime,
    MimeLite as MimeLite,
    MoFedSAM as MoFedSAM,
    MOON as MOON,
    Normalized as Normalized,
    NotTrueDistillation as NotTrueDistillation,
    NovaServer as NovaServer,
    Oort as Oort,
    OverRounds as OverRounds,
    PerFedAvg as PerFedAvg,
    PFedMe as PFedMe,
    PicksBest as PicksBest,
    PolynomialStaleness as PolynomialStaleness,
    PowerOfChoice as PowerOfChoice,
    QFedAvg as QFedAvg,
    RoLoRA as RoLoRA,
    Scaffnew as Scaffnew,
    Scaffold as Scaffold,
    ScaffoldPayload as ScaffoldPayload,
    ScaffoldServer as ScaffoldServer,
    server_adagrad as server_adagrad,
    server_adam as server_adam,
    server_yogi as server_yogi,
    SharpnessAware as SharpnessAware,
    StreamingDiLoCo as StreamingDiLoCo,
    TERM as TERM,
)
from ._bits import add_bits as add_bits, Bits as Bits
from ._checkpoint import Checkpointer as Checkpointer
from ._client import (
    AbstractClient as AbstractClient,
    AbstractCorrection as AbstractCorrection,
    AbstractCriterion as AbstractCriterion,
    AbstractKeeping as AbstractKeeping,
    Alternating as Alternating,
    batch_gradient as batch_gradient,
    full_gradient as full_gradient,
    full_metrics as full_metrics,
    Kept as Kept,
    LocalSGD as LocalSGD,
    MeanGradient as MeanGradient,
    MeanLoss as MeanLoss,
    merge_metrics as merge_metrics,
    Microbatched as Microbatched,
    NoCorrection as NoCorrection,
    Proximal as Proximal,
    Stateful as Stateful,
    zero_metrics as zero_metrics,
)
from ._cohort import ClientData as ClientData, Cohort as Cohort
from ._evaluate import (
    ClientComparison as ClientComparison,
    ClientMetrics as ClientMetrics,
    ClientQuantiles as ClientQuantiles,
    evaluate as evaluate,
    evaluate_own as evaluate_own,
    evaluate_personal as evaluate_personal,
    Evaluator as Evaluator,
    FineTune as FineTune,
    Personal as Personal,
    SampledClients as SampledClients,
)
from ._executor import (
    Executor as Executor,
    Outcome as Outcome,
    Participants as Participants,
)
from ._logger import (
    AbstractLogger as AbstractLogger,
    JSONLines as JSONLines,
    Loggers as Loggers,
    NoLogger as NoLogger,
    ProgressBar as ProgressBar,
    Table as Table,
    TensorBoard as TensorBoard,
    WandB as WandB,
)
from ._measures import (
    accuracy as accuracy,
    AUROC as AUROC,
    ConfusionMatrix as ConfusionMatrix,
    cross_entropy as cross_entropy,
    F1 as F1,
    oov_rate as oov_rate,
    PerDomain as PerDomain,
    Perplexity as Perplexity,
    Precision as Precision,
    Recall as Recall,
    sequence_count as sequence_count,
    sequence_cross_entropy as sequence_cross_entropy,
    sequence_length as sequence_length,
    token_accuracy as token_accuracy,
    token_count as token_count,
    token_cross_entropy as token_cross_entropy,
    token_top_k_accuracy as token_top_k_accuracy,
    top_k_accuracy as top_k_accuracy,
    truncation_rate as truncation_rate,
)
from ._metrics import (
    AbstractMetric as AbstractMetric,
    Average as Average,
    Sum as Sum,
)
from ._norms import norms as norms, statistics as statistics
from ._optim import Optim as Optim
from ._roles import Roles as Roles, roles as roles
from ._round import Beginning as Beginning, State as State
from ._server import (
    AbstractServer as AbstractServer,
    OptaxServer as OptaxServer,
)
from ._store import ClientRows as ClientRows
from ._training import (
    AbstractStop as AbstractStop,
    farthest_first as farthest_first,
    Patience as Patience,
    RESULTS as RESULTS,
    rounds as rounds,
    Solution as Solution,
    sweep as sweep,
    Target as Target,
    train as train,
)
from ._tree import floating as floating
from ._wire import (
    AbstractPayload as AbstractPayload,
    Aggregate as Aggregate,
    Broadcast as Broadcast,
    Message as Message,
)


# Loaded when first used: none belongs to every training.
_LATER = ("attacks", "clock", "deploy", "models", "objectives", "plot", "recipes")
_LATER += ("testing",)


def __getattr__(name: str):
    if name in _LATER:
        import importlib

        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

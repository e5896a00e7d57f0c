"""The settings of a run: frozen dataclasses with bounds, and marks for config/identity.py (`HOW`, `PLACE`, `KIND`).

Takes plain dictionaries (from config/compose.py, or from a run directory's config.yaml), returns `Config`.
A wrong value is a `UserError` that names the key, the value, what is allowed and the nearest match.
Imports neither Hydra nor torch; no side effects.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BeforeValidator, Field

from hpctrain.models.network import Network
from hpctrain.models.settings import CUSTOM, NETWORKS
from hpctrain.storage.folders import NAME

# The size of one piece of an allreduce within a node, and the most that Horovod fuses. Open MPI allocates half of the
# bytes as a receive buffer. Above 32 MiB the C library returns that memory to the system each time, and allocating it
# again takes longer than the allreduce.
PIECE_BYTES = 16 * 2**20

MOST = 10**12  # the upper limit of any count or measure: more is a typing error
MOST_SAMPLES = 2**24  # of a rank's batch
MOST_THREADS = 4096
Count = Annotated[int, Ge(0), Le(MOST)]
Positive = Annotated[int, Ge(1), Le(MOST)]
PositiveFloat = Annotated[float, Gt(0), Le(MOST)]
Fraction = Annotated[float, Ge(0), Lt(1)]
Share = Annotated[float, Gt(0), Le(1)]
Name = Annotated[str, Field(pattern=f"^{NAME}$")]


def _as_shell(value: Any) -> Any:
    """Returns a variable's value as a shell writes it. Numbers and booleans are allowed."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
VariableValue = Annotated[str, BeforeValidator(_as_shell)]
Option = Annotated[str, Field(pattern=r"^-{0,2}[A-Za-z][A-Za-z0-9_-]*$")]

# The role of a setting, or of a whole group, in the run's identity (config/identity.py). Without a mark it is science:
# it changes the result, and counts if it differs from its default.
HOW = {"science": "how"}  # how, or on which machine, the same result is computed
PLACE = {"science": "place"}  # where files lie: their contents count instead
KIND = {"science": "kind"}  # determines which settings its group has: counts even if it has its default


@dataclass(frozen=True)
class ModelConfig:
    """The network. `settings` is a dataclass for its `name`, or a mapping if `target` names a user's class."""

    name: Name
    settings: Any
    weights: str | None = dataclasses.field(default=None, metadata=PLACE)
    target: str | None = None
    target_folder: str | None = dataclasses.field(default=None, metadata=PLACE)  # the folder of `target`

    @property
    def network(self) -> Network:
        """The network's record."""
        return NETWORKS[self.name] if self.target is None else CUSTOM


@dataclass(frozen=True)
class DataConfig:
    """A data set as the model sees it: `shape` after padding, sample counts of the official split."""

    name: Name
    path: str | None = dataclasses.field(default=None, metadata=PLACE)
    shape: tuple[Positive, ...] = ()
    num_classes: Positive | None = None
    train_samples: Count = 0
    validation_samples: Count = 0
    train_limit: Positive | None = None
    validation_limit: Positive | None = None
    drop_last: bool = False
    pad: Count = 0
    mean: tuple[float, ...] = ()
    std: tuple[PositiveFloat, ...] = ()
    augment: tuple[Literal["random_resized_crop", "flip", "pad_crop", "cutout"], ...] = ()
    # Pictures in files: the shorter side before the centre crop (null: the shorter one of `shape`), the ranges of a
    # random crop's share of the area and its width over height, the columns of a Hugging Face set (null: the first
    # of their kind).
    resize: Positive | None = None
    crop_scale: tuple[Share, Share] = (0.08, 1.0)
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = (0.75, 4 / 3)
    image_field: str | None = None
    label_field: str | None = None
    # And how they are loaded: decoding processes per rank, batches read ahead of the step, and the size up to which
    # a split is kept decoded in memory.
    workers: Count | None = dataclasses.field(default=None, metadata=HOW)
    prefetch: Positive = dataclasses.field(default=4, metadata=HOW)
    resident_gb: Annotated[float, Ge(0)] = dataclasses.field(default=2.0, metadata=HOW)
    # Text only: how it is cut into tokens, how many tokens exist, and how long a training sequence is.
    tokens: Literal["character", "word", "bpe"] = "character"
    vocabulary_size: Positive | None = None
    sequence_length: Positive | None = None
    validation_fraction: Annotated[float, Gt(0), Lt(1)] = 0.05
    # A Hugging Face data set: its name, its variant, and the column that holds the text.
    source: str | None = dataclasses.field(default=None, metadata=PLACE)
    subset: str | None = None
    field: str = "text"
    # Translation: source and target. Speech: frequency bins of 50 Hz; `sequence_length` is in frames.
    languages: tuple[str, str] = ("en", "de")
    frequency_bins: Positive | None = None

    def __post_init__(self) -> None:
        for key, values in (("mean", self.mean), ("std", self.std)):
            if self.shape and values and len(values) not in (1, self.shape[0]):
                raise ValueError(
                    f"data.{key}={list(values)}: must be one number, or {self.shape[0]}, one per channel of data.shape"
                )


@dataclass(frozen=True)
class TaskConfig:
    """What is learned from the data, and its loss."""

    name: str = "classification"
    label_smoothing: Fraction = 0.0
    # Language models: a sequence's loss is the mean, or the sum, over its tokens.
    time_reduction: Literal["mean", "sum"] = "mean"
    mask_fraction: Annotated[float, Gt(0), Lt(1)] = 0.15


@dataclass(frozen=True)
class TrainConfig:
    """Lengths: `steps`, if given, is used instead of `epochs`. `batch_size` is per rank and micro-step.

    `batch_size` and `accumulate` count as `Config.effective_batch`, their product with the ranks.
    """

    batch_size: Positive = dataclasses.field(default=64, metadata=HOW)
    epochs: Count | None = 5
    steps: Count | None = None
    accumulate: Positive = dataclasses.field(default=1, metadata=HOW)
    clip_norm: PositiveFloat | None = None
    log_every: Positive = dataclasses.field(default=50, metadata=HOW)
    on_nan: Literal["stop", "skip", "rollback"] = "stop"
    ema_decay: Annotated[float, Gt(0), Lt(1)] | None = None
    # Progressive resizing: (from epoch, pixels per side); validation sees the whole size.
    image_sizes: tuple[tuple[Count, Positive], ...] = ()
    tensorboard: bool = dataclasses.field(default=False, metadata=HOW)
    deterministic: bool = dataclasses.field(default=True, metadata=HOW)
    flops: bool = dataclasses.field(default=True, metadata=HOW)
    profile: Count = dataclasses.field(default=0, metadata=HOW)
    ceilings: bool = dataclasses.field(default=False, metadata=HOW)

    def __post_init__(self) -> None:
        if self.batch_size > MOST_SAMPLES:
            raise ValueError(
                f"train.batch_size={self.batch_size}: must be ≤ {MOST_SAMPLES}: a rank has them in memory at once"
            )


@dataclass(frozen=True)
class SgdConfig:
    """Stochastic gradient descent, with momentum if it is not 0."""

    lr: Annotated[float, Ge(0), Le(MOST)]
    name: Literal["sgd"] = dataclasses.field(default="sgd", metadata=KIND)
    momentum: Fraction = 0.0
    nesterov: bool = False
    weight_decay: Annotated[float, Ge(0), Le(MOST)] = 0.0
    decay_norm_and_bias: bool = True

    def __post_init__(self) -> None:
        _check_nesterov(self)


@dataclass(frozen=True)
class AdamConfig:
    """Adam, or AdamW, which decouples the weight decay."""

    lr: Annotated[float, Ge(0), Le(MOST)]
    name: Literal["adam", "adamw"] = dataclasses.field(default="adam", metadata=KIND)
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: Annotated[float, Ge(0), Le(MOST)] = 0.0
    decay_norm_and_bias: bool = True


@dataclass(frozen=True)
class LarsConfig:
    """LARS: the learning rate is scaled per layer, for large batches."""

    lr: Annotated[float, Ge(0), Le(MOST)]
    name: Literal["lars"] = dataclasses.field(default="lars", metadata=KIND)
    momentum: Fraction = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Ge(0), Le(MOST)] = 5e-5
    trust_coefficient: PositiveFloat = 0.001
    decay_norm_and_bias: bool = False

    def __post_init__(self) -> None:
        _check_nesterov(self)


def _check_nesterov(settings: SgdConfig | LarsConfig) -> None:
    if settings.nesterov and settings.momentum == 0:
        raise ValueError("optimizer.nesterov=true: needs optimizer.momentum > 0")


OptimizerConfig = SgdConfig | AdamConfig | LarsConfig


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate changes; times in epochs. `scaling` adapts it to effective batch / `reference_batch`."""

    name: Literal["constant", "cosine", "linear", "step", "exponential", "plateau"] = "constant"
    warmup_epochs: Annotated[float, Ge(0), Le(MOST)] = 0.0
    scaling: Literal["none", "linear", "sqrt"] = "none"
    reference_batch: Positive = 256
    final_factor: Annotated[float, Ge(0), Le(1)] = 0.0
    milestones_epochs: tuple[Annotated[float, Ge(0)], ...] = ()
    factor: Annotated[float, Gt(0), Le(1)] = 0.1
    start_epochs: Annotated[float, Ge(0)] = 0.0
    patience_epochs: Count = 0


@dataclass(frozen=True)
class PrecisionConfig:
    """Number format, memory layout and compiler of the forward and backward pass."""

    name: Literal["fp32", "bf16", "auto"] = "fp32"
    channels_last: bool = False
    compile: bool = False


@dataclass(frozen=True)
class CommConfig:
    """How ranks communicate. `buckets` is hpctrain's own exchange on Horovod's allreduce."""

    transport: Literal["auto", "mpi", "gloo"] = dataclasses.field(default="auto", metadata=HOW)
    exchange: Literal["buckets", "distributed_optimizer"] = dataclasses.field(default="buckets", metadata=HOW)
    bucket_mb: PositiveFloat = dataclasses.field(default=25.0, metadata=HOW)
    overlap: bool = dataclasses.field(default=True, metadata=HOW)
    reduction: Literal["mean", "adasum"] = "mean"
    batch_norm_ranks: Positive | Literal["all"] = 1
    compression: Literal["none", "fp16"] = dataclasses.field(default="none", metadata=HOW)
    cycle_time_ms: Annotated[float, Ge(0)] | None = dataclasses.field(default=None, metadata=HOW)
    fusion_threshold_mb: Annotated[float, Ge(0)] | None = dataclasses.field(default=None, metadata=HOW)
    hierarchical: bool = dataclasses.field(default=False, metadata=HOW)
    timeline: bool = dataclasses.field(default=False, metadata=HOW)
    timeout_s: PositiveFloat = dataclasses.field(default=600.0, metadata=HOW)

    @property
    def fusion_bytes(self) -> float:
        """The most bytes of ready tensors that Horovod copies together into one allreduce.

        If buckets have fused the tensors already, it is one piece of an allreduce (training/comm.py).
        """
        if self.fusion_threshold_mb is not None:
            return self.fusion_threshold_mb * 2**20
        bucketed = self.exchange == "buckets" and self.reduction == "mean"
        return PIECE_BYTES if bucketed else 128.0 * 2**20


@dataclass(frozen=True)
class ResourcesConfig:
    """What the job asks for. `ranks` is for local runs; on Slurm it is nodes times GPUs per node."""

    ranks: Positive | None = None
    nodes: Positive = 1
    gpus_per_node: Positive | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    cpus_per_rank: Positive | None = None
    mem_gb_per_rank: PositiveFloat | None = None
    timeout_min: Positive | None = None
    threads_per_rank: Positive | None = None
    chain: Annotated[int, Ge(1), Le(100)] = 1

    def __post_init__(self) -> None:
        if (self.threads_per_rank or 0) > MOST_THREADS:
            raise ValueError(
                f"resources.threads_per_rank={self.threads_per_rank}: must be ≤ {MOST_THREADS}: "
                "no node has as many cores"
            )


@dataclass(frozen=True)
class ClusterConfig:
    """Facts about a cluster, from conf/cluster. None of them is science."""

    name: Name
    kind: Literal["local", "slurm"]
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    gpu_gres: str | None = None
    gpus_per_node: Positive | None = None
    cpus_per_node: Positive | None = None
    cpus_per_gpu: Positive | None = None
    mem_gb_per_node: PositiveFloat | None = None
    max_time_min: Positive | None = None
    max_nodes: Positive | None = None
    signal_s: Annotated[int, Ge(1), Le(65535)] = 120  # sbatch's limit
    mtbf_node_hours: PositiveFloat = 50_000.0
    device: str | None = None
    mpi: str | None = "pmix"
    requeue: bool = True
    exclusive: bool = False
    modules: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    container: str | None = None
    python: str | None = None
    srun_args: tuple[str, ...] = ()
    # Further options of sbatch; false and null leave one out.
    sbatch: Mapping[Option, str | int | float | bool | None] = field(default_factory=dict)
    environment: Mapping[Variable, VariableValue] = field(default_factory=dict)
    needs: tuple[Literal["account", "qos", "partition", "constraint", "reservation"], ...] = ()
    slurm_conf: str | None = None
    # comm settings that suit the cluster: conf/config.yaml uses them unless the command line sets others.
    comm: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    # For scaling studies: the nominal rate of a node's link, and how many nodes share one physical machine.
    link_gbit_per_s: PositiveFloat | None = None
    nodes_per_host: Positive = 1
    source: str | None = None
    source_date: str | None = None


@dataclass(frozen=True)
class RunConfig:
    """Where the run's directory lies: root/study/<run id>. `name` replaces model and data in the run id."""

    root: str = "runs"
    study: Name = "default"
    name: Name | None = None


@dataclass(frozen=True)
class CheckpointConfig:
    """When to save (`every` steps, `every_min` minutes, or `auto`) and what to keep."""

    every: Positive | Literal["auto", "epoch"] = "epoch"
    every_min: PositiveFloat | None = None
    keep_last: Positive = 3
    keep_every: Positive | None = None
    keep_best: bool = True
    asynchronous: bool = True
    allow_change: bool = False


@dataclass(frozen=True)
class Config:
    """A whole run. Field order is the order of conf/config.yaml."""

    model: ModelConfig
    data: DataConfig
    task: TaskConfig
    optimizer: Annotated[OptimizerConfig, Field(discriminator="name")]
    schedule: ScheduleConfig
    precision: PrecisionConfig
    train: TrainConfig
    comm: CommConfig
    resources: ResourcesConfig = dataclasses.field(metadata=HOW)
    cluster: ClusterConfig = dataclasses.field(metadata=HOW)
    run: RunConfig = dataclasses.field(metadata=HOW)
    checkpoint: CheckpointConfig = dataclasses.field(metadata=HOW)
    seed: Annotated[int, Ge(0), Lt(2**31)] = 0
    # References to environment variables (config/from_environment.py), as they are written, by setting.
    from_environment: Mapping[str, str] = dataclasses.field(default_factory=dict, metadata=HOW)

    @property
    def ranks(self) -> int:
        """World size: one rank per GPU (or per CPU slot on a machine without GPUs)."""
        if self.cluster.kind == "local":
            return self.resources.ranks or 1
        return self.resources.nodes * self.ranks_per_node

    @property
    def ranks_per_node(self) -> int:
        """Ranks on each node; all of them in a local run."""
        if self.cluster.kind == "local":
            return self.ranks
        return self.resources.gpus_per_node or self.cluster.gpus_per_node or 1

    @property
    def slots_of_node(self) -> int:
        """Ranks that a whole node has room for: its GPUs, or as many as the run starts there."""
        return self.cluster.gpus_per_node or self.ranks_per_node

    @property
    def effective_batch(self) -> int:
        """Samples per optimiser step, over all ranks and micro-steps."""
        return self.train.batch_size * self.train.accumulate * self.ranks

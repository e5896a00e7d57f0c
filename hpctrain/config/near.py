"""Which setting a wrong name probably means: by known synonyms first, then by spelling. Pure."""

from __future__ import annotations

from collections.abc import Collection

from hpctrain.errors import nearest

# Names that other tools use for settings, in lower case, without - and _, without the group.
_MEANT = {
    "optimizer.lr": ("lr", "learningrate", "stepsize", "alpha", "baselr"),
    "optimizer.weight_decay": ("wd", "weightdecay", "l2", "decay"),
    "optimizer.momentum": ("momentum", "mom"),
    "optimizer": ("opt", "optim"),
    "schedule": ("scheduler", "lrscheduler", "lrschedule", "sched"),
    "schedule.warmup_epochs": ("warmup", "warmupepochs"),
    "train.epochs": ("epochs", "epoch", "maxepochs", "numepochs", "nepochs", "numtrainepochs"),
    "train.steps": ("steps", "maxsteps", "iterations", "iters", "numsteps"),
    "train.batch_size": ("batchsize", "batch", "bs", "bsz", "perdevicetrainbatchsize", "microbatchsize"),
    "train.accumulate": ("accumulation", "gradientaccumulationsteps", "accumulategradbatches", "gradaccum"),
    "train.clip_norm": ("clip", "gradclip", "gradientclipval", "maxgradnorm", "clipgradnorm"),
    "train.ema_decay": ("ema", "emadecay"),
    "train.log_every": ("loginterval", "logeverynsteps", "loggingsteps"),
    "resources.gpus_per_node": ("gpus", "gpu", "ngpus", "numgpus", "devices", "nprocpernode", "gpuspernode"),
    "resources.nodes": ("nodes", "numnodes", "nnodes"),
    "resources.ranks": ("ranks", "np", "worldsize", "nproc", "processes"),
    "resources.timeout_min": ("time", "timeout", "walltime", "timelimit", "timeoutmin"),
    "resources.cpus_per_rank": ("cpus", "cores", "cpuspertask"),
    "resources.mem_gb_per_rank": ("mem", "memory", "memgb"),
    "data.workers": ("workers", "numworkers", "nworkers"),
    "data.path": ("datadir", "datapath", "dataroot"),
    "data.sequence_length": ("seqlen", "bptt", "sequencelength", "maxlength"),
    "data": ("dataset",),
    "model": ("arch", "network", "net", "architecture"),
    "task.label_smoothing": ("smoothing", "labelsmoothing"),
    "precision": ("amp", "dtype", "fp16", "bf16", "mixedprecision"),
    "cluster.partition": ("partition", "queue"),
    "cluster.account": ("account", "project"),
    "run.root": ("root", "out", "outputdir", "outdir", "savedir", "logdir"),
    "run.study": ("study", "experimentname", "group"),
    "run.name": ("name", "runname", "jobname"),
    "checkpoint.every": ("saveevery", "checkpointevery", "savesteps", "saveinterval"),
}
_SETTINGS = {name: setting for setting, names in _MEANT.items() for name in names}


def meant(key: str, known: Collection[str]) -> str | None:
    """Returns the one of the `known` settings that `key` means or resembles; None if none does."""
    last = key.lstrip("+~-").rpartition(".")[2]
    setting = _SETTINGS.get(last.lower().replace("_", "").replace("-", ""))
    if setting in known:
        return setting
    same_name = [name for name in known if name.rpartition(".")[2] == last]
    return same_name[0] if len(same_name) == 1 else nearest(key, known)

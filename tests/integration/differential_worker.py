"""One of SIZE ranks: `differential_worker.py SIZE FOLDER [NAME ...]` trains odd networks in hpctrain's own session.

All share one job, as starting it costs more than they do. Beside each, rank 0 trains the same network as plain PyTorch
would, in one process on the same global batches. Prints JSON: the largest relative difference of a weight (by norms),
or the refusal.
"""

import contextlib
import json
import sys
import traceback
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

import odd_networks
from torch.nn import functional

from hpctrain import data
from hpctrain.config.load import to_dict
from hpctrain.config.settings import CommConfig
from hpctrain.data import sampler
from hpctrain.data.derive import load
from hpctrain.errors import RunFailed, UserError
from hpctrain.models.factory import initialise
from hpctrain.storage import lock
from hpctrain.storage.run_dir import RunDir
from hpctrain.training import read_ahead, session
from hpctrain.training.comm import connect
from hpctrain.training.stop import StopFlag

SIZE, FOLDER, NAMES = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
BATCH, STEPS, LR = 12, 20, 0.05


def config_of(name):
    kind = getattr(odd_networks, name)
    return load([
        "model=custom", f"model.target=odd_networks:{name}", "data=digits", "data.shape=[1,16,16]", "data.pad=0",
        "data.train_limit=240", "data.validation_limit=24", f"train.batch_size={BATCH // SIZE}", f"train.steps={STEPS}",
        "train.log_every=10", "schedule=constant", f"optimizer.lr={LR}", "optimizer.momentum=0.9", "seed=5",
        f"resources.ranks={SIZE}", "comm.bucket_mb=0.0001", f"run.root={FOLDER}", *getattr(kind, "settings", ()),
    ])  # fmt: skip


def plain(name, config):
    """The weights by name after the same steps of a loop as anybody would write it."""
    train_set = data.load(config.data, read_ahead.feeding(config, torch.device("cpu"))).train
    torch.manual_seed(config.seed)
    model = getattr(odd_networks, name)().train()
    initialise(model, lambda count: (torch.zeros(count, 1, 16, 16),))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=LR, momentum=0.9)
    each = sampler.steps_per_epoch(len(train_set), BATCH)
    for step in range(STEPS):
        epoch, place = divmod(step, each)
        order = sampler.epoch_order(len(train_set), config.seed, epoch, train_set.shuffle, BATCH)
        images, labels = train_set.batch(sampler.share(order, place, BATCH, 0, 1).indices, torch.Generator())
        optimizer.zero_grad()
        out = model(images)
        fields = out._asdict() if hasattr(out, "_asdict") else out
        auxiliary = []
        if isinstance(fields, dict):
            auxiliary = [fields[key] for key in ("aux", "aux_logits") if key in fields]
            out = fields.get("logits", fields.get("out"))
        elif isinstance(fields, tuple | list):
            out = fields[0]
        loss = functional.cross_entropy(out, labels)
        for other in auxiliary:
            loss = loss + 0.3 * functional.cross_entropy(other, labels)
        loss.backward()
        optimizer.step()
    return dict(model.named_parameters())


def trained(name, config, comm):
    """The weights of rank 0 after hpctrain has trained them."""
    run = RunDir(FOLDER / f"{name}-{SIZE}")
    if comm.rank == 0:
        run.create(to_dict(config))
        run.attempt(1).mkdir(parents=True)
    comm.barrier()
    with contextlib.ExitStack() as stack:
        term = stack.enter_context(lock.acquire(run.checkpoints, 1, None, 0.0)) if comm.rank == 0 else None
        session._train_locked(config, run.held_by(term.stands) if term else run, 1, comm, StopFlag(), term)
    if comm.rank:
        return {}
    from safetensors.torch import load_file

    tensors = load_file(max(run.checkpoints.glob("step_*")) / "tensors.safetensors")
    return {
        name.removeprefix("model/"): tensor for name, tensor in tensors.items() if name.startswith("model/")
    }


def off(got, right):
    right = right.detach().double()
    return float((got.double() - right).norm() / right.norm().clamp(min=1e-3))


def main():
    torch.set_num_threads(1)
    comm = connect(CommConfig(timeout_s=60), SIZE, sys.exit)
    shut, comm.shutdown = comm.shutdown, lambda: None
    for name in NAMES or odd_networks.EQUAL:
        config = config_of(name)
        try:
            weights = trained(name, config, comm)
            found = None
        except (UserError, RunFailed) as error:
            found = str(error)
        except Exception:
            found = f"CRASH {traceback.format_exc()}"
        if comm.rank == 0:
            if found is None:
                expected = plain(name, config)
                found = max(off(weights[key], right) for key, right in expected.items() if right.numel())
            print(json.dumps({"name": name, "found": found}), flush=True)
    shut()


main()

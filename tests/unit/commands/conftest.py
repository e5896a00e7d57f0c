"""Runs for the commands that look at them."""

import pytest
import torch

from hpctrain import models
from hpctrain.checkpoints.saver import Checkpointer
from hpctrain.config.load import to_dict
from hpctrain.data.derive import load
from hpctrain.storage import lock
from hpctrain.storage.run_dir import RunDir
from hpctrain.training import state
from hpctrain.training.comm import Comm


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with checkpoints of the steps 1 to 4; the second is the best, the last has averaged weights."""
    monkeypatch.chdir(tmp_path)
    config = load(["experiment=lenet_digits", "train.ema_decay=0.9", "checkpoint.keep_last=4"])
    run = RunDir(tmp_path / "runs" / "default" / "net-0123456789")
    run.create(to_dict(config))
    torch.manual_seed(0)
    model = models.build("lenet", config.model.settings)
    live = state.Live(model, torch.optim.SGD(model.parameters(), 0.1), 0.9)
    device = torch.device("cpu")
    with lock.acquire(run.checkpoints, 1) as term:
        saver = Checkpointer(run.checkpoints, config.checkpoint, 1, 1e6, term)
        saver.restore()
        for step in range(1, 5):
            with torch.no_grad():
                model[-1].bias.add_(1.0) if hasattr(model, "__getitem__") else None
                next(iter(model.parameters())).add_(1.0)
            live.average()
            meta = {"step": step, "epoch": step / 2, "samples": step}
            saver.save(state.capture(live, Comm(), device, meta), metric=abs(step - 2.2))
        saver.finish()
    return run


@pytest.fixture
def failed(tmp_path, monkeypatch):
    """A run of two ranks that has failed, with their logs."""
    monkeypatch.chdir(tmp_path)
    run = RunDir(tmp_path / "runs" / "default" / "net-0123456789")
    run.create({})
    for rank, text in enumerate(["step 1\nout of memory\n", "step 1\n"]):
        log = run.rank_log(1, rank)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(text)
    run.state.beat(phase="failed", reason="OUT_OF_MEMORY", detail="rank 0 was killed", attempt=1, rank=0)
    return run

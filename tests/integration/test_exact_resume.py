"""The loop in this process, stopped, resumed and disturbed at chosen steps: is it the undisturbed run?"""

import contextlib
import json

import numpy as np
import pytest
import torch

from hpctrain.checkpoints import store
from hpctrain.checkpoints.saver import Checkpointer, read
from hpctrain.config.load import to_dict
from hpctrain.data.derive import load
from hpctrain.data.sampler import epoch_order
from hpctrain.errors import RunFailed
from hpctrain.launch.estimate import estimate
from hpctrain.storage import lock
from hpctrain.storage.run_dir import RunDir
from hpctrain.tasks.classification import Classification
from hpctrain.training.comm import Comm
from hpctrain.training.loop import train
from hpctrain.training.progress import fingerprint
from hpctrain.training.reporter import Reporter

# 200 digits in steps of 16: 13 steps an epoch, the last one short.
SMALL = (
    "experiment=lenet_digits", "train.epochs=3", "train.batch_size=16", "data.train_limit=200",
    "data.validation_limit=50", "train.log_every=4", "data.augment=[flip,pad_crop]", "resources.device=cpu",
    "schedule=plateau", "checkpoint.keep_last=20",
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class StopAt:
    """A stop flag that comes up in the n-th step of an attempt."""

    def __init__(self, after):
        self.left = after

    def poll(self):
        if self.left is None:
            return None
        self.left -= 1
        return "INTERRUPTED" if self.left <= 0 else None


def attempt(folder, *overrides, stop_after=None, base=SMALL):
    """One attempt of a run in `folder`; gives the reason of its end."""
    config = load([*base, *overrides])
    run = RunDir(folder)
    run.create(to_dict(config))
    run.checkpoints.mkdir(mode=0o700, exist_ok=True)
    number = lock.last_owner(run.checkpoints).attempt + 1 if lock.last_owner(run.checkpoints) else 1
    with lock.acquire(run.checkpoints, number) as term:
        saver = Checkpointer(run.checkpoints, config.checkpoint, number, 1e6, term)
        with contextlib.closing(Reporter(run, number, True)) as report:
            return train(config, run, Comm(), StopAt(stop_after), saver, report)


def newest(folder):
    return read(folder / "checkpoints", store.entries(folder / "checkpoints")[-1])


def records(folder):
    """What the run said of its science."""
    keys = ("kind", "step", "samples", "lr", "scores", "window_steps")
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: line.get(k) for k in keys} for line in lines if line["kind"] in ("train", "validation")]


def assert_same_run(one, other):
    a, b = newest(one), newest(other)
    assert a.tensors.keys() == b.tensors.keys()
    for name, tensor in a.tensors.items():
        assert torch.equal(tensor, b.tensors[name]), name
    assert records(one) == records(other)
    for key in ("step", "epoch", "samples", "ledger", "sampler", "schedule", "metric", "config_hash"):
        assert a.meta[key] == b.meta[key], key
    assert a.meta["progress"]["validation_losses"] == b.meta["progress"]["validation_losses"]


@pytest.mark.parametrize(
    ("stops", "overrides"),
    [
        ((1, 5, 4, 9), ()),  # in mid-epoch, off the records' beat
        ((13, 13), ()),  # at the very end of an epoch, before it is validated
        ((7, 11), ("train.ema_decay=0.9", "optimizer=adamw", "optimizer.lr=0.001")),
        ((3, 20), ("optimizer=lars", "train.accumulate=2", "train.batch_size=8")),
        ((6, 2), ("train.steps=30", "optimizer.momentum=0", "checkpoint.every=5")),
        ((5, 9), ("precision=auto", "precision.channels_last=true")),
        ((1, 11, 12), ("data.drop_last=true",)),
    ],
)
def test_a_stopped_run_ends_as_the_undisturbed_one(tmp_path, stops, overrides):
    assert attempt(tmp_path / "whole", *overrides) == "DONE"
    for steps in stops:
        assert attempt(tmp_path / "cut", *overrides, stop_after=steps) == "INTERRUPTED"
    assert attempt(tmp_path / "cut", *overrides) == "DONE"
    assert newest(tmp_path / "cut").meta["attempt"] == len(stops) + 1
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_the_ledger_says_which_samples_were_taken(tmp_path):
    attempt(tmp_path / "run", stop_after=18)
    ledger = newest(tmp_path / "run").meta["ledger"]
    begun = epoch_order(200, 0, 1, True)[: 5 * 16]
    assert ledger["epochs"] == [[200, fingerprint(epoch_order(200, 0, 0, True))]]
    assert (ledger["epoch"], ledger["taken"], ledger["fingerprint"]) == (1, 80, fingerprint(begun))


def test_a_tail_that_is_dropped_is_in_no_epoch(tmp_path):
    attempt(tmp_path / "run", "data.drop_last=true", stop_after=18)
    ledger = newest(tmp_path / "run").meta["ledger"]
    assert ledger["epochs"] == [[192, fingerprint(epoch_order(200, 0, 0, True)[:192])]]
    assert (ledger["epoch"], ledger["taken"]) == (1, 6 * 16)


def test_other_data_under_a_checkpoint_is_refused(tmp_path, monkeypatch):
    attempt(tmp_path / "run", stop_after=5)
    monkeypatch.setattr(
        "hpctrain.data.sampler.epoch_order", lambda n, seed, epoch, *_: epoch_order(n, 99, epoch, True)
    )
    with pytest.raises(RunFailed, match=r"DATA_ERROR.*80 samples"):
        attempt(tmp_path / "run")


def test_an_order_that_takes_a_sample_twice_is_found_at_the_end_of_the_epoch(tmp_path, monkeypatch):
    def wrong(n, seed, epoch, *_):
        order = epoch_order(n, seed, epoch, True)
        order[150] = order[3]
        return order

    monkeypatch.setattr("hpctrain.data.sampler.epoch_order", wrong)
    with pytest.raises(RunFailed, match="epoch 0 did not take each of 200 samples once"):
        attempt(tmp_path / "run")


def test_a_device_that_computes_in_another_format_does_not_go_on_in_silence(tmp_path, monkeypatch):
    monkeypatch.setattr("hpctrain.training.precision.cpu_has_bf16", lambda: False)
    attempt(tmp_path / "run", "precision=auto", stop_after=5)
    monkeypatch.setattr("hpctrain.training.precision.cpu_has_bf16", lambda: True)
    with pytest.raises(
        RunFailed, match=r"CONFIG_CHANGED: precision.name is bf16, but the run was made with fp32"
    ):
        attempt(tmp_path / "run", "precision=auto")
    assert attempt(tmp_path / "run", "precision=auto", "checkpoint.allow_change=true") == "DONE"


def test_a_changed_setting_is_refused_unless_asked_for(tmp_path):
    attempt(tmp_path / "run", stop_after=5)
    with pytest.raises(RunFailed, match=r"CONFIG_CHANGED: optimizer.lr is 0.123, but the run was made with"):
        attempt(tmp_path / "run", "optimizer.lr=0.123")
    assert attempt(tmp_path / "run", "optimizer.lr=0.123", "checkpoint.allow_change=true") == "DONE"


@pytest.mark.parametrize("change", ["seed=7", "train.batch_size=8", "data.train_limit=100"])
def test_what_says_which_samples_come_cannot_change(tmp_path, change):
    attempt(tmp_path / "run", stop_after=5)
    with pytest.raises(RunFailed, match=r"CONFIG_CHANGED.*begin a new run"):
        attempt(tmp_path / "run", change, "checkpoint.allow_change=true")


@pytest.mark.parametrize(
    ("overrides", "leaf"),
    [
        (("model.num_classes=12",), r"model/output.weight is \(10, 84\) \S+ in the checkpoint, \(12, 84\)"),
        (("optimizer=adamw", "optimizer.lr=0.01"), r"does not have tensor optimizer/\S+/step"),
        (("train.ema_decay=0.9",), r"does not have tensor ema/"),
    ],
)
def test_the_first_leaf_that_does_not_fit_is_named(tmp_path, overrides, leaf):
    attempt(tmp_path / "run", stop_after=5)
    with pytest.raises(RunFailed, match=f"NO_VALID_CHECKPOINT.*{leaf}"):
        attempt(tmp_path / "run", *overrides, "checkpoint.allow_change=true")


def test_validation_uses_the_averaged_weights(tmp_path):
    attempt(tmp_path / "plain")
    attempt(tmp_path / "ema", "train.ema_decay=0.5")
    plain, ema = newest(tmp_path / "plain"), newest(tmp_path / "ema")
    weights = [name.removeprefix("ema/") for name in ema.tensors if name.startswith("ema/")]
    assert weights
    for name in weights:  # training itself does not see them
        if "plateau" not in name:
            assert ema.tensors[f"ema/{name}"].shape == plain.tensors[f"model/{name}"].shape
    losses = [meta["progress"]["validation_losses"][0] for meta in (plain.meta, ema.meta)]
    assert losses[0] != losses[1]
    first = [[r for r in records(tmp_path / run) if r["kind"] == "train"][:3] for run in ("plain", "ema")]
    assert first[0] == first[1]


def test_the_average_is_what_its_formula_says(tmp_path):
    from hpctrain.training.state import Live

    model = torch.nn.Linear(2, 2)
    live = Live(model, torch.optim.SGD(model.parameters(), 0.1), 0.9)
    expected = model.weight.detach().clone()
    for _ in range(5):
        with torch.no_grad():
            model.weight.add_(1.0)
        live.average()
        expected = 0.9 * expected + 0.1 * model.weight.detach()
    torch.testing.assert_close(live.ema["weight"], expected)
    before = model.weight.detach().clone()
    with live.averaged():
        torch.testing.assert_close(model.weight.detach(), expected)
    assert torch.equal(model.weight.detach(), before)


class Poison:
    """Makes the loss of some forward passes in training NaN."""

    def __init__(self, monkeypatch, at):
        self.calls, self.at, real = 0, set(at), Classification.loss

        def loss(task, model, batch, carry):
            total, sums, carry = real(task, model, batch, carry)
            if model.training:
                self.calls += 1
                if self.calls in self.at:
                    return total * float("nan"), sums * float("nan"), carry
            return total, sums, carry

        monkeypatch.setattr(Classification, "loss", loss)


BATCH_NORM = (
    "model=resnet18",
    "model.stem=cifar",
    "data.train_limit=48",
    "train.epochs=2",
    "train.log_every=1",
)


def test_nan_stops_with_a_checkpoint_of_the_last_good_step(tmp_path, monkeypatch):
    Poison(monkeypatch, [8])
    with pytest.raises(RunFailed, match=r"NAN_PERSISTENT.*step 8"):
        attempt(tmp_path / "cut", "checkpoint.every=1000")
    saved = newest(tmp_path / "cut")
    assert saved.meta["step"] == 7
    assert all(t.isfinite().all() for t in saved.tensors.values())
    monkeypatch.undo()
    attempt(tmp_path / "whole", "checkpoint.every=1000")
    attempt(tmp_path / "cut", "checkpoint.every=1000")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_nan_skipped_leaves_weights_and_running_means_alone(tmp_path, monkeypatch):
    Poison(monkeypatch, [2, 4])
    assert attempt(tmp_path / "run", "train.on_nan=skip", *BATCH_NORM) == "DONE"
    saved = newest(tmp_path / "run")
    assert saved.meta["progress"]["skipped"] == [[1, 2], [3, 4]]
    assert saved.meta["ledger"]["epochs"][0][0] == 48
    assert all(t.isfinite().all() for t in saved.tensors.values())
    counts = [t for name, t in saved.tensors.items() if name.endswith("num_batches_tracked")]
    assert {int(count) for count in counts} == {6 - 2}


def test_nan_at_the_very_first_step_leaves_no_rubbish_in_the_momentum(tmp_path, monkeypatch):
    Poison(monkeypatch, [1])
    attempt(tmp_path / "run", "train.on_nan=skip", "train.steps=1")
    momenta = [t for name, t in newest(tmp_path / "run").tensors.items() if "momentum" in name]
    assert momenta
    assert not any(t.any() for t in momenta)


def test_nan_in_a_row_stops_in_the_end(tmp_path, monkeypatch):
    Poison(monkeypatch, range(5, 99))
    with pytest.raises(RunFailed, match=r"NAN_PERSISTENT"):
        attempt(tmp_path / "run", "train.on_nan=skip")
    assert newest(tmp_path / "run").meta["step"] == 4 + 9


def test_nan_rolls_back_to_the_last_checkpoint_and_the_data_goes_on(tmp_path, monkeypatch):
    attempt(tmp_path / "same", "train.on_nan=rollback", "checkpoint.every=4", "train.steps=4")
    Poison(monkeypatch, [7])
    attempt(tmp_path / "run", "train.on_nan=rollback", "checkpoint.every=4", "train.steps=7")
    saved, at_4 = newest(tmp_path / "run"), newest(tmp_path / "same")
    assert saved.meta["progress"]["skipped"] == [[4, 7]]
    assert (saved.meta["step"], saved.meta["samples"], saved.meta["ledger"]["taken"]) == (7, 112, 112)
    for name, tensor in at_4.tensors.items():
        if name.startswith(("model/", "optimizer/")):
            assert torch.equal(saved.tensors[name], tensor), name


def test_nan_with_nothing_to_roll_back_to_stops(tmp_path, monkeypatch):
    Poison(monkeypatch, [2])
    with pytest.raises(RunFailed, match=r"NAN_PERSISTENT.*no checkpoint yet"):
        attempt(tmp_path / "run", "train.on_nan=rollback")


def make_pictures(root):
    from PIL import Image

    noise = np.random.default_rng(0)
    for split, count in (("train", 13), ("val", 3)):
        for name in ("ant", "bee"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = noise.integers(0, 256, (24, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def test_pictures_decoded_ahead_go_on_in_mid_epoch(tmp_path):
    """Random crops, sizes that change by epoch, decoding in other processes: stopped anywhere, the same run."""
    pictures = make_pictures(tmp_path / "pictures")
    base = (
        "data=image_folder", f"data.path={pictures}", "data.shape=[3,16,16]", "data.prefetch=2",
        "model=resnet18", "model.stem=cifar", "model.width=4", "train.batch_size=8", "train.epochs=3",
        "train.image_sizes=[[0,8],[1,12],[2,16]]", "train.log_every=2", "resources.device=cpu",
        "checkpoint.keep_last=20",
    )  # fmt: skip
    assert attempt(tmp_path / "one", "data.workers=1", base=base) == "DONE"
    for stop in (3, 6):  # of the four steps of an epoch of 26
        assert attempt(tmp_path / "other", "data.workers=0", stop_after=stop, base=base) == "INTERRUPTED"
    assert attempt(tmp_path / "other", "data.workers=1", base=base) == "DONE"
    assert_same_run(tmp_path / "one", tmp_path / "other")
    totals = []
    for folder in ("one", "other"):
        summary = json.loads((tmp_path / folder / "metrics.jsonl").read_text().splitlines()[-1])
        totals.append(summary["flops_total"])
        assert summary["input"]["workers"] == 1
    # What the estimate foretells: each epoch at its own size.
    facts = estimate(load(base))
    assert totals == [facts["flops_total"]] * 2

"""Training with real Horovod ranks: what it writes, that it repeats, that ranks do not change the science."""

import json
import os
import pty
import signal
import stat
import sys
import time

import psutil
import pytest
import torch

from tests.waiting import until


def assert_bitwise_equal(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_a_run_leaves_what_the_design_says(cli):
    out, _ = cli.train("resources.ranks=2", "train.tensorboard=true")
    run = cli.the_run()
    assert {"config.yaml", "provenance.json", "state.json", "metrics.jsonl", "curves.png"} <= {
        p.name for p in run.iterdir()
    }
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    state = cli.state()
    assert (state["phase"], state["reason"], state["step"], state["ranks"]) == ("done", "DONE", 14, 2)
    summary = state["summary"]
    assert summary["samples"] == 400
    assert summary["flops_total"] > 0
    assert {"loss", "accuracy"} <= summary["validation"].keys()
    assert [r["epoch"] for r in cli.records("validation")] == [1, 2]
    train = cli.records("train")
    assert train[-1]["samples"] == 400
    assert sum(r["window_steps"] for r in train) == 14
    for record in (*train, summary):
        assert record["flops"] > 0
        assert record["gflop_per_s"] > 0
        assert 0 < record["mfu"] < record["roofline_share"]  # LeNet moves more than it computes
    assert sum(r["flops"] for r in train) == pytest.approx(summary["flops_total"])
    assert summary["device_peak"]["source"].startswith("measured")
    assert {"data", "forward", "backward", "allreduce", "optimizer"} <= train[0]["step_ms"].keys()
    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance["packages"]["horovod"]
    assert provenance["transport"] == "mpi"
    assert list((run / "tensorboard").glob("events.*"))
    for line in ("validation", "throughput", "FLOPs per step", "achieved", "directory"):
        assert line in out


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.long), 2])
def test_equal_seeds_give_bitwise_equal_runs(cli, ranks):
    for study in ("a", "b"):
        cli.train(f"resources.ranks={ranks}", f"run.study={study}", "data.augment=[pad_crop]")
    assert_bitwise_equal(cli.tensors("a"), cli.tensors("b"))
    keys = ("scores", "step")
    first, second = ([{k: r[k] for k in keys} for r in cli.records("train", s)] for s in ("a", "b"))
    assert first == second


@pytest.mark.long
@pytest.mark.parametrize("transport", ["mpi", "gloo"])
def test_two_ranks_of_half_the_batch_equal_one_rank(cli, transport):
    """201 samples: the tail of each epoch is divided unevenly, and must weigh no more for it."""
    odd = ("data.train_limit=201", "train.clip_norm=1", "optimizer.lr=0.02", "task.label_smoothing=0.1")
    cli.train(*odd, "run.study=one", "train.batch_size=32")
    cli.train(*odd, "run.study=two", "resources.ranks=2", f"comm.transport={transport}")
    cli.train(*odd, "run.study=micro", "train.accumulate=2")
    one, two, micro = (cli.tensors(study) for study in ("one", "two", "micro"))
    assert cli.the_run("one").name == cli.the_run("two").name == cli.the_run("micro").name
    for other in (two, micro):
        for name in one:
            if name.startswith(("model/", "optimizer/")):
                torch.testing.assert_close(other[name], one[name], rtol=1e-3, atol=1e-5, msg=name)
    scores = [cli.records("validation", s)[-1]["scores"] for s in ("one", "two", "micro")]
    assert scores[0]["loss"] == pytest.approx(scores[1]["loss"], rel=1e-4)
    assert scores[0]["loss"] == pytest.approx(scores[2]["loss"], rel=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("exchange", ["fp16", "small_buckets"])
def test_other_ways_to_exchange_gradients_learn_the_same(cli, exchange):
    setting = {"fp16": "comm.compression=fp16", "small_buckets": "comm.bucket_mb=0.05"}[exchange]
    cli.train("resources.ranks=2", "run.study=plain")
    cli.train("resources.ranks=2", "run.study=other", setting)
    plain, other = (cli.records("validation", s)[-1]["scores"]["loss"] for s in ("plain", "other"))
    assert other == pytest.approx(plain, rel=1e-6 if exchange == "small_buckets" else 0.05)


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.long), 2])
def test_ctrl_c_leaves_a_checkpoint_and_resume_is_bitwise(cli, ranks):
    """Stopped in mid-epoch and started again: the undisturbed run, to the last bit."""
    long = ("train.epochs=40", "train.log_every=5", f"resources.ranks={ranks}", "data.augment=[flip]")
    cli.train(*long, "run.study=whole")
    process = cli.start("train", *cli.small, *long, "run.study=cut")
    until(lambda: list(cli.folder.glob("runs/cut/*/metrics.jsonl")) and len(cli.records("train", "cut")) > 3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    stopped = cli.state("cut")
    assert (stopped["phase"], stopped["reason"]) == ("interrupted", "INTERRUPTED")
    assert 0 < stopped["step"] < stopped["total_steps"]
    cli.train(*long, "run.study=cut")
    assert cli.state("cut")["attempt"] == 2
    assert_bitwise_equal(cli.tensors("whole"), cli.tensors("cut"))
    losses = [[r["scores"]["loss"] for r in cli.records("validation", s)] for s in ("whole", "cut")]
    assert losses[0] == losses[1]


def test_a_killed_rank_ends_the_run_with_its_name(cli):
    process = cli.start("train", *cli.small, "train.epochs=500", "resources.ranks=2")
    until(lambda: list(cli.folder.glob("runs/*/*/metrics.jsonl")) and cli.records("train"))
    who = json.loads((cli.the_run() / "attempts/1/rank_1.json").read_text())
    os.kill(who["pid"], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "RANK_KILLED" in err
    assert (cli.state()["phase"], cli.state()["reason"], cli.state()["rank"]) == ("failed", "RANK_KILLED", 1)


def test_loss_that_is_not_finite_stops_the_run_before_the_update(cli):
    _, err = cli.train("optimizer.lr=1e12", "optimizer.weight_decay=1e6", "resources.ranks=2", code=1)
    assert "NAN_PERSISTENT" in err
    assert "Traceback" not in err
    assert cli.state()["reason"] == "NAN_PERSISTENT"
    assert cli.state()["step"] < cli.state()["total_steps"]


def test_a_finished_run_is_shown_not_repeated(cli):
    cli.train()
    before = cli.state()
    _, err = cli.train()
    assert "done already" in err
    assert cli.state() == before


def test_two_runs_in_one_directory_are_refused(cli):
    process = cli.start("train", *cli.small, "train.epochs=500")
    until(lambda: list(cli.folder.glob("runs/*/*/metrics.jsonl")) and cli.records("train"))
    _, err = cli.run("train", *cli.small, "train.epochs=500", code=2)
    assert "RUN_LOCKED" in err
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def test_submit_runs_on_in_the_background(cli):
    out, _ = cli.run("submit", *cli.small, "resources.ranks=2")
    run = cli.the_run()
    assert run.name in out
    out, _ = cli.run("logs", "-f", run.name, timeout=120)
    assert "epoch 2: validation" in out
    assert "throughput" in out
    rows = json.loads(cli.run("status", "--json")[0])
    assert [(r["phase"], r["progress"]) for r in rows] == [("done", 1.0)]


def test_cancel_saves_and_resume_goes_on(cli):
    cli.run("submit", *cli.small, "resources.ranks=2", "train.epochs=3000")
    until(lambda: list(cli.folder.glob("runs/*/*/metrics.jsonl")) and cli.records("train"))
    cli.run("cancel")
    until(lambda: cli.state()["phase"] == "cancelled")
    at = cli.state()["step"]
    assert list((cli.the_run() / "checkpoints").glob(f"step_{at:09d}.*"))
    cli.run("resume")
    until(lambda: cli.state().get("attempt") == 2 and cli.state()["phase"] == "running")
    until(lambda: cli.records("train")[-1]["step"] > at)
    cli.run("cancel")
    until(lambda: cli.state()["phase"] == "cancelled")
    steps = [r["step"] for r in cli.records("train")]
    assert steps == sorted(set(steps))


def test_on_a_terminal_a_bar_shows_the_figures_and_ctrl_c_stops(cli):
    """A real pseudo-terminal: what is typed reaches the command as from a keyboard."""
    command = [sys.executable, "-m", "hpctrain.cli", "train", *cli.small, "train.epochs=3000"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(cli.folder)
        os.environ |= {"TERM": "xterm", "COLUMNS": "140"}
        os.execv(command[0], [*command, "resources.ranks=2"])
    shown = b""
    while b"GFLOP/s" not in shown:
        shown += os.read(terminal, 4096)
    os.write(terminal, b"\x03")
    try:
        while chunk := os.read(terminal, 4096):
            shown += chunk
    except OSError:  # how Linux says that the other side has closed a terminal
        pass
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130
    text = shown.decode()
    assert all(word in text for word in ("epoch ", "loss", "accuracy", "samples/s", "GFLOP/s"))
    assert "saving a checkpoint and stopping" in text
    assert "Traceback" not in text
    assert cli.state()["reason"] == "INTERRUPTED"
    assert list((cli.the_run() / "checkpoints").glob(f"step_{cli.state()['step']:09d}.*"))


def test_pictures_are_decoded_by_processes_that_heed_their_rank_alone(cli):
    """Slurm and a terminal signal every process of a job; only the rank acts. It dies, and they end."""
    from PIL import Image

    for place in ("train/a", "train/b", "val/a"):
        (cli.folder / "set" / place).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (24, 20), (number, 99, 0)).save(cli.folder / "set" / place / f"{number}.jpg")
    out, _ = cli.run("data", "pack", "set", "--into", "packed")
    assert "2 classes; use it: data=image_folder data.path=packed" in out
    settings = (
        "model=resnet18", "model.stem=cifar", "model.width=2", "data=image_folder", "data.path=packed",
        "data.shape=[3,16,16]", "train.batch_size=4", "train.epochs=10000",
        "data.workers=2", "checkpoint.keep_best=false",
    )  # fmt: skip
    process = cli.start("train", *settings)
    until(lambda: cli.runs() and cli.state().get("step", 0) > 3)
    rank = json.loads((cli.the_run() / "attempts" / "1" / "rank_0.json").read_text())["pid"]
    decoders = [p for p in psutil.Process(rank).children() if "spawn_main" in " ".join(p.cmdline())]
    assert len(decoders) == 2
    for decoder in decoders:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            decoder.send_signal(number)
    before = cli.state()["step"]
    until(lambda: cli.state()["step"] > before + 3)
    psutil.Process(rank).kill()
    _, alive = psutil.wait_procs(decoders, timeout=20)
    assert not alive
    assert process.wait(60) == 1
    process.communicate()
    # A shard that was cut: nothing starts.
    shard = cli.folder / "packed" / "train-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-1])
    _, err = cli.run("train", *settings, code=2)
    assert "train-00000.arrow is broken: " in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("ranks", "after_s"),
    [(2, 1.5), *(pytest.param(*case, marks=pytest.mark.long)
                 for case in ((1, 0.0), (1, 0.5), (1, 1.5), (1, 3.0), (2, 0.0), (2, 0.5), (2, 3.0)))],
)  # fmt: skip
def test_ctrl_c_while_it_starts_interrupts(cli, ranks, after_s):
    """Wherever its ranks are in their imports: interrupted, exit code 130, and the same command goes on."""
    long = (*cli.small, "train.epochs=500", f"resources.ranks={ranks}")
    process = cli.start("train", *long)
    until(lambda: cli.runs() and cli.state())
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    state = cli.state()
    assert (state["phase"], state["reason"], process.returncode) == ("interrupted", "INTERRUPTED", 130), (
        out + err
    )
    assert "Traceback" not in err
    process = cli.start("train", *long)
    until(lambda: cli.state().get("phase") == "running" and cli.state()["step"] > state.get("step", 0))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)


def test_a_network_that_cannot_be_counted_trains_and_is_reported(cli):
    """Its figures without operations; nothing takes their place."""
    (cli.folder / "nets.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self):\n"
        "        super().__init__(1024, 10)\n"
        "    def forward(self, x):\n"
        "        return super().forward(x.flatten(1)) * (1 if x.sum().item() > 0 else 2)\n"
    )
    words = (
        "lenet_digits",
        "model=custom",
        "model.target=nets:Net",
        "train.steps=2",
        "data.validation_limit=8",
    )
    out, _ = cli.run("train", *words, "run.study=s")
    assert "FLOPs per step  unknown" in out
    assert "GFLOP/s" not in out
    (run,) = cli.runs("s")
    summary = json.loads((run / "state.json").read_text())["summary"]
    assert [summary[key] for key in ("flops", "flops_total", "gflop_per_s", "mfu", "flops_per_step")] == 5 * [
        None
    ]
    assert summary["samples_per_s"] > 0
    assert "cannot be called on meta tensors (nets.py, line 6)" in (run / "attempts/1/rank_0.log").read_text()
    out, _ = cli.run("report", "s")
    assert "exaFLOPs 0, those of 1 runs unknown" in out

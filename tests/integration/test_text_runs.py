"""Language models from the command line: training, resuming in mid-stream, generating, bad input."""

import os
import random
import signal
import subprocess
import sys

import pytest
import torch

from tests.waiting import until

VALUES = {
    "model.hidden": 24, "model.embedding": 12, "model.layers": 2, "model.dropout_between": 0.1,
    "model.weight_drop": 0.1, "model.init_range": "null", "optimizer.lr": 0.01, "schedule.warmup_epochs": 0,
    "data.sequence_length": 20, "train.batch_size": 4, "train.steps": 60, "train.log_every": 20,
    "checkpoint.every_min": "null", "resources.threads_per_rank": 1,
}  # fmt: skip


def text(words=6000):
    draw = random.Random(0)
    names = ["alpha", "beta", "gamma", "delta"]
    return "".join(
        f"def {draw.choice(names)}(x):\n    return {draw.choice(names)}(x)\n" for _ in range(words // 6)
    )


@pytest.fixture
def lm(cli):
    """The command line with a small text and a small recipe."""
    (cli.folder / "text.txt").write_text(text())
    os.environ["HPCTRAIN_CACHE"] = str(cli.folder / "cache")

    def args(**changes):
        values = VALUES | {"data.path": cli.folder / "text.txt"} | changes
        return ["char_lstm_python", "data=text", *(f"{k}={v}" for k, v in values.items() if v is not None)]

    cli.args = args
    yield cli
    del os.environ["HPCTRAIN_CACHE"]


def same(first, second, close=False):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        if close and name.startswith(("model/", "optimizer/", "carry/0")):
            torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
        elif not close:
            assert torch.equal(tensor, second[name]), name


def test_two_ranks_read_the_streams_of_one(lm):
    """Equal parameters and perplexity; without dropout, whose chance is each rank's own."""
    plain = {"model.dropout_between": 0, "model.weight_drop": 0, "optimizer.eps": "1e-4"}
    lm.run("train", *lm.args(**plain, **{"train.batch_size": 8}), "run.study=one")
    lm.run("train", *lm.args(**plain), "run.study=two", "resources.ranks=2")
    lm.run("train", *lm.args(**plain), "run.study=micro", "train.accumulate=2")
    assert lm.the_run("one").name == lm.the_run("two").name == lm.the_run("micro").name
    one, two, micro = (
        {k: v for k, v in lm.tensors(study).items() if k.startswith(("model", "optimizer"))}
        for study in ("one", "two", "micro")
    )
    same(one, two, close=True)
    same(one, micro, close=True)
    scores = [lm.records("validation", s)[-1]["scores"] for s in ("one", "two", "micro")]
    for score in scores[1:]:
        assert score["perplexity"] == pytest.approx(scores[0]["perplexity"], rel=1e-3)
    assert scores[0]["bits_per_character"] < 4
    assert (lm.the_run("one") / "curves.png").exists()


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.long)])
def test_stopped_in_mid_stream_a_run_goes_on_to_the_last_bit(lm, ranks):
    steps = {"train.steps": 800, "train.log_every": 5, "checkpoint.every": 1000}
    long = [*lm.args(**steps), f"resources.ranks={ranks}"]
    lm.run("train", *long, "run.study=whole")
    process = lm.start("train", *long, "run.study=cut")
    until(
        lambda: list(lm.folder.glob("runs/cut/*/metrics.jsonl")) and len(lm.records("train", "cut")) > 2,
        pause_s=0.02,
    )
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    stopped = lm.state("cut")
    assert 0 < stopped["step"] < 800
    assert any(name.startswith("carry/") for name in lm.tensors("cut"))
    lm.run("train", *long, "run.study=cut")
    same(lm.tensors("whole"), lm.tensors("cut"))
    losses = [[r["scores"]["loss"] for r in lm.records("validation", s)] for s in ("whole", "cut")]
    assert losses[0] == losses[1]


@pytest.fixture
def generate(lm, monkeypatch, capsys):
    """The command, in this process: its output, or what it says of wrong input."""
    from hpctrain import cli

    monkeypatch.chdir(lm.folder)

    def run(*args, code=0):
        assert cli.main(["generate", *args]) == code
        out, err = capsys.readouterr()
        assert len(err.splitlines()) == (1 if code else 0)
        return err if code else out

    return run


def test_a_trained_model_writes_what_it_has_read(lm, generate):
    learned = {"train.steps": 500, "train.batch_size": 8, "model.dropout_between": 0, "model.weight_drop": 0}
    lm.run("train", *lm.args(**learned))
    arguments = ("--prompt", "def alpha", "--tokens", "60", "--temperature", "0.5", "--top-k", "5")
    first, again, other = (generate(*arguments, "--seed", s) for s in ("1", "1", "2"))
    assert first == again != other
    assert first.startswith("def alpha(x):\n    return ")
    assert len(first) == len("def alpha") + 60 + 1
    assert lm.run("generate", *arguments, "--seed", "1")[0] == first
    assert len({generate("--temperature", "0", "--tokens", "40", "--seed", s) for s in ("1", "2")}) == 1
    unknown = generate("--prompt", "señor", code=2)
    assert "characters that the model has not seen: 's', 'ñ', 'o'" in unknown
    for flag, value in (("temperature", -1), ("tokens", 0), ("top-k", 0), ("temperature", "nan")):
        assert f"--{flag}={value}" in generate(f"--{flag}={value}", code=2)
    assert "must hold at least one token" in generate("--prompt", "", code=2)
    (lm.the_run() / "vocabulary.json").unlink()
    assert "has no vocabulary.json yet" in generate(code=2)


@pytest.mark.long
def test_words_tied_weights_and_masks(lm, generate):
    words = {
        "data.tokens": "word", "model.embedding": 24, "model.tied": "true", "task.time_reduction": "sum",
        "optimizer.lr": 0.5, "train.clip_norm": 5,
    }  # fmt: skip
    lm.run("train", *lm.args(**words), "run.study=words", "optimizer=sgd", "schedule=plateau")
    assert generate("--study", "words", "--prompt", "def", "--tokens", "8").startswith("def ")
    unknown = generate("--study", "words", "--prompt", "def nobody", code=2)
    assert "words that the model has not seen: 'nobody'" in unknown
    masked = (
        "run.study=masked",
        "model=birnn",
        "model.input=one_hot",
        "task=masked_language_model",
        "resources.ranks=2",
    )
    lm.run("train", *lm.args(), *masked)
    assert lm.records("validation", "masked")[-1]["scores"]["perplexity"] < 15
    assert "is bidirectional" in generate("--study", "masked", code=2)


def test_byte_pair_pieces(lm, generate):
    lm.run("train", *lm.args(**{"data.vocabulary_size": 280, "data.tokens": "bpe"}))
    assert lm.records("validation")[-1]["scores"]["bits_per_character"] < 4
    assert generate("--prompt", "def ça", "--tokens", "20").startswith("def ça")


def test_another_text_under_a_run_is_noticed(lm):
    lm.run("train", *lm.args())
    run = lm.the_run()
    (run / "vocabulary.json").write_text('{"kind": "character", "tokens": ["a"]}')
    (run / "state.json").write_text('{"phase": "interrupted", "reason": "INTERRUPTED"}')
    _, err = lm.run("train", *lm.args(), code=1)
    assert "DATA_ERROR: vocabulary.json is not what it was" in err


@pytest.mark.parametrize(
    ("content", "changes", "words"),
    [
        (b"", {}, ["data.path=", "holds no text"]),
        (b"short\n", {}, ["data.path=", "too small to be divided"]),
        (b"good\n" * 500 + b"\xff\n", {}, ["not UTF-8 text: byte 0xff at offset 2500"]),
        (None, {"data.vocabulary_size": 500}, ["data.vocabulary_size=500", "different characters"]),
        (None, {"data.sequence_length": 10**6}, ["data.sequence_length=1000000", "must be ≤"]),
        (None, {"data.path": "nowhere.txt"}, ["data.path=nowhere.txt", "not a file or folder"]),
        (None, {"model": "birnn"}, ["model=birnn", "cannot predict the next token", "masked_language_model"]),
        (None, {"model": "deep_speech2"}, ["model.embedding=64", "is not a setting of deep_speech2"]),
        (
            None,
            {"data": "digits", "data.path": None, "data.sequence_length": None},
            ["data=digits", "task=language_model needs other data"],
        ),
        (None, {"model.vocabulary_size": 7}, ["model.vocabulary_size=7", "must be data.vocabulary_size"]),
    ],
)
def test_bad_text_is_one_line_and_starts_nothing(lm, content, changes, words):
    if content is not None:
        (lm.folder / "text.txt").write_bytes(content)
    groups = [f"{key}={changes[key]}" for key in ("model", "data") if key in changes]
    settings = [a for a in lm.args(**changes) if a.split("=")[0] not in ("model", "data") or a == "data=text"]
    if changes.get("model") == "deep_speech2":
        settings = [a for a in settings if not a.startswith("model.")]
    done = subprocess.run(
        [sys.executable, "-m", "hpctrain.cli", "train", *settings, *groups],
        cwd=lm.folder, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (lm.folder / "runs").exists()

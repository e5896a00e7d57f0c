"""A run is what it was given, from the command line: other contents are another run, a copy is the same one.

Each kind of what a user brings is trained once, for two steps. Then the same command on a copy, and with contents
that have changed, grown or shrunk under the same path.
"""

import random
import shutil
import struct
import subprocess
import sys
import tempfile
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hpctrain import cli

SHORT = (
    "train.epochs=null", "train.steps=2", "train.batch_size=4", "checkpoint.every_min=null",
    "resources.threads_per_rank=1",
)  # fmt: skip
LSTM = (
    "char_lstm_python",
    "model.hidden=8",
    "model.embedding=8",
    "model.layers=1",
    "data.sequence_length=10",
)
GNMT = (
    "gnmt_gettext", "model.hidden=8", "model.encoder_layers=2", "model.decoder_layers=2", "data.vocabulary_size=50",
    "data.sequence_length=8",
)  # fmt: skip
SPEECH = (
    "deep_speech_digits", "data=librispeech", "data.sequence_length=60", "model.hidden=8",
    "model.conv_channels=[2,2]",
)  # fmt: skip
PICTURES = (
    "model=perceptron",
    "data.shape=[3,8,8]",
    "data.augment=[]",
    "data.workers=0",
    "optimizer.lr=0.01",
)
DIGITS = ("lenet_digits", "data.train_limit=40", "data.validation_limit=20")


def lines(seed: int, count: int = 200) -> str:
    draw = random.Random(seed)
    return "".join(f"{draw.choice('abcd')} {draw.choice('wxyz')} is so\n" for _ in range(count))


def text(folder: Path, seed: int) -> None:
    for number in range(3):
        (folder / f"{number}.txt").write_text(lines(seed + number))


def parallel(folder: Path, seed: int) -> None:
    for stem in ("train", "valid"):
        for language in ("en", "de"):
            (folder / f"{stem}.{language}").write_text(lines(seed, 40))


def catalogue(path: Path, seed: int) -> None:
    """A gettext .mo file: header, two tables of (length, offset), the strings."""
    words = {f"open file {chr(97 + n)}{chr(97 + n // 20)}": f"datei {seed + n}" for n in range(100)}
    entries = sorted({"": "Content-Type: text/plain; charset=UTF-8\n", **words}.items())
    sides = [[entry[side].encode() + b"\0" for entry in entries] for side in (0, 1)]
    offset, tables, body = 28 + 16 * len(entries), b"", b""
    for string in (*sides[0], *sides[1]):
        tables += struct.pack("<II", len(string) - 1, offset + len(body))
        body += string
    header = struct.pack("<7I", 0x950412DE, 0, len(entries), 28, 28 + 8 * len(entries), 0, 0)
    path.write_bytes(header + tables + body)


def gettext(folder: Path, seed: int) -> None:
    (folder / "de/LC_MESSAGES").mkdir(parents=True)
    for name in ("a.mo", "b.mo"):
        catalogue(folder / "de/LC_MESSAGES" / name, seed)


def recording(path: Path, seed: int) -> None:
    samples = np.random.default_rng(seed).integers(-999, 999, 8000, dtype=np.int16)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(samples.tobytes())


def speech(folder: Path, seed: int) -> None:
    for split in ("train", "dev"):
        (folder / split).mkdir()
        for number in range(4):
            recording(folder / split / f"{number}.wav", seed + number)
        (folder / split / "said.trans.txt").write_text("".join(f"{n} ONE TWO\n" for n in range(4)))


def picture(path: Path, seed: int) -> None:
    from PIL import Image

    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)


def pictures(folder: Path, seed: int) -> None:
    for number, place in enumerate(("train/ant", "train/bee", "val/ant", "val/bee")):
        (folder / place).mkdir(parents=True)
        for copy in range(4):
            picture(folder / place / f"{copy}.png", seed + 10 * number + copy)


def packed(folder: Path, seed: int) -> None:
    """The pictures as `hpctrain data pack` packs them."""
    with tempfile.TemporaryDirectory() as loose:
        pictures(Path(loose), seed)
        folder.rmdir()
        assert cli.main(["data", "pack", loose, "--into", str(folder)]) == 0


def rows(path: Path, seed: int) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": lines(seed).splitlines()}), path)


def hub_text(folder: Path, seed: int) -> None:
    for split in ("train", "validation"):
        rows(folder / f"{split}-0.parquet", seed)


def hub_pictures(folder: Path, seed: int) -> None:
    pictures(folder, seed)
    (folder / "val").rename(folder / "validation")


def code(folder: Path, seed: int) -> None:
    (folder / "user_net.py").write_text(
        "import torch\nfrom user_layers import START\n\n\nclass Net(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.linear = torch.nn.Linear(1024, 10)\n"
        "        torch.nn.init.constant_(self.linear.bias, START)\n\n"
        "    def forward(self, x):\n        return self.linear(x.flatten(1))\n"
    )
    (folder / "user_layers.py").write_text(f"START = 0.{seed}\n")


def weights(folder: Path, seed: int) -> None:
    import torch

    torch.manual_seed(seed)
    model = {"linear.weight": torch.randn(10, 1024), "linear.bias": torch.randn(10)}
    torch.save(model, folder / "w.pt")


@dataclass(frozen=True)
class Kind:
    """What makes the files of a seed in a folder, the command that trains on them, and the names of two of the files.

    The first one changes with the seed; the second is one that the set has a copy of under a new name, or "".
    """

    make: Callable[[Path, int], None]
    words: tuple[str, ...]
    changes: str
    added: str = ""


HERE, SOURCE = "data.path={here}", "data.source={here}"
KINDS = {
    "text": Kind(text, (*LSTM, "data=text", HERE), "0.txt", "3.txt"),
    "one text": Kind(text, (*LSTM, "data=text", f"{HERE}/0.txt"), "0.txt"),
    "parallel": Kind(parallel, (*GNMT, "data=parallel", HERE), "train.de"),
    "gettext": Kind(gettext, (*GNMT, HERE), "de/LC_MESSAGES/a.mo", "de/LC_MESSAGES/c.mo"),
    "speech": Kind(speech, (*SPEECH, HERE), "dev/0.wav", "train/9.wav"),
    "pictures": Kind(pictures, (*PICTURES, "data=image_folder", HERE), "train/ant/0.png", "val/bee/9.png"),
    "packed": Kind(packed, (*PICTURES, "data=image_folder", HERE), "pack.json"),
    "hub text": Kind(hub_text, (*LSTM, "data=hugging_face", SOURCE), "train-0.parquet", "train-1.parquet"),
    "hub pictures": Kind(
        hub_pictures, (*PICTURES, "data=hugging_face_images", SOURCE), "train/ant/0.png", "train/ant/9.png"
    ),
    "code": Kind(code, (*DIGITS, "model=custom", "model.target=user_net:Net"), "user_layers.py"),
    "weights": Kind(weights, (*DIGITS, "model=perceptron", "model.weights={here}/w.pt"), "w.pt"),
}  # fmt: skip


QUICK = ("text", "code")


class User:
    """Somebody who keeps all runs in one place, and starts each command beside what it is given."""

    def __init__(self, root: Path, kind: Kind) -> None:
        self.root, self.kind = root, kind

    def make(self, name: str, seed: int) -> Path:
        """Returns a new folder of this name with the files of `seed`."""
        folder = self.root / name
        folder.mkdir()
        self.kind.make(folder, seed)
        return folder

    def train(self, here: Path) -> str:
        """Returns what the command says, which succeeds."""
        words = [word.format(here=here) for word in (*self.kind.words, *SHORT, f"run.root={self.root}/runs")]
        done = subprocess.run(
            [sys.executable, "-m", "hpctrain.cli", "train", *words], cwd=here,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def runs(self) -> set[Path]:
        """Returns the folders of all runs."""
        return {path.parent for path in self.root.glob("runs/default/*/config.yaml")}


@pytest.fixture
def refused(capsys):
    def resume(run: Path) -> str:
        """Returns the one line with which `hpctrain resume` refuses an interrupted run; nothing is started."""
        (run / "state.json").write_text('{"phase": "interrupted", "reason": "INTERRUPTED"}')
        capsys.readouterr()
        assert cli.main(["resume", str(run)]) == 2
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1
        assert [path.name for path in (run / "attempts").iterdir()] == ["1"]
        return said

    return resume


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, id=name, marks=() if name in QUICK else pytest.mark.long)
        for name, kind in KINDS.items()
    ],
)
def test_a_run_is_what_it_was_given(tmp_path, monkeypatch, refused, kind):
    for variable, value in (
        ("OMP_NUM_THREADS", "1"),
        ("HPCTRAIN_CACHE", tmp_path / "cache"),
        ("HF_HOME", tmp_path),
    ):
        monkeypatch.setenv(variable, str(value))
    user = User(tmp_path, kind)
    one, other = user.make("one", 1), user.make("other", 2)
    user.train(one)
    (first,) = user.runs()

    if kind.added:
        shutil.copy(one / kind.changes, one / kind.added)
        assert f"{kind.added} was added since the run began" in refused(first)
        (one / kind.added).unlink()
        (one / kind.changes).rename(one / kind.added)
        assert f"{kind.changes} was removed (and 1 more) since the run began" in refused(first)

    shutil.rmtree(one)
    shutil.copytree(other, one)
    said = refused(first)
    assert kind.changes in said
    assert "has changed" in said

    user.train(one)
    (second,) = user.runs() - {first}
    assert f"{second.name} is done already" in user.train(other)
    assert user.runs() == {first, second}

"""Speech: recordings to spectrograms, characters, the loss and the error rate."""

import shutil
import wave

import numpy as np
import pytest
import torch

from hpctrain import models
from hpctrain.config.settings import TaskConfig
from hpctrain.data.check import count_samples
from hpctrain.data.derive import load
from hpctrain.data.loaders import load as load_data
from hpctrain.data.speech.source import numbers_of
from hpctrain.data.speech.spectrograms import read_audio, spectrogram
from hpctrain.errors import UserError
from hpctrain.models.settings_sequence import DeepSpeech2Settings
from hpctrain.tasks import make_task
from hpctrain.tasks.speech_recognition import collapse, distance


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HPCTRAIN_CACHE", str(tmp_path / "cache"))


def data(*settings):
    return load(["experiment=deep_speech_digits", *settings]).data


def write(path, samples, rate=16_000):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.asarray(samples) * 32767).astype("<i2").tobytes())


def library(folder, texts):
    """LibriSpeech's layout: a train and a dev folder of speakers and chapters."""
    for split, names in (("train-clean-5", texts), ("dev-clean", texts[:1])):
        chapter = folder / split / "84" / "121"
        chapter.mkdir(parents=True)
        lines = []
        for number, text in enumerate(names):
            name = f"84-121-{number:04d}"
            write(chapter / f"{name}.wav", np.sin(np.arange(3200 + 160 * number) / 5))
            lines.append(f"{name} {text}\n")
        (chapter / "84-121.trans.txt").write_text("".join(lines))
    return ["data=librispeech", f"data.path={folder}", "model.frequency_bins=161"]


def test_a_tone_lies_in_its_bin():
    t = np.arange(16_000) / 16_000
    for rate in (16_000, 22_050):
        t = np.arange(rate) / rate
        found = spectrogram(np.sin(2 * np.pi * 1000 * t), rate, 161)
        assert found.shape == (161, 99)
        assert set(found[:, 5:-5].argmax(0)) == {20}  # 50 Hz a bin
        assert abs(found.mean()) < 1e-3
        assert found.std() == pytest.approx(1, abs=1e-2)


def test_recordings_and_texts_come_as_they_are(tmp_path):
    config = data(*library(tmp_path / "set", ["IT'S TWO", "A"]), "data.sequence_length=40")
    splits = load_data(config)
    assert (len(splits.train), len(splits.validation), count_samples(config)) == (2, 1, 2)
    spectra, frames, labels, counts = splits.train.batch(np.array([1, 0]))
    assert spectra.shape == (2, 1, 161, 40)
    assert frames.tolist() == [20, 19]
    assert spectra[1, :, :, 19:].abs().max() == 0
    assert labels[1].tolist() == numbers_of("it's two")
    assert counts.tolist() == [1, 8]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: [p.unlink() for p in f.rglob("*.trans.txt")], ["data.path", "train*"]),
        (lambda f: next(f.rglob("*0001.wav")).unlink(), ["84-121-0001", "is beside it"]),
        (lambda f: next(f.rglob("train*/**/*0001.wav")).write_bytes(b"no sound"), ["is not a WAV file"]),
        (lambda f: None, ["data.sequence_length=10", "≥ 20"]),
    ],
)
def test_bad_recordings_are_named(tmp_path, change, words):
    settings = library(tmp_path / "set", ["ONE", "TWO"])
    change(tmp_path / "set")
    with pytest.raises(UserError) as error:
        load_data(data(*settings, "data.sequence_length=10"))
    assert all(word in str(error.value) for word in words), str(error.value)


def test_transcripts_as_people_write_them(tmp_path):
    settings = library(tmp_path / "set", ["ONE TWO THREE FOUR", "TWO"])
    listing = next((tmp_path / "set").rglob("train*/**/*.trans.txt"))
    name = listing.with_name("84-121-0000.wav")
    name.rename(name.with_suffix(".WAV"))
    listing.write_bytes("\ufeff84-121-0000\tit\u2028s\u0085 caf\u00e9 8\r\n\r\n  \n84-121-0001\n".encode())
    config = data(*settings, "data.sequence_length=40")
    splits = load_data(config)
    _, _, labels, counts = splits.train.batch(np.array([0]))
    assert labels[0, : counts[0]].tolist() == numbers_of("it s caf")
    assert splits.found == (
        "data: 2 recordings for training and 1 for validation; left out: characters that are not in the alphabet "
        "(a to z, apostrophe): 8 1 times, \u00e9 1 times, the transcripts of 1 recordings, which have no letter of it"
    )


def test_another_script_is_refused(tmp_path):
    settings = library(tmp_path / "set", ["\u043e\u0434\u0438\u043d", "TWO"])
    with pytest.raises(UserError, match=r"73% of the characters of its transcripts are not in the alphabet"):
        count_samples(data(*settings))


def test_a_recording_too_short_for_its_words_is_named(tmp_path):
    settings = library(tmp_path / "set", ["A" * 12, "b" * 11 + "a"])
    with pytest.raises(
        UserError, match=r"0000.wav: is too short.*12 characters in 19 frames of 10 ms; so are 1 more"
    ):
        load_data(data(*settings, "data.sequence_length=40"))


def test_steps_too_few_for_the_words_are_an_error():
    task = make_task(TaskConfig("speech_recognition"), None)
    output = torch.zeros(4, 1, 29).log_softmax(-1), torch.tensor([4])
    batch = torch.zeros(1, 1, 161, 8), torch.tensor([8]), torch.tensor([[5, 5, 6, 0]]), torch.tensor([3])
    task.loss(lambda *_: output, batch, None)
    batch[2][0, 3], batch[3][0] = 6, 4
    with pytest.raises(UserError, match="a transcript of 4 characters: does not fit into the 4 steps"):
        task.loss(lambda *_: output, batch, None)


def test_cut_and_stereo_recordings_are_named(tmp_path):
    write(tmp_path / "a.wav", np.zeros(100))
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:-50])
    with pytest.raises(UserError, match=r"a.wav: is cut short: it has 150 of the 200 bytes"):
        read_audio(tmp_path / "a.wav")


def test_espeak_speaks_once_and_always_the_same(tmp_path, monkeypatch):
    few = ("data.train_samples=3", "data.validation_samples=2")
    first = load_data(data(*few)).train.batch(np.arange(3))
    assert first[3].min() >= 3  # "one" at least
    monkeypatch.setattr(shutil, "which", lambda name: None)
    again = load_data(data(*few)).train.batch(np.arange(3))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    with pytest.raises(UserError, match="needs espeak-ng"):
        load_data(data("data.train_samples=4"))


def test_flac_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(UserError, match=r"hpctrain\[speech\]"):
        read_audio(tmp_path / "a.flac")


@pytest.mark.parametrize(
    ("a", "b", "expected"), [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("same", "same", 0)]
)
def test_distance(a, b, expected):
    assert distance([ord(c) for c in a], [ord(c) for c in b]) == expected


def test_a_path_collapses():
    assert collapse([0, 3, 3, 0, 3, 4, 4, 0]) == [3, 3, 4]


def test_padding_changes_no_samples_loss():
    torch.manual_seed(0)
    settings = DeepSpeech2Settings(
        frequency_bins=16, conv_channels=(2,), conv_kernels=((5, 5),), conv_strides=((2, 2),), hidden=8, layers=1,
        batch_norm=False,
    )  # fmt: skip
    model = models.build("deep_speech2", settings)
    task = make_task(TaskConfig("speech_recognition"), None)
    x = torch.randn(2, 1, 16, 30)
    x[1, :, :, 20:] = 0
    frames, labels, counts = (
        torch.tensor([30, 20]),
        torch.tensor([[1, 2, 3], [4, 5, 0]]),
        torch.tensor([3, 2]),
    )
    total, sums, _ = task.loss(model, (x, frames, labels, counts), None)
    parts = [
        task.loss(
            model, (x[i : i + 1, :, :, :n], frames[i : i + 1], labels[i : i + 1, :c], counts[i : i + 1]), None
        )
        for i, (n, c) in enumerate(((30, 3), (20, 2)))
    ]
    torch.testing.assert_close(total, parts[0][0] + parts[1][0])
    torch.testing.assert_close(sums, parts[0][1] + parts[1][1])
    assert task.summarise(sums.tolist())["character_error_rate"] <= 20

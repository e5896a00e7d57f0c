"""Translation: batches of sentence pairs, the loss, what fits together."""

import numpy as np
import pytest
import torch

from hpctrain import models
from hpctrain.config.settings import TaskConfig
from hpctrain.data.check import count_samples
from hpctrain.data.derive import load
from hpctrain.data.loaders import load as load_data
from hpctrain.data.translation.source import END, PADDING, START, UNKNOWN, pairs
from hpctrain.errors import UserError
from hpctrain.models.outputs import WithAuxiliary
from hpctrain.models.settings_sequence import GNMTSettings
from hpctrain.tasks import make_task


def data(*settings):
    return load(["experiment=gnmt_gettext", *settings]).data


def aligned(folder, train, valid=(("a b", "x y"),)):
    folder.mkdir()
    for stem, lines in (("train", train), ("valid", valid)):
        for side, language in enumerate(("en", "de")):
            (folder / f"{stem}.{language}").write_text("".join(f"{pair[side]}\n" for pair in lines))
    return ["data=parallel", f"data.path={folder}", "data.sequence_length=4", "data.vocabulary_size=50"]


def test_lines_become_numbers(tmp_path):
    config = data(*aligned(tmp_path / "set", [("A cat.", "Eine Katze."), ("a", "eine"), ("a b c d e", "x")]))
    splits = load_data(config)
    assert len(splits.train) == count_samples(config) == 2  # the third is too long
    source, lengths, so_far, following = splits.train.batch(np.array([0, 1]))
    assert lengths.tolist() == [3, 1]
    assert so_far[:, 0].tolist() == [START, START]
    assert torch.equal(so_far[0, 1:], following[0, :-1])
    assert following[1].tolist()[1:] == [END, PADDING, PADDING]
    assert source[1].tolist()[1:] == [PADDING] * 3
    assert UNKNOWN in splits.validation.batch(np.array([0]))[0]  # "b" is in no training sentence that fits


def test_this_systems_catalogues_are_parallel_text():
    found = pairs(data())
    assert len(found.train) > 1000
    assert 30 * len(found.validation) > len(found.train) > 10 * len(found.validation)


def test_padding_weighs_nothing():
    torch.manual_seed(0)
    model = models.build("gnmt", GNMTSettings(20, 8, encoder_layers=2, decoder_layers=2, dropout=0.0))
    task = make_task(TaskConfig("translation"), None)
    source = torch.tensor([[4, 5, 6], [7, PADDING, PADDING]])
    so_far, following = (
        torch.tensor([[START, 8, 9], [START, 9, PADDING]]),
        torch.tensor([[8, 9, END], [9, END, 0]]),
    )
    total, sums, _ = task.loss(model, (source, torch.tensor([3, 1]), so_far, following), None)
    one, of_one, _ = task.loss(model, (source[:1], torch.tensor([3]), so_far[:1], following[:1]), None)
    two, of_two, _ = task.loss(
        model, (source[1:, :1], torch.tensor([1]), so_far[1:, :2], following[1:, :2]), None
    )
    torch.testing.assert_close(total, one + two)
    torch.testing.assert_close(sums, of_one + of_two)
    figures = task.summarise(sums.tolist())
    assert figures["perplexity"] == pytest.approx(np.exp(figures["loss"]))


def test_balancing_losses_weigh_as_much_as_samples():
    task = make_task(TaskConfig("translation"), None)
    logits = torch.zeros(3, 1, 5)
    batch = (torch.zeros(3, 1), None, None, torch.tensor([[4], [4], [4]]))
    plain, _, _ = task.loss(_Gives(logits), batch, None)
    more, _, _ = task.loss(_Gives(WithAuxiliary(logits, (torch.tensor(0.5),))), batch, None)
    assert more - plain == pytest.approx(1.5)


class _Gives(torch.nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, *_):
        return self.output


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["data=gettext", "task=translation", "model=lstm"], ["model=lstm", "gnmt, gnmt_moe"]),
        (["data=python_stdlib", "task=translation", "model=gnmt"], ["data=python_stdlib", "data=gettext"]),
        (["data=gettext", "task=speech_recognition", "model=deep_speech2"], ["data=gettext", "data=espeak"]),
        (["data=espeak", "task=speech_recognition", "model=gnmt"], ["model=gnmt", "deep_speech2"]),
        (
            ["data=gettext", "task=translation", "model=gnmt", "model.vocabulary_size=7"],
            ["data.vocabulary_size"],
        ),
    ],
)
def test_task_network_and_data_must_fit(settings, words):
    with pytest.raises(UserError) as error:
        load(settings)
    assert all(word in str(error.value) for word in words), str(error.value)

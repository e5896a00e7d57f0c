"""What a newcomer adds, added through the public tables alone: no file of the package is touched.

The other additions of docs/architecture.md: a data kind in config/test_data_kinds.py, a reason in
storage/test_run_state.py, a logger in training/test_reporter.py, a setting in config/test_identity.py, a score
that does not add up in tests/integration/test_evaluator_ranks.py.
"""

import shutil
import sys
import types
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from hpctrain import models
from hpctrain.config import compose
from hpctrain.config.load import from_dict, to_dict
from hpctrain.config.settings import TaskConfig
from hpctrain.config.tasks import TASK_KINDS, Score, TaskKind, networks_of
from hpctrain.errors import UserError
from hpctrain.flops.answer import answer, networks
from hpctrain.models.network import Network, Unit
from hpctrain.models.settings import NETWORKS
from hpctrain.sweep.settings import SweepConfig, objective
from hpctrain.tasks import Task, make_task


@dataclass(frozen=True)
class LineSettings:
    inputs: int = 3


class Line(nn.Linear):
    def __init__(self, settings):
        super().__init__(settings.inputs, 1)


@dataclass(frozen=True)
class BagSettings:
    vocabulary_size: int = 20
    width: int = 4
    example_length: int = 6


class Bag(nn.Module):
    """A language model that remembers nothing: it returns scores (B, T, N) of tokens (B, T), and no state."""

    def __init__(self, settings):
        super().__init__()
        self.words = nn.Embedding(settings.vocabulary_size, settings.width)
        self.gate = nn.Linear(settings.width, settings.width)
        self.output = nn.Linear(settings.width, settings.vocabulary_size)

    def forward(self, tokens, carry=None):
        words = self.words(tokens)
        return self.output(words * self.gate(words)), carry


class Regression(Task):
    """A batch is (inputs (B, N), values (B, 1)); sums are (squared error, samples)."""

    width, targets = 2, 1

    def __init__(self, config, dataset):
        del config, dataset

    def loss(self, model, batch, carry):
        inputs, values = batch
        total = (model(inputs) - values).square().sum()
        return total, torch.stack([total.detach(), total.new_tensor(len(values))]), carry


@pytest.fixture
def line(monkeypatch):
    toys = types.ModuleType("toys_of_networks")
    toys.Line = Line
    monkeypatch.setitem(sys.modules, "toys_of_networks", toys)
    monkeypatch.setitem(NETWORKS, "line", Network(LineSettings, "toys_of_networks:Line"))


@pytest.fixture
def bag(monkeypatch, tmp_path):
    """A language model with figures per word that leave out its gate: its class, its row, conf/model/bag.yaml."""
    toys = types.ModuleType("toys_of_language_models")
    toys.Bag = Bag
    monkeypatch.setitem(sys.modules, "toys_of_language_models", toys)
    unit = Unit("word", lambda settings: settings.example_length, "^gate", "^gate", "the gate", batch=2)
    monkeypatch.setitem(
        NETWORKS, "bag", Network(BagSettings, "toys_of_language_models:Bag", "tokens", unit=unit)
    )
    conf = tmp_path / "conf"
    shutil.copytree(compose.conf_dir(), conf)
    (conf / "model" / "bag.yaml").write_text("name: bag\nvocabulary_size: 20\nwidth: 4\nexample_length: 6\n")
    monkeypatch.setattr(compose, "conf_dir", lambda: conf)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def regression(monkeypatch):
    toys = types.ModuleType("toys_of_tasks")
    toys.Regression = Regression
    monkeypatch.setitem(sys.modules, "toys_of_tasks", toys)
    closeness = Score("closeness", lambda error, samples: -error / samples, higher_is_better=True)
    loss = Score("loss", lambda error, samples: error / samples)
    kind = TaskKind("toys_of_tasks:Regression", (closeness, loss))
    monkeypatch.setitem(TASK_KINDS, "regression", kind)


def values(**changes):
    return compose.compose(["lenet_digits"]) | changes


def test_a_network(line):
    config = from_dict(values(model={"name": "line", "inputs": 5}))
    assert from_dict(to_dict(config)) == config
    assert models.build("line", config.model.settings).weight.shape == (1, 5)
    with pytest.raises(UserError, match=r"model\.input"):
        from_dict(values(model={"name": "line", "input": 5}))


def test_a_network_with_a_published_unit(bag):
    """Figures per word, by hand: 4 x 20 MACs of the output layer; the gate's 4 x 4 count in the whole only."""
    found = answer(["model=bag"])
    assert (found["unit"], found["units"], found["batch"]) == ("word", 2 * 6, 2)
    assert (found["forward_macs"], found["whole"]["forward_macs"]) == (80, 96)
    assert (found["params"], found["whole"]["params"]) == (20 * 4 + 4 * 20 + 20, 200)
    assert found["convention"].endswith("; the gate")
    assert found["layers"][-1]["type"] == "loss"
    assert answer(["model=bag", "input=3", "batch=5"])["units"] == 15
    assert networks()[-1] == {"model": "bag", "params": 180, "forward_macs": 80, "unit": "word"}


def test_a_language_model_fits_the_tasks_of_text(bag):
    assert networks_of("language_model")[-1] == networks_of("masked_language_model")[-1] == "bag"
    text = ["data=text", "data.path=.", "data.vocabulary_size=20", "task=language_model"]
    config = from_dict(compose.compose(["lenet_digits", *text, "model=bag"]))
    assert config.model.settings == BagSettings()
    with pytest.raises(UserError, match="task=translation needs gnmt, gnmt_moe"):
        from_dict(compose.compose(["lenet_digits", "data=gettext", "task=translation", "model=bag"]))


def test_a_task_with_a_score_of_its_own(line, regression):
    config = from_dict(values(model={"name": "line"}, task={"name": "regression"}))
    torch.manual_seed(0)
    model = models.build("line", config.model.settings)
    task = make_task(config.task, None)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    batch = torch.randn(16, 3), torch.ones(16, 1)
    losses = []
    for _ in range(20):
        total, sums, _ = task.loss(model, batch, None)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(task.summarise(sums.tolist())["loss"])
    assert losses[-1] < losses[0]
    evaluator = task.evaluator(None)
    evaluator.add(None, batch, sums, range(16))
    assert evaluator.scores([evaluator.part()]) == {"loss": losses[-1], "closeness": -losses[-1]}
    assert objective(SweepConfig(), "regression") == ("closeness", True)


def test_an_unknown_task_lists_the_known_ones():
    with pytest.raises(UserError, match=r"task\.name=regression: must be one of classification"):
        from_dict(values(task={"name": "regression"}))
    assert TaskConfig().name == "classification"

"""What a newcomer adds, added through the public tables alone: no file of the package is touched.

The other additions of docs/architecture.md: a data kind in config/test_data_kinds.py, a reason in
storage/test_run_state.py, a logger in training/test_reporter.py, a setting in config/test_identity.py.
"""

import sys
import types
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from hpctrain import models
from hpctrain.config.load import from_dict, to_dict
from hpctrain.config.settings import TaskConfig
from hpctrain.config.tasks import TASK_KINDS, Score, TaskKind
from hpctrain.errors import UserError
from hpctrain.models.network import Network
from hpctrain.models.settings import NETWORKS
from hpctrain.sweep.settings import SweepConfig, objective
from hpctrain.tasks import make_task


@dataclass(frozen=True)
class LineSettings:
    inputs: int = 3


class Line(nn.Linear):
    def __init__(self, settings):
        super().__init__(settings.inputs, 1)


class Regression:
    """A batch is (inputs (B, N), values (B, 1)); sums are (squared error, samples)."""

    width, targets = 2, 1

    def __init__(self, config, dataset):
        del config, dataset

    def loss(self, model, batch, carry):
        inputs, values = batch
        total = (model(inputs) - values).square().sum()
        return total, torch.stack([total.detach(), total.new_tensor(len(values))]), carry

    def summarise(self, sums):
        return {"loss": sums[0] / sums[1], "closeness": -sums[0] / sums[1]}


@pytest.fixture
def line(monkeypatch):
    toys = types.ModuleType("toys_of_networks")
    toys.Line = Line
    monkeypatch.setitem(sys.modules, "toys_of_networks", toys)
    monkeypatch.setitem(NETWORKS, "line", Network(LineSettings, "toys_of_networks:Line"))


@pytest.fixture
def regression(monkeypatch):
    toys = types.ModuleType("toys_of_tasks")
    toys.Regression = Regression
    monkeypatch.setitem(sys.modules, "toys_of_tasks", toys)
    kind = TaskKind("toys_of_tasks:Regression", (Score("closeness", higher_is_better=True), Score("loss")))
    monkeypatch.setitem(TASK_KINDS, "regression", kind)


def values(**changes):
    from hpctrain.config.compose import compose

    return compose(["lenet_digits"]) | changes


def test_a_network(line):
    config = from_dict(values(model={"name": "line", "inputs": 5}))
    assert from_dict(to_dict(config)) == config
    assert models.build("line", config.model.settings).weight.shape == (1, 5)
    with pytest.raises(UserError, match=r"model\.input"):
        from_dict(values(model={"name": "line", "input": 5}))


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
    assert objective(SweepConfig(), "regression") == ("closeness", True)


def test_an_unknown_task_lists_the_known_ones():
    with pytest.raises(UserError, match=r"task\.name=regression: must be one of classification"):
        from_dict(values(task={"name": "regression"}))
    assert TaskConfig().name == "classification"

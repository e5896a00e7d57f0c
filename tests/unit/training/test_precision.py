"""What `auto` takes, which blocks are compiled, and what is said of a batch that does not fit."""

import contextlib
import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from hpctrain import models
from hpctrain.config.settings import PrecisionConfig
from hpctrain.data.derive import load
from hpctrain.errors import RunFailed, UserError
from hpctrain.launch import local, prepare
from hpctrain.models.settings import SETTINGS
from hpctrain.training import precision
from hpctrain.training.comm import Comm
from hpctrain.training.exchange import GradientExchange
from hpctrain.training.group_batch_norm import share_norms
from hpctrain.training.step import Trainer

CPU = torch.device("cpu")


@pytest.mark.parametrize(("able", "name"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_only_where_the_device_computes_with_it(monkeypatch, able, name):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: able)
    auto = PrecisionConfig("auto", channels_last=True)
    assert precision.settle(auto, CPU) == PrecisionConfig(name, channels_last=True)
    assert precision.settle(PrecisionConfig("fp32"), CPU).name == "fp32"


def test_bf16_on_a_device_without_it_is_refused(monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)
    monkeypatch.setattr(local, "cpu_has_bf16", lambda: False)
    with pytest.raises(RunFailed, match=r"no bfloat16; allowed: fp32, auto"):
        precision.settle(PrecisionConfig("bf16"), CPU)
    with pytest.raises(UserError, match=r"precision.name=bf16: .*allowed here: fp32, auto"):
        local.check(load(["lenet_digits", "precision=bf16", "resources.device=cpu"]))


def test_bf16_on_a_cluster_whose_gpus_lack_it_is_refused_before_anything_is_submitted():
    known = "cluster.account=a", "cluster.device=V100"
    with pytest.raises(UserError, match=r"precision.name=bf16: .*V100.* no bfloat16; allowed: fp32, auto"):
        prepare.check(load(["lenet_digits", "cluster=barbora", *known, "precision=bf16"]))
    prepare.check(load(["lenet_digits", "cluster=barbora", *known, "precision=auto"]))


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"precision.compile=true: .*no-such-compiler is not on the PATH"):
        local.check(load(["lenet_digits", "precision.compile=true", "resources.device=cpu"]))


def small_resnet():
    torch.manual_seed(0)
    return models.build(
        "resnet18", SETTINGS["resnet18"](input_shape=(3, 16, 16), num_classes=4, stem="cifar", width=8)
    )


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # of torch's own tracing
def test_compiled_blocks_give_the_gradients_of_plain_ones_one_block_after_another():
    """The last block's gradients come before the first block's forward graph is differentiated at all."""
    plain, compiled = small_resnet().double(), small_resnet().double()
    names = precision.compile_blocks(compiled, backend="aot_eager")
    assert names == [f"layer{stage}.{number}" for stage in (1, 2, 3, 4) for number in (0, 1)]
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    ready = []
    for name, parameter in compiled.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: ready.append(name))
    for model in (plain, compiled):
        model(images).square().sum().backward()
    for (name, one), (_, two) in zip(plain.named_parameters(), compiled.named_parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad, msg=name)
    stages = [name.split(".")[0] for name in ready if name.startswith("layer")]
    assert stages == sorted(stages, reverse=True)


def test_recurrent_layers_stay_with_their_library():
    model = models.build("lstm", SETTINGS["lstm"](vocabulary_size=10, embedding=8, hidden=8))
    assert precision.compile_blocks(model, backend="aot_eager") == []


LIMITED = """
import contextlib, json, resource, sys
from pathlib import Path
import torch
from torch import nn
from hpctrain.training import precision
from hpctrain.training.comm import Comm
from hpctrain.training.exchange import GradientExchange
from hpctrain.training.step import Trainer
torch.set_num_threads(1)
torch.manual_seed(0)
class Task:
    width = 1
    def loss(self, model, batch, carry):
        total = model(*batch).square().sum()
        return total, total.detach().view(1), carry
class Rows:
    def __len__(self): return 4096
    def batch(self, indices, generator=None): return (torch.ones(len(indices), 128),)
model = nn.Sequential(*[layer for _ in range(8) for layer in (nn.Linear(128, 128), nn.Tanh())])
exchange = GradientExchange(list(model.parameters()), Comm())
trainer = Trainer(model, Task(), Rows(), None, exchange, contextlib.nullcontext, 524288, None, None)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
try:
    trainer.task.loss(model, trainer.dataset.batch(range(524288)), None)
except RuntimeError as error:
    found = [precision.out_of_memory(error)]
print(json.dumps([*found, precision.advice(trainer, torch.device("cpu"))]))
"""


def test_out_of_memory_names_a_batch_that_fits():
    """16 activations of 512 B a sample: 524,288 of them take 4 GiB, and there is one left."""
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True)
    is_memory, said = json.loads(done.stdout)
    assert is_memory
    assert said.startswith("train.batch_size=524288 does not fit in memory; train.batch_size=")
    size = int(said.split("train.batch_size=")[2].split()[0])
    assert 524288 // 16 <= size <= 524288 // 4
    assert f"train.accumulate {524288 // size} times" in said


def test_advice_on_batch_norm_over_ranks_asks_no_other_rank():
    class Absent(Comm):
        def sum_in_group(self, tensor, name):
            raise AssertionError("the other ranks do not try")

    class Pictures:
        def __len__(self):
            return 8

        def batch(self, indices, generator=None):
            return (torch.randn(len(indices), 3),)

    class Squares:
        width = 1

        def loss(self, model, batch, carry):
            if len(batch[0]) > 1:
                raise MemoryError
            return model(*batch).square().sum(), torch.zeros(1), carry

    model = nn.Sequential(nn.BatchNorm1d(3))
    group, _ = share_norms(model, Absent())
    group.together = True
    exchange = GradientExchange(list(model.parameters()), Comm())
    trainer = Trainer(
        model, Squares(), Pictures(), None, exchange, contextlib.nullcontext, 4, None, None, group
    )
    assert "train.batch_size=4 does not fit in memory; train.batch_size=1 does" in precision.advice(
        trainer, torch.device("cpu")
    )


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    assert not precision.out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not precision.out_of_memory(ValueError("out of memory"))
    assert precision.out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))

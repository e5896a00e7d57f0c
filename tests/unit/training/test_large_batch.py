"""What large batches need, each against its formula: LARS, undecayed norms, averages, sizes by epoch, recipes."""

import dataclasses

import pytest
import torch
from torch import nn

from hpctrain import models
from hpctrain.config.identity import science
from hpctrain.config.image_sizes import image_size, sized
from hpctrain.config.settings import LarsConfig, SgdConfig
from hpctrain.data.derive import load
from hpctrain.data.identify import run_id
from hpctrain.launch import estimate, follow
from hpctrain.training.optimizers import make_optimizer
from hpctrain.training.read_ahead import kept_up
from hpctrain.training.schedule import Schedule
from hpctrain.training.state import Live

RESNET = ["data=cifar10", "model=resnet18", "model.stem=cifar", "train.epochs=3", "train.batch_size=100"]


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False)).double()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay_all", [False, True])
def test_lars_is_its_algorithm(nesterov, decay_all):
    """You, Gitman, Ginsburg 2017, Algorithm 1, written out for each tensor; vectors take the plain step."""
    config = LarsConfig(lr=0.3, weight_decay=0.01, nesterov=nesterov, decay_norm_and_bias=decay_all)
    model = network()
    optimizer = make_optimizer(config, model.named_parameters())
    expected = [p.detach().clone() for p in model.parameters()]
    speeds = [torch.zeros_like(w) for w in expected]
    for _ in range(3):
        for w, v, p in zip(expected, speeds, model.parameters(), strict=True):
            g, matrix = torch.randn_like(w), w.ndim > 1
            p.grad = g.clone()
            decay = 0.01 if matrix or decay_all else 0.0
            trust = 0.001 * w.norm() / (g.norm() + decay * w.norm()) if matrix else 1.0
            update = 0.3 * trust * (g + decay * w)
            v.mul_(0.9).add_(update)
            w.sub_(0.9 * v + update if nesterov else v)
        optimizer.step()
    for w, p in zip(expected, model.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), w)


def test_a_layer_of_zeros_takes_the_plain_step_and_what_is_not_finite_moves_nothing():
    model = network()
    nn.init.zeros_(model[2].weight)
    optimizer = make_optimizer(LarsConfig(lr=0.5, weight_decay=0.0), model.named_parameters())
    optimizer.found_inf = torch.ones(())
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    optimizer.found_inf = torch.zeros(())
    gradient = model[2].weight.grad = torch.randn_like(model[2].weight)
    expected = -0.5 * gradient
    optimizer.step()
    torch.testing.assert_close(model[2].weight.detach(), expected)


def test_norms_and_biases_do_not_decay_where_asked():
    torch.manual_seed(0)
    model = models.build("resnet18", load([*RESNET, "model.width=2"]).model.settings)
    config = SgdConfig(lr=0.1, weight_decay=0.5, decay_norm_and_bias=False)
    optimizer = make_optimizer(config, model.named_parameters())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        kept = "bn" in name or "downsample.1" in name or name.endswith("bias")
        torch.testing.assert_close(parameter.detach(), before[name] * (1.0 if kept else 0.95), msg=name)


def test_averaged_weights_follow_their_formula_and_are_lent_to_validation():
    model = nn.Linear(2, 1, bias=False)
    live = Live(model, make_optimizer(SgdConfig(lr=0.1), model.named_parameters()), ema_decay=0.75)
    expected = model.weight.detach().clone()
    for value in (1.0, 5.0, -2.0):
        nn.init.constant_(model.weight, value)
        live.average()
        expected = 0.75 * expected + 0.25 * value
    with live.averaged():
        torch.testing.assert_close(model.weight.detach(), expected)
    assert (model.weight == -2.0).all()


def test_sizes_by_epoch_cost_what_they_are():
    config = load([*RESNET, "train.image_sizes=[[0,16],[2,32]]"])
    assert [image_size(config, epoch) for epoch in range(4)] == [16, 16, 32, 32]
    assert image_size(load(RESNET), 7) is None
    small, whole = (estimate.step_work(config, pixels) for pixels in (16, 32))
    # Convolutions see a quarter of the pixels; the last layer sees what it always does.
    assert 3.99 < whole.forward_flops / small.forward_flops < 4
    per_sample = [work.forward_flops + work.backward_flops for work in (small, whole)]
    updates = 3 * 500 * whole.optimizer_flops
    assert estimate.estimate(config)["flops_total"] == 50_000 * (2 * per_sample[0] + per_sample[1]) + updates
    # Half of the second epoch, then no more: of the small size only.
    short = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=None, steps=750))
    assert estimate.estimate(short)["flops_total"] == 75_000 * per_sample[0] + 750 * whole.optimizer_flops
    assert sized(config, 16).input_shape == (3, 16, 16)


def test_image_sizes_count_and_feeding_does_not():
    plain = science(load(RESNET))
    assert not {"workers", "prefetch", "resident_gb", "crop_scale", "resize"} & plain["data"].keys()
    assert "image_sizes" not in plain["train"]
    changed = load([*RESNET, "train.image_sizes=[[0,32]]"])
    assert science(changed)["train"]["image_sizes"] == [[0, 32]]
    assert run_id(changed) != run_id(load(RESNET))


def test_the_imagenet_recipe_is_the_paper_s():
    """Goyal et al. 2017: rate 0.1 for 256 and in proportion, five epochs of warm-up, a tenth at 30, 60 and 80 of 90."""
    config = load(["resnet50_imagenet", "train.batch_size=32", "resources.ranks=8"])
    assert config.effective_batch == 256
    large = load(["resnet50_imagenet", "train.batch_size=1024", "resources.ranks=8"])
    rates = {}
    for c in (config, large):
        per_epoch = -(-1281167 // c.effective_batch)
        schedule = Schedule(c.schedule, c.optimizer.lr, c.effective_batch, per_epoch, 90 * per_epoch)
        rates[c.effective_batch] = [schedule.lr(round(e * per_epoch)) for e in (5, 29, 30, 60, 80, 89)]
    assert rates[256] == pytest.approx([0.1, 0.1, 0.01, 0.001, 0.0001, 0.0001])
    assert rates[8192] == pytest.approx([32 * rate for rate in rates[256]])
    assert (config.model.settings.zero_init_residual, config.model.settings.version) == (True, "v1.5")
    assert config.data.augment == ("random_resized_crop", "flip")


def test_the_cifar_recipe_is_the_paper_s():
    config = load(["resnet18_cifar10"])
    schedule = Schedule(config.schedule, config.optimizer.lr, 128, 391, 200 * 391)
    rates = [schedule.lr(epoch * 391) for epoch in (0, 59, 60, 120, 160, 199)]
    assert rates == pytest.approx([0.1, 0.1, 0.02, 0.004, 0.0008, 0.0008])
    assert (config.optimizer.weight_decay, config.optimizer.nesterov, config.effective_batch) == (
        5e-4,
        True,
        128,
    )


def test_a_loader_that_cannot_keep_up_is_named():
    found = kept_up([(1.0, 3), (4.0, 3), None], 10.0)
    assert found == {"waited_share": 0.4, "rank": 1, "workers": 3}
    assert "rank 1 waited 40% of the training time for pictures, which 3 processes" in follow.slow_input(
        found
    )
    assert follow.slow_input(kept_up([(0.1, 3)], 10.0)) is None
    assert follow.slow_input(kept_up([None], 10.0)) is None

"""The CTC loss on the meta device has the shapes that torch computes on the CPU; other operators run as they are."""

import pytest
import torch
from torch.nn import functional as F

from hpctrain.flops.ctc import CtcOnMeta, aten, result

FRAMES, BATCH, CLASSES = 7, 3, 5
PADDED = torch.tensor([[1, 2, 0], [3, 0, 0], [1, 2, 3]])
JOINED = torch.tensor([1, 2, 3, 1, 2, 3])
LENGTHS = (2, 1, 3)


def arguments(targets, device):
    log_probs = torch.zeros(FRAMES, BATCH, CLASSES, device=device).log_softmax(-1)
    return log_probs, targets.to(device), (FRAMES,) * BATCH, LENGTHS


@pytest.mark.parametrize("targets", [PADDED, JOINED], ids=["padded", "joined"])
def test_results_have_the_shapes_of_the_cpu(targets):
    real = aten._ctc_loss(*arguments(targets, "cpu"))
    with CtcOnMeta():
        found = aten._ctc_loss(*arguments(targets, "meta"))
    assert [t.shape for t in found] == [t.shape for t in real]
    assert [t.dtype for t in found] == [t.dtype for t in real]
    assert {t.device.type for t in found} == {"meta"}


def test_the_gradient_has_the_shape_of_the_chances():
    log_probs, *rest = arguments(PADDED, "meta")
    log_probs.requires_grad_()
    with CtcOnMeta():
        F.ctc_loss(log_probs, *rest).backward()
    assert log_probs.grad.shape == (FRAMES, BATCH, CLASSES)
    assert log_probs.grad.device.type == "meta"


def test_other_operators_run_as_they_are():
    assert result(aten.relu, (torch.ones(2),)) is None
    with CtcOnMeta():
        found = torch.full((2,), 3.0, dtype=torch.float64).clamp(max=2.5)
    assert (found.tolist(), found.dtype) == ([2.5, 2.5], torch.float64)

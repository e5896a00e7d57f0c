"""hpctrain.models.losses: torch's own values, the terms beside the main loss, and that no loss is written elsewhere."""

import re
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from hpctrain.models.losses import (
    AUXILIARY_WEIGHT,
    cross_entropy,
    ctc,
    example_cross_entropy,
    example_ctc,
    with_auxiliary,
)
from hpctrain.models.outputs import WithAuxiliary, parts

PACKAGE = Path(__file__).parents[3] / "hpctrain"


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs(smoothing):
    logits, targets = torch.randn(4, 3, 5), torch.randint(5, (4, 3))
    rows = F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="none", label_smoothing=smoothing
    )
    assert torch.equal(cross_entropy(logits, targets, smoothing=smoothing, reduction="none"), rows.view(4, 3))
    assert torch.equal(cross_entropy(logits[:, 0], targets[:, 0], smoothing=smoothing), F.cross_entropy(
        logits[:, 0], targets[:, 0], reduction="sum", label_smoothing=smoothing
    ))  # fmt: skip
    counted = targets != 2
    ignored = cross_entropy(logits, targets, smoothing=smoothing, ignore_index=2, reduction="none")
    assert torch.equal(ignored, torch.where(counted, rows.view(4, 3), 0.0))


def test_low_precision_is_summed_in_float32():
    assert (
        cross_entropy(torch.randn(4, 5).bfloat16(), torch.zeros(4, dtype=torch.int64)).dtype == torch.float32
    )


def test_a_text_that_does_not_fit_counts_nothing():
    scores, texts = torch.randn(6, 2, 4).log_softmax(-1), torch.tensor([[1, 2, 3], [1, 1, 1]])
    steps, counts = torch.tensor([6, 4]), torch.tensor([3, 3])  # 1 1 1 needs 5 steps: blanks between
    losses = ctc(scores, texts, steps, counts)
    assert losses[1] == 0
    assert losses[0] == F.ctc_loss(scores, texts, steps, counts, reduction="none")[0] > 0
    assert torch.isinf(ctc(scores, texts, steps, counts, zero_infinity=False)[1])


def test_terms_beside_the_main_loss():
    """Heads weigh 0.3 (Szegedy et al. 2014); a balance loss is added once per sample, or once to a mean."""
    total, head, balance = torch.tensor(2.0), torch.tensor([[4.0]]), torch.tensor(0.5)
    assert with_auxiliary(total, (), torch.sum) == 2
    assert with_auxiliary(total, (head, head), torch.sum) == 2 + 2 * AUXILIARY_WEIGHT * 4
    assert with_auxiliary(total, (balance,), torch.sum) == 2.5
    assert with_auxiliary(total, (balance, head), torch.sum, samples=8) == 2 + 8 * 0.5 + AUXILIARY_WEIGHT * 4
    assert parts(WithAuxiliary(head, (balance,))) == (head, (balance,))
    assert parts(head) == (head, ())


def test_losses_of_a_count():
    logits = torch.randn(2, 3, 5)
    mean = F.cross_entropy(logits.flatten(0, 1), torch.zeros(6, dtype=torch.int64))
    assert torch.equal(example_cross_entropy(logits), mean)
    assert torch.equal(example_cross_entropy((logits, None)), mean)  # a recurrent network's state is beside
    balance = torch.tensor(0.5)
    assert torch.equal(example_cross_entropy(WithAuxiliary(logits, (balance,))), mean + balance)
    scores = torch.randn(9, 2, 4).log_softmax(-1)
    whole = F.ctc_loss(scores, torch.zeros(2, 2, dtype=torch.int64), (9, 9), (2, 2))
    assert torch.equal(example_ctc((scores, torch.tensor([9, 9]))), whole)


def test_each_loss_is_written_once():
    call = re.compile(r"\b(F|functional)\.(cross_entropy|ctc_loss|nll_loss)\(|\bAUXILIARY_WEIGHT = ")
    users = {str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py") if call.search(p.read_text())}
    assert users == {"models/losses.py"}

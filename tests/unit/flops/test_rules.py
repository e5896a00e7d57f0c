"""The counting rules against counting: every term one by one for sums, and worked examples for the rest."""

import itertools
import math

import pytest

from hpctrain.flops import rules
from hpctrain.flops.rules import Cost, Grads, Work


def test_costs_add_field_by_field():
    total = Cost(1, 2, 3, 4, 5, 6) + Cost(10, 20, 30, 40, 50, 60)
    assert total == Cost(11, 22, 33, 44, 55, 66)
    assert total.arithmetic == 22 + 33
    assert Work("layer", Cost(1), Cost(2), Cost(4)).backward == Cost(6)


@pytest.mark.parametrize("size", [1, 4, 7])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (2, 3), (5, 2)])
@pytest.mark.parametrize(("padding", "dilation"), [(0, 1), (1, 1), (2, 2), (3, 1)])
def test_taps_are_the_pairs_that_meet_an_input(size, kernel, stride, padding, dilation):
    outputs = max(0, (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1)
    pairs = itertools.product(range(outputs), range(kernel))
    expected = sum(0 <= i * stride - padding + t * dilation < size for i, t in pairs)
    assert rules.taps(size, outputs, kernel, stride, padding, dilation) == expected


BATCH, INPUTS, OUTPUTS, GROUPS = 2, 4, 6, 2
KERNEL, STRIDE, PADDING, DILATION = (3, 2), (2, 1), (1, 0), (1, 2)
SMALL, LARGE = (3, 3), (5, 5)  # what a convolution with these settings makes of the larger


def terms(positions, domain):
    """(All, those on padding) MACs, one after the other."""
    found = outside = 0
    channels = range(BATCH * OUTPUTS * (INPUTS // GROUPS))
    for _, *where in itertools.product(channels, *map(range, positions), *map(range, KERNEL)):
        place, tap = where[:2], where[2:]
        at = [p * s - q + t * d for p, s, q, t, d in zip(place, STRIDE, PADDING, tap, DILATION, strict=True)]
        found += 1
        outside += not all(0 <= a < n for a, n in zip(at, domain, strict=True))
    return found, outside


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("transposed", "size", "out_size"), [(False, LARGE, SMALL), (True, SMALL, LARGE)])
def test_a_convolution_term_by_term(transposed, size, out_size, bias):
    forward, weight, inputs = rules.convolution(
        BATCH, INPUTS, OUTPUTS, GROUPS, size, out_size, KERNEL, STRIDE, PADDING, DILATION,
        bias=bias, transposed=transposed,
    )  # fmt: skip
    macs, padding = terms(SMALL, LARGE)
    x, y = BATCH * INPUTS * math.prod(size), BATCH * OUTPUTS * math.prod(out_size)
    w, b = 72, 6 if bias else 0  # 6 filters of 2 channels of 3 x 2
    added = y if bias else 0
    assert forward == Cost(macs, added, 0, x + w + b, y, padding)
    assert weight == Cost(macs, added, 0, x + y, w + b, padding)
    assert inputs == Cost(macs, 0, 0, y + w, x, padding)


def test_products_by_hand():
    assert rules.matmul(2, 3, 5, 7) == 210
    # 5 vectors of 3 to 2: 30 MACs; x 15, W 6, b 2, y 10.
    assert rules.linear(5, 3, 2, bias=True) == (
        Cost(30, 10, 0, 23, 10), Cost(30, 10, 0, 25, 8), Cost(30, 0, 0, 16, 15),
    )  # fmt: skip
    assert rules.linear(5, 3, 2, bias=False) == (
        Cost(30, 0, 0, 21, 10), Cost(30, 0, 0, 25, 6), Cost(30, 0, 0, 16, 15),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("training", "affine", "tracked", "weight_grad", "forward", "into_x"),
    [
        # 12 elements: Σ 1, then −, square, Σ 3, then −, · 2, and γ, β 2. 3 channels: 4, and running averages 6.
        (True, True, True, True, 12 * 8 + 3 * 10, 12 * 4 + 3 * 3),
        (True, True, False, True, 12 * 8 + 3 * 4, 12 * 4 + 3 * 3),
        (True, False, True, False, 12 * 6 + 3 * 10, 12 * 9 + 3 * 3),
        # With constants an element has −, · and a channel +ε, 1/√.
        (False, True, True, True, 12 * 4 + 3 * 2, 12 + 3),
        (False, False, True, False, 12 * 2 + 3 * 2, 12 + 3),
    ],
)
def test_batch_norm_by_hand(training, affine, tracked, weight_grad, forward, into_x):
    parameters = 6 if affine else 0
    found = rules.batch_norm(
        12, 3, training=training, affine=affine, tracked=tracked, weight_grad=weight_grad
    )
    assert found == (
        Cost(other=forward, read=12 + parameters, written=12),
        Cost(other=60, read=24, written=parameters),
        Cost(other=into_x, read=24 + parameters, written=12),
    )


@pytest.mark.parametrize(
    ("affine", "weight_grad", "forward", "into_x"),
    [
        # 12 elements in 3 rows, 4 gains: an element 6, and 2 for γ and β; a row 4.
        (4, True, 12 * 8 + 3 * 4, 12 * 8 + 3 * 2),
        (4, False, 12 * 8 + 3 * 4, 12 * 10 + 3 * 2),
        (0, False, 12 * 6 + 3 * 4, 12 * 9 + 3 * 2),
        (0, True, 12 * 6 + 3 * 4, 12 * 7 + 3 * 2),
    ],
)
def test_layer_norm_by_hand(affine, weight_grad, forward, into_x):
    assert rules.layer_norm(12, 3, affine, weight_grad=weight_grad) == (
        Cost(other=forward, read=12 + 2 * affine, written=12),
        Cost(other=60, read=24, written=2 * affine),
        Cost(other=into_x, read=24 + affine, written=12),
    )


def test_bilinear_by_hand():
    # 7 pairs of vectors of 3 and 4 to 5: x·W 7·5·12 = 420, then ·z 7·5·4; x 21, z 28, y 35, W 60.
    assert rules.bilinear(7, 3, 4, 5, bias=True) == (
        Cost(420 + 140, 35, 0, 21 + 28 + 60 + 5, 35), Cost(420, 35, 105, 21 + 28 + 35, 65),
        Cost(420 + 84, 0, 0, 28 + 35 + 60, 21), Cost(420 + 140, 0, 0, 21 + 35 + 60, 28),
    )  # fmt: skip
    forward, weights, *_ = rules.bilinear(7, 3, 4, 5, bias=False)
    assert (forward.bias, forward.read, weights.bias, weights.written) == (0, 109, 0, 60)


@pytest.mark.parametrize(
    ("mode", "dims", "forward", "backward"),
    [
        ("nearest", 2, 0, 10), ("nearest-exact", 1, 0, 10), ("linear", 1, 40, 40), ("bilinear", 2, 80, 80),
        ("trilinear", 3, 160, 160), ("bicubic", 2, 320, 320),
    ],
)  # fmt: skip
def test_interpolation_by_hand(mode, dims, forward, backward):
    # 10 outputs of 6 values: a product and an addition for each of 2 or 4 neighbours along each dimension.
    assert rules.interpolation(6, 10, dims, mode) == (
        Cost(other=forward, read=6, written=10), Cost(other=backward, read=10, written=6),
    )  # fmt: skip


@pytest.mark.parametrize("summed", [True, False])
@pytest.mark.parametrize("repeated", [True, False])
def test_rms_norm_by_hand(summed, repeated):
    # 12 elements in 3 rows, 4 gains.
    assert rules.rms_norm(12, 3, 4, summed=summed, repeated=repeated) == (
        Cost(other=12 * 4 + 3 * 3, read=16, written=12),
        Cost(other=12 * (1 + summed), read=24, written=4),
        Cost(other=12 * (7 + repeated) + 9, read=28, written=12),
    )
    forward, _, into_x = rules.rms_norm(12, 3, 0, summed=summed, repeated=repeated)
    assert (forward.other, into_x.other) == (12 * 3 + 9, 12 * (6 + repeated) + 9)


def test_lengths_of_vectors_by_hand():
    # 12 elements in 3 rows: squares and sums 24, roots 3.
    assert rules.norm(12, 3, 2) == (27, 24)
    assert rules.norm(12, 3, 1) == (24, 24)
    assert rules.normalize(12, 3, 2) == (
        Cost(other=27 + 3 + 12, read=12, written=12), Cost(other=60 + 3 + 24, read=24, written=12),
    )  # fmt: skip
    assert rules.normalize(12, 3, 1)[0].other == 24 + 3 + 12
    assert rules.cosine_similarity(12, 3) == (
        Cost(other=96 + 12, read=24, written=3), Cost(other=108, read=24, written=12),
    )  # fmt: skip
    assert rules.weight_norm(12, 3) == (
        Cost(other=36 + 6, read=15, written=12), Cost(other=60 + 15, read=27, written=15),
    )  # fmt: skip


def test_pooling_by_hand():
    # 6 x 6 to 3 x 3 by windows of 2 x 2: 36 comparisons, or 36 additions and 9 divisions.
    assert rules.pooling(36, 9, 36, maximum=True) == (
        Cost(other=36, read=36, written=9), Cost(other=9, read=9, written=36),
    )  # fmt: skip
    assert rules.pooling(36, 9, 36, maximum=False) == (
        Cost(other=45, read=36, written=9), Cost(other=36, read=9, written=36),
    )  # fmt: skip


@pytest.mark.parametrize(("size", "outputs"), [(6, 3), (7, 3), (3, 7), (13, 6), (1, 1)])
def test_adaptive_windows_one_by_one(size, outputs):
    def inside(i, j):
        return math.floor(i * size / outputs) <= j < math.ceil((i + 1) * size / outputs)

    expected = sum(inside(i, j) for i in range(outputs) for j in range(size))
    assert rules.adaptive_windows(size, outputs) == expected


NO_GRADS = Grads(input_weight=False, state_weight=False, input_bias=False, state_bias=False, projection=False)
ALL_GRADS = Grads(input=True, state=True, memory=True)


def only(**grads):
    return Grads(**(vars(NO_GRADS) | grads))


class TestRecurrent:
    """Steps of 2, 2 and 1 samples: 5 in all, 3 of them after the first step. 2 inputs, 3 hidden units."""

    def work(self, cell="lstm", grads=ALL_GRADS, projected=0, bias=True, sizes=(2, 2, 1)):
        return rules.recurrent(cell, sizes, 2, 3, projected, bias, grads)

    @pytest.mark.parametrize(("cell", "gates", "each"), [("lstm", 4, 13), ("gru", 3, 10), ("rnn_tanh", 1, 2)])
    def test_forward(self, cell, gates, each):
        width = 3 * gates
        expected = Cost(5 * width * (2 + 3), 5 * 2 * width, 5 * 3 * each, 5 * 2 + width * (2 + 3 + 2), 5 * 3)
        assert self.work(cell).forward == expected
        assert self.work(cell, bias=False).forward == Cost(5 * width * 5, 0, 5 * 3 * each, 10 + width * 5, 15)
        assert self.work(cell).kind == "activation"

    def test_a_projection_is_a_product_more_and_a_smaller_state(self):
        # G·H·(I + P) + H·P with P = 1.
        found = self.work(projected=1)
        assert found.forward == Cost(5 * (12 * 3 + 3), 120, 195, 10 + 36 + 3 + 24, 5)
        assert found.weight_grad == Cost(5 * (12 * 3 + 3), 120, 0, 10 + 5, 36 + 3 + 24)
        assert found.input_grad == Cost(5 * (12 * 3 + 3), 0, 3 * 5 * 21, 5 + 36 + 3, 10)

    def test_no_gradient_is_no_backward_pass(self):
        found = self.work(grads=NO_GRADS)
        assert found == Work("activation", self.work().forward)

    def test_all_gradients(self):
        found = self.work()
        assert found.weight_grad == Cost(5 * 60, 120, 0, 10 + 15, 60 + 24)
        assert found.input_grad == Cost(5 * 60, 0, 3 * 5 * 21, 15 + 60, 10)

    def test_the_first_steps_state_and_memory_need_none_by_themselves(self):
        # State: 3 of 5 steps. An LSTM's initial c: one operation a unit less for the 2 samples of the first step.
        found = self.work(grads=Grads())
        assert found.input_grad == Cost(3 * 36, 0, 3 * (5 * 21 - 2), 15 + 60, 0)
        assert self.work(grads=Grads(input=True)).input_grad.macs == 5 * 24 + 3 * 36
        assert self.work(grads=Grads(memory=True)).input_grad.other == 3 * 5 * 21

    @pytest.mark.parametrize("side", ["state", "state_weight", "state_bias"])
    def test_a_grus_first_product_needs_a_gradient_for_the_hidden_side(self, side):
        assert self.work("gru", only(**{side: True})).input_grad.other == 3 * 5 * 14
        assert self.work("gru", only(input_weight=True)).input_grad.other == 3 * (5 * 14 - 2)

    @pytest.mark.parametrize(
        ("grad", "macs", "additions"),
        [("input_weight", 5 * 24, 0), ("state_weight", 5 * 12, 0), ("projection", 5 * 3, 0),
         ("input_bias", 0, 60), ("state_bias", 0, 60)],
    )  # fmt: skip
    def test_each_parameter_costs_its_own_gradient(self, grad, macs, additions):
        found = self.work(grads=only(**{grad: True}), projected=1).weight_grad
        assert (found.macs, found.bias) == (macs, additions)
        assert self.work(grads=only(**{grad: True}), projected=1, bias=False).weight_grad.bias == 0

    def test_a_projection_alone_needs_nothing_before_the_second_step(self):
        found = self.work(grads=only(projection=True), projected=1).input_grad
        assert (found.macs, found.other) == (3 * 12 + 3 * 3, 3 * (3 * 21 - 2))
        one_step = self.work(grads=only(projection=True), projected=1, sizes=(2,)).input_grad
        assert (one_step.macs, one_step.other) == (0, 0)


class TestAttention:
    """2 products of 3 queries of 5 with 4 keys, values of 6: 24 scores; q 30, k 40, v 48, out 36."""

    def costs(self, scaled=1, masked=False, dropout=False, grads=(True, True, True)):
        forward, backward = rules.attention(
            2, 3, 4, 5, 6, scaled=scaled, masked=masked, dropout=dropout, grads=grads
        )
        return forward, sum(backward, Cost())

    def test_forward(self):
        assert self.costs()[0] == Cost(24 * 5 + 24 * 6, 0, 24 * 5 + 30, 30 + 40 + 48, 36)
        assert self.costs(scaled=2)[0].other == 24 * 5 + 30 + 40
        assert self.costs(masked=True)[0].other == 24 * 6 + 30
        assert self.costs(dropout=True)[0].other == 24 * 7 + 30

    def test_backward(self):
        # Into v; into the softmax; into q and k, each scaled back if it was scaled.
        whole = Cost(
            2 * 144 + 2 * 120, 0, 24 * 4 + 30, (36 + 24) + (36 + 48) + (24 + 40) + (24 + 30), 48 + 30 + 40
        )
        assert self.costs()[1] == whole
        assert self.costs(scaled=2)[1].other == 24 * 4 + 30 + 40
        assert self.costs(dropout=True)[1].other == 24 * 5 + 30

    @pytest.mark.parametrize(
        ("grads", "macs", "other", "written"),
        [
            ((True, False, False), 144 + 120, 96 + 30, 30),
            ((False, True, False), 144 + 120, 96 + 40, 40),
            ((False, False, True), 144, 0, 48),
            ((False, False, False), 0, 0, 0),
        ],
    )
    def test_only_gradients_that_are_needed_are_computed(self, grads, macs, other, written):
        found = self.costs(scaled=2, grads=grads)[1]
        assert (found.macs, found.other, found.written) == (macs, other, written)


def test_losses_by_hand():
    # 3 rows of 4 logits.
    found = rules.cross_entropy(3, 4)
    assert found == Work(
        "loss", Cost(other=63, read=12, written=1), Cost(), Cost(other=51, read=12, written=12)
    )
    assert rules.cross_entropy(3, 4, grad=False) == Work("loss", found.forward)
    # 10 frames of 5 classes, 2 labels: a lattice of 10 x 5 states, 13 operations each; backward 19, and 3 a class.
    found = rules.ctc(10, 2, 5)
    assert found.kind == "loss"
    assert found.forward == Cost(other=650, read=50, written=1)
    assert found.input_grad == Cost(other=950 + 150, read=50, written=50)
    assert rules.ctc(10, 2, 5, grad=False) == Work("loss", found.forward)
    assert rules.ctc(10, 3, 5).forward.other == 13 * 70


@pytest.mark.parametrize(
    ("name", "settings", "operations"),
    [
        ("sgd", {}, 2),
        ("sgd", {"weight_decay": True}, 4),
        ("sgd", {"momentum": True}, 4),
        ("sgd", {"momentum": True, "nesterov": True}, 6),
        ("adam", {}, 13),
        ("adam", {"weight_decay": True}, 15),
        ("adamw", {}, 13),
        ("adamw", {"weight_decay": True}, 14),
        ("lars", {}, 9),
        ("lars", {"matrix": False}, 4),
        ("lars", {"weight_decay": True}, 11),
        ("lars", {"nesterov": True}, 12),
    ],
)
def test_updates_by_hand(name, settings, operations):
    assert rules.optimizer_ops(name, **settings) == operations


def test_an_unknown_optimizer_is_an_error():
    with pytest.raises(KeyError, match="rprop"):
        rules.optimizer_ops("rprop")

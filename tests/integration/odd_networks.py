"""Networks as people write them, after public bug reports: each takes pictures (B, 1, 16, 16) and gives 10 classes.

`EQUAL` trains as plain PyTorch does, on any number of ranks; `REFUSED` has a sentence for each.
"""

import math
from collections import namedtuple

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

SIDE, WIDTH = 16, 12
PIXELS = SIDE * SIDE


class Plain(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.first, self.last = nn.Linear(PIXELS, WIDTH), nn.Linear(WIDTH, classes)

    def body(self, x):
        return torch.tanh(self.first(x.flatten(1)))

    def forward(self, x):
        return self.last(self.body(x))


class DictOut(Plain):
    def forward(self, x):
        return {"loss": None, "logits": self.last(self.body(x))}


class SegmentationHabit(Plain):
    def forward(self, x):
        z = self.body(x)
        return {"out": self.last(z), "aux": self.last(torch.tanh(z))}


class Pair(Plain):
    def forward(self, x):
        z = self.body(x)
        return self.last(z), z


class ListOut(Plain):
    def forward(self, x):
        return [self.last(self.body(x)), "a remark"]


InceptionOutputs = namedtuple("InceptionOutputs", ["logits", "aux_logits"])


class InceptionLike(Plain):
    def forward(self, x):
        z = self.body(x)
        return InceptionOutputs(self.last(z), self.last(z * z)) if self.training else self.last(z)


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.LazyLinear(WIDTH), nn.LazyLinear(10)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x.flatten(1))))


class LazyConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.LazyConv2d(4, 3), nn.Tanh(), nn.Flatten(), nn.LazyLinear(10))

    def forward(self, x):
        return self.net(x)


class ExtraState(Plain):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)

    def get_extra_state(self):
        return {"calls": self.calls}

    def set_extra_state(self, state):
        self.calls = state["calls"]


class Unused(Plain):
    def __init__(self):
        super().__init__()
        self.never = nn.Linear(4, 4)


class HalfFrozen(Plain):
    def __init__(self):
        super().__init__()
        self.first.requires_grad_(False)


class Blocks(Plain):
    """A block used three times; its children recompute it in their ways."""

    def __init__(self):
        super().__init__()
        self.block = nn.Linear(WIDTH, WIDTH)

    def used(self, z):
        return torch.tanh(self.block(z))

    def forward(self, x):
        z = self.body(x)
        for _ in range(3):
            z = self.used(z)
        return self.last(z)


class Reentrant(Blocks):
    def forward(self, x):
        z = self.body(x)
        for _ in range(3):
            z = checkpoint(self.used, z, use_reentrant=True)
        return self.last(z)


class NonReentrant(Blocks):
    def forward(self, x):
        z = self.body(x)
        for _ in range(3):
            z = checkpoint(self.used, z, use_reentrant=False)
        return self.last(z)


class ReentrantWhole(Blocks):
    def forward(self, x):
        return checkpoint(super().forward, x.requires_grad_(), use_reentrant=True)


class ReentrantNested(Blocks):
    def inner(self, z):
        return self.used(checkpoint(self.used, z, use_reentrant=True))

    def forward(self, x):
        return self.last(checkpoint(self.inner, self.body(x), use_reentrant=True))


class Sequential(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last, shared = (
            nn.Linear(PIXELS, WIDTH),
            nn.Linear(WIDTH, 10),
            nn.Linear(WIDTH, WIDTH),
        )
        self.middle = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), shared, nn.Tanh())

    def forward(self, x):
        return self.last(checkpoint_sequential(self.middle, 3, self.first(x.flatten(1)), use_reentrant=True))


class BackwardInside(torch.autograd.Function):
    """Recomputes in its own backward pass, as many libraries do, and calls autograd there."""

    @staticmethod
    def forward(ctx, z, run):
        ctx.run = run
        ctx.save_for_backward(z)
        with torch.no_grad():
            return run(z)

    @staticmethod
    def backward(ctx, gradient):
        (z,) = ctx.saved_tensors
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            out = ctx.run(z)
        torch.autograd.backward(out, gradient)
        return z.grad, None


class OwnCheckpoint(Blocks):
    def forward(self, x):
        z = self.body(x)
        for _ in range(2):
            z = BackwardInside.apply(z, self.used)
        return self.last(z)


class OldSpectralNorm(Plain):
    def __init__(self):
        super().__init__()
        self.first = nn.utils.spectral_norm(self.first)


class SpectralNorm(Plain):
    def __init__(self):
        super().__init__()
        self.first = parametrizations.spectral_norm(self.first)


class OldWeightNorm(Plain):
    def __init__(self):
        super().__init__()
        self.first = nn.utils.weight_norm(self.first)


class WeightNorm(Plain):
    def __init__(self):
        super().__init__()
        self.first = parametrizations.weight_norm(self.first)


class Pruned(Plain):
    def __init__(self):
        super().__init__()
        prune.l1_unstructured(self.first, "weight", amount=0.5)


class Attention(nn.Module):
    causal = False

    def __init__(self):
        super().__init__()
        self.q, self.last = nn.Linear(SIDE, 24), nn.Linear(8, 10)

    def forward(self, x):
        q, k, v = self.q(x.squeeze(1)).chunk(3, -1)
        z = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.last(z.mean(1))


class CausalAttention(Attention):
    causal = True


class Rows(nn.Module):
    """The rows of a picture as a sequence."""

    def __init__(self):
        super().__init__()
        self.cells, self.last = nn.LSTM(SIDE, WIDTH, 2, batch_first=True), nn.Linear(WIDTH, 10)

    def forward(self, x):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        first = tuple(torch.zeros(2, len(x), WIDTH).to(device) for _ in range(2))
        return self.last(self.cells(x.squeeze(1), first)[0][:, -1])


class BothWays(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.last = nn.GRU(SIDE, WIDTH, bidirectional=True), nn.Linear(2 * WIDTH, 10)

    def forward(self, x):
        return self.last(self.cells(x.squeeze(1).transpose(0, 1))[0].mean(0))


class Fourier(Plain):
    def body(self, x):
        return torch.tanh(self.first(torch.fft.fft2(x).real.flatten(1) / 8))


class ComplexInside(Plain):
    def __init__(self):
        super().__init__()
        self.turn = nn.Parameter(torch.randn(WIDTH // 2, 2))

    def body(self, x):
        z = torch.view_as_complex(super().body(x).view(len(x), -1, 2)) * torch.view_as_complex(self.turn)
        return torch.view_as_real(z).flatten(1)


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sin()

    @staticmethod
    def backward(ctx, gradient):
        return -0.5 * gradient


class ReversedGradient(Plain):
    def body(self, x):
        return Reverse.apply(super().body(x))


class ThreeOperands(Plain):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(SIDE, 4) / 4), nn.Parameter(torch.randn(SIDE, 3) / 4)

    def body(self, x):
        return torch.einsum("bhw,hi,wj->bij", x.squeeze(1), self.a, self.b).flatten(1)


class Vmapped(Plain):
    def body(self, x):
        return torch.vmap(lambda one: torch.tanh(self.first.weight @ one))(x.flatten(1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(PIXELS, PIXELS, bias=False), nn.Linear(PIXELS, 10)
        self.second = nn.Linear(PIXELS, PIXELS, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.last(self.second(torch.tanh(self.first(x.flatten(1)))))


class NumpyInside(Plain):
    def forward(self, x):
        scale = float(self.first.weight.detach().cpu().numpy().std())
        return self.last(self.body(x)) * math.tanh(1 + scale)


class Branch(Plain):
    """Control flow by values: the weights', which all ranks share."""

    def forward(self, x):
        z = self.body(x)
        return self.last(z) if self.first.weight.sum().item() > 1e9 else self.last(2 * z)


class LinearSpace(Plain):
    """Rates of stochastic depth, as vision transformers make them."""

    def __init__(self):
        super().__init__()
        self.rates = [rate.item() for rate in torch.linspace(0, 0.1, 4)]

    def forward(self, x):
        return self.last(self.body(x) * (1 + self.rates[-1]))


class SparseEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.last = nn.Embedding(17, 4, sparse=True), nn.Linear(4 * PIXELS, 10)
        nn.init.xavier_uniform_(self.words.weight)

    def forward(self, x):
        return self.last(self.words((4 * x).clamp(0, 16).long()).flatten(1))


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Tanh(), nn.Conv2d(8, 8, 3, groups=8),
            nn.InstanceNorm2d(8, affine=True), nn.Flatten(), nn.LayerNorm(1568), nn.Linear(1568, 10),
        )  # fmt: skip

    def forward(self, x):
        return self.net(x)


class BatchNorm(nn.Module):
    settings = ("comm.batch_norm_ranks=all",)

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(784, WIDTH),
            nn.BatchNorm1d(WIDTH),
            nn.Linear(WIDTH, 10),
        )  # fmt: skip

    def forward(self, x):
        return self.net(x)


class UpAndDown(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.last = nn.Conv2d(5, 10, 1)

    def forward(self, x):
        z = self.up(torch.tanh(self.down(x)))
        z = functional.interpolate(functional.pixel_shuffle(z, 2), scale_factor=0.5, mode="bilinear")
        return self.last(torch.cat([x, z.expand(-1, 4, -1, -1)], 1)).mean((2, 3))


class Pieces(Plain):
    """A list of tensors that are not buffers, a scalar, an empty and a transposed parameter."""

    def __init__(self):
        super().__init__()
        self.held = [torch.ones(WIDTH), torch.full((WIDTH,), 0.5)]
        self.scale, self.empty = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.empty(0))
        self.turned = nn.Parameter(torch.randn(WIDTH, PIXELS).t())

    def body(self, x):
        return super().body(x) * self.held[0] * self.scale + x.flatten(1) @ self.turned * self.held[1] / 16


class GradientInside(Plain):
    """The gradient of a scalar with respect to the pictures is a feature (as for energies and forces)."""

    def forward(self, x):
        x = x.requires_grad_()
        energy = torch.tanh(self.first(x.flatten(1))).square().sum()
        (slope,) = torch.autograd.grad(energy, x, create_graph=self.training)
        return self.last(torch.tanh(self.first(slope.flatten(1))))

    def __call__(self, x):
        with torch.enable_grad():
            return super().__call__(x)


class Hooked(Plain):
    def __init__(self):
        super().__init__()
        self.first.register_forward_hook(lambda module, given, out: 0.5 * out)


class Adapted(Plain):
    """Low-rank weights added in a hook."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(4, PIXELS) / 16), nn.Parameter(torch.randn(WIDTH, 4) / 2)
        self.first.register_forward_hook(lambda module, given, out: out + given[0] @ self.a.t() @ self.b.t())


class DoublePrecision(Plain):
    def __init__(self):
        super().__init__()
        self.double()

    def forward(self, x):
        return super().forward(x.double()).float()


class MixedPrecision(Plain):
    def __init__(self):
        super().__init__()
        self.last.double()

    def forward(self, x):
        return self.last(self.body(x).double()).float()


class Mixture(Plain):
    """An expert of each sample: some get none of a batch."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(6))

    def body(self, x):
        z, chosen = super().body(x), (x.sum((1, 2, 3)) * 7).long() % 6
        out = torch.zeros_like(z)
        for number, expert in enumerate(self.experts):
            if (chosen == number).any():
                out = out.index_add(0, (chosen == number).nonzero().flatten(), expert(z[chosen == number]))
        return out


class TwoStreams(Plain):
    """More outputs than one, each used."""

    def __init__(self):
        super().__init__()
        self.second = nn.Linear(PIXELS, WIDTH)

    def body(self, x):
        a, b = torch.tanh(self.first(x.flatten(1))), torch.sigmoid(self.second(x.flatten(1)))
        return torch.maximum(a * b, functional.normalize(a + b))


class RootMeanSquare(Plain):
    def __init__(self):
        super().__init__()
        self.norm = nn.RMSNorm(WIDTH)

    def body(self, x):
        return self.norm(functional.mish(super().body(x)))


class Bilinear(Plain):
    def __init__(self):
        super().__init__()
        self.both = nn.Bilinear(WIDTH, PIXELS, WIDTH)

    def body(self, x):
        return self.both(super().body(x), x.flatten(1)) / 8


class MultiHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(SIDE, 2, 16, dropout=0.0, batch_first=True)
        self.last = nn.Linear(SIDE, 10)

    def forward(self, x):
        return self.last(self.layer(x.squeeze(1)).mean(1))


EQUAL = {
    kind.__name__: kind
    for kind in (
        Plain, DictOut, SegmentationHabit, Pair, ListOut, InceptionLike, Lazy, LazyConvolution, ExtraState, Unused,
        HalfFrozen, Blocks, Reentrant, NonReentrant, ReentrantWhole, ReentrantNested, Sequential, OwnCheckpoint,
        OldSpectralNorm, SpectralNorm, OldWeightNorm, WeightNorm, Pruned, Attention, CausalAttention, Rows, BothWays,
        Fourier, ComplexInside, ReversedGradient, ThreeOperands, Vmapped, Tied, NumpyInside, Branch, LinearSpace,
        SparseEmbedding, Norms, BatchNorm, UpAndDown, Pieces, GradientInside, Hooked, Adapted, DoublePrecision,
        MixedPrecision, Mixture, TwoStreams, RootMeanSquare, Bilinear, MultiHead,
    )
}  # fmt: skip


class FiveOutputs(Plain):
    def __init__(self):
        super().__init__(5)


class Frozen(Plain):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)


class ComplexWeights(Plain):
    def __init__(self):
        super().__init__()
        self.turn = nn.Parameter(torch.randn(WIDTH, dtype=torch.complex64))

    def body(self, x):
        return (super().body(x) * self.turn).real


class NoTensor(Plain):
    def forward(self, x):
        return {"scores": self.last(self.body(x))}


class PerPixel(Plain):
    def forward(self, x):
        return x.expand(-1, 10, -1, -1) * self.last.weight.sum()


class WrongWidth(Plain):
    def forward(self, x):
        return self.last(x.flatten(1))


class NotJson(Plain):
    def get_extra_state(self):
        return {1, 2}

    def set_extra_state(self, state):
        pass


class SometimesTwice(Blocks):
    """Its block is recomputed once in the first two steps, then twice."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        z = self.body(x)
        for _ in range(1 + (self.calls > 3)):
            z = checkpoint(self.used, z, use_reentrant=True)
        return self.last(z)


REFUSED = {
    FiveOutputs: "has logits for 5 classes; the data have 10",
    Frozen: "has no parameter to train",
    ComplexWeights: "its parameter turn is complex",
    NoTensor: "dict of scores: the network must return logits",
    PerPixel: "its logits must be (2 samples, classes)",
    WrongWidth: "odd_networks.py, line",
}

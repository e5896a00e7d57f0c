"""Networks that people write, small: each a function that returns (module, shapes of its inputs).

None is hpctrain's own. Sources: the papers that the names stand for, in the form of their public code.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations


class Fn(nn.Module):
    """Parts by name, and what is done with them."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs):
        return self.run(self, *inputs)


def block(inputs, outputs, norm=nn.BatchNorm2d, act=nn.ReLU):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), norm(outputs), act(inplace=True)
    )


def unet(mode):
    def run(self, x):
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.drop(self.middle(F.max_pool2d(b, 2)))
        up = (lambda part, z: part(z)) if mode == "transposed" else (lambda part, z: part(self.scale(z)))
        c = torch.cat([b, up(self.up2, c)], 1)
        c = torch.cat([a, up(self.up1, self.join2(c))], 1)
        return self.last(self.join1(c))

    def rise(inputs, outputs):
        if mode == "transposed":
            return nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
        return nn.Conv2d(inputs, outputs, 1)

    smooth = {"mode": "bilinear", "align_corners": True} if mode == "bilinear" else {}
    scale = nn.Upsample(scale_factor=2, **smooth)
    return Fn(
        run, down1=block(3, 8), down2=block(8, 16), middle=block(16, 32), drop=nn.Dropout2d(0.3), up2=rise(32, 16),
        up1=rise(16, 8), join2=block(32, 16), join1=block(16, 8), last=nn.Conv2d(8, 2, 1), scale=scale,
    ), [(2, 3, 16, 16)]  # fmt: skip


def segnet():
    def run(self, x):
        x, where = F.max_pool2d(self.down(x), 2, return_indices=True)
        return self.last(self.up(F.max_unpool2d(self.middle(x), where, 2)))

    return Fn(run, down=block(3, 8), middle=block(8, 8), up=block(8, 8), last=nn.Conv2d(8, 4, 1)), [
        (2, 3, 16, 16)
    ]


def feature_pyramid():
    def run(self, x):
        levels = []
        for part in (self.a, self.b, self.c):
            x = part(x)
            levels.append(x)
        up = self.side[2](levels[2])
        outs = [up]
        for side, level in ((self.side[1], levels[1]), (self.side[0], levels[0])):
            up = side(level) + F.interpolate(up, size=level.shape[-2:], mode="nearest")
            outs.append(up)
        scores = [self.head(out).permute(0, 2, 3, 1).flatten(1, 2) for out in outs]
        boxes = [self.boxes(out).permute(0, 2, 3, 1).reshape(len(x), -1, 4) for out in outs]
        return torch.sigmoid(torch.cat(scores, 1)), torch.exp(torch.cat(boxes, 1).clamp(max=4.0))

    widths = ((3, 8), (8, 16), (16, 32))
    down = [nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.GroupNorm(2, o), nn.SiLU()) for i, o in widths]
    side = nn.ModuleList(nn.Conv2d(c, 8, 1) for c in (8, 16, 32))
    return Fn(run, a=down[0], b=down[1], c=down[2], side=side, head=nn.Conv2d(8, 5, 3, padding=1),
              boxes=nn.Conv2d(8, 4, 3, padding=1)), [(1, 3, 32, 32)]  # fmt: skip


class ChannelsFirstNorm(nn.Module):
    """ConvNeXt's own layer norm of (B, C, H, W)."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        spread = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(spread + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


def convnext():
    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.depthwise, self.norm = (
                nn.Conv2d(width, width, 7, padding=3, groups=width),
                nn.LayerNorm(width),
            )
            self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.gamma = nn.Parameter(1e-6 * torch.ones(width))

        def forward(self, x):
            z = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
            z = self.gamma * self.narrow(F.gelu(self.wide(z)))
            z = z.permute(0, 3, 1, 2)
            keep = torch.bernoulli(torch.full((len(x), 1, 1, 1), 0.9, device=x.device))
            return x + z * keep / 0.9

    net = nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), ChannelsFirstNorm(8), Block(8), Block(8), ChannelsFirstNorm(8), nn.Conv2d(8, 16, 2, 2),
        Block(16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip
    return net, [(2, 3, 32, 32)]


def vision_transformer():
    def run(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        return self.head(self.norm(self.encoder(x))[:, 0])

    layer = nn.TransformerEncoderLayer(16, 4, 32, 0.1, activation="gelu", batch_first=True, norm_first=True)
    return Fn(
        run, patches=nn.Conv2d(3, 16, 8, 8), token=nn.Parameter(torch.zeros(1, 1, 16)),
        places=nn.Parameter(torch.zeros(1, 17, 16)), norm=nn.LayerNorm(16), head=nn.Linear(16, 10),
        encoder=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
    ), [(2, 3, 32, 32)]  # fmt: skip


def swin():
    """Windows of 4 x 4, shifted, with a learned bias for each relative place."""

    def windows(x):
        b, h, w, c = x.shape
        return x.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)

    def run(self, x):
        x = self.patches(x).permute(0, 2, 3, 1)
        for norm, qkv, out, shift in ((self.n1, self.q1, self.o1, 0), (self.n2, self.q2, self.o2, 2)):
            z = windows(torch.roll(norm(x), (-shift, -shift), (1, 2)))
            q, k, v = qkv(z).view(len(z), 16, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
            bias = self.bias[self.place.flatten()].view(16, 16, 2).permute(2, 0, 1)
            scores = (q * 8**-0.5) @ k.transpose(-2, -1) + bias
            z = (scores.softmax(-1) @ v).transpose(1, 2).reshape(len(z), 16, 16)
            x = x + torch.roll(out(z).view_as(x), (shift, shift), (1, 2))
        return self.head(x.mean((1, 2)))

    net = Fn(
        run, patches=nn.Conv2d(3, 16, 4, 4), n1=nn.LayerNorm(16), n2=nn.LayerNorm(16), q1=nn.Linear(16, 48),
        q2=nn.Linear(16, 48), o1=nn.Linear(16, 16), o2=nn.Linear(16, 16), bias=nn.Parameter(torch.zeros(49, 2)),
        head=nn.Linear(16, 10),
    )  # fmt: skip
    net.register_buffer("place", torch.randint(0, 49, (16, 16)))
    return net, [(2, 3, 32, 32)]


def mixer():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.n1, self.n2 = nn.LayerNorm(16), nn.LayerNorm(16)
            self.tokens = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
            self.channels = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, 16))

        def forward(self, x):
            x = x + self.tokens(self.n1(x).transpose(1, 2)).transpose(1, 2)
            return x + self.channels(self.n2(x))

    def run(self, x):
        return self.head(self.blocks(self.patches(x).flatten(2).mT).mean(1))

    blocks = nn.Sequential(Block(), Block())
    return Fn(run, patches=nn.Conv2d(3, 16, 8, 8), blocks=blocks, head=nn.Linear(16, 10)), [(2, 3, 32, 32)]


def gpt():
    """nanoGPT's block, with torch's causal attention and the tanh form of GELU."""

    def run(self, x):
        x = self.words(x) + self.places(torch.arange(x.shape[1], device=x.device))
        for norm, qkv, out, norm2, wide, narrow in self.blocks:
            b, t, c = x.shape
            q, k, v = (part.view(b, t, 2, 8).transpose(1, 2) for part in qkv(norm(x)).split(c, 2))
            z = F.scaled_dot_product_attention(
                q, k, v, dropout_p=0.1 if self.training else 0.0, is_causal=True
            )
            x = x + out(z.transpose(1, 2).contiguous().view(b, t, c))
            x = x + narrow(F.gelu(wide(norm2(x)), approximate="tanh"))
        return self.head(x)

    blocks = nn.ModuleList(
        nn.ModuleList([nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 32),
                       nn.Linear(32, 16)]) for _ in range(2)
    )  # fmt: skip
    head = nn.Linear(16, 50, bias=False)
    net = Fn(run, words=nn.Embedding(50, 16), places=nn.Embedding(12, 16), blocks=blocks, head=head)
    net.words.weight = net.head.weight
    return net, [torch.zeros(2, 12, dtype=torch.int64)]


def llama():
    """Root mean squares, turned places, grouped queries, gated units."""

    def turn(x, cos, sin):
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    def run(self, x):
        x = self.words(x)
        t = x.shape[1]
        rates = 1.0 / (100 ** (torch.arange(0, 8, 2, device=x.device).float() / 8))
        angles = torch.outer(torch.arange(t, device=x.device).float(), rates).repeat(1, 2)
        cos, sin = angles.cos(), angles.sin()
        z = self.n1(x)
        q = turn(self.q(z).view(len(x), t, 4, 8).transpose(1, 2), cos, sin)
        k = turn(self.k(z).view(len(x), t, 2, 8).transpose(1, 2), cos, sin)
        v = self.v(z).view(len(x), t, 2, 8).transpose(1, 2)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(z.transpose(1, 2).reshape(len(x), t, 32))
        z = self.n2(x)
        x = x + self.down(F.silu(self.gate(z)) * self.up(z))
        z = x.pow(2).mean(-1, keepdim=True)
        return self.head(x * torch.rsqrt(z + 1e-6))

    def linear(i, o):
        return nn.Linear(i, o, bias=False)

    return Fn(
        run, words=nn.Embedding(40, 32), n1=nn.RMSNorm(32), n2=nn.RMSNorm(32), q=linear(32, 32), k=linear(32, 16),
        v=linear(32, 16), o=linear(32, 32), gate=linear(32, 48), up=linear(32, 48), down=linear(48, 32),
        head=linear(32, 40),
    ), [torch.zeros(2, 6, dtype=torch.int64)]  # fmt: skip


def translator():
    """torch's encoder and decoder layers, places by sines, a causal mask."""

    def run(self, source, target):
        def placed(words, ids):
            t = torch.arange(ids.shape[1], device=ids.device).float()[:, None]
            rates = torch.exp(torch.arange(0, 16, 2, device=ids.device).float() * (-math.log(1e4) / 16))
            return words(ids) * 4.0 + torch.stack([torch.sin(t * rates), torch.cos(t * rates)], -1).flatten(1)

        mask = torch.full((target.shape[1],) * 2, float("-inf"), device=source.device).triu(1)
        memory = self.encoder(placed(self.words, source))
        z = self.decoder(placed(self.words2, target), memory, tgt_mask=mask, tgt_is_causal=False)
        return F.log_softmax(self.head(z), -1)

    encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return Fn(
        run, words=nn.Embedding(30, 16), words2=nn.Embedding(30, 16), encoder=encoder,
        decoder=nn.TransformerDecoderLayer(16, 2, 32, batch_first=True), head=nn.Linear(16, 30),
    ), [torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 4, dtype=torch.int64)]  # fmt: skip


class SqueezeExcitation(nn.Module):
    def __init__(self, width, least):
        super().__init__()
        self.down, self.up = nn.Conv2d(width, least, 1), nn.Conv2d(least, width, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.up(F.silu(self.down(F.adaptive_avg_pool2d(x, 1)))))


def efficientnet():
    class Block(nn.Module):
        def __init__(self, width, stride):
            super().__init__()
            wide = 4 * width
            self.net = nn.Sequential(
                nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.SiLU(inplace=True),
                nn.Conv2d(wide, wide, 5, stride, 2, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.SiLU(True),
                SqueezeExcitation(wide, 4), nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width),
            )  # fmt: skip
            self.stride = stride

        def forward(self, x):
            z = self.net(x)
            if self.stride == 1:
                z += x
            return z

    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    return nn.Sequential(block(3, 8), Block(8, 1), Block(8, 2), *head), [(2, 3, 16, 16)]


def mobilenet_v3():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Hardswish(), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.ReLU6(),
        Fn(lambda self, x: x * F.hardsigmoid(self.w(x.mean((2, 3), keepdim=True))), w=nn.Conv2d(8, 8, 1)),
        nn.Conv2d(8, 16, 1), nn.Hardswish(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip
    return net, [(2, 3, 16, 16)]


def shufflenet():
    def run(self, x):
        x = self.first(x)
        for part in (self.a, self.b):
            left, right = x.chunk(2, 1)
            x = torch.cat([left, part(right)], 1)
            b, c, h, w = x.shape
            x = x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, c, h, w)
        return self.head(x.mean([2, 3]))

    def branch():
        middle = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        return nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), middle, nn.ChannelShuffle(2), nn.Conv2d(4, 4, 1))

    return Fn(run, first=block(3, 8), a=branch(), b=branch(), head=nn.Linear(8, 10)), [(2, 3, 16, 16)]


def densenet():
    def run(self, x):
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(F.avg_pool2d(self.transition(x), 2).flatten(1))

    layers = nn.ModuleList(
        nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 4, 3, padding=1))
        for width in (4, 8, 12)
    )
    return Fn(run, layers=layers, transition=nn.Conv2d(16, 8, 1), head=nn.Linear(8 * 16, 10)), [(2, 4, 8, 8)]


def attention_modules():
    """Channel and spatial attention by means and maxima (CBAM)."""

    def run(self, x):
        x = self.first(x)
        x = x * torch.sigmoid(self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3))))[:, :, None, None]
        places = torch.cat([x.mean(1, keepdim=True), torch.max(x, 1, keepdim=True)[0]], 1)
        return self.head(F.adaptive_max_pool2d(x * self.place(places).sigmoid(), 1).flatten(1))

    mlp = nn.Sequential(nn.Linear(8, 2), nn.ReLU(), nn.Linear(2, 8))
    place, head = nn.Conv2d(2, 1, 7, padding=3), nn.Linear(8, 10)
    return Fn(run, first=block(3, 8), mlp=mlp, place=place, head=head), [(2, 3, 16, 16)]


def wavenet():
    """Gated, dilated, causal convolutions with skips and weight norm."""

    def run(self, x):
        x, skips = self.first(x), 0
        for n, (part, out) in enumerate(zip(self.parts, self.outs, strict=True)):
            z = F.glu(part(F.pad(x, (2**n, 0))), 1) if n else part(F.pad(x, (1, 0)))[:, :8].tanh()
            z = out(z)
            skips, x = skips + z, x + z
        return self.head(F.relu(skips))

    parts = nn.ModuleList(parametrizations.weight_norm(nn.Conv1d(8, 16, 2, dilation=2**n)) for n in range(3))
    outs = nn.ModuleList(nn.Conv1d(8, 8, 1) for _ in range(3))
    return Fn(run, first=nn.Conv1d(1, 8, 1), parts=parts, outs=outs, head=nn.Conv1d(8, 4, 1)), [(2, 1, 20)]


def super_resolution():
    def run(self, x):
        return self.net(x) + F.interpolate(x, scale_factor=2, mode="bicubic")

    net = nn.Sequential(
        nn.Conv2d(1, 8, 5, padding=2, padding_mode="reflect"), nn.Mish(),
        nn.Conv2d(8, 4, 3, padding=1, padding_mode="circular"), nn.PixelShuffle(2),
    )  # fmt: skip
    return Fn(run, net=net), [(2, 1, 8, 8)]


def generator():
    net = nn.Sequential(
        nn.ConvTranspose2d(8, 16, 4, 1, 0, bias=False), nn.BatchNorm2d(16), nn.ReLU(True),
        nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False), nn.InstanceNorm2d(8, affine=True), nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(8, 3, 4, 2, 1, output_padding=1), nn.Tanh(),
    )  # fmt: skip
    return net, [(2, 8, 1, 1)]


def discriminator():
    def spectral(layer):
        return parametrizations.spectral_norm(layer)

    net = nn.Sequential(
        spectral(nn.Conv2d(3, 8, 4, 2, 1)), nn.LeakyReLU(0.2), nn.Dropout2d(0.25), spectral(nn.Conv2d(8, 8, 4, 2, 1)),
        nn.SELU(), nn.Flatten(), spectral(nn.Linear(128, 1)),
    )  # fmt: skip
    return net, [(2, 3, 16, 16)]


def old_discriminator():
    first = nn.utils.spectral_norm(nn.Conv2d(3, 8, 4, 2, 1))
    net = nn.Sequential(first, nn.CELU(), nn.utils.weight_norm(nn.Conv2d(8, 4, 3)), nn.Softsign())
    return net, [(2, 3, 16, 16)]


def variational():
    def run(self, x):
        mean, log_variance = self.encoder(x.flatten(1)).chunk(2, 1)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        divergence = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp(), 1)
        return torch.sigmoid(self.decoder(z)), divergence.mean()

    encoder = nn.Sequential(nn.Linear(64, 32), nn.Softplus(), nn.Linear(32, 8))
    decoder = nn.Sequential(nn.Linear(4, 32), nn.ELU(), nn.Linear(32, 64))
    return Fn(run, encoder=encoder, decoder=decoder), [(2, 1, 8, 8)]


def v_net():
    """Volumes: 3-d convolutions, transposed ones, trilinear interpolation."""

    def run(self, x):
        a = self.first(x)
        b = self.up(self.down(a))
        return F.interpolate(
            self.last(torch.cat([a, b], 1)), scale_factor=2, mode="trilinear", align_corners=False
        )

    return Fn(
        run, first=nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.PReLU(4)),
        down=nn.Sequential(nn.Conv3d(4, 8, 2, 2), nn.GroupNorm(4, 8), nn.MaxPool3d(2), nn.Upsample(scale_factor=2)),
        up=nn.ConvTranspose3d(8, 4, 2, 2), last=nn.Conv3d(8, 2, 1),
    ), [(1, 1, 8, 8, 8)]  # fmt: skip


def point_net():
    def run(self, x):
        turn = self.turn(torch.max(self.first(x), 2)[0]).view(-1, 3, 3) + torch.eye(3, device=x.device)
        x = torch.bmm(x.transpose(2, 1), turn).transpose(2, 1)
        return self.head(torch.max(self.second(x), 2, keepdim=True)[0].view(-1, 16))

    return Fn(run, first=nn.Sequential(nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8), nn.ReLU()), turn=nn.Linear(8, 9),
              second=nn.Conv1d(3, 16, 1), head=nn.Linear(16, 10)), [(2, 3, 30)]  # fmt: skip


def arc_face():
    """The cosine between features and class weights, with a margin."""

    def run(self, x, y):
        x = F.normalize(self.body(x))
        cosine = F.linear(x, F.normalize(self.weight)).clamp(-1 + 1e-7, 1 - 1e-7)
        sine = torch.sqrt(1.0 - cosine.pow(2))
        marked = F.one_hot(y, 10).float()
        return 30.0 * torch.where(marked > 0, cosine * math.cos(0.5) - sine * math.sin(0.5), cosine)

    net = Fn(run, body=nn.Linear(16, 8), weight=nn.Parameter(torch.randn(10, 8)))
    return net, [(4, 16), torch.zeros(4, dtype=torch.int64, device="meta")]


def siamese():
    def run(self, a, b):
        a, b = self.body(a), self.body(b)
        lengths = torch.linalg.vector_norm(a - b, dim=1), (a - b).norm(1, dim=1)
        return F.cosine_similarity(a, b), F.pairwise_distance(a, b), *lengths

    return Fn(run, body=nn.Sequential(nn.Linear(16, 8), nn.Tanhshrink(), nn.Linear(8, 8))), [(4, 16), (4, 16)]


def soft_experts():
    """All experts in two einsums, weighted by a gate of the two best."""

    def run(self, x):
        best, which = self.gate(x).topk(2, -1)
        gate = torch.zeros(len(x), 4, device=x.device).scatter(1, which, best.softmax(-1))
        z = torch.einsum("bi,eio->beo", x, self.a).relu()
        return torch.einsum("bej,be->bj", torch.einsum("beo,eoj->bej", z, self.b), gate)

    a, b = nn.Parameter(torch.randn(4, 8, 16)), nn.Parameter(torch.randn(4, 16, 8))
    return Fn(run, gate=nn.Linear(8, 4), a=a, b=b), [(6, 8)]


def attentive_sequence():
    """A recurrent encoder, a decoder of cells, Bahdanau's attention."""

    def run(self, x):
        keys, state = self.encoder(x)
        h, outs = state[0], []
        projected = self.keys(keys)
        for _ in range(3):
            scores = self.score(torch.tanh(projected + self.query(h)[:, None])).squeeze(2)
            context = torch.bmm(scores.softmax(1).unsqueeze(1), keys).squeeze(1)
            h = self.cell(context, h)
            outs.append(self.head(h))
        return torch.stack(outs, 1)

    return Fn(
        run, encoder=nn.GRU(5, 8, batch_first=True), keys=nn.Linear(8, 6), query=nn.Linear(8, 6),
        score=nn.Linear(6, 1), cell=nn.GRUCell(8, 8), head=nn.Linear(8, 4),
    ), [(2, 7, 5)]  # fmt: skip


def graph_network():
    """Messages along edges, summed at their ends."""

    def run(self, x, edges):
        start, end = edges
        messages = self.message(torch.cat([x[start], x.index_select(0, end)], 1))
        summed = torch.zeros_like(x).index_add(0, end, messages)
        ones = torch.ones(len(end), 1, device=x.device)
        degree = torch.zeros(len(x), 1, device=x.device).scatter_add(0, end[:, None], ones)
        return self.head(F.relu(self.update(x) + summed / degree.clamp(min=1)).max(0)[0])

    net = Fn(run, message=nn.Linear(16, 8), update=nn.Linear(8, 8), head=nn.Linear(8, 3))
    return net, [(10, 8), torch.zeros(2, 20, dtype=torch.int64, device="meta")]


def local_attention():
    """Windows by unfold, put together by fold, and a learned pooling."""

    def run(self, x):
        columns = F.unfold(self.first(x), 3, padding=1)
        z = self.mix(columns.transpose(1, 2)).transpose(1, 2)
        z = F.fold(z, (8, 8), 3, padding=1)
        windows = z.unfold(2, 2, 2).unfold(3, 2, 2)
        return self.head(windows.std((-1, -2)).flatten(1)), torch.logsumexp(z, 1)

    return Fn(run, first=nn.Conv2d(1, 2, 1), mix=nn.Linear(18, 18), head=nn.Linear(32, 3)), [(2, 1, 8, 8)]


def quantised():
    """A codebook and the straight-through estimator (VQ-VAE)."""

    def run(self, x):
        z = self.encoder(x)
        far = z.pow(2).sum(1, keepdim=True) - 2 * z @ self.book.t() + self.book.pow(2).sum(1)
        chosen = F.embedding(far.argmin(1), self.book)
        return self.decoder(z + (chosen - z).detach()), F.mse_loss(chosen, z.detach())

    return Fn(
        run, encoder=nn.Linear(16, 4), book=nn.Parameter(torch.randn(12, 4)), decoder=nn.Linear(4, 16)
    ), [(5, 16)]


def low_rank():
    """Low-rank weights beside frozen ones, two bilinear forms and a cumulative sum."""

    def run(self, x, y):
        z = F.linear(x, self.frozen) + torch.add(x @ self.a, x, alpha=0.5)[:, :4] @ self.b
        return torch.tensordot(self.both(z, y), self.core, dims=1).cumsum(-1), torch.inner(z, y)

    net = Fn(
        run, frozen=nn.Parameter(torch.randn(8, 8), requires_grad=False), a=nn.Parameter(torch.randn(8, 8)),
        b=nn.Parameter(torch.randn(4, 8)), both=nn.Bilinear(8, 8, 6), core=nn.Parameter(torch.randn(6, 2, 3)),
    )  # fmt: skip
    return net, [(5, 8), (5, 8)]


USUAL = {
    "U-Net, transposed": lambda: unet("transposed"), "U-Net, bilinear": lambda: unet("bilinear"),
    "U-Net, nearest": lambda: unet("nearest"), "SegNet": segnet, "feature pyramid with heads": feature_pyramid,
    "ConvNeXt": convnext, "ViT": vision_transformer, "Swin": swin, "MLP-Mixer": mixer, "GPT": gpt, "LLaMA": llama,
    "translator": translator, "EfficientNet": efficientnet, "MobileNetV3": mobilenet_v3, "ShuffleNet": shufflenet,
    "DenseNet": densenet, "CBAM": attention_modules, "WaveNet": wavenet, "super-resolution": super_resolution,
    "generator": generator, "discriminator": discriminator, "discriminator with old norms": old_discriminator,
    "VAE": variational, "V-Net": v_net, "PointNet": point_net, "ArcFace": arc_face, "siamese": siamese,
    "soft experts": soft_experts, "recurrent with attention": attentive_sequence, "graph network": graph_network,
    "local windows": local_attention, "VQ-VAE": quantised, "low rank": low_rank,
}  # fmt: skip

"""ReDimNet against a plain forward pass on its weights, channels first, one utterance at a time."""

import math

import pytest
import torch
from builders import settle
from torch.nn import functional as F

from speechssl.encoders.redimnet import ReDimNet
from speechssl.errors import UserError

BANDS = 12
SIZES = {
    "channels": 8,
    "strides": [1, 2, 3],
    "blocks": [2, 1, 1],
    "expansions": [1, 2, 1],
    "reductions": [0, 12, 8],
    "embedding_dim": 10,
}


def small(**settings):
    torch.manual_seed(0)
    encoder = ReDimNet(BANDS, **{**SIZES, **settings}).double()
    for parameter in encoder.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))  # weights of outputs begin equal
    settle(encoder)
    return encoder.eval()


class Plain:
    """ReDimNet as its paper writes it (section 3), on a state dict."""

    def __init__(self, state):
        self.state = state

    def has(self, name):
        return any(key.startswith(name) for key in self.state)

    def conv(self, name, x, stride=1):
        weight, bias = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        groups = x.shape[1] // weight.shape[1]
        if weight.dim() == 3:
            return F.conv1d(x, weight, bias, padding=weight.shape[2] // 2, groups=groups)
        pad = weight.shape[3] // 2
        return F.conv2d(
            x, weight, bias, (stride, 1), (0 if stride > 1 else pad, pad), groups=groups
        )

    def norm(self, name, x, eps=1e-5):
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.state[f"{name}.{key}"] for key in keys), eps=eps)

    def layer_norm(self, name, x):
        """Over the channels, the second axis."""
        values = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return F.layer_norm(x.movedim(1, -1), x.shape[1:2], *values, eps=1e-6).movedim(-1, 1)

    def weighted(self, name, outputs):
        if len(outputs) == 1:
            return outputs[0]
        return (self.state[f"{name}.w"].softmax(1) * torch.stack(outputs, 1)).sum(1)

    def convnext(self, name, x):
        y = F.gelu(self.norm(f"{name}.norm", self.conv(f"{name}.dwconvs.0", x)))
        return x + self.conv(f"{name}.pwconv1", y)

    def basic(self, name, x):
        y = self.norm(
            f"{name}.bn1", self.conv(f"{name}.conv1pw", self.conv(f"{name}.conv1", x)).relu()
        )
        y = self.norm(f"{name}.bn2", self.conv(f"{name}.conv2pw", self.conv(f"{name}.conv2", y)))
        if self.has(f"{name}.se"):
            get = self.state.__getitem__
            mean = y.mean((1, 3))
            hidden = F.linear(
                mean, get(f"{name}.se.squeeze.weight"), get(f"{name}.se.squeeze.bias")
            )
            gates = F.linear(
                hidden.relu(), get(f"{name}.se.exitation.weight"), get(f"{name}.se.exitation.bias")
            )
            y = y * gates.sigmoid()[:, None, :, None]
        return (x + y).relu()

    def transformer(self, name, x):
        get = self.state.__getitem__
        x = x[0].T  # frames, channels

        def product(part, y):
            return F.linear(y, get(f"{name}.{part}.weight"), get(f"{name}.{part}.bias"))

        def layer_norm(part, y):
            return F.layer_norm(
                y, y.shape[1:], get(f"{name}.{part}.weight"), get(f"{name}.{part}.bias"), 1e-6
            )

        parts = [product(f"attention.{part}_proj", x).chunk(4, 1) for part in "qkv"]
        heads = []
        for query, key, value in zip(*parts, strict=True):
            scores = query @ key.T / math.sqrt(query.shape[1])
            heads.append(scores.softmax(1) @ value)
        x = layer_norm("layer_norm", x + product("attention.out_proj", torch.cat(heads, 1)))
        hidden = product("feed_forward.intermediate_dense", x)
        cubic = math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)
        hidden = 0.5 * hidden * (1 + cubic.tanh())
        x = layer_norm("final_layer_norm", x + product("feed_forward.output_dense", hidden))
        return x.T[None]

    def time(self, name, x):
        y = self.layer_norm(f"{name}.red_dim_conv.1", self.conv(f"{name}.red_dim_conv.0", x))
        if self.has(f"{name}.tcm.0.dwconvs"):
            for index in range(4):
                y = self.convnext(f"{name}.tcm.{index}", y)
            y = self.transformer(f"{name}.tcm.4", y)
        else:
            y = y + self.layer_norm(f"{name}.tcm.0.norm", self.conv(f"{name}.tcm.0.conv", y))
            y = self.transformer(f"{name}.tcm.1", y)
        return x + self.conv(f"{name}.exp_dim_conv", y)

    def stage(self, name, outputs, bands, stride, blocks):
        x = self.weighted(f"{name}.0", outputs)
        maps = x.view(1, bands, -1, x.shape[2]).transpose(1, 2)
        maps = self.conv(f"{name}.2", maps, stride) if stride > 1 else self.conv(f"{name}.2", maps)
        index = 3
        for _ in range(blocks):
            block = f"{name}.{index}.conv_block"
            kind = self.convnext if self.has(f"{block}.dwconvs") else self.basic
            maps = kind(block, maps)
            index += 1
        if self.has(f"{name}.{index}.0"):
            maps = F.gelu(
                self.norm(f"{name}.{index}.1", self.conv(f"{name}.{index}.0", maps), 1e-6)
            )
            maps = self.conv(f"{name}.{index}.3", maps)
            index += 1
        x = maps.transpose(1, 2).flatten(1, 2)
        return self.time(f"{name}.{index + 1}", x) if self.has(f"{name}.{index + 1}") else x

    def pool(self, x):
        given = x
        if self.state["pool.linear1.weight"].shape[1] > x.shape[1]:
            spread = (x.var(2, keepdim=True) + 1e-7).sqrt()
            given = torch.cat([x, x.mean(2, keepdim=True).expand_as(x), spread.expand_as(x)], 1)
        weights = self.conv("pool.linear2", self.conv("pool.linear1", given).tanh()).softmax(2)
        mean = (weights * x).sum(2, keepdim=True)
        variance = (weights * (x - mean) ** 2).sum(2)
        return torch.cat([mean[:, :, 0], variance.clamp(min=1e-7).sqrt()], 1)

    def __call__(self, features):
        maps = self.conv("backbone.stem.0", features.T[None, None])
        outputs = [self.layer_norm("backbone.stem.1", maps).transpose(1, 2).flatten(1, 2)]
        bands = BANDS
        for index, stride in enumerate(SIZES["strides"]):
            name = f"backbone.stage{index}"
            outputs.append(self.stage(name, outputs, bands, stride, SIZES["blocks"][index]))
            bands //= stride
        x = self.weighted("backbone.fin_wght1d", outputs)
        if self.has("backbone.mfa"):
            x = self.norm("backbone.mfa.1", self.conv("backbone.mfa.0", x))
        pooled = self.norm("bn", self.pool(x))
        return F.linear(pooled, self.state["linear.weight"], self.state["linear.bias"])[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"block_2d": "convnext", "block_1d": "attention", "global_context": False},
        {"block_2d": "convnext", "block_1d": "convolution_attention", "out_channels": 20},
        {"block_2d": "basic", "block_1d": "convolution_attention", "group_size": 1},
        {"block_2d": "basic_gated", "block_1d": "attention"},
    ],
)
@torch.no_grad()
def test_each_utterance_of_a_padded_batch_is_the_plain_forward_pass(settings):
    encoder = small(**settings)
    lengths = torch.tensor([71, 30, 9])
    features = torch.randn(3, 71, BANDS, dtype=torch.float64)
    got = encoder(features, lengths)
    plain = Plain(encoder.state_dict())
    for row, length in enumerate(lengths):
        want = plain(features[row, :length])
        torch.testing.assert_close(got[row], want, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    "settings, reason",
    [
        ({"strides": [1, 2]}, "as many of each"),
        ({"strides": [1, 2, 5]}, "no multiple of 10"),
        ({"blocks": [0, 1, 1]}, "blocks"),
        ({"expansions": [1, 1, 1000]}, "expansions"),
        ({"reductions": [0, 0, 7]}, "no multiple of 4"),
        ({"group_size": 3}, "group_size 3"),
    ],
)
def test_sizes_that_do_not_fit_are_one_line(settings, reason):
    with pytest.raises(UserError, match=reason):
        small(**settings)

"""ERes2NetV2 against a plain forward pass on its weights, channels first, one utterance at a time."""

import pytest
import torch
from builders import settle
from torch.nn import functional as F

from speechssl.encoders.eres2netv2 import ERes2NetV2, Fusion
from speechssl.errors import UserError
from speechssl.nn.frames import Frames

SIZES = {"width": 16, "blocks": [1, 2, 1, 2], "embedding_dim": 10}


def small(**settings):
    torch.manual_seed(0)
    encoder = ERes2NetV2(16, **{**SIZES, **settings}).double()
    settle(encoder)
    return encoder.eval()


class Plain:
    """ERes2NetV2 as its paper writes it (section 2), on a state dict."""

    def __init__(self, state, scale):
        self.state = state
        self.scale = scale

    def conv(self, name, x, stride=1):
        weight = self.state[f"{name}.weight"]
        bias = self.state.get(f"{name}.bias")
        return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2)

    def norm(self, name, x):
        values = [
            self.state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        ]
        return F.batch_norm(x, *values)

    def fuse(self, name, x, y):
        hidden = self.conv(f"{name}.local_att.0", torch.cat([x, y], 1))
        hidden = F.silu(self.norm(f"{name}.local_att.1", hidden))
        weight = (
            1 + self.norm(f"{name}.local_att.4", self.conv(f"{name}.local_att.3", hidden)).tanh()
        )
        return weight * x + (2 - weight) * y

    def block(self, name, x, stride, fuses):
        y = self.norm(f"{name}.bn1", self.conv(f"{name}.conv1", x, stride)).clamp(0, 20)
        outputs = []
        for index, group in enumerate(y.chunk(self.scale, 1)):
            if outputs and fuses:
                group = self.fuse(f"{name}.fuse_models.{index - 1}", outputs[-1], group)
            elif outputs:
                group = outputs[-1] + group
            group = self.conv(f"{name}.convs.{index}", group)
            outputs.append(self.norm(f"{name}.bns.{index}", group).clamp(0, 20))
        y = self.norm(f"{name}.bn3", self.conv(f"{name}.conv3", torch.cat(outputs, 1)))
        if f"{name}.shortcut.0.weight" in self.state:
            x = self.norm(f"{name}.shortcut.1", self.conv(f"{name}.shortcut.0", x, stride))
        return (x + y).clamp(0, 20)

    def __call__(self, features, blocks):
        x = self.norm("bn1", self.conv("conv1", features.T[None, None])).relu()
        stages = []
        for stage, count in enumerate(blocks, 1):
            for number in range(count):
                stride = 2 if stage > 1 and number == 0 else 1
                x = self.block(f"layer{stage}.{number}", x, stride, stage > 2)
            stages.append(x)
        x = self.fuse("fuse34", stages[3], self.conv("layer3_ds", stages[2], 2))
        spread = (x.var(-1) + 1e-8).sqrt()
        pooled = torch.cat([x.mean(-1).flatten(), spread.flatten()])
        return F.linear(pooled, self.state["seg_1.weight"], self.state["seg_1.bias"])


@pytest.mark.parametrize("scale", [2, 4])
@torch.no_grad()
def test_each_utterance_of_a_padded_batch_is_the_plain_forward_pass(scale):
    encoder = small(scale=scale)
    for value in encoder.state_dict().values():
        if value.dim() == 4:
            value.mul_(3)  # so that activations are clipped at 20
    lengths = torch.tensor([83, 40, 41, 17])
    features = 5 * torch.randn(4, 83, 16, dtype=torch.float64)
    got = encoder(features, lengths)
    plain = Plain(encoder.state_dict(), scale)
    for row, length in enumerate(lengths):
        want = plain(features[row, :length], SIZES["blocks"])
        # the variance of a dead channel is 1e-12 here, and 0 there
        torch.testing.assert_close(got[row], want, atol=1e-5, rtol=1e-5)


def test_fused_maps_stay_in_half_precision():
    """A bias in float32 would make all that follows it float32: twice the memory and the time."""
    maps = torch.randn(2, 9, 4, 16).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert Fusion(16).eval()(maps, maps, Frames.of(maps, None)).dtype == torch.bfloat16


def test_the_default_sizes_are_those_of_the_released_weights():
    with torch.device("meta"):
        encoder = ERes2NetV2(80)
    assert sum(p.numel() for p in encoder.parameters()) == 17_859_632  # the program says 17.86 M


@pytest.mark.parametrize(
    "settings, reason",
    [
        ({"blocks": [1, 1, 1]}, "four numbers"),
        ({"blocks": [1, 0, 1, 1]}, "four numbers"),
        ({"scale": 0}, "scale 0"),
        ({"base_width": 1}, "no channel for a group"),
    ],
)
def test_sizes_that_cannot_be_are_one_line(settings, reason):
    with pytest.raises(UserError, match=reason):
        small(**settings)

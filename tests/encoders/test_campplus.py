"""CAM++ against a plain forward pass of its layers, channels first, one utterance at a time."""

import pytest
import torch
from torch.nn import functional as F

from speechssl.encoders.campplus import CAMPPlus
from speechssl.errors import UserError


def small(**settings):
    torch.manual_seed(0)
    sizes = {"head_channels": 4, "width": 8, "layers": [2, 3, 1], "growth_rate": 6}
    return CAMPPlus(16, **{**sizes, "embedding_dim": 10, **settings}).double()


def with_random_statistics(encoder):
    generator = torch.Generator().manual_seed(1)
    for name, buffer in encoder.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator, dtype=buffer.dtype))
            assert name.endswith(("running_mean", "running_var"))
    return encoder.eval()


class Plain:
    """CAM++ as its paper writes it (section 2), on a state dict."""

    def __init__(self, state):
        self.state = state

    def norm(self, name, x):
        get = self.state.get
        return F.batch_norm(
            x,
            get(f"{name}.running_mean"),
            get(f"{name}.running_var"),
            get(f"{name}.weight"),
            get(f"{name}.bias"),
        )

    def conv2d(self, name, x, stride=1):
        weight = self.state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=(stride, 1), padding=weight.shape[-1] // 2)

    def residual(self, name, x, stride):
        y = self.norm(f"{name}.bn1", self.conv2d(f"{name}.conv1", x, stride)).relu()
        y = self.norm(f"{name}.bn2", self.conv2d(f"{name}.conv2", y))
        if stride > 1:
            x = self.norm(f"{name}.shortcut.1", self.conv2d(f"{name}.shortcut.0", x, stride))
        return (x + y).relu()

    def head(self, features):
        x = features.T[None, None]  # (1, 1, M, F)
        x = self.norm("head.bn1", self.conv2d("head.conv1", x)).relu()
        for layer in ("head.layer1", "head.layer2"):
            x = self.residual(f"{layer}.0", x, 2)
            x = self.residual(f"{layer}.1", x, 1)
        x = self.norm("head.bn2", self.conv2d("head.conv2", x, 2)).relu()
        return x.flatten(1, 2)  # (1, C, F)

    def dense_layer(self, name, x, dilation):
        x = self.norm(f"{name}.nonlinear1.batchnorm", x).relu()
        x = F.conv1d(x, self.state[f"{name}.linear1.weight"])
        x = self.norm(f"{name}.nonlinear2.batchnorm", x).relu()
        cam = f"{name}.cam_layer"
        gates = []
        for frame in range(x.shape[2]):
            segment = 100 * (frame // 100)
            context = x.mean(2) + x[:, :, segment : segment + 100].mean(2)
            context = context[:, :, None]
            for number in ("1", "2"):
                weight = self.state[f"{cam}.linear{number}.weight"]
                bias = self.state[f"{cam}.linear{number}.bias"]
                context = F.conv1d(context, weight, bias)
                context = context.relu() if number == "1" else context.sigmoid()
            gates.append(context)
        weight = self.state[f"{cam}.linear_local.weight"]
        local = F.conv1d(x, weight, padding=dilation, dilation=dilation)
        return local * torch.cat(gates, 2)

    def __call__(self, features, layers=(2, 3, 1)):
        x = F.conv1d(self.head(features), self.state["xvector.tdnn.linear.weight"], None, 2, 2)
        x = self.norm("xvector.tdnn.nonlinear.batchnorm", x).relu()
        for block, (count, dilation) in enumerate(zip(layers, (1, 2, 2), strict=True), 1):
            for layer in range(1, count + 1):
                y = self.dense_layer(f"xvector.block{block}.tdnnd{layer}", x, dilation)
                x = torch.cat([x, y], 1)
            x = self.norm(f"xvector.transit{block}.nonlinear.batchnorm", x).relu()
            x = F.conv1d(x, self.state[f"xvector.transit{block}.linear.weight"])
        x = self.norm("xvector.out_nonlinear.batchnorm", x).relu()
        pooled = torch.cat([x.mean(2), x.std(2)], 1)
        embedding = F.linear(pooled, self.state["xvector.dense.linear.weight"][:, :, 0])
        return self.norm("xvector.dense.nonlinear.batchnorm", embedding)[0]


@torch.no_grad()
def test_each_utterance_of_a_padded_batch_is_the_plain_forward_pass():
    encoder = with_random_statistics(small())
    lengths = torch.tensor([431, 201, 200, 7])  # 216, 101, 100 and 4 frames after the stride
    features = torch.randn(4, 431, 16, dtype=torch.float64)
    got = encoder(features, lengths)
    plain = Plain(encoder.state_dict())
    for row, length in enumerate(lengths):
        # channels that are dead in an utterance have a deviation of 1e-6 here, and 0 there
        torch.testing.assert_close(got[row], plain(features[row, :length]), atol=1e-5, rtol=1e-6)


def test_the_default_sizes_are_those_of_the_released_weights():
    encoder = CAMPPlus(80)
    state = encoder.state_dict()
    assert sum(p.numel() for p in encoder.parameters()) == 6_848_544
    assert state["xvector.tdnn.linear.weight"].shape == (128, 320, 5)
    assert state["xvector.block2.tdnnd24.cam_layer.linear_local.weight"].shape == (32, 128, 3)
    assert state["xvector.transit3.linear.weight"].shape == (512, 1024, 1)
    assert state["xvector.dense.linear.weight"].shape == (192, 1024, 1)
    assert "xvector.dense.nonlinear.batchnorm.weight" not in state


@pytest.mark.parametrize(
    "settings, reason", [({"layers": [1, 2]}, "three numbers"), ({"layers": [1, 0, 1]}, "three")]
)
def test_sizes_that_do_not_fit_are_one_line(settings, reason):
    with pytest.raises(UserError, match=reason):
        small(**settings)


def test_the_number_of_features_must_be_a_multiple_of_8():
    with pytest.raises(UserError, match="multiple of 8"):
        CAMPPlus(20)

"""ResNet: equal to SpeechBrain's module, blind to padding, and usable by the rest of torch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.encoders.resnet import ResNet
from speechssl.errors import UserError

WIDTH, MELS = 8, 20


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def small(**options: object) -> ResNet:
    return ResNet(MELS, width=WIDTH, **{"blocks": [1, 2, 1, 1], "embedding_dim": 24, **options})


def speechbrain_resnet() -> nn.Module:
    import speechssl  # noqa: F401 (makes SpeechBrain importable)

    lobe = pytest.importorskip("speechbrain.lobes.models.ResNet")
    return lobe.ResNet(MELS, channels=[8, 16, 32, 64], block_sizes=[1, 2, 1, 1], lin_neurons=24)


def settle(model: nn.Module) -> None:
    """Give batch norms statistics that fit their inputs, and scales other than one."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(8, 50, MELS))


def gradients(
    model: nn.Module, features: Tensor, weights: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    output = model(features)
    (output * weights).sum().backward()
    return output.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def relative(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Largest error of a parameter's gradient, relative to it or to a thousandth of the largest
    one.
    """
    floor = 1e-3 * max(float(g.norm()) for g in theirs.values())
    return max(float((ours[k] - g).norm() / g.norm().clamp(min=floor)) for k, g in theirs.items())


def test_state_dict_of_speechbrain_fits_both_ways() -> None:
    theirs, ours = speechbrain_resnet(), small()
    shapes = {name: value.shape for name, value in theirs.state_dict().items()}
    assert {name: value.shape for name, value in ours.state_dict().items()} == shapes
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_and_gradients_are_speechbrains(training: bool, dtype: torch.dtype) -> None:
    theirs, ours = speechbrain_resnet(), small()
    settle(theirs)
    ours.load_state_dict(theirs.state_dict())
    theirs.train(training).to(dtype)
    ours.train(training).to(dtype)
    features, weights = torch.randn(16, 50, MELS, dtype=dtype), torch.randn(16, 24, dtype=dtype)
    output, ours_grad = gradients(ours, features, weights)
    expected, theirs_grad = gradients(theirs, features, weights)
    assert torch.allclose(output, expected, atol=1e-4, rtol=0)
    # In float32 a rectifier whose input is within rounding of 0 may open here and not there.
    assert relative(ours_grad, theirs_grad) < (1e-8 if dtype == torch.float64 else 2e-2)
    buffers = dict(theirs.named_buffers())
    for name, buffer in ours.named_buffers():
        assert torch.allclose(buffer.float(), buffers[name].float(), atol=1e-5, rtol=1e-4), name


def test_squeeze_excitation_only_where_asked() -> None:
    for stages in (0, 2, 4):
        names = {
            name.split(".")[0]
            for name, _ in small(se_stages=stages).named_parameters()
            if ".se." in name
        }
        assert names == {f"layer{stage + 1}" for stage in range(stages)}


@pytest.mark.parametrize("pooling", ["attentive", "statistics"])
@pytest.mark.parametrize("mels", [20, 23])
def test_padded_batch_equals_single_utterances(pooling: str, mels: int) -> None:
    model = ResNet(mels, width=WIDTH, blocks=[1, 2, 1, 1], embedding_dim=24, pooling=pooling)
    for _ in range(10):
        model(torch.randn(8, 50, mels))
    model.eval()
    lengths = torch.tensor([50, 31, 8, 1, 49])
    features = torch.randn(5, 50, mels)
    for row, length in zip(features, lengths, strict=True):
        row[length:] = float("nan")
    with torch.no_grad():
        batched = model(features, lengths)
        single = [model(row[None, :length]) for row, length in zip(features, lengths, strict=True)]
    assert torch.allclose(batched, torch.cat(single), atol=1e-5, rtol=0)


def test_padding_changes_neither_training_statistics_nor_gradients() -> None:
    model = small().double()
    longer = copy.deepcopy(model)
    features, lengths = torch.randn(6, 40, MELS).double(), torch.tensor([40, 30, 20, 40, 25, 35])
    weights = torch.randn(6, 24).double()
    (model(features, lengths) * weights).sum().backward()
    (longer(F.pad(features, (0, 0, 0, 13), value=7.0), lengths) * weights).sum().backward()
    for (name, a), (_, b) in zip(model.named_buffers(), longer.named_buffers(), strict=True):
        assert torch.allclose(a, b), name
    for (name, a), (_, b) in zip(model.named_parameters(), longer.named_parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-8 * (1 + float(a.grad.abs().max()))), name


def plain_basic_block(block: nn.Module, x: Tensor) -> Tensor:
    """He et al. 2016, figure 5 left, channels first."""
    y = F.relu(block.bn1(block.conv1(x)))
    y = block.bn2(block.conv2(y))
    return F.relu(y + (x if block.downsample is None else block.downsample(x)))


@pytest.mark.parametrize("training", [True, False])
def test_basic_blocks_are_he_et_als(training: bool) -> None:
    model = small(block_type="basic", se_stages=0, pooling="statistics")
    settle(model)
    model.double().train(training)
    features = torch.randn(3, 21, MELS, dtype=torch.float64)
    x = F.relu(model.bn1(model.conv1(features[:, None])))  # (B, C, frames, frequencies)
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for block in stage:
            x = plain_basic_block(block, x)
    x = x.transpose(2, 3).flatten(1, 2)
    pooled = torch.cat([x.mean(2), x.var(2, correction=0).clamp(min=1e-5).sqrt()], 1)
    expected = model.norm_embed(model.fc_embed(model.norm_stats(pooled)))
    torch.testing.assert_close(model(features), expected, rtol=1e-6, atol=1e-8)


def test_basic_blocks_in_a_padded_batch_equal_single_utterances() -> None:
    model = small(block_type="basic", se_stages=1).eval()
    settle(model)
    features, lengths = torch.randn(3, 40, MELS), torch.tensor([40, 17, 9])
    alone = torch.cat([model(features[i : i + 1, :n]) for i, n in enumerate(lengths.tolist())])
    for i, n in enumerate(lengths.tolist()):
        features[i, n:] = 9.0
    torch.testing.assert_close(model(features, lengths), alone, rtol=0, atol=1e-5)


def test_without_its_batch_norms_the_embedding_is_the_linear_layers_output() -> None:
    model = small(pooling="statistics", pooled_norm=False, embedding_norm=False)
    assert list(model.affine_layers()) == ["fc_embed"]
    assert not any(name.startswith(("norm_stats", "norm_embed")) for name in model.state_dict())
    pooled = []
    model.fc_embed.register_forward_pre_hook(lambda module, inputs: pooled.append(inputs[0]))
    embeddings = model(torch.randn(3, 40, MELS))
    want = pooled[0] @ model.fc_embed.weight.T + model.fc_embed.bias
    assert torch.allclose(embeddings, want, atol=1e-6)
    assert list(small().affine_layers()) == ["norm_stats", "fc_embed", "norm_embed"]


def test_light_resnet34_has_the_papers_size() -> None:
    model = ResNet(80, width=16, block_type="basic", se_stages=0, pooling="statistics")
    assert model.embedding_dim == 256
    assert [len(getattr(model, f"layer{stage}")) for stage in (1, 2, 3, 4)] == [3, 4, 6, 3]
    assert (
        model.fc_embed.in_features == 2 * 128 * 10
    )  # mean and deviation of 128 channels at 10 frequencies
    trunk = sum(
        p.numel()
        for name, p in model.named_parameters()
        if name.startswith(("conv1", "bn1", "layer"))
    )
    # 3x3 kernels at 16 channels (He et al. 2016, table 1, a quarter as wide), 1x1 shortcuts, batch
    # norms
    kernels = 9 * (
        16 + 6 * 16**2 + 16 * 32 + 7 * 32**2 + 32 * 64 + 11 * 64**2 + 64 * 128 + 5 * 128**2
    )
    shortcuts = 16 * 32 + 32 * 64 + 64 * 128
    norms = 2 * (16 + 6 * 16 + 9 * 32 + 13 * 64 + 7 * 128)
    assert trunk == kernels + shortcuts + norms


def test_bfloat16_autocast_trains() -> None:
    model = small()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(torch.randn(8, 50, MELS)).float().square().sum()
    loss.backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() and p.dtype == torch.float32
        for p in model.parameters()
    )


def test_sizes_that_do_not_fit_are_user_errors() -> None:
    with pytest.raises(UserError, match="4 stages"):
        ResNet(MELS, blocks=[1, 1, 1])
    with pytest.raises(UserError, match="4 stages"):
        ResNet(MELS, channels=[8, 8])

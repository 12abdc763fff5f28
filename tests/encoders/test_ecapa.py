"""ECAPA-TDNN: equal to SpeechBrain's module, blind to padding, and usable by the rest of torch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.encoders.ecapa import ECAPA
from speechssl.errors import UserError
from speechssl.nn.frames import Frames

WIDTH, MELS = 32, 20


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def small(**options: object) -> ECAPA:
    return ECAPA(
        MELS,
        width=WIDTH,
        **{"embedding_dim": 24, "se_channels": 16, "attention_channels": 16, **options},
    )


def speechbrain_ecapa(**options: object) -> nn.Module:
    import speechssl  # noqa: F401 (makes SpeechBrain importable)

    lobe = pytest.importorskip("speechbrain.lobes.models.ECAPA_TDNN")
    sizes = {
        "lin_neurons": 24,
        "se_channels": 16,
        "attention_channels": 16,
        "channels": [WIDTH] * 4 + [96],
    }
    return lobe.ECAPA_TDNN(MELS, **{**sizes, **options})


def randomise_norms(model: nn.Module) -> None:
    """Give batch norms something other than their initial values, as trained weights have."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


def gradients(
    model: nn.Module, features: Tensor, weights: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    output = model(features).reshape(weights.shape)
    (output * weights).sum().backward()
    return output.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def relative(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Largest error of a parameter's gradient, relative to it or to a thousandth of the largest
    one.
    """
    floor = 1e-3 * max(float(g.norm()) for g in theirs.values())
    return max(float((ours[k] - g).norm() / g.norm().clamp(min=floor)) for k, g in theirs.items())


@pytest.mark.parametrize("context", [True, False])
def test_state_dict_of_speechbrain_fits_both_ways(context: bool) -> None:
    theirs, ours = speechbrain_ecapa(global_context=context), small(global_context=context)
    shapes = {name: value.shape for name, value in theirs.state_dict().items()}
    assert {name: value.shape for name, value in ours.state_dict().items()} == shapes
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("context", [True, False])
def test_eval_outputs_and_gradients_are_speechbrains(context: bool) -> None:
    theirs, ours = (
        speechbrain_ecapa(global_context=context).eval(),
        small(global_context=context).eval(),
    )
    randomise_norms(theirs)
    ours.load_state_dict(theirs.state_dict())
    features, weights = torch.randn(4, 60, MELS), torch.randn(4, 24)
    output, ours_grad = gradients(ours, features, weights)
    expected, theirs_grad = gradients(theirs, features, weights)
    assert torch.allclose(output, expected, atol=1e-4, rtol=0)
    assert relative(ours_grad, theirs_grad) < 1e-3


def test_training_outputs_statistics_and_gradients_are_speechbrains() -> None:
    theirs, ours = speechbrain_ecapa(), small()
    ours.load_state_dict(theirs.state_dict())
    features, weights = torch.randn(16, 100, MELS), torch.randn(16, 24)
    with torch.no_grad():
        assert torch.allclose(ours(features), theirs(features)[:, 0], atol=1e-4, rtol=0)
    buffers = dict(theirs.named_buffers())
    for name, buffer in ours.named_buffers():
        assert torch.allclose(buffer.float(), buffers[name].float(), atol=1e-5, rtol=1e-4), name
    # Gradients in float64: in float32 a rectifier whose input is within rounding of 0 may open here
    # and not there, in SpeechBrain's own module too, which moves gradients by up to 1 %.
    _, ours_grad = gradients(ours.double(), features.double(), weights.double())
    _, theirs_grad = gradients(theirs.double(), features.double(), weights.double())
    assert relative(ours_grad, theirs_grad) < 1e-5


@pytest.mark.parametrize("early", [False, True])
def test_padded_batch_equals_single_utterances(early: bool) -> None:
    model = small(early_statistics=early).eval()
    randomise_norms(model)
    lengths = torch.tensor(
        [50, 31, 6, 3, 50]
    )  # 3 frames: shorter than the reflection at dilation 4
    features = torch.randn(5, 50, MELS)
    for row, length in zip(features, lengths, strict=True):
        row[length:] = float("nan")
    with torch.no_grad():
        batched = model(features, lengths)
        single = [model(row[None, :length]) for row, length in zip(features, lengths, strict=True)]
        assert torch.allclose(batched, torch.cat(single), atol=1e-5, rtol=0)
        full = model(features[:1], torch.tensor([50]))
    assert torch.allclose(full, single[0], atol=1e-5, rtol=0)


def test_padding_changes_neither_training_statistics_nor_gradients() -> None:
    model = small()
    longer = copy.deepcopy(model)
    features, lengths, weights = (
        torch.randn(6, 40, MELS),
        torch.tensor([40, 30, 20, 40, 25, 35]),
        torch.randn(6, 24),
    )
    padded = F.pad(features, (0, 0, 0, 12), value=7.0)
    (model(features, lengths) * weights).sum().backward()
    (longer(padded, lengths) * weights).sum().backward()
    for (name, a), (_, b) in zip(model.named_buffers(), longer.named_buffers(), strict=True):
        assert torch.allclose(a.float(), b.float(), atol=1e-5), name
    for (name, a), (_, b) in zip(model.named_parameters(), longer.named_parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-3 * (1 + float(a.grad.abs().max()))), name


def test_early_statistics_are_those_of_the_features_and_the_first_block() -> None:
    model = small(early_statistics=True).eval()
    plain = small().eval()
    features = torch.randn(3, 30, MELS)
    seen: list[Tensor] = []
    model.asp_bn.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    plain.asp_bn.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    blocks = {name: value for name, value in model.state_dict().items() if "bn" not in name}
    plain.load_state_dict(
        {k: v for k, v in blocks.items() if k in plain.state_dict() and "fc" not in k}, strict=False
    )
    model(features)
    plain(features)
    first = model.blocks[0](features, Frames.of(features, None))
    want = [seen[1]]
    for frames in (features, first):
        want += [frames.mean(1), frames.std(1, correction=0)]
    torch.testing.assert_close(seen[0], torch.cat(want, 1), atol=1e-4, rtol=1e-4)


def test_initialisation_is_torchs() -> None:
    weight = ECAPA(80, width=128).mfa.conv.conv.weight.detach()
    bound = 384**-0.5  # nn.Conv1d: uniform within 1 / sqrt(inputs)
    assert float(weight.abs().max()) <= bound
    assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.02)


def test_bfloat16_autocast_stays_close_and_trains() -> None:
    model = small().eval()
    features = torch.randn(4, 80, MELS)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = model(features).float()
    with torch.no_grad():
        fine = model(features)
    assert torch.nn.functional.cosine_similarity(rough, fine).min() > 0.99
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(features).float().square().sum()
    loss.backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() and p.dtype == torch.float32
        for p in model.parameters()
    )


@pytest.mark.parametrize("pooling", ["attentive", "statistics"])
def test_options_and_output_shape(pooling: str) -> None:
    model = ECAPA(
        MELS,
        width=24,
        embedding_dim=10,
        scale=4,
        kernel_sizes=[3, 3, 5, 1],
        dilations=[1, 2, 3, 1],
        mfa_channels=30,
        pooling=pooling,
    )
    assert model.embedding_dim == 10
    assert model(torch.randn(3, 30, MELS)).shape == (3, 10)


def test_a_batch_norm_of_the_embedding_where_asked() -> None:
    torch.manual_seed(0)
    model = small(embedding_norm=True)
    assert list(model.affine_layers()) == ["asp_bn", "fc", "fc_bn"]
    embeddings = model.train()(torch.randn(6, 30, MELS))
    assert embeddings.mean(0).abs().max() < 1e-5
    assert torch.allclose(embeddings.var(0, unbiased=False), torch.ones(1), atol=0.05)
    assert not any(name.startswith("fc_bn") for name in small().state_dict())


def test_sizes_that_do_not_fit_are_user_errors() -> None:
    with pytest.raises(UserError, match="multiple of scale"):
        ECAPA(MELS, width=30)
    with pytest.raises(UserError, match="odd"):
        ECAPA(MELS, width=16, kernel_sizes=[4, 3, 3, 3, 1])
    with pytest.raises(UserError, match="dilations"):
        ECAPA(MELS, width=16, dilations=[1, 2])


def test_converts_to_synchronised_batch_norm() -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(small())
    assert isinstance(model.mfa.norm.norm, nn.SyncBatchNorm)
    assert model.eval()(torch.randn(2, 30, MELS)).shape == (2, 24)

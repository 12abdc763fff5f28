"""Statistics pooling against torch's mean and deviation, and by numerical gradients."""

import torch

from speechssl.nn import pooling
from speechssl.nn.frames import Frames
from speechssl.nn.pooling import statistics


def test_statistics_are_means_and_deviations_with_gradients() -> None:
    x = torch.randn(3, 7, 4, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(3, 7, 4, dtype=torch.float64, requires_grad=True)
    whole = Frames(3, 7, None, x.device)
    part = Frames(3, 7, torch.tensor([7, 4, 1]), x.device)
    expected = torch.cat([x.mean(1), x.std(1, correction=0)], 1)
    assert torch.allclose(statistics(x, whole), expected)
    assert torch.allclose(
        statistics(x, part)[1], torch.cat([x[1, :4].mean(0), x[1, :4].std(0, correction=0)])
    )
    assert torch.allclose(statistics(x, part)[2, 4:], torch.full((4,), 1e-6, dtype=torch.float64))
    for frames in (whole, Frames(3, 7, torch.tensor([7, 4, 5]), x.device)):
        assert torch.autograd.gradcheck(lambda x, frames=frames: statistics(x, frames), (x,))
        assert torch.autograd.gradcheck(
            lambda x, y, frames=frames: statistics(x, frames, y), (x, logits)
        )


def test_attention_weighs_frames_by_their_softmax() -> None:
    x = torch.tensor([[[1.0], [3.0], [100.0]]])
    logits = torch.tensor([[[0.0], [3.0], [50.0]]])
    frames = Frames(1, 3, torch.tensor([2]), x.device)
    weight = 1 / (1 + torch.tensor(3.0).exp())  # of the first frame; the third is padding
    mean = weight * 1 + (1 - weight) * 3
    variance = weight * (1 - mean) ** 2 + (1 - weight) * (3 - mean) ** 2
    torch.testing.assert_close(
        statistics(x, frames, logits)[0], torch.stack([mean, variance.sqrt()])
    )


def test_blocks_change_nothing(monkeypatch) -> None:
    x = torch.randn(5, 6, 4, requires_grad=True)
    logits = torch.randn(5, 6, 4, requires_grad=True)
    frames = Frames(5, 6, torch.tensor([6, 2, 4, 1, 5]), x.device)
    found = []
    for elements in (1 << 20, 48, 1):  # all rows at once, two rows, one row
        monkeypatch.setattr(pooling, "BLOCK_ELEMENTS", elements)
        pooled = statistics(x, frames, logits)
        found.append((pooled, *torch.autograd.grad(pooled.square().sum(), (x, logits))))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, two)

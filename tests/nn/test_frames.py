"""Valid frames: masks, means and reflection by hand."""

import pytest
import torch
from torch.nn import functional as F

from speechssl.nn.frames import Frames, accumulation_dtype


def test_lengths_are_clamped_to_at_least_one_frame_and_at_most_all() -> None:
    frames = Frames.of(torch.zeros(3, 4, 2), torch.tensor([0, 3, 9]))
    assert frames.lengths.tolist() == [1, 3, 4]
    assert frames.mask.int().tolist() == [[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


def test_without_lengths_there_is_no_mask_and_nothing_is_copied() -> None:
    x = torch.randn(2, 5, 3)
    frames = Frames.of(x, None)
    assert frames.mask is None and frames.zero_padding(x) is x
    torch.testing.assert_close(frames.mean(x), x.mean(1))


def test_means_and_zeros_do_not_see_the_padding() -> None:
    x = torch.tensor([[[1.0], [3.0], [float("nan")]], [[5.0], [float("inf")], [0.0]]])
    frames = Frames.of(x, torch.tensor([2, 1]))
    assert frames.mean(x).tolist() == [[2.0], [5.0]]
    assert frames.zero_padding(x)[:, :, 0].tolist() == [[1.0, 3.0, 0.0], [5.0, 0.0, 0.0]]


def test_reflection_is_torchs_and_bounces_where_an_utterance_is_short() -> None:
    x = torch.arange(5.0)[None, :, None].repeat(3, 1, 1)
    whole = Frames.of(x, None).pad(x, 2)
    torch.testing.assert_close(whole[0, :, 0], F.pad(x[:1, :, 0], (2, 2), mode="reflect")[0])
    padded = Frames.of(x, torch.tensor([5, 3, 1])).pad(x, 2)
    assert padded[0, :, 0].tolist() == [2, 1, 0, 1, 2, 3, 4, 3, 2]
    assert padded[1, :7, 0].tolist() == [2, 1, 0, 1, 2, 1, 0]
    assert padded[2, :5, 0].tolist() == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("length", range(1, 12))
def test_strided_lengths_are_those_of_a_convolution(length: int) -> None:
    alone = F.conv1d(torch.zeros(1, 1, length), torch.zeros(1, 1, 3), stride=2, padding=1)
    frames = Frames(1, 12, torch.tensor([length]), torch.device("cpu")).strided(6, 2)
    assert frames.lengths.tolist() == [alone.shape[2]] and frames.count == 6


def test_sums_are_taken_in_at_least_float32() -> None:
    assert accumulation_dtype(torch.bfloat16) == torch.float32
    assert accumulation_dtype(torch.float64) == torch.float64

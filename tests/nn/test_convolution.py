"""Convolution over frames: torch's, with the ends reflected."""

import pytest
import torch
from torch.nn import functional as F

from speechssl.nn.convolution import Convolution
from speechssl.nn.frames import Frames


@pytest.mark.parametrize(
    ("kernel", "dilation", "frames"), [(3, 4, 20), (5, 1, 9), (1, 1, 4), (3, 4, 4)]
)
def test_convolution_is_reflected_conv1d(kernel: int, dilation: int, frames: int) -> None:
    layer, x = Convolution(6, 5, kernel, dilation), torch.randn(2, frames, 6)
    pad, rows = dilation * (kernel - 1) // 2, x.transpose(1, 2)
    if pad < frames:
        rows = F.pad(rows, (pad, pad), mode="reflect")
    else:  # bounced by hand: 4 frames, 4 to each side
        order = [2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]
        rows = rows[:, :, order]
    expected = layer.conv(rows).transpose(1, 2)
    assert torch.allclose(layer(x, Frames(2, frames, None, x.device)), expected, atol=1e-5)


def test_a_wide_kernel_needs_to_know_where_utterances_end() -> None:
    with pytest.raises(ValueError, match="where utterances end"):
        Convolution(4, 4, 3)(torch.randn(2, 10, 4))


def test_a_kernel_of_one_frame_maps_frames_and_pooled_vectors() -> None:
    layer = Convolution(4, 5)
    x = torch.randn(2, 7, 4)
    expected = x @ layer.conv.weight[:, :, 0].T + layer.conv.bias
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(x[:, 0]), expected[:, 0])
    torch.testing.assert_close(layer(x, relu=True), expected.relu())

"""Channels-last convolutions against torch's own, whichever library computes the products."""

import pytest
import torch
from torch import nn

from speechssl.nn import maps
from speechssl.nn.maps import convolve_frames
from speechssl.nn.products import using_kernel


@pytest.mark.parametrize(
    ("kernel_size", "stride", "groups"), [(1, 1, 1), (1, 2, 1), (3, 1, 1), (1, 1, 4)]
)
def test_frames_are_convolved_as_torch_does(kernel_size, stride, groups):
    torch.manual_seed(0)
    conv = nn.Conv1d(96, 64, kernel_size, stride, kernel_size // 2, groups=groups)
    x = torch.randn(3, 120, 96)
    expected = conv(x.transpose(1, 2)).transpose(1, 2)
    for kernel in ("mkl", "onednn"):
        with using_kernel(kernel):
            torch.testing.assert_close(convolve_frames(conv, x), expected, atol=1e-5, rtol=0)


def test_a_kernel_of_one_frame_is_computed_by_the_selected_library(monkeypatch):
    calls = []

    def watched(x, weight, bias=None):
        calls.append(weight.shape)
        return nn.functional.linear(x, weight, bias)

    monkeypatch.setattr(maps, "linear", watched)
    convolve_frames(nn.Conv1d(96, 64, 1), torch.randn(2, 10, 96))
    assert calls == [(64, 96)]

"""Float32 products: both libraries give the product, forward and backward; who chooses which."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from speechssl.errors import UserError
from speechssl.nn import products
from speechssl.nn.products import KERNEL_VARIABLE, choose_kernel, linear, using_kernel

ROWS = 600
IN_CHANNELS = 64
OUT_CHANNELS = 96


def _layer(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.randn(3, ROWS // 3, IN_CHANNELS, dtype=dtype, requires_grad=True)
    weight = torch.randn(OUT_CHANNELS, IN_CHANNELS, dtype=dtype, requires_grad=True)
    bias = torch.randn(OUT_CHANNELS, dtype=dtype, requires_grad=True)
    return x, weight, bias


@pytest.mark.parametrize("kernel", ["mkl", "onednn"])
def test_each_kernel_gives_the_product_and_its_gradients(kernel: products.Kernel) -> None:
    inputs = _layer()
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    slope = torch.randn(3, ROWS // 3, OUT_CHANNELS)
    with using_kernel(kernel):
        y = linear(*inputs)
        (y * slope).sum().backward()
    expected = exact[0] @ exact[1].T + exact[2]
    (expected * slope).sum().backward()
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-4)
    for tensor, truth in zip(inputs, exact, strict=True):
        assert tensor.grad is not None
        torch.testing.assert_close(tensor.grad.double(), truth.grad, rtol=1e-5, atol=1e-4)


def _operations(kernel: products.Kernel, x: torch.Tensor, *layer: torch.Tensor) -> set[str]:
    with using_kernel(kernel), torch.profiler.profile() as profiler:
        linear(x, *layer)
    return {row.key for row in profiler.key_averages()}


def test_onednn_is_really_called_with_one_thread_and_one_image() -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert "aten::mkldnn_convolution" in _operations("onednn", *_layer())
        assert "aten::mkldnn_convolution" not in _operations("mkl", *_layer())
    finally:
        torch.set_num_threads(before)


def test_other_types_and_few_rows_stay_with_torchs_linear() -> None:
    x, weight, bias = _layer()
    assert "aten::linear" in _operations("onednn", *_layer(torch.float64))
    assert "aten::linear" in _operations("onednn", x[0, :9], weight, bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert "aten::linear" in _operations("onednn", x, weight, bias)


def test_a_recorded_graph_holds_a_linear_layer() -> None:
    x, weight, bias = (tensor.detach() for tensor in _layer())
    with using_kernel("onednn"):
        graph = torch.jit.trace(lambda rows: linear(rows, weight, bias), x)
        assert "aten::linear" in str(graph.graph)
        assert "conv" not in str(graph.graph)
    torch.testing.assert_close(graph(x), F.linear(x, weight, bias))


@pytest.mark.parametrize(
    ("vendor", "flags", "expected"),
    [
        ("AuthenticAMD", "fpu avx2 avx512f avx512_bf16", "onednn"),
        ("AuthenticAMD", "fpu avx2", "mkl"),
        ("GenuineIntel", "fpu avx2 avx512f amx_tile", "mkl"),
    ],
)
def test_the_processor_decides(vendor: str, flags: str, expected: str, tmp_path: Path) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    cpuinfo = tmp_path / "cpuinfo"
    one = f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: {flags}\n"
    cpuinfo.write_text(f"{one}\n{one}\n", encoding="utf-8")
    assert products.kernel_of_processor(cpuinfo) == expected
    assert products.kernel_of_processor(tmp_path / "missing") == "mkl"


def test_the_user_overrules_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    for kernel in ("mkl", "onednn"):
        monkeypatch.setenv(KERNEL_VARIABLE, kernel)
        assert choose_kernel() == kernel
    assert choose_kernel("mkl") == "mkl"
    monkeypatch.setenv(KERNEL_VARIABLE, "fast")
    with pytest.raises(UserError, match="give mkl, onednn or auto"):
        choose_kernel()

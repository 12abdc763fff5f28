"""Messages: what is sent arrives with its bits, and nothing else is accepted."""

from __future__ import annotations

import json
import pickle
import struct

import pytest
import torch

from speechssl.federated.wire import Refused, pack, unpack, unpack_rows

STATE = {"b": torch.arange(6.0).view(2, 3), "a": torch.tensor(7), "flag": torch.tensor(True)}
EXPECTED = {name: value.to("meta") for name, value in STATE.items()}


def raw(header: dict[str, object], body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_what_is_sent_arrives_with_its_bits_whatever_the_order_of_names() -> None:
    data = pack(STATE)
    assert pack(dict(reversed(STATE.items()))) == data
    arrived = unpack(data, EXPECTED)
    assert all(torch.equal(arrived[name], value) for name, value in STATE.items())


def test_weights_are_in_the_order_that_was_expected() -> None:
    expected = {f"layer{number % 7}.{number}": torch.zeros(1) for number in range(20)}
    assert list(unpack(pack(expected), expected)) == list(expected)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": STATE["a"], "b": STATE["b"]}, "1 weights are missing"),
        ({**STATE, "x": torch.zeros(1)}, "1 are not known"),
        ({**STATE, "b": torch.zeros(3, 2)}, r"'b' is torch.float32 \(3, 2\)"),
        ({**STATE, "b": STATE["b"].double()}, "'b' is torch.float64"),
        ({**STATE, "b": torch.full((2, 3), float("nan"))}, "not finite"),
        ({**STATE, "b": torch.full((2, 3), float("inf"))}, "not finite"),
        ({**STATE, "b": torch.zeros(300, 300)}, "bytes"),
    ],
)
def test_other_weights_are_refused(state: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(Refused, match=message):
        unpack(pack(state), EXPECTED)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 7,
        pickle.dumps(STATE),
        struct.pack("<Q", 1 << 60) + b"{}",
        raw({"b": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}),
        raw({"b": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}, b"\x00" * 8),
        pack(STATE)[:-1],
        b"\x00" * (1 << 18),
    ],
)
def test_bytes_that_are_no_safetensors_are_refused_and_take_no_memory(data: bytes) -> None:
    with pytest.raises(Refused):
        unpack(data, EXPECTED)


def test_centroids_have_the_size_that_was_asked_for() -> None:
    rows = torch.randn(3, 4)
    assert torch.equal(unpack_rows(pack({"centroids": rows}), 5, 4), rows)
    for bad in (
        {"centroids": torch.zeros(6, 4)},
        {"centroids": torch.zeros(0, 4)},
        {"centroids": torch.zeros(3, 5)},
        {"centroids": torch.zeros(4)},
        {"centroids": torch.full((3, 4), float("nan"))},
        {"others": torch.zeros(3, 4)},
    ):
        with pytest.raises(Refused):
            unpack_rows(pack(bad), 5, 4)

"""Weights as bytes, between clients and server; whatever arrives is checked before it is used.

The bytes are safetensors: no pickle, nothing that could run, and no more memory than they are long.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import safetensors.torch
import torch
from torch import Tensor

from speechssl.errors import UserError
from speechssl.federated.averaging import State

HEADER_SLACK = 1 << 16
"""Bytes by which a message may be longer than ours: another writer pads its header otherwise."""


class Refused(UserError):
    """What has arrived is not what was asked for; the message says what is wrong with it."""


def pack(state: Mapping[str, Tensor]) -> bytes:
    """Return tensors as the bytes of a safetensors file."""
    plain = {name: value.detach().cpu().contiguous() for name, value in sorted(state.items())}
    data: bytes = safetensors.torch.save(plain)
    return data


def digest(data: bytes) -> str:
    """Return a fingerprint of a message."""
    return hashlib.sha256(data).hexdigest()


def unpack(data: bytes, expected: Mapping[str, Tensor]) -> State:
    """Return the weights in a message.

    Args:
        data: what has arrived.
        expected: tensors (on any device, `meta` too) of the names, shapes and types that were asked
            for.

    Raises:
        Refused: the message is longer than those are, is no safetensors, or as `fitting`.
    """
    longest = HEADER_SLACK + len(expected) * 512
    longest += sum(value.numel() * value.element_size() for value in expected.values())
    return fitting(_tensors(data, longest), expected)


def fitting(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> State:
    """Return weights, in the order of `expected`, after a look at all of them.

    safetensors gives them in another order each time: sums over weights, and the file that a server
    resumes from, would have other bits after a resume.

    Args:
        tensors: what has arrived, or was kept.
        expected: as of `unpack`.

    Raises:
        Refused: they have other names, shapes or types, or hold a number that is not finite.
    """
    missing = sorted(expected.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        raise Refused(
            f"{len(missing)} weights are missing and {len(unknown)} are not known"
            f" ({(missing or unknown)[0][:80]!r}); use the same configuration everywhere"
        )
    for name, wanted in expected.items():
        _check(name, tensors[name], wanted)
    return {name: tensors[name] for name in expected}


def unpack_rows(data: bytes, most_rows: int, columns: int) -> Tensor:
    """Return the centroids (K, D) float32 in a message, K from 1 to `most_rows`, D `columns`.

    Raises:
        Refused: as `unpack`.
    """
    tensors = _tensors(data, HEADER_SLACK + 4 * most_rows * columns)
    rows = tensors.get("centroids")
    if rows is None or len(tensors) != 1 or rows.ndim != 2:
        raise Refused("holds no centroids")
    if not 1 <= len(rows) <= most_rows:
        raise Refused(f"{len(rows)} centroids; 1 to {most_rows} were asked for")
    _check("centroids", rows, torch.empty(len(rows), columns, device="meta"))
    return rows


def _tensors(data: bytes, longest: int) -> State:
    """Return the tensors of a message of at most `longest` bytes."""
    if not isinstance(data, bytes) or len(data) > longest:
        raise Refused(f"a message of {len(data)} bytes; at most {longest} were expected")
    try:
        tensors: State = safetensors.torch.load(data)
    except Exception as error:  # the reader's own errors, and whatever a damaged header causes
        raise Refused(f"no safetensors ({' '.join(str(error).split())[:100]})") from error
    return tensors


def _check(name: str, found: Tensor, wanted: Tensor) -> None:
    """Raise Refused unless a tensor has the shape and type of `wanted`, and is finite."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        raise Refused(
            f"{name!r} is {found.dtype} {tuple(found.shape)}, not {wanted.dtype}"
            f" {tuple(wanted.shape)}; use the same configuration everywhere"
        )
    if found.is_floating_point() and not bool(found.isfinite().all()):
        raise Refused(f"{name!r} holds numbers that are not finite")

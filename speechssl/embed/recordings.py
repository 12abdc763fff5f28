"""What `Embedder` takes for a recording: paths, bytes, file objects, arrays, dictionaries.

`resolve` turns each of them into a `Recording`: a path (or bytes under a name) that the audio
readers open, or an array of samples with its rate.

The dictionaries are those of pyannote.audio (``{"waveform": (C, T), "sample_rate": Hz}``,
``{"audio": path or file object}``, either with ``"channel"`` from 0) and of Hugging Face's
datasets (``{"array": (T,), "sampling_rate": Hz}``, ``{"path": ..., "bytes": ...}``; a whole row,
whose ``"audio"`` holds one of these or a decoder).
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from speechssl.audio.in_memory import InMemory
from speechssl.errors import UserError

Source: TypeAlias = Any
"""A path (str, os.PathLike), bytes, a binary file object, an array or tensor, or a dictionary."""

MAX_CHANNELS = 8
"""The axis of an array (A, B) that is at most this long, beside a longer one, is its channels.

7.1 surround sound has as many. More rows are rather a batch of recordings, which would become one.
"""

_FORMS = (
    '{"waveform": (C, T), "sample_rate": Hz}, {"audio": PATH}, {"array": (T,), "sampling_rate":'
    ' Hz} or {"path": PATH, "bytes": BYTES}'
)
_DEEPEST = 3  # dictionaries inside each other: a row of a data set, its audio, a decoder


@dataclass(frozen=True, slots=True)
class Recording:
    """Where the samples of a source are.

    Attributes:
        file: a path, or `InMemory`; "" where `samples` are given.
        samples: array (T,) or (T, channels), as the user has it; None where `file` is given.
        sample_rate: of `samples`, Hz; None: nobody said.
        channel: which channel the source asks for, from 1; None: the mean of all.
    """

    file: str = ""
    samples: npt.NDArray[Any] | None = None
    sample_rate: int | None = None
    channel: int | None = None


def several(source: Source) -> list[Source] | None:
    """Return the recordings of a list, or None if the source is one recording.

    A sequence, series or iterator that begins with a number holds samples; every other one holds
    recordings, as an array of strings or objects does.

    Raises:
        UserError: it is a list of lists, which might be either.
    """
    if isinstance(source, np.ndarray):
        column = only_column(source)
        return list(column) if column.dtype.kind in "UO" and column.ndim == 1 else None
    if isinstance(source, str | bytes | bytearray | memoryview | os.PathLike | Mapping):
        return None
    if hasattr(source, "to_list"):  # a series of pandas or polars
        source = source.to_list()
    is_iterator = isinstance(source, Iterator) and not hasattr(source, "read")
    if not is_iterator and not isinstance(source, Sequence):
        return None
    source = list(source)
    first = source[0] if source else None
    if isinstance(first, numbers.Number) or (isinstance(first, np.generic) and not first.ndim):
        return None
    if isinstance(first, list | tuple):
        raise UserError(
            "embed: a list of lists may be channels or recordings; give np.array(...) of shape (T,"
            " channels) for one recording, a list of arrays (T,) for several"
        )
    items: list[Any] = source
    return items


def only_column(table: Any) -> Any:
    """Return the column of a data frame or an array (N, 1) of recordings; all else as it is.

    Raises:
        UserError: a data frame has several columns.
    """
    if isinstance(table, np.ndarray):
        is_column = table.dtype.kind in "UO" and table.ndim == 2 and table.shape[1] == 1
        return table[:, 0] if is_column else table
    if not hasattr(table, "columns") or not hasattr(table, "shape"):
        return table
    names = [str(name) for name in table.columns]
    if len(names) != 1:
        raise UserError(
            f"embed: a table with the columns {', '.join(names[:8])}; give the one that holds the"
            " recordings, such as table['path']"
        )
    return table[table.columns[0]]


def resolve(source: Source, sample_rate: int | None, name: str) -> Recording:
    """Return where the samples of one recording are.

    Args:
        source: what the user gave, or what this function made of it: a file object can be read once.
        sample_rate: of an array that does not bring its own, Hz.
        name: what messages call the source.

    Raises:
        UserError: it is none of the things that are understood, a file object of text, or empty.
    """
    return _resolve(source, sample_rate, name, _DEEPEST)


def _resolve(source: Source, sample_rate: int | None, name: str, levels: int) -> Recording:
    """Do what `resolve` says, for dictionaries at most `levels` deep."""
    if isinstance(source, Recording):
        return source
    if isinstance(source, str | os.PathLike):
        return _file(source, name)
    if isinstance(source, bytes | bytearray | memoryview):
        return _in_memory(bytes(source), name)
    if isinstance(source, Mapping):
        return _from_mapping(source, sample_rate, name, levels)
    if hasattr(source, "get_all_samples"):  # torchcodec's AudioDecoder, which datasets returns
        decoded = source.get_all_samples()
        return Recording(
            samples=_channels_last(decoded.data, name), sample_rate=int(decoded.sample_rate)
        )
    if hasattr(source, "read"):
        return _from_file_object(source, name)
    array = _array(source, name)
    return Recording(samples=time_first(array, name), sample_rate=sample_rate)


def time_first(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """Return samples (T,) as they are, and (T, C) or (C, T) as (T, C).

    Raises:
        UserError: neither axis can be the channels, or both can.
    """
    if array.ndim != 2 or array.shape[1] == 1:
        return array
    rows, columns = array.shape
    if rows == 1 or rows <= MAX_CHANNELS < columns:
        return array.T
    if columns <= MAX_CHANNELS < rows or not array.size:
        return array
    reason = f"both axes are longer than {MAX_CHANNELS} (a batch, or features?)"
    if rows <= MAX_CHANNELS:
        reason = "both axes are short enough for channels"
    raise UserError(
        f"{name}: cannot tell channels from time in samples of shape {array.shape}: {reason}; give"
        ' (T,), {"waveform": (C, T), "sample_rate": Hz}, or of a batch a list of arrays'
    )


def _file(path: str | os.PathLike[str], name: str) -> Recording:
    place = os.fspath(path)
    if not isinstance(place, str):
        place = os.fsdecode(place)
    if not place:
        raise UserError(f"{name}: the path is empty; give the path of an audio file")
    return Recording(file=place)


def _in_memory(content: bytes, name: str) -> Recording:
    if not content:
        raise UserError(f"{name}: holds no bytes; give a whole audio file (a file object: seek(0))")
    return Recording(file=InMemory(content, name))


def _from_file_object(source: Any, name: str) -> Recording:
    """Read a file object from where it stands to its end."""
    content = source.read()
    called = getattr(source, "name", None)
    if isinstance(called, str) and called:
        name = called
    if not isinstance(content, bytes | bytearray):
        raise UserError(f"{name}: gives text, not bytes; open it with open(PATH, 'rb')")
    return _in_memory(bytes(content), name)


def _from_mapping(
    source: Mapping[str, Any], sample_rate: int | None, name: str, levels: int
) -> Recording:
    """Resolve a dictionary; the rate that it states goes before `sample_rate`."""
    if source.get("waveform") is not None:
        rate = _stated_rate(source, "sample_rate", name)
        found = Recording(samples=_channels_last(source["waveform"], name), sample_rate=rate)
    elif source.get("array") is not None:
        rate = _stated_rate(source, "sampling_rate", name)
        samples = time_first(_array(source["array"], name), name)
        found = Recording(samples=samples, sample_rate=rate)
    elif source.get("bytes") is not None:
        called = source.get("path")
        found = _in_memory(bytes(source["bytes"]), called if isinstance(called, str) else name)
    elif source.get("path") is not None:
        found = _file(source["path"], name)
    elif source.get("audio") is not None and levels > 1:
        found = _resolve(source["audio"], sample_rate, name, levels - 1)
    else:
        keys = ", ".join(str(key)[:40] for key in list(source)[:8])
        raise UserError(f"{name}: a dictionary with {keys or 'no key'}; give {_FORMS}")
    channel = source.get("channel")
    if channel is None:
        return found
    if not isinstance(channel, int) or channel < 0:
        raise UserError(f"{name}: channel {channel!r} of a dictionary counts from 0")
    return replace(found, channel=channel + 1)


def _stated_rate(source: Mapping[str, Any], key: str, name: str) -> int:
    """Return the sampling rate that a dictionary holds."""
    rate: Any = source.get(key)
    if isinstance(rate, torch.Tensor) and rate.ndim == 0:  # of a data set "with_format('torch')"
        rate = rate.item()
    is_number = isinstance(rate, int | float | np.generic) and np.isreal(rate)
    if not is_number or not 0 < float(rate) < np.inf:
        raise UserError(f"{name}: its {key} is {str(rate)[:40]!r}; give the sampling rate in Hz")
    return int(rate)


def _channels_last(samples: Any, name: str) -> npt.NDArray[Any]:
    """Return samples that are (C, T) by definition as (T, C); (T,) as they are."""
    array = _array(samples, name)
    return array.T if array.ndim == 2 else array


def _array(samples: Any, name: str) -> npt.NDArray[Any]:
    """Return an array of whatever holds numbers, tensors of any device included."""
    if isinstance(samples, torch.Tensor):
        tensor = samples.detach().cpu()
        if tensor.dtype == torch.bfloat16:  # numpy has no such type
            tensor = tensor.float()
        return tensor.numpy()
    cause: Exception | None = None
    try:
        array = np.asarray(samples)
        if array.ndim and array.dtype.kind != "O":
            return array
    except (ValueError, TypeError, RuntimeError) as error:
        cause = error
    raise UserError(
        f"{name}: a {type(samples).__name__} is no recording; give a path, bytes, a file object,"
        f" an array (T,) or (T, channels), or {_FORMS}"
    ) from cause

"""Noises and room impulse responses in memory: each directory is read once, into one int16 tensor
in shared memory.

A directory is any of: a folder with `utterances.tsv` (columns `path` and, for noise, `kind`), a
Kaldi directory (`wav.scp`, plain paths), or a plain folder of audio. Loader workers share the
tensors instead of copying them.
"""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from speechssl.audio import reading
from speechssl.audio.tables import (
    UTTERANCES_TABLE,
    read_table,
    read_utterances_table,
    read_wav_scp,
)
from speechssl.audio.walk import audio_files
from speechssl.errors import UserError
from speechssl.threads import usable_cores

KINDS = ("noise", "music", "speech")
# Root mean square to which every noise is brought: neighbours in the bank are equally loud.
_LEVEL = 0.05
_LOG = logging.getLogger(__name__)


class NoiseBank:
    """All noises, end to end, as one int16 tensor.

    A crop longer than a noise runs on into the next noise of its kind, so any stretch of the bank
    is usable.

    Attributes:
        samples: (S,) int16.
        kinds: the kinds that are present, of `KINDS`.
        starts: for each kind present, (n,) int64: where its noises begin.
        lengths: the same, samples of each noise.
    """

    def __init__(self, directory: str, rate: int, limit: float = 30.0) -> None:
        """Read every noise of `directory` at `rate` Hz, at most the first `limit` seconds of each.

        Raises:
            UserError: the directory holds no noise that can be read.
        """
        listed = sorted(_listing(directory, "noise"), key=lambda item: KINDS.index(item[1]))
        loaded = _read_all(listed, rate, limit)
        waves = [(_levelled(wave), kind) for wave, kind in loaded if wave.any()]
        if not waves:
            raise UserError(
                f"augment.noise: no readable audio in {directory}; give another folder or leave it"
                " out"
            )
        offsets = np.concatenate([[0], np.cumsum([len(wave) for wave, _ in waves])]).astype(
            np.int64
        )
        self.kinds = [kind for kind in KINDS if any(kind == other for _, other in waves)]
        rows = [np.array([i for i, (_, k) in enumerate(waves) if k == kind]) for kind in self.kinds]
        self.starts = [offsets[:-1][row] for row in rows]
        self.lengths = [np.diff(offsets)[row] for row in rows]
        bank = np.concatenate([wave for wave, _ in waves])
        self.samples = torch.from_numpy(np.resize(bank, max(len(bank), 30 * rate)))

    def pick(self, uniform: np.ndarray, samples: int) -> tuple[np.ndarray, np.ndarray]:
        """Choose a stretch of `samples` for each row of `uniform`, (n, 3) in 0..1: kind, noise,
        place in the noise.

        Returns:
            (n,) int64 first samples in the bank, and (n,) indices into `KINDS`. Kinds are equally
            likely, as are the noises of a kind.
        """
        if samples > len(self.samples):
            raise UserError(
                f"augment.noise: a crop of {samples} samples is longer than all noise together; add"
                " noise"
            )
        chosen = (uniform[:, 0] * len(self.kinds)).astype(int)
        first = np.empty(len(uniform), dtype=np.int64)
        for row, kind in enumerate(chosen):
            number = int(uniform[row, 1] * len(self.starts[kind]))
            slack = max(int(self.lengths[kind][number]) - samples, 0)
            first[row] = self.starts[kind][number] + int(uniform[row, 2] * (slack + 1))
        names = np.array([KINDS.index(kind) for kind in self.kinds])
        return np.minimum(first, len(self.samples) - samples), names[chosen]


def load_rirs(directory: str, rate: int, seconds: float, limit: int = 4000) -> Tensor:
    """Room impulse responses as (N, L) int16, direct path at sample 0, cut to `seconds` and faded
    out at the end.

    Of more than `limit` files, evenly spaced ones are taken. Levels are left to the caller, which
    normalises energy. A peak of full scale leaves 90 dB of decay in int16.

    Raises:
        UserError: the directory holds no response that can be read.
    """
    listed = _listing(directory, "rir")
    if len(listed) > limit:
        listed = [listed[i] for i in np.linspace(0, len(listed) - 1, limit).astype(int)]
    rows = [
        aligned(wave, round(seconds * rate))
        for wave, _ in _read_all(listed, rate, 10.0)
        if wave.any()
    ]
    if not rows:
        raise UserError(
            f"augment.rir: no readable audio in {directory}; give another folder or leave it out"
        )
    return torch.from_numpy(np.stack(rows))


def aligned(response: np.ndarray, samples: int) -> np.ndarray:
    """One response (T,) float: its peak (the direct path) moved to sample 0, cut or padded to
    (samples,) int16.
    """
    response = response[int(np.abs(response).argmax()) :][:samples]
    fade = len(response) // 10
    if len(response) == samples and fade:
        response = response * np.concatenate([np.ones(samples - fade), np.linspace(1, 0, fade)])
    out = np.zeros(samples, dtype=np.int16)
    out[: len(response)] = np.round(response * (32767 / np.abs(response).max()))
    return out


def _levelled(wave: np.ndarray) -> np.ndarray:
    scale = min(_LEVEL / float(np.sqrt(np.mean(wave**2))), 0.99 / float(np.abs(wave).max()))
    return np.round(wave * (scale * 32767)).astype(np.int16)


def _listing(directory: str, what: str) -> list[tuple[str, str]]:
    """List audio files with their kind.

    The kind is "noise" unless a column or a name says music, speech or babble.
    """
    root = Path(directory)
    if not root.is_dir():
        raise UserError(
            f"augment.{what}: no such folder {directory}; correct the path or leave it out"
        )
    if (root / UTTERANCES_TABLE).is_file():
        rows = read_utterances_table(root / UTTERANCES_TABLE)
        return [(str(root / row["path"]), _kind(row.get("kind") or row["path"])) for row in rows]
    if (root / "wav.scp").is_file():
        return _kaldi(root)
    found = sorted(audio_files(root), key=lambda path: Path(path).parts)
    return [(str(root / path), _kind(path)) for path in found]


def _kaldi(root: Path) -> list[tuple[str, str]]:
    """List the recordings of wav.scp with their kind.

    Kinds come from utt2kind, or else from the ids and the paths below the folder common to all.
    """
    recordings = read_wav_scp(root / "wav.scp", _warn, allow_pipes=False, check_files=False)
    kinds: dict[str, str] = {}
    if (root / "utt2kind").is_file():
        kinds = {name: kind for _, name, kind in read_table(root / "utt2kind", _warn)}
    if not recordings:
        return []
    common = len(os.path.commonpath([os.path.dirname(path) for path in recordings.values()]))
    listed = []
    for name, path in recordings.items():
        listed.append((path, _kind(kinds.get(name) or f"{name} {path[common:]}")))
    return listed


def _warn(_id: str, message: str) -> None:
    _LOG.warning("left out of the augmentation: %s", message)


def _kind(text: str) -> str:
    text = text.lower()
    return (
        "music"
        if "music" in text
        else "speech"
        if "speech" in text or "babble" in text
        else "noise"
    )


def _read_all(
    listed: list[tuple[str, str]], rate: int, seconds: float
) -> list[tuple[np.ndarray, str]]:
    """Read every file, at most `seconds` of each, in a few threads; files that cannot be read are
    left out, with a warning.
    """

    def read(item: tuple[str, str]) -> np.ndarray | None:
        try:
            return reading.read(item[0], rate, 0.0, seconds)
        except UserError as error:
            _LOG.warning("left out of the augmentation: %s", error)
            return None

    with ThreadPoolExecutor(max(1, min(8, usable_cores()))) as pool:
        waves = list(pool.map(read, listed))
    return [(wave, kind) for wave, (_, kind) in zip(waves, listed, strict=True) if wave is not None]

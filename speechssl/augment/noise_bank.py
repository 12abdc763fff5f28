"""Noises and room impulse responses in memory: each directory is read once, into one int16 tensor.

A directory is any of: a folder with `utterances.tsv` (columns `path` and, for noise, `kind`), a
Kaldi directory (`wav.scp`, plain paths), or a plain folder of audio. Loader workers share the
tensors instead of copying them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
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
from speechssl.pools import map_ahead
from speechssl.text import printable
from speechssl.threads import usable_cores

KINDS = ("noise", "music", "speech")
# Root mean square to which every noise is brought: neighbours in the bank are equally loud.
_LEVEL = 0.05
_FAINTEST = 1e-9  # peak; what is below it is no sound, and its energy no float32
_LOG = logging.getLogger(__name__)


class NoiseBank:
    """All noises of a folder, end to end, as one int16 tensor.

    A crop longer than a noise runs on into the next noise of its kind, so any stretch of the bank
    is usable.

    Args:
        directory: folder of noises.
        sample_rate: Hz.
        limit: seconds that are read of each noise, from its start.

    Attributes:
        samples: (S,) int16.
        kinds: the kinds that are present, of `KINDS`.
        starts: for each kind present, (n,) int64: where its noises begin.
        lengths: the same, samples of each noise.

    Raises:
        UserError: the directory holds no noise that can be read.
    """

    def __init__(self, directory: str, sample_rate: int, limit: float = 30.0) -> None:
        listed = sorted(_listing(directory, "noise"), key=lambda item: KINDS.index(item[1]))
        waves = []
        kind_of_wave = []
        for wave, kind in _read_all(listed, sample_rate, limit, levelled):
            waves.append(wave)
            kind_of_wave.append(kind)
        if not waves:
            raise UserError(
                f"augment.noise: no readable audio in {directory}; give another folder or leave it"
                " out"
            )
        lengths = np.array([len(wave) for wave in waves], dtype=np.int64)
        starts = np.cumsum(lengths) - lengths
        self.kinds = [kind for kind in KINDS if kind in kind_of_wave]
        self.starts = []
        self.lengths = []
        for kind in self.kinds:
            of_kind = np.array(kind_of_wave) == kind
            self.starts.append(starts[of_kind])
            self.lengths.append(lengths[of_kind])
        bank = np.concatenate(waves)
        if len(bank) < 30 * sample_rate:
            bank = np.resize(bank, 30 * sample_rate)
        self.samples = torch.from_numpy(bank)

    def pick(
        self, kind: np.ndarray, file: np.ndarray, place: np.ndarray, samples: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Choose stretches of the bank. Kinds are equally likely, as are the noises of a kind.

        Args:
            kind: (n,) uniform in 0..1, decides the kind.
            file: (n,) uniform in 0..1, decides the noise of that kind.
            place: (n,) uniform in 0..1, decides where in the noise.
            samples: length of each stretch.

        Returns:
            (n,) int64 first samples in the bank, and (n,) indices into `KINDS`.
        """
        if samples > len(self.samples):
            raise UserError(
                f"augment.noise: a crop of {samples} samples is longer than all noise together; add"
                " noise"
            )
        chosen = (kind * len(self.kinds)).astype(int)
        first = np.empty(len(kind), dtype=np.int64)
        for row, number in enumerate(chosen):
            starts = self.starts[number]
            lengths = self.lengths[number]
            noise = int(file[row] * len(starts))
            room = max(int(lengths[noise]) - samples, 0)
            first[row] = starts[noise] + int(place[row] * (room + 1))
        kind_index = np.array([KINDS.index(name) for name in self.kinds])
        return np.minimum(first, len(self.samples) - samples), kind_index[chosen]


def load_rirs(directory: str, sample_rate: int, seconds: float, limit: int = 4000) -> Tensor:
    """Read room impulse responses.

    Levels are left to the caller, which normalises energy. A peak of full scale leaves 90 dB of
    decay in int16.

    Args:
        directory: folder of responses.
        sample_rate: Hz.
        seconds: length to which each is cut, faded out at the end.
        limit: of more files than this, evenly spaced ones are taken.

    Returns:
        (N, L) int16, direct path at sample 0.

    Raises:
        UserError: the directory holds no response that can be read.
    """
    listed = _listing(directory, "rir")
    if len(listed) > limit:
        listed = [listed[i] for i in np.linspace(0, len(listed) - 1, limit).astype(int)]
    samples = round(seconds * sample_rate)
    loaded = _read_all(listed, sample_rate, 10.0, lambda wave: aligned(wave, samples))
    responses = [response for response, _ in loaded]
    if not responses:
        raise UserError(
            f"augment.rir: no readable audio in {directory}; give another folder or leave it out"
        )
    return torch.from_numpy(np.stack(responses))


def aligned(response: np.ndarray, samples: int) -> np.ndarray:
    """Return a response (T,) with its peak (the direct path) at sample 0, as (samples,) int16.

    It is cut or padded; where it is cut, its last tenth is faded out.
    """
    peak = int(np.abs(response).argmax())
    response = response[peak : peak + samples]
    fade = len(response) // 10
    if len(response) == samples and fade:
        response = response * np.concatenate([np.ones(samples - fade), np.linspace(1, 0, fade)])
    out = np.zeros(samples, dtype=np.int16)
    out[: len(response)] = np.round(response * (32767 / np.abs(response).max()))
    return out


def levelled(wave: np.ndarray) -> np.ndarray:
    """Return a noise (T,) at the bank's level, or at a peak of 0.99 if that is less, as int16."""
    level = float(np.sqrt(np.mean(wave**2)))
    peak = float(np.abs(wave).max())
    scale = min(_LEVEL / level, 0.99 / peak)
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
    paths = sorted(audio_files(root), key=lambda path: Path(path).parts)
    return [(str(root / path), _kind(path)) for path in paths]


def _kaldi(root: Path) -> list[tuple[str, str]]:
    """List the recordings of wav.scp with their kind.

    Kinds come from utt2kind, or else from the ids and the paths below the folder common to all.
    """
    recordings = read_wav_scp(root / "wav.scp", _warn, allow_pipes=False, check_files=False)
    if not recordings:
        return []
    kinds: dict[str, str] = {}
    if (root / "utt2kind").is_file():
        kinds = {name: kind for _, name, kind in read_table(root / "utt2kind", _warn)}
    try:
        common = len(os.path.commonpath([os.path.dirname(path) for path in recordings.values()]))
    except ValueError:  # some are absolute, some relative: no folder is common to all
        common = 0
    listed = []
    for name, path in recordings.items():
        kind = kinds.get(name) or f"{name} {path[common:]}"
        listed.append((path, _kind(kind)))
    return listed


def _warn(_id: str, message: str) -> None:
    _LOG.warning("left out of the augmentation: %s", printable(message))


def _kind(text: str) -> str:
    text = text.lower()
    if "music" in text:
        return "music"
    if "speech" in text or "babble" in text:
        return "speech"
    return "noise"


def _read_all(
    listed: list[tuple[str, str]],
    sample_rate: int,
    seconds: float,
    finish: Callable[[np.ndarray], np.ndarray],
) -> Iterator[tuple[np.ndarray, str]]:
    """Read the first `seconds` of every file, in a few threads; yield `finish` of each, and its kind.

    Files that cannot be read are left out, with a warning; silent ones, without one.
    """

    def read(item: tuple[str, str]) -> np.ndarray | None:
        try:
            wave = reading.read(item[0], sample_rate, 0.0, seconds)
        except UserError as error:
            _warn(item[0], str(error))
            return None
        return finish(wave) if np.abs(wave).max() > _FAINTEST else None

    waves = map_ahead(read, listed, max(1, min(8, usable_cores())))
    for wave, (_, kind) in zip(waves, listed, strict=True):
        if wave is not None:
            yield wave, kind

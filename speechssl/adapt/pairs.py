"""Pairs of windows of pieces, the second through another channel, and their embeddings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechssl.augment.augment import Augment
from speechssl.data.crops import CropSpec
from speechssl.data.dataset import CropBatches
from speechssl.data.manifest import Utterance
from speechssl.embed.embedder import Embedder
from speechssl.errors import UserError
from speechssl.files import atomic_write

Rows = NDArray[np.float32]

CHANNELS: Mapping[str, Any] = {
    "noise_prob": 0.5,
    "snr": [5.0, 25.0],
    "rir_prob": 0.3,
    "simulate_prob": 1.0,
    "filter_prob": 0.5,
    "filter_db": 8.0,
    "band_share": 0.2,
    "codec_prob": 0.4,
    "codecs": ["low_pass", "narrow_band", "g711_mu", "telephone"],
}
"""What the second window goes through; noise only if a folder of it is given."""

MOST_PASSES = 4
ENOUGH_WINDOWS = 500
"""Times that few held-out pieces are gone through, and windows that are enough."""

_BATCH = 8


@dataclass(frozen=True)
class Pairs:
    """Embeddings of N pairs of windows of held-out pieces.

    Attributes:
        plain: (N, D) of the windows as they are.
        changed: (N, D) of the windows through another channel.
        pieces: (N,) the piece of each pair, as its place in the list.
        recordings: (N,) the recording of each pair, as numbers.
    """

    plain: Rows
    changed: Rows
    pieces: NDArray[np.int64]
    recordings: NDArray[np.int64]

    def write(self, path: Path) -> None:
        """Write them as an .npz file, whole or not at all."""
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **dataclasses.asdict(self))

    @classmethod
    def read(cls, path: Path) -> Pairs:
        """Read what `write` wrote."""
        with np.load(path, allow_pickle=False) as held:
            return cls(held["plain"], held["changed"], held["pieces"], held["recordings"])


def embed_pairs(
    embedder: Embedder,
    pieces: Sequence[Utterance],
    window: float,
    seed: int,
    augment: Mapping[str, Any],
    *,
    repeat: bool = True,
) -> Pairs:
    """Embed two windows of each piece; the same seed draws the same windows and channels.

    Few pieces are gone through up to `MOST_PASSES` times, with other windows and channels.
    Pieces that are too short for two windows, and the few that do not fill the last batch, are
    left out.

    Args:
        embedder: the model.
        pieces: N of them.
        window: seconds.
        seed: of windows and channels.
        augment: settings of `Augment` for the second window.
        repeat: go through few pieces several times.

    Raises:
        UserError: fewer than two pieces are left.
    """
    pieces = [piece for piece in pieces if piece.seconds >= 2 * window - 1e-3]
    if len(pieces) < 2:
        raise UserError(
            f"adapt: {len(pieces)} pieces have room for two windows of {window:g} s; give more, or"
            " longer recordings"
        )
    batches = _batches(pieces, window, embedder.sample_rate, seed, augment)
    plain = []
    changed = []
    rows: list[int] = []
    passes = max(1, min(MOST_PASSES, ENOUGH_WINDOWS // len(pieces))) if repeat else 1
    for step in range(passes * len(batches)):
        batch = batches[step]
        plain.append(embedder.encode_batch(batch.groups[0][0]).cpu().numpy())
        changed.append(embedder.encode_batch(batch.groups[1][0]).cpu().numpy())
        rows += batch.indices.tolist()
    return Pairs(
        np.concatenate(plain),
        np.concatenate(changed),
        pieces=np.array(rows, np.int64),
        recordings=_recordings(pieces)[rows],
    )


def _batches(
    pieces: Sequence[Utterance],
    window: float,
    sample_rate: int,
    seed: int,
    augment: Mapping[str, Any],
) -> CropBatches:
    """Return batches of two windows of each piece that do not overlap, the second augmented."""
    return CropBatches(
        pieces,
        [
            CropSpec(1, window, augment="none", to="teacher"),
            CropSpec(1, window, augment="full", to="student"),
        ],
        rate=sample_rate,
        batch_size=min(_BATCH, len(pieces)),
        seed=seed,
        disjoint=True,
        augment=Augment(sample_rate, **augment),
    )


def _recordings(pieces: Sequence[Utterance]) -> NDArray[np.int64]:
    """Return (N,) the number of each piece's recording, in the order of their paths."""
    paths = sorted({piece.path for piece in pieces})
    number_of = {path: number for number, path in enumerate(paths)}
    return np.array([number_of[piece.path] for piece in pieces], np.int64)

"""The utterances of a training set as a few arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from speechssl.audio.remotes import Remote
from speechssl.data.manifest import Utterance


class UtteranceTable:
    """Ids, paths, channels, starts and durations of N utterances.

    A million small Python objects would be copied into every worker, page by page, as their
    reference counts change: host memory would grow through the first epoch. Arrays stay shared.

    Attributes:
        start: (N,) seconds at which each utterance begins in its file.
        seconds: (N,) durations.
    """

    def __init__(self, utterances: Sequence[Utterance]) -> None:
        texts: list[bytes] = []
        for utterance in utterances:
            # Names of files may hold bytes that are not UTF-8.
            texts.append(utterance.id.encode(errors="surrogateescape"))
            texts.append(str(utterance.path).encode(errors="surrogateescape"))
        self._is_remote = np.array([isinstance(u.path, Remote) for u in utterances])
        self._text = np.frombuffer(b"".join(texts), dtype=np.uint8)
        self._ends = np.cumsum([0, *map(len, texts)], dtype=np.int64)
        self.start = np.array([u.start or 0.0 for u in utterances])
        self.seconds = np.array([u.seconds for u in utterances], dtype=np.float64)
        self._channel = np.array([u.channel or 0 for u in utterances], dtype=np.int16)

    def __len__(self) -> int:
        return len(self.seconds)

    @property
    def has_addresses(self) -> bool:
        """True if some utterances are behind addresses."""
        return bool(self._is_remote.any())

    def id(self, row: int) -> str:
        """Return the id of an utterance."""
        return self._string(2 * row)

    def path(self, row: int) -> str:
        """Return the path of an utterance; an address that may be read is a `Remote` again."""
        path = self._string(2 * row + 1)
        return Remote(path) if self._is_remote[row] else path

    def channel(self, row: int) -> int | None:
        """Return which channel of its file an utterance is, from 1; None: the mean of all."""
        return int(self._channel[row]) or None

    def _string(self, number: int) -> str:
        text = self._text[self._ends[number] : self._ends[number + 1]]
        return text.tobytes().decode(errors="surrogateescape")

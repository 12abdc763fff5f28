"""`diarize`: a recording to who speaks when."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechssl import parts
from speechssl.audio import reading
from speechssl.data.manifest import Utterance
from speechssl.diarize.clustering import (
    Matrix,
    Spread,
    agglomerative,
    kmeans,
    merge_small,
    spread_of,
    unit,
    variance_ratio,
    whitened,
)
from speechssl.diarize.resegmentation import SpeechWindows, resegment
from speechssl.diarize.settings import DiarizeSettings
from speechssl.diarize.turns import Turn, seconds_of
from speechssl.embed.batches import Failure
from speechssl.embed.cutting import find_speech
from speechssl.embed.embedder import Embedder
from speechssl.embed.windows import window_spans
from speechssl.errors import UserError

_FEWEST = 3  # windows of a speaker
_SMALLEST_SHARE = 0.06  # of the speech: a short recording may have short speakers


@dataclass(frozen=True)
class Diarization:
    """Who speaks when in a recording.

    Attributes:
        turns: in the order of time; they do not overlap. Speakers are `speaker1`, `speaker2` ... in
            the order in which they are first heard.
        vectors: (S, D), the mean embedding of each speaker's windows, of length 1 each.
        speakers: S names, in the order of `vectors`.
        channel_of: speaker -> channel, where the channels were diarized one by one.
    """

    turns: list[Turn]
    vectors: NDArray[np.float32]
    speakers: list[str]
    channel_of: dict[str, int] = field(default_factory=dict)

    def renamed(self, names: Mapping[str, str]) -> Diarization:
        """Return the same turns with other names of speakers.

        Speakers who get one name become one: its vector is their mean, at length 1, and its channel
        that of the first.

        Args:
            names: speaker -> new name; who is missing keeps the old one. White space becomes `_`.
        """
        new = {old: re.sub(r"\s", "_", names.get(old, old)) for old in self.speakers}
        turns = [turn._replace(speaker=new[turn.speaker]) for turn in self.turns]
        rows: dict[str, list[NDArray[np.float32]]] = {}
        channel_of: dict[str, int] = {}
        for speaker, vector in zip(self.speakers, self.vectors, strict=True):
            rows.setdefault(new[speaker], []).append(vector)
            if speaker in self.channel_of:
                channel_of.setdefault(new[speaker], self.channel_of[speaker])
        means = np.stack([np.mean(vectors, axis=0) for vectors in rows.values()])
        return Diarization(turns, unit(means).astype(np.float32), list(rows), channel_of)


def diarize(
    embedder: Embedder,
    path: str | os.PathLike[str] | Utterance,
    settings: DiarizeSettings | None = None,
    **changes: Any,
) -> Diarization:
    """Find who speaks when.

    Speech is found, windows of it are embedded, clustered, and resegmented. The recording is never
    in memory as a whole. Where people speak at once, the louder one is found.

    Args:
        embedder: the model.
        path: the recording; or an utterance, such as a line of `segments`: a part of a file, whose
            turns are counted from its beginning.
        settings: how; `DiarizeSettings()` if not given.
        changes: settings by their names, such as ``speakers=2``.

    Raises:
        UserError: the file cannot be read or holds no speech, or a setting that cannot be.
    """
    settings = replace(settings or DiarizeSettings(), **changes)
    settings.check()
    if isinstance(path, Utterance):
        recording = path
        if path.channel is None:
            recording = replace(path, channel=settings.channel)
    else:
        recording = Utterance(Path(path).name, os.fspath(path), channel=settings.channel)
    speech = find_speech(recording, parts.build("vad", {"name": settings.vad}))
    starts, stops, raw = _embed_windows(embedder, recording, speech, settings)
    spread = spread_of(raw, starts, stops)
    windows = SpeechWindows(starts, stops, whitened(raw, spread), speech)
    if _has_one_speaker(spread, settings):
        labels = np.zeros(len(raw), np.int64)
    else:
        labels = cluster(windows.vectors, settings)
    turns = resegment(windows, labels, change_penalty=settings.change_penalty)
    found = _with_vectors(turns, windows, raw)
    begin = recording.start
    return replace(
        found, turns=[Turn(t.start - begin, t.stop - begin, t.speaker) for t in found.turns]
    )


def diarize_each_channel(
    embedder: Embedder, recording: Utterance, settings: DiarizeSettings
) -> Diarization:
    """Find who speaks when in each channel alone, as in a call that has one side on each.

    Speakers are named by their channel, `channel1-speaker1`; turns of two channels may overlap. A
    channel without speech has none. A recording of one channel is diarized as it is, and so is one that
    is a channel already (reco2channel).

    Args:
        embedder: the model.
        recording: a file, or a part of one.
        settings: how; `channel` does not count, and numbers of speakers are those of a channel.

    Raises:
        UserError: as `diarize`, where no channel can be diarized.
    """
    settings = replace(settings, each_channel=False)
    count = 1
    if recording.channel is None:
        count = reading.info(recording.path).channels
    if count == 1:
        return diarize(embedder, recording, settings, channel=None)
    turns: list[Turn] = []
    speakers: list[str] = []
    vectors = []
    channel_of: dict[str, int] = {}
    reasons: list[UserError] = []
    for channel in range(1, count + 1):
        try:
            found = diarize(embedder, recording, settings, channel=channel)
        except UserError as error:
            reasons.append(error)
            continue
        names = {speaker: f"channel{channel}-{speaker}" for speaker in found.speakers}
        turns += [turn._replace(speaker=names[turn.speaker]) for turn in found.turns]
        speakers += names.values()
        vectors.append(found.vectors)
        channel_of.update(dict.fromkeys(names.values(), channel))
    if not vectors:
        raise reasons[0]
    return Diarization(sorted(turns), np.concatenate(vectors), speakers, channel_of)


def _has_one_speaker(spread: Spread | None, settings: DiarizeSettings) -> bool:
    """Return whether windows that differ so are all of one speaker."""
    if settings.count.least > 1:
        return False
    return variance_ratio(spread) < settings.one_speaker_ratio


def cluster(vectors: Matrix, settings: DiarizeSettings) -> NDArray[np.int64]:
    """Return the speaker (N,) of each window from whitened vectors (N, K) of length 1."""
    step = max(1, -(-len(vectors) // settings.max_windows))
    chosen = vectors[::step]
    count = settings.count
    if count.least == count.most:
        labels = kmeans(chosen, count.least, settings.seed)
    else:
        labels = agglomerative(chosen @ chosen.T, settings.threshold)
        seconds = len(chosen) * settings.hop * step
        shortest = min(settings.min_speaker_seconds, _SMALLEST_SHARE * seconds)
        labels = merge_small(labels, chosen, max(_FEWEST, shortest / (settings.hop * step)))
        found = int(labels.max()) + 1
        wanted = min(max(found, count.least), count.most)
        if wanted != found:
            labels = kmeans(chosen, wanted, settings.seed)
    if step == 1:
        return labels
    centres = np.stack([chosen[labels == name].mean(0) for name in np.unique(labels)])
    nearest: NDArray[np.int64] = (vectors @ unit(centres).T).argmax(1)
    return nearest


def _embed_windows(
    embedder: Embedder,
    recording: Utterance,
    speech: list[tuple[float, float]],
    settings: DiarizeSettings,
) -> tuple[NDArray[np.float64], NDArray[np.float64], Matrix]:
    """Return where the windows of the speech start and stop (N,), in seconds, and their vectors (N, D).

    The vectors are as the model gives them, at length 1.

    Raises:
        UserError: none of them can be embedded.
    """
    utterances = []
    for first, last in speech:
        for start, stop in window_spans(first, last, settings.window, settings.hop):
            window = replace(recording, start=start, stop=stop, seconds=stop - start)
            utterances.append(window)
    found: dict[int, NDArray[np.float32]] = {}
    reason = "is silent"
    for index, _seconds, result in embedder.stream(utterances):
        if isinstance(result, Failure):
            reason = result.reason
        else:
            found[index] = result
    if not found:
        raise UserError(f"{recording.path}: none of its windows can be embedded ({reason})")
    order = sorted(found)
    raw = unit(np.stack([found[index] for index in order]))
    starts = np.array([utterances[index].start for index in order])
    stops = starts + np.array([utterances[index].seconds for index in order])
    return starts, stops, raw


def _with_vectors(turns: list[Turn], windows: SpeechWindows, raw: Matrix) -> Diarization:
    """Return the diarization with the mean vector of each speaker."""
    speakers = list(seconds_of(turns))
    bounds = np.array([turn.start for turn in turns])
    middles = (windows.starts + windows.stops) / 2
    of_window = np.maximum(np.searchsorted(bounds, middles, "right") - 1, 0)
    names = np.array([turns[index].speaker for index in of_window.tolist()])
    vectors = np.zeros((len(speakers), raw.shape[1]), np.float32)
    for row, speaker in enumerate(speakers):
        own = raw[names == speaker]
        if len(own):
            vectors[row] = unit(own.mean(0, keepdims=True))[0]
    return Diarization(turns, vectors, speakers)

"""What adaptation is asked for, and the plan that follows from the amount of audio."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from speechssl.adapt.folders import AdaptFolder
from speechssl.embed.cutting import MIX, check_channels
from speechssl.errors import UserError
from speechssl.files import write_text

WAYS = ("last-layer", "rounds", "contrastive", "dino")
"""Ways to change a model (`ways`)."""

MIN_RECORDINGS = 8
"""With fewer, nothing can be held out that would tell better from worse."""

MIN_WINDOW = 0.4
"""Seconds of a window at least."""

MOST_CLUSTERS = 5000
"""Clusters of the pieces: `kmeans_ahc` holds the distances of twice as many centroids, 0.8 GB."""

_MIN_PIECES = {"last-layer": 20, "rounds": 200, "contrastive": 100, "dino": 1000}
"""Pieces to learn from below which a way is not tried unless it is asked for."""


@dataclass(frozen=True, kw_only=True)
class AdaptSettings:
    """What `speechssl adapt` is asked for.

    Attributes:
        start: the model to start from, as `speechssl.load` takes it.
        audio: files, folders, wav.scp files or Kaldi directories.
        ways: ways to change the model, of `WAYS`; empty: those that the amount of audio allows
            (dino only if it is asked for).
        steps: of each training; None: by the amount of audio.
        seed: of everything random.
        vad: part of `vad/` that finds the speech in the recordings.
        channels: of a recording: `mix`, `each`, `first` or a number from 1.
        noise: folder of noises for augmentation, or None.
        rir: folder of room impulse responses, or None.
        allow_code: packages outside this one whose parts the start's folder may name.
    """

    start: str
    audio: tuple[str, ...]
    ways: tuple[str, ...] = ()
    steps: int | None = None
    seed: int = 0
    vad: str = "energy"
    channels: str = MIX
    noise: str | None = None
    rir: str | None = None
    allow_code: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for way in self.ways:
            if way not in WAYS:
                raise UserError(f"adapt: no way {way!r}; choose {', '.join(WAYS)}")
        if self.steps is not None and self.steps < 1:
            raise UserError(f"adapt: steps={self.steps} must be at least 1")
        if self.seed < 0:
            raise UserError(f"adapt: seed={self.seed} must be at least 0")
        check_channels(self.channels)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Settings that follow from the amount of audio.

    Attributes:
        ways: ways to change the model, in the order in which they are tried.
        window: seconds of each of the two windows of a piece, in training and in judging.
        batch_size: pieces of a training step.
        steps: of each training.
        cluster_counts: numbers of clusters that are tried; the highest silhouette wins.
    """

    ways: tuple[str, ...]
    window: float
    batch_size: int
    steps: int
    cluster_counts: tuple[int, ...]


def plan_for(settings: AdaptSettings, lengths: Sequence[float]) -> Plan:
    """Return the plan for pieces to learn from.

    Five passes over the pieces, but at most 1,500 steps: a trained model needs few, and each
    pass after that is a chance to forget. Two windows of a piece do not overlap: they are as
    long as four pieces in five have room for, and at most 2 s. A batch is at most an eighth of
    the pieces: the larger its share, the more often two recordings of one voice are in it.

    Args:
        settings: what was asked for.
        lengths: of the pieces, seconds.
    """
    count = len(lengths)
    usual = sorted(lengths)[count // 5]
    batch_size = min(64, max(4, count // 8))
    steps = min(1500, max(20, round(5 * count / batch_size)))
    counts = {min(MOST_CLUSTERS, max(2, count // share)) for share in (4, 8, 16, 32, 64)}
    ways = settings.ways
    if not ways:
        ways = tuple(way for way in WAYS if way != "dino" and count >= _MIN_PIECES[way])
    return Plan(
        ways=ways,
        window=min(2.0, max(MIN_WINDOW, math.floor(5 * usual) / 10)),
        batch_size=batch_size,
        steps=settings.steps or steps,
        cluster_counts=tuple(sorted(counts)),
    )


def write_settings(folder: AdaptFolder, settings: AdaptSettings) -> None:
    """Write what was asked for, and compare it with what the folder was begun with.

    Raises:
        UserError: the folder holds results of other settings.
    """
    asked: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings)))
    if not folder.settings.exists():
        write_text(folder.settings, json.dumps(asked, indent=2) + "\n")
        return
    try:
        before = json.loads(folder.settings.read_text(encoding="utf-8"))
    except ValueError:
        before = None
    if not isinstance(before, dict):
        raise UserError(f"adapt: {folder.settings} is damaged; give another --out")
    fixed = _fixed(folder)
    before = {"channels": AdaptSettings.channels, **before}  # older versions had no choice
    for key, value in asked.items():
        if key in fixed and before.get(key) != value:
            raise UserError(
                f"adapt: {key} was {before.get(key)!r} in {folder.path} and is {value!r} now; use"
                " the same settings or give another --out"
            )
    if before != asked:
        write_text(folder.settings, json.dumps(asked, indent=2) + "\n")


def _fixed(folder: AdaptFolder) -> set[str]:
    """Return the settings that what the folder holds was made with.

    A command that ended because of a mistake can be given again without it.
    """
    fixed: set[str] = set()
    start = folder.candidate("before")
    if start.model.existing() is not None:
        fixed |= {"start", "allow_code"}
    if (folder.heldout / "wav.scp").exists():
        fixed |= {"audio", "vad", "channels", "seed"}
    if start.pairs.exists():  # from here on models are made
        fixed |= {field.name for field in dataclasses.fields(AdaptSettings)}
    return fixed

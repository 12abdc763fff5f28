"""How `speechssl diarize` works: one frozen record."""

from __future__ import annotations

from dataclasses import dataclass

from speechssl.diarize.clustering import SpeakerCount
from speechssl.embed.windows import check_window
from speechssl.errors import UserError

DEFAULT_MOST = 8
"""Speakers that are found at most where nothing is said."""


@dataclass(frozen=True)
class DiarizeSettings:
    """Settings of `diarize`.

    Attributes:
        vad: which part of `vad/` finds the speech.
        window: length of a window, seconds.
        hop: from one window to the next, seconds.
        speakers: how many there are, if that is known.
        min_speakers: at least so many.
        max_speakers: at most so many; None: 8.
        threshold: mean cosine, of whitened windows (`clustering.whitened`), below which two clusters
            are two speakers. Not used where the number is known.
        one_speaker_ratio: a recording whose windows vary less than so many times as much as
            neighbouring ones do (`clustering.variance_ratio`) has one speaker. Not used where there
            must be more, or the number is known.
        min_speaker_seconds: speakers with less speech than this, or than 6 % of it where that is
            less, are merged into the others.
        change_penalty: what a change of speakers costs on the path through the frames; higher
            gives fewer and longer turns.
        channel: which channel, from 1, of recordings that are no channel already (reco2channel); None:
            the mean of all.
        each_channel: every channel alone, in place of the mean (`pipeline.diarize_each_channel`).
        max_windows: so many windows, evenly spaced, are clustered; others are assigned to the
            nearest centre. Time and memory grow with its square.
        seed: of k-means.
    """

    vad: str = "energy"
    window: float = 1.5
    hop: float = 0.75
    speakers: int | None = None
    min_speakers: int = 1
    max_speakers: int | None = None
    threshold: float = 0.0
    one_speaker_ratio: float = 2.4
    min_speaker_seconds: float = 20.0
    change_penalty: float = 2.0
    channel: int | None = None
    each_channel: bool = False
    max_windows: int = 1500
    seed: int = 0

    def check(self) -> None:
        """Raise UserError if these settings cannot be."""
        check_window(self.window, self.hop)
        count = self.count
        if self.speakers is not None:
            most = self.speakers if self.max_speakers is None else self.max_speakers
            if not self.min_speakers <= self.speakers <= most:
                raise UserError(
                    f"diarize: {self.speakers} speakers, but {self.min_speakers} to {most} of them:"
                    " give the number, or its bounds"
                )
        if not 1 <= count.least <= count.most:
            raise UserError(
                f"diarize: {count.least} to {count.most} speakers: give at least 1, and not"
                " more at least than at most"
            )
        if not -1 <= self.threshold <= 1:
            raise UserError(f"diarize: threshold {self.threshold:g}: a cosine is from -1 to 1")
        if self.hop > self.window:
            raise UserError(
                f"diarize: hop {self.hop:g} leaves gaps between windows of {self.window:g} s; give"
                " at most the window"
            )
        if self.channel is not None and self.each_channel:
            raise UserError("diarize: a channel and each channel; give one of both")
        if self.change_penalty < 0 or self.max_windows < 10:
            raise UserError("diarize: change_penalty from 0, and max_windows from 10")

    @property
    def count(self) -> SpeakerCount:
        """How many speakers may be found."""
        if self.speakers is not None:
            return SpeakerCount(self.speakers, self.speakers)
        most = DEFAULT_MOST if self.max_speakers is None else self.max_speakers
        return SpeakerCount(self.min_speakers, most)

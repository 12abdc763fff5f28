"""One speaker or two: the score of two recordings, and what a calibration makes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from speechssl.data.manifest import Utterance
from speechssl.embed.batches import Matrix
from speechssl.embed.embedder import Embedder
from speechssl.embed.recordings import Recording, Source, resolve
from speechssl.embed.speech import gather_speech
from speechssl.errors import UserError
from speechssl.evaluation.verification.scoring import unit
from speechssl.speakers import calibration as calibrations
from speechssl.speakers.calibration import Calibration
from speechssl.speakers.quality import Quality, is_narrow, seconds_of

NO_CALIBRATION = (
    "no verdict: nothing says which score of this model is high enough. 1 is the same direction,"
    " strangers are spread around a value that each model has of its own. Calibrate it once on"
    " trials with known answers (speechssl calibrate), or give --calibration"
)

SHORT = 2.0
"""Seconds. Scores of shorter recordings are lower, whoever speaks (README); a calibration may know by how
much."""


@dataclass(frozen=True)
class Comparison:
    """What is known of two recordings.

    Attributes:
        score: cosine of the embeddings.
        prior: probability, before listening, that the speaker is the same.
        calibration: what the score is judged by; None: nothing is known, and there is no verdict.
        seconds: length of the shorter side: of all that is enrolled, or of the other recording.
        narrow: of what is enrolled the share of recordings of a narrow band, such as a telephone's, and
            of the other recording 1 or 0; None: not looked at, as the calibration does not ask.
    """

    score: float
    prior: float
    calibration: Calibration | None
    seconds: float | None = None
    narrow: tuple[float, float] | None = None

    @property
    def quality(self) -> Quality:
        """What is known of the recordings beside the score."""
        return Quality(self.seconds, self.narrow)

    @property
    def threshold(self) -> float | None:
        """Score above which "same speaker" is the better guess."""
        if self.calibration is None:
            return None
        return self.calibration.threshold(self.prior, self.quality)

    @property
    def verdict(self) -> str | None:
        """``same`` or ``different``."""
        if self.threshold is None:
            return None
        return "same" if self.score >= self.threshold else "different"

    @property
    def probability(self) -> float | None:
        """Probability that the speaker is the same."""
        if self.calibration is None:
            return None
        return self.calibration.probability(self.score, self.prior, self.quality)

    def as_json(self) -> dict[str, Any]:
        """Return score and verdict under the names of `speechssl verify --json`."""
        if self.calibration is None:
            return {"score": self.score, "verdict": None, "seconds": self.seconds}
        natural = self.calibration.log_likelihood_ratio(self.score, self.quality)
        ratio = float(natural) / math.log(10)
        return {
            "score": self.score,
            "verdict": self.verdict,
            "probability_same": self.probability,
            "log10_likelihood_ratio": ratio,
            "threshold": self.threshold,
            "prior": self.prior,
            "calibration": self.calibration.describe(),
            "seconds": self.seconds,
            "narrow": None if self.narrow is None else list(self.narrow),
        }

    def __str__(self) -> str:
        from speechssl.text import printable

        lines = [f"score       {self.score:.4f}   (cosine of the embeddings)"]
        if self.calibration is None:
            return "\n".join([*lines, NO_CALIBRATION])
        known = self.as_json()
        ratio = known["log10_likelihood_ratio"]
        lines += [
            f"verdict     {self.verdict} speaker   (probability {self.probability:.3f} that it is the"
            f" same; likelihood ratio 10^{ratio:.1f})",
            f"threshold   {self.threshold:.4f} at a prior of {self.prior:g}{self._for_this_quality()}",
            f"known from  {printable(known['calibration'])}",
        ]
        is_short = self.seconds is not None and self.seconds < SHORT
        if is_short and not self.calibration.duration_slope:
            lines.append(
                f"short       {self.seconds:.2g} s on the shorter side: below {SHORT:g} s scores are"
                " lower, whoever speaks, so that `different` means little"
            )
        return "\n".join(lines)

    def _for_this_quality(self) -> str:
        known = []
        if self.seconds is not None and self.calibration and self.calibration.duration_slope:
            known.append(f"{self.seconds:.2g} s on the shorter side")
        if self.narrow is not None and any(self.narrow):
            kind = "both" if self.narrow == (1.0, 1.0) else "one"
            if 0 < self.narrow[0] < 1:  # of what is enrolled, some are and some are not
                kind = "some recordings"
            known.append(f"{kind} by telephone (narrow band)")
        return f", for {' and '.join(known)}" if known else ""


def verify(
    embedder: Embedder,
    recordings: Sequence[Source],
    *,
    prior: float = 0.5,
    calibration: Calibration | None = None,
    channel: int | None = None,
    vad: str | None = None,
) -> Comparison:
    """Compare the last recording with the ones before it, which are of one speaker.

    Several recordings before the last are one enrolment: their embeddings are averaged.

    Args:
        embedder: the model.
        recordings: two or more, as `Embedder.embed` takes them.
        prior: probability, before listening, that the speaker is the same.
        calibration: what the score is judged by; None: what lies with the model, if anything does.
        channel: which channel of each recording that names none itself, from 1; None: the mean of all.
        vad: which part of `vad/` finds the speech of files, which alone counts; None: all counts.

    Raises:
        UserError: fewer than two recordings, one that cannot be read or holds no speech, a prior that is
            not between 0 and 1, speech looked for in samples, or a damaged calibration.
    """
    calibrations.check_prior(prior)
    if len(recordings) < 2:
        raise UserError("verify: one recording; give two, or several of one speaker and another")
    if calibration is None and embedder.name:
        calibration = calibrations.of_model(embedder.name, embedder.model)
    found = [resolve(one, None, f"recording {number}") for number, one in enumerate(recordings)]
    found = [replace(one, channel=one.channel or channel) for one in found]
    if vad is None:
        rows = unit(embedder.embed(found))
        seconds = list(map(seconds_of, found))
    else:
        rows, seconds = _speech(embedder, found, vad)
    enrolled = unit(rows[:-1].mean(axis=0, keepdims=True))[0]
    score = float(np.clip(enrolled @ rows[-1], -1, 1))
    *lengths, length = seconds
    narrow = None
    if calibration is not None and calibration.knows_bands:
        *known, last = map(is_narrow, found)
        narrow = (float(np.mean(known)), float(last))
    return Comparison(score, prior, calibration, min(sum(lengths), length), narrow)


def _speech(
    embedder: Embedder, recordings: Sequence[Recording], vad: str
) -> tuple[Matrix, list[float]]:
    """Return the embeddings (N, D) of length 1 of the speech of N files, and its seconds."""
    utterances = []
    for number, one in enumerate(recordings):
        if one.samples is not None:
            raise UserError(
                f"recording {number}: speech is looked for in files alone; leave vad out"
            )
        utterances.append(Utterance(str(number), one.file, channel=one.channel))
    kept, matrix, failures = gather_speech(embedder, utterances, vad)
    for failure in failures:
        raise UserError(f"{failure.path}: {failure.reason}")
    return unit(matrix), [utterance.counted_seconds for utterance in kept]

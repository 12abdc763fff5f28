"""Calibration: from the cosine of two embeddings to a likelihood ratio, and a threshold at a prior.

A score s becomes the natural-log likelihood ratio slope * s + offset, fitted by logistic regression
on trials whose answers are known (`evaluation.verification.scoring.fit_log_likelihood_ratio`; Brummer and du
Preez 2006). At the prior p of the same speaker, "same" is the better guess where the ratio exceeds
(1 - p) / p: the threshold is the score at which both are equal.

Short recordings score lower, whoever speaks, and so do a telephone recording and a wide-band one of
one speaker. Where more than the scores was given to the fit (`quality`), the ratio has a term for each
measure, in the manner of Thienpondt et al. 2021 ("The IDLab VoxSRC-20 submission"): the logarithm of
the shorter side's length, whether one side is of a narrow band, whether both are. The threshold moves
with them.

It is written as ``calibration.json`` beside the model's weights, which says which trials it is from.
The file may be somebody else's: numbers are checked, and nothing else of it is used.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechssl import foreign_json, metrics
from speechssl.data.scores import read_scores
from speechssl.data.trials import read_trials
from speechssl.errors import UserError, writing
from speechssl.evaluation.verification.scoring import fit_log_likelihood_ratio
from speechssl.files import model_folder, write_text
from speechssl.model import Model
from speechssl.speakers.model_digest import digest
from speechssl.speakers.quality import Quality

FILE = "calibration.json"
"""Its name in a model folder."""

_REMEDY = "calibrate again (`speechssl calibrate`)"

_LARGEST = 1e6  # of slopes and offset: what is larger is no calibration of cosines
_MOST_TRIALS = 1 << 63  # that anybody can have
_NUMBERS = {"duration_slope": 0.0, "one_narrow": 0.0, "both_narrow": 0.0}
"""What a file may lack, and what it then is: lengths and bands have not always counted."""


@dataclass(frozen=True)
class Calibration:
    """The line that turns a score into a log likelihood ratio.

    Attributes:
        slope: above 0.
        offset: of the natural-log likelihood ratio.
        trials: how many it was fitted on.
        targets: how many of them are of one speaker.
        eer: equal error rate of these trials by the ratio, percent.
        source: description of the trials, shown to users.
        model: digest of the model whose scores these are (`model_digest.digest`); "": not known.
        duration_slope: of the logarithm of the shorter side's length over `quality.ASSUMED`; 0:
            length does not count.
        one_narrow: added where one side is of a narrow band, and the other of a wide one.
        both_narrow: added where both sides are of a narrow band.
    """

    slope: float
    offset: float
    trials: int
    targets: int
    eer: float
    source: str
    model: str = ""
    duration_slope: float = 0.0
    one_narrow: float = 0.0
    both_narrow: float = 0.0

    @property
    def knows_bands(self) -> bool:
        """True if it counts whether a recording is of a narrow band."""
        return bool(self.one_narrow or self.both_narrow)

    def log_likelihood_ratio(
        self, scores: ArrayLike, quality: Quality | None = None
    ) -> NDArray[np.float64]:
        """Return natural-log likelihood ratios (T,).

        Args:
            scores: (T,).
            quality: what else is known of the trials.
        """
        ratios: NDArray[np.float64] = self.slope * np.asarray(scores, np.float64) + self.offset
        return ratios + self._of_quality(quality or Quality())

    def probability(self, score: float, prior: float, quality: Quality | None = None) -> float:
        """Return the probability that a score is of one speaker.

        Args:
            score: cosine.
            prior: probability before listening.
            quality: what else is known of the trial.
        """
        ratio = float(self.log_likelihood_ratio(score, quality))
        odds = ratio + math.log(prior / (1 - prior))
        return 0.5 * (1 + math.tanh(odds / 2))

    def threshold(self, prior: float, quality: Quality | None = None) -> float:
        """Return the score above which "same speaker" is the better guess.

        Args:
            prior: probability, before listening, that the speaker is the same.
            quality: what else is known of the trial.
        """
        offset = self.offset + float(self._of_quality(quality or Quality()))
        return (math.log((1 - prior) / prior) - offset) / self.slope

    def _of_quality(self, quality: Quality) -> NDArray[np.float64]:
        """Return what the quality measures add to the ratio."""
        added: NDArray[np.float64] = self.duration_slope * quality.log_length()
        added = added + self.one_narrow * quality.one_narrow()
        return added + self.both_narrow * quality.both_narrow()

    def describe(self) -> str:
        """Return where it is from, on one line."""
        return f"{self.trials} trials, EER {self.eer:.2f} %: {self.source}"

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(asdict(self), indent=2) + "\n")


def check_prior(prior: float) -> None:
    """Raise UserError unless a prior is above 0 and below 1."""
    if not 0 < prior < 1:
        raise UserError(f"prior: must be above 0 and below 1, not {prior:g}")


def fit(
    scores: ArrayLike,
    target: ArrayLike,
    source: str,
    prior: float = 0.05,
    *,
    quality: Quality | None = None,
) -> Calibration:
    """Fit a calibration.

    Args:
        scores: (T,) of trials that are not the ones to be decided.
        target: (T,) true for the same speaker.
        source: description of the trials, shown to users.
        prior: at which errors of the fit count, as in `fit_log_likelihood_ratio`.
        quality: what else is known of the trials; what is not known does not count.

    Raises:
        UserError: targets or non-targets are missing, or targets do not score higher.
    """
    target = np.asarray(target, bool)
    measures = {"slope": np.asarray(scores, np.float64)}
    if quality is not None and quality.seconds is not None:
        measures["duration_slope"] = quality.log_length()
    if quality is not None and quality.narrow is not None:
        bands = {"one_narrow": quality.one_narrow(), "both_narrow": quality.both_narrow()}
        measures.update({name: share for name, share in bands.items() if share.any()})
    columns = np.stack(list(measures.values()), axis=1)
    slopes, offset = fit_log_likelihood_ratio(columns, target, prior)
    slope = float(slopes[0])
    if not slope > 0:
        raise UserError(
            f"{source}: trials of one speaker do not score above the others; these scores decide"
            " nothing (are the answers the right way round?)"
        )
    found = Calibration(slope, offset, len(target), int(target.sum()), math.nan, source)
    found = replace(found, **dict(zip(measures, slopes.tolist(), strict=True)))
    ratios = found.log_likelihood_ratio(scores, quality)
    return replace(found, eer=metrics.eer(ratios, target))


def from_scores(scores_file: Path, trials_file: Path, prior: float = 0.05) -> Calibration:
    """Fit a calibration on a file of lines `enrol test score` and the answers of a trial list.

    Raises:
        UserError: a file cannot be read, a line is not a trial, a trial has no score, or as `fit`.
    """
    score_of = read_scores(scores_file)
    trials = read_trials(trials_file)
    scores = []
    for pair in zip(trials.enrol.tolist(), trials.test.tolist(), strict=True):
        if pair not in score_of:
            raise UserError(f"{scores_file}: no score of {' '.join(pair)!r} in {trials_file}")
        scores.append(score_of[pair])
    return fit(scores, trials.target, f"{scores_file}, {trials_file}", prior)


def read(path: Path, model: Model | None = None) -> Calibration:
    """Read a calibration file.

    Args:
        path: the file.
        model: whose scores are to be judged.

    Raises:
        UserError: it is not there, not such a file, or of another model.
    """
    found = _checked(foreign_json.read(path, _REMEDY), path)
    if model is not None and found.model not in ("", digest(model)):
        raise UserError(f"{path}: is a calibration of other weights; calibrate again")
    return found


def of_model(folder: str | Path, model: Model) -> Calibration | None:
    """Return the calibration stored with a model: its file, or else ``about: calibration``.

    Args:
        folder: a model or run folder, or a name.
        model: what was loaded from it.

    Raises:
        UserError: there is one, and it is damaged or of other weights.
    """
    beside = model_folder(folder).path / FILE
    if beside.is_file():
        return read(beside, model)
    stated = model.about.get("calibration")
    return None if stated is None else _checked(stated, Path(folder))


def _checked(written: Any, path: Path) -> Calibration:
    """Return the calibration in a mapping that somebody else may have written."""
    with foreign_json.damage(path, _REMEDY):
        numbers = dict(_NUMBERS)
        for key in ("slope", "offset", "eer", *_NUMBERS):
            value = written[key] if key in written else numbers[key]
            if not foreign_json.is_number(value) or not abs(value) < _LARGEST:
                raise ValueError(f"{key} is {str(value)[:40]}")
            numbers[key] = float(value)
        if not numbers["slope"] > 1 / _LARGEST:
            raise ValueError(f"slope is {numbers['slope']}, not above 0")
        counts = {key: written[key] for key in ("trials", "targets")}
        for key, value in counts.items():
            if type(value) is not int or not 0 <= value < _MOST_TRIALS:
                raise ValueError(f"{key} is {str(value)[:40]}")
        return Calibration(
            **numbers,
            trials=counts["trials"],
            targets=counts["targets"],
            source=str(written.get("source", "not known"))[:300],
            model=str(written.get("model", "")),
        )

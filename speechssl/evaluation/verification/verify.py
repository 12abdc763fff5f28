"""Speaker verification from embeddings: score a trial list, measure the errors, write the results.

Whatever moves or scales the scores (mean, cohort, calibration) comes from other data than the test:
it is refused when it holds embeddings of the test set.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechssl import files, metrics
from speechssl.data.trials import Trials, write_trials
from speechssl.errors import UserError, writing
from speechssl.evaluation.verification.backends import Backend, fit_backend
from speechssl.evaluation.verification.measures import measure_calibrated, measure_curve
from speechssl.evaluation.verification.scoring import Matrix, fit_calibration, used_rows
from speechssl.evaluation.verification.settings import VerificationSettings
from speechssl.evaluation.verification.sources import (
    Embeddings,
    Enrolled,
    Ids,
    LocatedTrials,
    enrol_models,
    load,
    locate,
)


@dataclass(frozen=True)
class Verification:
    """A finished run.

    Attributes:
        results: see `evaluate`.
        trials: the T trials that were scored.
        scores: (T,).
        speakers: numbers (T,) for the speakers of both sides; None if unknown.
    """

    results: dict[str, Any]
    trials: Trials
    scores: NDArray[np.float64]
    speakers: tuple[NDArray[Any], NDArray[Any]] | None = None


@dataclass(frozen=True)
class Speakers:
    """Who speaks in each embedding, for the bootstrap.

    Attributes:
        codes: (N,) a number for the speaker of each embedding; right for those in trials only.
        known_from: written into the results.
    """

    codes: NDArray[Any]
    known_from: str

    def sides(self, located: LocatedTrials) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the speakers (T,) of the first and of the second side of each trial."""
        return self.codes[located.enrol], self.codes[located.test]


def verify(
    embeddings: Embeddings,
    trials: Trials,
    settings: VerificationSettings | None = None,
    **options: Any,
) -> Verification:
    """Score trials with embeddings and measure the errors.

    Args:
        embeddings: a file (see `data.vectors`) or `(ids (N,), matrix (N, D))`.
        trials: the list.
        settings: None: the defaults.
        options: fields of `VerificationSettings`, by name; they replace those of `settings`.

    Raises:
        UserError: unknown ids, NaN, a list without targets or non-targets, or test data where it
            must not be.
    """
    settings = replace(settings or VerificationSettings(), **options)
    scored = score(embeddings, trials, settings)
    enrolled = scored.enrolled
    located = scored.located
    speakers = _speakers(scored.ids, enrolled, located, settings.speakers)
    results = _results(scored.scores, located, speakers, settings)
    results["trials_sha256"] = trials.sha256()
    results["scoring"] = scored.scoring
    if settings.enrol is not None:
        sizes = [len(rows) for rows in enrolled.utterances_of.values()]
        results["enrolled_models"] = len(sizes)
        if sizes:
            results["scoring"] += f", models of {min(sizes)} to {max(sizes)} utterances"
    if settings.calibration is not None:
        results["scoring"] += ", calibrated"
    return Verification(results, located.trials, scored.scores, speakers.sides(located))


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of trials, whether or not their answers are known.

    Attributes:
        ids: (N,) of the embeddings.
        enrolled: models, behind the embeddings.
        located: the trials, and their rows.
        scores: (T,).
        scoring: how they were made, in a few words.
    """

    ids: Ids
    enrolled: Enrolled
    located: LocatedTrials
    scores: NDArray[np.float64]
    scoring: str


def score(embeddings: Embeddings, trials: Trials, settings: VerificationSettings) -> Scored:
    """Score trials with embeddings, without a look at their answers.

    Raises:
        UserError: as `verify`, but for a list without targets or non-targets.
    """
    ids, matrix = load(embeddings, "the embeddings", _named(trials, settings.enrol))
    enrolled = enrol_models(settings.enrol or {}, ids, matrix, settings.keep_going)
    located = locate(trials, ids, settings.keep_going, enrolled.row_of)
    _warn_of_zeros(enrolled.matrix, located)
    backend = fit_backend(settings, ids, matrix)
    scores = backend(enrolled.matrix, located.enrol, located.test)
    if settings.calibration is not None:
        scores = _calibrate(scores, backend, settings, located.trials)
    return Scored(ids, enrolled, located, scores, backend.name)


def _named(trials: Trials, models: Mapping[str, Sequence[str]] | None) -> set[str]:
    """Return the ids that trials name, and those of the utterances of enrolled models."""
    named = set(trials.enrol.tolist()) | set(trials.test.tolist())
    for utterances in (models or {}).values():
        named.update(utterances)
    return named


def evaluate(embeddings: Embeddings, trials: Trials, **options: Any) -> dict[str, Any]:
    """Return the `results` of `verify` (same arguments), under names that stay.

    Each measure of `measures.MEASURES` (`eer` in percent, `min_dcf_0.01`, ...), with its 95 %
    `<name>_interval` (or None); after calibration also `act_dcf_0.01`, `act_dcf_0.05` and `cllr`
    (bits). Besides, `eer_threshold`, `trials`, `targets`, `nontargets`, `trials_skipped`,
    `trials_sha256` (`Trials.sha256` of the list), `scoring`, `interval_over`,
    `bootstrap_replicates`, `model`, `labels_used`.
    """
    return verify(embeddings, trials, **options).results


def _results(
    scores: NDArray[np.float64],
    located: LocatedTrials,
    speakers: Speakers,
    settings: VerificationSettings,
) -> dict[str, Any]:
    """Return all results but `scoring`."""
    target = located.trials.target
    sides = speakers.sides(located)
    results = measure_curve(
        scores, target, sides, replicates=settings.replicates, seed=settings.seed
    )
    _, results["eer_threshold"] = metrics.eer_point(scores, target)
    labels_used = list(settings.labels_used)
    if settings.calibration is not None:
        results |= measure_calibrated(scores, target)
        labels_used.append("calibration trials")
    return results | {
        "trials": len(scores),
        "targets": int(target.sum()),
        "nontargets": int((~target).sum()),
        "trials_skipped": located.skipped,
        "interval_over": speakers.known_from,
        "bootstrap_replicates": settings.replicates,
        "model": settings.model,
        "labels_used": labels_used,
    }


def write_results(out: str | Path, run: Verification, *, scores: bool = False) -> Path:
    """Write `results.json` and, if asked for, the file `scores` into a folder.

    Args:
        out: the folder, made if need be.
        run: what `verify` returned.
        scores: also write the scores: lines `enrol test score`, in the order of the trial list, and
            those trials beside them (`scored_trials`): what curves and pages are drawn from.

    Returns:
        The path of `results.json`.
    """
    folder = Path(out)
    path = folder / "results.json"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if scores:
            write_trials(run.trials, folder / "scored_trials")
            files.write_text(folder / "scores", "".join(score_lines(run.trials, run.scores)))
        files.write_text(path, json.dumps(run.results, indent=2) + "\n")
    return path


def score_lines(trials: Trials, scores: NDArray[np.float64]) -> Iterator[str]:
    """Yield lines `enrol test score` of trials (T) and scores (T,), in their order."""
    # numpy's strings are slower to write than Python's
    rows = zip(trials.enrol.tolist(), trials.test.tolist(), scores.tolist(), strict=True)
    for enrol, test, score in rows:
        yield f"{enrol} {test} {score:.7g}\n"


def _warn_of_zeros(matrix: Matrix, located: LocatedTrials) -> None:
    used = used_rows(len(matrix), located.enrol, located.test)
    zeros = int((~matrix[used].any(1)).sum())
    if zeros:
        warnings.warn(
            f"{zeros} embeddings are all zeros: their cosines are set to 0",
            RuntimeWarning,
            stacklevel=3,
        )


def _speakers(
    ids: Ids, enrolled: Enrolled, located: LocatedTrials, speakers: Mapping[str, str] | None
) -> Speakers:
    """Return the speakers that were given, or those that the target trials imply.

    Two utterances of a target trial are of one speaker, and so is whatever a chain of target trials
    joins. A model has the speaker of its utterances.
    """
    count = len(enrolled.matrix)
    utterance_of = list(range(len(ids)))  # of a model: its first one
    utterance_of += [rows[0] for rows in enrolled.utterances_of.values()]
    if speakers is not None:
        used = used_rows(count, located.enrol, located.test)
        names_of_rows = ids[utterance_of].tolist()
        missing = [names_of_rows[row] for row in used if names_of_rows[row] not in speakers]
        if not missing:
            names = [speakers.get(name, "") for name in names_of_rows]
            return Speakers(np.unique(names, return_inverse=True)[1], "speakers")
        warnings.warn(
            f"{len(missing)} utterances have no speaker (such as {missing[0]!r}): speakers are"
            " taken from the target trials instead",
            stacklevel=3,
        )
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    target = located.trials.target
    first = [located.enrol[target]]
    second = [located.test[target]]
    for model, rows in enrolled.utterances_of.items():
        first.append(np.full(len(rows), enrolled.row_of[model]))
        second.append(np.array(rows))
    pairs = (np.concatenate(first), np.concatenate(second))
    links = coo_array((np.ones(len(pairs[0])), pairs), shape=(count, count))
    codes = connected_components(links, directed=False)[1]
    return Speakers(codes, "speakers implied by the target trials")


def _calibrate(
    scores: NDArray[np.float64],
    backend: Backend,
    settings: VerificationSettings,
    test_trials: Trials,
) -> NDArray[np.float64]:
    """Return the scores (T,) as log likelihood ratios; calibration trials may name models, too.

    Raises:
        UserError: a calibration trial is a trial of the test, either way round.
    """
    assert settings.calibration is not None
    source, trials = settings.calibration
    ids, matrix = load(source, "the calibration embeddings", _named(trials, settings.enrol))
    known = set(ids.tolist())
    models = {}
    for model, utterances in (settings.enrol or {}).items():
        if known.issuperset(utterances):
            models[model] = utterances
    enrolled = enrol_models(models, ids, matrix, keep_going=False)
    located = locate(trials, ids, keep_going=False, models=enrolled.row_of)
    tested = set(_pairs(test_trials))
    shared = sum((a, b) in tested or (b, a) in tested for a, b in _pairs(located.trials))
    if shared:
        raise UserError(
            f"{shared} calibration trials are trials of the test too; calibrate on another list"
        )
    calibration_scores = backend(enrolled.matrix, located.enrol, located.test)
    slope, offset = fit_calibration(calibration_scores, located.trials.target)
    return slope * scores + offset


def _pairs(trials: Trials) -> list[tuple[str, str]]:
    return list(zip(trials.enrol.tolist(), trials.test.tolist(), strict=True))

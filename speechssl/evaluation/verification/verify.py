"""Speaker verification from embeddings: cosine scores, mean subtraction, AS-norm, calibration,
    results.

Whatever moves or scales the scores (mean, cohort, calibration) comes from other data than the test:
it is refused when it holds embeddings of the test set. Cosines are a gather and a product in
blocks, never a loop over trials.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechssl import metrics
from speechssl.data.trials import Trials
from speechssl.errors import UserError, writing
from speechssl.evaluation.verification.backends import Cosine, fit_plda
from speechssl.evaluation.verification.plda import PLDA
from speechssl.evaluation.verification.scoring import (
    Index,
    Matrix,
    as_norm,
    fit_calibration,
    score_trials,
    subtract_mean,
    used_rows,
    whitening,
)
from speechssl.evaluation.verification.sources import Embeddings, load, load_apart, locate

P_TARGETS = (0.01, 0.05)

__all__ = [
    "Verification",
    "as_norm",
    "evaluate",
    "fit_calibration",
    "score_trials",
    "subtract_mean",
    "verify",
    "whitening",
    "write_results",
]


@dataclass(frozen=True)
class Verification:
    """What a run measured: `results` (see `evaluate`), and the trials and their scores (T,) that it
    used.
    """

    results: dict[str, Any]
    trials: Trials
    scores: NDArray[np.float64]


def verify(
    embeddings: Embeddings,
    trials: Trials,
    *,
    mean: Embeddings | None = None,
    whiten: Embeddings | None = None,
    shrinkage: float = 0.1,
    cohort: Embeddings | None = None,
    top: int = 300,
    plda: tuple[Embeddings, Mapping[str, str]] | None = None,
    plda_dim: int = 0,
    speakers: Mapping[str, str] | None = None,
    calibration: tuple[Embeddings, Trials] | None = None,
    replicates: int = 1000,
    seed: int = 0,
    keep_going: bool = False,
    model: str | None = None,
    labels_used: Sequence[str] = (),
) -> Verification:
    """Score `trials` with `embeddings` and measure the errors.

    Embeddings are a file (see `data.vectors`) or `(ids (N,), matrix (N, D))`.

    Args:
        mean: training embeddings, whose mean is subtracted from everything before scoring.
        whiten: training embeddings: their mean is subtracted (unless `mean` is given), and their
            directions made alike in variance, shrunk by `shrinkage` (see `_scoring.whitening`).
        cohort: embeddings for AS-norm, with the `top` nearest of them for each utterance (all, if
            there are fewer).
        plda: training embeddings and their classes (utterance -> pseudo-speaker): score by PLDA in
            place of cosines, after LDA to `plda_dim` directions (0: none).
        speakers: utterance -> speaker, for the bootstrap intervals only. Without it, utterances
            that target trials join are taken for one speaker.
        calibration: embeddings and trials that are not the test's; only with it are actDCF and Cllr
            reported.
        replicates: bootstrap resamples; 0 for no intervals. seed: of them.
        keep_going: leave out, and count, trials that name an unknown id, instead of refusing the
            list.
        model, labels_used: written into the results: whose embeddings, and which labels helped to
            make them.

    Raises:
        UserError: unknown ids, NaN, a list without targets or non-targets, or test data where it
            must not be.
    """
    if plda and any(option is not None for option in (mean, whiten, cohort)):
        raise UserError(
            "PLDA is a scoring of its own; leave the mean, the whitening and AS-norm out"
        )
    ids, matrix = load(embeddings, "the embeddings")
    trials, enrol, test, skipped = locate(trials, ids, keep_going)
    _warn_zeros(matrix, used_rows(len(matrix), enrol, test))

    def apart(source: Embeddings | None, what: str) -> Matrix | None:
        return None if source is None else load_apart(source, ids, matrix, what)[1]

    prepared: Cosine | PLDA
    if plda:
        training = load_apart(plda[0], ids, matrix, "the training set of PLDA")
        prepared = fit_plda(*training, plda[1], plda_dim)
    else:
        prepared = Cosine(
            apart(mean, "the mean"),
            apart(whiten, "the training set of the whitening"),
            shrinkage,
            apart(cohort, "the cohort"),
            top,
        )
    scores = prepared(matrix, enrol, test)
    if calibration is not None:
        scores = _calibrate(scores, prepared, calibration, trials)
    who, interval_over = _speakers(ids, enrol, test, trials.target, speakers)
    results: dict[str, Any] = {
        **_measure(scores, trials.target, (who[enrol], who[test]), replicates, seed),
        **({} if calibration is None else _calibrated(scores, trials.target)),
        "trials": len(scores),
        "targets": int(trials.target.sum()),
        "nontargets": int((~trials.target).sum()),
        "trials_skipped": skipped,
        "scoring": prepared.name + ("" if calibration is None else ", calibrated"),
        "interval_over": interval_over,
        "bootstrap_replicates": replicates,
        "model": model,
        "labels_used": [*labels_used, *([] if calibration is None else ["calibration trials"])],
    }
    return Verification(results, trials, scores)


def evaluate(embeddings: Embeddings, trials: Trials, **options: Any) -> dict[str, Any]:
    """The `results` of `verify` (same arguments), under names that stay.

    `eer` (percent), `eer_threshold`, `min_dcf_0.01`, `min_dcf_0.05`, each with its 95 %
    `<name>_interval` (or null); `trials`, `targets`, `nontargets`, `trials_skipped`, `scoring`,
    `model`, `labels_used`; after calibration also `act_dcf_0.01`, `act_dcf_0.05` and `cllr` (bits).
    """
    return verify(embeddings, trials, **options).results


def write_results(out: str | Path, run: Verification, *, scores: bool = False) -> Path:
    """Write `results.json` into the folder `out` (made if need be) and, with `scores`, the file
    `scores`.

    A line of `scores` is `enrol test score`, in the order of the trial list. Returns the path of
    `results.json`.
    """
    folder = Path(out)
    path = folder / "results.json"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if scores:
            with (folder / "scores").open("w", encoding="utf-8") as handle:
                handle.writelines(score_lines(run))
        path.write_text(json.dumps(run.results, indent=2) + "\n", encoding="utf-8")
    return path


def score_lines(run: Verification) -> Iterator[str]:
    """`enrol test score` lines, in the order of the trial list."""
    rows = zip(run.trials.enrol, run.trials.test, run.scores.tolist(), strict=True)
    return (f"{enrol} {test} {score:.7g}\n" for enrol, test, score in rows)


def _warn_zeros(matrix: Matrix, used: Index) -> None:
    zeros = int((~matrix[used].any(1)).sum())
    if zeros:
        warnings.warn(
            f"{zeros} embeddings are all zeros: their cosines are set to 0",
            RuntimeWarning,
            stacklevel=3,
        )


def _speakers(
    ids: NDArray[np.str_],
    enrol: Index,
    test: Index,
    target: NDArray[np.bool_],
    speakers: Mapping[str, str] | None,
) -> tuple[NDArray[Any], str]:
    """The speaker of each embedding (N,), and where that is known from; only those in trials
    matter.
    """
    if speakers is not None:
        used = used_rows(len(ids), enrol, test)
        missing = [name for name in ids[used].tolist() if name not in speakers]
        if not missing:
            names = [speakers.get(name, "") for name in ids.tolist()]
            return np.unique(names, return_inverse=True)[1], "speakers"
        warnings.warn(
            f"{len(missing)} utterances have no speaker (as {missing[0]!r}): intervals go by"
            " trials",
            stacklevel=3,
        )
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    joined = (np.ones(int(target.sum())), (enrol[target], test[target]))
    links = coo_array(joined, shape=(len(ids), len(ids)))
    return connected_components(links, directed=False)[1], "speakers implied by the target trials"


def _measure(
    scores: NDArray[np.float64],
    target: NDArray[np.bool_],
    sides: tuple[NDArray[Any], NDArray[Any]],
    replicates: int,
    seed: int,
) -> dict[str, Any]:
    rate, threshold = metrics.eer_point(scores, target)
    values = {"eer": rate} | {
        f"min_dcf_{p:g}": metrics.min_dcf(scores, target, p) for p in P_TARGETS
    }
    intervals: Mapping[str, metrics.Interval | None] = {}
    if replicates:
        intervals = metrics.bootstrap_trials(
            scores, target, *sides, p_targets=P_TARGETS, replicates=replicates, seed=seed
        )
    results: dict[str, Any] = {}
    for key, value in values.items():
        interval = intervals.get(key)
        results |= {key: value, f"{key}_interval": None if interval is None else list(interval)}
    return results | {"eer_threshold": threshold}


def _calibrate(
    scores: NDArray[np.float64],
    scoring: Cosine | PLDA,
    calibration: tuple[Embeddings, Trials],
    test: Trials,
) -> NDArray[np.float64]:
    """Scores as log likelihood ratios, fitted on trials that the test does not have, either way
    round.
    """
    ids, matrix = load(calibration[0], "the calibration embeddings")
    trials, enrol, other, _ = locate(calibration[1], ids, keep_going=False)
    tested = set(zip(test.enrol.tolist(), test.test.tolist(), strict=True))
    pairs = zip(trials.enrol.tolist(), trials.test.tolist(), strict=True)
    shared = sum((a, b) in tested or (b, a) in tested for a, b in pairs)
    if shared:
        raise UserError(
            f"{shared} calibration trials are trials of the test too; calibrate on another list"
        )
    slope, offset = fit_calibration(scoring(matrix, enrol, other), trials.target)
    return slope * scores + offset


def _calibrated(llr: NDArray[np.float64], target: NDArray[np.bool_]) -> dict[str, float]:
    return {f"act_dcf_{p:g}": metrics.act_dcf(llr, target, p) for p in P_TARGETS} | {
        "cllr": metrics.cllr(llr, target)
    }

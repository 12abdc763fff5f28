"""How far short recordings can be trusted: error rates with one side of each trial cut to its beginning.

    python egs/real/short.py MODEL DIRECTORY ... [--seconds S ...] [--threshold SCORE]

A DIRECTORY is a Kaldi directory with `trials`. For each length: EER %, and at the threshold (of the
model's calibration at that length, if none is given) the pairs of one speaker that are rejected and
those of two that are accepted, %. The first recording of a trial is whole, the second is cut.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import speechssl
from speechssl.data.manifest import Utterance, read_manifest
from speechssl.data.trials import read_trials
from speechssl.embed.embedder import Embedder
from speechssl.embed.gather import gather
from speechssl.evaluation.verification.scoring import unit
from speechssl.metrics.verification import eer
from speechssl.speakers import calibration

Vector = NDArray[np.floating]

SECONDS = (0.3, 0.5, 1.0, 1.5, 2.0, 3.0, math.inf)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIRECTORY")
    parser.add_argument("--seconds", nargs="+", type=float, default=list(SECONDS))
    parser.add_argument("--threshold", type=float)
    args = parser.parse_args()
    embedder = speechssl.load(args.model)
    known = calibration.of_model(args.model, embedder.model)
    if known is None and args.threshold is None:
        parser.error("the model has no calibration; give --threshold")
    print("| set | seconds | EER % | one speaker rejected % | two accepted % |")
    print("|---|---|---|---|---|")
    for directory in args.directories:
        utterances = read_manifest(directory).utterances
        whole = embedded(embedder, utterances)
        for seconds in args.seconds:
            cut = embedded(embedder, [one.beginning(seconds) for one in utterances])
            scores, target, lengths = scored(directory / "trials", whole, cut)
            if args.threshold is not None:
                is_accepted = scores >= args.threshold
            else:
                is_accepted = known.log_likelihood_ratio(scores, lengths) >= 0
            rejected = np.mean(~is_accepted[target])
            accepted = np.mean(is_accepted[~target])
            rates = [eer(scores, target), 100 * rejected, 100 * accepted]
            cells = " | ".join(f"{rate:.1f}" for rate in rates)
            print(f"| {directory.name} | {seconds:g} | {cells} |", flush=True)


def embedded(
    embedder: Embedder, utterances: Sequence[Utterance]
) -> dict[str, tuple[Vector, float]]:
    """Return id -> embedding of length 1, and seconds, of those that can be embedded."""
    kept, matrix, _ = gather(embedder, utterances)
    rows = zip(unit(matrix), [one.seconds for one in kept], strict=True)
    return dict(zip([one.id for one in kept], rows, strict=True))


def scored(
    trials: Path, first: dict[str, tuple[Vector, float]], second: dict[str, tuple[Vector, float]]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Return the trials whose two sides have an embedding: cosines, targets, shorter sides (N,)."""
    listed = read_trials(trials)
    pairs = list(zip(listed.enrol.tolist(), listed.test.tolist(), strict=True))
    is_known = np.array([enrol in first and test in second for enrol, test in pairs], bool)
    scores = []
    lengths = []
    for enrol, test in (pair for pair, known in zip(pairs, is_known, strict=True) if known):
        one, one_length = first[enrol]
        other, other_length = second[test]
        scores.append(float(one @ other))
        lengths.append(min(one_length, other_length))
    return np.array(scores), listed.target[is_known], np.array(lengths)


if __name__ == "__main__":
    main()

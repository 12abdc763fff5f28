"""How far short recordings can be trusted: error rates with one side of each trial cut to its beginning.

    python egs/real/short.py MODEL DIRECTORY ... [--seconds S ...] [--threshold SCORE]

A DIRECTORY is a Kaldi directory with `trials`. For each length: EER %, and at the threshold (of the
model's calibration at that length, and between those bands, if none is given) the pairs of one speaker
that are rejected and those of two that are accepted, %. The first recording of a trial is whole, the
second is cut.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

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
from speechssl.speakers.quality import Quality, are_narrow

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
            scores, target, quality = scored(directory / "trials", whole, cut)
            if args.threshold is not None:
                is_accepted = scores >= args.threshold
            else:
                is_accepted = known.log_likelihood_ratio(scores, quality) >= 0
            rejected = np.mean(~is_accepted[target])
            accepted = np.mean(is_accepted[~target])
            rates = [eer(scores, target), 100 * rejected, 100 * accepted]
            cells = " | ".join(f"{rate:.1f}" for rate in rates)
            print(f"| {directory.name} | {seconds:g} | {cells} |", flush=True)


class Embedded(NamedTuple):
    """A recording: its embedding at length 1, its seconds, and whether its band is narrow."""

    vector: Vector
    seconds: float
    is_narrow: bool


def embedded(embedder: Embedder, utterances: Sequence[Utterance]) -> dict[str, Embedded]:
    """Return id -> recording of those that can be embedded."""
    kept, matrix, _ = gather(embedder, utterances)
    narrow = are_narrow(kept)
    return {
        one.id: Embedded(vector, one.seconds, is_narrow)
        for one, vector, is_narrow in zip(kept, unit(matrix), narrow, strict=True)
    }


def scored(
    trials: Path, first: dict[str, Embedded], second: dict[str, Embedded]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], Quality]:
    """Return cosines and targets (N,) of the trials whose two sides have an embedding, and their quality."""
    listed = read_trials(trials)
    pairs = list(zip(listed.enrol.tolist(), listed.test.tolist(), strict=True))
    is_known = np.array([enrol in first and test in second for enrol, test in pairs], bool)
    known = [pair for pair, is_there in zip(pairs, is_known, strict=True) if is_there]
    sides = [(first[enrol], second[test]) for enrol, test in known]
    scores = np.array([float(one.vector @ other.vector) for one, other in sides])
    quality = Quality(
        [min(one.seconds, other.seconds) for one, other in sides],
        ([one.is_narrow for one, _ in sides], [other.is_narrow for _, other in sides]),
    )
    return scores, listed.target[is_known], quality


if __name__ == "__main__":
    main()

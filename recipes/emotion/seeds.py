"""What training gains over several seeds: the mean gain in macro-F1 of frozen probes, and its interval.

    python recipes/emotion/seeds.py UTT2SPK --after PROBE ... --before PROBE ... [--replicates N]

A PROBE is a folder that `speechssl evaluate classification --out` wrote (EXP/probe/CORPUS/MODEL/LAYER of
run.sh): --after has one for each training, --before the same number in the same order (each beside its
own random weights), or one for all (MFCC statistics). The interval is over speakers, who are resampled in
all systems together.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speechssl.data.kaldi import read_mapping
from speechssl.metrics.bootstrap import bootstrap_interval, format_interval
from speechssl.metrics.classification import macro_f1

Labels = NDArray[np.str_]


def main() -> None:
    """Print mean and standard deviation of both, and the gain."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("utt2spk", type=Path)
    parser.add_argument("--after", nargs="+", type=Path, required=True, metavar="PROBE")
    parser.add_argument("--before", nargs="+", type=Path, required=True, metavar="PROBE")
    parser.add_argument("--replicates", type=int, default=1000)
    args = parser.parse_args()
    if len(args.before) not in (1, len(args.after)):
        parser.error(
            f"--before: {len(args.before)} probes for {len(args.after)}; give as many, or one"
        )
    speaker_of = read_mapping(args.utt2spk)
    ids = sorted(read_mapping(args.after[0] / "predictions"))
    after = [read_answers(folder, ids) for folder in args.after]
    before = [read_answers(folder, ids) for folder in args.before] * (
        len(args.after) // len(args.before)
    )
    for name, answers in (("after", after), ("before", before)):
        figures = [macro_f1(*one) for one in answers]
        print(f"{name:7} {np.mean(figures):.3f} +- {spread(figures):.3f}")
    gains = [macro_f1(*one) - macro_f1(*other) for one, other in zip(after, before, strict=True)]

    def mean_gain(weights: NDArray[np.int64]) -> float:
        high = np.mean([macro_f1(*one, weights) for one in after])
        return float(high - np.mean([macro_f1(*one, weights) for one in before]))

    speakers = [speaker_of[name] for name in ids]
    interval = bootstrap_interval(mean_gain, speakers, replicates=args.replicates)
    told = format_interval(interval, "+.3f")
    print(f"gain    {np.mean(gains):+.3f} +- {spread(gains):.3f}{told}, {len(gains)} trainings")


def spread(figures: Sequence[float]) -> float:
    """Return the standard deviation of several figures; 0 of one."""
    return float(np.std(figures, ddof=1)) if len(figures) > 1 else 0.0


def read_answers(folder: Path, ids: Sequence[str]) -> tuple[Labels, Labels]:
    """Return the true and the predicted labels (N,) of N utterances.

    Raises:
        SystemExit: the probe is of other utterances.
    """
    answers = read_mapping(folder / "predictions")
    if sorted(answers) != list(ids):
        raise SystemExit(f"{folder}: is of other utterances; give probes of one corpus")
    pairs = np.array([answers[name].split() for name in ids])
    return pairs[:, 0], pairs[:, 1]


if __name__ == "__main__":
    main()

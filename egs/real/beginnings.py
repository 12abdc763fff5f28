"""Write a Kaldi directory of beginnings: each utterance cut to a length drawn by lot, or left whole.

    python egs/real/beginnings.py DIRECTORY OUT [--seconds S ...] [--seed N] [--prefix TEXT]

`speechssl calibrate --durations OUT/utt2dur` learns from OUT/trials what a score means at which length.
--prefix stands before each id, so that two versions of a directory can be calibrated on together.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np

from speechssl.data.manifest import read_manifest
from speechssl.data.trials import Trials, read_trials, write_trials

SECONDS = (0.5, 1.0, 2.0, 4.0, math.inf)


def main() -> None:
    """Write the directory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", nargs="+", type=float, default=list(SECONDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prefix", default="", metavar="TEXT")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(args.seed)
    recordings: dict[str, str] = {}
    segments = []
    durations = []
    manifest = read_manifest(args.directory)
    for utterance in manifest:
        part = utterance.beginning(float(rng.choice(args.seconds)))
        name = manifest.recordings.get(utterance.recording, utterance.id)  # as in reco2channel
        recordings[name] = utterance.path
        stop = part.start + part.seconds
        segments.append(f"{args.prefix}{part.id} {name} {part.start:.3f} {stop:.3f}\n")
        durations.append(f"{args.prefix}{part.id} {part.seconds:.3f}\n")
    files = {
        "wav.scp": [f"{name} {path}\n" for name, path in recordings.items()],
        "segments": segments,
        "utt2dur": durations,
    }
    for table in ("reco2channel", "utt2spk"):
        if (args.directory / table).exists():
            prefix = args.prefix if table == "utt2spk" else ""
            lines = (args.directory / table).read_text().splitlines()
            files[table] = [f"{prefix}{line}\n" for line in lines]
    for name, lines in files.items():
        (args.out / name).write_text("".join(lines))
    if (args.directory / "trials").exists():
        trials = read_trials(args.directory / "trials")
        enrol, test = (np.char.add(args.prefix, side) for side in (trials.enrol, trials.test))
        write_trials(Trials(enrol, test, trials.target), args.out / "trials", "voxceleb")


if __name__ == "__main__":
    main()

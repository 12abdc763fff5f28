"""Write a Kaldi directory of beginnings: each utterance cut to a length drawn by lot, or left whole.

    python egs/real/beginnings.py DIRECTORY OUT [--seconds S ...] [--seed N]

Every other file of DIRECTORY (trials, labels) is copied. `speechssl calibrate --durations OUT/utt2dur`
learns from such trials what a score means at which length.
"""

from __future__ import annotations

import argparse
import math
import shutil
from pathlib import Path

import numpy as np

from speechssl.data.manifest import read_manifest

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
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for file in args.directory.iterdir():
        if file.is_file() and file.name not in ("wav.scp", "segments", "utt2dur"):
            shutil.copy(file, args.out / file.name)
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
        segments.append(f"{part.id} {name} {part.start:.3f} {stop:.3f}\n")
        durations.append(f"{part.id} {part.seconds:.3f}\n")
    scp = [f"{name} {path}\n" for name, path in recordings.items()]
    for name, lines in (("wav.scp", scp), ("segments", segments), ("utt2dur", durations)):
        (args.out / name).write_text("".join(lines))


if __name__ == "__main__":
    main()

"""Embedding files by sslsv, wespeaker and 3D-Speaker, each in its own way, beside `Embedder`.

    python -m egs.bench.peers.extraction --sslsv DIR --wespeaker DIR --3dspeaker DIR [--files 100]

Files of 1 to 15 s (16-bit wav of noise) are written first. Each program reads whole files, one at a time, as
its evaluation of VoxCeleb does, with its own features and ECAPA-TDNN-512; `Embedder` batches them by length.
One thread computes; ours has one more that reads ahead, whose processor seconds are counted.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from egs.bench.peers import _measure, _ours, _programs
from speechssl.compat import tune_allocator


def write_files(folder: Path, count: int, longest: float) -> tuple[list[Path], float]:
    """Write files of 1 s to `longest` seconds; return them and their seconds in all."""
    rng = np.random.default_rng(0)
    lengths = rng.uniform(1, longest, count)
    paths = [folder / f"{number}.wav" for number in range(count)]
    for path, seconds in zip(paths, lengths, strict=True):
        wave = 0.1 * rng.standard_normal(int(seconds * _programs.SAMPLE_RATE))
        soundfile.write(path, wave, _programs.SAMPLE_RATE)
    return paths, float(lengths.sum())


def makers_of(name: str, peer: Any, paths: list[Path]) -> dict[str, Callable[[], Any]]:
    """Return what builds each candidate."""
    return {
        name: lambda: peer.extractor(paths),
        "ours, float32": lambda: _ours.extractor(paths, "float32"),
        "ours, bfloat16": lambda: _ours.extractor(paths, "bfloat16"),
    }


def main() -> None:
    """Measure every program that is named."""
    parser = _programs.parser_of(__doc__)
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--longest", type=float, default=15.0, help="seconds of the longest file")
    parser.add_argument("--rounds", type=int, default=2, help="runs that count")
    parser.add_argument("--no-memory", action="store_true", help="leave the peak memory out")
    parser.add_argument("--alone", help="run one candidate and print its peak memory (GB)")
    args, folders = _programs.begin(parser)
    tune_allocator()
    _programs.refuse_none(parser, folders)
    with tempfile.TemporaryDirectory() as folder:
        paths, total = write_files(Path(folder), args.files, args.longest)
        for program, clone in folders.items():
            try:
                peer = _programs.adapter_of(program, clone)
                makers = makers_of(program.name, peer, paths)
                with _programs.explained(program, clone):
                    if args.alone:
                        makers[args.alone]()()
                        print(_measure.peak_gigabytes())
                        return
                    runs = {name: make() for name, make in makers.items()}
            except _programs.Unavailable as reason:
                print(f"\n{program.name}: left out: {reason}")
                if args.alone:
                    sys.exit(2)
                continue
            seconds = _measure.in_turns(runs, args.rounds)
            words = [f"--{program.name}", str(clone), "--files", str(args.files)]
            words += ["--longest", str(args.longest)]
            measured = [] if args.no_memory else list(makers)
            peaks = {
                name: _measure.peak_of("egs.bench.peers.extraction", words, name)
                for name in measured
            }
            title = f"{program.name}: {args.files} files, {total / 60:.1f} min"
            _measure.show(title, seconds, program.name, peaks)


if __name__ == "__main__":
    main()

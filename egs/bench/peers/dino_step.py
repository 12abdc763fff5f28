"""One training step of DINO in sslsv, wespeaker and 3D-Speaker, beside ours.

    python -m egs.bench.peers.dino_step --sslsv DIR --wespeaker DIR --3dspeaker DIR [--batch 16]

from the repository's root; a program that is not named is left out (README.md: how to fetch them). A step
is what each program's own training loop does with a batch: forward of student and teacher, loss, backward,
clipping, optimiser, moving average. Each has its own ECAPA-TDNN-512 (80 bands, 192 numbers) and DINO
head (2048, 2048, 256, 4,096 prototypes), SGD, one thread, and batches of noise as its loader gives them.
Ours has the crops of the program beside it, and is told features where the program's loader makes them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

from egs.bench.peers import _measure, _programs
from egs.bench.peers._ours import Trainer
from speechssl.compat import tune_allocator
from speechssl.nn.products import using_kernel

OURS = {"ours, float32": "float32", "ours, bfloat16": "bfloat16"}


def candidates(name: str, peer: Any, batch: int) -> dict[str, Callable[[], Callable[[], None]]]:
    """Return a maker for each candidate: it builds a step, which the caller then takes."""

    def theirs(detect_anomaly: bool = False) -> Callable[[], None]:
        trainer = peer.trainer(batch)
        if detect_anomaly:
            trainer.detect_anomaly = True
        batches = [trainer.batch()]
        return lambda: trainer.take(batches)

    def ours(precision: str) -> Callable[[], None]:
        trainer = Trainer(peer, batch, precision)
        batches = [trainer.batch()]
        return lambda: trainer.take(batches)

    makers: dict[str, Callable[[], Callable[[], None]]] = {name: theirs}
    if name == "3dspeaker":
        makers[f"{name}, set_detect_anomaly"] = lambda: theirs(detect_anomaly=True)
    for label, precision in OURS.items():
        makers[label] = lambda precision=precision: ours(precision)  # type: ignore[misc]
    return makers


def flops(peer: Any) -> tuple[float, float]:
    """Return the GFLOP of the forward pass of one long crop: the program's encoder, and ours."""
    from torch.utils.flop_counter import FlopCounterMode

    theirs, inputs = peer.encoder()
    encoder = Trainer(peer, 2).run.model.encoder
    frames = peer.crops.frames[0] or int(100 * peer.crops.long) + 1
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        theirs.eval()(inputs)
    with torch.no_grad(), using_kernel("mkl"), FlopCounterMode(display=False) as mine:
        encoder.eval()(torch.randn(1, frames, 80))
    return counted.get_total_flops() / 1e9, mine.get_total_flops() / 1e9


def show(
    name: str,
    peer: Any,
    batch: int,
    seconds: Mapping[str, _measure.Seconds],
    peaks: Mapping[str, float],
) -> None:
    """Print the table of a program, and the products of its encoder and of ours."""
    crops = peer.crops
    gives = "features" if crops.features else "waveforms"
    _measure.show(
        f"{name}: a step of {batch} x (2 x {crops.long:g} s + 4 x {crops.short:g} s), from {gives}",
        seconds,
        name,
        peaks,
    )
    theirs, ours = flops(peer)
    print(f"  encoder, {crops.long:g} s: {theirs:.3f} GFLOP, ours {ours:.3f}")


def main() -> None:
    """Measure every program that is named."""
    parser = _programs.parser_of(__doc__)
    parser.add_argument("--batch", type=int, default=16, help="utterances of a step")
    parser.add_argument("--rounds", type=int, default=3, help="steps that count")
    parser.add_argument(
        "--default-allocator",
        action="store_true",
        help="leave glibc's allocator as it is, for all sides (`compat.tune_allocator`)",
    )
    parser.add_argument("--no-memory", action="store_true", help="leave the peak memory out")
    parser.add_argument("--alone", help="run one candidate and print its peak memory (GB)")
    args, folders = _programs.begin(parser)
    if not args.default_allocator:
        tune_allocator()
    _programs.refuse_none(parser, folders)
    for program, folder in folders.items():
        try:
            peer = _programs.adapter_of(program, folder)
            with _programs.explained(program, folder):
                makers = candidates(program.name, peer, args.batch)
                if args.alone:
                    step = makers[args.alone]()
                    step()
                    step()
                    print(_measure.peak_gigabytes())
                    return
                words = [f"--{program.name}", str(folder), "--batch", str(args.batch)]
                words += ["--default-allocator"] if args.default_allocator else []
                steps = {name: make() for name, make in makers.items()}
        except _programs.Unavailable as reason:
            print(f"\n{program.name}: left out: {reason}")
            if args.alone:
                sys.exit(2)
            continue
        seconds = _measure.in_turns(steps, args.rounds)
        del steps  # their memory is not that of the processes to come
        measured = [] if args.no_memory else list(makers)
        peaks = {
            name: _measure.peak_of("egs.bench.peers.dino_step", words, name) for name in measured
        }
        show(program.name, peer, args.batch, seconds, peaks)


if __name__ == "__main__":
    main()

"""The loaders of sslsv, wespeaker and 3D-Speaker beside ours, alone and with the step that they feed.

    python -m egs.bench.peers.loader --sslsv DIR --wespeaker DIR --3dspeaker DIR [--utterances 200]

Generated voices of 4 to 8 s (16-bit wav), noises and rooms; every crop is augmented as the program's recipe
has it, by the program's own classes, and ours with the same shares of noise and rooms. Everything runs in
one process and one thread, so utterances a processor second are those of one loader process. Where a
program's loader makes the features, so does ours here; else both stop at waveforms.
"""

from __future__ import annotations

import functools
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from egs.bench.peers import _programs
from egs.bench.peers._corpus import Corpus, generate
from egs.bench.peers._ours import Trainer
from speechssl.compat import tune_allocator


def rate(batch: int, work: Callable[[], object], batches: int) -> float:
    """Return utterances a processor second of `batches` batches of work."""
    begun = time.process_time()
    work()
    return batch * batches / (time.process_time() - begun)


def exhaust(batches: Iterable[Any]) -> None:
    """Load batches and drop them."""
    for _ in batches:
        pass


def measure(name: str, peer: Any, corpus: Corpus, batch: int, batches: int, steps: int) -> None:
    """Print a line for the program and one for ours, after a batch that does not count."""

    def first(count: int) -> list[Any]:
        return list(itertools.islice(iter(loader), count))

    loader = peer.loader(corpus, batch)
    exhaust(first(1))
    alone = rate(batch, lambda: first(batches), batches)
    trainer = peer.trainer(batch)
    trainer.take(first(1))
    both = rate(batch, lambda: trainer.take(first(steps)), steps)
    print(f"  {name:<28}{alone:>10.1f}{both:>14.2f}")

    for precision in ("float32", "bfloat16"):
        ours = Trainer(peer, batch, precision, corpus)
        with_step(ours, batch, 1)
        mine = rate(batch, functools.partial(load, ours, batches, peer.crops.features), batches)
        print(f"  {'ours, ' + precision:<28}{mine:>10.1f}{with_step(ours, batch, steps):>14.2f}")
    sys.stdout.flush()


def load(trainer: Trainer, batches: int, features: bool) -> None:
    """Load batches of ours and drop them."""
    exhaust(trainer.load(batches, features=features))


def with_step(trainer: Trainer, batch: int, steps: int) -> float:
    """Return utterances a processor second of our loader and the step that it feeds."""

    def work() -> None:
        trainer.take(trainer.load(steps, features=False), features=False)

    return rate(batch, work, steps)


def main() -> None:
    """Measure every program that is named."""
    parser = _programs.parser_of(__doc__)
    parser.add_argument("--utterances", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--batches", type=int, default=12, help="batches of the loader alone")
    parser.add_argument("--steps", type=int, default=3, help="batches of loader and step")
    args, folders = _programs.begin(parser)
    tune_allocator()
    _programs.refuse_none(parser, folders)
    with tempfile.TemporaryDirectory() as folder:
        corpus = None
        for program, clone in folders.items():
            try:
                peer = _programs.adapter_of(program, clone)
                if corpus is None:
                    corpus = generate(Path(folder), args.utterances)
                print(f"\n{program.name}: utterances a CPU second, batches of {args.batch}")
                print(f"  {'':<28}{'loader':>10}{'with a step':>14}")
                with _programs.explained(program, clone):
                    measure(program.name, peer, corpus, args.batch, args.batches, args.steps)
            except _programs.Unavailable as reason:
                print(f"\n{program.name}: left out: {reason}")


if __name__ == "__main__":
    main()

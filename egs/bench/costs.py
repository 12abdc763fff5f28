"""What each command costs at 1, 3 and 10 times the work: CPU seconds, peak memory, and the exponents.

    python -m egs.bench.costs [--only embed cluster score as-norm train] [--scale 1.0]

Each command runs in a process of its own on generated data. The exponent is the slope of log
seconds over log work, between the first and the last size, after the seconds that the command takes
with next to no work (starting, importing) are subtracted. 1 is linear.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from egs.bench._timing import peak_kib

FACTORS = (1, 3, 10)


class Cost(NamedTuple):
    """Of a process: CPU seconds and peak memory in MB."""

    seconds: float
    megabytes: float


class Job(NamedTuple):
    """A command at a size.

    Attributes:
        unit: of the size.
        sizes: with next to no work, then at 1, 3 and 10 times the work.
        words: size -> the words after `speechssl`; it makes the data that they name.
    """

    unit: str
    sizes: tuple[int, ...]
    words: Callable[[int], list[str]]


def run(words: list[str]) -> Cost:
    """Run a command on one thread and return what it cost.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "speechssl", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        megabytes = 0.0
        ended = 0
        while not ended:
            time.sleep(0.02)
            megabytes = max(megabytes, peak_kib(child.pid) / 1e3)
            ended, status, used = os.wait4(child.pid, os.WNOHANG)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            output.seek(0)
            raise RuntimeError(f"{' '.join(words)}: {output.read().decode()[-500:]}")
    return Cost(used.ru_utime + used.ru_stime, megabytes)


def jobs(folder: Path, scale: float) -> dict[str, Job]:
    """Return the commands, whose data are made in a folder."""
    rng = np.random.default_rng(0)

    def sizes(nothing: int, once: int) -> tuple[int, ...]:
        return nothing, *(round(scale * factor * once) for factor in FACTORS)

    def audio(count: int) -> Path:
        target = folder / f"audio-{count}"
        target.mkdir(exist_ok=True)
        for number in range(count):
            path = target / f"{number:05}.wav"
            if not path.exists():
                soundfile.write(
                    path, 0.1 * rng.standard_normal(rng.integers(32_000, 96_000)), 16000
                )
        return target

    def embeddings(count: int, speakers: int = 200) -> Path:
        path = folder / f"embeddings-{count}.npz"
        centres = np.random.default_rng(1).normal(size=(speakers, 192))
        rows = centres[np.arange(count) % speakers] + rng.normal(size=(count, 192))
        ids = [f"s{number % speakers}-{number}" for number in range(count)]
        np.savez(path, ids=np.array(ids), embeddings=rows.astype("f4"))
        return path

    def trials(count: int, utterances: int = 2000, speakers: int = 200) -> Path:
        path = folder / f"trials-{count}"
        sides = rng.integers(utterances, size=(count, 2))
        with open(path, "w", encoding="utf-8") as file:
            for one, other in sides.tolist():
                same = "target" if one % speakers == other % speakers else "nontarget"
                file.write(f"s{one % speakers}-{one} s{other % speakers}-{other} {same}\n")
        return path

    def embed(count: int) -> list[str]:
        out = folder / f"embedded-{count}.npz"
        return ["embed", "small", str(audio(count)), "--out", str(out), "--device", "cpu"]

    def cluster(count: int) -> list[str]:
        given = str(embeddings(count))
        out = str(folder / f"clusters-{count}")
        return ["cluster", given, "--out", out, "name=kmeans", "n_clusters=200", "max_iter=10"]

    def score(count: int) -> list[str]:
        given = str(embeddings(2000))
        return ["evaluate", "verification", given, "--trials", str(trials(count))]

    def as_norm(count: int) -> list[str]:
        cohort = str(embeddings(count))
        return [*score(20_000), "--as-norm", cohort, "--replicates", "0"]

    def train(count: int) -> list[str]:
        out = str(folder / f"run-{count}")
        words = ["train", "simclr-small", f"data.train=[{folder / 'data' / 'train'}]", "--out", out]
        words += [f"train.steps={count}", "train.batch_size=16", "encoder.width=64"]
        return [*words, "data.workers=0", "train.save_every=1000", "train.trackers=[]"]

    def voices(count: int) -> list[str]:
        if not (folder / "data").exists():
            run(["prepare", "synthetic", str(folder / "voices"), str(folder / "data")])
        return train(count)

    return {
        "embed": Job("files", sizes(1, 100), embed),
        "cluster": Job("embeddings", sizes(400, 10_000), cluster),
        "score": Job("trials", sizes(1000, 100_000), score),
        "as-norm": Job("cohort", sizes(400, 5_000), as_norm),
        "train": Job("steps", sizes(1, 10), voices),
    }


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = ["embed", "cluster", "score", "as-norm", "train"]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--scale", type=float, default=1.0, help="of every size (default: 1)")
    args = parser.parse_args()
    print("| command | sizes | CPU seconds | peak MB | exponent of seconds |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            job = jobs(Path(folder), args.scale)[name]
            nothing, *costs = [run(job.words(size)) for size in job.sizes]
            seconds = [cost.seconds - nothing.seconds for cost in costs]
            slope = math.log(max(seconds[-1], 1e-9) / max(seconds[0], 1e-9))
            slope /= math.log(job.sizes[-1] / job.sizes[1])
            shown = " ".join(f"{size:,}" for size in job.sizes[1:])
            took = " ".join(f"{cost.seconds:.1f}" for cost in costs)
            memory = " ".join(f"{cost.megabytes:.0f}" for cost in costs)
            print(
                f"| {name} | {shown} {job.unit} | {took} (start {nothing.seconds:.1f}) | {memory} |"
                f" {slope:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

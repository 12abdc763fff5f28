"""A corpus of millions: k-means and an index of generated embeddings in a parquet folder.

python -m egs.bench.corpus [--rows 1000000 3000000 10000000] [--clusters 10000] [--processes 1]

For each number of rows: seconds of k-means (`speechssl cluster`, under torchrun with several
processes) and the largest process's peak memory, NMI with the true speakers; seconds, size, recall
and milliseconds a query of the index (`speechssl index`) and its peak memory. In the end the
exponent of each cost in the number of rows. The embeddings (192-d, float32: 7.7 GB for ten million)
are written into --folder first, and kept there for another run if it is given.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from egs.bench._timing import peak_kib
from speechssl import metrics
from speechssl.data.vectors.folder_writer import part_bytes

DIM = 192
ROWS_OF_A_FILE = 100_000
UTTERANCES_OF_A_SPEAKER = 200
WITHIN = 1.4
"""Variance within speakers over that between them: trials have an EER of about 4 %."""


class Cost(NamedTuple):
    """What a command took.

    Attributes:
        seconds: wall time.
        processor: seconds of all its processes, which other work beside it hardly changes.
        gigabytes: peak resident memory of its largest process.
        said: standard output.
    """

    seconds: float
    processor: float
    gigabytes: float
    said: str


def write_folder(folder: Path, rows: int, seed: int = 0) -> None:
    """Write `rows` embeddings, a file at a time; an id is `speaker-row`."""
    folder.mkdir(parents=True, exist_ok=True)
    spectrum = np.exp(-np.arange(DIM) / 60.0).astype(np.float32)
    speakers = max(2, rows // UTTERANCES_OF_A_SPEAKER)
    means = np.random.default_rng(seed).standard_normal((speakers, DIM), dtype=np.float32)
    for first in range(0, rows, ROWS_OF_A_FILE):
        path = folder / f"part-{first:010d}.parquet"
        if path.exists():
            continue
        rng = np.random.default_rng((seed, first))
        count = min(ROWS_OF_A_FILE, rows - first)
        who = rng.integers(speakers, size=count)
        noise = rng.standard_normal((count, DIM), dtype=np.float32)
        vectors = (means[who] + np.sqrt(WITHIN, dtype=np.float32) * noise) * spectrum
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        ids = [f"{speaker:07d}-{first + row:010d}" for row, speaker in enumerate(who)]
        partial = path.with_suffix(".partial")
        partial.write_bytes(part_bytes(ids, vectors, np.full(count, 3.0).tolist()))
        os.replace(partial, path)


def run(command: list[str]) -> Cost:
    """Run a command, and look at the memory of its processes ten times a second.

    Raises:
        SystemExit: it failed.
    """
    started_at = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = 0.0
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said)
        while process.poll() is None:
            peak = max(peak, largest_of(process.pid))
            time.sleep(0.1)
        seconds = time.perf_counter() - started_at
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        if process.returncode:
            raise SystemExit(f"{' '.join(command[:6])} ... failed")
        said.seek(0)
        return Cost(seconds, processor, peak, said.read())


def largest_of(pid: int) -> float:
    """Return the peak memory (GB) of the largest among a process and its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has just ended
        return 0.0
    return max([peak_kib(pid) / 1e6, *(largest_of(int(child)) for child in children)])


def labels_of(path: Path, rows: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return speaker and cluster (N,) of the lines of utt2cluster."""
    speakers = np.empty(rows, np.int32)
    clusters = np.empty(rows, np.int32)
    with path.open(encoding="utf-8") as file:
        for row, line in enumerate(file):
            name, cluster = line.split()
            speakers[row] = int(name.partition("-")[0])
            clusters[row] = int(cluster.lstrip("c"))
    return speakers, clusters


def measure(folder: Path, out: Path, rows: int, args: argparse.Namespace) -> dict[str, float]:
    """Cluster and index one folder; print a line of each, and return the costs."""
    python = [sys.executable, "-m"]
    if args.processes > 1:
        python += ["torch.distributed.run", "--standalone"]
        python += [f"--nproc-per-node={args.processes}", "-m"]
    clusters = min(args.clusters, rows // 10)
    fit = run(
        [*python, "speechssl", "cluster", str(folder), f"n_clusters={clusters}"]
        + [f"max_iter={args.iterations}", "--out", str(out / "clusters"), "--device", args.device]
    )
    speakers, found = labels_of(out / "clusters" / "utt2cluster", rows)
    nmi = float(metrics.nmi(speakers, found))
    print(
        f"{rows:>9} rows  k-means to {clusters}: {fit.seconds:8.1f} s"
        f" ({fit.processor:.0f} of a processor)  NMI {nmi:.3f}"
        f"  largest process {fit.gigabytes:.2f} GB",
        flush=True,
    )
    index = run([sys.executable, "-m", "speechssl", "index", str(folder), "--out", str(out / "i")])
    about = " ".join(" ".join(line.split()) for line in index.said.splitlines() if line[0] != "e")
    print(
        f"{rows:>9} rows  index: {index.seconds:8.1f} s"
        f" ({index.processor:.0f} of a processor)  {index.gigabytes:.2f} GB  {about}",
        flush=True,
    )
    return {"kmeans": fit.processor, "index": index.processor}


def exponent(rows: list[int], seconds: list[float]) -> float:
    """Return the slope of log seconds over log rows, by least squares."""
    return float(np.polyfit(np.log(rows), np.log(seconds), 1)[0])


def main() -> None:
    """Print the costs at each size, and their exponents."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 3_000_000, 10_000_000])
    parser.add_argument("--clusters", type=int, default=10_000)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", type=Path, help="keep the embeddings here")
    args = parser.parse_args()
    costs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for rows in args.rows:
            folder = (args.folder or Path(scratch)) / f"{rows}"
            write_folder(folder, rows)
            out = Path(scratch) / f"out-{rows}"
            out.mkdir()
            costs.append(measure(folder, out, rows, args))
    if len(args.rows) > 1:
        for name in costs[0]:
            slope = exponent(args.rows, [cost[name] for cost in costs])
            print(f"{name}: processor seconds grow as rows to the power of {slope:.2f}")
    print(json.dumps({"rows": args.rows, "processor_seconds": costs}))


if __name__ == "__main__":
    main()

"""What each precision of `speechssl embed` costs in errors and in time, on one CPU thread.

    python -m egs.bench.precisions MODEL [--sets DIR ...] [--precisions float32 bfloat16 int8]

MODEL is a folder of a trained model. Each set is a folder with `utterances.tsv` and `trials`
(VoxCeleb's format, the paths of `utterances.tsv`), such as those of SPEECHSSL_DATA. Errors are those
of cosines without any normalisation; CPU seconds are of this process, reading and decoding included.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch

from speechssl.compat import tune_allocator
from speechssl.embed.embedder import Embedder, Matrix
from speechssl.metrics import eer
from speechssl.model import Model

PRECISIONS = ("float32", "bfloat16", "int8")


def read_paths(folder: Path) -> list[str]:
    """Return the paths of a set's utterances, relative to its folder."""
    with (folder / "utterances.tsv").open(encoding="utf-8", newline="") as lines:
        return [row["path"] for row in csv.DictReader(lines, delimiter="\t")]


def error_rate(folder: Path, vectors: dict[str, Matrix]) -> float:
    """Return the EER of a set's trials, per cent."""
    scores = []
    targets = []
    for line in (folder / "trials").read_text(encoding="utf-8").splitlines():
        label, enrol, test = line.split()
        scores.append(float(vectors[enrol] @ vectors[test]))
        targets.append(label == "1")
    return eer(np.array(scores), np.array(targets))


def main() -> None:
    """Embed each set in each precision; print a row of a table for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--sets", type=Path, nargs="+", required=True)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    tune_allocator()
    print("| set | precision | EER % | smallest cosine to float32 | CPU seconds |")
    print("|---|---|---|---|---|")
    for folder in args.sets:
        paths = read_paths(folder)
        files = [str(folder / path) for path in paths]
        exact: Matrix | None = None
        for precision in args.precisions:
            embedder = Embedder(Model.load(args.model), precision=precision, readers=1)
            begun = time.process_time()
            _, embeddings, failed = embedder.embed_files(files)
            seconds = time.process_time() - begun
            if failed:
                raise SystemExit(f"{folder}: {failed[0].path}: {failed[0].reason}")
            embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
            if precision == "float32":
                exact = embeddings
            cosine = "" if exact is None else f"{(exact * embeddings).sum(1).min():.4f}"
            rate = error_rate(folder, dict(zip(paths, embeddings, strict=True)))
            row = f"| {folder.name} | {precision} | {rate:.2f} | {cosine} | {seconds:.1f} |"
            print(row, flush=True)


if __name__ == "__main__":
    main()

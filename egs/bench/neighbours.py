"""Nearest neighbours: faiss beside tiles of matrix products, on random unit vectors.

python -m egs.bench.neighbours [--rows 20000] [--dim 192] [--top 5]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from speechssl.compat import faiss_if_installed
from speechssl.evaluation.verification import scoring


def main() -> None:
    """Time both ways, best of three, and compare what they find."""
    parser = argparse.ArgumentParser(description="Neighbours: faiss beside tiles.")
    parser.add_argument("--rows", type=int, default=20_000, help="embeddings")
    parser.add_argument("--dim", type=int, default=192, help="numbers of each")
    parser.add_argument("--top", type=int, default=5, help="neighbours of each")
    args = parser.parse_args()
    matrix = np.random.default_rng(0).normal(size=(args.rows, args.dim)).astype(np.float32)
    rows = scoring.unit(matrix)
    faiss = faiss_if_installed()
    ways = {"tiles": lambda: scoring.nearest_by_tiles(rows, rows, args.top, True)}
    if faiss is not None:
        ways["faiss"] = lambda: scoring.nearest_by_faiss(faiss, rows, rows, args.top, True)
    found = {}
    for name, way in ways.items():
        best = np.inf
        for _ in range(3):
            started = time.perf_counter()
            found[name] = np.concatenate([places for _, _, places in way()])
            best = min(best, time.perf_counter() - started)
        print(f"{name:<6} {best:.2f} s")
    if len(found) == 2:
        same = (found["tiles"] == found["faiss"]).mean()
        print(f"{100 * same:.4f} % of the neighbours are the same")


if __name__ == "__main__":
    main()

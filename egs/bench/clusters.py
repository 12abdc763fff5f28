"""Clustering at the size of VoxCeleb2: seconds, peak memory and NMI, each in a process of its own.

python -m egs.bench.clusters [--rows 1092009] [--speakers 5994] [--clusters 7500] [--centroids
10000]

Embeddings are generated: a speaker's mean and an utterance's deviation, both Gaussian, with a
spectrum that decays as a trained encoder's does. Speakers have unequally many utterances
(log-normal, as in VoxCeleb2). --within is the ratio of the deviations' variance to the speakers';
with 1.4 trials have an EER of about 4 %. --only kmeans kmeans-random shows what the starts of
k-means++ are worth.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechssl import metrics
from speechssl.clustering.kmeans import SphericalKMeans
from speechssl.clustering.kmeans_ahc import KMeansAHC
from speechssl.evaluation.verification.scoring import score_trials


def generate(
    rows: int, speakers: int, within: float, dim: int = 192, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Unit vectors (N, D) and their speakers (N,)."""
    rng = np.random.default_rng(seed)
    share = rng.lognormal(0.0, 0.5, speakers)
    who = rng.choice(speakers, rows, p=share / share.sum())
    spectrum = np.exp(-np.arange(dim) / 60.0).astype(np.float32)
    means = (rng.standard_normal((speakers, dim)) * spectrum).astype(np.float32)
    x = means[who]
    for start in range(0, rows, 100_000):
        noise = rng.standard_normal((min(100_000, rows - start), dim), dtype=np.float32)
        x[start : start + 100_000] += np.sqrt(within) * noise * spectrum
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x, who


def error(x: NDArray[np.float32], who: NDArray[np.int64], pairs: int = 200_000) -> float:
    """EER (percent) of random trials, half of them of one speaker."""
    rng = np.random.default_rng(1)
    order = np.argsort(who, kind="stable")
    same = rng.integers(len(who) - 1, size=pairs)
    one, two = order[same], order[same + 1]
    kept = who[one] == who[two]
    a, b = rng.integers(len(who), size=(2, pairs))
    enrol, test = np.concatenate([one[kept], a]), np.concatenate([two[kept], b])
    return float(metrics.eer(score_trials(x, enrol, test), who[enrol] == who[test]))


def cluster(name: str, x: NDArray[np.float32], args: Any) -> NDArray[np.int64]:
    """Clusters (N,) by one of the candidates."""
    if name == "MiniBatchKMeans":
        from sklearn.cluster import MiniBatchKMeans

        options = {"n_init": 1, "max_iter": 10, "batch_size": 16384, "random_state": 0}
        labels: NDArray[np.int64] = MiniBatchKMeans(args.clusters, **options).fit_predict(x)
        return labels
    if name == "kmeans-random":  # from random rows, without restarts, to the last iteration
        random = SphericalKMeans(
            n_clusters=args.clusters, max_iter=args.iterations, init="random", tol=0
        )
        return random.fit_predict(x)
    if name == "kmeans":
        return SphericalKMeans(n_clusters=args.clusters, max_iter=args.iterations).fit_predict(x)
    wanted = {
        "n_centroids": args.centroids,
        "n_clusters": args.clusters,
        "max_iter": args.iterations,
    }
    return KMeansAHC(**wanted).fit_predict(x)


def main() -> None:
    """Print a line a candidate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_092_009)
    parser.add_argument("--speakers", type=int, default=5994)
    parser.add_argument("--clusters", type=int, default=7500)
    parser.add_argument("--centroids", type=int, default=10_000)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--within", type=float, default=1.4)
    parser.add_argument("--only", nargs="+", default=["kmeans", "kmeans_ahc", "MiniBatchKMeans"])
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        name, folder = args.worker
        x, who = np.load(f"{folder}/x.npy"), np.load(f"{folder}/who.npy")
        begun = time.perf_counter()
        labels = cluster(name, x, args)
        found = {"seconds": time.perf_counter() - begun, "nmi": metrics.nmi(who, labels)}
        found["gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps({**found, "clusters": len(np.unique(labels))}))
        return
    with tempfile.TemporaryDirectory() as folder:
        x, who = generate(args.rows, args.speakers, args.within)
        np.save(Path(folder) / "x.npy", x)
        np.save(Path(folder) / "who.npy", who)
        print(
            f"{args.rows} x 192 of {args.speakers} speakers, EER of random trials"
            f" {error(x, who):.2f} %"
        )
        del x, who
        print(f"{'':<18}{'seconds':>10}{'peak GB':>10}{'NMI':>8}{'clusters':>10}")
        for name in args.only:
            words = [
                sys.executable,
                "-m",
                "egs.bench.clusters",
                *sys.argv[1:],
                "--worker",
                name,
                folder,
            ]
            done = subprocess.run(words, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
            row = json.loads(done.stdout)
            print(
                f"{name:<18}{row['seconds']:>10.1f}{row['gigabytes']:>10.2f}{row['nmi']:>8.3f}{row['clusters']:>10}"
            )


if __name__ == "__main__":
    main()

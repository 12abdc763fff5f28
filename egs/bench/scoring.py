"""A million trials, AS-norm, and k-means, beside the plain alternative.

python -m egs.bench.scoring [--trials 1000000] [--kmeans 100000] [--clusters 1000]
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import torch

from egs.bench._timing import alternate, show
from speechssl import metrics
from speechssl.clustering import nearest
from speechssl.clustering.kmeans import SphericalKMeans
from speechssl.evaluation.verification.scoring import as_norm, score_trials


def main() -> None:
    """Time them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1_000_000)
    parser.add_argument("--utterances", type=int, default=5000)
    parser.add_argument("--kmeans", type=int, default=100_000)
    parser.add_argument("--clusters", type=int, default=1000)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    speakers = rng.normal(size=(args.utterances // 20, 192))
    who = rng.integers(len(speakers), size=args.utterances)
    x = (speakers[who] + rng.normal(size=(args.utterances, 192))).astype("f4")
    enrol, test = rng.integers(args.utterances, size=(2, args.trials))
    target = who[enrol] == who[test]

    def ours() -> None:
        scores = score_trials(x, enrol, test)
        metrics.eer(scores, target)
        metrics.min_dcf(scores, target, 0.01)

    few = args.trials // 100

    def loop() -> None:
        for a, b in zip(enrol[:few], test[:few], strict=True):
            torch.cosine_similarity(torch.from_numpy(x[a]), torch.from_numpy(x[b]), dim=0).item()

    seconds = alternate(
        {"loop over trials (1 % of them, x 100)": loop, "ours, with EER and minDCF": ours}, 3
    )
    seconds["loop over trials (1 % of them, x 100)"] *= 100
    show(
        f"{args.trials} trials, 192-d",
        seconds,
        args.trials,
        "trial",
        "loop over trials (1 % of them, x 100)",
    )

    cohort = rng.normal(size=(10_000, 192)).astype("f4")
    scores = score_trials(x, enrol, test)
    seconds = alternate(
        {"AS-norm, top 300 of 10,000": lambda: as_norm(scores, x, enrol, test, cohort)}, 2
    )
    show("AS-norm", seconds, args.trials, "trial")

    means = rng.normal(size=(args.clusters, 192))
    data = means[rng.integers(args.clusters, size=args.kmeans)] + rng.normal(
        size=(args.kmeans, 192)
    )
    data = data.astype("f4")

    def theirs() -> None:
        from sklearn.cluster import MiniBatchKMeans

        rows = data / np.linalg.norm(data, axis=1, keepdims=True)
        MiniBatchKMeans(
            args.clusters, n_init=1, max_iter=10, batch_size=4096, random_state=0
        ).fit_predict(rows)

    mine = SphericalKMeans(n_clusters=args.clusters, max_iter=10)

    def without_faiss() -> None:
        with patch.object(nearest, "faiss_if_installed", lambda: None):
            mine.fit_predict(data)

    candidates: dict[str, Callable[[], object]] = {"scikit-learn MiniBatchKMeans": theirs}
    candidates |= {"ours": lambda: mine.fit_predict(data), "ours, without faiss": without_faiss}
    seconds = alternate(candidates, 1)
    show(
        f"k-means, {args.kmeans} x 192 to {args.clusters}, 10 iterations",
        seconds,
        args.kmeans,
        "row",
    )
    print(f"  peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()

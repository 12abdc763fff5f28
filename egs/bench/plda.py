"""PLDA on little data: EER beside cosines, for amounts of training embeddings and shrinkages.

python -m egs.bench.plda [--draws 5] [--shrinkage 0 0.05 0.1 0.2 0.5 1] [--pca 0 50] [--lda 0 50]

Embeddings of 192 dimensions are drawn from the model of PLDA itself: a speaker's mean and an
utterance's deviation, both Gaussian, with spectra that decay alike but are not proportional. Five
utterances a speaker; tests are on 100 other speakers, 20,000 trials, half of them targets. Each
figure is the mean EER (percent) over draws of everything; the last column is the largest standard
deviation over draws in the row.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
from numpy.typing import NDArray

from speechssl import metrics
from speechssl.errors import UserError
from speechssl.evaluation.verification.plda import PLDA
from speechssl.evaluation.verification.scoring import score_trials

DIM = 192
EACH = 5
AMOUNTS = (200, 251, 300, 600, 1200, 2400, 6000)
TEST_SPEAKERS = 100
TRIALS = 10_000


class Voices:
    """Speakers whose means and deviations are Gaussian.

    Args:
        seed: of the spectra and of all embeddings.
        within: ratio of the deviations' variance to the speakers'.
    """

    def __init__(self, seed: int, within: float) -> None:
        self.rng = np.random.default_rng(seed)
        spectrum = np.exp(-np.arange(DIM) / 60.0)
        self.between = spectrum
        self.within = np.sqrt(within) * spectrum * self.rng.lognormal(0.0, 0.2, DIM)

    def draw(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return `count` embeddings (N, D) of new speakers, and their speakers (N,)."""
        who = np.arange(count) // EACH
        means = self.rng.standard_normal((who[-1] + 1, DIM)) * self.between
        x = means[who] + self.rng.standard_normal((count, DIM)) * self.within
        return x.astype(np.float32), who

    def trials(self, who: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return rows of enrolment and test: half of the trials of one speaker."""
        enrol = self.rng.integers(len(who), size=2 * TRIALS)
        test = self.rng.integers(len(who), size=2 * TRIALS)
        shift = self.rng.integers(1, EACH, TRIALS)
        first = enrol[:TRIALS] // EACH * EACH
        test[:TRIALS] = first + (enrol[:TRIALS] % EACH + shift) % EACH
        different = enrol != test
        return enrol[different], test[different]


def errors(seed: int, args: argparse.Namespace) -> dict[tuple[float, int, int], list[float]]:
    """Return EERs (percent) of one draw: (shrinkage, pca, lda) -> one for each amount."""
    voices = Voices(seed, args.within)
    test, speakers = voices.draw(TEST_SPEAKERS * EACH)
    enrol, probe = voices.trials(speakers)
    target = speakers[enrol] == speakers[probe]
    training = [voices.draw(count) for count in AMOUNTS]
    found: dict[tuple[float, int, int], list[float]] = {}
    centred = [score_trials(test - x.mean(0), enrol, probe) for x, _ in training]
    found[-1.0, 0, 0] = [metrics.eer(scores, target) for scores in centred]
    for shrinkage in args.shrinkage:
        for pca in args.pca:
            for lda in args.lda:
                found[shrinkage, pca, lda] = [
                    _error(x, who, test, enrol, probe, target, lda, pca, shrinkage)
                    for x, who in training
                ]
    return found


def _error(
    x: NDArray[np.float32],
    who: NDArray[np.int64],
    test: NDArray[np.float32],
    enrol: NDArray[np.intp],
    probe: NDArray[np.intp],
    target: NDArray[np.bool_],
    lda: int,
    pca: int,
    shrinkage: float,
) -> float:
    """Return the EER of PLDA, NaN where it is refused."""
    try:
        model = PLDA(x, who, dim=lda, pca=pca, shrinkage=shrinkage)
    except UserError:
        return float("nan")
    return float(metrics.eer(model(test, enrol, probe), target))


def main() -> None:
    """Print a line for each setting."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--within", type=float, default=2.2)
    parser.add_argument("--shrinkage", type=float, nargs="+", default=[0, 0.05, 0.1, 0.2, 0.5, 1])
    parser.add_argument("--pca", type=int, nargs="+", default=[0])
    parser.add_argument("--lda", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    draws = [errors(seed, args) for seed in range(args.draws)]
    print(f"{'training embeddings':<28}" + "".join(f"{count:>8}" for count in AMOUNTS) + "   std")
    for setting in draws[0]:
        shrinkage, pca, lda = setting
        name = "cosine, mean subtracted"
        if shrinkage >= 0:
            name = f"shrinkage {shrinkage:g}, pca {pca}, lda {lda}"
        values = np.array([draw[setting] for draw in draws])
        shown = "".join(f"{value:>8.1f}" for value in values.mean(0))
        print(f"{name:<28}{shown}{np.nanmax(values.std(0)):>6.1f}", flush=True)


if __name__ == "__main__":
    main()

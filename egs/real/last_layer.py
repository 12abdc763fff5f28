"""Fit the last layer of a model in closed form, on speech without labels.

    python egs/real/last_layer.py MODEL CONFIG OUT [--utterances 4000] [key=value ...]

CONFIG is the configuration of a training run (its `data.train` and `augment`; key=value as for
`speechssl train`). MODEL is a model or run folder of an ECAPA encoder, trained or `untrained`; OUT
becomes a model folder. Nothing else of the encoder changes.

Each utterance is its own class, as in contrastive learning, but the optimum is known: linear
discriminant analysis. With p the pooled statistics, standardised; W the covariance of differences of
two augmented crops that do not overlap (crops that do share their words, and W would miss those), halved
and shrunk; T the covariance of whole, clean utterances,

    fc(p) = S U^T (p - mean),  W = L L^T,  L^-1 T L^-T = V diag(d) V^T,  U = L^-T V,  S = diag(d)^(-power / 2)

for the largest d. `--power 0` is LDA, under which W becomes the identity; 1 whitens T as well; between
them directions of large variance (speaker, but also source) count less than in LDA. Cosines of fc(p)
then need no mean and no whitening.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechssl.augment.augment import Augment
from speechssl.config import thaw
from speechssl.data.crops import CropSpec
from speechssl.data.dataset import CropBatches
from speechssl.data.manifest import Utterance
from speechssl.embed.embedder import Embedder
from speechssl.embed.layers import POOLED
from speechssl.embed.networks import load_model
from speechssl.evaluation.verification.scoring import whitening
from speechssl.model import Model
from speechssl.train.data import read_utterances
from speechssl.train.settings import TrainingConfig, resolve

BATCH = 32
MAX_VISITS = 4
"""Times that a small set is gone through."""

Matrix = NDArray[np.float64]


def main() -> None:
    """Fit and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("config")
    parser.add_argument("out")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--utterances", type=int, default=4000, help="fitted on (default: 4000)")
    parser.add_argument("--seconds", type=float, default=1.2, help="of a crop (default: 1.2)")
    parser.add_argument(
        "--max-seconds", type=float, default=8.0, help="of a clean one (default: 8)"
    )
    parser.add_argument("--shrinkage", type=float, default=0.3, help="of W (default: 0.3)")
    parser.add_argument("--power", type=float, default=0.5, help="(default: 0.5)")
    parser.add_argument(
        "--early-only",
        action="store_true",
        help="of an encoder with early_statistics: use those alone, so that training finds the\n"
        "deep ones at weight 0 and adds what they are worth",
    )
    parser.add_argument(
        "--beside",
        type=float,
        default=0.0,
        metavar="WEIGHT",
        help="put the closed form of the early statistics, times WEIGHT, beside the embedding that\n"
        "was trained, whitened, and keep the principal directions of both",
    )
    args = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    config = resolve(args.config, args.overrides)
    model = load_model(args.model)
    embedder = Embedder(model, precision="auto", layer=POOLED)
    utterances = read_utterances(config.data)[0]
    one, two, rows = augmented(embedder, config, utterances, args.utterances, args.seconds)
    clean = pooled(embedder, [utterances[row] for row in rows], args.max_seconds)
    mean = clean.mean(0)
    deviation = clean.std(0) + 1e-6
    within = 0.5 * np.cov(((one - two) / deviation).T)
    total = np.cov(((clean - mean) / deviation).T)
    early = 2 * model.encoder.mfa.conv.conv.out_channels
    if early == len(mean) and (args.early_only or args.beside):
        parser.error(
            f"{args.model}: this encoder has no early_statistics; leave --early-only and --beside out"
        )
    used = np.arange(early if args.early_only or args.beside else 0, len(mean))
    chosen = np.ix_(used, used)
    weight = np.zeros((model.dim, len(mean)))
    weight[:, used] = discriminant(
        within[chosen], total[chosen], model.dim, args.shrinkage, args.power
    )
    if args.beside:
        standardised = (clean - mean) / deviation
        trained = whitened(standardised, trained_map(model, deviation))
        weight = beside(standardised, trained, weight, args.beside, model.dim)
    set_last_layer(model, mean, deviation, weight)
    model.about = dict(model.about) | {
        "last_layer": f"linear discriminant analysis on {len(rows)} utterances, shrinkage"
        f" {args.shrinkage:g}, power {args.power:g}, beside the trained one: {args.beside:g};"
        " no labels"
    }
    model.save(args.out)


def augmented(
    embedder: Embedder,
    config: TrainingConfig,
    utterances: list[Utterance],
    count: int,
    seconds: float,
) -> tuple[Matrix, Matrix, list[int]]:
    """Return pooled statistics (N, P) of two augmented crops of utterances, and their rows."""
    long_enough = [row for row, one in enumerate(utterances) if one.seconds >= 2 * seconds]
    if not long_enough:
        long_enough = list(range(len(utterances)))
    batches = CropBatches(
        [utterances[row] for row in long_enough],
        [CropSpec(1, seconds, to="teacher"), CropSpec(1, seconds, to="student")],
        disjoint=True,
        rate=embedder.sample_rate,
        batch_size=min(BATCH, len(long_enough)),
        seed=config.seed + 1,
        augment=Augment(embedder.sample_rate, **thaw(config.augment)),
        source_shares=config.data.source_shares,
        source_temperature=config.data.source_temperature,
    )
    one = []
    two = []
    rows: list[int] = []
    visits = min(count, MAX_VISITS * len(long_enough))
    for step in range(-(-visits // batches.batch_size)):
        batch = batches[step]
        one.append(embedder.encode_batch(batch.groups[0][0]).numpy())
        two.append(embedder.encode_batch(batch.groups[1][0]).numpy())
        rows += [long_enough[row] for row in batch.indices.tolist()]
    return np.concatenate(one).astype(np.float64), np.concatenate(two).astype(np.float64), rows


def pooled(embedder: Embedder, utterances: list[Utterance], max_seconds: float) -> Matrix:
    """Return pooled statistics (N, P) of the beginnings of clean utterances."""
    batches = beginnings(utterances, embedder.sample_rate, max_seconds)
    out = [embedder.encode_batch(waves, lengths).numpy() for waves, lengths in batches]
    return np.concatenate(out).astype(np.float64)


def beginnings(
    utterances: list[Utterance], rate: int, max_seconds: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the beginnings of utterances, the shortest first: padded waves (B, T), and lengths (B,)."""
    order = sorted(utterances, key=lambda utterance: utterance.seconds)
    for start in range(0, len(order), BATCH):
        waves = []
        for one in order[start : start + BATCH]:
            waves.append(torch.from_numpy(one.beginning(max_seconds).read(rate)))
        lengths = torch.tensor([len(wave) for wave in waves])
        yield torch.nn.utils.rnn.pad_sequence(waves, batch_first=True), lengths


def discriminant(within: Matrix, total: Matrix, dim: int, shrinkage: float, power: float) -> Matrix:
    """Return the linear map (dim, P) of the module's equation, for standardised statistics."""
    size = len(within)
    shrunk = within + shrinkage * np.trace(within) / size * np.eye(size)
    values, vectors = np.linalg.eigh(shrunk)
    half = vectors / np.sqrt(values)
    spread, directions = np.linalg.eigh(half.T @ total @ half)
    spread = spread[::-1][:dim].clip(min=1e-9)
    directions = directions[:, ::-1][:, :dim]
    weight: Matrix = ((half @ directions) * spread ** (-power / 2)).T
    return weight


def trained_map(model: Model, deviation: Matrix) -> Matrix:
    """Return the affine layers as they are, (dim, P), on standardised statistics, less the bias."""
    norm = model.encoder.asp_bn.norm
    gain = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().double().numpy()
    weight: Matrix = model.encoder.fc.conv.weight[:, :, 0].detach().double().numpy()
    return weight * gain * deviation


def whitened(standardised: Matrix, weight: Matrix) -> Matrix:
    """Return a linear map (dim, P) followed by the whitening of its outputs for (N, P)."""
    embeddings = (standardised @ weight.T).astype(np.float32)
    return whitening(embeddings).T.astype(np.float64) @ weight


def beside(standardised: Matrix, one: Matrix, two: Matrix, share: float, dim: int) -> Matrix:
    """Return the principal directions (dim, P) of two maps beside each other.

    Args:
        standardised: (N, P) statistics.
        one: (D, P); its outputs are scaled to a mean square length of 1.
        two: (E, P); likewise, and times ``share``.
        share: see ``two``.
        dim: of the result; with D + E of them no cosine changes.
    """
    scaled = []
    for weight, factor in ((one, 1.0), (two, share)):
        squares = np.square(standardised @ weight.T).sum(axis=1)
        scaled.append(weight * (factor / np.sqrt(squares.mean())))
    joined = np.concatenate(scaled)
    directions = np.linalg.eigh(np.cov((standardised @ joined.T).T))[1][:, ::-1]
    rotated: Matrix = directions[:, :dim].T @ joined
    return rotated


def set_last_layer(model: Model, mean: Matrix, deviation: Matrix, weight: Matrix) -> None:
    """Make the affine layers of an ECAPA encoder (asp_bn, fc) standardise, and then map."""
    norm = model.encoder.asp_bn.norm
    convolution = model.encoder.fc.conv
    scale = np.sqrt(np.square(deviation) + norm.eps) / deviation
    with torch.no_grad():
        norm.running_mean.copy_(torch.from_numpy(mean))
        norm.running_var.copy_(torch.from_numpy(np.square(deviation)))
        norm.weight.fill_(1.0)
        norm.bias.zero_()
        # A scale of the embedding changes no cosine; training goes on from lengths of about 10.
        length = np.sqrt(np.trace(weight @ weight.T) / 100.0)
        convolution.weight.copy_(torch.from_numpy(weight * scale / length)[:, :, None])
        convolution.bias.zero_()


if __name__ == "__main__":
    main()

"""The ways to change a model. Each returns the folder of a model; what exists is not made again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speechssl import conf, foreign_json
from speechssl.adapt import last_layer
from speechssl.adapt.folders import AdaptFolder
from speechssl.adapt.pairs import CHANNELS, embed_pairs
from speechssl.adapt.settings import AdaptSettings, Plan
from speechssl.data.kaldi import read_mapping
from speechssl.data.manifest import Utterance
from speechssl.embed import embed_to_file
from speechssl.embed.embedder import Embedder
from speechssl.errors import UserError
from speechssl.evaluation import clusters
from speechssl.files import RunFolder
from speechssl.model import Model
from speechssl.pseudolabel import pseudolabel
from speechssl.pseudolabel.folders import PseudoLabelFolder
from speechssl.pseudolabel.settings import model_overrides
from speechssl.train.loop import train

_MOST_FITTED = 4000
"""Pieces that the last layer is fitted to at most."""

_LEARNING_RATES = {"contrastive": 2e-4, "dino": 1e-4, "rounds": 2e-4}
"""A fifth to a third of those from random weights: what is known is not to be forgotten."""


class Adaptation:
    """What every way needs.

    Args:
        settings: what was asked for.
        plan: what follows from the amount of audio.
        folder: for all results.
        start: folder of the model to start from, in this package's form.
        pieces: to learn from.
        device: cpu, cuda ...
    """

    def __init__(
        self,
        settings: AdaptSettings,
        plan: Plan,
        folder: AdaptFolder,
        start: Path,
        pieces: Sequence[Utterance],
        device: str,
    ) -> None:
        self.settings = settings
        self.plan = plan
        self.folder = folder
        self.start = start
        self.pieces = pieces
        self.device = device

    def load(self, path: Path) -> Model:
        """Return the model in a folder of this adaptation."""
        return Model.load(path, allow_code=self.settings.allow_code)

    def augment(self) -> dict[str, Any]:
        """Return the settings of augmentation with the user's noises and rooms."""
        augment = dict(CHANNELS)
        augment["noise"] = self.settings.noise
        augment["rir"] = self.settings.rir
        if self.settings.rir is not None:
            augment["simulate_prob"] = 0.7
        augment["codecs"] = self.codecs()
        return augment

    def codecs(self) -> list[str]:
        """Return the codecs of augmentation; most of them are for 16 kHz only."""
        if self.load(self.start).sample_rate == 16000:
            return list(CHANNELS["codecs"])
        return ["mu_law", "bits"]

    def overrides(self, way: str) -> list[str]:
        """Return what every training takes from the start, the plan and the user."""
        changed = {
            "seed": self.settings.seed,
            "data.train": [str(self.folder.train)],
            "train.init": str(self.start),
            "train.steps": self.plan.steps,
            "train.batch_size": self.plan.batch_size,
            "train.save_every": min(20, self.plan.steps),
            "train.keep": 1,
            "optimizer.lr": _LEARNING_RATES[way],
            "augment.noise": self.settings.noise,
            "augment.rir": self.settings.rir,
        }
        words = [f"{name}={json.dumps(value)}" for name, value in changed.items()]
        return words + model_overrides(self.load(self.start))


def say(text: str) -> None:
    """Print a line on standard error."""
    print(f"[adapt] {text}", file=sys.stderr, flush=True)


def fit_last_layer(work: Adaptation) -> Path:
    """Fit the last layer in closed form (`last_layer`).

    Raises:
        UserError: the layers after pooling are not affine.
    """
    folder = work.folder.candidate("last-layer")
    if folder.model.existing() is not None:
        return folder.model.path
    model = work.load(work.start)
    if not last_layer.can_be_folded(model.encoder):
        raise UserError(
            f"adapt: last-layer: encoder {model.settings['encoder']['name']} has no linear layer"
            " after pooling; choose another way"
        )
    cluster_of = read_mapping(cluster_pieces(work))
    clustered = [piece for piece in work.pieces if piece.id in cluster_of]
    pieces = clustered[:: max(1, -(-len(clustered) // _MOST_FITTED))]
    say(f"last-layer: fit to {len(pieces)} pieces")
    pairs = embed_pairs(
        Embedder(model, work.device),
        pieces,
        work.plan.window,
        work.settings.seed + 1,
        work.augment(),
    )
    names = [cluster_of[pieces[row].id] for row in pairs.pieces]
    _, classes = np.unique([*names, *names], return_inverse=True)
    rows = np.concatenate([pairs.plain, pairs.changed])
    model.to("cpu")
    last_layer.fold(model.encoder, *last_layer.fit(rows, classes))
    model.about = dict(model.about) | {"last_layer": f"fitted to clusters of {len(pieces)} pieces"}
    model.save(folder.model.path)
    return folder.model.path


def train_contrastive(work: Adaptation) -> Path:
    """Go on with `contrastive-small`: windows of a cluster attract, those of other clusters repel."""
    seconds = work.plan.window
    crops = [
        {"count": 1, "seconds": seconds, "to": "teacher"},
        {"count": 1, "seconds": seconds, "to": "student"},
    ]
    changed = {
        "data.crops": crops,
        "data.min_seconds": 2 * seconds,
        "data.positives": str(cluster_pieces(work)),
        "augment.codecs": work.codecs(),
    }
    return _train(work, "contrastive", changed)


def train_dino(work: Adaptation) -> Path:
    """Go on with `dino-small`; its head begins anew."""
    seconds = work.plan.window
    crops = [{"count": 2, "seconds": seconds}, {"count": 4, "seconds": round(seconds / 2, 2)}]
    return _train(work, "dino", {"data.crops": crops})


def _train(work: Adaptation, way: str, changed: Mapping[str, Any]) -> Path:
    """Train with the shipped configuration WAY-small; return the folder of the model."""
    run = RunFolder(work.folder.candidate(way).run)
    if run.model.existing() is not None:
        return run.model.path
    say(f"{way}: {work.plan.steps} steps of {work.plan.batch_size}")
    overrides = work.overrides(way)
    overrides += [f"{name}={json.dumps(value)}" for name, value in changed.items()]
    configuration = str(conf.locate(f"{way}-small"))
    train(configuration, overrides, out=run.path, resume=True, device=work.device)
    return run.model.path


def train_on_clusters(work: Adaptation) -> Path:
    """Cluster the pieces, train on the clusters, and once more from the clusters of that model."""
    folder = PseudoLabelFolder(work.folder.candidate("rounds").run)
    if folder.model.existing() is not None:
        return folder.model.path
    clusterer = cluster_settings(work)
    training = work.overrides("rounds")
    training += [
        f"data.crops={json.dumps([{'count': 1, 'seconds': work.plan.window}])}",
        f"train.log_every={min(10, work.plan.steps)}",
    ]
    # The loop sets these itself.
    own = ("data.train=", "train.init=", "encoder=", "features=")
    training = [word for word in training if not word.startswith(own)]
    count = clusterer["n_clusters"]
    say(f"rounds: 2 of {work.plan.steps} steps of {work.plan.batch_size} on {count} clusters")
    changed = {
        "start": str(work.start),
        "data": [str(work.folder.train)],
        "overrides": training,
        "rounds": 2,
        "clusterer": clusterer,
        "min_cluster_size": 2,
        "allow_code": list(work.settings.allow_code) or None,
    }
    overrides = [f"{name}={json.dumps(value)}" for name, value in changed.items()]
    pseudolabel(str(conf.locate("rounds-small")), overrides, out=folder.path, device=work.device)
    return folder.model.path


def cluster_pieces(work: Adaptation) -> Path:
    """Cluster the pieces by the model to start from; return the file of `utterance cluster` lines."""
    folder = work.folder.candidate("before").path / "clusters"
    file = folder / "utt2cluster"
    if file.exists():
        return file
    embeddings = work.folder.candidate("before").path / "train.npz"
    embed_to_file(
        work.start,
        [str(work.folder.train)],
        embeddings,
        allow_code=work.settings.allow_code,
        device=work.device,
        resume=True,
    )
    best: tuple[list[str], Any, dict[str, Any]] | None = None
    for count in work.plan.cluster_counts:
        clusterer, used = clusters.build(_clusterer(count, work.settings.seed))
        ids, labels, figures = clusters.cluster(embeddings, clusterer)
        figures = {"clusterer": used, **figures}
        if best is None or (figures["silhouette"] or -1) > (best[2]["silhouette"] or -1):
            best = (ids, labels, figures)
    assert best is not None  # the plan has a number of clusters
    clusters.write(folder, *best)
    return file


def cluster_settings(work: Adaptation) -> dict[str, Any]:
    """Return the clusterer that `cluster_pieces` chose: the highest silhouette."""
    figures = foreign_json.read(cluster_pieces(work).with_name("clusters.json"))
    settings: dict[str, Any] = figures["clusterer"]
    return settings


def _clusterer(count: int, seed: int) -> dict[str, Any]:
    """Return the section of a clusterer with `count` clusters."""
    return {"name": "kmeans_ahc", "n_centroids": 2 * count, "n_clusters": count, "seed": seed}


WAYS: Mapping[str, Callable[[Adaptation], Path]] = {
    "last-layer": fit_last_layer,
    "rounds": train_on_clusters,
    "contrastive": train_contrastive,
    "dino": train_dino,
}
"""Name of a way -> what makes its model."""

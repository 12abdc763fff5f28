"""The clusters of a federation: each client's centroids, and the server's of all of them.

Each client clusters the embeddings of its utterances; the server clusters all clients' centroids;
an utterance's label is the nearest of the server's by cosine (CCFC; methods/README.md 14.2). What is
clustered are embeddings of whole utterances by the shared weights, which every method has; CCFC's
program takes projections of crops.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.clustering.kmeans import SphericalKMeans
from speechssl.clustering.nearest import nearest
from speechssl.data.kaldi import digest, write_table
from speechssl.data.manifest import Utterance
from speechssl.embed.embedder import Embedder
from speechssl.embed.gather import gather
from speechssl.errors import UserError
from speechssl.files import write_text
from speechssl.model import Model


def embed(
    model: Model, utterances: Sequence[Utterance], device: torch.device
) -> tuple[list[str], Tensor]:
    """Return the ids of the N utterances that can be embedded, and unit vectors (N, D)."""
    kept, matrix, _ = gather(Embedder(model, device), utterances)
    if not kept:
        raise UserError("federate: none of the client's utterances can be embedded")
    return [utterance.id for utterance in kept], F.normalize(torch.from_numpy(matrix), dim=1)


def cluster(vectors: Tensor, clusters: int, seed: int) -> Tensor:
    """Return centroids (K, D) of unit length; K is `clusters`, or N if that is smaller.

    Args:
        vectors: (N, D).
        clusters: how many.
        seed: of the initial centroids.
    """
    kmeans = SphericalKMeans(n_clusters=min(clusters, len(vectors)), seed=seed)
    kmeans.fit_predict(vectors.numpy())
    return torch.from_numpy(np.ascontiguousarray(kmeans.centroids))


def write_labels(path: Path, ids: Sequence[str], vectors: Tensor, centroids: Tensor) -> None:
    """Write the nearest centroid of each utterance, lines `utterance cluster`.

    A clusters.json beside it says that a clusterer has made them.

    Args:
        path: of the file, utt2cluster.
        ids: of N utterances.
        vectors: (N, D) unit vectors.
        centroids: (K, D), of the server.
    """
    labels, _ = nearest(vectors, F.normalize(centroids, dim=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, sorted(zip(ids, map(str, labels.tolist()), strict=True)))
    write_text(path.with_name("clusters.json"), f'{{"sha256": "{digest(path)}"}}\n')

"""Embeddings of utterances in memory, those that cannot be embedded apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from speechssl.data.manifest import Utterance
from speechssl.embed.batches import Failure

if TYPE_CHECKING:
    from speechssl.embed.embedder import Embedder


def gather(
    embedder: Embedder, utterances: Sequence[Utterance], *, progress: bool = False
) -> tuple[list[Utterance], npt.NDArray[np.float32], list[Failure]]:
    """Embed utterances.

    Args:
        embedder: the model.
        utterances: what to embed.
        progress: show a progress bar.

    Returns:
        The N utterances that have an embedding, in the order given and with their seconds, the
        embeddings (N, D), and the failures of the others.
    """
    results = {}
    for index, seconds, result in embedder.stream(utterances, progress=progress):
        results[index] = (seconds, result)
    kept = []
    vectors = []
    failed = []
    for index in sorted(results):
        seconds, result = results[index]
        if isinstance(result, Failure):
            failed.append(result)
        else:
            kept.append(replace(utterances[index], seconds=seconds))
            vectors.append(result)
    matrix = np.stack(vectors) if vectors else np.zeros((0, embedder.dim), np.float32)
    return kept, matrix, failed

"""Bootstrapped positives: another utterance of the same pseudo-cluster stands in for a crop of
    one's own.

In the manner of SSPS (self-supervised positive sampling, Lepage and Dehak): two crops of one
utterance share its channel and its words, so a model may match those. A crop of another recording
that an earlier model put into the same cluster shares the voice, if the cluster is right. Clusters
come from an earlier model, never from labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from speechssl.data.kaldi import read_mapping
from speechssl.data.manifest import Utterance
from speechssl.errors import UserError


class Positives:
    """Partners of utterances.

    Args:
        file: lines `utterance cluster`. Utterances that it does not name have no partner.
        utterances: the training set, in the order of its rows.
        probability: with which an utterance that has a partner takes one.

    Raises:
        UserError: the file is missing or broken, names none of the utterances, or no cluster has
            two of them.
    """

    def __init__(
        self, file: str | Path, utterances: Sequence[Utterance], probability: float
    ) -> None:
        if not 0.0 <= probability <= 1.0:
            raise UserError(f"data.positives_prob: {probability:g} is no probability; give 0 to 1")
        clusters = read_mapping(file)
        known = sorted(set(clusters.values()))
        place = {cluster: number for number, cluster in enumerate(known)}
        self.cluster = np.array(
            [place.get(clusters.get(u.id, ""), -1) for u in utterances], dtype=np.int64
        )
        paths = {
            path: number for number, path in enumerate(dict.fromkeys(u.path for u in utterances))
        }
        self.recording = np.array([paths[u.path] for u in utterances], dtype=np.int64)
        self.probability = probability
        # members of cluster c: order[bounds[c]:bounds[c + 1]]
        self.order = np.argsort(self.cluster, kind="stable")
        self.bounds = np.searchsorted(self.cluster[self.order], np.arange(len(known) + 1))
        if not (np.diff(self.bounds) > 1).any():
            raise UserError(
                f"data.positives: no cluster of {file} has two of the {len(utterances)} training"
                " utterances; is it of the same data? Lines are `utterance cluster`"
            )

    def partner(self, row: int, rng: np.random.Generator) -> int | None:
        """Another row of the same cluster, from another recording if there is one; None where there
        is none or it is not this one's turn.
        """
        if rng.random() >= self.probability or self.cluster[row] < 0:
            return None
        cluster = int(self.cluster[row])
        members = self.order[self.bounds[cluster] : self.bounds[cluster + 1]]
        others = members[self.recording[members] != self.recording[row]]
        others = others if len(others) else members[members != row]
        return int(rng.choice(others)) if len(others) else None

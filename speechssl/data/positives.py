"""Bootstrapped positives: a crop of another utterance of the same pseudo-cluster.

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
    """Draws partners of utterances.

    Args:
        file: lines `utterance cluster`. Utterances that it does not name have no partner.
        utterances: the training set, in the order of its rows.
        probability: with which an utterance that has a partner takes one.

    Attributes:
        cluster: (N,) int64, the cluster of each row, or -1.
        recording: (N,) int64, the recording of each row.

    Raises:
        UserError: the file is missing or broken, names none of the utterances, or no cluster has
            two of them.
    """

    def __init__(
        self, file: str | Path, utterances: Sequence[Utterance], probability: float
    ) -> None:
        if not 0.0 <= probability <= 1.0:
            raise UserError(f"data.positives_prob: {probability:g}; it must be between 0 and 1")
        self.probability = probability
        cluster_of = read_mapping(file)
        names = sorted(set(cluster_of.values()))
        number_of = {name: number for number, name in enumerate(names)}
        clusters = [number_of.get(cluster_of.get(u.id, ""), -1) for u in utterances]
        self.cluster = np.array(clusters, dtype=np.int64)
        paths = dict.fromkeys(utterance.path for utterance in utterances)
        recording_of = {path: number for number, path in enumerate(paths)}
        self.recording = np.array([recording_of[u.path] for u in utterances], dtype=np.int64)
        # members of cluster c: order[bounds[c]:bounds[c + 1]]
        self.order = np.argsort(self.cluster, kind="stable")
        self.bounds = np.searchsorted(self.cluster[self.order], np.arange(len(names) + 1))
        if not (np.diff(self.bounds) > 1).any():
            raise UserError(
                f"data.positives: no cluster of {file} has two of the {len(utterances)} training"
                " utterances; is it of the same data? Lines are `utterance cluster`"
            )

    def partner(self, row: int, rng: np.random.Generator) -> int | None:
        """Draw a positive for `row` from its pseudo-cluster.

        Recordings other than the row's own are preferred.

        Returns:
            Row of the partner, or None if the cluster has no other member or the draw
            (`probability`) says no.
        """
        if rng.random() >= self.probability or self.cluster[row] < 0:
            return None
        cluster = int(self.cluster[row])
        members = self.order[self.bounds[cluster] : self.bounds[cluster + 1]]
        others = members[self.recording[members] != self.recording[row]]
        if not len(others):
            others = members[members != row]
        if not len(others):
            return None
        return int(rng.choice(others))

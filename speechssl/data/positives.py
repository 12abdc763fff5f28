"""Positives from other recordings: a crop of another utterance of the same group.

Two crops of one utterance share its channel and its words, so a model may match those. A group is

* a pseudo-cluster, in the manner of SSPS (self-supervised positive sampling, Lepage and Dehak): a
  recording that an earlier model put into the same cluster shares the voice, if the cluster is
  right;
* a session (a call, a video, a chapter), after contrastive heartbeats (Wei et al. 2022), whose beats
  of one patient's recording belong together: another utterance of it shares voice and channel, but
  not the words (methods/README.md 14.4).
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
        file: lines `utterance group`. Utterances that it does not name have no partner.
        utterances: the training set, in the order of its rows.
        probability: with which an utterance that has a partner takes one.

    Attributes:
        group: (N,) int64, the group of each row, or -1.
        recording: (N,) int64, the recording of each row.

    Raises:
        UserError: the file is missing or broken, names none of the utterances, or no group has two
            of them.
    """

    def __init__(
        self, file: str | Path, utterances: Sequence[Utterance], probability: float
    ) -> None:
        if not 0.0 <= probability <= 1.0:
            raise UserError(f"data.positives_prob: {probability:g}; it must be between 0 and 1")
        self.probability = probability
        group_of = read_mapping(file)
        names = sorted(set(group_of.values()))
        number_of = {name: number for number, name in enumerate(names)}
        groups = [number_of.get(group_of.get(u.id, ""), -1) for u in utterances]
        self.group = np.array(groups, dtype=np.int64)
        paths = dict.fromkeys(utterance.path for utterance in utterances)
        recording_of = {path: number for number, path in enumerate(paths)}
        self.recording = np.array([recording_of[u.path] for u in utterances], dtype=np.int64)
        # members of group g: order[bounds[g]:bounds[g + 1]]
        self.order = np.argsort(self.group, kind="stable")
        self.bounds = np.searchsorted(self.group[self.order], np.arange(len(names) + 1))
        if not (np.diff(self.bounds) > 1).any():
            raise UserError(
                f"data.positives: no group of {file} has two of the {len(utterances)} training"
                " utterances; is it of the same data? Lines are `utterance group`"
            )

    def partner(self, row: int, rng: np.random.Generator) -> int | None:
        """Draw a positive for `row` from its group.

        Recordings other than the row's own are preferred.

        Returns:
            Row of the partner, or None if the group has no other member or the draw
            (`probability`) says no.
        """
        if rng.random() >= self.probability or self.group[row] < 0:
            return None
        group = int(self.group[row])
        members = self.order[self.bounds[group] : self.bounds[group + 1]]
        others = members[self.recording[members] != self.recording[row]]
        if not len(others):
            others = members[members != row]
        if not len(others):
            return None
        return int(rng.choice(others))

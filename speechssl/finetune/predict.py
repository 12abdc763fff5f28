"""Classes of new recordings, by a classifier that was saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechssl.data.manifest import Utterance
from speechssl.embed.batches import Failure
from speechssl.embed.embedder import Embedder
from speechssl.embed.gather import gather
from speechssl.errors import UserError
from speechssl.finetune.saved import SavedClassifier
from speechssl.text import tsv_cell


@dataclass(frozen=True)
class Predictions:
    """Probabilities of classes.

    Attributes:
        ids: N recordings, or subjects.
        labels: C classes.
        probabilities: (N, C).
        counts: (N,) recordings behind each row.
    """

    ids: Sequence[str]
    labels: Sequence[str]
    probabilities: NDArray[np.float64]
    counts: Sequence[int]

    def lines(self, what: str, text: Callable[[str], str] = tsv_cell) -> Iterator[str]:
        """Yield a table: id, likeliest class, probability of each class.

        Of subjects, also how many recordings each has.

        Args:
            what: heads the ids: `recording` or `subject`.
            text: makes ids and labels cells of the table (`text.tsv_cell`, `text.tsv_field`).
        """
        counted = what != "recording"
        heads = [what, *(["recordings"] if counted else []), "label"]
        yield "\t".join([*heads, *(text(label) for label in self.labels)]) + "\n"
        for name, row, count in zip(self.ids, self.probabilities, self.counts, strict=True):
            cells = [text(name), *([str(count)] if counted else [])]
            cells.append(text(self.labels[int(row.argmax())]))
            yield "\t".join([*cells, *(f"{value:.4f}" for value in row)]) + "\n"


def predict(
    saved: SavedClassifier, utterances: Sequence[Utterance], device: str = "auto"
) -> tuple[Predictions, list[Failure]]:
    """Return the probabilities of each utterance that can be read, and the others.

    Raises:
        UserError: none can be read, or there is no such device.
    """
    embedder = Embedder(saved.model, device)
    saved.classifier.to(embedder.device)
    kept, matrix, failed = gather(embedder, utterances)
    if not kept:
        first = failed[0]
        raise UserError(f"predict: nothing can be read, first {first.path}: {first.reason}")
    ids = [utterance.id for utterance in kept]
    found = Predictions(ids, saved.labels, saved.probabilities(matrix), [1] * len(ids))
    return found, failed


def by_subject(found: Predictions, subject_of: Mapping[str, str]) -> Predictions:
    """Return the predictions of subjects: the mean probabilities of each one's recordings.

    Raises:
        UserError: a recording without a subject.
    """
    missing = [name for name in found.ids if name not in subject_of]
    if missing:
        raise UserError(
            f"--subjects: {len(missing)} recordings have no subject, first {missing[0]!r}; add them"
        )
    subjects, index = np.unique([subject_of[name] for name in found.ids], return_inverse=True)
    counts = np.bincount(index)
    sums = np.zeros((len(subjects), len(found.labels)))
    np.add.at(sums, index, found.probabilities)
    return Predictions(subjects.tolist(), found.labels, sums / counts[:, None], counts.tolist())

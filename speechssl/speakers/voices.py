"""Known voices: enrolled from recordings, kept in a file, and identified in other recordings.

The file is safetensors: ``embeddings`` (U, D) float32, ``voice`` (U,) int64 (which voice each is
of), and in its header the names, the ids of the recordings, which of them are of a narrow band, and
the digest of the model. It may be somebody else's: sizes are compared with the header before anything
is read.

A voice is the mean of its recordings' embeddings at length 1; the score of a recording is the cosine
with it. With a calibration, the recording is one of N voices (each with the prior p / N) or an
unknown one (1 - p), and the likelihood ratio LR_i of voice i gives

    P(i) = p / N * LR_i / (1 - p + sum_j p / N * LR_j),   P(unknown) = (1 - p) / (the same).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from speechssl import weights
from speechssl.errors import UserError, writing
from speechssl.evaluation.verification.scoring import score_trials, unit
from speechssl.speakers import calibration as calibrations
from speechssl.speakers.calibration import Calibration
from speechssl.speakers.quality import Quality

Matrix = NDArray[np.float32]

UNKNOWN = "unknown"
"""The answer where no voice is known well enough; no voice may have this name."""

UNDECIDED = "undecided"
"""The answer where neither a threshold nor a calibration is known."""

_FEWEST_TARGETS = 10  # pairs of one voice from which a calibration is fitted
_MOST_RECORDINGS = 1000  # whose pairs are used; of more, as many are drawn
_RECORDINGS_AT_ONCE = 4096  # that are compared with all voices
_LONGEST_NAME = 200
_LARGEST = 1e18  # of a number in an embedding: the square of more is infinite


@dataclass(frozen=True)
class Answer:
    """Who speaks in a recording.

    Attributes:
        voice: a name, `UNKNOWN` or `UNDECIDED`.
        nearest: the voice of the highest score, whatever the answer is.
        score: its cosine.
        probability: of the answer; None without a calibration.
    """

    voice: str
    nearest: str
    score: float
    probability: float | None


@dataclass(frozen=True)
class Voices:
    """Recordings of known voices.

    Attributes:
        names: N voices, sorted.
        voice: (U,) index of the voice of each recording.
        ids: U recordings.
        embeddings: (U, D).
        model: digest of the model that made them.
        narrow: U, whether each recording is of a narrow band; None: nobody looked.
    """

    names: Sequence[str]
    voice: NDArray[np.int64]
    ids: Sequence[str]
    embeddings: Matrix
    model: str
    narrow: Sequence[bool] | None = None

    def centres(self) -> Matrix:
        """Return the mean (N, D) of each voice's embeddings at length 1."""
        rows = unit(self.embeddings)
        centres = np.zeros((len(self.names), rows.shape[1]))
        np.add.at(centres, self.voice, rows)
        return (centres / np.bincount(self.voice)[:, None]).astype(np.float32)

    def narrow_shares(self) -> NDArray[np.float64]:
        """Return the share (N,) of each voice's recordings that are of a narrow band."""
        narrow = np.zeros(len(self.voice)) if self.narrow is None else np.array(self.narrow, float)
        shares: NDArray[np.float64] = np.bincount(self.voice, narrow) / np.bincount(self.voice)
        return shares

    def scores(self, embeddings: Matrix) -> Matrix:
        """Return the cosines (B, N) of embeddings (B, D) with each voice."""
        cosines: Matrix = unit(embeddings) @ unit(self.centres()).T
        return cosines

    def identify(
        self,
        embeddings: Matrix,
        calibration: Calibration | None = None,
        *,
        prior: float = 0.5,
        threshold: float | None = None,
        seconds: Sequence[float] | None = None,
        narrow: Sequence[bool] | None = None,
    ) -> list[Answer]:
        """Return who speaks in each of B recordings, given their embeddings (B, D).

        Args:
            embeddings: by the model that made the voices.
            calibration: what a score means; used unless there is a threshold.
            prior: probability that a recording is of a known voice at all.
            threshold: lowest score at which the nearest voice is the answer.
            seconds: (B,) lengths of the recordings, for a calibration in which length counts.
            narrow: (B,) whether they are of a narrow band, for a calibration in which that counts.

        Raises:
            UserError: the prior is not between 0 and 1.
        """
        calibrations.check_prior(prior)
        shares = self.narrow_shares()
        qualities = [
            Quality(
                None if seconds is None else seconds[number],
                None if narrow is None else (shares, float(narrow[number])),
            )
            for number in range(len(embeddings))
        ]
        blocks = range(0, len(embeddings), _RECORDINGS_AT_ONCE)
        parts = (self.scores(embeddings[at : at + _RECORDINGS_AT_ONCE]) for at in blocks)
        answers = []
        for row, quality in zip(itertools.chain.from_iterable(parts), qualities, strict=True):
            best = int(row.argmax())
            nearest = self.names[best]
            score = float(row[best])
            probability = None
            if threshold is not None:
                voice = nearest if score >= threshold else UNKNOWN
            elif calibration is not None:
                voice, probability = self._posterior(row, calibration, prior, quality)
            else:
                voice = UNDECIDED
            answers.append(Answer(voice, nearest, score, probability))
        return answers

    def _posterior(
        self,
        scores: NDArray[np.float32],
        calibration: Calibration,
        prior: float,
        quality: Quality,
    ) -> tuple[str, float]:
        """Return the likeliest of all voices and `UNKNOWN`, and its probability."""
        ratios = calibration.log_likelihood_ratio(scores, quality)
        log_odds = ratios + np.log(prior / len(scores))
        logits = np.append(log_odds, np.log(1 - prior))
        weights = np.exp(logits - logits.max())
        best = int(weights.argmax())
        name = self.names[best] if best < len(self.names) else UNKNOWN
        return name, float(weights[best] / weights.sum())

    def self_calibration(self) -> Calibration | None:
        """Fit a calibration on the pairs of these recordings, or return None if they are too few.

        Recordings of a voice are often of one session, so they sound more alike than those that
        will come: a calibration on other trials is better.
        """
        chosen = np.arange(len(self.ids))
        if len(chosen) > _MOST_RECORDINGS:
            drawn = np.random.default_rng(0).permutation(chosen)
            chosen = np.sort(drawn[:_MOST_RECORDINGS])
        first, second = np.triu_indices(len(chosen), k=1)
        voice = self.voice[chosen]
        target = voice[first] == voice[second]
        if int(target.sum()) < _FEWEST_TARGETS or not (~target).any():
            return None
        scores = score_trials(self.embeddings[chosen], first, second)
        source = "the pairs of the registered recordings"
        try:
            return calibrations.fit(scores, target, source)
        except UserError:
            return None

    def with_others(self, others: Voices) -> Voices:
        """Return these voices and those of `others`; a voice of both has the recordings of `others`.

        Raises:
            UserError: they are by different models.
        """
        is_same_size = self.embeddings.shape[1] == others.embeddings.shape[1]
        if self.model != others.model or not is_same_size:
            raise UserError(
                "voices: these voices were registered with another model; register all with one"
            )
        replaced = set(others.names)
        names = []
        ids = []
        rows = []
        narrow = []
        for source in (self, others):
            is_narrow = source.narrow or [False] * len(source.ids)
            for row, voice in enumerate(source.voice.tolist()):
                if source is self and self.names[voice] in replaced:
                    continue
                names.append(source.names[voice])
                ids.append(source.ids[row])
                rows.append(source.embeddings[row])
                narrow.append(is_narrow[row])
        return make(names, ids, np.stack(rows), self.model, narrow)

    def write(self, path: Path) -> None:
        """Write the file; a reader sees the old one or the new one."""
        about = {
            "names": list(self.names),
            "recordings": list(self.ids),
            "model": self.model,
            "narrow": None if self.narrow is None else list(self.narrow),
        }
        metadata = {"speechssl voices": json.dumps(about)}
        arrays = {"embeddings": self.embeddings, "voice": self.voice}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            weights.write(path, tensors, metadata)


def make(
    voice_of_each: Sequence[str],
    ids: Sequence[str],
    embeddings: Matrix,
    model: str,
    narrow: Sequence[bool] | None = None,
) -> Voices:
    """Return the voices of recordings.

    Args:
        voice_of_each: (U,) names.
        ids: (U,) of the recordings.
        embeddings: (U, D).
        model: digest of the model.
        narrow: (U,) whether they are of a narrow band; None: nobody looked.

    Raises:
        UserError: there is no recording, or a name that stands for an answer or is no name.
    """
    if not len(ids):
        raise UserError("voices: no recording could be embedded; give recordings of each voice")
    for name in voice_of_each:
        if not _can_be_a_name(name):
            raise UserError(f"voices: {name[:80]!r} cannot be the name of a voice; rename it")
    names, voice = np.unique(np.array(voice_of_each, dtype=str), return_inverse=True)
    exact = np.ascontiguousarray(embeddings, np.float32)
    return Voices(names.tolist(), voice.astype(np.int64), list(ids), exact, model, narrow)


def _can_be_a_name(name: str) -> bool:
    return name not in (UNKNOWN, UNDECIDED) and bool(name.strip()) and len(name) <= _LONGEST_NAME


def read(path: Path) -> Voices:
    """Read a file of voices.

    Raises:
        UserError: it is not there, or not such a file.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give what `speechssl register` wrote")
    try:
        with safe_open(str(path), framework="numpy") as file:
            about = json.loads((file.metadata() or {})["speechssl voices"])
            names = _strings(about["names"])
            ids = _strings(about["recordings"])
            shape = file.get_slice("embeddings").get_shape()
            if len(shape) != 2 or shape[0] != len(ids) or not shape[1]:
                raise ValueError(f"embeddings of shape {shape} for {len(ids)} recordings")
            if file.get_slice("voice").get_shape() != [len(ids)]:
                raise ValueError("it does not say which voice each recording is of")
            embeddings = np.asarray(file.get_tensor("embeddings"))
            voice = np.asarray(file.get_tensor("voice"))
        if embeddings.dtype != np.float32 or voice.dtype != np.int64:
            raise ValueError(f"types {embeddings.dtype} and {voice.dtype}")
        if not (np.abs(embeddings) < _LARGEST).all():
            raise ValueError("embeddings are not finite, or far too large")
        if sorted(set(voice.tolist())) != list(range(len(names))) or names != sorted(set(names)):
            raise ValueError("names and recordings do not belong together")
        if not all(map(_can_be_a_name, names)):
            raise ValueError("a name that no voice can have")
        model = str(about["model"])
        narrow = about.get("narrow")  # files from before bands counted have none
        if narrow is not None and not _are_answers(narrow, len(ids)):
            raise ValueError("it does not say of each recording whether its band is narrow")
    except Exception as error:  # whatever safetensors, json and numpy raise
        detail = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: is no file of voices ({type(error).__name__}: {detail}); register again"
        ) from error
    return Voices(names, voice, ids, embeddings, model, narrow)


def read_for(path: Path, model: str, dim: int) -> Voices:
    """Read a file of voices that one model must have made.

    Args:
        path: the file.
        model: digest of the model.
        dim: D of its embeddings.

    Raises:
        UserError: it is not there, not such a file, or of another model.
    """
    known = read(path)
    if model != known.model or known.embeddings.shape[1] != dim:
        raise UserError(f"{path}: was registered with another model; register again")
    return known


def _are_answers(found: object, count: int) -> bool:
    """Return whether something is a list of `count` times true or false."""
    if not isinstance(found, list) or len(found) != count:
        return False
    return all(isinstance(one, bool) for one in found)


def _strings(found: object) -> list[str]:
    """Return a list of names, or raise ValueError."""
    if not isinstance(found, list) or not found or not all(isinstance(one, str) for one in found):
        raise ValueError("no list of names")
    return found

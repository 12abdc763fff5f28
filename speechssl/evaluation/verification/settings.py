"""Settings of a verification run: what is subtracted, normalised, calibrated, and resampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from speechssl.data.trials import Trials
from speechssl.errors import UserError
from speechssl.evaluation.verification.sources import Embeddings


@dataclass(frozen=True)
class VerificationSettings:
    """How trials are scored and measured.

    Embeddings are a file (see `data.vectors`) or `(ids (N,), matrix (N, D))`. Those that move or
    scale the scores come from other data than the test.

    Raises:
        UserError: PLDA together with a mean, whitening or AS-norm.
    """

    mean: Embeddings | None = None
    """Training embeddings whose mean is subtracted from everything before scoring."""

    whiten: Embeddings | None = None
    """Training embeddings for whitening (see `scoring.whitening`); their mean is subtracted unless
    `mean` is given.
    """

    shrinkage: float = 0.1
    """Of the whitening: 0 whitens fully, a large number not at all."""

    cohort: Embeddings | None = None
    """Embeddings for AS-norm."""

    top: int = 300
    """Cohort embeddings, the nearest ones, that AS-norm uses for each utterance (all, if there are
    fewer).
    """

    plda: tuple[Embeddings, Mapping[str, str]] | None = None
    """Training embeddings and their classes (utterance -> pseudo-speaker): score by PLDA in place
    of cosines.
    """

    plda_dim: int = 0
    """Directions of LDA before PLDA; 0: no LDA."""

    plda_pca: int = 0
    """Principal directions kept before LDA and PLDA; 0: all."""

    plda_shrinkage: float = 0.1
    """Weight of a spherical covariance within classes, in embeddings a dimension (`plda.shrunk`)."""

    enrol: Mapping[str, Sequence[str]] | None = None
    """Model -> utterances whose embeddings are averaged: trials may name models, on either side
    (CN-Celeb, SRE).
    """

    speakers: Mapping[str, str] | None = None
    """Utterance -> speaker, for the bootstrap intervals only. None: utterances that target trials
    join are taken for one speaker.
    """

    calibration: tuple[Embeddings, Trials] | None = None
    """Embeddings and trials, not the test's, on which scores are calibrated. Only with it are the
    measures of calibrated scores reported.
    """

    replicates: int = 1000
    """Bootstrap resamples; 0: no intervals."""

    seed: int = 0
    """Of the bootstrap."""

    keep_going: bool = False
    """Leave out, and count, trials that name an unknown id, instead of refusing the list."""

    model: str | None = None
    """Written into the results: whose embeddings these are."""

    labels_used: Sequence[str] = ()
    """Written into the results: which labels helped to make the embeddings."""

    def __post_init__(self) -> None:
        """Refuse what PLDA does not combine with."""
        transforms = (self.mean, self.whiten, self.cohort)
        if self.plda is not None and any(source is not None for source in transforms):
            raise UserError(
                "PLDA cannot be combined with a mean, whitening or AS-norm; leave them out"
            )

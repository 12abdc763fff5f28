"""The contracts of the package: what an extension implements, and all that it imports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn


class Views(NamedTuple):
    """One group of the crop plan: crops of one length.

    Attributes:
        features: (V, B, F, M), V crops of each of B utterances.
        to: which network sees them (``both``, ``student`` or ``teacher``).
        ids: (B,) int64, which utterance of the training set each one is.
    """

    features: Tensor
    to: str = "both"
    ids: Tensor | None = None


class Progress(NamedTuple):
    """Where training stands; everything scheduled is a function of it."""

    step: int
    steps: int
    steps_per_epoch: int

    @property
    def fraction(self) -> float:
        """Share of the run that is done, 0 at the first step and 1 after the last."""
        return self.step / max(1, self.steps)

    @property
    def epoch(self) -> float:
        """Epochs done, as a real number."""
        return self.step / max(1, self.steps_per_epoch)


class Output(NamedTuple):
    """What a step returns.

    Attributes:
        loss: scalar to differentiate.
        scalars: named detached scalars for the log; no method synchronises the device to make them.
        embedding: (N, D) detached embeddings, of the network that users get, for the collapse
            monitor.
        projections: (V, B, P) with gradient, what regularisers of any method work on (DimCL).
    """

    loss: Tensor
    scalars: dict[str, Tensor]
    embedding: Tensor
    projections: Tensor


class FrontEnd(nn.Module):
    """Waveforms to frames of features; a part of `features/`.

    A part's keyword-only settings begin with ``sample_rate`` (Hz) where it can be chosen. They are
    kept with the weights.
    """

    sample_rate: int
    """Sampling rate of the waveforms it takes, Hz."""

    dim: int
    """M, numbers in a frame."""

    frames_per_second: float
    """Frames of a second of audio."""

    def forward(self, waves: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute features.

        Args:
            waves: (B, T) samples in -1..1.
            lengths: (B,) samples that count in each row; None: all T.

        Returns:
            Features (B, F, M), and the number of frames that count in each row, (B,) int64.
        """
        raise NotImplementedError


class Encoder(nn.Module):
    """Frames of features to one embedding an utterance; a part of `encoders/`.

    A part's constructor takes ``input_dim`` (M) and its keyword-only settings.
    """

    embedding_dim: int
    """D, size of an embedding."""

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return embeddings (B, D) of features (B, F, M).

        ``lengths`` (B,) are the frames that count in each row (None: all F): a padded row has the
        embedding that it has alone.
        """
        raise NotImplementedError

    def frame_layers(self) -> dict[str, nn.Module]:
        """Return the layers before pooling whose outputs can be embedded, in their order."""
        return {}

    def affine_layers(self) -> dict[str, nn.Module]:
        """Return the layers after pooling, in their order; the last one gives the embedding."""
        return {}


class Method(nn.Module):
    """A self-supervised method around one encoder.

    A subclass implements ``forward(views, progress) -> Output`` and names the encoder whose
    embeddings users get in ``encoder``. Both hooks may stay empty.
    """

    min_batch = 2
    """Smallest number of utterances a device may hold for the loss to be defined."""

    teacher_prototypes: int | None = None
    """K, where ``teacher_entropy`` is logged: its limit is ln K."""

    PARTS: ClassVar[dict[str, str]] = {}
    """Settings that are parts themselves: keyword -> folder (``{"predictor": "predictors"}``)."""

    @property
    def encoder(self) -> nn.Module:
        """The encoder that is saved and embeds: the teacher's where there is one."""
        raise NotImplementedError

    def networks(self) -> dict[str, nn.Module]:
        """Return the encoders that `embed --network` can name, such as student and teacher."""
        return {"encoder": self.encoder}

    NEEDS_LABELS: ClassVar[bool] = False
    """Whether it learns pseudo-labels (``data.pseudo_labels``)."""

    OWN_STATE: ClassVar[tuple[str, ...]] = ()
    """Buffers that a run does not take over from another one (``train.init_method``)."""

    def prepare(self, utterances: int, labels: Tensor | None = None) -> None:
        """Called once, before training: room for memories, and classes.

        Args:
            utterances: N, the size of the training set.
            labels: (N,) int64 pseudo-labels 0 to C - 1, where ``data.pseudo_labels`` gives them.
        """

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """One step on a batch: (V, B, F, M) features a group, in the order of the crop plan."""
        raise NotImplementedError

    def parameter_rules(self) -> list[ParameterRule]:
        """Parameters that the optimiser treats in a way of their own; none unless a method says
        so.
        """
        return []

    def after_backward(self, progress: Progress) -> None:
        """Runs between backward (and clipping) and the optimiser's step."""

    def after_step(self, progress: Progress) -> None:
        """Runs after the optimiser's step: moving averages, predictors set in closed form."""


class ParameterRule(NamedTuple):
    """How the optimiser treats some parameters: ``scale`` times the learning rate, ``constant`` at
    its peak (no warm-up, no decay: SimSiam's predictor), with or without weight ``decay``.
    """

    parameters: Sequence[nn.Parameter]
    scale: float = 1.0
    constant: bool = False
    decay: bool = True


class Predictor(nn.Module):
    """h: projections z (N, D) to predictions p (N, D) of the target.

    A part's constructor takes ``dim`` (D) and its settings.
    """

    def forward(self, z: Tensor) -> Tensor:
        """Predictions (N, D)."""
        raise NotImplementedError

    def cosine(self, z: Tensor, p: Tensor, target: Tensor) -> Tensor:
        """Cosine of prediction and target, (N,), to be maximised; ``p`` is ``self(z)``."""
        return F.cosine_similarity(p, target, dim=-1)

    def observe(self, z: Tensor) -> None:
        """Look at the un-normalised projections (N, D) of a step, detached and of all processes."""

    def after_step(self, step: int) -> None:
        """Runs after the optimiser's step number ``step``."""

    def rule(self) -> ParameterRule | None:
        """How the optimiser treats this predictor, where not as everything else."""
        return None


@dataclass(frozen=True)
class Diagnostic:
    """One figure of a set of embeddings.

    Attributes:
        compute: (N, D) embeddings, or (V, N, D) views of N utterances where ``needs`` is ``views``,
            to a number. NaN where it is undefined.
        healthy: lowest and highest healthy value for N embeddings of D dimensions.
        collapsed: True where a value, for N and D, means collapse.
        tells: one line, for the table.
        better: whether lower or higher is better when models are ranked without labels; none:
            neither.
        needs: what ``compute`` takes.
    """

    compute: Callable[[Tensor], float]
    healthy: Callable[[int, int], tuple[float, float]]
    collapsed: Callable[[float, int, int], bool]
    tells: str
    better: Literal["lower", "higher"] | None = None
    needs: Literal["embeddings", "views"] = "embeddings"

    def verdict(self, value: float, count: int, dim: int) -> str:
        """``healthy``, ``watch``, ``collapsed`` or ``undefined``."""
        if value != value:
            return "undefined"
        if self.collapsed(value, count, dim):
            return "collapsed"
        low, high = self.healthy(count, dim)
        return "healthy" if low <= value <= high else "watch"


class Clusterer(Protocol):
    """Embeddings to pseudo-labels; a part of `clustering/`, built from its keyword-only settings."""

    ORDER_FREE: ClassVar[bool] = False
    """Whether rows in another order give the same partition."""

    def fit_predict(self, embeddings: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return a cluster (N,), 0 to C - 1, or -1 for an outlier, of each row of (N, D)."""
        ...


class Corpus(Protocol):
    """A corpus as it is distributed to a Kaldi directory; a part of `corpora/` is such a function.

    Its parameters are the arguments and flags of ``speechssl prepare NAME``, and the ``Args``
    section of its docstring explains them.
    """

    def __call__(self, root: str | Path, out: str | Path, **settings: Any) -> Any:
        """Write a Kaldi directory.

        Files that cannot be used are left out, counted on standard error, and listed in
        OUT/skipped.tsv.

        Args:
            root: the folder that the corpus was unpacked into.
            out: the directory to write.
            settings: keyword-only, each with a default.

        Returns:
            What was written, a `data.manifest.Manifest`; None where several directories were.

        Raises:
            UserError: `root` is not laid out as the corpus is (the message names the layout), not
                complete, or without a usable file.
        """
        ...


class Exporter(Protocol):
    """A trained model to files that other programs read; a part of `exporters/` is such a function."""

    def __call__(self, model: Any, out: Path) -> Callable[[Tensor], Tensor] | None:
        """Write a model into a folder.

        Args:
            model: a `speechssl.model.Model`, in evaluation mode.
            out: the folder, which exists.

        Returns:
            A function that loads what was written and embeds with it: samples (B, T) at the model's
            rate, equally long, to embeddings (B, D). `speechssl export` compares it with the model.
            None where its runtime is not installed.

        Raises:
            UserError: the format cannot express the model, or a library is missing.
        """
        ...

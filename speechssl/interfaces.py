"""The contracts of the package: what an extension implements, and all that it imports.

Front ends, encoders, methods and predictors are base classes, because they are modules
whose hooks have empty defaults. A diagnostic is a record. Clusterers, corpora and
exporters are protocols: any object or function of that form will do, and it needs to
import nothing from here.

Letters in shapes: B utterances of a batch, N of a set, V views (crops) of each, T
samples, F frames, M features of a frame, D numbers of an embedding, P of a projection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = [
    "Clusterer",
    "Corpus",
    "Diagnostic",
    "Encoder",
    "Exporter",
    "ForeignFormat",
    "ForeignModel",
    "FrontEnd",
    "Method",
    "Output",
    "ParameterRule",
    "Predictor",
    "Progress",
    "SpeechDetector",
    "Stage",
    "TrackedRun",
    "Tracker",
    "Views",
]


class FrontEnd(nn.Module):
    """Waveforms to frames of features; a part of `features/`.

    A part's keyword-only settings begin with `sample_rate` (Hz) where it can be chosen.
    They are kept with the weights.
    """

    sample_rate: int
    """Sampling rate of the waveforms that it takes, Hz."""

    dim: int
    """M, numbers in a frame."""

    frames_per_second: float
    """Number of frames that a second of audio gives."""

    def forward(self, waves: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute features.

        Args:
            waves: (B, T) samples in -1..1.
            lengths: (B,) samples that count in each row; None: all T.

        Returns:
            Features (B, F, M), and the number of frames that count in each row, (B,)
            int64.
        """
        raise NotImplementedError


class Stage(NamedTuple):
    """A link of the chain that an encoder consists of (`Encoder.stages`).

    Attributes:
        run: function of what the stage before gave, (B, F, C) or (B, F, M, C); of the
            first stage: of features (B, F, M). The last one gives embeddings (B, D).
        modules: names of the encoder's submodules that it runs.
        channels: how many of the last channels of its output it has made itself; the
            ones before are passed on.
    """

    run: Callable[[Tensor], Tensor]
    modules: tuple[str, ...]
    channels: int


class Encoder(nn.Module):
    """Frames of features to one embedding an utterance; a part of `encoders/`.

    A part's constructor takes `input_dim` (M) and its keyword-only settings.
    """

    INPUT: ClassVar[Literal["features", "samples"]] = "features"
    """What the frames are; `samples`: those of the front end `waveform` (M is 1)."""

    embedding_dim: int
    """D, size of an embedding."""

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Compute embeddings.

        Args:
            features: (B, F, M).
            lengths: (B,) frames that count in each row; None: all F. A padded row has
                the embedding that it has alone.

        Returns:
            Embeddings (B, D).
        """
        raise NotImplementedError

    def load_from(self, other: Encoder) -> None:
        """Take over the weights of a trained encoder (`train.init`).

        Raises:
            RuntimeError: it has other weights than this one.
        """
        self.load_state_dict(other.state_dict())

    def frame_layers(self) -> dict[str, nn.Module]:
        """Return the layers before pooling that can be embedded, in their order.

        Each is called as `layer(x, frames)`, where `frames` is a `nn.frames.Frames`. It
        returns frames (B, F, C) or maps (B, F, M, C). A layer that changes the number of
        frames returns a tuple: its output and the new `Frames`.
        """
        return {}

    def stages(self) -> list[Stage]:
        """Return the chain that gives the embeddings of whole (not padded) features.

        Local training (`train.local_blocks`) cuts it. None: this encoder cannot be cut.
        """
        return []

    def affine_layers(self) -> dict[str, nn.Module]:
        """Return the layers after pooling, in their order.

        Applied one after the other to the pooled statistics (B, P), they give the
        embedding (B, D).
        """
        return {}


class Views(NamedTuple):
    """One group of the crop plan: crops of one length.

    Attributes:
        features: (V, B, F, M), V crops of each of B utterances.
        to: which network sees them (`both`, `student` or `teacher`).
        ids: (B,) int64, index of each utterance in the training set.
        groups: (B,) int64, the group of each utterance (`data.positives`: a session, a
            cluster), -1 for none. Utterances of one group are no negatives of each
            other. None: no utterance has a group.
        per_view: encode one view at a time, so that BatchNorm sees one view
            (`train.encode`).
    """

    features: Tensor
    to: str = "both"
    ids: Tensor | None = None
    groups: Tensor | None = None
    per_view: bool = False


class Progress(NamedTuple):
    """Where training stands; everything scheduled is a function of it.

    Attributes:
        step: steps of the optimiser that are done, 0 at the first one.
        steps: steps of the whole run.
        steps_per_epoch: steps in which each utterance is seen once.
    """

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
    """What a step of a method returns.

    Attributes:
        loss: scalar to differentiate.
        scalars: named detached scalars for the log, on the device: reading them
            (`.item()`) would make the device wait.
        embedding: (N, D) detached embeddings of the network that users get, for the
            collapse monitor.
        projections: (V, B, P) with gradient, for regularisers of any method (DimCL).
    """

    loss: Tensor
    scalars: dict[str, Tensor]
    embedding: Tensor
    projections: Tensor


class ParameterRule(NamedTuple):
    """How the optimiser treats some parameters, where not like all others.

    Attributes:
        parameters: which ones.
        scale: factor of their learning rate.
        constant: keep the learning rate at its peak: no warm-up, no decay (SimSiam's
            predictor).
        decay: whether they have weight decay.
        clip: whether their gradient is clipped.
    """

    parameters: Sequence[nn.Parameter]
    scale: float = 1.0
    constant: bool = False
    decay: bool = True
    clip: bool = True


class Method(nn.Module):
    """A self-supervised method around one encoder; a part of `methods/`.

    A part's constructor takes the `Encoder` and its keyword-only settings. A subclass
    implements `forward` and `encoder`. In a training step `forward` runs first, then
    the backward pass and gradient clipping, `after_backward`, the optimiser's step, and
    `after_step`.
    """

    min_batch = 2
    """Smallest number of utterances on a device for which the loss is defined."""

    teacher_prototypes: int | None = None
    """K, where `teacher_entropy` is logged: its limit is ln K."""

    highest_teacher_temperature: float | None = None
    """Temperature of the assignments that `teacher_entropy` is of, where there is one."""

    PARTS: ClassVar[dict[str, str]] = {}
    """Settings that are parts themselves: `{"predictor": "predictors"}`."""

    NEEDS_LABELS: ClassVar[bool] = False
    """Whether it learns pseudo-labels (`data.pseudo_labels`)."""

    OWN_STATE: ClassVar[tuple[str, ...]] = ()
    """Buffers that a run does not take over from another one (`train.init_method`)."""

    @property
    def encoder(self) -> Encoder:
        """The encoder that is saved and embeds: the teacher's where there is one."""
        raise NotImplementedError

    def networks(self) -> dict[str, Encoder]:
        """Return the encoders that `embed --network` can name: student, teacher."""
        return {"encoder": self.encoder}

    def prepare(self, utterances: int, labels: Tensor | None = None) -> None:
        """Make memories and classes; called once, before training.

        Args:
            utterances: N, the size of the training set.
            labels: (N,) int64 pseudo-labels 0 to C - 1, where `data.pseudo_labels`
                gives them.
        """

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """Compute the loss of a batch.

        Args:
            views: one `Views` for each group of the crop plan, in its order.
            progress: where training stands.
        """
        raise NotImplementedError

    def parameter_rules(self) -> list[ParameterRule]:
        """Return rules for parameters that the optimiser treats differently."""
        return []

    def start_round(self) -> None:
        """Take note of the weights of all clients, which have just been loaded.

        Called in federated training (`speechssl federate`) before a round's first step,
        and before a strategy mixes these weights with the client's own.
        """

    def after_backward(self, progress: Progress) -> None:
        """Change gradients before the optimiser's step (to freeze a layer, say)."""

    def after_step(self, progress: Progress) -> None:
        """Update what is not trained by gradient, such as a moving average."""


class Predictor(nn.Module):
    """h: projections z (N, D) to predictions p (N, D); a part of `predictors/`.

    Here D is the size of a projection. A part's constructor takes `dim` (D) and its
    keyword-only settings.
    """

    def forward(self, z: Tensor) -> Tensor:
        """Return predictions (N, D) of projections `z` (N, D)."""
        raise NotImplementedError

    def cosine(self, z: Tensor, p: Tensor, target: Tensor) -> Tensor:
        """Return the cosine (N,) of prediction and target, which training maximises.

        Args:
            z: (N, D) projections.
            p: (N, D), `self(z)`.
            target: (N, D), without gradient.
        """
        return F.cosine_similarity(p, target, dim=-1)

    def observe(self, z: Tensor) -> None:
        """Take in the projections `z` (N, D) of a step: not normalised, detached, of all processes."""

    def after_step(self, step: int) -> None:
        """Update what is not trained by gradient, after step number `step`."""

    def rule(self) -> ParameterRule | None:
        """Return how the optimiser treats this predictor, where not like all else."""
        return None


class ForeignModel(NamedTuple):
    """A model that another program has saved, in terms of this package's parts.

    Attributes:
        features: section `features`: the front end's name and settings.
        encoder: section `encoder`.
        weights: state dict of that encoder.
        weights_file: where they are from, for messages.
        about: what is known of them.
    """

    features: dict[str, Any]
    encoder: dict[str, Any]
    weights: dict[str, Tensor]
    weights_file: Path
    about: dict[str, Any]


@dataclass(frozen=True)
class ForeignFormat:
    """How another program saves its speaker encoders; a part of `foreign/` is such a record.

    What it reads is somebody else's: nothing that is named in it is imported or run, weights are
    read by `weights.read`, and text by `foreign_yaml` and `foreign_json`.

    Attributes:
        recognises: function of a path: True if the folder or file there looks like one of this
            format. It opens no more than it needs.
        read: function of such a path; raises UserError for what it cannot take.
        patterns: names of the files that it needs, for downloads (`*.yaml`).
    """

    recognises: Callable[[Path], bool]
    read: Callable[[Path], ForeignModel]
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class Diagnostic:
    """One figure of a set of embeddings; a part of `diagnostics/` is such a record.

    Attributes:
        compute: function of embeddings (N, D), or of views (V, N, D) where `needs` is `views`: the
            figure, or NaN where it is undefined. It is called through `measure`.
        healthy: function of N and D: the lowest and the highest healthy value.
        collapsed: function of a value, N and D: True if the value means collapse.
        tells: what the figure tells, in one line, for the table.
        better: whether lower or higher is better when models are ranked without labels;
            None: neither.
        needs: what `compute` takes.
    """

    compute: Callable[[Tensor], float]
    healthy: Callable[[int, int], tuple[float, float]]
    collapsed: Callable[[float, int, int], bool]
    tells: str
    better: Literal["lower", "higher"] | None = None
    needs: Literal["embeddings", "views"] = "embeddings"

    def measure(self, embeddings: Tensor) -> float:
        """Return the figure of what `needs` names; NaN where it is undefined.

        It is undefined for fewer than two utterances, and for numbers that are not finite.
        """
        if embeddings.shape[-2] < 2 or not bool(embeddings.isfinite().all()):
            return float("nan")
        return self.compute(embeddings)

    def verdict(self, value: float, count: int, dim: int) -> str:
        """Return `healthy`, `watch`, `collapsed` or `undefined`.

        Args:
            value: what `compute` gave.
            count: N embeddings.
            dim: D.
        """
        if value != value:
            return "undefined"
        if self.collapsed(value, count, dim):
            return "collapsed"
        low, high = self.healthy(count, dim)
        return "healthy" if low <= value <= high else "watch"


class Clusterer(Protocol):
    """Embeddings to pseudo-labels; a part of `clustering/`.

    A part's constructor takes its keyword-only settings.
    """

    ORDER_FREE: ClassVar[bool] = False
    """Whether rows in another order give the same partition."""

    def fit_predict(self, embeddings: NDArray[np.float32]) -> NDArray[np.int64]:
        """Cluster embeddings (N, D).

        Returns:
            (N,) the cluster of each row, 0 to C - 1, or -1 for an outlier.
        """
        ...


class SpeechDetector(Protocol):
    """Finds the speech in a recording; a part of `vad/`.

    A part's constructor takes its keyword-only settings.
    """

    sample_rate: int
    """Sampling rate of the blocks that it takes, Hz."""

    def find(self, blocks: Iterable[NDArray[np.float32]]) -> list[tuple[float, float]]:
        """Return (start, stop) in seconds of each span of speech, in the order of time.

        Args:
            blocks: samples (T,) in -1..1, consecutive, of any lengths: the recording is
                never held in memory as a whole. They are taken once.
        """
        ...


class Corpus(Protocol):
    """A corpus as it is distributed to a Kaldi directory.

    A part of `corpora/` is such a function.
    Its parameters are the arguments and flags of `speechssl prepare NAME`, and the
    `Args` section of its docstring explains them.
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
    """A trained model to files that other programs read.

    A part of `exporters/` is such a function.
    """

    def __call__(self, model: Any, out: Path) -> Callable[[Tensor], Tensor] | None:
        """Write a model into a folder.

        Args:
            model: a `speechssl.model.Model`, in evaluation mode.
            out: the folder, which exists.

        Returns:
            A function that loads what was written and embeds with it: samples (B, T) at
            the model's rate, equally long, to embeddings (B, D). `speechssl export`
            compares it with the model. None where its runtime is not installed.

        Raises:
            UserError: the format cannot express the model, or a library is missing.
        """
        ...


class TrackedRun(NamedTuple):
    """A training run as a tracker is told of it.

    Attributes:
        folder: of the run. A tracker that keeps files keeps them in a folder of its own in it.
        name: what people call the run.
        settings: its resolved configuration, of mappings, lists and scalars.
        about: version, commit, seed and data (`about.yaml`).
        step: steps that are done: 0, or those of the checkpoint that is resumed.
        id: what `Tracker.open` returned when this run was tracked before; None: the first time.
    """

    folder: Path
    name: str
    settings: dict[str, Any]
    about: dict[str, Any]
    step: int
    id: str | None


class Tracker:
    """Shows a training run in another program; a part of `trackers/`.

    A part's constructor takes its keyword-only settings. It raises UserError if a library is
    missing, and opens nothing. All other methods are called in the first process only, by a thread
    of their own and one after the other: `open`, then the others in the order of steps, then
    `close`. Whatever they raise ends the tracking with one line of warning, never the training.
    Names and ids are somebody else's: they are shown as text, never as markup.
    """

    REWINDS: ClassVar[bool] = False
    """Whether `open` hides what was tracked after `TrackedRun.step`. Steps that a tracker without it
    has seen already are not given to it again when a run is resumed from an older checkpoint."""

    sounds: int = 0
    """Number of crops of the first batch that `add_sounds` gets."""

    embeddings: int = 0
    """Number of utterances whose embeddings `add_embeddings` gets."""

    embeddings_every: int = 0
    """Optimiser steps between two sets of embeddings; 0: once, at the end."""

    def open(self, run: TrackedRun) -> str:
        """Begin or continue a tracked run.

        Returns:
            The name under which it is continued if the run is resumed: at most 200 letters, digits,
            and `._-`.
        """
        raise NotImplementedError

    def add_figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Add the figures of the log after `step` steps; some may be NaN or infinite."""
        raise NotImplementedError

    def add_alarm(self, step: int, text: str) -> None:
        """Add an alarm of the collapse monitor, one line."""

    def add_sounds(
        self, step: int, sounds: Sequence[NDArray[np.float32]], names: Sequence[str], rate: int
    ) -> None:
        """Add crops as the encoder hears them.

        Args:
            step: steps that are done.
            sounds: samples (T,) in -1..1 each.
            names: the utterance of each, and which of its crops.
            rate: sampling rate, Hz.
        """

    def add_embeddings(
        self, step: int, embeddings: NDArray[np.float32], names: Sequence[str]
    ) -> None:
        """Add embeddings of training utterances.

        Args:
            step: steps that are done.
            embeddings: (N, D).
            names: (N,) utterance ids.
        """

    def close(self, finished: bool) -> None:
        """End the tracked run; `finished` is False if the training stopped before its last step."""

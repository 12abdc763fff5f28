"""AAM-softmax on pseudo-labels: an encoder learns the clusters of an earlier one.

The second stage of Cho et al. 2022 and of the systems in recipes/README.md 5;
methods/README.md 17. Labels are the clusters of `data.pseudo_labels` (made by
`speechssl cluster`), never speakers. The loss is cross entropy over s cos(theta + m)
(``losses/margin.py``) with

* the margin rising linearly over the first share of the run,
* at first only the layers after pooling moving (hyperion trains 30 epochs like that,
  then everything),
* a gate on the loss: samples above it have, most likely, a wrong label. The loss that
  is compared is the one that is trained, margin included. The dynamic gate is fitted to
  every utterance's last loss once an epoch,
* correction of what the gate stops (DLG-LC), in one of two forms:

  - `soft`: where the mean prediction of an utterance's crops (without margin) is
    confident, that prediction, sharpened by 0.1, is the target, without margin. The
    loss is the mean over the samples that are kept or corrected.
  - `hard`, as released (wavlm_ssl_sv): raw logits, x . w of vectors that are not
    normalised, divided by 0.1; where their softmax is confident, its largest class is
    the target, with the labelled class's margin as it stands. Once correction has
    begun, the loss is the mean over the whole batch, stopped samples counting as 0. The
    released program predicts from an unaugmented crop: give a group of the crop plan
    `to: teacher`, without augmentation, which then is only predicted from. Without one
    the crops of the first group are averaged.

Large-margin fine-tuning is a second run: `train.init_method=RUN`, longer crops, margin
0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.distributed import gather_without_gradient, sum_over_ranks, world_size
from speechssl.errors import UserError
from speechssl.interfaces import Encoder, Method, Output, ParameterRule, Progress, Views
from speechssl.losses.margin import Beyond, aam_logits, centre_cosines, dynamic_gate
from speechssl.nn.encoding import encode
from speechssl.nn.precision import in_float32


class AAMSoftmax(Method):
    """Encoder and the centres of the pseudo-speakers.

    Args:
        encoder: the encoder to train.
        subcentres: of each class.
        scale: s, factor of the cosines.
        margin: m, in radians.
        margin_warmup: share of the run over which the margin rises from 0.
        intertop_k: how many of the nearest wrong classes are penalised, 0 for none (5
            in the paper).
        intertop_margin: angle, in radians, by which they are brought nearer (0.1 in the
            paper); it rises from 0 together with the margin, as in wespeaker and
            hyperion.
        beyond: the target's cosine where theta > pi - m, so that it goes on falling:
            ``arcface``: cos(theta) - m sin(m); ``wespeaker``: cos(theta) - (1 - cos(m));
            ``none``: cos(theta + m), which rises again there.
        centre_lr_scale: factor of the centres' learning rate. They begin anew in each run, where the
            encoder goes on from what it knows.
        affine_first: share of the run in which only centres and the layers after
            pooling move.
        gate: which samples count: all, those with a loss up to ``gate_loss``, or up to
            a fitted one.
        gate_loss: largest loss that counts where ``gate`` is fixed, in nats.
        gate_after: share of the run from which the gate holds.
        correct_after: share of the run from which stopped samples are corrected; 1:
            never.
        correction: the targets of corrected samples: the sharpened prediction (``soft``),
            or its class (``hard``).
        confidence: probability above which a prediction is a target.
        sharpening: temperature that a prediction is sharpened with before it is a
            target.

    Raises:
        UserError: a setting is out of its range, or ``affine_first`` is set and the
            encoder names no layers after pooling.
    """

    NEEDS_LABELS: ClassVar[bool] = True
    OWN_STATE: ClassVar[tuple[str, ...]] = ("labels", "losses", "gate", "fitted")
    RENAMED: ClassVar[dict[str, str]] = {"topk": "intertop_k", "penalty": "intertop_margin"}

    labels: Tensor
    """(N,) pseudo-label of each utterance."""

    losses: Tensor
    """(N,) last loss of each utterance, -1 before the first."""

    gate: Tensor
    """Largest loss of a sample that counts."""

    fitted: Tensor
    """Step at which the dynamic gate was fitted, -1 before the first time."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        subcentres: int = 1,
        scale: float = 30.0,
        margin: float = 0.2,
        margin_warmup: float = 0.1,
        intertop_k: int = 0,
        intertop_margin: float = 0.1,
        beyond: Beyond = "arcface",
        centre_lr_scale: float = 1.0,
        affine_first: float = 0.0,
        gate: Literal["none", "fixed", "dynamic"] = "none",
        gate_loss: float = 3.0,
        gate_after: float = 0.2,
        correct_after: float = 1.0,
        correction: Literal["soft", "hard"] = "soft",
        confidence: float = 0.5,
        sharpening: float = 0.1,
    ) -> None:
        super().__init__()
        _require("subcentres", subcentres, subcentres >= 1, "at least 1")
        _require("margin", margin, 0 <= margin < math.pi / 2, "between 0 and 1.57 radians")
        _require("intertop_k", intertop_k, intertop_k >= 0, "at least 0")
        _require("centre_lr_scale", centre_lr_scale, 0 < centre_lr_scale < math.inf, "above 0")
        _require("sharpening", sharpening, sharpening > 0, "above 0")
        for name, share in (
            ("margin_warmup", margin_warmup),
            ("affine_first", affine_first),
            ("gate_after", gate_after),
            ("correct_after", correct_after),
        ):
            _require(name, share, 0 <= share <= 1, "a share of the run, between 0 and 1")
        if affine_first and not encoder.affine_layers():
            raise UserError(
                "method.affine_first: this encoder does not name its layers after pooling; set 0"
            )
        self.net = encoder
        self.subcentres = subcentres
        self.scale = scale
        self.margin = margin
        self.margin_warmup = margin_warmup
        self.intertop_k = intertop_k
        self.intertop_margin = intertop_margin
        self.beyond: Beyond = beyond
        self.centre_lr_scale = centre_lr_scale
        self.affine_first = affine_first
        self.gate_kind = gate
        self.gate_loss = gate_loss
        self.gate_after = gate_after
        self.correct_after = correct_after
        self.correction = correction
        self.confidence = confidence
        self.sharpening = sharpening

    def prepare(self, utterances: int, labels: Tensor | None = None) -> None:
        """Make the centres, the table of labels, and the memory of losses.

        Raises:
            UserError: there are no labels, or only one class.
        """
        if labels is None:
            raise UserError(
                "data.pseudo_labels is not set, and method aam_softmax learns them; give the"
                " utt2cluster file of `speechssl cluster`"
            )
        classes = int(labels.max()) + 1
        if classes < 2:
            raise UserError(
                f"data.pseudo_labels: {classes} cluster; at least 2 are needed to tell apart"
            )
        centres = torch.empty(classes, self.subcentres, self.net.embedding_dim)
        self.centres = nn.Parameter(centres)
        # Xavier over the matrix of all centres, as a linear layer of that many classes would have
        nn.init.xavier_normal_(self.centres.view(-1, self.centres.shape[-1]))
        gate = self.gate_loss if self.gate_kind == "fixed" else math.inf
        self.register_buffer("labels", labels.clone())
        self.register_buffer("losses", torch.full((utterances,), -1.0))
        self.register_buffer("fitted", torch.full((), -1))
        self.register_buffer("gate", torch.tensor(gate))

    @property
    def encoder(self) -> Encoder:
        """The encoder that is trained."""
        return self.net

    def parameter_rules(self) -> list[ParameterRule]:
        """Return the rule of the centres, which may learn faster than the encoder."""
        if self.centre_lr_scale == 1:
            return []
        return [ParameterRule([self.centres], scale=self.centre_lr_scale)]

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """Return the mean loss of the samples that count, in all processes."""
        ids = views[0].ids
        if ids is None:
            raise UserError("method aam_softmax: it needs the utterances' ids; give Views ids")
        trained = _trained_groups(views)
        embeddings = torch.cat([encode(self.net, group) for group in trained])  # (V, B, D)
        num_views = len(embeddings)
        num_long = len(trained[0].features)
        margin = self._margin(progress)
        with in_float32(embeddings):
            labels = self.labels[ids].repeat(num_views)  # (V B,)
            rows = embeddings.float().flatten(0, 1)
            cosines = centre_cosines(rows, self.centres)
            logits = self._logits(cosines, labels, margin)
            losses = F.cross_entropy(logits, labels, reduction="none")
            if self.training and self.gate_kind == "dynamic":
                utterance_losses = losses.detach().view(num_views, -1).mean(0)
                self._remember(ids, utterance_losses, progress)
            kept = self._kept(losses, progress)
            corrected = torch.zeros_like(kept)
            counted = None
            if progress.fraction >= self.correct_after:
                seen = self._predicted_from(views, embeddings[:num_long])
                correction, confident = self._corrected_losses(seen, logits, cosines)
                corrected = ~kept & confident
                losses = torch.where(corrected, correction, losses)
                if self.correction == "hard":
                    counted = torch.ones_like(kept)
            loss = _mean_over_ranks(losses, kept | corrected, counted)
        is_right = cosines.detach().argmax(1) == labels
        scalars = self._scalars(kept, corrected, is_right, margin)
        return Output(loss, scalars, embeddings[:num_long].flatten(0, 1).detach(), embeddings)

    def _scalars(
        self, kept: Tensor, corrected: Tensor, is_right: Tensor, margin: float
    ) -> dict[str, Tensor]:
        """Return the figures of the log, each () on the device.

        Args:
            kept: (V B,) samples that the gate lets through.
            corrected: (V B,) those that are learnt with a predicted class.
            is_right: (V B,) whether the nearest centre is the labelled class's.
            margin: of this step.
        """
        scalars = {
            "kept": kept.float().mean(),
            "accuracy": is_right.float().mean(),
            "margin": is_right.new_full((), margin, dtype=torch.float32),
        }
        if self.gate_kind != "none":
            scalars["gate"] = self.gate.clamp(max=1e4).clone()
        if self.correct_after < 1:
            scalars["corrected"] = corrected.float().mean()
        return scalars

    def _corrected_losses(
        self, seen: Tensor, logits: Tensor, cosines: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of every crop with predictions as targets, and whether they are confident.

        Args:
            seen: (V', B, D) embeddings that are predicted from.
            logits: (V B, C), with the margin on the labelled class.
            cosines: (V B, C).

        Returns:
            Losses (V B,) and whether the utterance's prediction is confident (V B,).
        """
        if self.correction == "hard":
            targets, confident = self._hard_targets(seen)
            num_views = len(logits) // len(targets)
            losses = F.cross_entropy(logits, targets.repeat(num_views), reduction="none")
        else:
            targets, confident = self._soft_targets(seen)
            num_views = len(logits) // len(targets)
            repeated = targets.repeat(num_views, 1)
            losses = F.cross_entropy(self.scale * cosines, repeated, reduction="none")
        return losses, confident.repeat(num_views)

    def _logits(self, cosines: Tensor, labels: Tensor, margin: float) -> Tensor:
        """Return logits (V B, C) with the margin on the labelled class, and the penalty.

        The penalty has the share of its full size that the margin has.
        """
        penalty = self.intertop_margin
        if self.margin:
            penalty *= margin / self.margin
        return aam_logits(
            cosines, labels, self.scale, margin, self.intertop_k, penalty, self.beyond
        )

    def _margin(self, progress: Progress) -> float:
        """Return the margin, which rises linearly from 0 over ``margin_warmup`` of the run."""
        if progress.fraction >= self.margin_warmup:
            return self.margin
        return self.margin * (progress.fraction / self.margin_warmup)

    def _kept(self, losses: Tensor, progress: Progress) -> Tensor:
        """Return which samples (V B,) the gate lets through: all until ``gate_after``."""
        if progress.fraction < self.gate_after:
            return torch.ones_like(losses, dtype=torch.bool)
        return losses.detach() <= self.gate

    @torch.no_grad()
    def _predicted_from(self, views: Sequence[Views], long: Tensor) -> Tensor:
        """Return the embeddings (U, B, D) that classes are predicted from.

        Args:
            views: all groups; those `to: teacher` are taken if there are any.
            long: (U, B, D) embeddings of the first group, taken otherwise.
        """
        clean = [encode(self.net, group) for group in views if group.to == "teacher"]
        return torch.cat(clean).float() if clean else long.detach().float()

    @torch.no_grad()
    def _soft_targets(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return sharpened class probabilities (B, C), and which are confident, (B,) bool.

        Args:
            seen: (U, B, D) embeddings whose predictions, without margin, are averaged.
        """
        cosines = centre_cosines(seen.flatten(0, 1), self.centres).view(*seen.shape[:2], -1)
        mean = (self.scale * cosines).softmax(-1).mean(0)  # (B, C)
        sharpened = (mean.clamp(min=1e-30).log() / self.sharpening).softmax(-1)
        return sharpened, mean.amax(-1) > self.confidence

    @torch.no_grad()
    def _hard_targets(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return the most likely class (B,) of sharpened raw logits, and which are confident.

        Args:
            seen: (U, B, D) embeddings whose predictions are averaged.
        """
        raw = torch.einsum("ubd,csd->ubcs", seen, self.centres).amax(-1)
        mean = (raw / self.sharpening).softmax(-1).mean(0)  # (B, C)
        largest, targets = mean.max(-1)
        return targets, largest > self.confidence

    def _remember(self, ids: Tensor, losses: Tensor, progress: Progress) -> None:
        """Keep the last loss (B,) of each utterance (B,); once an epoch fit the gate to them."""
        all_ids = gather_without_gradient(ids[None])[0]
        self.losses[all_ids] = gather_without_gradient(losses[None])[0]
        ends_epoch = (progress.step + 1) % progress.steps_per_epoch == 0
        if ends_epoch and int(self.fitted) != progress.step:  # once, where batches are accumulated
            self.fitted.fill_(progress.step)
            self.gate.fill_(dynamic_gate(self.losses[self.losses >= 0]))

    def after_backward(self, progress: Progress) -> None:
        """Freeze what comes before pooling during the first ``affine_first`` of the run."""
        if progress.fraction >= self.affine_first:
            return
        trainable: set[nn.Parameter] = set()
        for layer in self.net.affine_layers().values():
            trainable.update(layer.parameters())
        for parameter in self.net.parameters():
            if parameter not in trainable:
                parameter.grad = None


def _require(name: str, value: float, holds: bool, range_: str) -> None:
    """Raise UserError unless a setting is in its range."""
    if not holds:
        raise UserError(f"method aam_softmax: {name} must be {range_}, not {value:g}")


def _trained_groups(views: Sequence[Views]) -> list[Views]:
    """Return the groups that are learnt from; those `to: teacher` are only predicted from.

    Raises:
        UserError: there is none.
    """
    trained = [group for group in views if group.to != "teacher"]
    if not trained:
        raise UserError(
            "method aam_softmax: every group of data.crops is `to: teacher`, which is only"
            " predicted from; leave `to` out of one"
        )
    return trained


def _mean_over_ranks(losses: Tensor, counts: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return this process's share of a mean of losses over all processes.

    Args:
        losses: (N,).
        counts: (N,) bool, which losses are summed.
        counted: (N,) bool, what the sum is divided by the number of; None: ``counts``.
    """
    number = (counts if counted is None else counted).sum()
    total = sum_over_ranks(number) / world_size()
    return (losses * counts).sum() / total.clamp(min=1e-6)


PART = AAMSoftmax

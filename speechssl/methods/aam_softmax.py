"""AAM-softmax on pseudo-labels: the second stage.

An encoder learns the clusters of an earlier one.

Cho et al. 2022 and the systems of recipes/README.md 5. Labels are the clusters of `data.pseudo_labels`
(made by `speechssl cluster`), never speakers. The loss is cross entropy over s cos(theta + m)
(``_aam.py``) with

* the margin rising linearly over the first share of the run,
* at first only the layers after pooling moving (hyperion trains 30 epochs like that, then everything),
* a gate on the loss: samples above it have, most likely, a wrong label. The loss that is compared is the one
  that is trained, margin included. The dynamic gate is fitted to every utterance's last loss once
  an epoch,
* correction of what the gate stops: where the mean prediction of an utterance's crops (without margin) is
  confident, its sharpened form is the target (DLG-LC: sharpened by 0.1, confidence above 0.5). The
  released program takes the prediction of an unaugmented crop; here it is that of all crops of the
  first group.

Large-margin fine-tuning is a second run: `train.init_method=RUN`, longer crops, margin 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.distributed import gather_without_gradient, sum_over_ranks, world_size
from speechssl.errors import UserError
from speechssl.interfaces import Encoder, Method, Output, Progress, Views
from speechssl.losses.margin import aam_logits, centre_cosines, dynamic_gate
from speechssl.nn.views import encode, in_float32


class AAMSoftmax(Method):
    """Encoder and the centres of the pseudo-speakers.

    Args:
        encoder: maps (B, F, M) to (B, D); ``affine_first`` asks for its ``affine_layers``.
        subcentres: of each class.
        scale, margin: s, and m in radians; margin_warmup: share of the run over which m rises from
            0.
        topk, penalty: of the inter-top-k penalty, 0 for none (0.1 and 5 are the paper's).
        affine_first: share of the run in which only centres and the layers after pooling move.
        gate: which samples count: all, those with a loss below ``gate_loss``, or below a fitted
            one.
        gate_loss: in nats.
        gate_after: share of the run from which the gate holds.
        correct_after: share of the run from which stopped samples are corrected; 1: never.
        confidence, sharpening: of corrected predictions.
    """

    NEEDS_LABELS = True
    OWN_STATE = ("labels", "losses", "gate", "fitted")

    def __init__(
        self,
        encoder: Encoder,
        *,
        subcentres: int = 1,
        scale: float = 30.0,
        margin: float = 0.2,
        margin_warmup: float = 0.1,
        topk: int = 0,
        penalty: float = 0.1,
        affine_first: float = 0.0,
        gate: Literal["none", "fixed", "dynamic"] = "none",
        gate_loss: float = 3.0,
        gate_after: float = 0.2,
        correct_after: float = 1.0,
        confidence: float = 0.5,
        sharpening: float = 0.1,
    ) -> None:
        super().__init__()
        if subcentres < 1 or not 0 <= margin < math.pi / 2 or topk < 0 or sharpening <= 0:
            raise UserError(
                f"method aam_softmax: subcentres={subcentres}, margin={margin:g}, topk={topk},"
                f" sharpening={sharpening:g}: give at least 1, 0 to 1.57 radians, at least 0, and"
                " above 0"
            )
        shares = (margin_warmup, affine_first, gate_after, correct_after)
        if not all(0 <= share <= 1 for share in shares):
            raise UserError(
                "method aam_softmax: margin_warmup, affine_first, gate_after and correct_after are"
                f" shares, 0 to 1, not {shares}"
            )
        if affine_first and not encoder.affine_layers():
            raise UserError(
                "method.affine_first: this encoder does not name its layers after pooling; set 0"
            )
        self.net = encoder
        self.subcentres, self.scale = subcentres, scale
        self.margin, self.margin_warmup = margin, margin_warmup
        self.topk, self.penalty, self.affine_first = topk, penalty, affine_first
        self.kind, self.gate_loss, self.gate_after = gate, gate_loss, gate_after
        self.correct_after, self.confidence, self.sharpening = correct_after, confidence, sharpening

    def prepare(self, utterances: int, labels: Tensor | None = None) -> None:
        """Make the centres, the table of labels, and the memory of losses."""
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
        self.centres = nn.Parameter(torch.empty(classes, self.subcentres, self.net.embedding_dim))
        nn.init.xavier_normal_(self.centres.view(-1, self.centres.shape[-1]))
        self.labels: Tensor
        self.losses: Tensor
        self.gate: Tensor
        self.register_buffer("labels", labels.clone())
        self.register_buffer("losses", torch.full((utterances,), -1.0))
        self.fitted: Tensor
        self.register_buffer("fitted", torch.full((), -1))
        self.register_buffer(
            "gate", torch.tensor(self.gate_loss if self.kind == "fixed" else math.inf)
        )

    @property
    def encoder(self) -> nn.Module:
        """The encoder that is trained."""
        return self.net

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """The mean over the samples that count, in all processes."""
        embeddings = torch.cat([encode(self.net, group) for group in views])  # (V, B, D)
        ids = views[0].ids
        if ids is None:
            raise UserError(
                "method aam_softmax: it has to know which utterances it sees; give Views ids"
            )
        count, batch = embeddings.shape[:2]
        with in_float32(embeddings):
            labels = self.labels[ids].repeat(count)
            cosines = centre_cosines(embeddings.float().flatten(0, 1), self.centres)
            losses = F.cross_entropy(
                self._logits(cosines, labels, progress), labels, reduction="none"
            )
            if self.training and self.kind == "dynamic":
                self._remember(ids, losses.detach().view(count, batch).mean(0), progress)
            kept = losses.detach() <= self.gate
            if progress.fraction < self.gate_after:
                kept = torch.ones_like(kept)
            corrected = torch.zeros_like(kept)
            if progress.fraction >= self.correct_after:
                with torch.no_grad():
                    target, sure = self._prediction(cosines, count, len(views[0].features))
                corrected = ~kept & sure
                other = F.cross_entropy(self.scale * cosines, target, reduction="none")
                losses = torch.where(corrected, other, losses)
            counts = kept | corrected
            total = sum_over_ranks(counts.sum()) / world_size()
            loss = (losses * counts).sum() / total.clamp(min=1e-6)
        scalars = {
            "kept": kept.float().mean(),
            "accuracy": (cosines.detach().argmax(1) == labels).float().mean(),
            "margin": torch.tensor(self._margin(progress), device=loss.device),
        }
        if self.kind != "none":
            scalars["gate"] = self.gate.clamp(max=1e4).clone()
        if self.correct_after < 1:
            scalars["corrected"] = corrected.float().mean()
        long = embeddings[: len(views[0].features)]
        return Output(loss, scalars, long.flatten(0, 1).detach(), embeddings)

    def _margin(self, progress: Progress) -> float:
        return self.margin * min(
            1.0, progress.fraction / self.margin_warmup if self.margin_warmup else 1.0
        )

    def _logits(self, cosines: Tensor, labels: Tensor, progress: Progress) -> Tensor:
        return aam_logits(
            cosines, labels, self.scale, self._margin(progress), self.topk, self.penalty
        )

    def _prediction(self, cosines: Tensor, count: int, long: int) -> tuple[Tensor, Tensor]:
        """Sharpened class probabilities (V B, C) of each utterance, and which are confident (V
        B,).
        """
        logits = (self.scale * cosines).view(count, -1, cosines.shape[1])[:long]
        mean = logits.softmax(-1).mean(0)  # (B, C)
        sharp = (mean.clamp(min=1e-30).log() / self.sharpening).softmax(-1)
        return sharp.repeat(count, 1), (mean.amax(-1) > self.confidence).repeat(count)

    def _remember(self, ids: Tensor, losses: Tensor, progress: Progress) -> None:
        """Keep the last loss of each utterance; once an epoch fit the gate to them."""
        everyone = gather_without_gradient(ids[None])[0]
        self.losses[everyone] = gather_without_gradient(losses[None])[0]
        ends_epoch = (progress.step + 1) % progress.steps_per_epoch == 0
        if ends_epoch and int(self.fitted) != progress.step:  # once, where batches are accumulated
            self.fitted.fill_(progress.step)
            self.gate.fill_(dynamic_gate(self.losses[self.losses >= 0]))

    def after_backward(self, progress: Progress) -> None:
        """Hold still what comes before pooling, at first."""
        if progress.fraction < self.affine_first:
            layers = self.net.affine_layers().values()
            moving = {p for layer in layers for p in layer.parameters()}
            for parameter in self.net.parameters():
                if parameter not in moving:
                    parameter.grad = None


PART = AAMSoftmax

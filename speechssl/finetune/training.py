"""One classifier: its linear layer, and the two steps that train it with an encoder."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.audio import reading
from speechssl.compat import choose_precision
from speechssl.data.manifest import Utterance
from speechssl.embed import Embedder
from speechssl.embed.batches import Failure
from speechssl.errors import UserError
from speechssl.finetune.settings import Settings
from speechssl.interfaces import Encoder
from speechssl.model import Model

STEPS = ("affine", "all")
_FEWEST = 20  # steps that train everything, however few labels there are


class Classifier(nn.Module):
    """An encoder with a linear layer on its embedding, standardised by `embeddings` (N, D) of
    training.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, encoder: Encoder, embeddings: Tensor, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("mean", embeddings.mean(0))
        self.register_buffer("scale", 1 / embeddings.std(0, correction=0).clamp(min=1e-5))
        self.output = nn.Linear(embeddings.shape[1], classes)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    @property
    def affine(self) -> list[nn.Module]:
        """The encoder's layers after pooling."""
        return list(self.encoder.affine_layers().values())

    def logits(self, embeddings: Tensor) -> Tensor:
        """(B, classes) of embeddings (B, D)."""
        return self.output((embeddings.float() - self.mean) * self.scale)

    def forward_pooled(self, pooled: Tensor) -> Tensor:
        """(B, classes) of what pooling gave (B, P)."""
        for layer in self.affine:
            pooled = layer(pooled)
        return self.logits(pooled)


def embed(embedder: Embedder, utterances: Sequence[Utterance]) -> tuple[list[Utterance], Tensor]:
    """The utterances that can be read, and what the embedder gives for each (N, P)."""
    found = {
        i: vector for i, _, vector in embedder.stream(utterances) if not isinstance(vector, Failure)
    }
    if not found:
        raise UserError(
            "finetune: no utterance has a label and can be read; are the ids those of the labels?"
        )
    order = sorted(found)
    return [utterances[i] for i in order], torch.from_numpy(np.stack([found[i] for i in order])).to(
        embedder.device
    )


class Trainer:
    """What every fold and fraction shares: the model, the utterances (N), `pooled` (N, P), `target`
    (N,).
    """

    def __init__(
        self,
        model: Model,
        utterances: Sequence[Utterance],
        pooled: Tensor,
        target: Tensor,
        how: Settings,
        device: str,
    ) -> None:
        self.model, self.utterances, self.pooled, self.target = model, utterances, pooled, target
        self.how, self.device = how, device
        self.classes = int(target.max()) + 1
        self.steps = STEPS if how.epochs else STEPS[:1]

    def run(
        self, train: NDArray[Any], test: NDArray[Any], seed: list[int]
    ) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Each step, and the classes that the classifier then predicts for `test` (T,)."""
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        rng = np.random.default_rng([*seed, 1])
        model = copy.deepcopy(self.model).to(self.pooled.device).eval()
        with torch.no_grad():
            embeddings = self.pooled[train]
            for layer in model.encoder.affine_layers().values():
                embeddings = layer(embeddings)
        classifier = (
            Classifier(model.encoder, embeddings, self.classes).to(self.pooled.device).eval()
        )
        counts = torch.bincount(self.target[train], minlength=self.classes).clamp(min=1)
        weight = (
            len(train) / (self.classes * counts) if self.how.class_weight == "balanced" else None
        )

        def loss(logits: Tensor, rows: NDArray[Any]) -> Tensor:
            return F.cross_entropy(logits, self.target[rows], weight)

        self._affine(classifier, train, loss, rng)
        with torch.no_grad():
            yield "affine", classifier.forward_pooled(self.pooled[test]).argmax(1).cpu().numpy()
        if self.how.epochs:
            self._all(classifier, model, train, loss, rng)
            embedder = Embedder(model, self.device)
            _, vectors = embed(embedder, [self.utterances[row] for row in test])
            with torch.no_grad():
                yield "all", classifier.logits(vectors).argmax(1).cpu().numpy()

    def _affine(
        self, classifier: Classifier, train: NDArray[Any], loss: Any, rng: np.random.Generator
    ) -> None:
        layers = [*classifier.affine, classifier.output]
        parameters = [parameter for layer in layers for parameter in layer.parameters()]
        steps = self.how.affine_steps
        for move in _optimised(parameters, self.how.affine_lr, steps, self.how):
            batch = train[rng.permutation(len(train))[: self.how.batch_size]]
            move(loss(classifier.forward_pooled(self.pooled[batch]), batch))

    def _all(
        self,
        classifier: Classifier,
        model: Model,
        train: NDArray[Any],
        loss: Any,
        rng: np.random.Generator,
    ) -> None:
        precision = choose_precision(self.how.precision, str(self.device))
        steps = max(_FEWEST, self.how.epochs * -(-len(train) // self.how.batch_size))
        batches = list(_epochs(train, self.how.batch_size, steps, rng))
        step = _optimised(list(classifier.parameters()), self.how.lr, steps, self.how)
        for batch, waves, lengths in self._crops(batches, model.rate, rng):
            features, frames = model.features(waves, lengths)
            with torch.autocast(waves.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                embeddings = model.encoder(features, frames)
            next(step)(loss(classifier.logits(embeddings), batch))

    def _crops(
        self, batches: Sequence[NDArray[Any]], rate: int, rng: np.random.Generator
    ) -> Iterator[tuple[NDArray[Any], Tensor, Tensor]]:
        """Rows, waves (B, T) and lengths (B,) of each batch: one random crop an utterance."""
        with ThreadPoolExecutor(2) as pool:
            for rows in batches:
                crops = [
                    _crop(self.utterances[row], self.how.seconds, float(rng.random()))
                    for row in rows
                ]
                read = list(
                    pool.map(lambda crop: reading.read(crop[0], rate, crop[1], crop[2]), crops)
                )
                waves = torch.zeros(len(read), max(map(len, read)))
                for row, wave in zip(waves, read, strict=True):
                    row[: len(wave)] = torch.from_numpy(wave)
                lengths = torch.tensor([len(wave) for wave in read])
                yield rows, waves.to(self.pooled.device), lengths.to(self.pooled.device)


def _crop(utterance: Utterance, seconds: float, place: float) -> tuple[str, float, float | None]:
    """File, start and stop of at most `seconds` of an utterance; `place` 0 to 1 says where."""
    spare = utterance.seconds - seconds
    if spare <= 0:
        return utterance.path, utterance.start, utterance.stop
    start = utterance.start + place * spare
    return utterance.path, start, start + seconds


def _epochs(
    train: NDArray[Any], size: int, steps: int, rng: np.random.Generator
) -> Iterator[NDArray[Any]]:
    """`steps` batches; every utterance comes once before any comes twice."""
    while steps > 0:
        order = rng.permutation(train)
        for start in range(0, len(order), size):
            if steps:
                yield order[start : start + size]
                steps -= 1


def _optimised(
    parameters: list[nn.Parameter], lr: float, steps: int, how: Settings
) -> Iterator[Callable[[Tensor], None]]:
    """For each of `steps`, a function that takes the loss and moves the parameters."""
    optimizer = torch.optim.AdamW(parameters, lr, weight_decay=how.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def step(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, how.clip)
        optimizer.step()
        schedule.step()

    for _ in range(steps):
        yield step

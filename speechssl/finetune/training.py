"""The two stages that train a classifier with an encoder: the affine layers, then everything."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.compat import choose_precision
from speechssl.data.manifest import Utterance
from speechssl.embed import Embedder
from speechssl.embed.gather import gather
from speechssl.errors import UserError
from speechssl.finetune.classifier import Classifier, apply_affine_layers
from speechssl.finetune.crops import epoch_batches, random_crop, read_crops
from speechssl.finetune.settings import FinetuneSettings
from speechssl.model import Model
from speechssl.pools import ThreadPool

STEPS = ("affine", "all")
_MIN_STEPS = 20  # optimiser steps that train everything, however few labels there are
_READERS = 2  # threads that read crops


def embed(embedder: Embedder, utterances: Sequence[Utterance]) -> tuple[list[Utterance], Tensor]:
    """Embed utterances; those that cannot be read are left out.

    Returns:
        The utterances that are left, N, and their vectors (N, P) on the embedder's
        device.

    Raises:
        UserError: none is left.
    """
    readable, vectors, _ = gather(embedder, utterances)
    if not readable:
        raise UserError(
            "finetune: no utterance has a label and can be read; are the ids those of the labels?"
        )
    return readable, torch.from_numpy(vectors).to(embedder.device)


class Trainer:
    """Trains a classifier for each fold and fraction, on what these share.

    Args:
        model: where each classifier starts from; it is copied.
        utterances: N of them, of training and test.
        pooled: (N, P) their pooled statistics.
        target: (N,) int64, their classes.
        settings: of training.
        device: for embedding, such as ``cpu``.
    """

    def __init__(
        self,
        model: Model,
        utterances: Sequence[Utterance],
        pooled: Tensor,
        target: Tensor,
        settings: FinetuneSettings,
        device: str,
    ) -> None:
        self.model = model
        self.utterances = utterances
        self.pooled = pooled
        self.target = target
        self.settings = settings
        self.device = device
        self.classes = int(target.max()) + 1
        self.steps = STEPS if settings.epochs else STEPS[:1]

    def run(
        self, train: NDArray[Any], test: NDArray[Any], seed: list[int]
    ) -> dict[str, NDArray[np.int64]]:
        """Train a classifier and predict with it.

        Args:
            train: rows of the utterances to train on.
            test: rows (T,) of those to predict.
            seed: of everything random.

        Returns:
            The classes (T,) that are predicted after each of ``steps``.
        """
        model, classifier, weight, rng = self._start(train, seed)
        predicted = {}
        self.train_affine(classifier, train, weight, rng)
        with torch.no_grad():
            logits = classifier.forward_pooled(self.pooled[test])
        predicted["affine"] = logits.argmax(1).cpu().numpy()
        if self.settings.epochs:
            self.train_all(classifier, model, train, weight, rng)
            _, vectors = embed(Embedder(model, self.device), [self.utterances[i] for i in test])
            with torch.no_grad():
                logits = classifier.logits(vectors)
            predicted["all"] = logits.argmax(1).cpu().numpy()
        return predicted

    def fit(self, train: NDArray[Any], seed: list[int]) -> tuple[Model, Classifier]:
        """Train a classifier, to keep it.

        Args:
            train: rows of the utterances to train on.
            seed: of everything random.

        Returns:
            The model, whose encoder was fine-tuned, and the classifier on it.
        """
        model, classifier, weight, rng = self._start(train, seed)
        self.train_affine(classifier, train, weight, rng)
        if self.settings.epochs:
            self.train_all(classifier, model, train, weight, rng)
        return model, classifier

    def _start(
        self, train: NDArray[Any], seed: list[int]
    ) -> tuple[Model, Classifier, Tensor | None, np.random.Generator]:
        """Return a copy of the model, a new classifier, the class weights and what draws batches."""
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        rng = np.random.default_rng([*seed, 1])
        model = copy.deepcopy(self.model).to(self.pooled.device).eval()
        with torch.no_grad():
            embeddings = apply_affine_layers(model.encoder, self.pooled[train])
        classifier = Classifier(model.encoder, embeddings, self.classes)
        classifier.to(self.pooled.device).eval()
        weight = self._class_weights(train)
        return model, classifier, weight, rng

    def _class_weights(self, train: NDArray[Any]) -> Tensor | None:
        """Return the weight (C,) of each class in the loss, or None if all utterances count alike."""
        if self.settings.class_weight == "none":
            return None
        counts = torch.bincount(self.target[train], minlength=self.classes).clamp(min=1)
        return len(train) / (self.classes * counts)

    def train_affine(
        self,
        classifier: Classifier,
        train: NDArray[Any],
        weight: Tensor | None,
        rng: np.random.Generator,
    ) -> None:
        """Train the linear layer and the encoder's layers after pooling, on pooled statistics.

        Args:
            classifier: changed in place.
            train: rows to train on.
            weight: (C,) of the classes in the loss.
            rng: draws the batches.
        """
        settings = self.settings
        parameters = classifier.affine_parameters()
        optimizer = torch.optim.AdamW(
            parameters, settings.affine_lr, weight_decay=settings.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.affine_steps)
        for _ in range(settings.affine_steps):
            rows = train[rng.permutation(len(train))[: settings.batch_size]]
            logits = classifier.forward_pooled(self.pooled[rows])
            loss = F.cross_entropy(logits, self.target[rows], weight)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, settings.clip)
            optimizer.step()
            scheduler.step()

    def train_all(
        self,
        classifier: Classifier,
        model: Model,
        train: NDArray[Any],
        weight: Tensor | None,
        rng: np.random.Generator,
    ) -> None:
        """Train linear layer and encoder on random crops; BatchNorm keeps its statistics.

        Args:
            classifier: changed in place, with its encoder.
            model: whose encoder it is.
            train: rows to train on.
            weight: (C,) of the classes in the loss.
            rng: draws the batches, then the crops.
        """
        settings = self.settings
        device = self.pooled.device
        use_bfloat16 = choose_precision(settings.precision, str(self.device)) == "bfloat16"
        steps = settings.epochs * math.ceil(len(train) / settings.batch_size)
        steps = max(_MIN_STEPS, steps)
        batches = list(epoch_batches(train, settings.batch_size, steps, rng))
        parameters = list(classifier.parameters())
        optimizer = torch.optim.AdamW(parameters, settings.lr, weight_decay=settings.weight_decay)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        with ThreadPool(_READERS) as readers:
            for rows in batches:
                crops = [random_crop(self.utterances[i], settings.seconds, rng) for i in rows]
                waves, lengths = read_crops(crops, model.sample_rate, readers)
                features, frames = model.features(waves.to(device), lengths.to(device))
                with torch.autocast(device.type, torch.bfloat16, enabled=use_bfloat16):
                    embeddings = model.encoder(features, frames)
                loss = F.cross_entropy(classifier.logits(embeddings), self.target[rows], weight)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(parameters, settings.clip)
                optimizer.step()
                scheduler.step()

"""Fine-tuning on a labelled task: the last affine layers first, then everything, with the folds of the probe.

The two steps are those of Cho et al. 2022 (JSTSP, arXiv 2208.05445), who found them better than all at once.
In each fold a linear classifier on the standardised embedding is trained with AdamW and a cosine schedule:

1. `affine`: the classifier and the encoder's layers after pooling (`AFFINE`). What lies before does not move,
   so its statistics are computed once, for whole utterances, and a step costs next to nothing;
2. `all`: everything, on random crops. BatchNorm keeps the statistics that it has: a few hundred utterances of
   a few speakers would spoil them.

Both steps are repeated for each share of the training labels (at least one utterance a class, drawn by the
seed), which gives the label-efficient curve. The number of steps is fixed beforehand: nothing is chosen on
the test folds. Labels are used, and the results say so.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl import audio
from speechssl.data.manifest import Utterance
from speechssl.embed import Embedder
from speechssl.embed._batches import Failure
from speechssl.embed.layers import POOLED
from speechssl.errors import UserError
from speechssl.evaluation._folds import Table, tabulate
from speechssl.evaluation.classification import Classification, summarise
from speechssl.model import Model

STEPS = ("affine", "all")
_FEWEST = 20  # steps that train everything, however few labels there are


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a classifier is trained.

    Attributes:
        affine_steps, affine_lr: batches and first learning rate of the first step.
        epochs, lr: of the second step; 0 epochs leave it out.
        batch_size: utterances in a batch. seconds: length of the crops; shorter utterances are whole.
        weight_decay: AdamW's. clip: largest norm of the gradient.
        class_weight: whether the loss counts classes alike, or as often as they occur.
        precision: of the encoder's products in the second step.
        seed: of labels drawn, order and crops.
    """

    affine_steps: int = 300
    affine_lr: float = 1e-3
    epochs: int = 5
    lr: float = 2e-4
    batch_size: int = 32
    seconds: float = 3.0
    weight_decay: float = 0.01
    clip: float = 3.0
    class_weight: Literal["balanced", "none"] = "balanced"
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0


class Classifier(nn.Module):
    """An encoder with a linear layer on its embedding, standardised by `embeddings` (N, D) of training."""

    mean: Tensor
    scale: Tensor

    def __init__(self, encoder: nn.Module, embeddings: Tensor, classes: int) -> None:
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
        return [getattr(self.encoder, name) for name in self.encoder.AFFINE]  # type: ignore[union-attr]

    def logits(self, embeddings: Tensor) -> Tensor:
        """(B, classes) of embeddings (B, D)."""
        return self.output((embeddings.float() - self.mean) * self.scale)

    def forward_pooled(self, pooled: Tensor) -> Tensor:
        """(B, classes) of what pooling gave (B, P)."""
        for layer in self.affine:
            pooled = layer(pooled)
        return self.logits(pooled)


def finetune(
    model: Model,
    utterances: Sequence[Utterance],
    labels: Mapping[str, str],
    groups: Mapping[str, str],
    *,
    folds: int | Mapping[str, str] = 5,
    test_folds: Sequence[str] = (),
    fractions: Sequence[float] = (0.01, 0.05, 0.1, 1.0),
    settings: Settings | None = None,
    device: str = "cpu",
    replicates: int = 1000,
    say: Callable[[str], None] = lambda _line: None,
    name: str | None = None,
) -> Classification:
    """Fine-tune a copy of ``model`` in each fold and predict what is held out.

    Args:
        model: where to start from; it is left as it is.
        utterances: of training and test.
        labels, groups, folds, test_folds, replicates: as for `evaluation.classification.evaluate`.
        fractions: shares of the training labels, 0 to 1; the largest one gives the main figures.
        settings: of training.
        device: cpu, cuda ...
        say: takes a line after each fold.
        name: of the model, written into the results.

    Returns:
        As the probe; ``results["curve"]`` has a row for each fraction and step: ``fraction``, ``labels``
        (mean over folds), ``step`` and the figures.

    Raises:
        UserError: no label, folds that share a group, an encoder without affine layers, a bad fraction.
    """
    how = settings or Settings()
    if not fractions or not all(0 < share <= 1 for share in fractions):
        raise UserError(
            f"finetune: fractions {list(fractions)}; give shares of the labels above 0 and up to 1"
        )
    if not getattr(model.encoder, "AFFINE", ()):
        raise UserError("finetune: this encoder names no layers after pooling (AFFINE); use ecapa or resnet")
    wanted = [utterance for utterance in utterances if utterance.id in labels]
    embedder = Embedder(copy.deepcopy(model), device, layer=POOLED)
    kept, pooled = _pooled(embedder, wanted)
    table = tabulate([u.id for u in kept], labels, groups, folds=folds, test_folds=test_folds, seed=how.seed)  # type: ignore[arg-type]
    classes, target = np.unique(table.truth, return_inverse=True)
    task = _Task(model, kept, pooled, torch.from_numpy(target).to(pooled.device), how, device)
    curve: list[dict[str, Any]] = []
    for share in sorted(set(fractions)):
        said = {step: np.zeros(len(kept), int) for step in STEPS}
        drawn: list[int] = []
        for number, (fold, train, test) in enumerate(table.splits()):
            chosen = draw(np.flatnonzero(train), target, share, [how.seed, number])
            drawn.append(len(chosen))
            for step, predicted in task.run(chosen, np.flatnonzero(test), [how.seed, number]):
                said[step][test] = predicted
            right = ", ".join(f"{s} {(said[s][test] == target[test]).mean():.3f}" for s in task.steps)
            say(f"{share:.0%} of labels, {fold}: {len(chosen)} trained on; accuracy {right}")
        for step in task.steps:
            run = _figures(table, classes[said[step]], how, replicates, name)
            keys = [
                k for k in run.results if k.partition("_f1")[0] in ("micro", "macro") or k.startswith("uar")
            ]
            row = {"fraction": share, "labels": float(np.mean(drawn)), "step": step}
            curve.append(row | {key: run.results[key] for key in keys})
    run.results["curve"] = curve
    run.results["unreadable"] = len(wanted) - len(kept)
    return run


def draw(rows: NDArray[Any], target: NDArray[Any], share: float, seed: Sequence[int]) -> NDArray[Any]:
    """A share of `rows` of each class, at least one, drawn by the seed; a larger share holds the smaller."""
    rng = np.random.default_rng(list(seed))
    chosen = []
    for value in np.unique(target[rows]):
        members = rng.permutation(rows[target[rows] == value])
        chosen.append(members[: max(1, round(share * len(members)))])
    return np.sort(np.concatenate(chosen))


def _pooled(embedder: Embedder, utterances: Sequence[Utterance]) -> tuple[list[Utterance], Tensor]:
    """The utterances that can be read, and what pooling gives for each (N, P)."""
    found = {i: vector for i, _, vector in embedder.stream(utterances) if not isinstance(vector, Failure)}
    if not found:
        raise UserError(
            "finetune: no utterance has a label and can be read; are the ids those of the labels?"
        )
    order = sorted(found)
    return [utterances[i] for i in order], torch.from_numpy(np.stack([found[i] for i in order])).to(
        embedder.device
    )


def _figures(
    table: Table, predicted: NDArray[np.str_], how: Settings, replicates: int, name: str | None
) -> Classification:
    about = {
        "classifier": "fine-tuned: the last affine layers, then everything",
        "balanced": how.class_weight == "balanced",
        "settings": asdict(how),
        "labels_used": ["fine-tuning"],
    }
    return summarise(table, predicted, about, replicates=replicates, seed=how.seed, model=name)


class _Task:
    """What every fold and fraction shares: the model, the utterances (N), `pooled` (N, P), `target` (N,)."""

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
            for name in model.encoder.AFFINE:  # type: ignore[union-attr]
                embeddings = getattr(model.encoder, name)(embeddings)
        classifier = Classifier(model.encoder, embeddings, self.classes).to(self.pooled.device).eval()
        counts = torch.bincount(self.target[train], minlength=self.classes).clamp(min=1)
        weight = len(train) / (self.classes * counts) if self.how.class_weight == "balanced" else None

        def loss(logits: Tensor, rows: NDArray[Any]) -> Tensor:
            return F.cross_entropy(logits, self.target[rows], weight)

        self._affine(classifier, train, loss, rng)
        with torch.no_grad():
            yield "affine", classifier.forward_pooled(self.pooled[test]).argmax(1).cpu().numpy()
        if self.how.epochs:
            self._all(classifier, model, train, loss, rng)
            embedder = Embedder(model, self.device)
            _, vectors = _pooled(embedder, [self.utterances[row] for row in test])
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
        self, classifier: Classifier, model: Model, train: NDArray[Any], loss: Any, rng: np.random.Generator
    ) -> None:
        steps = max(_FEWEST, self.how.epochs * -(-len(train) // self.how.batch_size))
        batches = list(_epochs(train, self.how.batch_size, steps, rng))
        step = _optimised(list(classifier.parameters()), self.how.lr, steps, self.how)
        for batch, waves, lengths in self._crops(batches, model.rate, rng):
            features, frames = model.features(waves, lengths)
            with torch.autocast(waves.device.type, torch.bfloat16, enabled=self.how.precision == "bfloat16"):
                embeddings = model.encoder(features, frames)
            next(step)(loss(classifier.logits(embeddings), batch))

    def _crops(
        self, batches: Sequence[NDArray[Any]], rate: int, rng: np.random.Generator
    ) -> Iterator[tuple[NDArray[Any], Tensor, Tensor]]:
        """Rows, waves (B, T) and lengths (B,) of each batch: one random crop an utterance."""
        with ThreadPoolExecutor(2) as pool:
            for rows in batches:
                crops = [_crop(self.utterances[row], self.how.seconds, float(rng.random())) for row in rows]
                read = list(pool.map(lambda crop: audio.read(crop[0], rate, crop[1], crop[2]), crops))
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


def _epochs(train: NDArray[Any], size: int, steps: int, rng: np.random.Generator) -> Iterator[NDArray[Any]]:
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

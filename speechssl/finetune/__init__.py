"""Fine-tuning on a labelled task: the last affine layers first, then everything, with the folds of
the probe.

The two steps are those of Cho et al. 2022 (JSTSP, arXiv 2208.05445), who found them better than all
at once. In each fold a linear classifier on the standardised embedding is trained with AdamW and a
cosine schedule:

1. `affine`: the classifier and the encoder's layers after pooling. What lies before does not move,
   so its statistics are computed once, for whole utterances, and a step costs next to nothing;
2. `all`: everything, on random crops. BatchNorm keeps the statistics that it has: a few hundred utterances of
   a few speakers would spoil them.

Both steps are repeated for each share of the training labels (at least one utterance a class, drawn
by the seed), which gives the label-efficient curve. The number of steps is fixed beforehand:
nothing is chosen on the test folds. Labels are used, and the results say so.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from speechssl.data.manifest import Utterance
from speechssl.embed import Embedder
from speechssl.embed.layers import POOLED
from speechssl.errors import UserError
from speechssl.evaluation.classification.classify import Classification, summarise
from speechssl.evaluation.classification.folds import Table, tabulate
from speechssl.finetune.settings import Settings
from speechssl.finetune.training import STEPS, Classifier, Trainer, embed
from speechssl.model import Model

__all__ = ["Classifier", "Settings", "draw", "finetune"]


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
        As the probe; ``results["curve"]`` has a row for each fraction and step: ``fraction``,
        ``labels`` (mean over folds), ``step`` and the figures.

    Raises:
        UserError: no label, folds that share a group, an encoder without affine layers, a bad
            fraction.
    """
    how = settings or Settings()
    if not fractions or not all(0 < share <= 1 for share in fractions):
        raise UserError(
            f"finetune: fractions {list(fractions)}; give shares of the labels above 0 and up to 1"
        )
    if not model.encoder.affine_layers():
        raise UserError("finetune: this encoder names no layers after pooling; use ecapa or resnet")
    wanted = [utterance for utterance in utterances if utterance.id in labels]
    embedder = Embedder(copy.deepcopy(model), device, layer=POOLED)
    kept, pooled = embed(embedder, wanted)
    ids = np.array([utterance.id for utterance in kept])
    table = tabulate(ids, labels, groups, folds=folds, test_folds=test_folds, seed=how.seed)
    classes, target = np.unique(table.truth, return_inverse=True)
    task = Trainer(model, kept, pooled, torch.from_numpy(target).to(pooled.device), how, device)
    curve: list[dict[str, Any]] = []
    for share in sorted(set(fractions)):
        said = {step: np.zeros(len(kept), int) for step in STEPS}
        drawn: list[int] = []
        for number, (fold, train, test) in enumerate(table.splits()):
            chosen = draw(np.flatnonzero(train), target, share, [how.seed, number])
            drawn.append(len(chosen))
            for step, predicted in task.run(chosen, np.flatnonzero(test), [how.seed, number]):
                said[step][test] = predicted
            right = ", ".join(
                f"{s} {(said[s][test] == target[test]).mean():.3f}" for s in task.steps
            )
            say(f"{share:.0%} of labels, {fold}: {len(chosen)} trained on; accuracy {right}")
        for step in task.steps:
            run = _figures(table, classes[said[step]], how, replicates, name)
            keys = [
                k
                for k in run.results
                if k.partition("_f1")[0] in ("micro", "macro") or k.startswith("uar")
            ]
            row = {"fraction": share, "labels": float(np.mean(drawn)), "step": step}
            curve.append(row | {key: run.results[key] for key in keys})
    run.results["curve"] = curve
    run.results["unreadable"] = len(wanted) - len(kept)
    return run


def draw(
    rows: NDArray[Any], target: NDArray[Any], share: float, seed: Sequence[int]
) -> NDArray[Any]:
    """A share of `rows` of each class, at least one, drawn by the seed; a larger share holds the
    smaller.
    """
    rng = np.random.default_rng(list(seed))
    chosen = []
    for value in np.unique(target[rows]):
        members = rng.permutation(rows[target[rows] == value])
        chosen.append(members[: max(1, round(share * len(members)))])
    return np.sort(np.concatenate(chosen))


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

"""Our side of each comparison, set to what the other program does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from egs.bench.peers._corpus import Corpus
from egs.bench.peers._programs import SAMPLE_RATE
from egs.bench.peers._setup import HEAD, LONG_CROPS, SHORT_CROPS, Crops
from speechssl import conf, distributed
from speechssl.data.crops import Batch
from speechssl.data.manifest import Utterance
from speechssl.interfaces import Views
from speechssl.train.data import read_utterances
from speechssl.train.logs import Clock
from speechssl.train.loop import take_step
from speechssl.train.run import Run
from speechssl.train.settings import TrainingConfig, resolve


def settings_for(
    peer: Any, batch_size: int, precision: str = "float32", corpus: Corpus | None = None
) -> TrainingConfig:
    """Return `speechssl/conf/dino.yaml` with a program's crops, ECAPA-512 and the common head.

    Args:
        peer: the program's adapter; its crops, head and shares of noise and rooms are taken.
        batch_size: utterances of a step.
        precision: of the encoder.
        corpus: what is trained on; None: nothing is read.
    """
    crops = peer.crops
    words = [
        f"data.crops=[{{count: {LONG_CROPS}, seconds: {crops.long}}},"
        f" {{count: {SHORT_CROPS}, seconds: {crops.short}}}]",
        "data.workers=0",
        "encoder.width=512",
        f"method.hidden={HEAD.hidden}",
        f"method.bottleneck={HEAD.bottleneck}",
        f"method.prototypes={HEAD.prototypes}",
        "method.freeze_last_layer=0",
        "train.epochs=null",
        "train.steps=100000",
        f"train.batch_size={batch_size}",
        f"train.precision={precision}",
    ]
    if hasattr(peer, "regularised"):
        words += [f"method.regularised={peer.regularised}"]
        words += ["method.regulariser_start=0.05", "method.regulariser_end=0.2"]
    if corpus is not None:
        words += [f"data.train=[{corpus.data}]", f"augment.noise={corpus.noise}"]
        words += [f"augment.rir={corpus.rooms}", f"augment.exclusive={peer.exclusive}".lower()]
        words += [f"augment.noise_prob={peer.noise_share}", f"augment.rir_prob={peer.room_share}"]
    return resolve(str(conf.locate("dino")), words)


class Trainer:
    """The step of `speechssl train`, on batches of one's own or those of its loader.

    Args:
        peer: the program that it is compared with.
        batch_size: utterances of a step.
        precision: of the encoder.
        corpus: what the loader reads; None: there is no loader.
    """

    def __init__(
        self, peer: Any, batch_size: int, precision: str = "float32", corpus: Corpus | None = None
    ) -> None:
        config = settings_for(peer, batch_size, precision, corpus)
        if corpus is None:
            utterances: Sequence[Utterance] = _unread(batch_size)
        else:
            utterances, _ = read_utterances(config.data)
        self.run = Run(config, distributed.start("cpu"), utterances)
        self._make_views = self.run.views
        self._crops: Crops = peer.crops
        self._batch_size = batch_size

    def batch(self) -> Any:
        """Return a batch of noise: waveforms, or features where the other's loader gives these."""
        rows = torch.arange(self._batch_size)
        if self._crops.features:
            shapes = zip((LONG_CROPS, SHORT_CROPS), self._crops.frames, strict=True)
            groups = [torch.randn(count, self._batch_size, frames, 80) for count, frames in shapes]
        else:
            lengths = zip(
                (LONG_CROPS, SHORT_CROPS), (self._crops.long, self._crops.short), strict=True
            )
            groups = [
                0.1 * torch.randn(count, self._batch_size, int(seconds * SAMPLE_RATE))
                for count, seconds in lengths
            ]
        return Batch(0, groups, rows)

    def take(self, batches: Iterable[Batch], *, features: bool | None = None) -> None:
        """Take a step on each batch.

        Args:
            batches: of waveforms or features.
            features: whether they hold features; None: as the other program's loader gives them.
        """
        holds_features = self._crops.features if features is None else features
        self.run.views = _as_they_are if holds_features else self._make_views  # type: ignore
        tracking: Any = SimpleNamespace(sounds=0)
        waiting = iter(batches)
        clock = Clock(self._batch_size)
        while True:
            try:
                take_step(self.run, self.run.parallel(), waiting, clock, tracking)
            except StopIteration:
                return

    def load(self, steps: int, *, features: bool) -> Iterable[Any]:
        """Yield what the loader makes of the corpus: waveforms, or features of them."""
        for number, batch in enumerate(self.run.loader(self.run.step, self.run.step + steps, 0)):
            if features:
                self._make_views(batch, number)
            yield batch


def _as_they_are(batch: Batch, index: int) -> list[Views]:
    """Return a batch that holds features already."""
    return [Views(features, "both", batch.indices) for features in batch.groups]


def _unread(count: int) -> list[Utterance]:
    return [Utterance(f"u{i}", f"/none/{i}.wav", seconds=10.0) for i in range(count)]


def extractor(paths: Sequence[Path], precision: Any) -> Any:
    """Return a function that embeds files by `Embedder`."""
    from speechssl.embed.embedder import Embedder
    from speechssl.model import Model

    model = Model({}, {"name": "ecapa", "width": 512, "embedding_dim": 192})
    embedder = Embedder(model, "cpu", precision, readers=1)
    return lambda: embedder.embed_files(paths)

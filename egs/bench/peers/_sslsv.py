"""Runs sslsv: its DINO, trainer, data set, extraction and scoring."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from egs.bench.peers._corpus import Corpus
from egs.bench.peers._programs import SAMPLE_RATE, Undistributed, quiet, stand_in
from egs.bench.peers._setup import HEAD, Crops

LONG = 3 * SAMPLE_RATE


class Peer:
    """sslsv, from a clone.

    Its DINO gives the local crops half the samples of the global ones, whatever the data set cut.
    """

    crops = Crops(long=3.0, short=1.5, features=False)
    exclusive = True
    noise_share = 0.5
    room_share = 0.5

    def __init__(self, folder: Path) -> None:
        stand_in("wandb")
        stand_in("tensorboard")
        from sslsv.encoders import ECAPATDNN
        from sslsv.methods.DINO import DINO

        self._encoder = ECAPATDNN
        self._dino = DINO

    def _method(self) -> Any:
        config = self._encoder.ECAPATDNNConfig(encoder_dim=192, mel_n_mels=80)
        method = self._dino.DINOConfig(
            head_hidden_dim=HEAD.hidden,
            head_bottleneck_dim=HEAD.bottleneck,
            head_output_dim=HEAD.prototypes,
            freeze_last_layer=0,
        )
        with quiet():
            return self._dino.DINO(method, lambda: self._encoder.ECAPATDNN(config))

    def encoder(self) -> tuple[torch.nn.Module, torch.Tensor]:
        """Return its encoder, and an input of one crop of 3 s."""
        config = self._encoder.ECAPATDNNConfig(encoder_dim=192, mel_n_mels=80)
        return self._encoder.ECAPATDNN(config), torch.randn(1, LONG)

    def trainer(self, batch_size: int) -> Trainer:
        """Return its trainer."""
        return Trainer(self._method(), batch_size)

    def loader(self, corpus: Corpus, batch_size: int) -> Any:
        """Return its loader of a corpus, in this process."""
        from sslsv.datasets import DataAugmentation, Dataset, SSLDataset

        config = Dataset.DatasetConfig(
            ssl=True,
            frame_sampling=Dataset.FrameSamplingEnum.DINO,
            ssl_dino_global_length=LONG,
            ssl_dino_local_length=2 * SAMPLE_RATE,
            frame_length=LONG,
            augmentation=DataAugmentation.DataAugmentationConfig(
                strategy=DataAugmentation.DataAugmentationStrategyEnum.EITHER, aug_prob=1.0
            ),
            base_path=corpus.folder,
        )
        files = [str(path) for path in corpus.voices]
        data = SSLDataset.SSLDataset(config, files, labels=[0] * len(files))
        return torch.utils.data.DataLoader(data, batch_size, shuffle=True, drop_last=True)

    def extractor(self, paths: Sequence[Path]) -> Any:
        """Return a function that embeds files, one at a time, as its evaluation of whole files."""
        from sslsv.evaluations import CosineSVEvaluation

        method = self._method().eval()
        data = SimpleNamespace(base_path=Path("/"), num_workers=0, pin_memory=False)
        task = CosineSVEvaluation.CosineSVEvaluationTaskConfig(frame_length=None)
        evaluation = CosineSVEvaluation.CosineSVEvaluation(
            method, SimpleNamespace(dataset=data), task, torch.device("cpu")
        )
        files = [str(path) for path in paths]
        return lambda: evaluation._extract_embeddings(files)

    def scorer(self, trials: Any, cohort: np.ndarray | None) -> Any:
        """Return a function from trials to its EER and minDCF, with or without AS-norm."""
        from sslsv.evaluations import CosineSVEvaluation as cosine

        norm = cosine.ScoreNormEnum.NONE if cohort is None else cosine.ScoreNormEnum.ASNORM
        task = cosine.CosineSVEvaluationTaskConfig(score_norm=norm)
        data = SimpleNamespace(base_path=trials.folder)
        scoring = cosine.CosineSVEvaluation(
            None, SimpleNamespace(dataset=data), task, torch.device("cpu")
        )

        def score() -> dict[str, float]:
            rows = torch.nn.functional.normalize(torch.from_numpy(trials.embeddings))[:, None]
            vectors = dict(zip(trials.names, rows, strict=True))
            scoring.enrol_embeddings = vectors
            scoring.test_embeddings = vectors
            if cohort is not None:
                others = torch.nn.functional.normalize(torch.from_numpy(cohort))[:, None]
                scoring.train_embeddings = {str(i): row for i, row in enumerate(others)}
                scoring.enrol_mean, scoring.enrol_std = scoring._compute_norm_stats(vectors)
                scoring.test_mean, scoring.test_std = scoring._compute_norm_stats(vectors)
            figures = scoring._evaluate_trials("trials.voxceleb")
            return {name.split("/")[-1]: value for name, value in figures.items()}

        return score


class Trainer:
    """sslsv's `Trainer`, of which only the loop over steps is run."""

    def __init__(self, method: Any, batch_size: int) -> None:
        from sslsv.trainer import Trainer as trainers
        from sslsv.trainer.EpochLogger import EpochLogger

        settings = trainers.TrainerConfig(
            optimizer=trainers.OptimizerEnum.SGD, batch_size=batch_size, weight_decay=5e-5
        )
        config = SimpleNamespace(trainer=settings)
        model = Undistributed(method).train()
        self._trainer = trainers.Trainer(model, [], config, None, torch.device("cpu"))
        self._trainer._init_optimizer()
        self._trainer.epoch = 0
        method.trainer = self._trainer
        method.on_train_epoch_start(0, settings.epochs)
        self._logger = EpochLogger
        self._batch_size = batch_size

    def batch(self) -> Any:
        """Return a batch as its loader gives it: (B, 6, T) waveforms."""
        waves = 0.1 * torch.randn(self._batch_size, 6, LONG)
        rows = torch.arange(self._batch_size)
        return rows, waves, {"labels": torch.zeros_like(rows)}

    def take(self, batches: Any) -> None:
        """Take a step on each batch, by its own loop."""
        self._trainer.train_dataloader = batches
        with quiet():
            self._trainer._train_step_loop(self._logger())

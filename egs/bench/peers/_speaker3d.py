"""Runs 3D-Speaker: its RDINO (DINO with a regulariser), training loop, data set, extraction, scoring."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch

from egs.bench.peers._corpus import Corpus, write_vectors
from egs.bench.peers._programs import on_the_cpu, one_process_group, quiet, read_by_soundfile
from egs.bench.peers._setup import HEAD, LONG_CROPS, SHORT_CROPS, Crops

LONG_FRAMES = 400
_MANY = 100_000


class Peer:
    """3D-Speaker, from a clone.

    Its crops are 4 s and 2 s: with 3 s its mel transform gives 301 frames, which its loop halves into
    150 and 151 and cannot join.
    """

    crops = Crops(long=4.0, short=2.0, features=True, frames=(LONG_FRAMES, LONG_FRAMES // 2))
    exclusive = False
    noise_share = 0.71
    room_share = 0.46
    regularised = 8192

    def __init__(self, folder: Path) -> None:
        one_process_group()
        read_by_soundfile()
        if not hasattr(np, "float"):
            np.float = float
        self._ecapa = importlib.import_module("speakerlab.models.rdino.ECAPA_TDNN").ECAPA_TDNN

    def encoder(self) -> tuple[torch.nn.Module, torch.Tensor]:
        """Return its encoder, and an input of one crop of 4 s."""
        net = self._ecapa(80, lin_neurons=192, channels=[512, 512, 512, 512, 1536])
        return net, torch.rand(1, 80, LONG_FRAMES) + 0.1

    def trainer(self, batch_size: int) -> Trainer:
        """Return its training loop."""
        return Trainer(lambda: self.encoder()[0], batch_size)

    def loader(self, corpus: Corpus, batch_size: int) -> Any:
        """Return its loader of a corpus, in this process."""
        from speakerlab.dataset.dataset_rdino import RDINODataset

        listed = corpus.folder / "3dspeaker.scp"
        listed.write_text("".join(f"{voice.stem} {voice}\n" for voice in corpus.voices))
        with _inside(corpus.folder):  # it reads data/rirs/rir.npy from there
            data = RDINODataset(
                str(listed), str(corpus.folder / "noise.scp"), "", LONG_FRAMES, 80, LONG_CROPS,
                SHORT_CROPS,
            )  # fmt: skip
        return torch.utils.data.DataLoader(data, batch_size, shuffle=True, drop_last=True)

    def extractor(self, paths: Sequence[Path]) -> Any:
        """Return a function that embeds files, one at a time, as its `bin/extract_ssl.py`."""
        import torchaudio

        net = self.encoder()[0].eval()
        mel = torchaudio.transforms.MelSpectrogram(
            sample_rate=16000, n_fft=512, win_length=400, hop_length=160, f_max=8000, n_mels=80
        )

        def extract() -> list[np.ndarray]:
            vectors = []
            with torch.no_grad():
                for path in paths:
                    wave, _ = torchaudio.load(str(path))  # noqa: TID251 (as the program)
                    vectors.append(net(mel(wave)).numpy()[0])
            return vectors

        return extract

    def scorer(self, trials: Any, cohort: np.ndarray | None) -> Any:
        """Return a function from trials to its EER and minDCF; it has no AS-norm."""
        if cohort is not None:
            return None
        from speakerlab.bin import compute_score_metrics

        vectors = trials.folder / "3dspeaker"
        vectors.mkdir(exist_ok=True)
        write_vectors(vectors / "x.ark", trials.names, trials.embeddings)
        words = ["", "--enrol_data", str(vectors), "--test_data", str(vectors)]
        words += ["--scores_dir", str(vectors), "--trials", str(trials.folder / "trials.kaldi")]

        def score() -> dict[str, float]:
            with mock.patch.object(sys, "argv", words), quiet():
                compute_score_metrics.main()
            lines = (vectors / "result.metrics").read_text().splitlines()
            figures = [float(line.rsplit("=", 1)[1]) for line in lines if "=" in line]
            return {"eer": figures[-2], "mindcf": figures[-1]}

        return score


class Trainer:
    """3D-Speaker's `train_one_epoch` around its RDINO networks.

    Attributes:
        detect_anomaly: whether autograd looks at every gradient, as its loop asks it to.
    """

    def __init__(self, encoder: Any, batch_size: int) -> None:
        from speakerlab.loss.dino_loss import DINOLoss, RegLoss
        from speakerlab.models.rdino.combiner import Combiner
        from speakerlab.models.rdino.RDINO_Head import RDINOHead
        from speakerlab.utils import utils_rdino

        with mock.patch.object(sys, "argv", [""]):
            from speakerlab.bin.train_rdino import train_one_epoch

        def network() -> torch.nn.Module:
            head = RDINOHead(
                192,
                HEAD.prototypes,
                use_bn=True,
                hidden_dim=HEAD.hidden,
                bottleneck_dim=HEAD.bottleneck,
                add_dim=Peer.regularised,
            )
            return Combiner(encoder(), head)

        with quiet():
            self._student = network()
            self._teacher = network()
        self._teacher.load_state_dict(self._student.state_dict())
        self._teacher.requires_grad_(False)
        crops = LONG_CROPS + SHORT_CROPS
        self._loss = DINOLoss(HEAD.prototypes, crops, 0.04, 0.04, 10, 70)
        self._regulariser = RegLoss(HEAD.prototypes, 10.0, 1.0, batch_size)
        groups = utils_rdino.get_params_groups(self._student)
        self._optimizer = torch.optim.SGD(groups, lr=0, momentum=0.9)
        # The average over processes asks for a GPU.
        utils_rdino.SmoothedValue.synchronize_between_processes = lambda value: None
        self._config = SimpleNamespace(
            epochs=70,
            glb_num=LONG_CROPS,
            max_frames=LONG_FRAMES,
            lambd=0.2,
            clip_grad=3.0,
            freeze_last_layer=0,
        )
        self._train_one_epoch = train_one_epoch
        self._batch_size = batch_size
        self.detect_anomaly = False

    def batch(self) -> Any:
        """Return a batch as its loader gives it: (B, 4, 80, 400), two short crops in each of the last."""
        return torch.rand(self._batch_size, LONG_CROPS + SHORT_CROPS // 2, 80, LONG_FRAMES) + 0.1

    def take(self, batches: Any) -> None:
        """Take a step on each batch, by its own loop."""
        with on_the_cpu(), quiet(), self._anomaly():
            self._train_one_epoch(
                self._student,
                self._teacher,
                self._loss,
                self._regulariser,
                batches,
                self._optimizer,
                np.full(_MANY, 1e-3),
                np.full(_MANY, 5e-5),
                np.full(_MANY, 0.996),
                0,
                self._config,
            )

    def _anomaly(self) -> contextlib.AbstractContextManager[Any]:
        if self.detect_anomaly:
            return contextlib.nullcontext()
        nothing = mock.MagicMock()
        return mock.patch.object(torch.autograd, "set_detect_anomaly", nothing)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)

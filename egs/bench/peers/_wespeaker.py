"""Runs wespeaker: its DINO, training loop, data pipeline, extraction and scoring."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from egs.bench.peers._corpus import Corpus, write_vectors
from egs.bench.peers._programs import (
    Undistributed,
    one_process_group,
    quiet,
    read_by_soundfile,
    stand_in,
    without_init,
)
from egs.bench.peers._setup import HEAD, LONG_CROPS, SHORT_CROPS, Crops

LONG_FRAMES = 298
SHORT_FRAMES = 198
_MANY = 100_000


class Peer:
    """wespeaker, from a clone."""

    crops = Crops(long=3.0, short=2.0, features=True, frames=(LONG_FRAMES, SHORT_FRAMES))
    exclusive = True
    noise_share = 0.5
    room_share = 0.5

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        without_init("wespeaker", folder)
        stand_in("visdom")  # torchnet imports it for plots
        one_process_group()
        read_by_soundfile()
        from wespeaker.models.ecapa_tdnn import ECAPA_TDNN_GLOB_c512

        self._ecapa = ECAPA_TDNN_GLOB_c512

    def encoder(self) -> tuple[torch.nn.Module, torch.Tensor]:
        """Return its encoder, and an input of one crop of 3 s."""
        net = self._ecapa(feat_dim=80, embed_dim=192, pooling_func="ASTP", emb_bn=True)
        return net, torch.randn(1, LONG_FRAMES, 80)

    def trainer(self, batch_size: int) -> Trainer:
        """Return its training loop."""
        return Trainer(self.encoder()[0], batch_size)

    def loader(self, corpus: Corpus, batch_size: int) -> Any:
        """Return its loader of a corpus, in this process."""
        from wespeaker.ssl.dataset.dataset import SSLDataset, dino_collate_fn

        for kind in ("noise", "rooms"):
            self._write_lmdb(corpus.folder, kind)
        settings = {
            "shuffle": True,
            "shuffle_args": {"shuffle_size": batch_size},  # 2500 would all be read before the first
            "resample_rate": 16000,
            "speed_perturb": False,
            "chunk_info_args": {
                "global_chunk_len": 300,
                "global_chunk_num": LONG_CROPS,
                "local_chunk_len": 200,
                "local_chunk_num": SHORT_CROPS,
            },
            "aug_prob": 1.0,
            "fbank_args": _fbank(dither=1.0),
            "spec_aug": False,
        }
        data = SSLDataset(
            "raw",
            _write_list(corpus.folder / "wespeaker.list", corpus.voices),
            settings,
            None,
            reverb_lmdb_file=str(corpus.folder / "rooms.lmdb"),
            noise_lmdb_file=str(corpus.folder / "noise.lmdb"),
        )
        return torch.utils.data.DataLoader(data, batch_size, collate_fn=dino_collate_fn)

    def _write_lmdb(self, folder: Path, kind: str) -> None:
        """Write a database of audio by the program's own tool."""
        if (folder / f"{kind}.lmdb").exists():
            return
        import lmdb  # noqa: F401 (named here if it is missing)

        tool = str(self.folder / "tools" / "make_lmdb.py")
        words = [str(folder / f"{kind}.scp"), str(folder / f"{kind}.lmdb")]
        subprocess.run([sys.executable, tool, *words], check=True, capture_output=True)

    def extractor(self, paths: Sequence[Path]) -> Any:
        """Return a function that embeds files, one at a time, as its `bin/extract.py`."""
        from wespeaker.dataset.dataset import Dataset
        from wespeaker.dataset.dataset_utils import apply_cmvn

        net = self.encoder()[0].eval()
        folder = paths[0].parent
        listed = _write_list(folder / "wespeaker.list", paths)
        settings = {
            "speed_perturb": False,
            "fbank_args": _fbank(dither=0.0),
            "spec_aug": False,
            "shuffle": False,
            "aug_prob": 0.0,
            "filter": False,
        }

        def extract() -> list[np.ndarray]:
            data = Dataset(
                "raw", listed, settings, spk2id_dict={}, whole_utt=True, repeat_dataset=False
            )
            vectors = []
            with torch.no_grad():
                for batch in torch.utils.data.DataLoader(data, batch_size=1):
                    outputs = net(apply_cmvn(batch["feat"].float()))
                    vectors.append(outputs[-1].numpy()[0])
            return vectors

        return extract

    def scorer(self, trials: Any, cohort: np.ndarray | None) -> Any:
        """Return a function from trials to its EER and minDCF, with or without AS-norm."""
        from wespeaker.bin import compute_metrics, score, score_norm

        folder = trials.folder
        write_vectors(folder / "eval.ark", trials.names, trials.embeddings)
        if cohort is not None:
            names = [str(row) for row in range(len(cohort))]
            write_vectors(folder / "cohort.ark", names, cohort)

        def scored() -> dict[str, float]:
            score.trials_cosine_score(
                str(folder / "eval.scp"), str(folder), None, [str(folder / "trials.kaldi")]
            )
            scores = folder / "trials.kaldi.score"
            if cohort is not None:
                normed = folder / "trials.normed.score"
                score_norm.main(
                    "asnorm", 300, str(scores), str(normed), str(folder / "cohort.scp"),
                    str(folder / "eval.scp"),
                )  # fmt: skip
                scores = normed
            return _metrics_of(compute_metrics, scores)

        return scored


class Trainer:
    """wespeaker's `run_epoch` around its `DINO`."""

    def __init__(self, encoder: torch.nn.Module, batch_size: int) -> None:
        from wespeaker.ssl.models.dino_wrapper import DINO
        from wespeaker.ssl.utils.dino_executor import run_epoch
        from wespeaker.ssl.utils.dino_utils import get_params_groups

        head = {"in_dim": 192, "out_dim": HEAD.prototypes, "use_bn": True}
        head |= {"hidden_dim": HEAD.hidden, "bottleneck_dim": HEAD.bottleneck}
        loss = {"out_dim": HEAD.prototypes, "nepochs": 150, "n_tcrops": LONG_CROPS}
        loss |= {"n_scrops": LONG_CROPS + SHORT_CROPS}
        loss |= {"warmup_teacher_temp": 0.04, "teacher_temp": 0.07}
        with quiet():
            self._model = Undistributed(DINO(encoder, head, loss, sync_bn=False))
        self._optimizer = torch.optim.SGD(get_params_groups(self._model), lr=0, momentum=0.9)
        self._run_epoch = run_epoch
        self._batch_size = batch_size

    def batch(self) -> Any:
        """Return a batch as its loader gives it: (B, V, F, 80) features."""
        return {
            "local_chunks": torch.randn(self._batch_size, SHORT_CROPS, SHORT_FRAMES, 80),
            "global_chunks": torch.randn(self._batch_size, LONG_CROPS, LONG_FRAMES, 80),
        }

    def take(self, batches: Sequence[Any]) -> None:
        """Take a step on each batch, by its own loop."""
        logger = logging.getLogger("wespeaker")
        logger.setLevel(logging.ERROR)
        with quiet():
            self._run_epoch(
                batches,
                len(batches),
                self._model,
                self._optimizer,
                np.full(_MANY, 1e-3),
                np.full(_MANY, 5e-5),
                np.full(_MANY, 0.996),
                1,
                logger,
                torch.amp.GradScaler("cpu", enabled=False),
                enable_amp=False,
                clip_grad=3.0,
                freeze_last_layer=0,
                device=torch.device("cpu"),
            )


def _fbank(dither: float) -> dict[str, Any]:
    return {"num_mel_bins": 80, "frame_shift": 10, "frame_length": 25, "dither": dither}


def _write_list(path: Path, voices: Sequence[Path]) -> str:
    """Write the program's list of recordings: a line of JSON each."""
    lines = [json.dumps({"key": v.stem, "wav": str(v), "spk": v.stem}) for v in voices]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def _metrics_of(compute_metrics: Any, scores: Path) -> dict[str, float]:
    """Return EER and minDCF that the program prints for a file of scores."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        compute_metrics.compute_metrics(str(scores))
    figures = [line.rsplit("=", 1)[1] for line in text.getvalue().splitlines() if "=" in line]
    return {"eer": float(figures[0]), "mindcf": float(figures[1])}

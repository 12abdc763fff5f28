"""The steps of a round, each of which does nothing where its result is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speechssl import conf, config, metrics
from speechssl.data.kaldi import read_mapping
from speechssl.data.trials import read_trials
from speechssl.embed import embed_to_file
from speechssl.errors import UserError, writing
from speechssl.evaluation import clusters
from speechssl.evaluation.verification import verify
from speechssl.model import Model
from speechssl.pseudolabel.settings import PseudoLabelSettings, sections
from speechssl.train.loop import train

_NEEDS = {
    "round-*/embeddings.npz": ("start", "data", "precision"),
    "round-*/heldout.npz": ("heldout",),
    "round-*/clusters/utt2cluster": ("clusterer", "pca", "smallest", "largest", "share"),
    "round-*/train/config.yaml": ("train", "overrides", "init"),
}
"""Results, and the settings that they were made with: those may not change once there is one."""


class Rounds:
    """The rounds in ``out``, as far as they have come."""

    def __init__(self, settings: PseudoLabelSettings, out: Path, device: str) -> None:
        self.settings, self.out, self.device = settings, out, device
        self.clusterer, self.clusterer_settings = clusters.build(settings.clusterer)
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        written = out / "config.yaml"
        mine = {key: getattr(settings, key) for key in PseudoLabelSettings.__dataclass_fields__}
        was = config.read(written) if written.exists() else {}
        for key in [key for made, keys in _NEEDS.items() if any(out.glob(made)) for key in keys]:
            if was and was.get(key) != mine[key]:
                raise UserError(
                    f"pseudolabel: {key} was {was.get(key)!r} in {out} and is {mine[key]!r} now; go"
                    " on with the same settings or give another --out"
                )
        config.write(mine, out / ".config.yaml.tmp")
        os.replace(out / ".config.yaml.tmp", written)

    def folder(self, number: int) -> Path:
        """Of a round."""
        return self.out / f"round-{number}"

    def say(self, number: int, text: str) -> None:
        """A line on standard error."""
        print(f"[round {number}] {text}", file=sys.stderr, flush=True)

    def judge(self, number: int, model: str) -> dict[str, Any]:
        """Embed the data with a round's model, cluster, and say how good it looks."""
        folder = self.folder(number)
        folder.mkdir(exist_ok=True)
        self.embed(number, model, self.settings.data, "embeddings.npz")
        found = folder / "clusters"
        if not (found / "utt2cluster").exists():
            self.say(number, f"cluster {folder / 'embeddings.npz'}")
            s = self.settings
            ids, labels, figures = clusters.cluster(
                folder / "embeddings.npz",
                self.clusterer,
                pca=s.pca,
                smallest=s.smallest,
                largest=s.largest,
                share=s.share,
            )
            clusters.write(found, ids, labels, {"clusterer": self.clusterer_settings, **figures})
        figures = json.loads((found / "clusters.json").read_text(encoding="utf-8"))
        result = {"round": number, "model": model, "clusters": figures}
        if number:
            result["agreement"] = _agreement(self.folder(number - 1), folder)
        if self.settings.heldout:
            result["heldout_eer"] = self.heldout(number, model)
        shown = {
            "kept": figures["kept"],
            "clusters": figures["clusters"],
            "silhouette": figures["silhouette"],
        }
        shown |= {key: result[key] for key in ("agreement", "heldout_eer") if key in result}
        self.say(
            number,
            "  ".join(f"{k} {v:.4g}" if v is not None else f"{k} -" for k, v in shown.items()),
        )
        return result

    def keep(self, folder: Path, used: Sequence[str]) -> None:
        """Save the chosen model into OUT/model, with the labels that chose it."""
        model = Model.load(folder)
        before = model.about.get("labels_used", "not known")
        model.about["labels_used"] = (
            "; ".join([*([] if before == "none" else [before]), *used]) or "none"
        )
        model.save(self.out / "model")

    def embed(self, number: int, model: str, data: Sequence[str], name: str) -> None:
        """Embed Kaldi directories into the round's folder."""
        target = self.folder(number) / name
        if target.exists():
            return
        self.say(number, f"embed {' '.join(data)} with {model}")
        s = self.settings
        embed_to_file(
            model,
            data,
            target,
            device=self.device,
            precision=s.precision,
            jobs=s.processes,
            readers=s.readers,
            resume=True,
        )

    def heldout(self, number: int, model: str) -> float:
        """EER (percent) on the held-out trials, the mean of the training embeddings subtracted."""
        directory = Path(str(self.settings.heldout))
        self.embed(number, model, [str(directory)], "heldout.npz")
        folder = self.folder(number)
        measured = verify.evaluate(
            folder / "heldout.npz",
            read_trials(directory / "trials"),
            mean=folder / "embeddings.npz",
            replicates=0,
        )
        return float(measured["eer"])

    def train_round(self, number: int) -> Path:
        """Train on the clusters of the round before; the model's folder."""
        run, s = self.folder(number) / "train", self.settings
        start = {"start": s.start, "previous": s.start, "random": None}[s.init]
        if s.init == "previous" and number > 1:
            start = str(self.folder(number - 1) / "train" / "model")
        options = []
        if start is not None:
            model = Model.load(start)
            options = [f"train.init={json.dumps(start)}", *sections(model)]
        return self.train(s.train, number, run, [*(s.overrides or ()), *options])

    def large_margin(self, number: int) -> Path:
        """Go on from the chosen round's run, on the same clusters; resumes a run that is there."""
        before = self.folder(number) / "train"
        options = [
            f"train.init_method={json.dumps(str(before))}",
            *sections(Model.load(before / "model")),
        ]
        more = [*(self.settings.large_margin_overrides or ()), *options]
        return self.train(
            str(self.settings.large_margin), number, self.folder(number) / "large-margin", more
        )

    def train(self, path: str, number: int, run: Path, options: Sequence[str]) -> Path:
        """Train on the clusters of the round before, unless that has been done."""
        labels = self.folder(number - 1) / "clusters" / "utt2cluster"
        if (
            run.name != "train" or not (run / "model" / "config.yaml").exists()
        ):  # the last file of a model
            self.say(number, f"train {path} into {run}")
            where = [
                f"data.train={json.dumps(list(self.settings.data))}",
                f"data.pseudo_labels={json.dumps(str(labels))}",
            ]
            self._run(path, [*options, *where], run)
        return run / "model"

    def _run(self, path: str, overrides: Sequence[str], run: Path) -> None:
        count = self.settings.processes
        if count == 1:
            train(str(conf.locate(path)), overrides, out=run, resume=True, device=self.device)
            return
        torchrun = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={count}",
        ]
        words = [path, *overrides, "--out", str(run), "--resume", "--device", self.device]
        if subprocess.run([*torchrun, "-m", "speechssl", "train", *words]).returncode:
            raise UserError(
                f"pseudolabel: training of {run} ended early; its message is above. Then run again"
            )


def _agreement(before: Path, after: Path) -> float:
    """NMI of two rounds' clusters, over the utterances that both keep."""
    one, two = (read_mapping(folder / "clusters" / "utt2cluster") for folder in (before, after))
    both = sorted(one.keys() & two.keys())
    codes = [np.unique([m[name] for name in both], return_inverse=True)[1] for m in (one, two)]
    return float(metrics.nmi(*codes))

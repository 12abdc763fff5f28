"""Iterative pseudo-labelling: embed -> cluster -> filter -> train on the clusters, and again.

The second half of Cho et al. 2022 (4.38 to 1.89 % EER) and of the systems in RECIPES.md 5. No label is read:
the classes of every round are clusters of the embeddings of the model before it. Rounds end after a number of
them, by a label-free criterion, or by a held-out trial list, which the results then name; the trials that a
result is reported on are never looked at.

    OUT/config.yaml, pseudolabel.json      settings; what came of each round
    OUT/round-0/embeddings.npz, clusters/  of the model to start from
    OUT/round-1/train/                     the run on round 0's clusters; embeddings and clusters of its model
    OUT/round-1/large-margin/              if asked for, of the round that was chosen
    OUT/model/                             the chosen model

What is there is not made again, so a run that was killed goes on where it was.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from speechssl import config, metrics
from speechssl.data.kaldi import read_mapping
from speechssl.data.trials import read_trials
from speechssl.embed import embed_to_file
from speechssl.errors import UserError
from speechssl.evaluation import clusters, verification
from speechssl.model import Model
from speechssl.train.loop import train
from speechssl.train.settings import resolve


@dataclass(frozen=True, kw_only=True)
class PseudoLabelSettings:
    """What ``speechssl pseudolabel CONFIG`` reads.

    Attributes:
        start: model folder, of self-supervised training.
        data: Kaldi directories to cluster and to train on; no label file is opened.
        train: YAML file of the training on pseudo-labels (``method: aam_softmax``); overrides: settings over
            it. This program sets data.train, data.pseudo_labels and train.init.
        large_margin: YAML file of a last stage that goes on from the chosen round's run, and settings over
            it (large_margin_overrides).
        rounds: at most so many; 0: only embed and cluster with the start.
        init: what each round's encoder starts from: the model of the start, of the round before, or random
            weights (then encoder and features are those of ``train``, otherwise those of ``start``).
        clusterer: name and settings (`speechssl list clustering`).
        pca, smallest, largest, share: what comes before and after it (`speechssl cluster`).
        stop: ``never`` before the rounds are over; ``agreement``: when NMI between the clusters of two rounds
            reaches ``agreement``; ``silhouette``: when it no longer rises, and the round before is chosen;
            ``eer``: the same with the EER on ``heldout``, a Kaldi directory with trials that are not tested.
        precision, readers: of embedding.
        processes: that embed and train together, each with a GPU of its own where there are GPUs.
    """

    start: str
    data: list[str]
    train: str
    clusterer: dict[str, Any]
    overrides: list[str] | None = None
    rounds: int = 2
    init: Literal["start", "previous", "random"] = "start"
    pca: float = 0.0
    smallest: int = 1
    largest: int = 0
    share: float = 1.0
    stop: Literal["never", "agreement", "silhouette", "eer"] = "never"
    agreement: float = 0.98
    heldout: str | None = None
    large_margin: str | None = None
    large_margin_overrides: list[str] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    readers: int = 2
    processes: int = 1


def pseudolabel(
    config_path: str, overrides: Sequence[str] = (), *, out: str | Path, device: str = "auto"
) -> dict[str, Any]:
    """Run the rounds, going on from what ``out`` holds; returns what ``pseudolabel.json`` says.

    Raises:
        UserError: whatever a user can mend.
    """
    settings = _settings(config_path, overrides)
    loop = _Loop(settings, Path(out), device)
    rounds = [loop.judge(0, settings.start)]
    why = "rounds"
    for number in range(1, settings.rounds + 1):
        rounds.append(loop.judge(number, str(loop.train_round(number))))
        if _is_enough(settings, rounds):
            why = settings.stop
            break
    chosen = _best(settings, rounds)
    model = Path(rounds[chosen]["model"])
    if settings.large_margin and chosen:
        model = loop.large_margin(chosen)
    elif settings.large_margin:
        loop.say(0, "large margin left out: it goes on from a round's run, and the start was the best")
    used = [f"held-out trials ({settings.heldout})"] if settings.stop == "eer" else []
    loop.keep(model, used)
    results = {
        "rounds": rounds,
        "chosen": chosen,
        "stopped_by": why,
        "large_margin": bool(settings.large_margin and chosen),
        "model": str(loop.out / "model"),
        "labels_used": used,
    }
    (loop.out / "pseudolabel.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return results


def _settings(path: str, overrides: Sequence[str]) -> PseudoLabelSettings:
    values = config.check(PseudoLabelSettings, config.read(path, overrides), "pseudolabel")
    settings = PseudoLabelSettings(**values)
    if settings.rounds < 0 or settings.processes < 1 or not settings.data:
        raise UserError(
            f"pseudolabel: rounds={settings.rounds}, processes={settings.processes}, data={settings.data}:"
            " give 0 or more, 1 or more, and a directory"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("pseudolabel: it starts its own processes; set processes=N and leave torchrun out")
    if settings.stop == "eer" and not settings.heldout:
        raise UserError("pseudolabel: stop=eer needs heldout=DIR, a Kaldi directory with trials of its own")
    if settings.heldout:
        read_trials(Path(settings.heldout) / "trials")
    start = _sections(Model.load(settings.start))  # what later stages need is looked at now
    for file, more in (
        (settings.train, settings.overrides),
        (settings.large_margin, settings.large_margin_overrides),
    ):
        if file:
            resolve(file, [*(more or ()), *start, "data.train=[later]"])
    return settings


def _is_enough(settings: PseudoLabelSettings, rounds: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last round says that another would not help."""
    last, before = rounds[-1], rounds[-2]
    if settings.stop == "agreement":
        return bool(last["agreement"] >= settings.agreement)
    if settings.stop == "silhouette":
        return _silhouette(last) <= _silhouette(before)
    return settings.stop == "eer" and bool(last["heldout_eer"] >= before["heldout_eer"])


def _best(settings: PseudoLabelSettings, rounds: Sequence[Mapping[str, Any]]) -> int:
    """The round whose model is taken: the best by the criterion (the start too), the last without one."""
    if settings.stop == "silhouette":
        return int(np.argmax([_silhouette(r) for r in rounds]))
    if settings.stop == "eer":
        return int(np.argmin([r["heldout_eer"] for r in rounds]))
    return len(rounds) - 1


def _silhouette(result: Mapping[str, Any]) -> float:
    """Of a round; the worst there is where it is not defined (one cluster)."""
    value = result["clusters"]["silhouette"]
    return -1.0 if value is None else float(value)


_NEEDS = {
    "round-*/embeddings.npz": ("start", "data", "precision"),
    "round-*/heldout.npz": ("heldout",),
    "round-*/clusters/utt2cluster": ("clusterer", "pca", "smallest", "largest", "share"),
    "round-*/train/config.yaml": ("train", "overrides", "init"),
}
"""Results, and the settings that they were made with: those may not change once there is one."""


class _Loop:
    """The steps of a run in ``out``, each of which does nothing where its result is there."""

    def __init__(self, settings: PseudoLabelSettings, out: Path, device: str) -> None:
        self.settings, self.out, self.device = settings, out, device
        self.clusterer, self.clusterer_settings = clusters.build(settings.clusterer)
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{out}: cannot be made ({error.strerror}); choose another --out") from None
        written = out / "config.yaml"
        mine = {key: getattr(settings, key) for key in PseudoLabelSettings.__dataclass_fields__}
        was = config.read(written) if written.exists() else {}
        for key in [key for made, keys in _NEEDS.items() if any(out.glob(made)) for key in keys]:
            if was and was.get(key) != mine[key]:
                raise UserError(
                    f"pseudolabel: {key} was {was.get(key)!r} in {out} and is {mine[key]!r} now; go on with"
                    " the same settings or give another --out"
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
            kept = {"pca": s.pca, "smallest": s.smallest, "largest": s.largest, "share": s.share}
            ids, labels, figures = clusters.cluster(folder / "embeddings.npz", self.clusterer, **kept)  # type: ignore[arg-type]
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
        self.say(number, "  ".join(f"{k} {v:.4g}" if v is not None else f"{k} -" for k, v in shown.items()))
        return result

    def keep(self, folder: Path, used: Sequence[str]) -> None:
        """Save the chosen model into OUT/model, with the labels that chose it."""
        model = Model.load(folder)
        before = model.about.get("labels_used", "not known")
        model.about["labels_used"] = "; ".join([*([] if before == "none" else [before]), *used]) or "none"
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
        measured = verification.evaluate(
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
            options = [f"train.init={json.dumps(start)}", *_sections(model)]
        return self.train(s.train, number, run, [*(s.overrides or ()), *options])

    def large_margin(self, number: int) -> Path:
        """Go on from the chosen round's run, on the same clusters; resumes a run that is there."""
        before = self.folder(number) / "train"
        options = [f"train.init_method={json.dumps(str(before))}", *_sections(Model.load(before / "model"))]
        more = [*(self.settings.large_margin_overrides or ()), *options]
        return self.train(str(self.settings.large_margin), number, self.folder(number) / "large-margin", more)

    def train(self, path: str, number: int, run: Path, options: Sequence[str]) -> Path:
        """Train on the clusters of the round before, unless that has been done."""
        labels = self.folder(number - 1) / "clusters" / "utt2cluster"
        if run.name != "train" or not (run / "model" / "config.yaml").exists():  # the last file of a model
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
            train(path, overrides, out=run, resume=True, device=self.device)
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


def _sections(model: Model) -> list[str]:
    """The model's encoder and features, as overrides of a training configuration."""
    return [
        f"encoder={json.dumps(config.thaw(model.settings['encoder']))}",
        f"features={json.dumps(config.thaw(model.settings['features']))}",
    ]


def _agreement(before: Path, after: Path) -> float:
    """NMI of two rounds' clusters, over the utterances that both keep."""
    one, two = (read_mapping(folder / "clusters" / "utt2cluster") for folder in (before, after))
    both = sorted(one.keys() & two.keys())
    codes = [np.unique([m[name] for name in both], return_inverse=True)[1] for m in (one, two)]
    return float(metrics.nmi(*codes))

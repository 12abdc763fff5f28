"""The steps of a round; a step whose result exists is not done again."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from speechssl import config, foreign_yaml, metrics, parts, processes
from speechssl.data.kaldi import read_mapping
from speechssl.data.trials import read_trials
from speechssl.embed import embed_to_file
from speechssl.errors import UserError, writing
from speechssl.evaluation import clusters
from speechssl.evaluation.verification import verify
from speechssl.files import RunFolder, atomic_write, write_text
from speechssl.model import Model
from speechssl.pseudolabel.folders import PseudoLabelFolder, RoundFolder
from speechssl.pseudolabel.settings import PseudoLabelSettings, model_overrides
from speechssl.train.loop import train


@contextmanager
def _naming_keys(keys: Collection[str]) -> Iterator[None]:
    """Let errors of a clusterer name its settings as they stand here: `clusterer.n_clusters`.

    Errors that begin with `cluster:` are about settings that have no prefix, such as
    `min_cluster_size`.

    Args:
        keys: names of the clusterer's settings.
    """
    try:
        yield
    except UserError as error:
        message = str(error)
        if message.startswith("cluster:"):
            raise
        names = "|".join(re.escape(key) for key in keys if key != "name")
        if names:
            message = re.sub(rf"(?<![\w.])({names})\b", r"clusterer.\1", message)
        raise UserError(message) from error


class Rounds:
    """The rounds in a folder, as far as they have come.

    Args:
        settings: of pseudo-labelling.
        folder: for all results; it is made.
        device: cpu, cuda ...
        quiet: say nothing on standard error but alarms and warnings.

    Raises:
        UserError: the folder holds results that were made with other settings.
    """

    def __init__(
        self,
        settings: PseudoLabelSettings,
        folder: PseudoLabelFolder,
        device: str,
        *,
        quiet: bool = False,
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.device = device
        self.quiet = quiet
        with _naming_keys(settings.clusterer):
            self.clusterer, self.clusterer_settings = clusters.build(settings.clusterer)
        _refuse_changes(folder, config.thaw(settings))
        with writing(folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
            with atomic_write(folder.config) as temporary:
                config.write(settings, temporary)

    def say(self, number: int, text: str) -> None:
        """Print a line on standard error, unless all is to be quiet."""
        if not self.quiet:
            print(f"[round {number}] {text}", file=sys.stderr, flush=True)

    def judge(self, number: int, model: str) -> dict[str, Any]:
        """Embed the data with a round's model, cluster the embeddings, and measure the clusters.

        Returns:
            What ``pseudolabel.json`` holds for this round.
        """
        folder = self.folder.round(number)
        folder.path.mkdir(exist_ok=True)
        if not self.settings.streamed:
            self.embed(number, model, self.settings.data, folder.embeddings)
        elif not folder.embeddings_mark.exists():
            self.embed(number, model, self.settings.data, folder.embeddings_folder)
            write_text(folder.embeddings_mark, "")
        if not folder.pseudo_labels.exists():
            self.cluster(number, folder)
        figures = json.loads(folder.cluster_figures.read_text(encoding="utf-8"))
        result = {"round": number, "model": model, "clusters": figures}
        if number > 0:
            result["agreement"] = agreement(self.folder.round(number - 1), folder)
        if self.settings.heldout:
            result["heldout_eer"] = self.heldout_eer(number, model, self.settings.heldout)
        self.say(number, _summary(result))
        return result

    def embed(self, number: int, model: str, data: Sequence[str], target: Path) -> None:
        """Embed Kaldi directories into a file of the round.

        Args:
            number: of the round.
            model: model folder.
            data: Kaldi directories.
            target: ``.npz`` file, of which nothing is done if it exists; or a folder, which gets
                what it lacks.
        """
        if target.is_file():
            return
        self.say(number, f"embed {' '.join(data)} with {model}")
        if self.settings.launch:
            self._embed_elsewhere(model, data, target)
            return
        embed_to_file(
            model,
            data,
            target,
            allow_code=tuple(self.settings.allow_code or ()),
            device=self.device,
            precision=self.settings.precision,
            jobs=self.settings.processes,
            readers=self.settings.readers,
            remote=self.settings.remote,
            resume=True,
        )

    def _ranks(self) -> list[str]:
        """Return the words that start the processes of `speechssl ...`, which follows them."""
        python = [sys.executable, "-m"]
        if self.settings.launch:
            return [*self.settings.launch, *python]
        if self.settings.processes == 1:
            return python
        return [
            *python,
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={self.settings.processes}",
            "-m",
        ]

    def _embed_elsewhere(self, model: str, data: Sequence[str], target: Path) -> None:
        """Run `speechssl embed` by the processes of ``launch``."""
        settings = self.settings
        command = [*self._ranks(), "speechssl", "embed", model, *data, "--out", str(target)]
        command += ["--resume", "--device", self.device, "--precision", settings.precision]
        if settings.readers is not None:
            command += ["--readers", str(settings.readers)]
        for prefix in settings.remote:
            command += ["--remote", prefix]
        for package in settings.allow_code or ():
            command += ["--allow-code", package]
        if processes.run_command(command):
            raise UserError(
                f"pseudolabel: embedding into {target} failed; see its message above, then run the"
                " same command again"
            )

    def cluster(self, number: int, folder: RoundFolder) -> None:
        """Cluster the embeddings of a round and write the pseudo-labels."""
        if self.settings.streamed:
            self._cluster_streamed(number, folder)
            return
        self.say(number, f"cluster {folder.embeddings}")
        with _naming_keys(self.clusterer_settings):
            ids, labels, figures = clusters.cluster(
                folder.embeddings,
                self.clusterer,
                pca=self.settings.pca,
                min_cluster_size=self.settings.min_cluster_size,
                max_cluster_size=self.settings.max_cluster_size,
                keep_fraction=self.settings.keep_fraction,
            )
        about = {"clusterer": self.clusterer_settings, **figures}
        clusters.write(folder.clusters, ids, labels, about)

    def _cluster_streamed(self, number: int, folder: RoundFolder) -> None:
        """Run `speechssl cluster` on the folder of embeddings, by as many processes as train."""
        self.say(number, f"cluster {folder.embeddings_folder}")
        settings = self.settings
        command = [*self._ranks(), "speechssl", "cluster", str(folder.embeddings_folder)]
        for key, value in self.clusterer_settings.items():
            if key != "name":
                command.append(f"{key}={json.dumps(value)}")
        command += ["--with", str(self.clusterer_settings["name"])]
        command += ["--out", str(folder.clusters), "--device", self.device]
        command += ["--pca", str(settings.pca), "--keep-fraction", str(settings.keep_fraction)]
        command += ["--min-cluster-size", str(settings.min_cluster_size)]
        command += ["--max-cluster-size", str(settings.max_cluster_size)]
        if processes.run_command(command):
            raise UserError(
                f"pseudolabel: clustering of {folder.embeddings_folder} failed; see its message"
                " above (the clusterer's settings are clusterer.KEY here), then run the same command"
                " again"
            )

    def heldout_eer(self, number: int, model: str, directory: str) -> float:
        """Return the EER (percent) of a model on held-out trials.

        The mean of the training embeddings is subtracted first.

        Args:
            number: of the round.
            model: model folder.
            directory: Kaldi directory with trials.
        """
        folder = self.folder.round(number)
        self.embed(number, model, [directory], folder.heldout)
        measured = verify.evaluate(
            folder.heldout,
            read_trials(Path(directory) / "trials"),
            mean=folder.embeddings_folder if self.settings.streamed else folder.embeddings,
            replicates=0,
        )
        return float(measured["eer"])

    def train_round(self, number: int) -> Path:
        """Train on the clusters of the round before; return the folder of the model."""
        run = self.folder.round(number).run
        if run.model.config.exists():  # the last file that training writes
            return run.model.path
        overrides = list(self.settings.overrides or ())
        start = self._initial_model(number)
        if start is not None:
            overrides.append(f"train.init={json.dumps(start)}")
            overrides += model_overrides(
                Model.load(start, allow_code=self.settings.allow_code or ())
            )
        self._train(self.settings.train, number, run, overrides)
        return run.model.path

    def _initial_model(self, number: int) -> str | None:
        """Return the model that a round's encoder starts from, or None for random weights."""
        if self.settings.init == "random":
            return None
        if self.settings.init == "previous" and number > 1:
            return str(self.folder.round(number - 1).run.model.path)
        return self.settings.start

    def large_margin(self, number: int) -> Path:
        """Continue a round's run on the same clusters; return the folder of the model."""
        folder = self.folder.round(number)
        overrides = [
            *(self.settings.large_margin_overrides or ()),
            f"train.init_method={json.dumps(str(folder.run.path))}",
            *model_overrides(
                Model.load(folder.run.model.path, allow_code=self.settings.allow_code or ())
            ),
        ]
        self._train(str(self.settings.large_margin), number, folder.large_margin, overrides)
        return folder.large_margin.model.path

    def _train(self, path: str, number: int, run: RunFolder, overrides: Sequence[str]) -> None:
        """Train on the clusters of the round before, continuing a run that was stopped.

        Args:
            path: YAML file.
            number: of the round.
            run: where to.
            overrides: settings that replace the file's.
        """
        self.say(number, f"train {path} into {run.path}")
        labels = self.folder.round(number - 1).pseudo_labels
        overrides = [
            *overrides,
            f"data.train={json.dumps(list(self.settings.data))}",
            f"data.remote={json.dumps(list(self.settings.remote))}",
            f"data.pseudo_labels={json.dumps(str(labels))}",
        ]
        if self.settings.processes == 1 and not self.settings.launch:
            options: dict[str, Any] = {"resume": True, "device": self.device, "quiet": self.quiet}
            train(path, overrides, out=run.path, **options)
            return
        command = ["speechssl", "train", path, *overrides, "--out", str(run.path)]
        if processes.run_command([*self._ranks(), *command, "--resume", "--device", self.device]):
            raise UserError(
                f"pseudolabel: training of {run.path} ended early; see its message above, then run"
                " the same command again"
            )

    def keep(self, folder: Path, labels_used: Sequence[str]) -> None:
        """Save the chosen model into OUT/model, with the labels that helped to choose it."""
        model = Model.load(folder, allow_code=self.settings.allow_code or ())
        used = list(labels_used)
        before = model.about.get("labels_used", "not known")
        if before != "none":
            used.insert(0, before)
        model.about["labels_used"] = "; ".join(used) or "none"
        model.save(self.folder.model.path)


def _refuse_changes(folder: PseudoLabelFolder, settings: Mapping[str, Any]) -> None:
    """Raise UserError if results exist that were made with other settings."""
    if not folder.config.exists():
        return
    before = config.with_new_names(PseudoLabelSettings, foreign_yaml.read(folder.config))
    before.setdefault("streamed", False)  # not known to older versions
    clusterer = before.get("clusterer", {})
    if clusterer.get("name") in parts.names("clustering"):
        before["clusterer"] = parts.with_new_names("clustering", clusterer)
    for key in _settings_in_use(folder):
        if before.get(key) != settings[key]:
            raise UserError(
                f"pseudolabel: {key} was {before.get(key)!r} in {folder.path} and is"
                f" {settings[key]!r} now; use the same settings or give another --out"
            )


def _settings_in_use(folder: PseudoLabelFolder) -> list[str]:
    """Return the settings behind the results that exist: these may not change."""
    rounds = folder.rounds()
    used = []
    if any(one.embeddings.exists() or one.embeddings_folder.exists() for one in rounds):
        used += ["start", "data", "precision", "streamed"]
    if any(one.heldout.exists() for one in rounds):
        used += ["heldout"]
    if any(one.pseudo_labels.exists() for one in rounds):
        used += ["clusterer", "pca", "min_cluster_size", "max_cluster_size", "keep_fraction"]
    if any(one.run.config.exists() for one in rounds):
        used += ["train", "overrides", "init"]
    return used


def _summary(result: Mapping[str, Any]) -> str:
    """Return one line about a round."""
    figures = result["clusters"]
    shown = {key: figures[key] for key in ("kept", "clusters", "silhouette")}
    for key in ("agreement", "heldout_eer"):
        if key in result:
            shown[key] = result[key]
    words = [f"{key} -" if value is None else f"{key} {value:.4g}" for key, value in shown.items()]
    return "  ".join(words)


def agreement(before: RoundFolder, after: RoundFolder) -> float:
    """Return the NMI of two rounds' clusters, over the utterances that both keep."""
    first = read_mapping(before.pseudo_labels)
    second = read_mapping(after.pseudo_labels)
    both = sorted(first.keys() & second.keys())
    _, first_codes = np.unique([first[name] for name in both], return_inverse=True)
    _, second_codes = np.unique([second[name] for name in both], return_inverse=True)
    return float(metrics.nmi(first_codes, second_codes))

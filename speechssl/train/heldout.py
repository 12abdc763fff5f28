"""Figures of held-out utterances while a model trains: to look at, never to decide by.

A network of its own takes over the weights that users would get and embeds as `speechssl embed` does, so
nothing of the training changes: not a weight, a statistic of BatchNorm or a random number. What is
measured: every diagnostic of embeddings alone (`heldout_effective_rank`, `heldout_uniformity` ...) and,
with a list of trials, the EER of their cosines.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from speechssl import metrics
from speechssl.audio.remotes import Remotes
from speechssl.data.manifest import Manifest, Utterance, read_manifest
from speechssl.data.trials import Trials, read_trials
from speechssl.diagnostics.ranks import diagnostics
from speechssl.distributed import World, sum_over_ranks
from speechssl.embed.batches import Failure
from speechssl.embed.embedder import Embedder
from speechssl.errors import UserError
from speechssl.evaluation.verification.scoring import score_trials, subtract_mean
from speechssl.evaluation.verification.sources import LocatedTrials, locate
from speechssl.model import Model
from speechssl.text import plural, printable
from speechssl.train.about import fingerprint
from speechssl.train.run import Run
from speechssl.train.settings import HeldoutSettings, TrainingConfig

SEED = 0
"""Of the draw of utterances: runs with other seeds are measured on the same ones."""

MIN_OTHERS = 100
"""Drawn utterances that no trial names, of which a mean is taken for `heldout_eer_centred`."""

BATCH_SECONDS = 60.0
"""Audio that is embedded at a time: what is kept for training leaves little memory on a GPU."""

Matrix = NDArray[np.float32]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Heldout:
    """What a run is measured on.

    Attributes:
        settings: section `heldout`.
        utterances: N, sorted by their ids, each to at most `max_seconds`.
        drawn: (N,) True for those that were drawn; the others are here for the trials.
        trials: the list, with the rows of both sides; None: no list.
        list_sha256: `Trials.sha256` of the whole list; None: no list.
        notes: what the user should know of them, one line each.
    """

    settings: HeldoutSettings
    utterances: tuple[Utterance, ...]
    drawn: Flags
    trials: LocatedTrials | None
    list_sha256: str | None
    notes: tuple[str, ...]

    def about(self) -> dict[str, Any]:
        """Return what `about.yaml` says of them."""
        about: dict[str, Any] = {
            "directory": self.settings.data,
            "utterances": len(self.utterances),
            "fingerprint": fingerprint(self.utterances),
        }
        if self.trials is not None:
            about["trials"] = self.settings.trials
            about["trials_sha256"] = self.list_sha256
            about["labels"] = "of these trials: looked at while training, used for nothing"
        return about

    def warn(self) -> None:
        """Warn of what the user should know of them."""
        for note in self.notes:
            warnings.warn(note, stacklevel=3)

    def named(self) -> Flags:
        """Return which of the utterances (N,) a trial names."""
        named = np.zeros(len(self.utterances), bool)
        if self.trials is not None:
            named[self.trials.enrol] = True
            named[self.trials.test] = True
        return named


def read_heldout(config: TrainingConfig, trained_on: Sequence[Utterance]) -> Heldout | None:
    """Read what section `heldout` names; None where it names nothing.

    Args:
        config: of the run.
        trained_on: utterances of the training data, which none of these should be.

    Raises:
        UserError: the directory or the list cannot be read, no trial is left, or those that are
            left are all of one kind.
    """
    settings = config.heldout
    if settings.data is None:
        return None
    with _about_setting("heldout.data"):
        remotes = Remotes(config.data.remote)
        manifest = read_manifest(settings.data, labels=(), on_bad="skip", remotes=remotes)
    notes = _notes(manifest, trained_on)
    listed = None
    if settings.trials is not None:
        with _about_setting("heldout.trials"):
            listed = read_trials(settings.trials)
    chosen, drawn = _choose(manifest.utterances, settings.utterances, listed)
    located = None
    if listed is not None:
        with _about_setting("heldout.trials"):
            located = _located(listed, chosen, settings)
        if located.skipped:
            missing = listed.unknown([utterance.id for utterance in chosen])
            notes.append(
                f"heldout.trials: {located.skipped} of {len(listed)} trials are left out:"
                f" {settings.data} lacks {plural(len(missing), 'utterance')} of them, such as"
                f" {printable(missing[0])}"
            )
    cut = tuple(utterance.beginning(settings.max_seconds) for utterance in chosen)
    digest = listed.sha256() if listed is not None else None
    return Heldout(settings, cut, drawn, located, digest, tuple(notes))


@contextlib.contextmanager
def _about_setting(name: str) -> Iterator[None]:
    """Begin the message of a UserError with the setting that it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def _notes(manifest: Manifest, trained_on: Sequence[Utterance]) -> list[str]:
    """Return a line about what of a directory cannot be used, and one about what is trained on."""
    notes = []
    if manifest.skipped:
        name, reason = manifest.skipped[0]
        count = plural(len(manifest.skipped), "utterance")
        notes.append(
            f"heldout.data: {count} left out that cannot be used; {printable(name)}: {printable(reason)}"
        )
    known = {(str(one.path), one.start) for one in trained_on}
    shared = [one.id for one in manifest if (str(one.path), one.start) in known]
    if shared:
        notes.append(
            f"heldout.data: {len(shared)} of {len(manifest)} utterances are in data.train too (such as"
            f" {printable(shared[0])}): they are not held out"
        )
    return notes


def _choose(
    utterances: Sequence[Utterance], count: int, trials: Trials | None
) -> tuple[list[Utterance], Flags]:
    """Return the utterances that are embedded, N, and which of them were drawn (N,).

    Args:
        utterances: of the directory, sorted.
        count: how many are drawn, without looking at the trials.
        trials: whose utterances are taken, too.
    """
    order = np.random.default_rng(SEED).permutation(len(utterances))
    is_drawn = np.zeros(len(utterances), bool)
    is_drawn[order[:count]] = True
    named = set(trials.ids()) if trials is not None else set()
    rows = [row for row, one in enumerate(utterances) if is_drawn[row] or one.id in named]
    return [utterances[row] for row in rows], is_drawn[rows]


def _located(
    trials: Trials, utterances: Sequence[Utterance], settings: HeldoutSettings
) -> LocatedTrials:
    """Return the trials of which both utterances are there.

    Raises:
        UserError: none is left, or they are all of one kind.
    """
    ids = np.array([utterance.id for utterance in utterances])
    located = locate(trials, ids, keep_going=True)
    if not _has_both_kinds(located.trials.target):
        raise UserError(
            f"{settings.trials}: needs trials of the same and of different speakers; give another list"
        )
    return located


def _has_both_kinds(target: Flags) -> bool:
    return bool(target.any() and not target.all())


class HeldoutMeter:
    """Measures the network that users would get on held-out utterances.

    Every process embeds a share of them, and the first one measures.

    Args:
        run: whose network it is.
        heldout: the utterances.
    """

    def __init__(self, run: Run, heldout: Heldout) -> None:
        self._run = run
        self._heldout = heldout
        with _random_numbers_kept(run.world):
            model = Model(run.config.features, run.config.encoder)
        self._embedder = Embedder(model, run.world.device, batch_seconds=BATCH_SECONDS)
        self._has_warned = False

    def measure(self) -> dict[str, float]:
        """Return the figures of the network as it stands; nothing in processes but the first.

        Every process calls it after the same step.
        """
        started_at = time.perf_counter()
        with _random_numbers_kept(self._run.world):
            self._embedder.model.encoder.load_state_dict(self._run.method.encoder.state_dict())
            matrix, is_there, failures = self._embed()
        if not self._run.world.first:
            return {}
        figures = self._figures(matrix, is_there)
        if not is_there.all():
            figures["heldout_unreadable"] = float((~is_there).sum())
            self._warn_once(is_there, failures)
        figures["heldout_seconds"] = time.perf_counter() - started_at
        return figures

    def _embed(self) -> tuple[Matrix, Flags, dict[str, str]]:
        """Embed all utterances, each process its share.

        Returns:
            Embeddings (N, D), zeros where there is none; which there are, (N,); and the reason of
            each failure of this process, by its id.
        """
        utterances = self._heldout.utterances
        world = self._run.world
        own_rows = range(world.rank, len(utterances), world.size)
        own = [utterances[row] for row in own_rows]
        failures: dict[str, str] = {}
        found = torch.zeros(len(utterances), self._embedder.dim + 1)
        try:
            for index, _, result in self._embedder.stream(own):
                if isinstance(result, Failure):
                    failures[result.id] = result.reason
                else:
                    found[own_rows[index], :-1] = torch.from_numpy(result)
                    found[own_rows[index], -1] = 1.0
        except (MemoryError, torch.OutOfMemoryError) as error:  # training has what it needs
            failures[""] = f"not enough memory ({' '.join(str(error).split())[:100]})"
        joined = sum_over_ranks(found.to(world.device)).cpu().numpy()
        return joined[:, :-1], joined[:, -1] > 0, failures

    def _figures(self, matrix: Matrix, is_there: Flags) -> dict[str, float]:
        """Return the figures of embeddings (N, D), of which only some are there (N,)."""
        figures = {}
        drawn = torch.from_numpy(matrix[is_there & self._heldout.drawn])
        for name, diagnostic in diagnostics().items():
            if diagnostic.needs == "embeddings":
                figures[f"heldout_{name}"] = diagnostic.measure(drawn)
        if self._heldout.trials is not None:
            figures |= self._error_rates(matrix, is_there, self._heldout.trials)
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    def _error_rates(
        self, matrix: Matrix, is_there: Flags, trials: LocatedTrials
    ) -> dict[str, float]:
        """Return the EER (percent) of plain cosines, and of those of centred embeddings.

        The centre is the mean of drawn utterances that no trial names: a test's own mean would
        know of the test.
        """
        usable = is_there[trials.enrol] & is_there[trials.test]
        enrol = trials.enrol[usable]
        test = trials.test[usable]
        target = trials.trials.target[usable]
        if not _has_both_kinds(target):
            return {}
        rates = {"heldout_eer": metrics.eer(score_trials(matrix, enrol, test), target)}
        others = matrix[is_there & self._heldout.drawn & ~self._heldout.named()]
        if len(others) >= MIN_OTHERS:
            centred = subtract_mean(matrix, others)
            rates["heldout_eer_centred"] = metrics.eer(score_trials(centred, enrol, test), target)
        return rates

    def _warn_once(self, is_there: Flags, failures: dict[str, str]) -> None:
        """Warn of utterances without an embedding, once in a run."""
        if self._has_warned:
            return
        self._has_warned = True
        missing = [self._heldout.utterances[row].id for row in np.flatnonzero(~is_there)]
        first = next((name for name in missing if name in failures), missing[0])
        reason = failures.get(first) or failures.get("") or "see the other processes"
        warnings.warn(
            f"heldout: {len(missing)} of {len(is_there)} utterances cannot be embedded and are left out;"
            f" {printable(first)}: {printable(reason)}",
            stacklevel=3,
        )


@contextlib.contextmanager
def _random_numbers_kept(world: World) -> Iterator[None]:
    """Give the generators of random numbers, those of the GPU too, the state that they had."""
    devices: Collection[Any] = [world.device] if world.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield

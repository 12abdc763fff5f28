"""Scores of trials, EER and minDCF by sslsv, wespeaker and 3D-Speaker beside ours; with AS-norm too.

    python -m egs.bench.peers.scoring --sslsv DIR --wespeaker DIR --3dspeaker DIR [--trials 1000000]

Embeddings of 192 numbers are generated. Every side starts from a list of trials in a file and ends with EER
and minDCF (P_target .01); wespeaker and 3D-Speaker also read the embeddings from Kaldi archives and write
scores into a file, because that is how their steps are joined. Each runs once, in a process of its own,
after a list of 1,000 trials that does not count. The figures of all sides are printed and should agree.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from egs.bench.peers import _measure, _programs
from speechssl import metrics
from speechssl.data.trials import read_trials
from speechssl.evaluation.verification.scoring import as_norm, score_trials

DIM = 192


@dataclass(frozen=True)
class TrialSet:
    """Generated embeddings and lists of trials between them.

    Attributes:
        folder: of `trials.kaldi` and `trials.voxceleb`.
        names: ids of the utterances.
        embeddings: (N, DIM) float32.
    """

    folder: Path
    names: list[str]
    embeddings: np.ndarray


def generate(folder: Path, utterances: int, trials: int) -> TrialSet:
    """Write trials between utterances of speakers with 20 utterances each."""
    rng = np.random.default_rng(0)
    speakers = rng.standard_normal((max(2, utterances // 20), DIM))
    speaker_of = rng.integers(len(speakers), size=utterances)
    noise = 2.5 * rng.standard_normal((utterances, DIM))
    embeddings = (speakers[speaker_of] + noise).astype(np.float32)
    names = [f"utterance{number}" for number in range(utterances)]
    enrol = rng.integers(utterances, size=trials)
    test = rng.integers(utterances, size=trials)
    test[: trials // 10] = _same_speaker(rng, speaker_of, enrol[: trials // 10])
    target = speaker_of[enrol] == speaker_of[test]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "trials.kaldi", "w") as kaldi, open(folder / "trials.voxceleb", "w") as vox:
        for a, b, same in zip(enrol, test, target, strict=True):
            kaldi.write(f"{names[a]} {names[b]} {'target' if same else 'nontarget'}\n")
            vox.write(f"{int(same)} {names[a]} {names[b]}\n")
    np.save(folder / "embeddings.npy", embeddings)
    return load(folder)


def load(folder: Path) -> TrialSet:
    """Return what `generate` wrote."""
    embeddings = np.load(folder / "embeddings.npy")
    return TrialSet(folder, [f"utterance{number}" for number in range(len(embeddings))], embeddings)


def _same_speaker(rng: np.random.Generator, speaker_of: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return for each row a row of the same speaker, drawn at random."""
    order = np.argsort(speaker_of, kind="stable")
    counts = np.bincount(speaker_of)
    starts = np.cumsum(counts) - counts
    speakers = speaker_of[rows]
    return order[starts[speakers] + rng.integers(counts[speakers])]


def ours(trials: TrialSet, cohort: np.ndarray | None) -> Callable[[], dict[str, float]]:
    """Return our way from the list of trials to EER and minDCF."""

    def score() -> dict[str, float]:
        pairs = read_trials(trials.folder / "trials.kaldi")
        row_of = {name: row for row, name in enumerate(trials.names)}
        enrol = np.array([row_of[name] for name in pairs.enrol.tolist()])
        test = np.array([row_of[name] for name in pairs.test.tolist()])
        scores = score_trials(trials.embeddings, enrol, test)
        if cohort is not None:
            scores = as_norm(scores, trials.embeddings, enrol, test, cohort)
        eer = metrics.eer(scores, pairs.target)
        return {"eer": eer, "mindcf": metrics.min_dcf(scores, pairs.target, 0.01)}

    return score


def measure(folder: Path, name: str, peer: Any, cohort_size: int) -> dict[str, float]:
    """Return seconds, peak memory and figures of one candidate, after a small list of trials.

    Args:
        folder: of the trials.
        name: of the candidate; "ours" needs no program.
        peer: the program's adapter.
        cohort_size: embeddings of the cohort of AS-norm; 0: no AS-norm.
    """
    cohort = None
    if cohort_size:
        cohort = np.random.default_rng(1).standard_normal((cohort_size, DIM)).astype(np.float32)

    def build(trials: TrialSet) -> Callable[[], dict[str, float]] | None:
        return ours(trials, cohort) if name == "ours" else peer.scorer(trials, cohort)

    warm_up = build(generate(folder / "small", 100, 1000))
    run = build(load(folder))
    if warm_up is None or run is None:
        raise _programs.Unavailable("it has no AS-norm")
    with _programs.quiet():
        warm_up()
    processor = time.process_time()
    wall = time.perf_counter()
    with _programs.quiet():
        figures = run()
    return {
        "wall": time.perf_counter() - wall,
        "processor": time.process_time() - processor,
        "peak": _measure.peak_gigabytes(),
        **figures,
    }


def in_its_own_process(words: Sequence[str]) -> dict[str, Any]:
    """Return what `measure` returns in a fresh process, or {"reason": why it could not be run}."""
    command = [sys.executable, "-m", "egs.bench.peers.scoring", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"reason": done.stderr.strip().splitlines()[-1]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measure every program that is named, and ours."""
    parser = _programs.parser_of(__doc__)
    parser.add_argument("--trials", type=int, default=1_000_000)
    parser.add_argument("--utterances", type=int, default=5000)
    parser.add_argument("--cohort", type=int, default=3000, help="of AS-norm; 0: none")
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    args, clones = _programs.begin(parser)
    if args.alone:
        _alone(args, clones)
        return
    _programs.refuse_none(parser, clones)
    clones = _usable(clones)
    if not clones:
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), args.utterances, args.trials)
        for cohort in (0, args.cohort) if args.cohort else (0,):
            norm = f", AS-norm with a cohort of {cohort}, top 300" if cohort else ""
            print(f"\n{args.trials} trials of {args.utterances} utterances{norm}")
            heads = ("wall s", "CPU s", "ratio", "peak GB", "EER %", "minDCF")
            print(f"  {'':<14}" + "".join(f"{head:>10}" for head in heads))
            common = ["--data", folder, "--cohort", str(cohort)]
            mine = in_its_own_process([*common, "--alone", "ours"])
            _show("ours", mine, mine)
            for program, clone in clones.items():
                words = [*common, f"--{program.name}", str(clone), "--alone", program.name]
                _show(program.name, in_its_own_process(words), mine)


def _usable(clones: Mapping[_programs.Program, Path]) -> dict[_programs.Program, Path]:
    """Return the clones that hold their program; say which do not."""
    usable = {}
    for program, clone in clones.items():
        try:
            _programs.check_clone(program, clone)
        except _programs.Unavailable as reason:
            print(f"\n{program.name}: left out: {reason}")
        else:
            usable[program] = clone
    return usable


def _alone(args: argparse.Namespace, clones: Mapping[_programs.Program, Path]) -> None:
    """Print what `measure` returns for one candidate, as JSON."""
    try:
        peer = None
        for program, clone in clones.items():
            peer = _programs.adapter_of(program, clone)
            with _programs.explained(program, clone):
                print(json.dumps(measure(args.data, args.alone, peer, args.cohort)))
        if peer is None:
            print(json.dumps(measure(args.data, args.alone, peer, args.cohort)))
    except _programs.Unavailable as reason:
        sys.exit(str(reason))


def _show(name: str, result: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Print a line; the ratio is of processor seconds, of which ours is 1."""
    if "reason" in result:
        print(f"  {name}: left out: {result['reason']}", flush=True)
        return
    ratio = result["processor"] / mine["processor"]
    print(
        f"  {name:<14}{result['wall']:>10.2f}{result['processor']:>10.2f}{ratio:>10.1f}"
        f"{result['peak']:>10.2f}{result['eer']:>10.3f}{result['mindcf']:>10.4f}",
        flush=True,
    )


if __name__ == "__main__":
    main()

"""Experiments of somebody else: whatever results, figures and logs hold, a report is text or one line."""

import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import make_model
from hostile_runs import Cases, Runner

KINDS = {
    "summary": [],
    "record": ["--record"],
    "compare": ["--compare"],
    "transfer": ["--transfer"],
}
WRITES = {"summary": "results", "record": "record", "compare": "comparison", "transfer": "transfer"}
OUTPUTS = ("record", "comparison", "transfer", "results")

RESULT = {
    "eer": 5.0,
    "eer_interval": [4.0, 6.0],
    "min_dcf_0.01": 0.5,
    "min_dcf_0.01_interval": [0.4, 0.6],
    "min_dcf_0.05": 0.4,
    "trials": 100,
    "trials_skipped": 0,
    "scoring": "cosine",
    "labels_used": [],
    "model": "model",
}
TASK = {
    "micro_f1": 0.5,
    "macro_f1": 0.5,
    "macro_f1_interval": [0.4, 0.6],
    "uar": 0.5,
    "majority": {"micro_f1": 0.2, "macro_f1": 0.2, "uar": 0.2},
    "utterances": 100,
    "groups": 10,
    "labels": ["a", "b"],
    "tested": ["0", "1"],
    "beside": {"mfcc": {"macro_f1_gain": 0.1, "macro_f1_gain_interval": [0.0, 0.2]}},
}
SPLIT = {
    "eer": 4.0,
    "split": {"rows": [{"targets": "same", "nontargets": "different", "eer": 3.0}]},
}
CURVE = {
    "curve": [{"fraction": 0.1, "step": "linear", "macro_f1": 0.4, "macro_f1_interval": [0.3, 0.5]}]
}
DIAGNOSIS = {
    "figures": {"rankme": {"value": 9.0}, "effective_rank": {"value": 5.0}},
    "verdict": "healthy",
}
LOG = {"step": 1, "alarms": ["rank"]}
GOOD: dict[str, dict[str, Any]] = {
    "eval/dino/list/results.json": RESULT,
    "eval/untrained/list/results.json": RESULT,
    "eval/byol/list/results.json": RESULT,
    "diagnose/dino/diagnostics.json": DIAGNOSIS,
    "runs/dino/log.jsonl": LOG,
    "probe/corpus/dino/embedding/results.json": TASK,
    "speakers/corpus/dino/embedding/results.json": {"micro_f1": 0.3},
    "verification/corpus/dino/embedding/results.json": SPLIT,
    "finetune/corpus/dino/results.json": CURVE,
}
READ_BY = {
    "eval/dino/list/results.json": ["summary", "record", "compare"],
    "diagnose/dino/diagnostics.json": ["compare"],
    "runs/dino/log.jsonl": ["compare"],
}

DEEP: Any = [[[[[[[[[[[]]]]]]]]]]]
VALUES: list[Any] = [
    None, True, 0, -1, 10**300, float("nan"), float("inf"), "", "x", "<script>alert(1)</script>",
    "$\\frac{", "\x1b[2J\u202e", "=cmd()", [], [1], ["a", None], {}, {"a": 1}, DEEP, "y" * 100_000,
]  # fmt: skip

TEXTS: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"{",
    "a list": b"[1, 2]",
    "a number": b"7",
    "NaN": b"NaN",
    "deep lists": b'{"eer": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a hundred megabytes": b'{"eer": 1, "x": "' + b"y" * 100_000_000 + b'"}',
    "ten million lists": b'{"eer": 1, "x": [' + b"[]," * 10_000_000 + b"1]}",
    "a number of 5000 digits": b'{"eer": ' + b"9" * 5000 + b"}",
    "not UTF-8": b'{"eer": "\xff\xfe"}',
    "UTF-16": '{"eer": 1}'.encode("utf-16"),
    "null bytes": b"\0" * 1000,
    "a key twice": b'{"eer": 1, "eer": []}',
}


def experiment(root: Path) -> Path:
    for name, content in GOOD.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content) + "\n")
    (root / "seconds.tsv").write_text("train-dino\t10\n")
    return root


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value of a JSON document, itself included."""
    yield path
    items: Any = ()
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, list):
        items = enumerate(content)
    for key, value in items:
        yield from places(value, (*path, key))


def replaced(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(content)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


def removed(content: Any, path: tuple[Any, ...]) -> Any:
    changed = copy.deepcopy(content)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return changed


def documents(content: Any) -> Iterator[tuple[str, str]]:
    """Yield what was changed, and the JSON, for every value of `VALUES` in every place."""
    for path in places(content):
        where = ".".join(map(str, path)) or "all"
        for value in VALUES:
            yield f"{where} is {str(value)[:30]!r}", json.dumps(replaced(content, path, value))
        if path:
            yield f"without {where}", json.dumps(removed(content, path))


def report(runner: Runner, root: Path, kind: str) -> str:
    """Report on an experiment; return what did not hold."""
    for name in OUTPUTS:
        for ending in (".md", ".json", ".png", ".svg"):
            (root / f"{name}{ending}").unlink(missing_ok=True)
    own = [
        root / f"{name}{ending}" for name in OUTPUTS for ending in (".md", ".json", ".png", ".svg")
    ]
    own.append(root / ".lock")
    outcome = runner.run(["report", root, *KINDS[kind]], out=root, root=root.parent, own=own)
    problem = outcome.problem()
    for path in own:
        if path.suffix == ".md" and path.exists() and "<script" in path.read_text():
            problem = problem or f"{path.name} holds markup"
    return problem


def kinds_that_read(name: str) -> list[str]:
    if name.startswith("eval/") or name in READ_BY:
        return READ_BY.get(name, ["summary"])
    return ["transfer"]


@pytest.fixture
def exp(tmp_path: Path) -> Path:
    make_model(about={"data": {"utterances": 3, "hours": 1.0}}).save(tmp_path / "model")
    return experiment(tmp_path / "exp")


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_experiment_is_reported(kind: str, exp: Path, runner: Runner) -> None:
    assert report(runner, exp, kind) == ""
    assert runner.run(["report", exp, *KINDS[kind]], out=exp, root=exp.parent).code == 0


def test_some_wrong_values(exp: Path, runner: Runner, cases: Cases) -> None:
    try_values(exp, runner, cases, every=61)
    cases.hold()


@pytest.mark.slow
def test_every_wrong_value(exp: Path, runner: Runner, cases: Cases) -> None:
    try_values(exp, runner, cases, every=1)
    cases.hold()


def try_values(exp: Path, runner: Runner, cases: Cases, every: int) -> None:
    """Put every `every`-th wrong value into each file, and report on it."""
    number = 0
    for name, content in GOOD.items():
        path = exp / name
        good = path.read_text()
        for what, text in documents(content):
            number += 1
            if number % every:
                continue
            path.write_text(text + "\n")
            for kind in kinds_that_read(name):
                cases.record(
                    "results and figures: values",
                    f"{name}: {what}, {kind}",
                    report(runner, exp, kind),
                )
        path.write_text(good)


def test_texts_in_the_place_of_json(exp: Path, runner: Runner, cases: Cases) -> None:
    for name in (
        "eval/dino/list/results.json",
        "diagnose/dino/diagnostics.json",
        "runs/dino/log.jsonl",
    ):
        path = exp / name
        good = path.read_text()
        for what, data in TEXTS.items():
            path.write_bytes(data)
            problem = report(runner, exp, kinds_that_read(name)[-1])
            cases.record("results and figures: texts", f"{name}: {what}", problem)
        path.write_text(good)
    cases.hold()


def test_special_files_in_the_place_of_json(exp: Path, runner: Runner, cases: Cases) -> None:
    files = [*GOOD, "seconds.tsv"]
    for name in files:
        path = exp / name
        good = path.read_text()
        for what in ("fifo", "zero", "folder", "loop", "nowhere"):
            path.unlink()
            if what == "fifo":
                os.mkfifo(path)
            elif what == "folder":
                path.mkdir()
            else:
                targets = {"zero": "/dev/zero", "loop": path.name, "nowhere": "/none"}
                path.symlink_to(targets[what])
            kind = "summary" if name == "seconds.tsv" else kinds_that_read(name)[-1]
            cases.record(
                "results and figures: special files", f"{name}: {what}", report(runner, exp, kind)
            )
            if what == "folder":
                path.rmdir()
                path.write_text("")
        path.unlink()
        path.write_text(good)
    cases.hold()


def test_a_link_in_the_place_of_a_report_is_replaced(
    exp: Path, runner: Runner, cases: Cases
) -> None:
    canary = exp.parent / "canary"
    for kind in KINDS:
        for name in OUTPUTS:
            for ending in (".md", ".json", ".png", ".svg"):
                if name != WRITES[kind]:
                    continue
                canary.write_text("mine")
                for path in exp.glob(f"{name}.*"):
                    path.unlink()
                (exp / f"{name}{ending}").symlink_to(canary)
                runner.run(["report", exp, *KINDS[kind]], out=exp, root=exp.parent)
                problem = "" if canary.read_text() == "mine" else "the link was followed"
                cases.record("links in the place of outputs", f"{name}{ending}, {kind}", problem)
                (exp / f"{name}{ending}").unlink(missing_ok=True)
    cases.hold()


def test_names_of_folders_are_text(exp: Path, runner: Runner, cases: Cases) -> None:
    for name in (
        "<script>x",
        "$\\frac{$",
        "a\nb",
        "\x1b[2J",
        "=cmd()",
        "a|b",
        "\u202egpj",
        "\udcff",
    ):
        for kind in ("summary", "record", "compare"):
            folder = exp / "eval" / name / "li$t\\frac{$"
            folder.mkdir(parents=True)
            (folder / "results.json").write_text(json.dumps(RESULT))
            outcome = runner.run(["report", exp, *KINDS[kind]], out=exp, root=exp.parent)
            cases.record(
                "results and figures: names", f"{name!r}, {kind}", outcome.problem(refused=False)
            )
            (folder / "results.json").unlink()
            folder.rmdir()
            folder.parent.rmdir()
    cases.hold()


@pytest.mark.parametrize(
    "about",
    [
        {"data": 3}, {"data": {"utterances": "x", "hours": 1}}, {"data": {"utterances": 1}},
        {"step": "x"}, {"step": [1]}, {"labels_used": ["a"]}, {"labels_used": {"a": 1}}, {"commit": 7},
        {"commit": None}, {"seed": "<script>"}, {"method": {"a": 1}}, {"method": "\x1b[2J"},
    ],
    ids=str,
)  # fmt: skip
def test_what_a_model_says_of_itself(about: dict[str, Any], exp: Path, runner: Runner) -> None:
    make_model(about=about).save(exp.parent / "model")
    assert report(runner, exp, "record") == ""

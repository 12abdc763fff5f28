"""Run the command on hostile files, and say what of its promises did not hold."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechssl.text import printable

MEMORY = (
    400 << 20
)  # bytes that a hostile file of a few kB may take; what a command imports late counts
SECONDS = 60.0  # after which a command hangs
LONGEST_LINE = 4000  # characters of an error


@dataclass(frozen=True)
class Outcome:
    """What a command did, from outside.

    Attributes:
        code: exit code; None if it did not end by itself.
        stdout: what it printed.
        stderr: what it printed there.
        problems: promises that were broken, whatever the command was given.
    """

    code: int | None
    stdout: str = ""
    stderr: str = ""
    problems: list[str] = field(default_factory=list)

    @property
    def error(self) -> str:
        """The last line of standard error."""
        return (self.stderr.splitlines() or [""])[-1]

    def problem(self, refused: bool | None = None) -> str:
        """Return what did not hold; `refused` says whether the command had to end with code 2."""
        problems = list(self.problems)
        if refused is not None and self.code is not None and (self.code == 2) != refused:
            problems.append(f"exit code {self.code}: {self.stderr[-300:]!r}")
        return "; ".join(problems)


class Runner:
    """Commands in one process at a time, which is started anew if it dies or hangs."""

    def __init__(self, memory: int = MEMORY, seconds: float = SECONDS) -> None:
        self.memory = memory
        self.seconds = seconds
        self._folder = tempfile.TemporaryDirectory()
        self._child: subprocess.Popen[str] | None = None

    def close(self) -> None:
        self._stop()
        self._folder.cleanup()

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        out: Path,
        root: Path | None = None,
        own: Sequence[Path] = (),
    ) -> Outcome:
        """Run `speechssl ARGV`.

        Args:
            argv: the words.
            out: the path given as --out; it and names that begin with it may be written.
            root: a folder around everything, where nothing but `out` may change; by default the
                one that holds `out`.
            own: what alone may be written, if it is not `out`.
        """
        root = (root or out.parent).resolve()
        out = out.resolve() if out.parent != root else root / out.name
        may_change = set(map(str, own or own_names(out)))
        before = tree(root, may_change)
        words = [str(word) for word in argv]
        scratch = Path(self._folder.name) / "tmp"
        for path in own:
            scratch_names = f"{path.parent}/.{path.stem}."
            may_change.add(scratch_names)
        request = {
            "argv": words,
            "cwd": str(root),
            "writable": [str(scratch), *may_change, f"{out.parent}/.{out.stem}."],
        }
        answer = self._ask(request)
        changed = sorted(set(tree(root, may_change).items()) ^ set(before.items()), key=str)
        problems = broken_promises(answer, self.memory)
        problems += [f"changed: {path}" for path, _ in changed[:3]]
        if left_over := [path.name for path in scratch.iterdir() if is_left_over(path)]:
            problems.append(f"left in the folder of temporary files: {left_over[:3]}")
        return Outcome(answer["code"], answer.get("stdout", ""), answer.get("stderr", ""), problems)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        child = self._child or self._start()
        assert child.stdin is not None
        child.stdin.write(json.dumps(request) + "\n")
        child.stdin.flush()
        line = self._answer(child, self.seconds)
        if line:
            found: dict[str, Any] = json.loads(line)
            return found
        is_running = child.poll() is None
        self._stop()
        what = f"hangs: over {self.seconds:g} s" if is_running else f"died: {child.returncode}"
        last_words = (Path(self._folder.name) / "stderr").read_text(errors="replace")[-500:]
        return {"code": None, "died": what, "stderr": last_words}

    def _answer(self, child: subprocess.Popen[str], seconds: float) -> str:
        """Return a line of the child, "" if there is none in time."""
        assert child.stdout is not None
        ready, _, _ = select.select([child.stdout], [], [], seconds)
        return child.stdout.readline() if ready else ""

    def _start(self) -> subprocess.Popen[str]:
        folder = Path(self._folder.name)
        (folder / "tmp").mkdir(exist_ok=True)
        self._child = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("hostile_child.py")), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "TMPDIR": str(folder / "tmp"),
                "MPLCONFIGDIR": str(folder / "matplotlib"),
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            },
        )
        assert self._answer(self._child, 300), "the process of the commands does not start"
        return self._child

    def _stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None


def own_names(out: Path) -> list[Path]:
    """Return the names that a command with --out may write: it, its lists, its parts."""
    ends = (".failed", ".passed_over", ".parts", ".lock")
    names = [out, *(Path(f"{out}{end}") for end in ends)]
    return [*names, *(out.with_suffix(end) for end in (".scp", ".ark", ".segments"))]


def is_left_over(path: Path) -> bool:
    """Return False for what libraries keep there on purpose between commands."""
    return not path.name.startswith(("torchinductor_", "pymp-", "matplotlib"))


def tree(root: Path, own: set[str]) -> dict[str, tuple[int, int, str]]:
    """Return kind, size and time of every path below `root`, without outputs and their like."""
    found = {}
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if os.path.join(folder, name) not in own]
        for name in (*subfolders, *names):
            path = os.path.join(folder, name)
            if path in own or is_temporary(path, own):
                continue
            state = os.lstat(path)
            size = 0 if os.path.isdir(path) else state.st_size
            changed = 0 if os.path.isdir(path) else state.st_mtime_ns
            found[path] = (state.st_mode, size, str(changed))
    return found


def is_temporary(path: str, own: Iterable[str]) -> bool:
    """Return True for a lock or temporary file beside an output, `.out.*`."""
    folder, name = os.path.split(path)
    return any(
        folder == os.path.dirname(out) and name.startswith(f".{Path(out).stem}.") for out in own
    )


def broken_promises(answer: dict[str, Any], memory: int) -> list[str]:
    """Return what no command may do, whatever it was given."""
    if "died" in answer:
        return [f"{answer['died']} {answer['stderr'][-300:]!r}"]
    problems = answer["noted"][:3]
    stderr = answer["stderr"]
    if answer["escaped"] or "Traceback" in stderr or "Traceback" in answer["stdout"]:
        problems.append(f"traceback: {(answer['escaped'] or stderr)[-600:]}")
    elif answer["code"] not in (0, 2, None):
        problems.append(f"exit code {answer['code']}: {stderr[-300:]!r}")
    elif answer["code"] == 2:
        last = (stderr.splitlines() or [""])[-1]
        if not last.startswith("speechssl: error:") or len(last) > LONGEST_LINE:
            problems.append(f"no error of one line: {stderr[-300:]!r}")
    for line in (answer["stdout"] + stderr).split("\n"):
        if line.replace("\t", "").replace("\r", "") != printable(
            line.replace("\t", "").replace("\r", "")
        ):
            problems.append(f"prints what a terminal obeys: {line[:200]!r}")
            break
    if answer["memory"] > memory:
        problems.append(f"took {answer['memory'] >> 20} MB")
    if answer["modules"]:
        problems.append(f"imported {answer['modules']}")
    return problems


class Cases:
    """The cases of a test: what was tried for each attack, and what did not hold."""

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()
        self.broken: list[tuple[str, str, str]] = []

    def record(self, attack: str, name: str, problem: str) -> None:
        """Count a case; an empty `problem` means that every promise held."""
        self.tried[attack] += 1
        if problem:
            self.broken.append((attack, name, problem))

    def rows(self) -> list[tuple[str, int, int]]:
        """Return (attack, tried, held)."""
        broken = Counter(attack for attack, _, _ in self.broken)
        return [(attack, tried, tried - broken[attack]) for attack, tried in self.tried.items()]

    def hold(self) -> None:
        """Fail if something did not hold, or nothing was tried."""
        assert self.tried
        texts = [f"{attack}, {name}: {problem}" for attack, name, problem in self.broken]
        assert not texts, f"{len(texts)} of {sum(self.tried.values())}:\n" + "\n".join(texts)

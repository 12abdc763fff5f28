"""Run commands of speechssl in one process of bounded memory, and report what each of them did.

Started by `hostile_runs.Runner`. A line of standard input is a JSON object with `argv`, `cwd` and
`writable` (paths; one that ends with a dot is the beginning of names); a line of standard output
says what came of it. Importing torch takes seconds: so hundreds of commands share a process, each
with its own peak of memory.
"""

from __future__ import annotations

import io
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

HEADROOM = 4 << 30  # bytes of address space beyond the imports; the last defence of this machine
PROGRAMS = ("git",)  # that a command may start: the commit is written into runs
REQUESTS = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}
STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn"}
CHANGES = {"os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink", "os.truncate"}
MODULES = (
    "torch", "soundfile", "soxr", "av", "pyarrow.parquet", "sklearn.cluster", "scipy.stats",
    "matplotlib.backends.backend_agg", "librosa", "speechssl.train.loop", "speechssl.embed.files",
    "speechssl.evaluation.verification.verify", "speechssl.report.record", "speechssl.report.diagnosis",
)  # fmt: skip


class Watch:
    """An audit hook: requests, programs and writes outside the writable folders, into a file.

    A file, because the processes that a command starts (by fork) write into the same one.
    """

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND)
        self.active = False
        self.writable: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event in REQUESTS:
            self.note(f"request: {event} {arguments[1:]!r}")
        elif event in STARTS:
            if os.path.basename(str(arguments[0])) not in PROGRAMS:
                self.note(f"program: {event} {arguments[0]!r}")
        elif event == "open":
            path, _mode, flags = arguments
            if isinstance(path, (str, bytes)) and flags & (os.O_WRONLY | os.O_RDWR):
                self.check(path)
        elif event in CHANGES:
            is_relative = any(type(word) is int and word >= 0 for word in arguments[-2:])
            if event == "os.mkdir":
                is_relative = arguments[2] >= 0 or os.path.isdir(arguments[0])  # nothing happens
            if is_relative and event != "os.truncate":
                return  # inside a folder that was opened, as shutil.rmtree does
            for path in arguments[:2] if event in ("os.rename", "os.link") else arguments[:1]:
                if isinstance(path, (str, bytes, os.PathLike)):
                    self.check(path)

    def check(self, path: str | bytes | os.PathLike[str]) -> None:
        name = os.path.abspath(os.fsdecode(path))
        for place in self.writable:
            is_prefix = place.endswith(".")
            if name == place or name.startswith(place if is_prefix else place + "/"):
                return
        self.note(f"write: {name}")

    def note(self, text: str) -> None:
        os.write(self.file, (text.replace("\n", " ")[:400] + "\n").encode(errors="replace"))

    def take(self) -> list[str]:
        """Return what was noted, and forget it."""
        os.lseek(self.file, 0, os.SEEK_SET)
        noted = os.read(self.file, 1 << 20).decode(errors="replace").splitlines()
        os.ftruncate(self.file, 0)
        return noted


def peak_memory() -> int:
    """Return the peak of the resident memory since `forget_peak`, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + HEADROOM
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def run(request: dict[str, Any], watch: Watch, output: dict[str, io.FileIO]) -> dict[str, Any]:
    """Run one command; return exit code, what escaped, the texts, seconds, memory, what was noted."""
    from speechssl.cli import main

    for file in output.values():
        file.seek(0)
        file.truncate()
    os.chdir(request["cwd"])
    watch.writable = [*request["writable"], "/dev/null", "/dev/shm", "/proc/self"]
    forget_peak()
    before = peak_memory()
    started_at = time.monotonic()
    code: Any = None
    escaped = ""
    watch.active = True
    try:
        code = main(request["argv"])
    except SystemExit as error:
        code = error.code
    except BaseException:
        escaped = traceback.format_exc()[-2000:]
    watch.active = False
    sys.stdout.flush()
    sys.stderr.flush()
    texts = {}
    for name, file in output.items():
        file.seek(0)
        texts[name] = file.read().decode(errors="replace")[-20_000:]
    return {
        "code": code,
        "escaped": escaped,
        "seconds": time.monotonic() - started_at,
        "memory": peak_memory() - before,
        "noted": watch.take(),
        "modules": [name for name in sys.modules if name.startswith("evil")],
        **texts,
    }


def serve(folder: Path) -> None:
    answers = os.fdopen(os.dup(1), "w")
    requests = os.fdopen(os.dup(0))
    output = {}
    for number, name in ((1, "stdout"), (2, "stderr")):
        output[name] = io.FileIO(folder / name, "w+")
        os.dup2(output[name].fileno(), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for module in MODULES:
        try:
            __import__(module)
        except ImportError:
            continue  # an extra that is not installed
    limit_memory()
    watch = Watch(folder / "noted")
    sys.addaudithook(watch)
    print(json.dumps("ready"), file=answers, flush=True)
    for line in requests:
        print(json.dumps(run(json.loads(line), watch, output)), file=answers, flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))

"""The other programs: where their clones are, what is put in place of what they miss, and errors.

Nothing of theirs is in this repository. A user clones them and names the folders; they are imported
from there. Each adapter (`_sslsv.py`, `_wespeaker.py`, `_speaker3d.py`) runs the program's own classes
and loops.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import soundfile
import torch

SAMPLE_RATE = 16000


@dataclass(frozen=True)
class Program:
    """One of the other programs.

    Attributes:
        name: as the tables and the flag call it.
        package: what is imported from its clone.
        adapter: the module of this folder that runs it.
        address: where it is cloned from.
    """

    name: str
    package: str
    adapter: str
    address: str


PROGRAMS = (
    Program("sslsv", "sslsv", "_sslsv", "https://github.com/theolepage/sslsv"),
    Program("wespeaker", "wespeaker", "_wespeaker", "https://github.com/wenet-e2e/wespeaker"),
    Program("3dspeaker", "speakerlab", "_speaker3d", "https://github.com/modelscope/3D-Speaker"),
)


class Unavailable(Exception):
    """A program cannot be run; the message is the reason, one line."""


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with a flag for the clone of each program."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    for program in PROGRAMS:
        parser.add_argument(
            f"--{program.name}",
            dest=program.package,
            type=Path,
            metavar="DIR",
            help=f"clone of {program.address}",
        )
    return parser


def named(args: argparse.Namespace) -> dict[Program, Path]:
    """Return the clones that the command line names."""
    folders = {program: getattr(args, program.package) for program in PROGRAMS}
    return {program: folder for program, folder in folders.items() if folder is not None}


def begin(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, dict[Program, Path]]:
    """Read the command line, and compute on one thread of the CPU from now on.

    Returns:
        The arguments, and the clones that they name.
    """
    args = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    return args, named(args)


def refuse_none(parser: argparse.ArgumentParser, folders: dict[Program, Path]) -> None:
    """End with a message if the command line names no clone."""
    if not folders:
        parser.error("name at least one program, e.g. --sslsv DIR (egs/bench/peers/README.md)")


@contextlib.contextmanager
def explained(program: Program, folder: Path) -> Iterator[None]:
    """Turn an import that fails inside a `with` block into an Unavailable that says what to do."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        if missing.split(".")[0] == program.package:
            reason = f"{folder} has no {missing}; give a clone of {program.address}"
        else:
            reason = f"it needs the package {missing}, which is not installed"
        raise Unavailable(reason) from error
    except ImportError as error:
        raise Unavailable(" ".join(str(error).split())) from error


def check_clone(program: Program, folder: Path) -> None:
    """Raise Unavailable unless a folder holds the program's package."""
    if not (folder / program.package).is_dir():
        raise Unavailable(f"{folder} has no {program.package}; give a clone of {program.address}")


def adapter_of(program: Program, folder: Path) -> Any:
    """Return the adapter of a program, ready to import from its clone.

    Raises:
        Unavailable: the folder is no clone of it, or a package is missing.
    """
    check_clone(program, folder)
    if str(folder.resolve()) not in sys.path:
        sys.path.insert(0, str(folder.resolve()))
    with explained(program, folder):
        adapter = importlib.import_module(f"egs.bench.peers.{program.adapter}")
        return adapter.Peer(folder.resolve())


def without_init(package: str, folder: Path) -> None:
    """Let modules of a package be imported without its `__init__`, which would import much else."""
    if package not in sys.modules:
        module = ModuleType(package)
        module.__path__ = [str(folder / package)]
        sys.modules[package] = module


def stand_in(name: str) -> None:
    """Put an empty module in the place of one that is imported, but not used in what is measured."""
    try:
        importlib.import_module(name)
    except ImportError:
        sys.modules[name] = mock.MagicMock(name=name)


def one_process_group() -> None:
    """Start torch.distributed with this process alone: two of the losses call it always."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group(
            "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
        )


@contextlib.contextmanager
def on_the_cpu() -> Iterator[None]:
    """Make `.cuda()` and `torch.cuda.synchronize()` do nothing inside a `with` block."""
    with (
        mock.patch.object(torch.Tensor, "cuda", lambda tensor, *args, **kwargs: tensor),
        mock.patch.object(torch.cuda, "synchronize", lambda *args: None),
    ):
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow what the programs print and warn of."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def read_by_soundfile() -> None:
    """Give torchaudio a `load` by soundfile, unless torchcodec, which its own needs, is installed."""
    import torchaudio

    try:
        importlib.import_module("torchcodec")
    except (ImportError, RuntimeError):
        torchaudio.load = _load  # noqa: TID251 (the programs call it)


def _load(path: str, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, int]:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(np.ascontiguousarray(samples.T)), rate


class Undistributed(torch.nn.Module):
    """What DistributedDataParallel is to the programs' loops, without its copies of gradients."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module."""
        return self.module(*args, **kwargs)

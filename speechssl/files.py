"""Files that this package writes: whole or not at all, and their names in run and model folders."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from speechssl.errors import UserError
from speechssl.text import tsv_cell

FORMAT = 1
"""Layout of run and model folders; a higher number where an older package could not read them."""

_TEMPORARY = re.compile(r"\..+\.(?P<process>\d+)\.partial(\..+)?")
"""Names of temporary files."""


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; what was written there takes its place at the end.

    A reader sees the old file or the new one, never a part, whatever interrupts the writer. If the
    body raises, the temporary file is removed and `path` stays as it was. Its name keeps the suffix
    of `path`, because some writers choose their format by it.

    Raises:
        OSError: the disk refused; nothing has changed.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_write_together(
    paths: Sequence[Path], removed: Sequence[Path] = ()
) -> Iterator[dict[Path, Path]]:
    """Give a temporary path for each of several files that belong together.

    If the body raises, nothing changes. At the end an old version of the last file is taken away,
    then the new files take their places in order. So while the last file exists, all are of one
    version: a writer that is killed in between leaves a set without it, never a mixture. Name last
    the file without which readers refuse the set (wav.scp of a Kaldi directory).

    Args:
        paths: the files, all in one folder.
        removed: files that do not belong to the new set; they are removed if they exist.

    Raises:
        OSError: the disk refused.
    """
    temporary = {path: _temporary(path) for path in paths}
    last = paths[-1]
    outdated = _temporary(last.with_name(f"{last.name}.outdated"))
    try:
        yield temporary
        if last.exists():
            os.replace(last, outdated)
        for path in removed:
            path.unlink(missing_ok=True)
        for path in paths:
            os.replace(temporary[path], path)
    finally:
        for left_over in (*temporary.values(), outdated):
            left_over.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")


def remove_partial(path: str | Path) -> None:
    """Remove the temporary files that dead processes have left while writing `path`."""
    path = Path(path)
    for left_over in path.parent.glob(f".{glob.escape(path.stem)}.*.partial{path.suffix}"):
        if _writer_is_dead(left_over):
            left_over.unlink(missing_ok=True)


def remove_leftovers(folder: Path, depth: int = 2) -> None:
    """Remove the temporary files that dead processes have left in a folder.

    Args:
        folder: that only this process writes; it need not exist.
        depth: levels of folders inside it that are looked at, too.
    """
    try:
        entries = list(os.scandir(folder))
    except OSError:  # not there, or not ours to look at: nothing of ours lies there
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            if depth:
                remove_leftovers(path, depth - 1)
        elif _writer_is_dead(path):
            path.unlink(missing_ok=True)


def writer_of(name: str) -> int | None:
    """Return the process that writes a temporary file of this name; None for any other file."""
    match = _TEMPORARY.fullmatch(name)
    return None if match is None else int(match["process"])


def _writer_is_dead(path: Path) -> bool:
    """True for a temporary file of `_temporary` whose process has ended."""
    writer = writer_of(path.name)
    return writer is not None and is_dead(writer)


def is_dead(process: int) -> bool:
    """True if a process that began to write before this one has ended; False if that is unknown."""
    if os.name != "posix":  # elsewhere, asking for a process would end it
        return False
    if process == os.getpid():  # an earlier process of our number: we have not begun
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # another user's
        return False
    return False


def write_text(path: str | Path, text: str) -> None:
    """Write a text file (UTF-8, `\\n`) through `atomic_write`.

    Bytes of file names that are not UTF-8 are written as they are.
    """
    with (
        atomic_write(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file,
    ):
        file.write(text)


def write_skipped(path: str | Path, skipped: Iterable[tuple[str, str]]) -> None:
    """Write what was left out: one `id<TAB>reason` line each, for people (`text.tsv_cell`)."""
    lines = [f"{tsv_cell(name)}\t{tsv_cell(reason)}\n" for name, reason in skipped]
    write_text(path, "".join(lines))


class ModelFolder:
    """Names of the files in a model folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def config(self) -> Path:
        """Front end, encoder and what is known of the weights."""
        return self.path / "config.yaml"

    @property
    def weights(self) -> Path:
        """State of the encoder."""
        return self.path / "weights.safetensors"

    @property
    def weights_before_format_1(self) -> Path:
        """State of the encoder as older versions wrote it."""
        return self.path / "weights.pt"

    @property
    def hub_config(self) -> Path:
        """The configuration in a folder of `speechssl export --to huggingface`."""
        return self.path / "config.json"

    @property
    def hub_weights(self) -> Path:
        """State of the encoder in such a folder."""
        return self.path / "model.safetensors"

    def existing(self) -> tuple[Path, Path] | None:
        """Return the files of configuration and weights that are there, or None."""
        own = (self.weights, self.weights_before_format_1)
        hub = (self.hub_weights, self.path / "pytorch_model.bin")
        for config, candidates in ((self.config, own), (self.hub_config, hub)):
            for weights in candidates:
                if config.is_file() and weights.is_file():
                    return config, weights
        return None


class RunFolder:
    """Names of the files in a run folder of `speechssl train`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def config(self) -> Path:
        """Resolved configuration."""
        return self.path / "config.yaml"

    @property
    def about(self) -> Path:
        """Version, commit, seed, and which data."""
        return self.path / "about.yaml"

    @property
    def skipped(self) -> Path:
        """Utterances that were left out, with the reason."""
        return self.path / "skipped.tsv"

    @property
    def log(self) -> Path:
        """One JSON object for each logged step."""
        return self.path / "log.jsonl"

    @property
    def trackers(self) -> Path:
        """What is tracked where, and how far (`train.tracking`)."""
        return self.path / "trackers.json"

    @property
    def last(self) -> Path:
        """State of every network, and all else that resuming needs."""
        return self.path / "last.pt"

    @property
    def model(self) -> ModelFolder:
        """The model that users get."""
        return ModelFolder(self.path / "model")

    @property
    def untrained(self) -> ModelFolder:
        """The model before the first step, the floor of every evaluation."""
        return ModelFolder(self.path / "untrained")

    @property
    def snapshots(self) -> Path:
        """Encoders of earlier saves."""
        return self.path / "snapshots"


SHIPPED_MODELS = Path(__file__).parent / "models"
"""The models that come with the package, a folder each; its name is the model's."""


def shipped_models() -> dict[str, str]:
    """Return name -> description of the models that come with the package.

    The description is the first line of the model card's text, `README.md`.
    """
    descriptions = {}
    for folder in sorted(SHIPPED_MODELS.iterdir()):
        if ModelFolder(folder).existing() is not None:
            lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
            descriptions[folder.name] = next(line for line in lines[1:] if line.strip())
    return descriptions


def model_folder(path: str | Path) -> ModelFolder:
    """Return the model in `path`: a model folder, or a run folder (its `model/`).

    Where there is no such path, the name of a model that comes with the package stands for it.
    """
    run = RunFolder(path)
    here = ModelFolder(path)
    if here.existing() is None and run.model.existing() is not None:
        return run.model
    name = str(path)
    shipped = ModelFolder(SHIPPED_MODELS / name)
    if not Path(path).exists() and Path(name).name == name and shipped.existing() is not None:
        return shipped
    return here


def refuse_unreadable_folder(what: str, path: Path) -> None:
    """Raise UserError if a folder is there and may not be read; `what` needs it."""
    try:
        with os.scandir(path):
            os.stat(path / ".")  # listing needs one permission, reaching what is inside another
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UserError(
            f"{what}: {path} cannot be read ({error.strerror}); make it readable, or give another"
        ) from error

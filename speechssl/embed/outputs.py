"""Where `embed_to_file` writes: one file, merged from parts in the end, or a folder of parquet files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from speechssl.audio.remotes import is_address
from speechssl.audio.walk import PassedOver
from speechssl.data.manifest import Utterance
from speechssl.data.vectors.files import VectorWriter
from speechssl.data.vectors.folder_writer import open_folder
from speechssl.data.vectors.format import Span
from speechssl.data.vectors.places import Place
from speechssl.embed.batches import Failure
from speechssl.embed.folders import FolderShare, forget_reports, means_folder, take_reports
from speechssl.embed.partial import (
    PartialWriter,
    merge,
    open_partial_results,
    read_reports,
    remove_partial_results,
)
from speechssl.embed.scratch import scratch_folder
from speechssl.errors import UserError, writing
from speechssl.files import remove_partial
from speechssl.locks import sole_writer, sole_writer_in
from speechssl.text import tsv_cell


@dataclass(frozen=True)
class Plan:
    """What a run embeds: the same in every process.

    Attributes:
        utterances: all of them, in the order of the inputs.
        skipped: lines of Kaldi files that name nothing that can be embedded.
        parts: the folder of parts, or of what processes tell each other.
        folder: of parquet files, if embeddings are written into one; otherwise None.
        done: ids of the utterances whose embeddings are there already.
        spans: id -> where it lies in its recording, for windows.
        passed_over: files in the folders that are no audio.
        mixed: of the first recordings, how many have channels that are mixed, and of how many.
    """

    utterances: list[Utterance]
    skipped: list[Failure]
    parts: Path
    folder: str | None
    done: set[str]
    spans: dict[str, Span]
    passed_over: list[PassedOver]
    mixed: tuple[int, int] = (0, 0)

    def writer(self) -> PartialWriter | FolderShare:
        """Return what takes the embeddings of one process."""
        if self.folder is None:
            return PartialWriter(self.parts)
        return FolderShare(self.folder, self.spans)


class Output(Protocol):
    """The output of a run, a context manager.

    Attributes:
        name: what the user gave as `out`.
        parts: a folder for what the processes of the run write until the end.
        folder: path or address of a folder of parquet files; None for a file.
        failed_list: the file that lists failures; None: standard error.
        passed_over_list: the file that lists what is no audio; None: there is none.
    """

    name: str
    parts: Path
    folder: str | None
    failed_list: str | None
    passed_over_list: str | None

    def __enter__(self) -> Output: ...

    def __exit__(self, *error: Any) -> None: ...

    def open(self) -> None:
        """Begin to write, as the only writer."""
        ...

    def begin(self, made_by: str, resume: bool) -> set[str]:
        """Make ready, and return the ids that an earlier run has left.

        Args:
            made_by: what decides the numbers (a digest of model and settings).
            resume: go on from them.

        Raises:
            UserError: they are of another model, or the output cannot be used.
        """
        ...

    def list_passed_over(self, passed_over: Sequence[PassedOver]) -> None:
        """Write what is no audio to its file, a path and a reason a line; remove an older one."""
        ...

    def finish(self, plan: Plan) -> tuple[int, list[Failure], float]:
        """Complete the output when all processes are done.

        Returns:
            The number of embeddings in it, the failures, and the seconds of audio.

        Raises:
            UserError: there are no embeddings.
        """
        ...


def open_output(name: str) -> Output:
    """Return the output that a name means; see `embed_to_file`."""
    return FolderOutput(name) if means_folder(name) else FileOutput(name)


class FileOutput:
    """One file, and the folder of parts beside it.

    If its block ends with an error, the file stays as it was, and the folder of parts
    is there for `resume`.
    """

    folder: str | None = None
    _writer: VectorWriter

    def __init__(self, name: str) -> None:
        self.name = name
        self.parts = Path(f"{name}.parts")
        self.failed_list = None if name == "-" else f"{name}.failed"
        self.passed_over_list = None if name == "-" else f"{name}.passed_over"
        self._resources = ExitStack()
        self._file = ExitStack()

    def __enter__(self) -> FileOutput:
        self._resources.push(self._file)
        if self.name == "-":
            self.parts = self._resources.enter_context(scratch_folder()) / "parts"
        return self

    def __exit__(self, *error: Any) -> None:
        self._resources.__exit__(*error)

    def open(self) -> None:
        """Begin to write the file of embeddings, as its only writer."""
        if self.name != "-":
            path = Path(self.name)
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            self._resources.enter_context(sole_writer(path))
            remove_partial(f"{path}.failed")
        self._writer = self._file.enter_context(VectorWriter(self.name))

    def begin(self, made_by: str, resume: bool) -> set[str]:
        """Make the folder of parts ready; see `Output`."""
        done = open_partial_results(self.parts, made_by, resume)
        if self.failed_list is not None:
            Path(self.failed_list).unlink(missing_ok=True)
        return done

    def list_passed_over(self, passed_over: Sequence[PassedOver]) -> None:
        """Write what is no audio to its file; see `Output`."""
        if self.passed_over_list is not None:
            _write_list(self.passed_over_list, _passed_over_lines(passed_over))

    def finish(self, plan: Plan) -> tuple[int, list[Failure], float]:
        """Merge the parts into the file and remove them; see `Output`."""
        order = [utterance.id for utterance in plan.utterances]
        failed, audio_seconds = read_reports(self.parts, order)
        failed = [*plan.skipped, *failed]
        list_failed(self.failed_list, failed)
        embedded = merge(self.parts, order, self._writer, plan.spans)
        if not embedded:
            remove_partial_results(self.parts)
            raise nothing_embedded(failed)
        self._file.close()  # the file is in its place before the parts are removed
        remove_partial_results(self.parts)
        return embedded, failed, audio_seconds


class FolderOutput:
    """A folder of parquet files, on a disk or behind an address.

    Whatever ends the block, the files that were written stay, for `resume`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder: str | None = name
        base = name.rstrip("/")
        if is_address(name) and "/" not in base.partition("://")[2]:
            raise UserError(f"{name}: is a whole bucket; give a folder in it, such as {base}/emb")
        if not is_address(name) and Path(name).name in ("", ".."):  # `.`: the lists lie beside it
            base = str(Path(name).resolve())
        self._place = Place(name)
        self.failed_list: str | None = f"{base}.failed"
        self.passed_over_list: str | None = f"{base}.passed_over"
        self._resources = ExitStack()

    def __enter__(self) -> FolderOutput:
        self.parts = self._resources.enter_context(scratch_folder())
        return self

    def __exit__(self, *error: Any) -> None:
        self._resources.__exit__(*error)

    def open(self) -> None:
        """Take the folder as its only writer; behind an address nobody can be kept away."""
        if self._place.is_local:
            self._resources.enter_context(sole_writer_in(self.name))

    def begin(self, made_by: str, resume: bool) -> set[str]:
        """Look at what is there; see `Output`."""
        done = open_folder(self._place, made_by, resume)
        forget_reports(self._place)
        _write_list(f"{self.failed_list}", [])
        return done

    def list_passed_over(self, passed_over: Sequence[PassedOver]) -> None:
        """Write what is no audio to its file; see `Output`."""
        _write_list(f"{self.passed_over_list}", _passed_over_lines(passed_over))

    def finish(self, plan: Plan) -> tuple[int, list[Failure], float]:
        """Collect what the processes report; see `Output`."""
        failed, audio_seconds, written = take_reports(self._place)
        place_of = {utterance.id: index for index, utterance in enumerate(plan.utterances)}
        failed.sort(key=lambda failure: place_of[failure.id])
        failed = [*plan.skipped, *failed]
        list_failed(self.failed_list, failed)
        embedded = written + len(plan.done & place_of.keys())
        if not embedded:
            raise nothing_embedded(failed)
        return embedded, failed, audio_seconds


def nothing_embedded(failed: Sequence[Failure]) -> UserError:
    """Return the error of a run in which every utterance failed, or which was given none."""
    if not failed:
        return UserError("embed: the inputs name no recordings; check them")
    return UserError(
        f"embed: none of {len(failed)} utterances could be embedded; the first:"
        f" {failed[0].path}: {failed[0].reason}"
    )


def list_failed(path: str | None, failed: Sequence[Failure]) -> None:
    """Write the failures to their file, or to standard error if the embeddings go to stdout."""
    lines = []
    for failure in failed:
        cells = (failure.id, failure.path, failure.reason)
        lines.append("\t".join(tsv_cell(cell) for cell in cells) + "\n")
    if path is None:
        sys.stderr.writelines(lines)
    elif lines:
        _write_list(path, lines)


def _passed_over_lines(passed_over: Sequence[PassedOver]) -> list[str]:
    return [f"{tsv_cell(item.path)}\t{tsv_cell(item.reason)}\n" for item in passed_over]


def _write_list(name: str, lines: Sequence[str]) -> None:
    """Write lines to a file on a disk or behind an address; without lines it is removed."""
    folder, _, file = name.rpartition("/")
    place = Place(folder or ("/" if name.startswith("/") else "."))
    if lines:
        # Paths may hold bytes that are not UTF-8.
        place.write(file, "".join(lines).encode("utf-8", "surrogateescape"))
    else:
        place.remove(file)

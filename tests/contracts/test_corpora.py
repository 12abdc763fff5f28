"""What every corpus promises, on a tree in its own layout (tests/corpora/trees.py)."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl import parts
from speechssl.audio import reading
from speechssl.cli import main
from speechssl.data.kaldi import label_names
from speechssl.data.manifest import read_manifest
from speechssl.data.validation import validate
from speechssl.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "corpora"))
import trees

NAMES = parts.names("corpora")
READ = [name for name in NAMES if name != "synthetic"]  # those that read audio


def built(name: str, root: Path) -> trees.Tree:
    """The miniature tree of a corpus below `root`."""
    assert hasattr(trees, name), f"add a function {name} to tests/corpora/trees.py"
    return getattr(trees, name)(root)


def prepared(name: str, folder: Path, **settings) -> tuple[trees.Tree, list[Path]]:
    """The tree of a corpus and the Kaldi directories made of it, below `folder`."""
    tree = built(name, folder / "corpus")
    parts.find("corpora", name)(tree.root, folder / "out", **tree.settings, **settings)
    return tree, [folder / "out" / directory for directory in tree.directories]


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_function_of_root_out_and_settings_that_says_its_layout(name):
    prepare = parts.find("corpora", name)
    root, out, *settings = inspect.signature(prepare).parameters.values()
    assert (root.name, out.name) == ("root", "out")
    assert all(setting.kind is setting.KEYWORD_ONLY for setting in settings)
    assert all(setting.default is not setting.empty for setting in settings)
    documentation = inspect.getdoc(inspect.getmodule(prepare))
    assert name not in READ or "\nLayout: " in documentation


@pytest.mark.parametrize("name", NAMES)
def test_what_it_writes_is_valid(name, tmp_path, capsys):
    _tree, directories = prepared(name, tmp_path)
    for directory in directories:
        assert validate(directory, read_audio=True) == []
        assert main(["validate", str(directory)]) == 0


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_unique_and_sorted_and_lengths_are_those_of_the_audio(name, tmp_path):
    _tree, directories = prepared(name, tmp_path)
    for directory in directories:
        manifest = read_manifest(directory)
        assert manifest.ids == sorted(set(manifest.ids))
        for utterance in manifest:
            whole = reading.info(utterance.path).seconds
            stop = whole if utterance.stop is None else utterance.stop
            assert 0 <= utterance.start < stop <= whole + 1e-6
            assert utterance.seconds == pytest.approx(stop - utterance.start, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_it_writes_the_labels_that_it_documents(name, tmp_path):
    tree, directories = prepared(name, tmp_path)
    prepare = parts.find("corpora", name)
    documentation = inspect.getdoc(prepare) + inspect.getdoc(inspect.getmodule(prepare))
    for directory in directories:
        assert label_names(directory) == sorted(tree.labels)
        read_manifest(directory, labels=label_names(directory))  # each utterance has a value
    for label in tree.labels:
        if label != "spk" and name != "folder":  # whose labels are the user's
            assert f"utt2{label}" in documentation


@pytest.mark.parametrize("name", READ)
def test_a_corrupt_and_a_silent_file_are_left_out_and_listed(name, tmp_path, capsys):
    prepare = parts.find("corpora", name)
    settings = {"check": True} if "check" in inspect.signature(prepare).parameters else {}
    tree, _ = prepared(name, tmp_path, **settings)
    before = read_manifest(tmp_path / "out")
    corrupt, silent = (Path(utterance.path) for utterance in before.utterances[:2])
    corrupt.write_text("this is not audio, only words\n" * 9)
    soundfile.write(silent, np.zeros(16000), 16000)
    capsys.readouterr()
    prepare(tree.root, tmp_path / "out", **tree.settings, **settings)
    assert "2 files skipped (1 corrupt, 1 silent)" in capsys.readouterr().err
    assert read_manifest(tmp_path / "out").ids == before.ids[2:]
    assert validate(tmp_path / "out", read_audio=True) == []
    header, *rows = (tmp_path / "out/skipped.tsv").read_text().splitlines()
    assert header == "path\treason"
    reasons = dict(row.split("\t") for row in rows)
    for path, kind in ((corrupt, "corrupt"), (silent, "silent")):
        (listed,) = [reason for end, reason in reasons.items() if str(path).endswith(end)]
        assert listed.startswith(kind)


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("exists", [True, False])
def test_an_empty_root_is_one_line_that_names_the_layout(name, exists, tmp_path):
    layout = built(name, tmp_path / "corpus").layout
    root = tmp_path / "nothing"
    if exists:
        root.mkdir()
    with pytest.raises(UserError) as caught:
        parts.find("corpora", name)(root, tmp_path / "out")
    message = str(caught.value)
    assert str(root) in message and "\n" not in message and "; " in message
    assert layout in message or not exists
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_second_run_writes_the_same_bytes(name, tmp_path):
    tree, _ = prepared(name, tmp_path)
    first = contents(tmp_path)
    parts.find("corpora", name)(tree.root, tmp_path / "out", **tree.settings)
    assert contents(tmp_path) == first

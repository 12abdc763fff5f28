"""Trial lists in both formats, and lines that are in neither."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from speechssl.data.trials import read_trials, write_trials
from speechssl.errors import UserError

KALDI = "a/1.wav b/1.wav nontarget\na/1.wav a/2.wav target\n"
VOXCELEB = "0 a/1.wav b/1.wav\n1 a/1.wav a/2.wav\n"


@pytest.mark.parametrize(
    "text", [KALDI, VOXCELEB, VOXCELEB.replace(" ", "\t").replace("\n", "\r\n\n")]
)
def test_both_formats_say_the_same(tmp_path: Path, text: str) -> None:
    (tmp_path / "trials").write_bytes(text.encode())
    trials = read_trials(tmp_path / "trials")
    assert trials.enrol.tolist() == ["a/1.wav", "a/1.wav"]
    assert trials.test.tolist() == ["b/1.wav", "a/2.wav"]
    assert trials.target.tolist() == [False, True]
    assert trials.target.dtype == bool
    assert len(trials) == 2
    assert trials.ids() == ["a/1.wav", "a/2.wav", "b/1.wav"]
    assert trials.unknown(["a/1.wav", "a/2.wav"]) == ["b/1.wav"]


def test_writing_either_format(tmp_path: Path) -> None:
    (tmp_path / "trials").write_text(KALDI)
    trials = read_trials(tmp_path / "trials")
    write_trials(trials, tmp_path / "kaldi")
    write_trials(trials, tmp_path / "voxceleb", style="voxceleb")
    assert (tmp_path / "kaldi").read_text() == KALDI
    assert (tmp_path / "voxceleb").read_text() == VOXCELEB


def test_ids_that_look_like_keys(tmp_path: Path) -> None:
    (tmp_path / "trials").write_text("1 0 target\n0 1 nontarget\n")
    trials = read_trials(tmp_path / "trials")
    assert (trials.enrol.tolist(), trials.target.tolist()) == (["1", "0"], [True, False])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("1 a\n", ":1: '1 a' is not a trial"),
        ("1 a b\n\n1 a b c\n", ":3: '1 a b c' is not a trial"),
        ("a b target\na b yes\n", ":2: 'a b yes' is not a trial"),
        ("2 a b\n", ":1: '2 a b' is not a trial"),
    ],
)
def test_bad_lists(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "trials").write_text(text)
    with pytest.raises(UserError, match="^[^\n]*$") as caught:
        read_trials(tmp_path / "trials")
    assert words in str(caught.value)


def test_missing_list_and_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_trials(tmp_path / "none")
    with pytest.raises(UserError, match="cannot be read"):
        read_trials(tmp_path)


def test_a_digest_is_that_of_the_trials_in_whichever_format_and_of_no_others(
    tmp_path: Path,
) -> None:
    lists = {
        "kaldi": "a b target\nc d nontarget\n",
        "voxceleb": "1 a b\n0  c\td\n\n",
        "other order": "c d nontarget\na b target\n",
        "other answer": "a b target\nc d target\n",
        "other sides": "a b target\nd c nontarget\n",
        "shorter": "a b target\n",
    }
    digests = {}
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        digests[name] = read_trials(tmp_path / name).sha256()
    assert digests["kaldi"] == digests["voxceleb"] and len(set(digests.values())) == 5
    by_hand = b"a\nc\n\n" + b"b\nd\n\n" + b"\x01\x00"
    assert digests["kaldi"] == hashlib.sha256(by_hand).hexdigest()

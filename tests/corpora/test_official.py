"""Official lists: what is read, and lists that are none."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import trees

from speechssl.corpora import cn_celeb, sitw, voxsrc
from speechssl.corpora.official import AudioCheck, compare_trials, read_answers, read_lines
from speechssl.data.trials import Trials
from speechssl.errors import UserError

ANSWERS = {"tgt": True, "imp": False}


def test_lines_are_numbered_as_in_an_editor(tmp_path):
    path = tmp_path / "list"
    path.write_text("\ufeffa b\n\n  c\td \r\ne\nf g h")
    left_out = []
    rows = list(read_lines(path, left_out, shape="`x y`", fields=range(2, 3)))
    assert rows == [(1, ["a", "b"]), (3, ["c", "d"])]
    assert left_out == [
        ("list:4", "wrong line: 'e' is not `x y`"),
        ("list:5", "wrong line: 'f g h' is not `x y`"),
    ]


def test_answers_and_counts(tmp_path, capsys):
    path = tmp_path / "key.lst"
    path.write_text(
        "m a.flac tgt\nm b.flac imp extra\nm c.flac perhaps\n" + "x" * 1001 + " a tgt\n"
    )
    left_out = []
    trials = read_answers(path, left_out, ANSWERS, fields=(3, 4), test_id=str.upper)
    assert trials.test.tolist() == ["A.FLAC", "B.FLAC"]
    assert trials.target.tolist() == [True, False]
    assert [where for where, _ in left_out] == ["key.lst:3", "key.lst:4"]
    compare_trials(path, trials, (2, 1), partial=False)
    assert "as published" in capsys.readouterr().err
    with pytest.raises(UserError, match="2 trials, 1 of them targets, where 3 and 1 are published"):
        compare_trials(path, trials, (3, 1), partial=False)


def test_what_has_no_audio_is_left_out_and_said_once(tmp_path, capsys):
    audio = AudioCheck(["a", "b"])
    models = audio.models("enrol", {"m": ["a", "gone"], "n": ["gone"], "o": ["b"]})
    assert models == {"m": ["a"], "o": ["b"]}
    trials = Trials(
        np.array(["m", "n", "o", "who"]), np.array(["b", "b", "z", "a"]), np.array([True] * 4)
    )
    assert len(audio.trials("list", trials, models)) == 1
    good = Trials(np.array(["o"]), np.array(["a"]), np.array([False]))
    assert audio.trials("complete", good, models) is good
    with pytest.raises(UserError, match=r"3 utterances .*: trials 3 of 4 of list; do it, or leave"):
        audio.report(tmp_path, False, "do it")
    audio.report(tmp_path, True, "do it")
    assert (tmp_path / "missing.tsv").read_text().splitlines()[1:] == [
        "gone\tenrol",
        "who\tlist",
        "z\tlist",
    ]
    AudioCheck([]).report(tmp_path, False, "do it")
    assert not (tmp_path / "missing.tsv").exists()


LISTS = [
    (cn_celeb, "CN-Celeb_flac/eval/lists/trials.lst"),
    (cn_celeb, "CN-Celeb_flac/eval/lists/enroll.lst"),
    (sitw, "eval/keys/core-core.lst"),
    (sitw, "eval/keys/meta.lst"),
    (voxsrc, "voxsrc2021_val.txt"),
]


@pytest.mark.parametrize(("corpus", "name"), LISTS)
def test_a_list_that_is_no_text_is_one_line(corpus, name, tmp_path):
    tree = getattr(trees, corpus.__name__.rpartition(".")[2])(tmp_path / "corpus")
    path: Path = tree.root / name
    path.write_bytes(b"1 a\0b c\n")
    with pytest.raises(UserError, match="null bytes") as caught:
        corpus.prepare(tree.root, tmp_path / "out", partial=True)
    assert name in str(caught.value) and "\n" not in str(caught.value)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError):  # a FIFO would block, is refused or is no list of the corpus
        corpus.prepare(tree.root, tmp_path / "out", partial=True)

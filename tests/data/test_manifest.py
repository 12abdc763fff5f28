"""Kaldi directories: what is read from hand-written files, and every way in which a line can be
wrong.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from killing import killed_at_every_rename

from speechssl.audio import reading
from speechssl.data.manifest import Manifest, Utterance, read_manifest, write_manifest
from speechssl.data.validation import validate
from speechssl.errors import UserError


@pytest.fixture
def kaldi(tmp_path: Path) -> Path:
    """Two recordings of 1 and 2 s, two speakers, an emotion."""
    for name, seconds in (("a", 1), ("b", 2)):
        samples = 0.1 * np.random.default_rng(0).standard_normal(seconds * 8000)
        soundfile.write(tmp_path / f"{name} ü.wav", samples, 8000)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "wav.scp").write_text(f"a {tmp_path}/a ü.wav\nb\t{tmp_path}/b ü.wav\r\n")
    (folder / "utt2spk").write_text("a ann\nb bob\n")
    (folder / "spk2utt").write_text("ann a\nbob b\n")
    (folder / "utt2emotion").write_text("a happy\nb very sad\n")
    return folder


def test_recordings_labels_and_durations_from_headers(kaldi: Path) -> None:
    manifest = read_manifest(kaldi, labels=["spk", "emotion"])
    assert manifest.ids == ["a", "b"]
    assert manifest.labels == {
        "spk": {"a": "ann", "b": "bob"},
        "emotion": {"a": "happy", "b": "very sad"},
    }
    assert manifest.utterances[1] == Utterance("b", f"{kaldi.parent}/b ü.wav", 0.0, None, 2.0)
    assert (len(manifest), manifest.seconds) == (2, 3.0)
    assert validate(kaldi, read_audio=True) == []


def test_durations_from_utt2dur_spare_the_headers(
    kaldi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kaldi / "utt2dur").write_text("a 1.25\nb 2\n")
    monkeypatch.setattr(reading, "info", None)
    assert [utterance.seconds for utterance in read_manifest(kaldi)] == [1.25, 2.0]


def test_the_beginning_of_an_utterance() -> None:
    segment = Utterance("a", "a.wav", start=1.0, stop=2.0, seconds=1.0, channel=2)
    assert segment.beginning(0.25) == Utterance("a", "a.wav", 1.0, 1.25, 0.25, channel=2)
    assert segment.beginning(3.0) == segment  # shorter
    assert segment.beginning(math.inf) == segment
    whole = Utterance("b", "b.wav", seconds=0.5)  # as utt2dur says, which may be wrong
    assert whole.beginning(2.0) == Utterance("b", "b.wav", 0.0, 2.0, 0.5)
    assert whole.beginning(math.inf) == whole


def test_labels_are_opened_only_when_asked_for(kaldi: Path) -> None:
    for name in ("utt2spk", "utt2emotion", "spk2utt"):
        (kaldi / name).unlink()
        (kaldi / name).mkdir()  # reading it would fail
    manifest = read_manifest(kaldi)
    assert (manifest.ids, manifest.labels) == (["a", "b"], {})


def test_all_labels_allow_gaps_and_named_ones_do_not(kaldi: Path) -> None:
    (kaldi / "utt2emotion").write_text("a happy\nelse sad\n")
    assert read_manifest(kaldi, "all").labels["emotion"] == {"a": "happy"}
    with pytest.raises(UserError, match="utt2emotion: no value for 'b'"):
        read_manifest(kaldi, "emotion")
    manifest = read_manifest(kaldi, "emotion", on_bad="skip")
    assert manifest.ids == ["a"]
    assert [name for name, _ in manifest.skipped] == ["b"]
    with pytest.raises(UserError, match=r"no label 'age'; labels here: emotion, spk"):
        read_manifest(kaldi, ["age"])


def test_segments(kaldi: Path) -> None:
    (kaldi / "segments").write_text("b-2 b 1.5 -1\nb-1 b 0.25 1.5\na-1 a 0 1\n")
    first, second, third = read_manifest(kaldi).utterances
    assert (first.id, first.start, first.stop, first.seconds) == ("a-1", 0.0, 1.0, 1.0)
    assert (second.id, second.start, second.stop, second.seconds) == ("b-1", 0.25, 1.5, 1.25)
    assert (third.id, third.start, third.stop, third.seconds) == ("b-2", 1.5, None, 0.5)


@pytest.mark.parametrize(
    ("name", "line", "words"),
    [
        ("wav.scp", "a /x.wav", "'a' is there twice"),
        ("wav.scp", "c", "'c' has no value"),
        ("wav.scp", "c /no/such.wav", "no such file: /no/such.wav"),
        ("wav.scp", "c sox x.wav -t wav - |", "shell pipe; refused unless --allow-pipes"),
        ("utt2spk", "a ann", "'a' is there twice"),
        ("utt2spk", "c", "'c' has no value"),
        ("utt2dur", "a -1", "'-1' is not a duration"),
        ("utt2dur", "b nan", "'nan' is not a duration"),
        ("utt2dur", "b long", "'long' is not a duration"),
        ("segments", "b-1 zzz 0 1", "recording 'zzz'"),
        ("segments", "b-1 b 1.0 1.0", "1.0 to 1.0 is no span"),
        ("segments", "b-1 b 1.5 1.0", "1.5 to 1.0 is no span"),
        ("segments", "b-1 b -3 1.0", "is no span"),
        ("segments", "b-1 b x y", "is no span"),
        ("segments", "b-1 b 1.0", "needs `recording start stop`"),
        ("segments", "b-1 b 0 1 A", "needs `recording start stop`"),
        ("segments", "a-1 a 0 1", "'a-1' is there twice"),
        ("segments", "b-1 b 5 -1", "ends at 2.000 s"),
    ],
)
def test_bad_lines_are_named_or_skipped(kaldi: Path, name: str, line: str, words: str) -> None:
    if name == "segments":
        (kaldi / "segments").write_text("a-1 a 0 1\n")
        for label in ("utt2spk", "spk2utt"):
            (kaldi / label).write_text("a-1 a-1\nb-1 b-1\n")
    good = read_manifest(kaldi).ids
    with open(kaldi / name, "a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match="^[^\n]*$") as caught:
        read_manifest(kaldi, "spk")
    assert words in str(caught.value)
    manifest = read_manifest(kaldi, "spk", on_bad="skip")
    assert manifest.ids == good
    assert [words in reason for _, reason in manifest.skipped] == [True]
    if "ends at" not in words:
        assert any(words in problem for problem in validate(kaldi))


def test_nothing_left_is_an_error(kaldi: Path) -> None:
    (kaldi / "wav.scp").write_text("a touch /tmp/never |\n")
    with pytest.raises(
        UserError, match="no usable utterance; the first of 1 problems: .*--allow-pipes"
    ):
        read_manifest(kaldi, on_bad="skip")
    (kaldi / "wav.scp").write_text("\n")
    with pytest.raises(UserError, match="no usable utterance"):
        read_manifest(kaldi)
    for folder, words in (
        (kaldi / "none", "no such directory"),
        (kaldi.parent, "holds no wav.scp"),
    ):
        with pytest.raises(UserError, match=words):
            read_manifest(folder)
        assert len(validate(folder)) == 1


def test_allowed_pipes_are_run(kaldi: Path) -> None:
    (kaldi / "wav.scp").write_text(f"a cat '{kaldi.parent}/a ü.wav' |\n")
    (utterance,) = read_manifest(kaldi, allow_pipes=True).utterances
    assert utterance.seconds == 1.0
    assert len(reading.read(utterance.path, 16000)) == 16000
    assert not any("shell pipe" in problem for problem in validate(kaldi, allow_pipes=True))


def test_relative_paths_are_relative_to_the_current_directory(
    kaldi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kaldi / "wav.scp").write_text("a a ü.wav\n")
    with pytest.raises(UserError, match="no such file"):
        read_manifest(kaldi)
    monkeypatch.chdir(kaldi.parent)
    assert read_manifest(kaldi).utterances[0].path == "a ü.wav"


def test_writing_and_reading_returns_the_manifest(kaldi: Path, tmp_path: Path) -> None:
    (kaldi / "segments").write_text("x-1 a 0.125 1\nx-2 b 0 0.5\ny b 0.5 2\n")
    (kaldi / "utt2spk").write_text("x-1 x\nx-2 x\ny y\n")
    (kaldi / "utt2emotion").unlink()
    manifest = read_manifest(kaldi, "all")
    write_manifest(manifest, tmp_path / "copy")
    assert read_manifest(tmp_path / "copy", "all") == manifest
    assert (tmp_path / "copy/segments").read_text() == "x-1 a 0.125 1\nx-2 b 0 0.5\ny b 0.5 2\n"
    assert (tmp_path / "copy/spk2utt").read_text() == "x x-1 x-2\ny y\n"
    assert (tmp_path / "copy/utt2dur").read_text() == "x-1 0.875\nx-2 0.5\ny 1.5\n"
    assert validate(tmp_path / "copy", read_audio=True) == []


def test_written_files_are_sorted_by_bytes_and_stand_alone(kaldi: Path, tmp_path: Path) -> None:
    path = read_manifest(kaldi).utterances[0].path
    names = ["é", "z", "B", "a-b", "aa", "😀", "\u3042", "\uff21"]
    write_manifest(
        Manifest([Utterance(name, path, seconds=1.0) for name in names]), tmp_path / "out"
    )
    lines = (tmp_path / "out/wav.scp").read_bytes().splitlines()
    assert lines == sorted(lines)
    assert len(lines) == len(names)
    assert (tmp_path / "out/utt2spk").read_text().splitlines()[
        0
    ] == "B B"  # its own speaker: no label
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "spk2utt",
        "utt2dur",
        "utt2spk",
        "wav.scp",
    ]
    assert validate(tmp_path / "out") == []


def test_writing_whole_files_removes_old_segments(kaldi: Path) -> None:
    manifest = read_manifest(kaldi)
    (kaldi / "segments").write_text("a-1 a 0 1\n")
    write_manifest(manifest, kaldi)
    assert read_manifest(kaldi).ids == ["a", "b"]


def test_recording_ids_without_a_record_of_them(kaldi: Path, tmp_path: Path) -> None:
    path = read_manifest(kaldi).utterances[1].path
    pieces = [Utterance("x", path, 0.0, 1.0, 1.0), Utterance("y", path, 1.0, None, 1.0)]
    write_manifest(Manifest(pieces), tmp_path / "out")
    assert (tmp_path / "out/wav.scp").read_text() == f"x {path}\n"
    assert (tmp_path / "out/segments").read_text() == "x x 0 1\ny x 1 2\n"


@pytest.mark.parametrize(
    ("utterances", "words"),
    [
        ([Utterance("a", "x.wav"), Utterance("a", "y.wav")], "two utterances have the id 'a'"),
        ([Utterance("a b", "x.wav")], "cannot be an id"),
        ([Utterance("", "x.wav")], "cannot be an id"),
        ([Utterance("a", "x\ny.wav")], "cannot stand in wav.scp"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, utterances: list[Utterance], words: str) -> None:
    with pytest.raises(UserError, match=words):
        write_manifest(Manifest(utterances), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_write_leaves_the_old_file(
    kaldi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(kaldi, "all")
    before = {path.name: path.read_bytes() for path in kaldi.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="cannot be written .No space left"):
        write_manifest(manifest, kaldi)
    assert {path.name: path.read_bytes() for path in kaldi.iterdir()} == before


def test_validate_compares_the_files(kaldi: Path) -> None:
    (kaldi / "utt2spk").write_text("b bob\na ann\nzz who\n")
    (kaldi / "utt2dur").write_text("a 1\n")
    (kaldi / "trials").write_text("1 a b\n0 a nobody\n")
    problems = "\n".join(validate(kaldi))
    for words in (
        "utt2spk: is not sorted",
        "utt2spk: unknown utterance 'zz'",
        "utt2dur: no line for 'b'",
        "spk2utt: is not the inverse",
        "trials: names unknown utterance 'nobody'",
    ):
        assert words in problems
    (kaldi / "utt2spk").unlink()
    assert any("utt2spk: no such file" in problem for problem in validate(kaldi))


def test_validate_reads_every_list_of_trials(kaldi: Path) -> None:
    lists = {
        "trials": "a b nontarget\na b yes\nb b target\n\nb a target\na b\nb zz target\n",
        "trials-O": "1 a nobody\n",
        "trials-empty": "",
        "pairs-blind": "a b\na b 1\n",
        "pairs-answered": "1 a b\n0 b a\n",
    }
    for name, text in lists.items():
        (kaldi / name).write_text(text)
    problems = [problem.removeprefix(f"{kaldi}/") for problem in validate(kaldi)]
    kaldi_form = "write it as `enrol test target|nontarget`, ids without blanks"
    assert problems == [
        f"trials:2: 'a b yes' is not a trial; {kaldi_form}",
        f"trials:6: 'a b' is not a trial; {kaldi_form}",
        "trials:5: 'a' and 'b' are one speaker, in line 1 two speakers; remove one of the two",
        "trials: names unknown utterance 'zz'; remove those trials",
        "trials-O: names unknown utterance 'nobody'; remove those trials",
        "trials-empty: is empty; give one trial a line, `enrol test target|nontarget` or `1|0 enrol"
        " test`",
        "pairs-answered:2: 'a' and 'b' are two speakers, in line 1 one speaker; remove one of the two",
        "pairs-blind:2: 'a b 1' is not `enrol test`, as the first line is; write every line in one"
        " form",
    ]
    for name in lists:
        (kaldi / name).unlink()
    (kaldi / "trials-fine").write_text("1 a a\n0 a b\n0 b a\n")
    (kaldi / "pairs-fine").write_text("a b\nb a\n")
    assert validate(kaldi) == []


def test_the_format_of_most_lines_counts_where_the_first_is_wrong(kaldi: Path) -> None:
    (kaldi / "trials").write_text("trial list\na b nontarget\nb b target\n")
    (problem,) = validate(kaldi)
    assert "trials:1: 'trial list' is not a trial" in problem


def test_of_a_list_with_nothing_but_bad_lines_some_are_named_and_the_others_counted(
    kaldi: Path,
) -> None:
    (kaldi / "trials").write_text("a b\n" * 1000)
    problems = validate(kaldi)
    assert len(problems) == 21
    assert "trials:20: 'a b' is not a trial" in problems[19]
    assert problems[20].endswith("trials: 980 more lines are no trials either")


def test_validate_listens_when_asked_to(kaldi: Path) -> None:
    soundfile.write(kaldi / "silent.wav", np.zeros(8000), 8000)
    (kaldi / "text.wav").write_text("no audio")
    with open(kaldi / "wav.scp", "a") as file:
        file.write(f"c {kaldi}/silent.wav\nd {kaldi}/text.wav\n")
    (kaldi / "segments").write_text("a a 0 3\nb b 0 2\nc c 0 1\nd d 0 1\n")
    (kaldi / "utt2dur").write_text("a 3\nb 1\nc 1\nd 1\n")
    for name in ("utt2spk", "utt2emotion"):
        (kaldi / name).write_text("a a\nb b\nc c\nd d\n")
    (kaldi / "spk2utt").unlink()
    assert validate(kaldi) == []
    problems = validate(kaldi, read_audio=True)
    assert len(problems) == 4
    for words in (
        "silent.wav: is silent",
        "text.wav: corrupt",
        "reaches beyond its end",
        "utt2dur says 1 s",
    ):
        assert any(words in problem for problem in problems)


def test_reading_is_fast(tmp_path: Path) -> None:
    names = [f"id{k:06d}" for k in range(100_000)]
    (tmp_path / "wav.scp").write_text(
        "".join(f"{name} /data/voices/{name}.wav\n" for name in names)
    )
    (tmp_path / "utt2dur").write_text("".join(f"{name} 4.25\n" for name in names))
    start = time.process_time()
    manifest = read_manifest(tmp_path, check_files=False)
    assert time.process_time() - start < 2.0  # a million lines: seconds
    assert (len(manifest), manifest.seconds) == (100_000, 425_000.0)


def test_a_killed_write_leaves_the_old_directory_the_new_one_or_none(
    kaldi: Path, tmp_path: Path
) -> None:
    path = read_manifest(kaldi).utterances[1].path
    pieces = [Utterance("x", path, 0.0, 1.0, 1.0), Utterance("y", path, 1.0, 2.0, 1.0)]
    old = Manifest(pieces, {"spk": {"x": "one", "y": "one"}, "age": {"x": "30", "y": "30"}})
    new = Manifest([Utterance("x", path, seconds=2.0)], {"spk": {"x": "two"}})
    out = tmp_path / "out"
    found = set()
    write_manifest(old, out)
    for _ in killed_at_every_rename(lambda: write_manifest(new, out, outdated=["utt2age"])):
        try:
            manifest = read_manifest(out, "all")
            found.add(tuple(manifest.ids))
            assert manifest.labels == (old if len(manifest) == 2 else new).labels
            assert [u.seconds for u in manifest] == ([1.0, 1.0] if len(manifest) == 2 else [2.0])
        except UserError as error:
            assert "holds no wav.scp" in str(error)
            found.add(())
        write_manifest(old, out)
    assert found == {("x", "y"), (), ("x",)}
    assert read_manifest(out, "all").labels == new.labels

"""A folder of good and bad audio becomes a Kaldi directory, and nothing good is lost."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from builders import RATE, noise, write_audio

from speechssl.audio import reading
from speechssl.corpora.folder import prepare
from speechssl.data.manifest import read_manifest
from speechssl.data.trials import read_trials
from speechssl.data.validation import validate
from speechssl.embed.sources import collect
from speechssl.errors import UserError


def put(root: Path, name: str, samples: np.ndarray, rate: int = RATE, **options: str) -> Path:
    return write_audio(root / name, samples, rate, **options)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four usable files: speakers ann and bob, two sessions."""
    folder = tmp_path / "audio"
    put(folder, "ann/one/1.wav", noise(1.0))
    put(folder, "ann/two/日本 ü.FLAC", noise(2.0, 44100), 44100, format="FLAC")
    put(folder, "bob/one/1.ogg", noise(3.0), format="OGG", subtype="VORBIS")
    put(folder, "bob/two/stereo.wav", np.stack([noise(4.0), noise(4.0, seed=1)], axis=1))
    (folder / "notes.txt").write_text("not audio")
    put(folder, ".hidden/1.wav", noise(1.0))
    put(folder, "._1.wav", noise(1.0))
    return folder


def test_every_file_with_its_path_as_id(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = prepare(root, tmp_path / "out")
    assert manifest.ids == [
        "ann/one/1.wav",
        "ann/two/日本_ü.FLAC",
        "bob/one/1.ogg",
        "bob/two/stereo.wav",
    ]
    assert [round(u.seconds, 3) for u in manifest] == [1.0, 2.0, 3.0, 4.0]
    read = read_manifest(tmp_path / "out", "all")
    assert read.ids == manifest.ids
    assert read.labels == {"spk": {name: name for name in manifest.ids}}
    assert validate(tmp_path / "out", read_audio=True) == []
    out = tmp_path / "out"
    listed = f"; 3 files skipped (3 not audio), listed in {out / 'skipped.tsv'}"
    summary, mixed = capsys.readouterr().err.splitlines()
    assert summary == f"{out}: 4 utterances, 0.00 h{listed}"
    assert mixed.startswith(f"{out}: 1 file with several channels, which are mixed; of calls")
    rows = (out / "skipped.tsv").read_text().splitlines()
    hidden = "not audio: hidden (its name begins with a dot)"
    assert rows[1:] == [
        f"._1.wav\t{hidden}",
        f".hidden\t{hidden}",
        "notes.txt\tnot audio: text",
    ]


def test_bad_files_are_skipped_counted_and_listed(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(root, "bad/silent.wav", np.zeros(RATE))
    put(root, "bad/nearly silent.wav", np.full(RATE, 5e-5), subtype="FLOAT")
    put(root, "bad/short.wav", noise(0.1))
    put(root, "bad/header.wav", np.zeros(0))
    put(root, "bad/nan.wav", np.where(np.arange(RATE) == 9, np.nan, noise(1)), subtype="FLOAT")
    (root / "bad/zero.wav").touch()
    (root / "bad/text.mp3").write_text("no audio here, only words\n" * 9)
    (root / "bad/gone.wav").symlink_to("nowhere.wav")
    cut = put(root, "bad/cut.flac", noise(5)).read_bytes()
    (root / "bad/cut.flac").write_bytes(cut[: len(cut) // 2])
    manifest = prepare(root, tmp_path / "out")
    assert len(manifest) == 4
    kinds = {path: reason.partition(":")[0] for path, reason in manifest.skipped}
    assert kinds == {
        "bad/silent.wav": "silent",
        "bad/nearly silent.wav": "silent",
        "bad/short.wav": "too short",
        "bad/header.wav": "empty",
        "bad/nan.wav": "not finite",
        "bad/zero.wav": "empty",
        "bad/text.mp3": "corrupt",
        "bad/gone.wav": "no such file",
        "bad/cut.flac": "corrupt",
        "._1.wav": "not audio",
        ".hidden": "not audio",
        "notes.txt": "not audio",
    }
    rows = (tmp_path / "out/skipped.tsv").read_text().splitlines()
    assert [row.split("\t")[0] for row in rows] == ["path", *sorted(kinds)]
    line = capsys.readouterr().err.splitlines()[0]
    assert (
        "12 files skipped (2 corrupt, 2 empty, 1 no such file, 3 not audio, 1 not finite, 2 silent,"
        " 1 too short)" in line
    )


def test_without_check_only_headers_are_read(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root, "silent.wav", np.zeros(RATE))
    monkeypatch.setattr(reading, "read", None)
    monkeypatch.setattr(reading, "check", None)
    assert len(prepare(root, tmp_path / "out", check=False)) == 5


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    put(tmp_path / "audio", "a.wav", np.zeros(RATE))
    with pytest.raises(UserError, match=r"none of 1 files can be used; the first, a\.wav: silent"):
        prepare(tmp_path / "audio", tmp_path / "out")
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no audio in it"):
        prepare(tmp_path / "none", tmp_path / "out")
    with pytest.raises(UserError, match="no such directory"):
        prepare(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UserError, match="is a file"):
        prepare(tmp_path / "audio/a.wav", tmp_path / "out")
    with pytest.raises(UserError, match="is the folder of audio itself"):
        prepare(tmp_path / "audio", tmp_path / "audio")


@pytest.mark.parametrize(
    "pattern",
    [
        "{speaker}/{session}/*",
        "{speaker}/**",
        "**/{speaker}/*/*",
        r"^(\w+)/",
        r"(?P<speaker>ann|bob)",
    ],
)
def test_speakers_from_paths_when_asked_for(root: Path, tmp_path: Path, pattern: str) -> None:
    prepare(root, tmp_path / "out", speaker=pattern)
    labels = read_manifest(tmp_path / "out", "all").labels
    assert list(labels["spk"].values()) == ["ann", "ann", "bob", "bob"]
    if "session" in pattern:
        assert list(labels["session"].values()) == ["one", "two", "one", "two"]


def test_patterns_that_do_not_fit(root: Path, tmp_path: Path) -> None:
    manifest = prepare(root, tmp_path / "out", speaker="{speaker}/one/*.wav")
    assert manifest.ids == ["ann/one/1.wav"]
    reasons = sorted(reason.partition(":")[0] for _, reason in manifest.skipped)
    assert reasons == ["not audio"] * 3 + ["path without a speaker"] * 3
    for pattern, words in (
        ("(", "correct the expression"),
        ("abc", "nothing in it is the speaker"),
        ("(a)(b)", "nothing in it is the speaker"),
        ("{speaker}.wav", "none of 4 files"),
    ):
        with pytest.raises(UserError, match=words):
            prepare(root, tmp_path / "out2", speaker=pattern)


def test_a_table_gives_files_and_labels(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "utterances.tsv").write_text(
        "utt\tpath\tspeaker\temotion\tseconds\r\n"
        "u1\tann/one/1.wav\tAnn B\tvery happy\t1\r\n"
        "u2\tbob/one/1.ogg\tBob\t\t3\r\n"
        "u3\tbob/none.wav\tBob\tsad\t3\r\n"
        "u4\tbob/one/1.ogg\tBob\tsad\t3\r\n"
    )
    (root / "trials").write_text("1 ann/one/1.wav bob/one/1.ogg\n0 ann/one/1.wav bob/none.wav\n")
    manifest = prepare(root, tmp_path / "out")
    assert manifest.ids == ["ann/one/1.wav", "bob/one/1.ogg"]
    assert manifest.labels == {
        "spk": {"ann/one/1.wav": "Ann_B", "bob/one/1.ogg": "Bob"},
        "emotion": {"ann/one/1.wav": "very happy"},
    }
    assert manifest.skipped[0][1].startswith("no such file")
    assert manifest.skipped[1] == ("bob/one/1.ogg", "listed twice")
    assert len(read_trials(tmp_path / "out/trials")) == 2
    assert "names 1 utterances that are not in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("file\tspeaker\na.wav\tann\n", "no column `path`"),
        ("path\tspeaker\nann/one/1.wav\n", ":2: 1 columns, but the header has 2"),
        ("path\ta b\nann/one/1.wav\tx\n", "cannot be a label's name"),
        ("path\n", "no audio in it"),
    ],
)
def test_bad_tables(root: Path, tmp_path: Path, table: str, words: str) -> None:
    (root / "utterances.tsv").write_text(table)
    with pytest.raises(UserError, match=words):
        prepare(root, tmp_path / "out")


def test_bad_trials_are_refused_before_anything_is_written(root: Path, tmp_path: Path) -> None:
    (root / "trials").write_text("who knows\n")
    with pytest.raises(UserError, match="trials:1: 'who knows' is not a trial"):
        prepare(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rate", [8000, 16000])
def test_trimming_finds_the_voice(tmp_path: Path, rate: int) -> None:
    """One second of noise between silences of 1 and 2 s that are 60 dB lower."""
    samples = np.concatenate([1e-3 * noise(1, rate), noise(1, rate), 1e-3 * noise(2, rate)])
    put(tmp_path / "audio", "a.wav", samples, rate, subtype="FLOAT")
    (found,) = prepare(tmp_path / "audio", tmp_path / "out", trim=35).utterances
    assert found.start == pytest.approx(1.0, abs=0.1)
    assert found.stop == pytest.approx(2.0, abs=0.1)
    (read,) = read_manifest(tmp_path / "out").utterances
    assert (read.start, read.stop) == pytest.approx((found.start, found.stop))
    assert (tmp_path / "out/wav.scp").read_text() == f"a.wav {tmp_path}/audio/a.wav\n"


def test_trimming_leaves_too_little(tmp_path: Path) -> None:
    click = np.concatenate([np.zeros(RATE), noise(0.05), np.zeros(RATE)])
    put(tmp_path / "audio", "a.wav", click)
    put(tmp_path / "audio", "b.wav", noise(1))
    manifest = prepare(tmp_path / "audio", tmp_path / "out", trim=35)
    assert manifest.ids == ["b.wav"]
    assert manifest.skipped[0][1].endswith("after trimming")


def test_long_files_become_equal_segments(root: Path, tmp_path: Path) -> None:
    manifest = prepare(root, tmp_path / "out", max_seconds=1.5, speaker="{speaker}/**")
    pieces = [u for u in manifest if u.id.startswith("bob/two/stereo.wav")]
    assert [u.id for u in pieces] == [
        "bob/two/stereo.wav-00000000-00001333",
        "bob/two/stereo.wav-00001333-00002667",
        "bob/two/stereo.wav-00002667-00004000",
    ]
    assert [(u.start, u.stop) for u in pieces] == [(0.0, 1.333), (1.333, 2.667), (2.667, 4.0)]
    assert manifest.seconds == pytest.approx(10.0, abs=0.01)
    assert read_manifest(tmp_path / "out", "spk").labels["spk"][pieces[0].id] == "bob"
    assert validate(tmp_path / "out", read_audio=True) == []


def test_a_three_hour_file(tmp_path: Path) -> None:
    """Three hours at 8 kHz, sparse on the disk: cut by its header alone."""
    path = put(tmp_path / "audio", "long.wav", noise(0.01, 8000), 8000, subtype="PCM_U8")
    size = 3 * 3600 * 8000
    header = bytearray(path.read_bytes()[:44])
    header[4:8], header[40:44] = (size + 36).to_bytes(4, "little"), size.to_bytes(4, "little")
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(44 + size)
    manifest = prepare(tmp_path / "audio", tmp_path / "out", check=False, max_seconds=60)
    assert len(manifest) == 180
    assert {u.seconds for u in manifest} == {60.0}


def test_a_second_run_is_the_same_and_leaves_nothing_of_the_first(
    root: Path, tmp_path: Path
) -> None:
    prepare(root, tmp_path / "new")
    put(root, "bad.wav", np.zeros(RATE))
    prepare(root, tmp_path / "out", speaker="{speaker}/{session}/*", trim=35, jobs=1)
    (root / "bad.wav").unlink()
    prepare(root, tmp_path / "out", jobs=4)
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "new" / name).read_bytes()


def test_ids_stay_unique(tmp_path: Path) -> None:
    for name in ("a b.wav", "a_b.wav", "a\u3000b.wav"):
        put(tmp_path / "audio", name, noise(1))
    manifest = prepare(tmp_path / "audio", tmp_path / "out")
    assert manifest.ids == ["a_b.wav", "a_b.wav_2", "a_b.wav_3"]
    assert Path(manifest.utterances[0].path).name == "a_b.wav"  # keeps its name
    embedded = {utterance.id: utterance.path for utterance in collect([tmp_path / "audio"])[0]}
    assert embedded == {utterance.id: utterance.path for utterance in manifest.utterances}
    assert len({u.path for u in read_manifest(tmp_path / "out")}) == 3


def test_links_and_loops(root: Path, tmp_path: Path) -> None:
    (root / "loop").symlink_to(root)
    put(tmp_path / "else", "x.wav", noise(1))
    (root / "linked").symlink_to(tmp_path / "else")
    assert "linked/x.wav" in prepare(root, tmp_path / "out").ids
    assert len(read_manifest(tmp_path / "out")) == 5


def test_line_breaks_in_names(root: Path, tmp_path: Path) -> None:
    put(root, "a\nb.wav", noise(1))
    manifest = prepare(root, tmp_path / "out")
    assert len(manifest) == 4
    assert "line break in its name" in (tmp_path / "out/skipped.tsv").read_text()
    assert len(manifest.skipped) == 4


@pytest.mark.parametrize(
    "options", [{"trim": 0.0}, {"max_seconds": -1.0}, {"jobs": 0}, {"min_seconds": -1.0}]
)
def test_bad_numbers(root: Path, tmp_path: Path, options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="give a number"):
        prepare(root, tmp_path / "out", **options)  # type: ignore[arg-type]


def test_real_speech(tmp_path: Path) -> None:
    if "SPEECHSSL_DATA" not in os.environ:
        pytest.skip("SPEECHSSL_DATA is not set")
    root = Path(os.environ["SPEECHSSL_DATA"], "librispeech_test")
    manifest = prepare(root, tmp_path / "out", check=False)
    assert len(manifest) == 100
    assert len(set(manifest.labels["spk"].values())) == 10
    assert len(read_trials(tmp_path / "out/trials")) == 4950
    assert validate(tmp_path / "out") == []

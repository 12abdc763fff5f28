"""VoxCeleb in miniature: generated trees in the real layout, and the lists in the real format."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trees
from trees import put

from speechssl.__main__ import main
from speechssl.corpora import voxceleb1, voxceleb2
from speechssl.data.manifest import read_manifest
from speechssl.data.trials import read_trials
from speechssl.data.validation import validate
from speechssl.errors import UserError

RATE = 16000
LIST = trees.VOXCELEB1_LIST


def put_m4a(path: Path, seconds: float = 1.0) -> Path:
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = (0.1 * np.random.default_rng(0).standard_normal(round(seconds * RATE))).astype(
        np.float32
    )
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return trees.voxceleb1(tmp_path / "vox1").root


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is published, brought down to the size of the tree."""
    monkeypatch.setattr(voxceleb1, "ALL", voxceleb1.Published("VoxCeleb1", 2, 3))
    small = voxceleb1.List("veri_test2.txt", 2, 1, hashlib.md5(LIST.encode()).hexdigest())
    monkeypatch.setitem(voxceleb1.LISTS, "O", small)


def test_published_counts_add_up() -> None:
    assert (voxceleb1.ALL.speakers, voxceleb1.ALL.utterances) == (1251, 153516)
    assert (voxceleb2.DEV.speakers, voxceleb2.DEV.utterances) == (5994, 1092009)
    for (
        name,
        published,
    ) in voxceleb1.LISTS.items():  # every list is balanced to within a few hundred trials
        assert abs(published.trials - 2 * published.targets) < 200, name
        assert len(published.md5) == 32
        if name.endswith("-original"):  # cleaning only took trials away
            assert published.trials > voxceleb1.LISTS[name[0]].trials


@pytest.mark.usefixtures("complete")
def test_a_complete_corpus_with_its_list(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    voxceleb1.prepare(root, out)
    manifest = read_manifest(out, "spk")
    assert manifest.ids == [
        "id10270/5r0dWxy17C8/00001.wav",
        "id10270/x6uYqmx31kE/00001.wav",
        "id10300/ize_eiCFEg0/00003.wav",
    ]
    assert list(manifest.labels["spk"].values()) == ["id10270", "id10270", "id10300"]
    assert [u.seconds for u in manifest] == [1.0, 2.0, 1.0]
    assert (out / "trials-O").read_text() == LIST
    assert read_trials(out / "trials-O").target.tolist() == [True, False]
    assert validate(out, read_audio=True) == []
    assert not (out / "missing.tsv").exists()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("VoxCeleb1 (2 speakers, 3 utterances): complete")
    assert lines[1].endswith("VoxCeleb1-O, 2 trials, checksum as published")


@pytest.mark.usefixtures("complete")
def test_another_checksum_or_length_of_a_list(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "veri_test2.txt").write_text(LIST.replace("\n", "\r\n"))
    voxceleb1.prepare(root, tmp_path / "out")
    assert "as published, but its checksum is another" in capsys.readouterr().err
    monkeypatch.setitem(voxceleb1.LISTS, "O", replace(voxceleb1.LISTS["O"], trials=37611))
    (root / "veri_test2.txt").write_text(LIST + LIST.splitlines()[0] + "\n")
    with pytest.raises(
        UserError, match=r"3 trials, 2 of them targets, where VoxCeleb1-O has 37,611 and 1;"
    ):
        voxceleb1.prepare(root, tmp_path / "out")


def test_incomplete_is_refused_in_one_line_before_files_are_read(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", "voxceleb1", str(root), str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        "2 speakers and 3 utterances found, where VoxCeleb1 test (40 speakers, 4,874 utterances)"
        in line
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("complete")
def test_trials_without_audio(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = root / "more/wav/id10300/ize_eiCFEg0/00003.wav"
    lost.rename(lost.with_name("00004.wav"))
    with pytest.raises(
        UserError, match=r"1 utterances of trials have no audio .*: trials 1 of 2 of O; unpack"
    ):
        voxceleb1.prepare(root, tmp_path / "out")
    listed = (tmp_path / "out/missing.tsv").read_text()
    assert listed == "utterance\tlists\nid10300/ize_eiCFEg0/00003.wav\tO\n"
    assert not (tmp_path / "out/wav.scp").exists()
    voxceleb1.prepare(root, tmp_path / "out", partial=True)
    assert (tmp_path / "out/trials-O").read_text() == LIST.splitlines()[0] + "\n"
    assert "not comparable with published figures" in capsys.readouterr().err
    lost.write_text(
        "not audio"
    )  # found, but of no use: the same refusal, once the headers are read
    lost.with_name("00004.wav").unlink()
    with pytest.raises(UserError, match="1 utterances of trials have no audio"):
        voxceleb1.prepare(root, tmp_path / "out")
    assert "corrupt" in (tmp_path / "out/skipped.tsv").read_text()


@pytest.mark.usefixtures("complete")
def test_the_test_part_alone_gives_o_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voxceleb1, "ALL", voxceleb1.Published("VoxCeleb1", 1251, 153516))
    monkeypatch.setattr(voxceleb1, "TEST", voxceleb1.Published("VoxCeleb1 test", 2, 3))
    (root / "list_test_all2.txt").write_text(
        "1 id10001/aaaaaaaaaaa/00001.wav id10001/aaaaaaaaaaa/00002.wav\n"
    )
    voxceleb1.prepare(root, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").glob("trials-*")] == ["trials-O"]


def test_lists_elsewhere_and_nowhere(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "meta").mkdir()
    (root / "veri_test2.txt").rename(tmp_path / "meta/veri_test.txt")
    voxceleb1.prepare(root, tmp_path / "out", lists=tmp_path / "meta", partial=True)
    assert (tmp_path / "out/trials-O-original").read_text() == LIST
    capsys.readouterr()
    voxceleb1.prepare(root, tmp_path / "out", partial=True)
    assert "no trials are written (--lists DIR)" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("trials*"))  # those of the run before are gone
    with pytest.raises(UserError, match="none of veri_test2.txt, .*; download them"):
        voxceleb1.prepare(root, tmp_path / "out", lists=root, partial=True)


def test_ids_do_not_depend_on_the_format_of_the_copy(tmp_path: Path) -> None:
    put(tmp_path / "dev/wav/id00012/21Uxsk56VDQ/00001.wav")
    put_m4a(tmp_path / "dev/aac/id00012/21Uxsk56VDQ/00001.m4a")
    put_m4a(tmp_path / "dev/aac/id00012/21Uxsk56VDQ/00002.m4a", 2.0)
    put(tmp_path / "dev/flac/id00015/-2gvf4CAH-c/00003.flac")
    put(tmp_path / "dev/flac/id10001/-2gvf4CAH-c/00003.flac")  # a speaker of VoxCeleb1
    (tmp_path / "dev/txt/id00012/21Uxsk56VDQ").mkdir(parents=True)
    (tmp_path / "dev/txt/id00012/21Uxsk56VDQ/00001.txt").write_text("frames")
    (tmp_path / "dev/wav/again").symlink_to(tmp_path / "dev")
    voxceleb2.prepare(tmp_path / "dev", tmp_path / "out", partial=True)
    manifest = read_manifest(tmp_path / "out", "spk")
    assert manifest.ids == [
        "id00012/21Uxsk56VDQ/00001.wav",
        "id00012/21Uxsk56VDQ/00002.wav",
        "id00015/-2gvf4CAH-c/00003.wav",
    ]
    assert [Path(u.path).suffix for u in manifest] == [".wav", ".m4a", ".flac"]
    assert manifest.utterances[1].seconds == pytest.approx(2.0, abs=0.1)


def test_the_wrong_corpus_or_nothing(tmp_path: Path, root: Path) -> None:
    with pytest.raises(UserError, match=r"its speakers are VoxCeleb1's \(try voxceleb1\)"):
        voxceleb2.prepare(root, tmp_path / "out", partial=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no id1NNNN/<video>/NNNNN.wav"):
        voxceleb1.prepare(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(UserError, match="no such directory"):
        voxceleb2.prepare(tmp_path / "none", tmp_path / "out")

"""The emotional corpora on trees shaped as they are released: names, label files, folds, what is
missing.
"""

import numpy as np
import pytest
import soundfile
import trees

from speechssl.cli import main
from speechssl.corpora import crema_d, emodb, iemocap, msp_podcast, ravdess
from speechssl.data.manifest import read_manifest
from speechssl.data.validation import validate
from speechssl.errors import UserError


def labels_of(out, *names):
    """Name of a file -> values, of a directory that has no other problem."""
    assert validate(out) == []
    tables = read_manifest(out, labels="all").labels
    ids = read_manifest(out).ids
    return {i.rpartition("/")[2]: tuple(tables[n].get(i) for n in names) for i in ids}


def test_ravdess_speech_in_its_own_layout(tmp_path, capsys):
    root = trees.ravdess(tmp_path / "RAVDESS").root
    trees.put(root / "Actor_01" / "03-02-06-01-02-01-01.wav")  # a song
    trees.put(
        root / "audio_speech_actors_01-24" / "Actor_01" / "03-01-06-01-02-01-01.wav"
    )  # a copy, as some have
    assert main(["prepare", "ravdess", str(root), str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err
    assert "actor01 3 of 60" in said and "actor02 0 of 60" in said and "sad 0 of 192" in said
    found = labels_of(tmp_path / "out", "spk", "emotion", "intensity", "statement", "gender")
    assert len(found) == 6
    assert found["03-01-06-01-02-01-12.wav"] == ("actor12", "fearful", "normal", "dogs", "f")
    assert found["03-01-03-02-01-01-01.wav"] == ("actor01", "happy", "strong", "kids", "m")
    durations = [u.seconds for u in read_manifest(tmp_path / "out")]
    assert max(durations) < 1.0  # the silence of a second at both ends is cut


def test_ravdess_published_counts_add_up_and_the_whole_corpus_is_quiet(capsys):
    from speechssl.corpora.named import compare_counts
    from speechssl.data.manifest import Manifest

    assert (
        sum(ravdess.PUBLISHED["spk"].values()) == sum(ravdess.PUBLISHED["emotion"].values()) == 1440
    )
    assert sum(crema_d.PUBLISHED.values()) == 7442
    assert sum(emodb.PUBLISHED["spk"].values()) == sum(emodb.PUBLISHED["emotion"].values()) == 535
    assert sum(iemocap.PUBLISHED["four"].values()) == 5531
    assert sum(iemocap.PUBLISHED["all"].values()) == 10039 - 2507
    whole = {}
    for value, number in ravdess.PUBLISHED["emotion"].items():
        whole |= {f"{value}{i}": value for i in range(number)}
    compare_counts(
        "ravdess", Manifest([], {"emotion": whole}), {"emotion": ravdess.PUBLISHED["emotion"]}
    )
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("classes", ["six", "four"])
def test_crema_d(tmp_path, capsys, classes):
    root = trees.crema_d(tmp_path / "CREMA-D").root
    trees.put(root / "AudioMP3" / "1001_DFA_ANG_XX.flac")  # the same clip in another format
    silent = root / "AudioWAV" / "1076_MTI_SAD_XX.wav"
    soundfile.write(silent, np.zeros(16000), 16000)
    crema_d.prepare(root, tmp_path / "out", classes=classes)
    said = capsys.readouterr().err
    assert "1 silent" in said and "actors 2 of 91" in said and "angry 1 of 1271" in said
    found = labels_of(tmp_path / "out", "spk", "emotion", "sentence", "level", "gender")
    assert found["1001_DFA_ANG_XX.wav"] == ("1001", "angry", "DFA", "unspecified", "m")
    assert found["1002_ITH_SAD_X.wav"] == ("1002", "sad", "ITH", "unspecified", "unknown")
    fearful = ("1001", "fearful", "IEO", "high", "m")
    assert found.get("1001_IEO_FEA_HI.wav") == (fearful if classes == "six" else None)
    assert len(found) == {"six": 4, "four": 3}[classes]


def test_emodb(tmp_path, capsys):
    emodb.prepare(trees.emodb(tmp_path / "emodb").root, tmp_path / "out")
    assert "03 1 of 49" in capsys.readouterr().err
    found = labels_of(tmp_path / "out", "spk", "emotion", "text", "gender")
    assert found == {
        "03a01Fa.wav": ("03", "happy", "a01", "m"),
        "16b10Wb.wav": ("16", "angry", "b10", "f"),
        "14a05Na.wav": ("14", "neutral", "a05", "f"),
        "12b03Lc.wav": ("12", "bored", "b03", "m"),
    }


@pytest.fixture
def sessions(tmp_path):
    """IEMOCAP with two sessions."""
    return trees.iemocap(tmp_path / "IEMOCAP_full_release").root


def test_iemocap_four_classes_with_sessions_as_folds(sessions, tmp_path, capsys):
    labels = sessions / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    labels.write_text(
        labels.read_text() + "[9.0 - 9.9]\tSes01F_impro01_F001\tsad\t[2.5, 2.5, 2.5]\n"
    )
    iemocap.prepare(sessions, tmp_path / "out")
    said = capsys.readouterr().err
    assert "1 of 6 files of EmoEvaluation are missing: Ses01F_impro01_F001" in said
    assert "happy 1 of 1636" in said
    found = labels_of(tmp_path / "out", "spk", "emotion", "fold", "style", "gender")
    assert found == {
        "Ses01F_impro01_F000.wav": ("Ses01F", "neutral", "session1", "improvised", "f"),
        "Ses01F_impro01_M003.wav": ("Ses01M", "happy", "session1", "improvised", "m"),
        "Ses02M_script01_1b_M012.wav": ("Ses02M", "angry", "session2", "scripted", "m"),
    }


def test_iemocap_all_classes_and_a_release_without_labels(sessions, tmp_path):
    iemocap.prepare(sessions, tmp_path / "out", classes="all")
    found = labels_of(tmp_path / "out", "emotion")
    assert found["Ses02M_script01_1b_F010.wav"] == ("frustrated",)
    assert found["Ses01F_impro01_M003.wav"] == ("excited",)
    assert "Ses02M_script01_1b_M011.wav" not in found
    for path in sessions.glob("*/dialog/EmoEvaluation/*.txt"):
        path.unlink()
    with pytest.raises(UserError, match="no labels in Session"):
        iemocap.prepare(sessions, tmp_path / "out")


def test_iemocap_whose_sessions_are_links(tmp_path):
    """The audio is found through links, and so must its labels be."""
    real = trees.iemocap(tmp_path / "disk").root
    (tmp_path / "corpus").mkdir()
    for session in real.iterdir():
        (tmp_path / "corpus" / session.name).symlink_to(session)
    assert len(iemocap.prepare(tmp_path / "corpus", tmp_path / "out")) == 3


def test_crema_d_with_a_damaged_table_of_actors(tmp_path):
    root = trees.crema_d(tmp_path / "CREMA").root
    table = root / "VideoDemographics.csv"
    table.write_text(table.read_text() + "1002\n")  # a row without the other columns
    manifest = crema_d.prepare(root, tmp_path / "out")
    assert set(manifest.labels["gender"].values()) == {"m", "unknown"}
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="VideoDemographics.csv: cannot be read"):
        crema_d.prepare(root, tmp_path / "out")


ROWS = trees.MSP_ROWS


def test_msp_podcast_with_its_official_partitions(tmp_path, capsys):
    root = trees.msp_podcast(tmp_path / "MSP").root
    msp_podcast.prepare(root, tmp_path / "out")
    assert (
        "1 of 6 files of labels_consensus.csv are missing: MSP-PODCAST_0153_0002.wav"
        in capsys.readouterr().err
    )
    found = labels_of(tmp_path / "out", "spk", "emotion", "fold", "gender")
    assert found == {
        ROWS[0][0]: ("spk127", "neutral", "train", "m"),
        ROWS[2][0]: (f"unknown-{ROWS[2][0]}", "happy", "train", "unknown"),
        ROWS[4][0]: ("spk9", "angry", "test1", "f"),
    }
    msp_podcast.prepare(root, tmp_path / "eight", classes="eight")
    assert labels_of(tmp_path / "eight", "emotion")[ROWS[3][0]] == ("contempt",)


def test_msp_podcast_converted_to_another_format(tmp_path):
    root = trees.msp_podcast(tmp_path / "MSP").root
    for path in root.rglob("*.wav"):
        soundfile.write(path.with_suffix(".flac"), *soundfile.read(path))
        path.unlink()
    msp_podcast.prepare(root, tmp_path / "out")
    assert labels_of(tmp_path / "out", "emotion")[ROWS[4][0].replace(".wav", ".flac")] == ("angry",)


def test_msp_podcast_with_another_label_file_is_one_line(tmp_path):
    columns = ("FileName", "EmoClass", "SpkrID", "Gender", "Split")
    root = trees.msp_podcast(tmp_path / "MSP", columns).root
    with pytest.raises(UserError, match="has no column Split_Set"):
        msp_podcast.prepare(root, tmp_path / "out")
    with pytest.raises(UserError, match="labels_consensus.csv: cannot be read"):
        msp_podcast.prepare(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("corpus", [ravdess, crema_d, emodb, iemocap])
def test_a_folder_of_something_else_is_refused_with_an_example(tmp_path, corpus):
    trees.put(tmp_path / "other" / "speech.wav")
    with pytest.raises(UserError, match="no file is named like .*\\.wav"):
        corpus.prepare(tmp_path / "other", tmp_path / "out")

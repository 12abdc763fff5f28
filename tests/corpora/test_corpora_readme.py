"""The example of corpora/README.md works as it stands."""

import pytest
import trees
from builders import readme_code

from speechssl.data.manifest import read_manifest
from speechssl.data.validation import validate
from speechssl.errors import UserError


def test_the_example_prepares_its_corpus(tmp_path, capsys):
    (code,) = readme_code("corpora")
    module = {}
    exec(compile(code, "tess.py", "exec"), module)
    for name in ("OAF_back_angry", "YAF_back_ps", "YAF_far_away_sad"):
        trees.put(tmp_path / "TESS" / name.rpartition("_")[0] / f"{name}.wav")
    module["PART"](tmp_path / "TESS", tmp_path / "out")
    assert "angry 1 of 400" in capsys.readouterr().err
    assert validate(tmp_path / "out", read_audio=True) == []
    labels = read_manifest(tmp_path / "out", labels="all").labels
    assert set(labels) == {"spk", "emotion", "word"}
    assert sorted(labels["word"].values()) == ["back", "back", "far_away"]
    with pytest.raises(UserError, match="no file is named like OAF_back_angry.wav"):
        module["PART"](tmp_path / "out", tmp_path / "again")

"""What every format of other programs promises, and the example of the README."""

import json
from pathlib import Path

import pytest
import torch
from builders import noises, readme_part

from speechssl import foreign, parts
from speechssl.errors import UserError
from speechssl.interfaces import ForeignFormat
from speechssl.model import Model

NAMES = parts.names("foreign")


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_record_that_recognises_nothing_in_an_empty_place(name, tmp_path):
    form = parts.find("foreign", name)
    assert isinstance(form, ForeignFormat) and form.patterns
    assert not form.recognises(tmp_path)
    assert not form.recognises(tmp_path / "absent")
    assert not form.recognises(Path("/dev/null"))


@pytest.mark.parametrize("name", NAMES)
def test_files_of_its_names_that_hold_rubbish_are_one_line(name, tmp_path):
    form = parts.find("foreign", name)
    for pattern in form.patterns:
        (tmp_path / pattern.replace("*", "weights")).write_bytes(b"\x00{[rubbish")
    assert form.recognises(tmp_path)
    with pytest.raises(UserError) as error:
        Model.load(tmp_path)
    assert "\n" not in str(error.value)


def test_the_example_of_the_readme_reads_a_model(tmp_path, monkeypatch):
    example = parts.find("foreign", readme_part("foreign"))
    monkeypatch.setattr(foreign, "_formats", lambda: [example])
    model = Model({"name": "kaldi", "n_mels": 24}, {"name": "xvector", "embedding_dim": 8})
    (tmp_path / "net.json").write_text(json.dumps({"bands": 24, "size": 8}))
    torch.save(model.encoder.state_dict(), tmp_path / "net.pt")
    wave = noises(1, 8000)
    assert torch.equal(Model.load(tmp_path)(wave), model.eval()(wave))
    (tmp_path / "net.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        Model.load(tmp_path)

"""Names on the hub, without a network."""

import pytest

from speechssl import foreign
from speechssl.errors import UserError
from speechssl.foreign import hub
from speechssl.model import Model


@pytest.mark.parametrize(
    "source, is_name",
    [
        ("hub:someone/model", True),
        ("speechbrain/spkrec-ecapa-voxceleb", True),
        ("someone/model", False),
        ("speechbrain", False),
        ("speechbrain/a/b", False),
    ],
)
def test_what_is_a_name_on_the_hub(source, is_name):
    assert hub.is_hub_name(source) is is_name


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "speechbrain" / "model").mkdir(parents=True)
    assert not hub.is_hub_name("speechbrain/model")


@pytest.mark.parametrize(
    "name", ["hub:", "hub:model", "hub:../../etc/passwd", "hub:a/b/c", "hub:a/b c"]
)
def test_what_is_no_name_is_one_line(name):
    with pytest.raises(UserError, match="is no name"):
        Model.load(name)


def test_without_network_one_line_says_what_to_do(monkeypatch, tmp_path):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="cannot be downloaded") as error:
        Model.load("hub:someone/model")
    assert "\n" not in str(error.value) and "check the name and the network" in str(error.value)


def test_only_files_that_a_format_needs_are_asked_for(monkeypatch, tmp_path):
    import huggingface_hub

    asked = {}

    def download(name, **options):
        asked[name] = options
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert foreign.locate("hub:someone/model@v2") == tmp_path
    options = asked["someone/model"]
    assert options["revision"] == "v2"
    assert "hyperparams.yaml" in options["allow_patterns"]
    assert not any("py" in pattern for pattern in options["allow_patterns"])

"""Uploading to the hub, with an API that keeps what it is given: no network."""

import json
import shutil

import pytest
import torch
import yaml
from builders import make_model, noises

import speechssl
from speechssl.cli import main
from speechssl.embed import hub
from speechssl.errors import UserError
from speechssl.model import Model


class FakeApi:
    """Keeps a copy of every folder that is uploaded."""

    def __init__(self, root, error=None):
        self.root = root
        self.error = error
        self.made = {}

    def create_repo(self, repo_id, *, private, exist_ok):
        if self.error:
            raise self.error
        self.made[repo_id] = {"private": private, "exist_ok": exist_ok}

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        assert repo_id in self.made and "speechssl" in commit_message
        shutil.copytree(folder_path, self.root / repo_id)


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "eval" / "mine|and_yours"
    folder.mkdir(parents=True)
    written = {"eer": 8.6123, "eer_interval": [5.4, 12.1], "trials": 500, "scoring": "cosine"}
    (folder / "results.json").write_text(json.dumps({**written, "labels_used": []}))
    return folder


def test_what_is_uploaded_is_the_model_and_its_results(results, tmp_path):
    model = make_model("resnet", about={"labels_used": "none"})
    api = FakeApi(tmp_path)
    assert hub.push(model, "someone/voices", results=[results], api=api) == "hub:someone/voices"
    assert api.made == {"someone/voices": {"private": False, "exist_ok": True}}
    folder = tmp_path / "someone/voices"
    waves = noises(2, 8000)
    assert torch.equal(Model.load(folder)(waves), model(waves))
    text = (folder / "README.md").read_text()
    _, header, body = text.split("---\n", 2)
    index = yaml.safe_load(header)["model-index"][0]
    assert index["name"] == "someone/voices"
    (measured,) = index["results"]
    assert measured["metrics"][0]["value"] == 8.61
    assert measured["dataset"]["name"] == "mine|and_yours"
    assert "| 8.61 | 5.40 to 12.10 | 500 | cosine | none |" in body
    assert "mine\\|and_yours" in body  # somebody's folder is text, not a table
    assert 'speechssl.load("hub:someone/voices")' in body


def test_the_python_object_and_the_command_push(results, tmp_path, monkeypatch, capsys):
    api = FakeApi(tmp_path)
    monkeypatch.setattr(hub, "_api", lambda: api)
    make_model().save(tmp_path / "model")
    embedder = speechssl.load(tmp_path / "model", "cpu")
    assert embedder.push_to_hub("hub:someone/one", private=True) == "hub:someone/one"
    assert api.made["someone/one"]["private"]
    words = ["push", str(tmp_path / "model"), "someone/two"]
    assert main([*words, "--results", str(results / "results.json")]) == 0
    assert capsys.readouterr().out == "hub:someone/two\n"
    assert (tmp_path / "someone/two/README.md").exists()
    assert main(["push", str(tmp_path / "model"), "not a name"]) == 2
    assert "is no name" in capsys.readouterr().err


def test_what_was_pushed_is_loaded_by_its_name(tmp_path, monkeypatch):
    import huggingface_hub

    model = make_model()
    hub.push(model, "someone/voices", api=FakeApi(tmp_path))
    asked = {}

    def download(name, **options):
        asked.update(options)
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    waves = noises(1, 8000)
    assert torch.equal(Model.load("hub:someone/voices")(waves), model(waves))
    assert {"config.json", "model.safetensors"} <= set(asked["allow_patterns"])


@pytest.mark.parametrize(
    "error", [OSError("Network is unreachable\nmore"), PermissionError("403"), RuntimeError("")]
)
def test_without_network_or_rights_it_is_one_line(error, tmp_path):
    with pytest.raises(UserError, match=r"cannot be written .*\(hf auth login\)") as told:
        hub.push(make_model(), "someone/voices", api=FakeApi(tmp_path, error))
    assert "\n" not in str(told.value)


def test_results_that_are_none_are_refused_before_anything_is_uploaded(tmp_path):
    (tmp_path / "results.json").write_text('{"micro_f1": 0.5}')
    api = FakeApi(tmp_path)
    for path in (tmp_path, tmp_path / "absent.json"):
        with pytest.raises(UserError):
            hub.push(make_model(), "someone/voices", results=[path], api=api)
    assert not api.made

"""Pseudo-labels in training: who is trained on, what the run says of them, what is refused."""

import json
import os

import pytest
import torch
import yaml

from speechssl.data.kaldi import are_clusters, digest
from speechssl.errors import UserError
from speechssl.train.about import labels_used_by
from speechssl.train.loop import train


@pytest.fixture
def classes(tmp_path):
    names = [f"u{number:02d} c{number % 3}" for number in range(16)]  # four utterances have none
    (tmp_path / "utt2cluster").write_text("\n".join(names) + "\n")
    (tmp_path / "clusters.json").write_text(
        json.dumps({"sha256": digest(tmp_path / "utt2cluster")})
    )
    return tmp_path / "utt2cluster"


METHOD = ["method={name: aam_softmax}", "data.crops=[{count: 1, seconds: 0.5}]"]


def test_utterances_without_a_class_are_left_out(configuration, classes, tmp_path):
    out = train(
        str(configuration),
        [*METHOD, f"data.pseudo_labels={classes}"],
        out=tmp_path / "run",
        device="cpu",
    )
    about = yaml.safe_load((out / "about.yaml").read_text())
    assert about["data"]["utterances"] == 16 and about["labels_used"] == "none"
    assert (out / "skipped.tsv").read_text().count("no pseudo-label") == 4
    state = torch.load(out / "last.pt", weights_only=True)["method"]
    assert state["labels"].tolist() == [number % 3 for number in range(16)]


@pytest.mark.parametrize("how", ["none", "other"])
def test_classes_of_unknown_origin_are_said_to_be(configuration, classes, tmp_path, how):
    if how == "none":
        (tmp_path / "clusters.json").unlink()
    else:  # a file of true speakers laid beside
        classes.write_text(classes.read_text().replace("c1", "anna"))
    out = train(
        str(configuration),
        [*METHOD, f"data.pseudo_labels={classes}"],
        out=tmp_path / "run",
        device="cpu",
    )
    assert "unknown origin" in yaml.safe_load((out / "about.yaml").read_text())["labels_used"]


def test_a_second_run_takes_over_the_whole_method(configuration, classes, tmp_path):
    words = [*METHOD, f"data.pseudo_labels={classes}"]
    first = train(str(configuration), words, out=tmp_path / "one", device="cpu")
    more = [
        *words,
        f"train.init_method={first}",
        "train.steps=1",
        "optimizer.lr=1e-12",
        "method.margin=0.4",
    ]
    second = train(str(configuration), more, out=tmp_path / "two", device="cpu")
    was, now = (torch.load(run / "last.pt", weights_only=True)["method"] for run in (first, second))
    torch.testing.assert_close(now["centres"], was["centres"])
    torch.testing.assert_close(now["net.fc.conv.weight"], was["net.fc.conv.weight"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (METHOD, "data.pseudo_labels is not set"),
        (["data.pseudo_labels=FILE"], "learns no labels"),
        ([*METHOD, "data.pseudo_labels=nowhere"], "nowhere"),
        (
            [*METHOD, "data.pseudo_labels=FILE", "train.init_method=nowhere"],
            "nowhere/last.pt does not exist",
        ),
        (
            [*METHOD, "data.pseudo_labels=FILE", "train.init_method=a", "train.init=b"],
            "one of them",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(configuration, classes, tmp_path, words, message):
    words = [word.replace("FILE", str(classes)) for word in words]
    with pytest.raises(UserError, match=message):
        train(str(configuration), words, out=tmp_path / "run", device="cpu")


def test_another_method_in_the_folder_is_refused(configuration, classes, tmp_path):
    first = train(str(configuration), [], out=tmp_path / "one", device="cpu")
    words = [*METHOD, f"data.pseudo_labels={classes}", f"train.init_method={first}"]
    with pytest.raises(UserError, match="not the one configured"):
        train(str(configuration), words, out=tmp_path / "two", device="cpu")


def test_what_a_model_learnt_from_is_said_of_those_that_start_from_it(
    configuration, classes, tmp_path
):
    (tmp_path / "clusters.json").unlink()
    words = [*METHOD, f"data.pseudo_labels={classes}"]
    first = train(str(configuration), words, out=tmp_path / "one", device="cpu")
    second = train(str(configuration), [f"train.init={first}"], out=tmp_path / "two", device="cpu")
    assert "unknown origin" in yaml.safe_load((second / "about.yaml").read_text())["labels_used"]


def test_other_classes_are_not_resumed_nor_taken_over(configuration, classes, tmp_path):
    words = [*METHOD, f"data.pseudo_labels={classes}"]
    first = train(str(configuration), words, out=tmp_path / "one", device="cpu")
    lines = classes.read_text().splitlines()
    classes.write_text("\n".join([lines[0].replace("c0", "c1"), *lines[1:]]) + "\n")
    with pytest.raises(UserError, match="is not what it was"):
        train(str(configuration), words, out=tmp_path / "one", resume=True, device="cpu")
    with pytest.raises(UserError, match="trained on other classes"):
        train(
            str(configuration),
            [*words, f"train.init_method={first}"],
            out=tmp_path / "two",
            device="cpu",
        )


def test_a_run_that_takes_over_has_a_gate_of_its_own(configuration, classes, tmp_path):
    words = [*METHOD, f"data.pseudo_labels={classes}"]
    first = train(str(configuration), words, out=tmp_path / "one", device="cpu")
    more = [*words, f"train.init_method={first}", "method.gate=fixed", "method.gate_loss=2.5"]
    second = train(str(configuration), more, out=tmp_path / "two", device="cpu")
    assert torch.load(second / "last.pt", weights_only=True)["method"]["gate"] == 2.5


def test_features_of_another_kind_are_refused(configuration, tmp_path):
    first = train(str(configuration), [], out=tmp_path / "one", device="cpu")
    words = [f"train.init={first}", "features.normalise=level"]
    with pytest.raises(UserError, match="other features"):
        train(str(configuration), words, out=tmp_path / "two", device="cpu")


def test_what_stands_beside_classes_and_in_a_model_folder_may_be_anything(tmp_path):
    classes = tmp_path / "utt2cluster"
    classes.write_text("u c\n")
    os.mkfifo(tmp_path / "clusters.json")
    assert not are_clusters(classes)
    for about in ("null", "7", "[a]", "{other: 1}"):
        (tmp_path / "config.yaml").write_text(f"about: {about}\n")
        assert labels_used_by(str(tmp_path)) == "not known"

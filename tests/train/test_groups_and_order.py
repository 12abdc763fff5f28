"""Runs with session positives, with another order of the data, and with views encoded apart."""

import json
import warnings

import pytest
import yaml
from builders import write_table

from speechssl.data.kaldi import digest
from speechssl.errors import UserError
from speechssl.files import RunFolder
from speechssl.train.about import origin_of_groups
from speechssl.train.loop import train
from speechssl.train.view_maker import ViewMaker
from speechssl.weights import read_checkpoint

MOCO = "method={name: moco, hidden: 16, projection: 8, queue_size: 16}"


def run(configuration, out, *overrides, **options):
    return train(str(configuration), overrides, out=out, device="cpu", **options)


def state(out):
    return read_checkpoint(RunFolder(out).last)


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool((a == b).all()) if hasattr(a, "all") else a == b


@pytest.fixture
def sessions(tmp_path):
    """Pairs of utterances of one session; each speaker (number % 4) has several."""
    rows = {f"u{number:02d}": f"s{number % 4}-{number // 8}" for number in range(20)}
    write_table(tmp_path / "utt2session", rows)
    return tmp_path / "utt2session"


def about(out):
    return yaml.safe_load((out / "about.yaml").read_text())


def test_sessions_are_recorded_and_their_pairs_are_no_negatives(configuration, sessions, tmp_path):
    words = [MOCO, f"data.positives={sessions}", "data.positives_kind=session"]
    masked = run(configuration, tmp_path / "masked", *words)
    written = about(masked)
    assert written["labels_used"] == f"sessions ({sessions})"
    assert written["data"]["positives_kind"] == "session"
    assert written["data"]["positives"] == digest(sessions)
    # the groups of the keys in the queue: two crops of the last eight utterances
    groups = state(masked)["method"]["queue_groups"]
    assert groups.min() >= 0
    plain = run(configuration, tmp_path / "plain", *words, "data.mask_positives=false")
    assert (state(plain)["method"]["queue_groups"] == -1).all()
    assert not equal(state(masked)["method"]["queue"], state(plain)["method"]["queue"])


def test_speakers_are_called_speaker_labels_whatever_the_user_calls_them(
    configuration, corpus, tmp_path
):
    rows = {f"u{number:02d}": f"room{number % 4}" for number in range(20)}
    write_table(tmp_path / "utt2session", rows)
    file = tmp_path / "utt2session"
    words = [f"data.positives={file}", "data.positives_kind=session", "train.steps=1"]
    with pytest.warns(UserWarning, match="speaker labels"):
        out = run(configuration, tmp_path / "run", MOCO, *words)
    assert about(out)["labels_used"].startswith("speaker labels (")
    # some of them only, or the corpus without its speakers
    write_table(file, {name: rows[name] for name in list(rows)[:9]})
    assert "speaker labels" in origin_of_groups(str(file), "cluster", [str(corpus)])
    assert origin_of_groups(str(file), "session", [str(tmp_path)]) == f"sessions ({file})"


def test_sessions_that_several_speakers_share_are_warned_of(configuration, tmp_path):
    """Two sides of a call, or a room: a positive would often be somebody else's."""
    rows = {f"u{number:02d}": f"call{number // 4}" for number in range(20)}  # four speakers in each
    write_table(tmp_path / "utt2session", rows)
    words = [f"data.positives={tmp_path / 'utt2session'}", "train.steps=1"]
    with pytest.warns(UserWarning, match="5 of 5 sessions .* several speakers .* utt2spk"):
        run(configuration, tmp_path / "run", MOCO, *words, "data.positives_kind=session")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*several speakers")
        run(configuration, tmp_path / "clusters", MOCO, *words)


def test_sessions_of_one_speaker_each_are_not_warned_of(configuration, sessions, tmp_path):
    words = [f"data.positives={sessions}", "data.positives_kind=session", "train.steps=1"]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*several speakers")
        run(configuration, tmp_path / "run", MOCO, *words)


def test_what_a_clusterer_wrote_is_no_label(corpus, sessions):
    assert "unknown origin" in origin_of_groups(str(sessions), "cluster", [str(corpus)])
    record = json.dumps({"sha256": digest(sessions)})
    (sessions.parent / "clusters.json").write_text(record)
    assert origin_of_groups(str(sessions), "cluster", [str(corpus)]) == ""


@pytest.mark.parametrize(
    "words",
    [
        ["data.order=single_pass"],
        ["data.order=hybrid", "data.single_pass_share=0.5"],
        ["train.encode=per_view"],
        ["positives"],
    ],
)
def test_a_run_that_broke_off_ends_as_the_unbroken_one(
    configuration, sessions, tmp_path, monkeypatch, words
):
    if words == ["positives"]:
        words = [f"data.positives={sessions}", "data.positives_kind=session"]
    words = [MOCO, *words, "train.steps=11", "train.save_every=3"]
    unbroken = run(configuration, tmp_path / "unbroken", *words)
    real = ViewMaker.__call__

    def breaking(self, batch, index):
        if index == 7:
            raise KeyboardInterrupt
        return real(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(ViewMaker, "__call__", breaking)
        with pytest.raises(KeyboardInterrupt):
            run(configuration, tmp_path / "run", *words)
    resumed = run(configuration, tmp_path / "run", *words, resume=True)
    assert equal(state(resumed), state(unbroken))


def test_each_setting_is_another_run(configuration, tmp_path):
    plain = state(run(configuration, tmp_path / "plain", MOCO))
    for number, word in enumerate(["train.encode=per_view", "data.order=single_pass"]):
        other = state(run(configuration, tmp_path / str(number), MOCO, word))
        assert not equal(other["method"], plain["method"]), word


def test_a_run_with_positives_from_before_groups_were_masked_goes_on_without_masks(
    configuration, sessions, tmp_path
):
    words = [MOCO, f"data.positives={sessions}", "train.steps=2", "data.mask_positives=false"]
    out = run(configuration, tmp_path / "run", *words)
    saved = yaml.safe_load(RunFolder(out).config.read_text())
    del saved["data"]["mask_positives"], saved["data"]["positives_kind"]
    RunFolder(out).config.write_text(yaml.safe_dump(saved))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(configuration, out, *words, resume=True)
    with pytest.raises(UserError, match=r"data.mask_positives was False .* and is True now"):
        run(configuration, out, *words[:-1], resume=True)


ONLINE = "method={name: moco, hidden: 16, projection: 8, queue_size: 1, initial_queue: empty}"


def test_online_pairs_batches_of_one_and_a_queue_of_one(configuration, tmp_path):
    """From a trained model, whose BatchNorm statistics stay as they are."""
    first = run(configuration, tmp_path / "first", MOCO, "train.steps=2")
    words = [ONLINE, "train.batch_size=1", f"train.init={first}", "train.steps=5"]
    with pytest.raises(UserError, match="a batch of one has no statistics for BatchNorm"):
        run(configuration, tmp_path / "none", *words)
    out = run(configuration, tmp_path / "online", *words, "train.batchnorm=running")
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert lines[0]["loss"] == 0.0 and all(0 < line["loss"] < 10 for line in lines[1:])
    before, after = state(first)["method"], state(out)["method"]
    for key, value in after.items():
        if "net.encoder" in key and "running" in key:
            # the teacher is what training starts from
            assert equal(value, before[key.replace("net.", "teacher.")]), key
    assert not equal(after["net.encoder.fc.conv.weight"], before["teacher.encoder.fc.conv.weight"])


def test_a_method_that_needs_more_than_one_utterance_says_so(configuration, tmp_path):
    words = ["method={name: simclr}", "train.batch_size=1", "train.batchnorm=running"]
    with pytest.raises(UserError, match="1 is fewer than the 2 that method simclr needs"):
        run(configuration, tmp_path / "run", *words)

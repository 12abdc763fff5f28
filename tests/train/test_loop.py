"""Whole small runs: what is written, what is refused, and what a kill, a resume or two processes
change.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from speechssl import config
from speechssl.distributed import World
from speechssl.errors import UserError
from speechssl.files import RunFolder
from speechssl.methods.dino import Dino
from speechssl.model import Model
from speechssl.train import checkpoint
from speechssl.train.data import read_utterances, with_decoded_gb
from speechssl.train.loop import is_due, train
from speechssl.train.run import Run
from speechssl.train.settings import resolve
from speechssl.weights import read_checkpoint

TIMES = {"utterances_per_second", "data_wait"}


def run(configuration, out, *overrides, **options):
    return train(str(configuration), overrides, out=out, device="cpu", **options)


def log(out, without=frozenset()):
    """Objects of log.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES | without} for line in lines]


def weights(out):
    return read_checkpoint(RunFolder(out).last)["method"]


def same_run(a, b):
    """Whether two run folders ended in the same state, bit for bit."""
    one, two = (read_checkpoint(RunFolder(folder).last) for folder in (a, b))
    models = (Model.load(RunFolder(folder).model.path).state_dict() for folder in (a, b))
    return equal(one, two) and equal(*models)


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.fixture(scope="module")
def finished(tmp_path_factory, corpus):
    """An unbroken run, made once; a test that wants the same configuration takes its
    config.yaml.
    """
    return {}


@pytest.fixture
def unbroken(finished, configuration, tmp_path_factory):
    if "out" not in finished:
        finished["out"] = run(configuration, tmp_path_factory.mktemp("unbroken") / "run")
    return finished["out"]


def test_what_a_run_leaves_behind(unbroken, corpus):
    tracked = {"tensorboard", "trackers.json"}  # where TensorBoard is installed
    assert sorted(p.name for p in unbroken.iterdir() if p.name not in tracked) == [
        "about.yaml", "config.yaml", "last.pt", "log.jsonl", "model", "snapshots", "untrained",
    ]  # fmt: skip
    about = config.read(unbroken / "about.yaml")
    assert about["method"] == "dino" and about["seed"] == 0 and about["labels_used"] == "none"
    assert about["data"]["utterances"] == 20 and about["data"]["directories"] == [str(corpus)]
    assert len(about["data"]["fingerprint"]) == 16
    assert about["speechssl"] and about["torch"] == str(torch.__version__)
    assert [p.stem for p in checkpoint.snapshots(RunFolder(unbroken))] == [
        f"step-0000000{s}" for s in (2, 4, 6, 8)
    ]
    for name, step in (("untrained", 0), ("model", 8)):
        model = Model.load(unbroken / name)
        assert (model.about["step"], model.about["steps"]) == (step, 8)


def test_the_log_has_one_object_a_logged_step(unbroken):
    lines = log(unbroken)
    assert [line["step"] for line in lines] == list(range(1, 9))
    for line in lines:
        assert {"loss", "lr", "epoch", "teacher_entropy", "kl", "gradient_norm"} <= set(line)
        assert all(np.isfinite(value) for value in line.values())
        assert "alarms" not in line
    assert lines[0]["lr"] == 0.0 and lines[4]["epoch"] == 1.0
    assert [("rankme" in line) for line in lines] == [line["step"] in (4, 8) for line in lines]
    raw = json.loads((unbroken / "log.jsonl").read_text().splitlines()[0])
    assert raw["utterances_per_second"] > 0 and 0 <= raw["data_wait"] <= 1


def test_the_configuration_that_is_saved_is_complete_and_runs_the_same_again(unbroken, tmp_path):
    written = config.read(unbroken / "config.yaml")
    assert written["optimizer"]["betas" if "betas" in written["optimizer"] else "beta1"] == 0.9
    assert config.thaw(resolve(str(unbroken / "config.yaml"))) == written
    again = run(unbroken / "config.yaml", tmp_path / "again")
    assert same_run(unbroken, again) and log(unbroken) == log(again)


def test_what_users_get_is_the_teacher(unbroken):
    teacher = {
        key.removeprefix("teacher.encoder."): value
        for key, value in weights(unbroken).items()
        if key.startswith("teacher.encoder.")
    }
    assert equal(dict(Model.load(unbroken).encoder.state_dict()), teacher)
    assert equal(read_checkpoint(checkpoint.snapshots(RunFolder(unbroken))[-1]), teacher)


def test_another_seed_is_another_run(unbroken, configuration, tmp_path):
    out = run(configuration, tmp_path / "run", "seed=1", "train.steps=2")
    assert log(out)[0]["loss"] != log(unbroken)[0]["loss"]


def test_labels_are_never_read(unbroken, configuration, corpus, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(corpus, bare, ignore=shutil.ignore_patterns("wavs", "utt2*", "spk2utt"))
    scrambled = tmp_path / "scrambled"
    shutil.copytree(corpus, scrambled, ignore=shutil.ignore_patterns("wavs"))
    for name in ("utt2spk", "utt2emotion"):
        (scrambled / name).write_bytes(b"\xff\xfe no labels at all\n\n\x00")
    for data in (bare, scrambled):
        out = run(configuration, tmp_path / f"{data.name}-run", f"data.train=[{data}]")
        assert equal(weights(out), weights(unbroken))
        assert log(out) == log(unbroken)


@pytest.mark.parametrize("workers", [1])
def test_worker_processes_change_nothing(unbroken, configuration, tmp_path, workers):
    out = run(configuration, tmp_path / "run", f"data.workers={workers}")
    assert equal(weights(out), weights(unbroken))


def test_utterances_that_are_kept_decoded_change_nothing(unbroken, configuration, tmp_path, capsys):
    out = run(configuration, tmp_path / "run", "data.decoded_gb=0.1")
    assert equal(weights(out), weights(unbroken))
    assert re.search(r"\d+ of \d+ utterances are kept once decoded \(", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("changes", "chosen"),
    [
        (["train.steps=4", "train.batch_size=5"], 1.234),  # each of 10 utterances twice
        (["train.steps=3", "train.batch_size=5"], 0.0),
        (["train.epochs=2", "train.steps=null", "train.batch_size=5"], 1.234),
        (["train.steps=40", "data.reading=stream"], 0.0),
        (["train.steps=40", "data.decoded_gb=0.5"], 0.5),
    ],
)
def test_utterances_are_kept_where_the_run_comes_to_them_twice(
    configuration, monkeypatch, changes, chosen
):
    monkeypatch.setattr("speechssl.train.data.memory_to_spare", lambda: 1_234_000_000)
    settings = resolve(str(configuration), changes)
    world = World(0, 1, torch.device("cpu"))
    assert with_decoded_gb(settings, 10, world).data.decoded_gb == chosen


def test_a_resumed_run_keeps_as_much_as_it_began_with(configuration, tmp_path):
    out = tmp_path / "run"
    run(configuration, out, "train.steps=2", "data.decoded_gb=0.01")
    run(configuration, out, "train.steps=2", resume=True)
    assert config.read(RunFolder(out).config)["data"]["decoded_gb"] == 0.01
    with pytest.raises(UserError, match="data.decoded_gb was 0.01 in .* and is 0.02 now"):
        run(configuration, out, "train.steps=2", "data.decoded_gb=0.02", resume=True)


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "true", "much"])
def test_no_amount_of_memory_is_one_line(configuration, tmp_path, value):
    with pytest.raises(UserError, match="data.decoded_gb must be auto or a number of at least 0"):
        run(configuration, tmp_path / "run", f"data.decoded_gb={value}")


def test_a_dry_run_writes_nothing(configuration, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    run(configuration, tmp_path / "run", dry_run=True)
    assert sorted(tmp_path.rglob("*")) == before
    said = capsys.readouterr().out
    assert "20 utterances" in said and "8 steps" in said and "M parameters" in said


def test_from_python_a_run_is_quiet_if_asked_and_takes_a_mapping(
    unbroken, corpus, tmp_path, capsys
):
    settings = config.read(RunFolder(unbroken).config)
    changes = {key: value for key, value in settings.items() if key != "train"}
    changes |= {f"train.{key}": value for key, value in settings["train"].items()}
    changes |= {"train.trackers": ["notebook"]}
    capsys.readouterr()
    train("dino-small", changes, out=tmp_path / "run", quiet=True)
    assert capsys.readouterr().err == ""
    assert same_run(tmp_path / "run", unbroken)
    assert (tmp_path / "run" / "curves.png").stat().st_size > 5000


def test_accumulated_batches_are_one_step(configuration, tmp_path, capsys):
    out = run(
        configuration,
        tmp_path / "run",
        "train.gradient_accumulation_steps=2",
        "train.steps=4",
        "train.save_every=4",
    )
    assert [line["step"] for line in log(out)] == [1, 2, 3, 4]
    assert log(out)[-1]["epoch"] == 2.0  # 20 utterances // 8 = 2 steps an epoch


@pytest.mark.parametrize("method", ["sgd", "adam"])
def test_bfloat16_and_other_optimisers_run(configuration, tmp_path, method):
    out = run(
        configuration,
        tmp_path / "run",
        f"optimizer.name={method}",
        "train.precision=bfloat16",
        "train.steps=2",
    )
    assert all(
        value.dtype == torch.float32 for value in weights(out).values() if value.is_floating_point()
    )


def test_training_starts_from_another_model_when_asked(unbroken, configuration, tmp_path):
    out = run(configuration, tmp_path / "run", f"train.init={unbroken}", "train.steps=1")
    assert equal(*(dict(Model.load(p).encoder.state_dict()) for p in (out / "untrained", unbroken)))
    with pytest.raises(UserError, match="train.init"):
        run(configuration, tmp_path / "other", f"train.init={unbroken}", "encoder.width=16")


@pytest.mark.parametrize(
    ("step", "every", "due"), [(2, 2, True), (3, 2, False), (9, 2, True), (9, 20, True)]
)
def test_a_save_is_due_every_so_many_steps_and_after_the_last(step, every, due):
    assert is_due(step, every, last_step=9) is due


def test_training_starts_from_a_model_with_an_encoder_of_ones_own(
    configuration, tmp_path, monkeypatch
):
    (tmp_path / "ownencoder.py").write_text(
        "from speechssl.encoders.ecapa import ECAPA\n\n\nclass Mine(ECAPA):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mine = ["encoder.name=ownencoder:Mine", "encoder.width=32", "train.steps=1"]
    first = run(configuration, tmp_path / "first", *mine)
    run(configuration, tmp_path / "second", *mine, f"train.init={first}")
    with pytest.raises(UserError, match="names code outside speechssl"):
        run(configuration, tmp_path / "third", f"train.init={first}")
    sys.modules.pop("ownencoder")


# What is refused


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.batch_size=21", "larger than the 20 utterances"),
        ("train.batch_size=1", "train.batch_size"),
        ("train.batch_size=0", "train.batch_size"),
        ("train.epochs=3", "train.epochs or train.steps"),
        ("train.stepps=3", "train.stepps.*'steps'"),
        ("data.overlap=.3", "is called data.far_apart_prob now"),
        ("train.accumulate=3", "is called train.gradient_accumulation_steps now"),
        ("trian.steps=3", "'trian'.*'train'"),
        ("optimizer.lr=fast", "optimizer.lr"),
        ("encoder.name=ecappa", "'ecapa'"),
        ("method.K=4", "method.K"),
        ("data.train=[]", "data.train"),
        ("data.train=[/nowhere/at/all]", "/nowhere/at/all"),
        ("data.min_seconds=9", "no usable utterance"),
        ("data.crops=[]", "crops"),
        ("data.crops=[{count: 1, seconds: 0.5}]", "crops"),
        ("data.crops=[{count: 2}]", "crops"),
        ("seed=-1", "seed"),
        ("monitor.every=0", "monitor.every"),
        ("optimizer.warmup=2", "optimizer.warmup"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_run_behind(configuration, tmp_path, override, message):
    with pytest.raises(UserError, match=message) as error:
        run(configuration, tmp_path / "run", override, dry_run="count: 1, " in override)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_not_overwritten(unbroken, configuration):
    before = (unbroken / "last.pt").stat().st_mtime_ns
    with pytest.raises(UserError, match="holds a run already.*--resume"):
        run(configuration, unbroken)
    assert (unbroken / "last.pt").stat().st_mtime_ns == before


def test_short_and_missing_files_are_left_out_counted_and_listed(
    configuration, corpus, tmp_path, capsys
):
    data = tmp_path / "data"
    shutil.copytree(corpus, data, ignore=shutil.ignore_patterns("wavs"))
    (data / "wav.scp").write_text((corpus / "wav.scp").read_text() + "zz /nowhere/zz.wav\n")
    out = run(
        configuration,
        tmp_path / "run",
        f"data.train=[{data}]",
        "train.steps=1",
        "data.min_seconds=0.9",
    )
    listed = dict(line.split("\t") for line in (out / "skipped.tsv").read_text().splitlines())
    assert "zz" in listed and len(listed) > 1
    said = f"{len(listed)} of 21 utterances left out, listed in {out / 'skipped.tsv'}"
    assert said in capsys.readouterr().err
    assert config.read(out / "about.yaml")["data"]["utterances"] == 21 - len(listed)


# Losses that are not finite


def broken_from(monkeypatch, step, value=float("nan")):
    real = Dino.forward

    def forward(self, views, progress):
        output = real(self, views, progress)
        return output._replace(loss=output.loss * value) if progress.step >= step else output

    monkeypatch.setattr(Dino, "forward", forward)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_and_names_the_utterances(
    configuration, tmp_path, monkeypatch, value
):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        broken_from(patch, 5, value)
        with pytest.raises(
            UserError, match=r"not finite in step 5 \(utterances u\d\d, u\d\d"
        ) as error:
            run(configuration, out, "train.log_every=4", "train.save_every=2")
    assert "optimizer.lr" in str(error.value)
    assert read_checkpoint(out / "last.pt")["step"] == 4
    assert all(value.isfinite().all() for value in weights(out).values())
    named = {
        u.strip()
        for u in str(error.value).partition("utterances")[2].partition(", ...")[0].split(",")
    }
    settings = resolve(str(configuration))
    indices = Run(settings, _alone(), read_utterances(settings.data)[0]).batches[5].indices
    assert named == {f"u{i:02d}" for i in indices.tolist()}
    run(configuration, out, "train.log_every=4", "train.save_every=2", resume=True)
    assert read_checkpoint(out / "last.pt")["step"] == 8


def _alone():
    from speechssl.distributed import World

    return World(0, 1, torch.device("cpu"))


def test_a_rate_that_explodes_never_saves_weights_that_are_not_finite(configuration, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(UserError, match="not finite"):
        run(configuration, out, "optimizer.lr=1e30", "train.save_every=1", "optimizer.warmup=0.5")
    assert all(value.isfinite().all() for value in weights(out).values())


def test_the_monitor_can_stop_a_run(configuration, tmp_path, monkeypatch):
    real = Dino.forward

    def forward(self, views, progress):
        output = real(self, views, progress)
        return output._replace(scalars=output.scalars | {"kl": torch.zeros(())})

    monkeypatch.setattr(Dino, "forward", forward)
    overrides = ("monitor.after=0.0", "monitor.patience=2", "monitor.stop=true")
    out = run(configuration, tmp_path / "run", *overrides)
    assert [line["step"] for line in log(out)] == [1, 2]
    assert "collapse alarm" in log(out)[-1]["alarms"][0]
    assert read_checkpoint(out / "last.pt")["step"] == 2


METHOD = """
'''Pull views together and push their mean to zero: a method in one file.'''

import torch

from speechssl.interfaces import Method, Output
from speechssl.nn.encoding import encode


class Mine(Method):
    def __init__(self, encoder, *, push: float = 1.0):
        super().__init__()
        self.net, self.push = encoder, push

    @property
    def encoder(self):
        return self.net

    def forward(self, views, progress):
        z = torch.cat([encode(self.net, group) for group in views]).float()
        loss = z.var(0).mean() + self.push * z.mean((0, 1)).square().mean()
        return Output(loss, {"spread": z.var((0, 1)).mean().detach()}, z[0].detach(), z)
"""


def test_a_method_is_one_file_in_a_package_of_ones_own(configuration, tmp_path):
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "__init__.py").write_text("")
    (tmp_path / "mypackage" / "mine.py").write_text(METHOD)
    command = [
        sys.executable, "-m", "speechssl", "train", str(configuration), "--out", str(tmp_path / "run"),
        "method={name: 'mypackage.mine:Mine', push: 2.0}", "--device", "cpu",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "spread" in log(tmp_path / "run")[-1]
    assert (tmp_path / "run" / "model" / "weights.safetensors").exists()
    command[-3] = "method={name: 'mypackage.mine:Mine', pusch: 2.0}"
    wrong = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert wrong.returncode == 2 and "method.pusch (did you mean 'push'?)" in wrong.stderr


# Kill and resume

KILLED = """
import os, signal, sys
from speechssl.train.loop import train
from speechssl.train.view_maker import ViewMaker
real, step = ViewMaker.__call__, int(sys.argv[3])
def views(self, batch, index):
    if index == step:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, batch, index)
ViewMaker.__call__ = views
train(sys.argv[1], out=sys.argv[2], device="cpu")
"""


def test_a_run_that_was_killed_ends_as_the_unbroken_one(unbroken, configuration, tmp_path):
    out, step = tmp_path / "run", random.randrange(1, 8)
    command = [sys.executable, "-c", KILLED, str(configuration), str(out), str(step)]
    ended = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert ended.returncode == -9, ended.stderr
    assert not (out / "model").exists()
    run(configuration, out, resume=True)
    assert same_run(out, unbroken), f"killed before step {step}"
    assert log(out) == log(unbroken)


@pytest.mark.parametrize("save", [1, 3, 5])
def test_a_run_that_broke_off_in_a_save_ends_as_the_unbroken_one(
    unbroken, configuration, tmp_path, monkeypatch, save
):
    out, count = tmp_path / "run", []

    def torn(value, file):
        count.append(1)
        if len(count) > save:
            file.write(b"half")
            raise KeyboardInterrupt
        real(value, file)

    real = torch.save
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.torch, "save", torn)
        with pytest.raises(KeyboardInterrupt):
            run(configuration, out)
    run(configuration, out, resume=True)
    assert same_run(out, unbroken)


def test_resuming_what_was_never_begun_begins_it(unbroken, configuration, tmp_path):
    assert same_run(run(configuration, tmp_path / "run", resume=True), unbroken)


def test_resuming_a_finished_run_changes_nothing(unbroken, configuration, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    run(configuration, out, resume=True)
    assert same_run(out, unbroken) and log(out) == log(unbroken)


@pytest.mark.parametrize(
    "change", ["optimizer.lr=2e-3", "train.steps=12", "method.prototypes=32", "seed=3"]
)
def test_a_changed_configuration_is_refused_on_resume(unbroken, configuration, change):
    key = change.partition("=")[0]
    with pytest.raises(UserError, match=f"{key} was .* and is .* now"):
        run(configuration, unbroken, change, resume=True)


def test_changed_data_are_refused_on_resume(unbroken, configuration, corpus, tmp_path):
    out, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(corpus, data, ignore=shutil.ignore_patterns("wavs"))
    run(configuration, out, f"data.train=[{data}]", "train.steps=2")
    (data / "wav.scp").write_text(
        "\n".join((data / "wav.scp").read_text().splitlines()[:-2]) + "\n"
    )
    with pytest.raises(UserError, match=r"other data \(20 utterances then, 18 now\)"):
        run(configuration, out, f"data.train=[{data}]", "train.steps=2", resume=True)


def test_a_run_of_so_many_minutes_fixes_its_steps_and_resumes_with_them(configuration, tmp_path):
    out = run(configuration, tmp_path / "run", minutes=1e-4)
    assert config.read(out / "config.yaml")["train"]["steps"] == 20 == log(out)[-1]["step"]
    before = log(out)
    run(configuration, out, minutes=5.0, resume=True)
    assert log(out) == before
    assert same_run(out, run(configuration, tmp_path / "again", "train.steps=20"))


# Several processes


def torchrun(configuration, out, *overrides, processes=2):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
    ]
    command += [
        "-m",
        "speechssl",
        "train",
        str(configuration),
        *overrides,
        "--out",
        str(out),
        "--device",
        "cpu",
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return out


@pytest.mark.parametrize(
    "encoder",
    [
        {
            "name": "resnet",
            "width": 4,
            "embedding_dim": 16,
            "attention_channels": 8,
            "blocks": [1, 1, 1, 1],
        }
    ],
)
def test_two_processes_have_the_loss_curve_of_one_with_the_doubled_batch(
    configuration, tmp_path, encoder
):
    settings = yaml.safe_load(configuration.read_text()) | {"encoder": encoder}
    configuration.write_text(yaml.safe_dump(settings))
    # Adam would make whole steps of gradients that are only rounding.
    options = ("train.steps=6", "optimizer.name=sgd", "optimizer.lr=0.01")
    one = run(configuration, tmp_path / "one", "train.batch_size=8", *options)
    two = torchrun(configuration, tmp_path / "two", "train.batch_size=4", *options)
    assert [line["step"] for line in log(two)] == [1, 2, 3, 4, 5, 6]
    for a, b in zip(log(one), log(two), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-3), (a["step"], log(one), log(two))
        assert b["gradient_norm"] == pytest.approx(a["gradient_norm"], rel=1e-3)
        assert (a["lr"], a["epoch"]) == (b["lr"], b["epoch"])
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    for key in first:
        if first[key].is_floating_point():
            torch.testing.assert_close(
                second[key], first[key], rtol=1e-2, atol=5e-4, msg=lambda m, k=key: f"{k}: {m}"
            )

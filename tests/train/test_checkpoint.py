"""Saved states survive a kill, and snapshots average to what they should."""

import os
import signal

import pytest
import torch

from speechssl import config, parts
from speechssl.data.manifest import Utterance
from speechssl.errors import UserError
from speechssl.files import RunFolder
from speechssl.model import Model
from speechssl.train import about, checkpoint
from speechssl.train.average import average
from speechssl.train.resuming import same_settings
from speechssl.train.settings import resolve, with_precision
from speechssl.weights import read_checkpoint

ENCODER = {
    "name": "ecapa",
    "width": 8,
    "scale": 2,
    "embedding_dim": 4,
    "attention_channels": 4,
    "se_channels": 4,
}


def in_a_child(function):
    """Run in a forked process and return how it ended (a signal as a negative number)."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_state_reads_back(tmp_path):
    state = {"step": 3, "method": {"w": torch.randn(4)}, "rng": torch.get_rng_state()}
    checkpoint.save_state(state, tmp_path / "last.pt")
    again = read_checkpoint(tmp_path / "last.pt")
    assert again["step"] == 3 and torch.equal(again["method"]["w"], state["method"]["w"])
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_kill_in_the_middle_of_a_save_leaves_the_old_state(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    checkpoint.save_state({"step": 1}, path)

    def half(value, file):
        file.write(b"PK half of a checkpoint")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(torch, "save", half)
    assert in_a_child(lambda: checkpoint.save_state({"step": 2}, path)) == -signal.SIGKILL
    monkeypatch.undo()
    assert read_checkpoint(path)["step"] == 1
    checkpoint.save_state({"step": 3}, path)  # the half-written file is no obstacle
    assert read_checkpoint(path)["step"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half"])
def test_a_damaged_state_is_one_line(tmp_path, content):
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"last\.pt: cannot be read") as error:
        read_checkpoint(tmp_path / "last.pt")
    assert "\n" not in str(error.value)


def test_only_the_last_snapshots_stay_in_the_order_of_their_steps(tmp_path):
    for step in (5, 90, 100, 1000):
        checkpoint.save_snapshot(
            RunFolder(tmp_path), step, {"w": torch.tensor(float(step))}, keep=3
        )
    names = [path.stem for path in checkpoint.snapshots(RunFolder(tmp_path))]
    assert names == ["step-00000090", "step-00000100", "step-00001000"]


def run_folder(tmp_path, count=3):
    settings = {"features": {"n_mels": 10}, "encoder": ENCODER}
    config.write(settings, RunFolder(tmp_path).config)
    config.write({"method": "dino", "seed": 0}, RunFolder(tmp_path).about)
    states = []
    for seed in range(count):
        torch.manual_seed(seed)
        encoder = Model(**settings).encoder
        for buffer in encoder.buffers():
            buffer.fill_(seed + 1)
        states.append(encoder.state_dict())
        checkpoint.save_snapshot(RunFolder(tmp_path), 10 * (seed + 1), states[-1], keep=10)
    return states


def test_the_average_of_the_last_snapshots(tmp_path):
    states = run_folder(tmp_path)
    folder = average(tmp_path, last=2)
    assert folder == tmp_path / "model-average2"
    model = Model.load(folder)
    got = model.encoder.state_dict()
    for key, value in got.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (states[1][key] + states[2][key]) / 2)
        else:
            assert torch.equal(value, states[2][key])
    assert model.about["averaged"] == ["step-00000020", "step-00000030"]


def test_the_model_as_it_was_at_a_step(tmp_path):
    states = run_folder(tmp_path)
    got = Model.load(average(tmp_path, last=1, until=25, out=tmp_path / "then"))
    assert got.about["averaged"] == ["step-00000020"]
    for key, value in got.encoder.state_dict().items():
        torch.testing.assert_close(value, states[1][key])
    with pytest.raises(UserError, match="up to step 9"):
        average(tmp_path, until=9)


def test_the_average_of_equal_snapshots_is_bit_identical(tmp_path):
    states = run_folder(tmp_path, count=1)
    for step in (20, 30):
        checkpoint.save_snapshot(RunFolder(tmp_path), step, states[0], keep=10)
    got = Model.load(average(tmp_path, last=99, out=tmp_path / "mine")).encoder.state_dict()
    assert all(torch.equal(got[key], states[0][key]) for key in got)


@pytest.mark.parametrize("last", [0, -1, 3])
def test_nothing_to_average_is_one_line(tmp_path, last):
    if last < 1:
        run_folder(tmp_path, count=1)
    with pytest.raises(UserError, match="average"):
        average(tmp_path, last=last)


def test_the_fingerprint_knows_the_utterances_but_not_where_they_lie():
    def of(*pairs, root="/a"):
        return about.fingerprint([Utterance(i, f"{root}/{i}", 0.0, None, s) for i, s in pairs])

    want = of(("a", 1.0), ("b", 2.0))
    assert len(want) == 16 and set(want) <= set("0123456789abcdef")
    assert of(("a", 1.0), ("b", 2.0), root="/b") == want
    assert len({want, of(("a", 1.0)), of(("a", 1.0), ("b", 2.5)), of(("a", 1.0), ("c", 2.0))}) == 4


def test_a_run_from_before_auto_is_resumed_as_it_was(configuration, tmp_path):
    """A run whose configuration says `threads: -1` and a precision goes on in that precision."""
    auto = ["train.threads=auto", "train.precision=auto"]
    before = config.thaw(resolve(str(configuration), auto))
    before["train"] |= {"threads": -1, "precision": "bfloat16"}
    config.write(before, RunFolder(tmp_path).config)
    asked = resolve(str(configuration), auto)
    resumed = same_settings(RunFolder(tmp_path), asked)
    assert resumed.train.precision == "bfloat16" and resumed.train.threads == "auto"
    asked = resolve(str(configuration), ["train.threads=auto", "train.precision=float32"])
    with pytest.raises(UserError, match="train.precision was 'bfloat16'"):
        same_settings(RunFolder(tmp_path), asked)


@pytest.mark.parametrize("kernel", ["mkl", "onednn"])
def test_a_run_goes_on_with_the_kernel_that_it_began_with(
    kernel, configuration, tmp_path, monkeypatch
):
    """Also on another processor, or under another SPEECHSSL_FLOAT32_KERNEL."""
    asked = resolve(str(configuration))
    monkeypatch.setenv("SPEECHSSL_FLOAT32_KERNEL", kernel)
    config.write(config.thaw(with_precision(asked, "cpu")), RunFolder(tmp_path).config)
    monkeypatch.setenv("SPEECHSSL_FLOAT32_KERNEL", "mkl" if kernel == "onednn" else "onednn")
    resumed = with_precision(same_settings(RunFolder(tmp_path), asked), "cpu")
    assert resumed.train.float32_kernel == kernel


def test_a_run_from_before_there_was_a_choice_of_kernels_goes_on_with_mkl(configuration, tmp_path):
    asked = resolve(str(configuration))
    before = config.thaw(asked)
    del before["train"]["float32_kernel"]
    config.write(before, RunFolder(tmp_path).config)
    assert same_settings(RunFolder(tmp_path), asked).train.float32_kernel == "mkl"


def test_a_run_from_before_settings_were_renamed_is_resumed(configuration, tmp_path):
    asked = resolve(str(configuration))
    before = config.thaw(asked)
    optimizer = before["optimizer"]
    optimizer["lr_batch"] = optimizer.pop("reference_batch_size")
    optimizer["final_lr"] = optimizer.pop("final_lr_ratio")
    before["train"]["accumulate"] = before["train"].pop("gradient_accumulation_steps")
    before["data"]["overlap"] = before["data"].pop("far_apart_prob")
    config.write(before, RunFolder(tmp_path).config)
    assert same_settings(RunFolder(tmp_path), asked) == asked
    before["train"]["accumulate"] = 2
    config.write(before, RunFolder(tmp_path).config)
    with pytest.raises(UserError, match="train.gradient_accumulation_steps was 2"):
        same_settings(RunFolder(tmp_path), asked)


def test_a_part_within_a_part_is_resumed_under_its_new_names(configuration, tmp_path, monkeypatch):
    asked = resolve(str(configuration), ["method={name: byol, predictor: {name: mlp, hidden: 8}}"])
    before = config.thaw(asked)
    before["method"]["predictor"]["units"] = before["method"]["predictor"].pop("hidden")
    config.write(before, RunFolder(tmp_path).config)
    predictor = parts.find("predictors", "mlp")
    monkeypatch.setattr(predictor, "RENAMED", {"units": "hidden"}, raising=False)
    assert same_settings(RunFolder(tmp_path), asked) == asked


def test_a_configuration_is_saved_with_every_key_in_the_order_of_its_sections(configuration):
    written = config.thaw(resolve(str(configuration)))
    assert list(written) == [
        "seed", "data", "features", "augment", "specaugment",
        "optimizer", "train", "monitor", "heldout", "encoder", "method",
    ]  # fmt: skip
    assert written["data"]["crops"][0] == {"count": 2, "seconds": 0.5}
    assert written["train"]["steps"] == 8 and written["train"]["epochs"] is None

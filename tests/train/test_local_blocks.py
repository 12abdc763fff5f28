"""Local training: whose gradient reaches which stage, and what one unit over all stages is
(methods/README.md 14.3).
"""

import copy
import math

import pytest
import torch
from builders import ENCODERS

from speechssl import parts
from speechssl.errors import UserError
from speechssl.interfaces import Progress, Views
from speechssl.methods.simclr import nt_xent
from speechssl.nn.frames import Frames
from speechssl.nn.pooling import statistics
from speechssl.train.local_blocks import LocalBlocks
from speechssl.train.loop import train

MELS, START = 16, Progress(0, 10, 5)
SIMCLR = {"name": "simclr", "hidden": 10, "projection": 6}
COUNT = {"ecapa": 5, "resnet": 4}


def encoder_of(name, seed=0):
    torch.manual_seed(seed)
    return parts.build("encoders", ENCODERS[name], MELS).train()


def local(name, blocks, section=SIMCLR, seed=0):
    encoder = encoder_of(name, seed)
    torch.manual_seed(seed + 1)
    return LocalBlocks(encoder, section, blocks).train()


def batch(per_view=False, seed=0):
    g = torch.Generator().manual_seed(seed)
    long = torch.randn(2, 4, 24, MELS, generator=g)
    short = torch.randn(1, 4, 16, MELS, generator=g)
    return [Views(long, per_view=per_view), Views(short, "student", per_view=per_view)]


def gradients(method, loss):
    """Gradients of each stage of the encoder, in order."""
    encoder = method.encoder
    encoder.zero_grad()
    loss.backward()
    found = []
    for stage in encoder.stages():
        modules = [encoder.get_submodule(name) for name in stage.modules]
        found.append([p.grad for module in modules for p in module.parameters()])
    return found


def kept_gradients(encoder, stage):
    """Copies of the gradients of one stage."""
    found = []
    for name in stage.modules:
        found += [copy.deepcopy(p.grad) for p in encoder.get_submodule(name).parameters()]
    return found


def is_equal(one, two):
    return all(
        (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))
        for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("per_view", [False, True])
@pytest.mark.parametrize("name", COUNT)
def test_one_unit_over_all_stages_is_training_end_to_end(name, per_view, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    method = local(name, [list(range(1, COUNT[name] + 1))]).double()
    whole = parts.build("methods", SIMCLR, copy.deepcopy(method.encoder)).train()
    whole.projector.load_state_dict(method.units[0].projector.state_dict())
    whole.double()
    views = [g._replace(features=g.features.double()) for g in batch(per_view)]
    ours, theirs = (m(views, START) for m in (method, whole))
    assert torch.equal(ours.loss, theirs.loss)
    assert torch.equal(ours.embedding, theirs.embedding)
    got, want = gradients(method, ours.loss), gradients(whole, theirs.loss)
    for ours_of_stage, theirs_of_stage in zip(got, want, strict=True):
        for a, b in zip(ours_of_stage, theirs_of_stage, strict=True):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-10)  # sums in another order
    for key, value in whole.encoder.state_dict().items():  # running statistics
        assert torch.equal(method.encoder.state_dict()[key], value), key


def changed(name, blocks, stage):
    """Gradients, before and after the weights of one stage are others."""
    method = local(name, blocks)
    state = copy.deepcopy(method.state_dict())
    before = gradients(method, method(batch(), START).loss)
    before = [[None if g is None else g.clone() for g in stage] for stage in before]
    method.load_state_dict(state)
    encoder = method.encoder
    torch.manual_seed(5)
    with torch.no_grad():
        for module in encoder.stages()[stage - 1].modules:
            for p in encoder.get_submodule(module).parameters():
                p.add_(0.3 * torch.randn_like(p))
    return before, gradients(method, method(batch(), START).loss)


@pytest.mark.parametrize("name", COUNT)
def test_without_overlap_a_stage_does_not_hear_what_is_above_it(name):
    blocks = [[n] for n in range(1, COUNT[name] + 1)]
    before, after = changed(name, blocks, 2)
    assert is_equal(before[0], after[0])
    assert not is_equal(before[1], after[1]) and not is_equal(before[2], after[2])


@pytest.mark.parametrize("name", COUNT)
def test_with_overlap_it_hears_the_next_stage_and_not_the_one_after(name):
    blocks = [[n, n + 1] for n in range(1, COUNT[name])]
    before, after = changed(name, blocks, 2)
    assert not is_equal(before[0], after[0])
    before, after = changed(name, blocks, 3)
    assert is_equal(before[0], after[0]) and not is_equal(before[1], after[1])


@pytest.mark.parametrize("name", COUNT)
def test_a_shared_stage_has_the_sum_of_the_gradients_of_its_units(name):
    count = COUNT[name]
    blocks = [[1, 2], list(range(2, count + 1))]
    method = local(name, blocks)
    state = copy.deepcopy(method.encoder.state_dict())
    x = [batch()[0]]
    got = gradients(method, method(x, START).loss)
    got = [[g.clone() for g in stage] for stage in got]

    def reset():
        method.encoder.load_state_dict(state)
        method.encoder.zero_grad()

    # each unit by itself, by hand: stages, pooling, projector, loss
    chain = method.encoder.stages()
    rows = x[0].features.flatten(0, 1)
    reset()
    middle = chain[1].run(chain[0].run(rows))
    own = middle[..., -chain[1].channels :].flatten(1, -2)
    pooled = statistics(own, Frames.of(own, None)).view(2, 4, -1)
    nt_xent(method.units[0].projector(pooled), 0.1).backward()
    first = kept_gradients(method.encoder, chain[1])
    reset()
    with torch.no_grad():
        y = chain[0].run(rows)
    for stage in chain[1:]:
        y = stage.run(y)
    nt_xent(method.units[1].projector(y.view(2, 4, -1)), 0.1).backward()
    second = kept_gradients(method.encoder, chain[1])
    for whole, one, two in zip(got[1], first, second, strict=True):
        torch.testing.assert_close(whole, one + two, atol=1e-6, rtol=1e-4)
    # and the first stage hears the first unit alone: the second is cut at its input
    assert all(gradient is None for gradient in kept_gradients(method.encoder, chain[0]))


@pytest.mark.parametrize("name", COUNT)
def test_running_statistics_are_those_of_one_forward_pass(name):
    blocks = [[n, n + 1] for n in range(1, COUNT[name])]
    method = local(name, blocks)
    plain = copy.deepcopy(method.encoder)
    x = batch()[0]
    method([x], START)
    plain(x.features.flatten(0, 1))
    for key, value in plain.state_dict().items():
        if "running" in key:
            torch.testing.assert_close(method.encoder.state_dict()[key], value, msg=key)


def test_at_collapse_every_unit_has_the_methods_collapsed_loss():
    section = {"name": "simclr", "hidden": 0}
    method = local("ecapa", [[1, 2], [2, 3], [3, 4, 5]], section)
    same = torch.randn(1, 1, 24, MELS, generator=torch.Generator().manual_seed(0))
    output = method([Views(same.expand(2, 4, 24, MELS))], START)
    for number in (1, 2, 3):
        assert float(output.scalars[f"unit_{number}"]) == pytest.approx(math.log(7), abs=1e-3)
    assert output.loss.item() == pytest.approx(3 * math.log(7), abs=3e-3)


def test_every_parameter_has_a_gradient_and_the_encoder_is_saved_once():
    method = local("ecapa", [[1, 2], [2, 3], [3, 4], [4, 5]])
    method(batch(), START).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    whole = parts.build("methods", SIMCLR, encoder_of("ecapa"))
    encoder_keys = [key for key in method.state_dict() if key.startswith("net.")]
    assert len(encoder_keys) == len(whole.encoder.state_dict())
    heads = [key for key in method.state_dict() if not key.startswith("net.")]
    assert all("projector" in key for key in heads)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([[1, 2], [2, 3]], "the last unit ends at stage 3"),
        ([[1, 3], [3, 4]], r"\[1, 3\] is not a run of stages"),
        ([[2, 3], [3, 4]], r"\[2, 3\] leaves stages out"),
        ([[1], [3, 4]], r"\[3, 4\] leaves stages out"),
        ([[1, 2, 3, 4], [2, 3]], r"\[2, 3\] leaves stages out, or does not go on"),
        ([[]], "is not a run of stages"),
    ],
)
def test_units_that_do_not_cover_the_encoder_are_refused(blocks, message):
    with pytest.raises(UserError, match=message):
        local("resnet", blocks)


def test_a_method_with_a_teacher_is_refused():
    with pytest.raises(UserError, match="method byol has a teacher or learns labels"):
        local("resnet", [[1, 2], [3, 4]], {"name": "byol", "hidden": 8, "projection": 4})


def test_a_run_in_units(configuration, tmp_path):
    words = ["method={name: simclr, hidden: 16, projection: 8}", "train.steps=3"]
    blocks = "train.local_blocks=[[1,2],[2,3],[3,4,5]]"
    out = train(str(configuration), [*words, blocks], out=tmp_path / "run", device="cpu")
    line = (out / "log.jsonl").read_text().splitlines()[-1]
    assert '"unit_1"' in line and '"unit_3"' in line
    plain = train(str(configuration), words, out=tmp_path / "plain", device="cpu")
    one, two = (torch.load(o / "last.pt", weights_only=True)["method"] for o in (out, plain))
    assert not torch.equal(one["net.fc.conv.weight"], two["net.fc.conv.weight"])

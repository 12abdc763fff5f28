"""What every method promises, over every name in the folder (`interfaces.Method`)."""

import copy
import inspect

import pytest
import torch
from _methods import make, trainable, views
from builders import DEVICE, ToyEncoder, on_device, readme_part
from torch.utils._python_dispatch import TorchDispatchMode

from speechssl import config, parts
from speechssl.errors import UserError
from speechssl.interfaces import Method, Progress

NAMES = [*parts.names("methods"), readme_part("methods")]


def steps(method, count, start=0, optimizer=None):
    """Whole steps as the loop takes them; the losses."""
    optimizer = optimizer or torch.optim.AdamW(trainable(method), lr=3e-3)
    losses = []
    for number in range(start, start + count):
        progress = Progress(number, 100, 5)
        output = method(views(seed=0), progress)
        optimizer.zero_grad(set_to_none=True)
        output.loss.backward()
        method.after_backward(progress)
        optimizer.step()
        method.after_step(progress)
        losses.append(output.loss.item())
    return losses


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_documented_method_with_a_default_for_every_setting(name):
    part = parts.find("methods", name)
    assert issubclass(part, Method)
    assert next(iter(inspect.signature(part).parameters)) == "encoder"
    assert parts.check("methods", {"name": name}, "method")["name"] == name
    assert inspect.getdoc(inspect.getmodule(part))


@pytest.mark.parametrize("name", NAMES)
def test_a_step_gives_a_scalar_loss_detached_scalars_and_embeddings(name):
    method = make(name)
    output = method(views(), Progress(0, 100, 5))
    assert output.loss.shape == () and output.loss.requires_grad and output.loss.isfinite()
    assert output.loss.dtype == torch.float32
    for key, value in output.scalars.items():
        assert value.shape == () and not value.requires_grad and value.isfinite(), key
    assert output.embedding.ndim == 2 and output.embedding.shape[1] == method.encoder.embedding_dim
    assert len(output.embedding) % 8 == 0 and not output.embedding.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_what_is_trainable_gets_a_gradient_and_the_rest_none(name):
    method = make(name)
    steps(method, 2)  # some methods have to see the data first
    output = method(views(), Progress(50, 100, 5))
    for p in method.parameters():
        p.grad = None
    output.loss.backward()
    for key, p in method.named_parameters():
        if p.requires_grad:
            assert p.grad is not None and p.grad.isfinite().all(), key
        else:
            assert p.grad is None, key
    assert sum(p.grad.abs().sum() for p in trainable(method)) > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_encoder_that_users_get_moves_and_is_of_the_right_kind(name):
    method = make(name)
    assert isinstance(method.encoder, ToyEncoder)
    before = copy.deepcopy(method.encoder.state_dict())
    steps(method, 2)
    assert any(
        not torch.equal(value, before[key]) for key, value in method.encoder.named_parameters()
    )
    assert all(p.isfinite().all() for p in method.encoder.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_networks_are_distinct_encoders_and_the_one_that_users_get_is_among_them(name):
    method = make(name)
    networks = method.networks()
    assert any(network is method.encoder for network in networks.values())
    assert len({id(network) for network in networks.values()}) == len(networks)
    assert all(isinstance(network, ToyEncoder) for network in networks.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_method_with_a_moving_average_names_a_student_and_a_teacher(name):
    method = make(name)
    networks = method.networks()
    if any(not p.requires_grad for p in method.encoder.parameters()):
        assert {"student", "teacher"} <= set(networks)
        assert networks["teacher"] is method.encoder
        assert all(p.requires_grad for p in networks["student"].parameters())
    else:
        assert list(networks) == ["encoder"]


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls_on_a_fixed_batch(name):
    losses = steps(make(name), 60)
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5]), losses


@pytest.mark.parametrize("name", NAMES)
def test_the_smallest_batch_is_enough(name):
    method = make(name)
    output = method(views(batch=method.min_batch), Progress(0, 100, 5))
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(p.grad.isfinite().all() for p in trainable(method) if p.grad is not None)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_float32_under_autocast(name):
    method = make(name)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        output = method(views(), Progress(0, 100, 5))
    assert output.loss.dtype == torch.float32 and output.loss.isfinite()
    output.loss.backward()
    assert all(
        value.dtype == torch.float32
        for value in method.state_dict().values()
        if value.is_floating_point()
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_state_that_is_loaded_continues_bit_for_bit(name):
    method = make(name)
    optimizer = torch.optim.AdamW(trainable(method), lr=3e-3)
    steps(method, 4, optimizer=optimizer)
    kept, kept_optimizer = copy.deepcopy(method.state_dict()), copy.deepcopy(optimizer.state_dict())
    rng = torch.get_rng_state()
    want = steps(method, 4, start=4, optimizer=optimizer)
    again = make(name, seed=1)
    other = torch.optim.AdamW(trainable(again), lr=3e-3)
    again.load_state_dict(kept)
    other.load_state_dict(kept_optimizer)
    torch.set_rng_state(rng)
    assert steps(again, 4, start=4, optimizer=other) == want
    for key, value in method.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_utterances_does_not_matter(name):
    turned = torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])
    one, two = make(name), make(name)
    batch = views()
    a = one(batch, Progress(0, 100, 5)).loss
    other = [g._replace(features=g.features[:, turned], ids=g.ids[turned]) for g in batch]
    b = two(other, Progress(0, 100, 5)).loss
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


class Waits(TorchDispatchMode):
    """Lists the operations for which the host would wait until a GPU has done all its work."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        # lift_fresh: torch.tensor(...) of Python numbers, which are copied to the device
        waiting = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "lift_fresh")
        if by_mask or name in waiting:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("groups", [None, [0, 0, 1, 1, 2, 2, -1, -1]], ids=["alone", "in groups"])
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"ccfc", "wmse"}))
def test_a_step_does_not_wait_for_the_device(name, groups):
    # ccfc asks whether it has clusters, wmse whether its covariance could be factorised.
    method = make(name)
    steps(method, 3)
    progress = Progress(3, 100, 5)
    batch = views(seed=0)
    if groups is not None:
        batch = [group._replace(groups=on_device(torch.tensor(groups))) for group in batch]
    with Waits() as waits:
        method(batch, progress).loss.backward()
        method.after_backward(progress)
        method.after_step(progress)
    assert waits.seen == []


def test_the_watch_for_waits_sees_them():
    x = torch.ones(3)
    with Waits() as waits:
        float(x.sum())
        x[x > 0]
        torch.tensor([1.0, 2.0])
        torch.where(x > 0, x, 0).sum()
    assert waits.seen == ["_local_scalar_dense", "index", "lift_fresh"]


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_setting_is_refused(name):
    with pytest.raises(UserError, match="unknown key method.no_such_setting"):
        parts.check("methods", {"name": name, "no_such_setting": 1}, "method")


@pytest.mark.parametrize("name", NAMES)
def test_a_renamed_setting_is_refused_by_its_old_name_and_exists_by_its_new_one(name):
    part = parts.find("methods", name)
    settings = config.schema(part)
    for old, new in getattr(part, "RENAMED", {}).items():
        assert old not in settings and new in settings
        with pytest.raises(UserError, match=f"method.{old} is called method.{new} now"):
            parts.check("methods", {"name": name, old: 1}, "method")

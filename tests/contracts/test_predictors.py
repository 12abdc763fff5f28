"""What every predictor promises, over every name in the folder and the README's example."""

import inspect

import pytest
import torch
from builders import on_device, readme_part

from speechssl import parts
from speechssl.errors import UserError
from speechssl.interfaces import Predictor

NAMES = [*parts.names("predictors"), readme_part("predictors")]
DIM = 6


def make(name):
    torch.manual_seed(0)
    return on_device(parts.build("predictors", name, DIM)).train()


def rows(count, seed=0):
    return on_device(torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_documented_and_maps_projections_to_predictions(name):
    part = parts.find("predictors", name)
    assert issubclass(part, Predictor) and inspect.getdoc(inspect.getmodule(part))
    assert next(iter(inspect.signature(part).parameters)) == "dim"
    z = rows(8).requires_grad_()
    predictor = make(name)
    predictor.observe(z.detach())
    predictor.after_step(0)
    p = predictor(z)
    assert p.shape == z.shape
    (-predictor.cosine(z, p, rows(8, seed=1)).mean()).backward()
    assert z.grad.isfinite().all() and z.grad.abs().sum() > 0
    for key, parameter in predictor.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", NAMES)
def test_its_state_survives_a_round_trip(name):
    one, two = make(name), make(name)
    one.observe(rows(32))
    one.after_step(0)
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(rows(4)), two(rows(4)))


@pytest.mark.parametrize("name", NAMES)
def test_its_rule_is_of_its_own_parameters(name):
    predictor = make(name)
    rule = predictor.rule()
    own = {id(parameter) for parameter in predictor.parameters()}
    assert rule is None or {id(parameter) for parameter in rule.parameters} <= own


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_setting_is_refused(name):
    with pytest.raises(UserError, match="unknown key predictor.no_such_setting"):
        parts.check("predictors", {"name": name, "no_such_setting": 1}, "predictor")

"""AAM-softmax: gates, correction of labels and schedules, by hand."""

import math

import pytest
import torch
from torch import nn

from speechssl.errors import UserError
from speechssl.interfaces import Encoder, Progress, Views
from speechssl.methods.aam_softmax import AAMSoftmax
from speechssl.train.optimizers import OptimizerSettings, build_optimizer, schedule


class Plain(Encoder):
    """Features are embeddings: (B, 1, D) -> (B, D)."""

    embedding_dim = 2

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.fc = nn.Linear(2, 2)
        for layer in (self.first, self.fc):
            nn.init.eye_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features, lengths=None):
        return self.fc(self.first(features[:, 0]))

    def affine_layers(self):
        return {"fc": self.fc}


def make(labels, **settings):
    torch.manual_seed(0)
    method = AAMSoftmax(Plain(), **settings).train()
    method.prepare(len(labels), torch.tensor(labels))
    return method


def batch(rows):
    return [Views(torch.tensor(rows)[None, :, None], ids=torch.arange(len(rows)))]


def test_centres_begin_as_long_as_a_matrix_of_them_would():
    torch.manual_seed(0)
    method = AAMSoftmax(Plain(), subcentres=2)
    method.prepare(4000, torch.arange(4000) // 2)
    assert method.centres.std().item() == pytest.approx(
        (2 / (2 + 4000)) ** 0.5, rel=0.05
    )  # Glorot and Bengio 2010


def test_a_wrong_label_is_stopped_by_a_fixed_gate_and_changes_nothing():
    rows = [[1.0, 0.1], [0.9, 0.0], [-1.0, 0.1], [1.0, 0.0]]
    labels = [0, 0, 1, 1]  # the last is wrong
    settings = {"margin": 0.0, "scale": 10.0, "gate": "fixed", "gate_loss": 1.0, "gate_after": 0.0}
    method = make(labels, **settings)
    method.centres.data = torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]]])
    output = method(batch(rows), Progress(50, 100, 1))
    assert output.scalars["kept"] == 0.75
    three = make(labels[:3], **settings)
    three.centres.data = method.centres.data.clone()
    same = three(batch(rows[:3]), Progress(50, 100, 1))
    torch.testing.assert_close(output.loss, same.loss)


def test_a_stopped_sample_of_a_confident_model_learns_its_prediction():
    rows = [[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]
    labels = [0, 1, 1]
    method = make(
        labels,
        margin=0.0,
        scale=10.0,
        gate="fixed",
        gate_loss=1.0,
        gate_after=0.0,
        correct_after=0.5,
    )
    method.centres.data = torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]]])
    before = method(batch(rows), Progress(10, 100, 1))
    after = method(batch(rows), Progress(60, 100, 1))
    assert before.scalars["corrected"] == 0
    assert after.scalars["corrected"] == pytest.approx(1 / 3)
    # every one of the three now has the loss of a right answer, log(1 + exp(-20))
    torch.testing.assert_close(after.loss, torch.tensor(math.log1p(math.exp(-20))))


def test_nothing_kept_is_a_loss_of_zero():
    method = make([0, 1], gate="fixed", gate_loss=1e-9, gate_after=0.0)
    output = method(batch([[1.0, 0.0], [1.0, 0.1]]), Progress(50, 100, 1))
    output.loss.backward()
    assert output.loss == 0 and all(p.grad.isfinite().all() for p in method.parameters())


def test_the_dynamic_gate_is_fitted_once_an_epoch():
    rows = [[1.0, 0.0]] * 6 + [[-1.0, 0.0]] * 2
    method = make([0, 0, 0, 0, 0, 0, 1, 0], margin=0.0, scale=2.0, gate="dynamic", gate_after=0.0)
    method.centres.data = torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]]])
    method(batch(rows), Progress(0, 100, 3))
    assert method.gate == math.inf
    method(batch(rows), Progress(2, 100, 3))
    assert 0.02 < method.gate < 4
    assert method(batch(rows), Progress(3, 100, 3)).scalars["kept"] == 7 / 8


def test_the_margin_rises_and_what_is_before_pooling_waits():
    method = make([0, 1], margin=0.4, margin_warmup=0.5, affine_first=0.5)
    output = method(batch([[1.0, 0.2], [0.1, 1.0]]), Progress(25, 100, 10))
    assert output.scalars["margin"] == pytest.approx(0.2)
    output.loss.backward()
    method.after_backward(Progress(25, 100, 10))
    assert method.net.first.weight.grad is None and method.net.fc.weight.grad is not None
    assert method.centres.grad is not None
    output = method(batch([[1.0, 0.2], [0.1, 1.0]]), Progress(60, 100, 10))
    assert output.scalars["margin"] == pytest.approx(0.4)
    output.loss.backward()
    method.after_backward(Progress(60, 100, 10))
    assert method.net.first.weight.grad is not None


def test_the_centres_learn_at_a_rate_of_their_own():
    """One step of Adam is as long as the rate, whatever the gradient."""
    method = make([0, 1], centre_lr_scale=10.0)
    settings = OptimizerSettings(name="adam", lr=1e-3, weight_decay=0.0, warmup=0.0)
    optimizer = build_optimizer(method, settings)
    schedule(optimizer, settings, 0.0, 2)
    before = {name: weight.clone() for name, weight in method.named_parameters()}
    method(batch([[1.0, 0.2], [0.1, 1.0]]), Progress(0, 100, 10)).loss.backward()
    optimizer.step()
    moved = {
        name: (weight - before[name]).abs().max() for name, weight in method.named_parameters()
    }
    assert moved["centres"].item() == pytest.approx(1e-2, rel=1e-3)
    assert moved["net.fc.weight"].item() == pytest.approx(1e-3, rel=1e-3)


def test_what_cannot_be_is_one_line():
    with pytest.raises(UserError, match=r"data\.pseudo_labels is not set"):
        AAMSoftmax(Plain()).prepare(3)
    with pytest.raises(UserError, match="1 cluster"):
        make([0, 0])
    with pytest.raises(UserError, match="margin"):
        AAMSoftmax(Plain(), margin=3.0)
    with pytest.raises(UserError, match="centre_lr_scale"):
        AAMSoftmax(Plain(), centre_lr_scale=0.0)

"""Utterances of one group are no negatives of each other, in every method that has negatives
(methods/README.md 14.4).
"""

import math

import pytest
import torch
from builders import ToyEncoder

from speechssl import parts
from speechssl.diagnostics.uniformity import uniformity
from speechssl.interfaces import Progress, Views
from speechssl.methods.mio import mio_terms
from speechssl.methods.moco import EMPTY, NO_GROUP, MoCo, moco_loss
from speechssl.methods.moco_v3 import batch_contrast
from speechssl.methods.simclr import nt_xent
from speechssl.methods.trip_roma import triplet_terms
from speechssl.nn.groups import same_group

PAIR = {"hidden": 24, "projection": 8}
CONTRASTIVE = {
    "simclr": PAIR,
    "moco": {**PAIR, "queue_size": 32},
    "moco_v3": PAIR,
    "trip_roma": {**PAIR, "random_dim": 8},
    "mio": PAIR,
    "align_uniform": PAIR,
    "plus_contrast": {"base": {"name": "simsiam", "predictor": "none", **PAIR}, "weight": 0.5},
    "c3_dino": {**PAIR, "queue_size": 32, "prototypes": 0},
}


def groups_of(*names):
    return torch.tensor(names)


@pytest.mark.parametrize(
    ("count", "groups", "before", "after"),
    [(2, (0, 0), math.log(3), 0.0), (4, (0, 0, 1, 1), math.log(7), math.log(5))],
)
def test_collapsed_nt_xent_by_hand(count, groups, before, after):
    views = torch.ones(2, count, 3, requires_grad=True)
    assert float(nt_xent(views, 0.1)) == pytest.approx(before, abs=1e-6)
    loss = nt_xent(views, 0.1, groups=groups_of(*groups))
    assert float(loss) == pytest.approx(after, abs=1e-6)
    loss.backward()
    assert views.grad.abs().max() < 1e-6


def losses(views, groups, queue_groups=None):
    """The loss of each function on views (3, B, P), of which the last is MoCo's queue."""
    one, two, queue = views
    normalised = [z / z.norm(dim=1, keepdim=True) for z in (one, two, queue)]
    kept = None
    if queue_groups is not None:
        kept = (~same_group(groups, queue_groups)).to(views.dtype)
    return {
        "simclr": nt_xent(views[:2], 0.2, groups=groups),
        "moco": moco_loss(*normalised, 0.2, kept),
        "moco_v3": batch_contrast(*normalised[:2], 0.2, groups=groups),
        "hinge": triplet_terms(one, two, groups=groups)[0],
        "softplus": triplet_terms(one, two, groups=groups)[1],
        "mio": mio_terms(one, two, groups=groups)[1],
        "uniformity": uniformity(one, groups=groups),
    }


@pytest.mark.parametrize("groups", [(3, 1, 2, 0), (3, -1, -1, 0), (-1, -1, -1, -1)])
def test_utterances_of_different_groups_or_of_none_change_no_bit(groups):
    torch.manual_seed(0)
    views = torch.randn(3, 4, 5)
    found = losses(views, groups_of(*groups), groups_of(7, 8, NO_GROUP, 9))
    for name, value in losses(views, None).items():
        assert torch.equal(found[name], value), name


def test_an_utterance_whose_others_are_all_of_its_group_has_no_loss_and_no_gradient():
    torch.manual_seed(0)
    views = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)
    for name, loss in losses(views, groups_of(7, 7), groups_of(7, 7)).items():
        (gradient,) = torch.autograd.grad(loss, views, retain_graph=True)
        assert float(loss.detach()) == pytest.approx(0.0, abs=1e-12), name
        assert gradient.abs().max() < 1e-12, name


def test_a_masked_key_is_as_if_it_were_not_there():
    """Utterances 0 and 1 of one group: the loss of 0 and 1 is that of 0 against the rest alone."""
    torch.manual_seed(0)
    z = torch.randn(3, 4, 5, dtype=torch.float64)
    q, k, queue = (view / view.norm(dim=1, keepdim=True) for view in z)
    groups = groups_of(0, 1, 2, 3)
    kept = (~same_group(groups, groups)).double()
    apart = [
        moco_loss(q[[i]], k[[i]], queue[[j for j in range(4) if j != i]], 0.2) for i in range(4)
    ]
    torch.testing.assert_close(moco_loss(q, k, queue, 0.2, kept), torch.stack(apart).mean())
    pair = groups_of(5, 5, 2, 3)
    rows = []
    for i in range(4):
        others = [j for j in range(4) if j == i or pair[j] != pair[i]]
        rows.append(batch_contrast(q[[i]], k[others], 0.2, others.index(i)))
    torch.testing.assert_close(batch_contrast(q, k, 0.2, groups=pair), torch.stack(rows).mean())


def batch(groups=None, count=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(2, count, 20, 12, generator=g)
    return [Views(features, ids=torch.arange(count), groups=groups)]


def make(name):
    torch.manual_seed(1)
    method = parts.build("methods", {"name": name, **CONTRASTIVE[name]}, ToyEncoder(12)).train()
    method.prepare(4)
    return method


def second_loss(name, groups):
    """The loss of the second batch: then the queue holds the first one's keys."""
    method = make(name)
    method(batch(groups, seed=0), Progress(0, 10, 5))
    return method(batch(groups, seed=1), Progress(1, 10, 5)).loss


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_a_step_of_every_contrastive_method_leaves_out_pairs_of_one_group(name):
    plain = second_loss(name, None)
    assert torch.equal(second_loss(name, groups_of(-1, -1, -1, -1)), plain)
    masked = second_loss(name, groups_of(0, 0, 1, 1))
    # a sum over negatives falls, a mean over them may rise
    assert masked < plain if name not in ("mio", "align_uniform") else masked != plain


def test_uniformity_is_the_mean_over_the_pairs_of_different_groups():
    torch.manual_seed(0)
    z = torch.randn(4, 5, dtype=torch.float64)
    unit = z / z.norm(dim=1, keepdim=True)
    pairs = [(0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]  # all but (0, 1)
    kernel = [math.exp(-2 * float((unit[i] - unit[j]).square().sum())) for i, j in pairs]
    want = math.log(sum(kernel) / len(kernel))
    assert float(uniformity(z, groups=groups_of(4, 4, -1, -1))) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_a_batch_of_one_group_has_finite_gradients(name):
    method = make(name)
    for seed in range(2):
        method.zero_grad()
        loss = method(batch(groups_of(5, 5, 5, 5), seed=seed), Progress(seed, 10, 5)).loss
        loss.backward()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


def test_the_queue_remembers_the_groups_of_its_keys():
    torch.manual_seed(0)
    method = MoCo(ToyEncoder(12), hidden=24, projection=8, queue_size=10, initial_queue="empty")
    method(batch(groups_of(0, 1, 2, 2)), Progress(0, 10, 5))
    assert method.queue_groups.tolist() == [0, 1, 2, 2, 0, 1, 2, 2, EMPTY, EMPTY]
    method(batch(None), Progress(1, 10, 5))
    assert method.queue_groups.tolist() == [*[NO_GROUP] * 6, 2, 2, NO_GROUP, NO_GROUP]


def test_a_state_from_before_there_were_groups_is_loaded():
    old = make("moco").state_dict()
    del old["queue_groups"]
    method = make("moco")
    method.load_state_dict(old)
    assert (method.queue_groups == NO_GROUP).all()

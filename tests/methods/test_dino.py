"""The DINO method: centre, roles of the crops, teacher, what moves and what does not.

methods/README.md 1.5.
"""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from speechssl.errors import UserError
from speechssl.interfaces import Encoder, Progress, Views
from speechssl.methods.dino import Dino

B = 4
FRAMES = 10
MELS = 6
SMALL = {"prototypes": 8, "layers": 2, "hidden": 12, "bottleneck": 5}
START = Progress(0, 100, 10)


class Toy(Encoder):
    """Mean over frames, then two layers with a BatchNorm; remembers the shapes that it was
    given.
    """

    embedding_dim = 7

    def __init__(self, norm=True):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(MELS, 9),
            nn.BatchNorm1d(9) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Linear(9, self.embedding_dim),
        )
        self.shapes = []

    def forward(self, features, lengths=None):
        self.shapes.append(tuple(features.shape))
        return self.net(features.mean(1))


def make(norm=True, **options):
    torch.manual_seed(0)
    return Dino(Toy(norm), **{**SMALL, **options}).train()


def views(local=2, seed=1, batch=B, long="both"):
    g = torch.Generator().manual_seed(seed)
    groups = [Views(torch.randn(2, batch, FRAMES, MELS, generator=g), long)]
    if local:
        groups.append(Views(torch.randn(local, batch, FRAMES // 2, MELS, generator=g), "student"))
    return groups


def logits(net, group):
    """(V, B, K) of a network, as a plain loop over the views would not give with BatchNorm."""
    flat = net.encoder(group.features.flatten(0, 1))
    return net.head(flat)[0].view(*group.features.shape[:2], -1)


def step(method, optimizer, batch, progress=START):
    output = method(batch, progress)
    optimizer.zero_grad(set_to_none=True)
    output.loss.backward()
    method.after_backward(progress)
    optimizer.step()
    method.after_step(progress)
    return output


def test_the_loss_is_the_formula_written_out():
    method = make()
    method.centre.copy_(torch.randn(8))
    batch = views(local=3)
    twin = copy.deepcopy(method)
    with torch.no_grad():
        t = logits(twin.teacher, batch[0])
        s = torch.cat([logits(twin.student, group) for group in batch])
    terms = []
    for u in range(2):
        q = F.softmax((t[u] - twin.centre) / 0.04, -1)
        terms += [-(q * F.log_softmax(s[v] / 0.1, -1)).sum(-1).mean() for v in range(5) if v != u]
    assert len(terms) == 2 * (5 - 1)
    torch.testing.assert_close(method(batch, START).loss, torch.stack(terms).mean())


def test_the_centre_after_one_step_is_a_share_of_the_mean():
    method = make(centre_momentum=0.9)
    batch = views()
    with torch.no_grad():
        mean = logits(copy.deepcopy(method.teacher), batch[0]).mean((0, 1))
    method(batch, START)
    torch.testing.assert_close(method.centre, 0.1 * mean)


def test_the_loss_of_a_step_uses_the_centre_from_before():
    batch = views()
    losses = [make(centre_momentum=m)(batch, START).loss.item() for m in (0.0, 0.5, 1.0)]
    assert losses[0] == losses[1] == losses[2]


def test_the_centre_rests_in_evaluation_and_with_sinkhorn():
    method = make().eval()
    method(views(), START)
    assert (method.centre == 0).all()
    method = make(centring="sinkhorn")
    method(views(), START)
    assert (method.centre == 0).all()


def test_a_teacher_that_says_the_centre_is_uniform():
    method = make(norm=False)
    with torch.no_grad():
        for network in (method.teacher, method.student):
            network.encoder.net[0].weight.zero_()  # every utterance looks the same
        method.centre.copy_(logits(method.teacher, views()[0])[0, 0])
    output = method(views(), START)
    assert output.scalars["teacher_entropy"].item() == pytest.approx(math.log(8), rel=1e-6)


def test_targets_get_no_gradient_and_every_student_parameter_does():
    method = make(
        regularised=11,
        regulariser_start=0.1,
        regulariser_end=0.1,
        koleo_weight=0.1,
        cosine_weight=0.1,
    )
    output = method(views(), Progress(50, 100, 10))
    output.loss.backward()
    assert not any(p.requires_grad for p in method.teacher.parameters())
    assert all(p.grad is None for p in method.teacher.parameters())
    assert not output.embedding.requires_grad and not method.centre.requires_grad
    for name, p in method.student.named_parameters():
        if p.requires_grad:
            assert p.grad is not None and p.grad.abs().sum() > 0, name
    assert [n for n, p in method.student.named_parameters() if not p.requires_grad] == [
        "head.weight_g"
    ]
    assert not any(value.requires_grad for value in output.scalars.values())


@pytest.mark.parametrize("norm_last_layer", [True, False])
def test_the_last_layer_is_bit_identical_during_the_first_epoch(norm_last_layer):
    method = make(norm_last_layer=norm_last_layer, freeze_last_layer=1.0)
    optimizer = torch.optim.AdamW(
        [p for p in method.parameters() if p.requires_grad], lr=0.1, weight_decay=0.5
    )
    head = method.student.head
    before = head.weight_v.clone(), head.weight_g.clone()
    other = head.mlp[0].weight.clone()
    for number in range(10):
        step(method, optimizer, views(seed=number), Progress(number, 100, 10))
        assert torch.equal(head.weight_v, before[0]) and torch.equal(head.weight_g, before[1])
    assert not torch.equal(head.mlp[0].weight, other)
    step(method, optimizer, views(), Progress(10, 100, 10))
    assert not torch.equal(head.weight_v, before[0])
    assert torch.equal(head.weight_g, before[1]) == norm_last_layer


def test_the_teacher_is_the_closed_form_moving_average():
    method = make(teacher_momentum=0.9, teacher_momentum_end=0.9)
    start = {k: v.clone() for k, v in method.teacher.named_parameters()}
    with torch.no_grad():
        for p in method.student.parameters():
            p.add_(torch.randn_like(p))
    for number in range(5):
        method.after_step(Progress(number, 100, 10))
    student = dict(method.student.named_parameters())
    for name, p in method.teacher.named_parameters():
        torch.testing.assert_close(p, 0.9**5 * start[name] + (1 - 0.9**5) * student[name])


def test_the_teacher_stands_still_at_the_end_of_the_schedule():
    method = make(teacher_momentum=0.9, teacher_momentum_end=1.0)
    before = copy.deepcopy(method.teacher.state_dict())
    with torch.no_grad():
        for p in method.student.parameters():
            p.add_(1.0)
    method.after_step(Progress(100, 100, 10))
    for name, p in method.teacher.named_parameters():
        assert torch.equal(p, before[name])


@pytest.mark.parametrize(("buffers", "share"), [("own", 0.0), ("ema", 0.25), ("copy", 1.0)])
def test_what_happens_to_batchnorm_statistics(buffers, share):
    method = make(teacher_momentum=0.75, teacher_momentum_end=0.75, teacher_buffers=buffers)
    student, teacher = (net.encoder.net[1] for net in (method.student, method.teacher))
    with torch.no_grad():
        student.running_mean.fill_(4.0)
        teacher.running_mean.fill_(0.0)
    method.after_step(START)
    torch.testing.assert_close(teacher.running_mean, torch.full((9,), 4.0 * share))
    assert (student.running_mean == 4.0).all()


def test_teacher_and_student_start_equal_but_share_nothing():
    method = make()
    for (name, a), b in zip(
        method.student.named_parameters(), method.teacher.parameters(), strict=True
    ):
        assert torch.equal(a, b) and a.data_ptr() != b.data_ptr(), name
    assert method.encoder is method.teacher.encoder


def test_each_length_is_encoded_once_and_the_teacher_sees_only_the_long_ones():
    method = make()
    method(views(local=4), START)
    assert method.student.encoder.shapes == [(2 * B, FRAMES, MELS), (4 * B, FRAMES // 2, MELS)]
    assert method.teacher.encoder.shapes == [(2 * B, FRAMES, MELS)]


def test_groups_go_to_whom_they_are_addressed():
    method = make()
    method(views(local=2, long="teacher"), START)
    assert method.teacher.encoder.shapes == [(2 * B, FRAMES, MELS)]
    assert method.student.encoder.shapes == [(2 * B, FRAMES // 2, MELS)]


def test_views_of_different_networks_all_count_as_pairs():
    method = make(norm=False)
    batch = views(local=2, long="teacher")
    with torch.no_grad():
        t = logits(method.teacher, batch[0])
        s = logits(method.student, batch[1])
    terms = []
    for u in (0, 1):
        q = F.softmax(t[u] / 0.04, -1)
        terms += [-(q * F.log_softmax(s[v] / 0.1, -1)).sum(-1).mean() for v in (0, 1)]
    torch.testing.assert_close(method(batch, START).loss, torch.stack(terms).mean())


@pytest.mark.parametrize(
    "groups",
    [
        [Views(torch.randn(2, B, FRAMES, MELS), "student")],
        [Views(torch.randn(2, B, FRAMES, MELS), "teacher")],
        [Views(torch.randn(1, B, FRAMES, MELS), "both")],
    ],
    ids=["no teacher", "no student", "one view"],
)
def test_a_plan_without_a_pair_of_views_is_refused(groups):
    with pytest.raises(UserError, match="crops"):
        make()(groups, START)


def test_the_temperature_of_the_teacher_rises_linearly():
    options = {
        "teacher_temperature_start": 0.04,
        "teacher_temperature": 0.07,
        "teacher_temperature_warmup": 0.2,
    }
    for number, temperature in ((0, 0.04), (10, 0.055), (20, 0.07), (90, 0.07)):
        want = make(teacher_temperature=temperature)(views(), START).loss
        got = make(**options)(views(), Progress(number, 100, 10)).loss
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("centring", ["centre", "sinkhorn"])
def test_the_loss_falls_on_a_fixed_batch(centring):
    method = make(centring=centring, freeze_last_layer=0.0, teacher_momentum=0.99, prototypes=16)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    batch = views(batch=16)
    losses = [step(method, optimizer, batch, Progress(i, 60, 10)).loss.item() for i in range(60)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("centring", ["centre", "sinkhorn"])
def test_the_smallest_batch(centring):
    method = make(
        centring=centring,
        koleo_weight=0.1,
        regularised=11,
        regulariser_end=0.1,
        regulariser_warmup=0.0,
    )
    output = method(views(batch=method.min_batch), START)
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(p.grad.isfinite().all() for p in method.student.parameters() if p.requires_grad)


def test_the_loss_is_float32_under_autocast():
    method = make(koleo_weight=0.1, regularised=11, regulariser_end=0.1, regulariser_warmup=0.0)
    want = copy.deepcopy(method)(views(), START)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = method(views(), START)
    assert output.loss.dtype == torch.float32
    assert method.centre.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in output.scalars.values())
    assert output.loss.item() == pytest.approx(want.loss.item(), rel=0.05)
    output.loss.backward()
    assert all(
        p.grad.dtype == torch.float32 for p in method.student.parameters() if p.requires_grad
    )


def test_what_is_logged_agrees_with_the_loss():
    method = make()
    batch = views(local=0)
    with torch.no_grad():
        q = F.softmax(logits(copy.deepcopy(method).teacher, batch[0]) / 0.04, -1)
    output = method(batch, START)
    scalars = {key: value.item() for key, value in output.scalars.items()}
    entropy = -(q * q.log()).sum(-1).mean()
    assert scalars["teacher_entropy"] == pytest.approx(entropy.item(), rel=1e-5)
    assert scalars["kl"] == pytest.approx((output.loss - entropy).item(), abs=1e-5)
    assert scalars["used_prototypes"] == q.argmax(-1).unique().numel()
    mean = q.mean((0, 1))
    assert scalars["mean_assignment_entropy"] == pytest.approx(
        -(mean * mean.log()).sum().item(), rel=1e-5
    )
    assert output.embedding.shape == (2 * B, 7)


def test_optional_terms_are_added_with_their_weights():
    batch = views()
    late = Progress(50, 100, 10)
    plain = make()(batch, late).loss
    output = make(koleo_weight=0.1)(batch, late)
    torch.testing.assert_close(output.loss, plain + 0.1 * output.scalars["koleo"])
    output = make(mean_entropy_weight=2.0)(batch, late)
    torch.testing.assert_close(output.loss, plain - 2 * output.scalars["mean_entropy"])
    assert 0 < output.scalars["mean_entropy"] <= math.log(8) + 1e-6
    output = make(cosine_weight=0.1)(batch, late)
    torch.testing.assert_close(output.loss, plain + 0.1 * output.scalars["cosine"])
    early = make(cosine_weight=0.1, cosine_warmup=1.0)(batch, late)
    torch.testing.assert_close(early.loss, plain + 0.05 * early.scalars["cosine"])
    with_layer = make(regularised=11)(batch, late).loss
    output = make(regularised=11, regulariser_start=0.05, regulariser_end=0.2)(batch, late)
    term = 10 * output.scalars["variance"] + output.scalars["covariance"]
    torch.testing.assert_close(output.loss, with_layer + 0.2 * term)


def test_koleo_never_compares_two_views_of_one_utterance():
    method = make(norm=False, koleo_weight=1.0)
    group = views(local=0)[0]
    same = [Views(group.features[:1].expand(2, -1, -1, -1).contiguous())]  # both views alike
    assert method(same, START).scalars["koleo"] < 5  # across the views it would be -ln 1e-8 = 18.4


def test_the_state_survives_a_round_trip():
    method = make()
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=0.01)
    for number in range(3):
        step(method, optimizer, views(seed=number))
    torch.manual_seed(5)
    again = Dino(Toy(), **SMALL).train()
    again.load_state_dict(copy.deepcopy(method.state_dict()))
    assert "centre" in method.state_dict()
    assert torch.equal(again(views(), START).loss, method(views(), START).loss)


@pytest.mark.parametrize(
    "options",
    [
        {"layers": -1}, {"prototypes": 0}, {"student_temperature": 0.0}, {"teacher_temperature": -0.1},
        {"teacher_temperature_start": 0.0},
        {"layers": 0, "regularised": 8}, {"teacher_momentum": 1.5}, {"centre_momentum": -0.1},
    ],
    ids=str,
)  # fmt: skip
def test_a_setting_without_sense_is_refused(options):
    with pytest.raises(UserError, match="dino"):
        make(**options)

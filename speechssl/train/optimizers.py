"""Optimisers, their schedule and gradient clipping, as the recipes use them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from speechssl.config import check_above_zero, check_fraction
from speechssl.interfaces import Method, ParameterRule
from speechssl.train.schedules import warmup_cosine


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Section ``optimizer``.

    Attributes:
        name: ``adamw``, ``adam`` (weight decay as an L2 term) or ``sgd``.
        lr: learning rate at the end of the warm-up, for ``reference_batch_size``
            utterances.
        reference_batch_size: the learning rate is multiplied by the utterances of a
            step over this number (linear scaling); null: it is used as it is.
        final_lr_ratio: learning rate at the end of the run over that after the warm-up.
        min_lr: learning rate at the end of the run, in absolute terms, whatever the
            batch (DINO's and hyperion's programs state it so); null: by
            ``final_lr_ratio``.
        warmup: share of the run, 0 to 1, in which the learning rate rises.
        weight_decay: at the start of the run; biases and norms have none.
        weight_decay_end: at the end of the run, reached by half a cosine; null: it is
            constant.
        momentum, nesterov: of SGD.
        beta1, beta2, amsgrad: of Adam and AdamW.
        clip: largest gradient norm; null: no clipping.
        clip_mode: whether ``clip`` bounds the norm of each ``tensor`` or the ``global``
            one.
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 1e-3
    reference_batch_size: int | None = None
    final_lr_ratio: float = 0.01
    min_lr: float | None = None
    warmup: float = 0.1
    weight_decay: float = 0.01
    weight_decay_end: float | None = None
    momentum: float = 0.9
    nesterov: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    amsgrad: bool = False
    clip: float | None = 3.0
    clip_mode: Literal["tensor", "global"] = "tensor"

    RENAMED: ClassVar[dict[str, str]] = {
        "lr_batch": "reference_batch_size",
        "final_lr": "final_lr_ratio",
    }

    def __post_init__(self) -> None:
        check_above_zero("optimizer.lr", self.lr)
        check_above_zero("optimizer.reference_batch_size", self.reference_batch_size)
        check_above_zero("optimizer.min_lr", self.min_lr)
        check_above_zero("optimizer.clip", self.clip)
        check_fraction("optimizer.warmup", self.warmup)


def parameter_groups(
    module: nn.Module, rules: Iterable[ParameterRule] = ()
) -> list[dict[str, object]]:
    """Return the trainable parameters in groups for an optimiser.

    There are two groups: with weight decay, and without (biases, norms, 1-D).
    Parameters that a method has rules for are in further groups, before these.
    """
    groups: list[dict[str, object]] = []
    assigned: set[int] = set()
    trainable = [p for p in module.parameters() if p.requires_grad]
    ordinary = ParameterRule(trainable)
    for rule in [*rules, ordinary]:
        chosen = [p for p in rule.parameters if id(p) not in assigned]
        assigned |= {id(p) for p in chosen}
        with_decay = [p for p in chosen if p.ndim >= 2 and rule.decay]
        without_decay = [p for p in chosen if not (p.ndim >= 2 and rule.decay)]
        # The two ordinary groups are always there, so that their places are known.
        if with_decay or rule is ordinary:
            groups.append(_group(with_decay, rule, decay=True))
        if without_decay or rule is ordinary:
            groups.append(_group(without_decay, rule, decay=False))
    return groups


def _group(
    parameters: list[nn.Parameter], rule: ParameterRule, *, decay: bool
) -> dict[str, object]:
    return {
        "params": parameters,
        "decay": decay,
        "weight_decay": 0.0,
        "scale": rule.scale,
        "constant": rule.constant,
    }


def build_optimizer(module: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Return the optimiser, with foreach updates; ``schedule`` sets its rate before each step."""
    rules = module.parameter_rules() if isinstance(module, Method) else []
    groups: list[dict[str, Any]] = parameter_groups(module, rules)
    if settings.name == "sgd":
        return torch.optim.SGD(
            groups, lr=0.0, momentum=settings.momentum, nesterov=settings.nesterov, foreach=True
        )
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    betas = (settings.beta1, settings.beta2)
    return kind(groups, lr=0.0, betas=betas, amsgrad=settings.amsgrad, foreach=True)


def schedule(
    optimizer: torch.optim.Optimizer, settings: OptimizerSettings, fraction: float, batch: int
) -> float:
    """Set learning rate and weight decay for the next step.

    Args:
        optimizer: from ``build_optimizer``.
        settings: of that optimiser.
        fraction: share of the run that is done, 0 to 1.
        batch: utterances of one optimiser step, over all devices.

    Returns:
        The learning rate of the ordinary groups.
    """
    peak = settings.lr
    if settings.reference_batch_size:
        peak *= batch / settings.reference_batch_size
    final_rate = peak * settings.final_lr_ratio if settings.min_lr is None else settings.min_lr
    rate = warmup_cosine(fraction, peak, final_rate, settings.warmup)
    final_decay = settings.weight_decay_end
    if final_decay is None:
        final_decay = settings.weight_decay
    decay = warmup_cosine(fraction, settings.weight_decay, final_decay, 0.0)
    for group in optimizer.param_groups:
        base = peak if group["constant"] else rate
        group["lr"] = base * group["scale"]
        if group["decay"]:
            group["weight_decay"] = decay
    return rate


def clipped_parameters(method: Method) -> list[nn.Parameter]:
    """Return the parameters whose gradients are clipped: all but those of rules without it."""
    exempt: set[int] = set()
    for rule in method.parameter_rules():
        if not rule.clip:
            exempt |= {id(p) for p in rule.parameters}
    return [p for p in method.parameters() if id(p) not in exempt]


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], settings: OptimizerSettings) -> Tensor | None:
    """Scale gradients down to norm ``clip``, each tensor by itself (DINO) or all together.

    Returns:
        The global gradient norm before clipping, a scalar on the device; None without
        clipping.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if settings.clip is None or not gradients:
        return None
    norms = torch.stack(torch._foreach_norm(gradients))
    total: Tensor = norms.norm()
    clipped = norms if settings.clip_mode == "tensor" else total
    scales = (settings.clip / (clipped + 1e-6)).clamp(max=1.0).expand(len(gradients))
    torch._foreach_mul_(gradients, list(scales.to(gradients[0].dtype).unbind()))
    return total

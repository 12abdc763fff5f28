"""Optimisers and gradient clipping as the recipes use them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from speechssl.interfaces import Method, ParameterRule
from speechssl.train.schedules import warmup_cosine


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Section ``optimizer``.

    Attributes:
        name: ``adamw``, ``adam`` (weight decay as an L2 term) or ``sgd``.
        lr: learning rate at the end of the warm-up, for ``lr_batch`` utterances.
        lr_batch: the rate is multiplied by global batch / lr_batch; none: used as it is.
        final_lr: at the end of the run, as a ratio of the rate.
        warmup: share of the run.
        weight_decay, weight_decay_end: none on biases and norms; from the first to the second by
            half a cosine (end none: constant).
        momentum, nesterov: SGD. betas, amsgrad: Adam.
        clip: largest gradient norm, none for no clipping; clip_mode: of each ``tensor`` or
            ``global``.
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 1e-3
    lr_batch: int | None = None
    final_lr: float = 0.01
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


def parameter_groups(
    module: nn.Module, rules: Iterable[ParameterRule] = ()
) -> list[dict[str, object]]:
    """Trainable parameters in two groups: with weight decay, and (biases, norms, 1-D) without.

    Those that a method has rules for are in groups of their own.
    """
    groups: list[dict[str, object]] = []
    special: set[int] = set()
    ordinary = ParameterRule([p for p in module.parameters() if p.requires_grad])
    for rule in (*rules, ordinary):
        chosen = [p for p in rule.parameters if id(p) not in special]
        special |= {id(p) for p in chosen}
        for decay in (True, False):
            part = [p for p in chosen if (p.ndim >= 2 and rule.decay) == decay]
            if part or rule is ordinary:
                group: dict[str, object] = {"params": part, "decay": decay, "weight_decay": 0.0}
                groups.append(group | {"scale": rule.scale, "constant": rule.constant})
    return groups


def build_optimizer(module: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimiser with foreach updates; ``schedule`` sets its rate before each step."""
    rules = module.parameter_rules() if isinstance(module, Method) else ()
    groups = parameter_groups(module, rules)
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
    """Set learning rate and weight decay for a share of the run done; returns the learning rate.

    Args:
        batch: utterances of one optimiser step, over all devices.
    """
    peak = settings.lr * (batch / settings.lr_batch if settings.lr_batch else 1.0)
    rate = warmup_cosine(fraction, peak, peak * settings.final_lr, settings.warmup)
    end = settings.weight_decay if settings.weight_decay_end is None else settings.weight_decay_end
    decay = warmup_cosine(fraction, settings.weight_decay, end, 0.0)
    for group in optimizer.param_groups:
        group["lr"] = (peak if group["constant"] else rate) * group["scale"]
        if group["decay"]:
            group["weight_decay"] = decay
    return rate


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], settings: OptimizerSettings) -> Tensor | None:
    """Scale gradients down to ``clip``, each tensor on its own (DINO) or all together.

    Returns:
        The global gradient norm before clipping, as a tensor on the device; none without clipping.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    if settings.clip is None or not grads:
        return None
    norms = torch.stack(torch._foreach_norm(grads))
    total = norms.norm()
    scales = settings.clip / ((norms if settings.clip_mode == "tensor" else total) + 1e-6)
    scales = scales.clamp(max=1.0).expand(len(grads))
    torch._foreach_mul_(grads, list(scales.to(grads[0].dtype).unbind()))
    return total

"""Which weights of a method all clients share, and which stay a client's own.

Shared is what is trained: the parameters of encoder, projector and predictor, and the buffers of
their modules (BatchNorm's statistics, the correlation of a predictor in closed form). Moving averages
(teachers), memories, queues, centres and classes are of the client's own utterances, and stay there.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from speechssl.errors import UserError
from speechssl.federated.averaging import State
from speechssl.interfaces import Encoder, Method, Predictor
from speechssl.model import Model
from speechssl.train import initial
from speechssl.train.run import construct_method
from speechssl.train.settings import TrainingConfig


class Blank:
    """The model and method of a configuration before any utterance is known; what a server has.

    Their weights are those that `speechssl train` starts from with the same seed.

    Args:
        config: of training.
        with_targets: teachers are shared, too (``federated.target=averaged``).

    Attributes:
        model: front end, and the encoder that was given to the method.
        method: not prepared.
        names: of the weights that all clients share.
    """

    def __init__(self, config: TrainingConfig, *, with_targets: bool = False) -> None:
        torch.manual_seed(config.seed)
        self.model = Model(config.features, config.encoder)
        if config.train.init:
            initial.load_encoder(self.model, config.train.init)
        self.method = construct_method(config, self.model.encoder)
        self.names = shared_names(self.method, with_targets=with_targets)

    def state(self) -> State:
        """Return a copy of the weights that all clients share."""
        return shared_state(self.method, self.names)

    def expected(self) -> State:
        """Return names, shapes and types of those weights: tensors without data (`meta`)."""
        state = self.method.state_dict()
        return {name: state[name].to("meta") for name in self.names}


def shared_names(method: Method, *, with_targets: bool = False) -> list[str]:
    """Return the names of the weights that all clients share.

    Args:
        method: as constructed, before `prepare`: what depends on utterances is not there yet.
        with_targets: take moving averages (teachers) as well.
    """
    names = []
    saved = set(method.state_dict())
    for path, module in method.named_modules():
        prefix = f"{path}." if path else ""
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad or with_targets:
                names.append(prefix + name)
        if _has_shared_buffers(method, path, with_targets):
            names += [prefix + name for name, _ in module.named_buffers(recurse=False)]
    shared = [name for name in dict.fromkeys(names) if name in saved]
    if not shared:
        raise UserError("federate: this method has no weights that are trained; choose another")
    return shared


def _has_shared_buffers(method: Method, path: str, with_targets: bool) -> bool:
    """Return whether the buffers of a module are shared.

    They are in a predictor, and where the nearest module around them that has parameters is part of
    a network (and no method) which is trained.
    """
    around = [method]
    for name in path.split(".") if path else []:
        around.append(getattr(around[-1], name))
    for module in reversed(around):
        if isinstance(module, Method):
            return False
        if isinstance(module, Predictor):
            return any(p.requires_grad for p in method.parameters()) and not _is_target(module)
        parameters = list(module.parameters())
        if parameters:
            return with_targets or any(p.requires_grad for p in parameters)
    return False


def _is_target(module: nn.Module) -> bool:
    """Return whether a module has parameters, none of which is trained."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def shared_state(method: Method, names: list[str]) -> State:
    """Return a copy, on the CPU, of the weights of a method that all clients share."""
    state = method.state_dict()
    return {name: state[name].detach().cpu().clone() for name in names}


@torch.no_grad()
def load_shared(method: Method, state: Mapping[str, Tensor]) -> None:
    """Overwrite weights of a method, in place; all others stay as they are."""
    own = method.state_dict(keep_vars=True)
    for name, value in state.items():
        own[name].detach().copy_(value)


def reset_targets(method: Method) -> None:
    """Make every teacher a copy of the network that it follows, as at the start of a run."""
    for module in method.modules():
        children = dict(module.named_children())
        teacher = children.pop("teacher", None)
        if teacher is None:
            continue
        for network in children.values():
            if network.state_dict().keys() == teacher.state_dict().keys():
                teacher.load_state_dict(network.state_dict())


def trained_encoder(method: Method) -> Encoder:
    """Return the encoder that is trained: the student's where there is a teacher."""
    for encoder in method.networks().values():
        if any(parameter.requires_grad for parameter in encoder.parameters()):
            return encoder
    return method.encoder

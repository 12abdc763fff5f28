"""A method around another method: what it does not change, it passes on."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from speechssl import parts
from speechssl.errors import UserError
from speechssl.interfaces import Encoder, Method, ParameterRule, Progress


class AroundMethod(Method):
    """A base method whose every hook is called; a subclass implements `forward`.

    Args:
        encoder: the encoder to train.
        base: the base method, a name or a section of its own.
        name: of the method around it, for messages.

    Raises:
        UserError: the base method learns pseudo-labels.
    """

    PARTS: ClassVar[dict[str, str]] = {"base": "methods"}

    def __init__(self, encoder: Encoder, base: Any, name: str) -> None:
        super().__init__()
        self.base: Method = parts.build("methods", base, encoder)
        if self.base.NEEDS_LABELS:
            raise UserError(
                f"method {name}: base must compare two views of an utterance, and a method that"
                " learns pseudo-labels does not; choose another base"
            )
        self.teacher_prototypes = self.base.teacher_prototypes
        self.highest_teacher_temperature = self.base.highest_teacher_temperature
        self.min_batch = self.base.min_batch

    @property
    def encoder(self) -> Encoder:
        """The base method's encoder."""
        return self.base.encoder

    def networks(self) -> dict[str, Encoder]:
        """Return the networks of the base method."""
        return self.base.networks()

    def prepare(self, utterances: int, labels: Tensor | None = None) -> None:
        """Let the base method make its memories for ``utterances``."""
        self.base.prepare(utterances, labels)

    def parameter_rules(self) -> list[ParameterRule]:
        """Return the rules of the base method."""
        return self.base.parameter_rules()

    def start_round(self) -> None:
        """Call the hook of the base method."""
        self.base.start_round()

    def after_backward(self, progress: Progress) -> None:
        """Call the hook of the base method."""
        self.base.after_backward(progress)

    def after_step(self, progress: Progress) -> None:
        """Call the hook of the base method."""
        self.base.after_step(progress)

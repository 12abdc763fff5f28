"""Any method plus NT-Xent between the views of the batch (the regulariser of Miao and Koyuncu 2024).

    L = L_base + weight NT-Xent(z)         (methods/README.md 14.2)

Miao and Koyuncu (IEEE JSTSP 18(6)) add a contrastive term to whatever a client of federated
learning is trained with; clients of different distributions then drift apart less. Their formula
could not be read: NT-Xent over the method's projections, as in `simclr`, is this package's reading
of it, with a weight between 0.1 and 1. Utterances of one group are no negatives of each other.

    method={name: plus_contrast, base: {name: byol}, weight: 0.1}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from speechssl.config import check_above_zero
from speechssl.distributed import gather_with_gradient, rank
from speechssl.errors import UserError
from speechssl.interfaces import Encoder, Output, Progress, Views
from speechssl.methods.simclr import nt_xent
from speechssl.nn.around import AroundMethod
from speechssl.nn.groups import joined_groups
from speechssl.nn.precision import in_float32


class PlusContrast(AroundMethod):
    """A base method and the regulariser; its encoder is the one that users get.

    Args:
        encoder: the encoder to train.
        base: the base method, a name or a section of its own.
        weight: lambda, of the regulariser; 0: the base method alone.
        temperature: tau, which divides the cosines.

    Raises:
        UserError: the base method learns pseudo-labels, or a setting is out of its range.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        base: Any = "simsiam",
        weight: float = 0.1,
        temperature: float = 0.1,
    ) -> None:
        super().__init__(encoder, base, "plus_contrast")
        if weight < 0:
            raise UserError(f"config: method.weight must be at least 0, not {weight:g}")
        check_above_zero("method.temperature", temperature)
        self.weight = weight
        self.temperature = temperature

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """Return the base method's loss plus the weighted regulariser, over all its projections."""
        output: Output = self.base(views, progress)
        if not self.weight:
            return output
        with in_float32(output.projections):
            z = output.projections.float()
            first = rank() * z.shape[1]
            groups = joined_groups(views[0])
            contrast = nt_xent(z, self.temperature, gather_with_gradient(z), first, groups)
            loss = output.loss + self.weight * contrast
        scalars = dict(output.scalars)
        scalars["base"] = output.loss.detach()
        scalars["contrast"] = contrast.detach()
        return output._replace(loss=loss, scalars=scalars)


PART = PlusContrast

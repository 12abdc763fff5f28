"""DirectPred: a linear predictor set from the spectrum of the projections.

Tian, Chen and Ganguli 2021 (arXiv 2102.06810); methods/README.md 2.4.

With F = U diag(s) U^T the moving average of E[z z^T], W = U diag(p) U^T where

    relative (the released program):  p_j = max(sqrt(s_j / max s) + epsilon, 1e-4)
    paper    (equation 18):           p_j = sqrt(s_j) + epsilon max s

The two differ in scale, which a cosine loss does not see, and in what epsilon is
measured by. The released program trains W by gradient between settings where
`frequency` is above 1; here it does not move. Released defaults are momentum 0.3 and
epsilon 0.01 at batches of 256; ours suit 16 to 64 utterances.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from speechssl.predictors.closed_form import (
    ClosedForm,
    relative_to_largest,
    spectral_map,
)


class DirectPred(ClosedForm):
    """The spectral predictor.

    Args:
        dim: D, size of a projection.
        momentum: rho, the weight of the old correlation.
        epsilon: lifts small gains; it is what lets a feature that is nearly lost
            recover.
        epsilon_mode: `relative`: epsilon is added to sqrt(s_j / max s), as in the released
            program; `paper`: epsilon max s is added to sqrt(s_j), as in equation 18.
        frequency: set W after every so many steps.
    """

    def __init__(
        self,
        dim: int,
        *,
        momentum: float = 0.99,
        epsilon: float = 0.1,
        epsilon_mode: Literal["relative", "paper"] = "relative",
        frequency: int = 1,
    ) -> None:
        super().__init__(dim, momentum, frequency)
        self.epsilon = epsilon
        self.epsilon_mode = epsilon_mode

    def weights(self) -> Tensor:
        """Return U diag(p) U^T."""
        eigenvalues, eigenvectors = self.correlation.spectrum()
        p = gains(eigenvalues, self.epsilon, self.epsilon_mode)
        return spectral_map(p, eigenvectors)


def gains(eigenvalues: Tensor, epsilon: float, mode: str) -> Tensor:
    """Return p (D,), one of the two rules above.

    Args:
        eigenvalues: s (D,).
        epsilon: see above.
        mode: `relative` or `paper`.
    """
    if mode == "paper":
        s = eigenvalues.clamp(min=0)
        return s.sqrt() + epsilon * s.max()
    p = relative_to_largest(eigenvalues).sqrt() + epsilon
    return p.clamp(min=1e-4)


PART = DirectPred

"""DirectPred: a linear predictor set from the spectrum of the projections.

Tian, Chen and Ganguli 2021.

With F = U diag(s) Uᵀ the moving average of E[z zᵀ], W = U diag(p) Uᵀ where (methods/README.md 2.4)

    relative (the released program):  p_j = max(sqrt(s_j / max s) + epsilon, 1e-4)
    paper    (equation 18):           p_j = sqrt(s_j) + epsilon max s

The two differ in scale, which a cosine loss does not see, and in what epsilon is measured by. The
released program trains W by gradient between settings where ``frequency`` is above 1; here it
stands still. Released defaults are momentum 0.3 and epsilon 0.01 at batches of 256; ours suit 16 to
64 utterances.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from speechssl.nn.closed_form import ClosedForm


class DirectPred(ClosedForm):
    """The spectral predictor.

    Args:
        momentum: rho, the weight of the old correlation.
        epsilon: lifts small modes; it is what lets a feature that is nearly lost recover.
        epsilon_mode: ``relative`` or ``paper``, see above.
        frequency: W is set after every so many steps.
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
        self.epsilon, self.epsilon_mode = epsilon, epsilon_mode

    def weights(self) -> Tensor:
        """U diag(p) Uᵀ."""
        s, u = self.correlation.spectrum()
        return u @ (gains(s, self.epsilon, self.epsilon_mode)[:, None] * u.T)


def gains(s: Tensor, epsilon: float, mode: str) -> Tensor:
    """p (D,) for eigenvalues s (D,)."""
    s = s.clamp(min=0)
    if mode == "paper":
        return s.sqrt() + epsilon * s.max()
    return ((s / s.max().clamp(min=1e-30)).sqrt() + epsilon).clamp(min=1e-4)


PART = DirectPred

"""The moving correlation by hand (methods/README.md 2.10)."""

import torch

from speechssl.nn.correlation import Correlation


def test_the_correlation_starts_with_the_first_batch_and_weighs_the_old_value():
    correlation = Correlation(2, 0.3)
    correlation.update(torch.tensor([[2**0.5, 0.0], [0.0, 2**0.5]]))
    torch.testing.assert_close(correlation.value, torch.eye(2))
    correlation.update(torch.tensor([[6**0.5, 0.0], [0.0, 6**0.5]]))
    torch.testing.assert_close(correlation.value, 2.4 * torch.eye(2))  # 0.3 * 1 + 0.7 * 3


def test_the_spectrum_gives_the_matrix_back():
    correlation = Correlation(4, 0.9)
    correlation.update(torch.randn(20, 4))
    eigenvalues, eigenvectors = correlation.spectrum()
    assert (eigenvalues.diff() >= 0).all() and (eigenvalues > 0).all()
    torch.testing.assert_close(
        eigenvectors @ eigenvalues.diag() @ eigenvectors.T, correlation.value
    )

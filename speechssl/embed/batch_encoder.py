"""A model on a device, in a precision: batches of waveforms to embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from speechssl.compat import choose_precision
from speechssl.embed.arrays import find_device, in_samples, may_lack_operators
from speechssl.embed.batches import MIN_SECONDS, Matrix, Samples, bucket_edge
from speechssl.embed.layers import EMBEDDING, encode_layer
from speechssl.errors import UserError
from speechssl.model import Model
from speechssl.nn.int8 import check_int8, with_int8_products

Precision = Literal["auto", "float32", "bfloat16", "int8"]


class BatchEncoder:
    """What `Embedder` encodes with; it knows nothing of files.

    Args:
        model: waveforms to embeddings; it is moved to `device` and put into evaluation
            mode.
        device: as for `Embedder`.
        precision: as for `Embedder`.
        layer: which layer gives the embedding.

    Attributes:
        device: where the model is. For "auto", the CPU if the GPU lacks an operator.
        used_precision: what "auto" stands for here.

    Raises:
        UserError: no such precision, device or layer.
    """

    def __init__(
        self, model: Model, device: str | torch.device, precision: Precision, layer: str
    ) -> None:
        if precision not in get_args(Precision):
            raise UserError(
                f"embed: unknown precision {precision!r}; choose {', '.join(get_args(Precision))}"
            )
        self.device = find_device(device)
        self.used_precision: Literal["float32", "bfloat16", "int8"] = "int8"
        rest: Literal["auto", "float32", "bfloat16"]  # of all but the products in 8 bits
        if precision == "int8":
            check_int8(self.device)
            rest = "auto"
        else:
            rest = precision
            self.used_precision = choose_precision(precision, str(self.device))
        self._is_low = choose_precision(rest, str(self.device)) == "bfloat16"
        self.layer = layer
        self.model = model.to(self.device).eval()
        self._encoder = self.model.encoder
        if device == "auto" and may_lack_operators(self.device) and not self._can_encode():
            self.device = torch.device("cpu")
            self.model.to(self.device)
        if precision == "int8":
            self._encoder = with_int8_products(self.model.encoder)
        self.dim = model.dim
        """D, size of an embedding."""
        if layer != EMBEDDING:
            quarter_second = torch.zeros(1, self.sample_rate // 4)
            self.dim = self.encode_batch(quarter_second).shape[1]

    def _can_encode(self) -> bool:
        """True if the device has every operator of the model; a quarter of a second tells."""
        try:
            self.encode_batch(torch.zeros(1, self.sample_rate // 4))
        except (RuntimeError, TypeError):  # not implemented, or not in float64
            return False
        return True

    @property
    def sample_rate(self) -> int:
        """Sampling rate of the model, Hz."""
        return self.model.sample_rate

    def encode_batch(
        self, wavs: npt.ArrayLike | Tensor, lengths: npt.ArrayLike | Tensor | None = None
    ) -> Tensor:
        """Return embeddings (B, D) of a padded batch; see `Embedder.encode_batch`."""
        waves = torch.as_tensor(wavs, dtype=torch.float32, device=self.device)
        if waves.dim() == 1:
            waves = waves[None]
        if waves.dim() != 2 or not waves.numel():
            raise UserError(
                f"encode_batch: wavs have shape {tuple(waves.shape)}; give (B, T) with samples in"
                " it"
            )
        samples = None
        if lengths is not None:
            samples = in_samples(torch.as_tensor(lengths, device=self.device), waves)
        with torch.no_grad():
            features, frames = self.model.features(waves, samples)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._is_low):
                return encode_layer(self._encoder, features, frames, self.layer)

    def encode(self, waves: Sequence[Samples]) -> Matrix:
        """Return embeddings (B, D) of waves (T,) of any lengths at `sample_rate` Hz, as one batch.

        They are padded to the edge of the longest one's bucket (`batches.bucket_edge`). A
        single one is not, but in bfloat16, where each new shape costs a set-up.
        """
        if not waves:
            return np.zeros((0, self.dim), np.float32)
        shortest = round(MIN_SECONDS * self.sample_rate)
        waves = [wave if len(wave) >= shortest else np.resize(wave, shortest) for wave in waves]
        lengths = torch.tensor([len(wave) for wave in waves])
        longest = int(lengths.max())
        if len(waves) > 1 or self._is_low:
            edge = bucket_edge(longest / self.sample_rate)
            longest = max(longest, round(edge * self.sample_rate))
        padded = torch.zeros(len(waves), longest)
        for row, wave in zip(padded, waves, strict=True):
            row[: len(wave)] = torch.from_numpy(wave)
        all_full = bool((lengths == longest).all())
        return self.encode_batch(padded, None if all_full else lengths).cpu().numpy()

"""SpeechBrain's ECAPA-TDNN as an encoder of ours: what training would cost without
`speechssl.encoders`.

    python -m speechssl train CONFIG encoder=egs.bench.plain:PlainECAPA ...

from the repository's root. Also the shortest example of an encoder of one's own: a subclass of
`interfaces.Encoder` that takes features (B, F, M) and valid frames (B,), or none, to embeddings (B, D).
"""

from __future__ import annotations

from torch import Tensor

from speechssl.interfaces import Encoder


class PlainECAPA(Encoder):
    """`speechbrain.lobes.models.ECAPA_TDNN` with our settings; weights have the names of ours."""

    def __init__(self, input_dim: int, *, width: int = 512, embedding_dim: int = 192) -> None:
        super().__init__()
        from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

        self.embedding_dim = embedding_dim
        channels = [width] * 4 + [3 * width]
        self.net = ECAPA_TDNN(
            input_dim, lin_neurons=embedding_dim, channels=channels, attention_channels=128
        )

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Embed features (B, F, input_dim), of which lengths (B,) frames are valid: (B, D)."""
        relative = None if lengths is None else lengths / features.shape[1]
        return self.net(features, relative)[:, 0]

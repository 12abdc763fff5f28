"""How `embed_to_file` embeds: one frozen record, the same in every process of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from speechssl.embed.batch_encoder import Precision
from speechssl.embed.cutting import Cutting
from speechssl.embed.embedder import Embedder
from speechssl.embed.layers import EMBEDDING
from speechssl.errors import UserError


@dataclass(frozen=True)
class EmbedSettings:
    """Settings of `embed_to_file`, which takes them by these names.

    Attributes:
        device: cpu, cuda, cuda:1 ..., or auto; several processes share the GPUs among
            them.
        precision: of the encoder: float32, bfloat16, auto (the faster one of these on
            this hardware), or int8 (large products in 8 bits, on a CPU).
        batch_seconds: padded seconds of audio that are encoded at once; None: as `Embedder` says.
        max_seconds: longer recordings are embedded in equal pieces of at most this many
            seconds, and averaged.
        readers: threads of each process that read and decode ahead; None: as `Embedder` says.
        layer: which layer of the encoder gives the embedding
            (`speechssl.embed.layers`).
        network: which network of a run embeds, such as student or teacher
            (`speechssl.embed.networks`); None: the one that the run saved.
        features: what an ONNX file takes, where it does not say (`speechssl.embed.load`).
        allow_code: packages outside this one whose parts the model's folder may name.
        window: embed windows of this many seconds that slide over each recording; None:
            each recording whole.
        hop: seconds from one window to the next; None: half a window.
        vad: which part of `vad/` finds the speech that is embedded (energy, silero);
            None: all is.
        channels: mix, each, first, or the number of a channel from 1.
        jobs: processes on this machine; they share its cores or its GPUs.
        every: embed each N-th utterance only (a training mean or a cohort needs no
            more).
        keep_going: skip, count and list what cannot be embedded; otherwise the first
            such file ends the run.
        allow_pipes: run the shell pipes in wav.scp.
        remote: prefixes of the addresses that may be read, such as s3://bucket/.
        resume: go on from what an interrupted run left behind.
        progress: show a progress bar; None: as commands do (`speechssl.progress`).
    """

    device: str = "cpu"
    precision: Precision = "float32"
    batch_seconds: float | None = None
    max_seconds: float = 60.0
    readers: int | None = None
    layer: str = EMBEDDING
    network: str | None = None
    features: str | None = None
    allow_code: tuple[str, ...] = ()
    window: float | None = None
    hop: float | None = None
    vad: str | None = None
    channels: str = "mix"
    jobs: int = 1
    every: int = 1
    keep_going: bool = True
    allow_pipes: bool = False
    remote: tuple[str, ...] = ()
    resume: bool = False
    progress: bool | None = None

    def check(self, out: str) -> None:
        """Raise UserError if these settings cannot be, or not with the output `out`."""
        if self.jobs < 1:
            raise UserError(f"embed: jobs={self.jobs}: give 1 process or more")
        if self.every < 1:
            raise UserError(f"embed: every={self.every}: give 1 (every utterance) or more")
        self.cutting.check()
        if self.resume and out == "-":
            raise UserError("embed: resume=True needs a file; standard output cannot be resumed")

    @property
    def cutting(self) -> Cutting:
        """How recordings become utterances."""
        return Cutting(self.channels, self.vad, self.window, self.hop)

    def like(self, embedder: Embedder) -> EmbedSettings:
        """Return these settings with those that an `Embedder` already has."""
        return replace(
            self,
            device=str(embedder.device),
            precision=embedder.precision,
            batch_seconds=embedder.batch_seconds,
            max_seconds=embedder.max_seconds,
            readers=embedder.readers,
            layer=embedder.layer,
        )

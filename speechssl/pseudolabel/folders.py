"""Names of the files that pseudo-labelling writes."""

from __future__ import annotations

from pathlib import Path

from speechssl.files import ModelFolder, RunFolder


class RoundFolder:
    """Names of the files of one round."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def embeddings(self) -> Path:
        """Embeddings of the data, by the round's model."""
        return self.path / "embeddings.npz"

    @property
    def embeddings_folder(self) -> Path:
        """The same as a folder of parquet files, with ``streamed``."""
        return self.path / "embeddings"

    @property
    def embeddings_mark(self) -> Path:
        """Empty file that is there once this folder is complete."""
        return self.path / "embeddings.complete"

    @property
    def heldout(self) -> Path:
        """Embeddings of the held-out trials."""
        return self.path / "heldout.npz"

    @property
    def clusters(self) -> Path:
        """Folder that `evaluation.clusters.write` fills."""
        return self.path / "clusters"

    @property
    def pseudo_labels(self) -> Path:
        """Cluster of each utterance."""
        return self.clusters / "utt2cluster"

    @property
    def cluster_figures(self) -> Path:
        """Number, sizes and quality of the clusters."""
        return self.clusters / "clusters.json"

    @property
    def run(self) -> RunFolder:
        """The run on the clusters of the round before; it gives this round's model."""
        return RunFolder(self.path / "train")

    @property
    def large_margin(self) -> RunFolder:
        """The run that continues `run` with a larger margin."""
        return RunFolder(self.path / "large-margin")


class PseudoLabelFolder:
    """Names of the files that `speechssl pseudolabel` writes."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def config(self) -> Path:
        """Settings."""
        return self.path / "config.yaml"

    @property
    def results(self) -> Path:
        """Figures of each round, and which was chosen."""
        return self.path / "pseudolabel.json"

    @property
    def model(self) -> ModelFolder:
        """The chosen model."""
        return ModelFolder(self.path / "model")

    def round(self, number: int) -> RoundFolder:
        """Return the folder of a round; round 0 is the start."""
        return RoundFolder(self.path / f"round-{number}")

    def rounds(self) -> list[RoundFolder]:
        """Return the folders of the rounds that exist."""
        return [RoundFolder(path) for path in sorted(self.path.glob("round-*"))]

"""Names of the files that adaptation writes."""

from __future__ import annotations

from pathlib import Path

from speechssl.files import ModelFolder


class AdaptFolder:
    """Names of the files in the folder of `speechssl adapt`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def settings(self) -> Path:
        """What was asked for, and the plan."""
        return self.path / "settings.json"

    @property
    def train(self) -> Path:
        """Kaldi directory of the pieces that are learnt from."""
        return self.path / "data" / "train"

    @property
    def heldout(self) -> Path:
        """Kaldi directory of the pieces that judge; no recording is in both."""
        return self.path / "data" / "heldout"

    @property
    def skipped(self) -> Path:
        """Recordings that were left out, with the reason."""
        return self.path / "data" / "skipped.tsv"

    @property
    def model(self) -> ModelFolder:
        """The model that is kept."""
        return ModelFolder(self.path / "model")

    @property
    def results(self) -> Path:
        """Figures of every model, and which was kept."""
        return self.path / "results.json"

    @property
    def report(self) -> Path:
        """What was done, in plain lines."""
        return self.path / "report.txt"

    def candidate(self, way: str) -> CandidateFolder:
        """Return the folder of a way to change the model, or of `before`."""
        return CandidateFolder(self.path / way)


class CandidateFolder:
    """Names of the files of one model that is judged."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def model(self) -> ModelFolder:
        """The changed model, of a way that does not write a run."""
        return ModelFolder(self.path / "model")

    @property
    def run(self) -> Path:
        """Where training writes."""
        return self.path / "train"

    @property
    def pairs(self) -> Path:
        """Embeddings of the held-out windows."""
        return self.path / "heldout.npz"

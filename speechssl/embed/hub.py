"""A model for the Hugging Face hub: config.json, model.safetensors, a card with results, and the upload."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import yaml

import speechssl
from speechssl import config, foreign_json, parts, weights
from speechssl.errors import UserError
from speechssl.files import ModelFolder, write_text
from speechssl.foreign.hub import check_name
from speechssl.model import Model
from speechssl.text import markdown

_CARD = """\
---
{header}---

# {name}

{encoder} encoder for {rate} Hz speech, {parameters:.1f} M parameters, embeddings of {dim} numbers.
Trained with speechssl {version}.

## Use

```bash
speechssl embed {address} a.wav b.flac --out embeddings.npz
```

```python
import speechssl

embedder = speechssl.load("{address}")
vector = embedder.embed("a.wav")
```

{where}
`config.json` holds the settings of features and encoder, `model.safetensors` the encoder's weights.
Compare embeddings by their cosine; subtract the mean over unlabelled speech of your own first.

{results}## Training

{about}

## Limits

Embeddings tell voices apart, and carry emotion, language and recording channel too: do not take a score as
proof of identity, and measure on your own data before you rely on it.
"""


class HubApi(Protocol):
    """What is needed of `huggingface_hub.HfApi`."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        """Make a repository, unless it exists."""
        ...

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> Any:
        """Upload the files of a folder as one commit."""
        ...


def push(
    model: Model,
    repository: str,
    *,
    results: Sequence[str | Path] = (),
    private: bool = False,
    api: HubApi | None = None,
) -> str:
    """Upload a model and its card to the Hugging Face hub.

    Args:
        model: the model.
        repository: `owner/name`; it is made if it does not exist.
        results: files that `speechssl evaluate verification --out` wrote (results.json, or their
            folders), for the card; each is named by its folder.
        private: make a new repository private.
        api: None: `huggingface_hub.HfApi()`, with the login of this machine (`hf auth login`).

    Returns:
        `hub:owner/name`, as `speechssl.load` takes it.

    Raises:
        UserError: no such name, results that cannot be read, huggingface_hub is not installed, no
            network, or no right to write there.
    """
    repository = check_name(repository)
    read = [read_results(Path(path)) for path in results]
    if api is None:
        api = _api()
    with tempfile.TemporaryDirectory() as folder:
        write_folder(model, Path(folder), name=repository, results=read)
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            message = f"Upload a model of speechssl {speechssl.__version__}"
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
        except Exception as error:  # its own, those of its HTTP library, and OSError
            reason = (str(error).strip().splitlines() or ["no reason given"])[0]
            raise UserError(
                f"hub: {repository} cannot be written ({type(error).__name__}: {reason[:150]}); check"
                " the network, the name, and the login (hf auth login)"
            ) from error
    return f"hub:{repository}"


def _api() -> HubApi:
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise UserError("hub: needs huggingface_hub; pip install 'speechssl[hub]'") from None
    api: HubApi = HfApi()
    return api


def read_results(path: Path) -> dict[str, Any]:
    """Return name, EER, interval, trials and labels of a results.json of a verification.

    Args:
        path: the file, or its folder.

    Raises:
        UserError: it is no such file.
    """
    file = path / "results.json" if path.is_dir() else path
    written = foreign_json.read(file)
    with foreign_json.damage(file, "give the results.json of 'speechssl evaluate verification'"):
        interval = written.get("eer_interval")
        found: dict[str, Any] = {
            "name": file.resolve().parent.name,
            "eer": float(written["eer"]),
            "eer_interval": None if interval is None else [float(end) for end in interval],
            "trials": int(written["trials"]),
            "scoring": str(written.get("scoring", "")),
            "labels_used": [str(one) for one in written.get("labels_used", [])],
        }
        if not math.isfinite(found["eer"]):
            raise ValueError(f"eer {found['eer']}")
    return found


def write_folder(
    model: Model, out: Path, *, name: str = "", results: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Write config.json, model.safetensors and README.md, the card, into a folder.

    Args:
        model: the model.
        out: the folder.
        name: `owner/name` on the hub, where it is known.
        results: what `read_results` returned.

    Raises:
        UserError: the model is no encoder of this package (an ONNX file).
    """
    parts.check("encoders", config.thaw(model.settings["encoder"]), "encoder")
    files = ModelFolder(out)
    weights.write(files.hub_weights, model.encoder.state_dict())
    about = config.thaw(model.about)
    settings = {
        "model_type": "speechssl",
        "speechssl": speechssl.__version__,
        **config.thaw(model.settings),
        "about": about,
    }
    write_text(files.hub_config, json.dumps(settings, indent=2) + "\n")
    write_text(out / "README.md", card(model, about, name or out.resolve().name, name, results))


def card(
    model: Model,
    about: Mapping[str, Any],
    title: str,
    repository: str = "",
    results: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return README.md: what the model is, how it is used, what was measured, how it was trained.

    Args:
        model: the model.
        about: what is known of it.
        title: its name.
        repository: `owner/name` on the hub; "": it is a folder.
        results: what `read_results` returned.
    """
    known = ""
    for key, value in about.items():
        known += f"* {markdown(str(key))}: {markdown(json.dumps(value, ensure_ascii=False))}\n"
    parameters = sum(parameter.numel() for parameter in model.encoder.parameters())
    return _CARD.format(
        header=_header(title, results),
        name=markdown(title),
        encoder=markdown(model.settings["encoder"]["name"]),
        rate=model.sample_rate,
        dim=model.dim,
        parameters=parameters / 1e6,
        version=speechssl.__version__,
        address=f"hub:{repository}" if repository else "FOLDER",
        where="" if repository else "FOLDER is a copy of this one.",
        results=_table(results),
        about=known.rstrip() or "Nothing is known about it.",
    )


def _header(title: str, results: Sequence[Mapping[str, Any]]) -> str:
    """Return the YAML that the hub reads: library, tags, and results as `model-index`."""
    header: dict[str, Any] = {
        "library_name": "speechssl",
        "license": "other",
        "tags": ["speaker-verification", "self-supervised", "audio-embeddings"],
        "pipeline_tag": "feature-extraction",
    }
    measured = []
    for result in results:
        measured.append(
            {
                "task": {"type": "speaker-verification"},
                "dataset": {"name": result["name"], "type": result["name"]},
                "metrics": [{"type": "eer", "name": "EER (%)", "value": round(result["eer"], 2)}],
            }
        )
    if measured:
        header["model-index"] = [{"name": title, "results": measured}]
    text = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
    todo = "# TODO: the licence of these weights; mind the licence of the training data"
    return text.replace("license: other\n", f"license: other  {todo}\n")


def _table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the section of results; "" without any."""
    if not results:
        return ""
    lines = [
        "## Results",
        "",
        "| trials of | EER % | 95 % interval | trials | scoring | labels used |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for result in results:
        interval = result["eer_interval"]
        ends = "" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"
        labels = ", ".join(result["labels_used"]) or "none"
        cells = [
            markdown(result["name"]),
            f"{result['eer']:.2f}",
            ends,
            str(result["trials"]),
            markdown(result["scoring"]),
            markdown(labels),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n\n"

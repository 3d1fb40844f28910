"""The model that everything starts from: found and checked without loading weights, and written down."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from omegaconf import DictConfig
from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from stages.config.errors import UserError, first_line
from stages.data.digest import file_digest
from stages.data.embedded import embedded_weights, load_embedded_tokenizer
from stages.data.model_files import KINDS, check_files
from stages.data.sealed import check_sealed
from stages.data.tokenizers import check_tokenizer, eos_token_ids, load_tokenizer, stop_token_ids

EMBEDDED_FOLDER = "model"
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class BaseModel:
    """What data/prepare/model.json says.

    path: a folder or a hub id, as the config has it, so that the file is the same on every machine; the embedded
        model's is seen from the file. `read_base_model` makes it one that `from_pretrained` takes.
    revision: a hub model's commit. sha256: of the embedded GGUF file, or of a local folder's files.
    stop_token_ids: tokens that end a completion.
    """

    path: str
    revision: str | None
    sha256: str | None
    embedded: bool
    trust_remote_code: bool
    stop_token_ids: list[int]

    def check_unchanged(self) -> None:
        """Raise UserError where a local folder is no longer what prepare saw. DVC watches paths of the project only."""
        if self.embedded or self.sha256 is None:
            return
        if not Path(self.path).is_dir():
            raise UserError(f"model.path: there is no model folder {self.path}")
        if _folder_hash(Path(self.path)) != self.sha256:
            raise UserError(
                f"model.path: the content of {self.path} has changed since prepare ran: "
                "`dvc repro --force prepare`, then `dvc repro`"
            )


def find_base_model(settings: DictConfig) -> tuple[BaseModel, PreTrainedTokenizerBase]:
    """The model that the config names, and its tokenizer. Raises UserError; loads no weights."""
    if settings.path is None:
        tokenizer = load_embedded_tokenizer()
        stops = sorted(eos_token_ids(tokenizer))
        return BaseModel(
            EMBEDDED_FOLDER, None, file_digest(embedded_weights()), True, False, stops
        ), tokenizer
    path, trust = check_location(settings.path), settings.trust_remote_code
    local = Path(path).is_dir()
    if local:
        check_files(Path(path))
    config = _check_config(path, settings.revision, trust)
    try:
        tokenizer = load_tokenizer(path, settings.revision, trust)
    except Exception as error:  # tokenizers raises no kind of its own
        raise UserError(
            f"model.path: {path} has no tokenizer that can be loaded: {first_line(error)}"
        ) from error
    check_tokenizer(tokenizer, path)
    # A hub id without a revision is pinned here to the commit that was found.
    revision = None if local else getattr(config, "_commit_hash", None) or settings.revision
    sha256 = _folder_hash(Path(path)) if local else None
    stops = sorted(stop_token_ids(tokenizer, path, settings.revision))
    return BaseModel(settings.path, revision, sha256, False, trust, stops), tokenizer


def write_base_model(folder: Path, model: BaseModel) -> None:
    """Writes model.json into prepare's output."""
    (folder / "model.json").write_text(json.dumps(asdict(model), indent=2) + "\n")


def read_base_model(folder: Path) -> BaseModel:
    """The model that prepare's output names, with a path that `from_pretrained` takes from anywhere.

    Raises UserError where a local folder has changed since.
    """
    check_sealed(folder / "model.json")
    values = json.loads((folder / "model.json").read_text())
    if values["embedded"]:
        values["path"] = str(folder / values["path"])
        check_sealed(Path(values["path"]))
    else:
        values["path"] = check_location(values["path"])
    model = BaseModel(**values)
    model.check_unchanged()
    return model


def check_location(path: str) -> str:
    """A local folder as an absolute path, seen from the project's root; anything else is a hub id.

    Raises UserError for what can be neither.
    """
    local = ROOT / Path(path).expanduser()
    if local.is_dir():
        return str(local)
    if path.startswith(("/", ".", "~")) or path.count("/") > 1 or local.exists():
        raise UserError(f"model.path: there is no model folder {path}")
    return path


def _check_config(path: str, revision: str | None, trust_remote_code: bool) -> PretrainedConfig:
    try:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # the config classes check their values, and raise what they like
        raise UserError(f"model.path: cannot find the model {path}: {first_line(error)}") from error
    custom = trust_remote_code and hasattr(config, "auto_map")
    if config.is_encoder_decoder or not (custom or config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        raise UserError(
            f"model.path: {path} is a '{config.model_type}' model; only decoder-only ones can be trained"
        )
    both = (
        config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )  # a transformer that fills gaps unless told otherwise
    if both and not getattr(config, "is_decoder", True):
        raise UserError(
            f"model.path: {path} is a '{config.model_type}' model that sees what follows (is_decoder is false in its "
            "config.json); only decoder-only ones can be trained"
        )
    if Path(path).is_dir() and not any(Path(path).glob("*.safetensors")):
        raise UserError(
            f"model.path: {path} has no safetensors weights; save the model with safe_serialization"
        )
    return config


def _folder_hash(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.suffix in KINDS)
    lines = [f"{file_digest(path)}  {path.name}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()

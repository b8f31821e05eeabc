"""A policy from a `transformers` folder or from the Hugging Face hub, of any size.

`path` is an existing folder, whose content enters the identity, or the id of a hub repository, which needs `revision`, a full
commit hash, so that the same run always starts from the same weights. It is loaded and saved again as safetensors in `dtype`:
pickled weights, weights that do not fill the model and models that bring their own code are refused. The folder's sampling
defaults (temperature, top-k, penalties) are dropped, its end tokens kept: how to sample is the synthesizer's to say. Without
network, a snapshot already in the hub's cache (`HF_HOME`) is used; a gated one needs `HF_TOKEN`.

Left out: adapters (LoRA is the trainer's), quantised weights, models that are not causal.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ratchet.components.policies.checkpoint import Prompting, save
from ratchet.components.policies.worked import demonstrations_of
from ratchet.errors import InputError
from ratchet.protocols import Metrics, Trainer
from ratchet.records import Problem

Dtype = Literal["float32", "bfloat16", "float16"]
Template = Literal["plain", "chat"]
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


@dataclass(frozen=True, kw_only=True)
class HF:
    path: Path | str
    revision: str | None = None
    dtype: Dtype = "bfloat16"
    template: Template = "plain"
    warmup: Trainer | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("dtype", get_args(Dtype)), ("template", get_args(Template))):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} is none that a policy can have", got=getattr(self, name), allowed=", ".join(allowed))
        folder = Path(self.path).expanduser()
        if folder.is_dir():
            object.__setattr__(self, "path", folder.resolve())
            if self.revision is not None:
                raise InputError("a revision belongs to a hub id, and this policy is a folder", got=self.revision, next="set revision=null")
        elif isinstance(self.path, Path) or not HUB_ID.fullmatch(self.path):
            raise InputError("the policy's folder does not exist", got=self.path, allowed="an existing folder, or a hub id such as owner/name")
        elif not re.fullmatch("[0-9a-f]{40}", self.revision or ""):
            raise InputError(
                f"{self.path} is no folder here, and as a hub id it needs a pinned revision",
                got=f"revision={self.revision}",
                allowed="a commit's 40 hexadecimal digits; a branch or tag moves",
                next=f"copy it from https://huggingface.co/{self.path}/commits/main, or: git ls-remote https://huggingface.co/{self.path} HEAD",
            )

    @property
    def seeded(self) -> bool:
        """An import draws nothing; a warm-up shuffles."""
        return self.warmup is not None

    def create(self, examples: Sequence[Problem], *, out: Path, scratch: Path, seed: int) -> Metrics:
        if self.warmup is None:
            return {"parameters": self._write(out)}
        demonstrations = demonstrations_of(examples)
        parameters = self._write(scratch / "initial")
        trained = self.warmup.train(scratch / "initial", demonstrations, out=out, scratch=scratch / "warmup", seed=seed)
        return {**trained, "parameters": parameters}

    def _write(self, out: Path) -> int:
        """The imported policy; its number of parameters."""
        source = self.path if isinstance(self.path, Path) else _download(self.path, self.revision or "")
        _check(source)
        tokenizer = _tokenizer(source, self.template)
        model = _model(source, self.dtype)
        save(model, tokenizer, Prompting(template=self.template, dtype=self.dtype), out)
        return int(model.num_parameters())


def _download(hub_id: str, revision: str) -> Path:
    """The snapshot of a hub repository, from the cache or the network."""
    from httpx import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(WANTED)))
    except GatedRepoError as error:
        raise InputError(f"{hub_id} is gated", next=f"accept its terms at https://huggingface.co/{hub_id} and set HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise InputError(f"{hub_id} has no such revision", got=revision, next=f"see https://huggingface.co/{hub_id}/commits/main") from error
    except RepositoryNotFoundError as error:
        raise InputError("the hub has no such repository, or not for this token", got=hub_id, next="check the spelling, or set HF_TOKEN") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, HTTPError, OSError) as error:
        raise InputError(
            f"cannot fetch {hub_id} from the hub: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            next=f"download it where there is network (hf download {hub_id} --revision {revision}), then share HF_HOME or give the folder as path",
        ) from error


def _check(source: Path) -> None:
    """Refuse what is not a causal language model in safetensors."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if not (source / "config.json").is_file():
        raise InputError(f"{source} has no config.json, so it is no policy", next="give the folder that save_pretrained wrote")
    kind = json.loads((source / "config.json").read_text()).get("model_type")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise InputError(f"{source} is not a causal language model that transformers knows by itself", got=f"model_type {kind}")
    if not any(source.glob("*.safetensors")):
        pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in source.glob(pattern))
        raise InputError(
            f"{source} has no safetensors weights; pickled ones can run code and are not read",
            got=", ".join(pickled) or "no weights",
            next="where you trust them: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new)",
        )


def _tokenizer(source: Path, template: str) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    if tokenizer.eos_token_id is None:
        raise InputError(f"the tokenizer in {source} has no end-of-sequence token", next="set eos_token in its tokenizer_config.json")
    if template == "chat" and tokenizer.chat_template is None:
        raise InputError(f"{source} has no chat template", got="template=chat", next="set template=plain, or take the instruction-tuned model")
    return tokenizer


def _model(source: Path, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    model, info = AutoModelForCausalLM.from_pretrained(
        source, dtype=getattr(torch, dtype), use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    if missing := sorted(info["missing_keys"]):
        raise InputError(f"the weights in {source} do not fill the model", got=f"{len(missing)} missing, such as {missing[0]}")
    kept = model.generation_config
    model.generation_config = GenerationConfig(bos_token_id=kept.bos_token_id, eos_token_id=kept.eos_token_id, pad_token_id=kept.pad_token_id)
    return model

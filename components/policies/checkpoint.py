"""A policy on disk: what `transformers` saves (safetensors only), plus `policy.json`, which says how it is prompted."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ratchet.errors import InputError

FILE = "policy.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompting:
    """How text reaches a policy, kept beside its weights so that sampling and training cannot disagree."""

    template: Literal["plain", "chat"] = "plain"
    """`plain`: the prompt as it stands; `chat`: one user turn in the tokenizer's own chat template."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    def text(self, tokenizer: Any, prompt: str) -> str:
        """The text a completion follows."""
        if self.template == "plain":
            return prompt
        return str(tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True))


def prompting_of(folder: Path) -> Prompting:
    """How the policy in a folder is prompted."""
    return Prompting(**json.loads((folder / FILE).read_text()))


def load(folder: Path) -> tuple[Any, Any, Prompting]:
    """Model (in its dtype, on the GPU if there is one), tokenizer (padding on the left) and prompting of a policy."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    prompting = prompting_of(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", local_files_only=True)
    if tokenizer.eos_token_id is None:
        raise InputError(f"the tokenizer in {folder} has no end-of-sequence token", next="set eos_token in its tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, prompting.dtype), use_safetensors=True, local_files_only=True)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, prompting


def save(model: Any, tokenizer: Any, prompting: Prompting, out: Path) -> None:
    """Write a policy folder that `load` reads."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model.save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)
    (out / FILE).write_text(json.dumps(asdict(prompting), sort_keys=True) + "\n")

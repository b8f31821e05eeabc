"""A policy small enough to be trained from nothing in a minute on two cores, so that every recipe can be run for real.

A Llama of some 150,000 parameters that reads characters: random weights from the seed, then, unless `warmup` is null, imitation of
the task's worked problems by a trainer of the house. Equal seeds and threads give equal bytes on CPU.

`heads` queries share `kv_heads` keys and values: fewer make sampling faster, more make learning faster. `max_positions` bounds prompt
and completion together, in characters. A character outside `alphabet` is an error in a worked problem and reads as `<unk>` anywhere
else. Two choices differ from Llama's because they decide whether so small a model learns in minutes at all: weights start at
1/sqrt(hidden_size), not 0.02, and rotary positions turn fast enough to tell characters within a line apart.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratchet.components.policies.checkpoint import Prompting, save
from ratchet.components.policies.worked import demonstrations_of
from ratchet.errors import InputError
from ratchet.protocols import Metrics, Trainer
from ratchet.records import Problem

PRINTABLE = string.digits + string.ascii_letters + string.punctuation + " \n"
ROPE_THETA = 30.0
"""Llama's 10,000 is made for texts of thousands of tokens."""
SPECIAL = PAD, UNK, END = "<pad>", "<unk>", "<eos>"


@dataclass(frozen=True, kw_only=True)
class Tiny:
    hidden_size: int = 64
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    intermediate_size: int = 192
    max_positions: int = 256
    alphabet: str = PRINTABLE
    warmup: Trainer | None = None

    def __post_init__(self) -> None:
        sizes = ("hidden_size", "layers", "heads", "kv_heads", "intermediate_size", "max_positions")
        for name in sizes:
            if getattr(self, name) < 1:
                raise InputError(f"{name} counts something", got=getattr(self, name), allowed="1 or more")
        if self.hidden_size % (2 * self.heads):
            raise InputError("every head needs an even, equal part of hidden_size", got=self.hidden_size, allowed=f"multiples of {2 * self.heads}")
        if self.heads % self.kv_heads:
            raise InputError("heads must share kv_heads evenly", got=self.kv_heads, allowed=f"a divisor of {self.heads}")
        if not self.alphabet or len(set(self.alphabet)) < len(self.alphabet):
            raise InputError("an alphabet names each of its characters once, and at least one", got=repr(self.alphabet))

    def create(self, examples: Sequence[Problem], *, out: Path, scratch: Path, seed: int) -> Metrics:
        for problem in examples:
            self._check(problem)
        if self.warmup is None:
            return {"parameters": self._write(out, seed)}
        demonstrations = demonstrations_of(examples)
        parameters = self._write(scratch / "initial", seed)
        trained = self.warmup.train(scratch / "initial", demonstrations, out=out, scratch=scratch / "warmup", seed=seed)
        return {**trained, "parameters": parameters}

    def _check(self, problem: Problem) -> None:
        text = (problem.shown or problem.prompt) + (problem.solution or "")
        if foreign := set(text) - set(self.alphabet):
            raise InputError(
                f"problem {problem.id} has characters that the policy cannot read",
                got="".join(sorted(foreign)),
                allowed=repr(self.alphabet),
                next="add them to the policy's alphabet",
            )
        if len(text) >= self.max_positions:
            raise InputError(
                f"problem {problem.id} is longer than the policy can read",
                got=f"{len(text)} characters",
                allowed=f"fewer than max_positions={self.max_positions}",
                next="raise the policy's max_positions",
            )

    def _write(self, folder: Path, seed: int) -> int:
        """A policy with random weights; its number of parameters."""
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=len(SPECIAL) + len(self.alphabet),
            hidden_size=self.hidden_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            intermediate_size=self.intermediate_size,
            max_position_embeddings=self.max_positions,
            initializer_range=self.hidden_size**-0.5,
            rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
            tie_word_embeddings=True,
            bos_token_id=None,
            pad_token_id=SPECIAL.index(PAD),
            eos_token_id=SPECIAL.index(END),
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = LlamaForCausalLM(config)
        save(model, character_tokenizer(self.alphabet, self.max_positions), Prompting(), folder)
        return int(model.num_parameters())


def character_tokenizer(alphabet: str, max_positions: int) -> Any:
    """A tokenizer with a token a character, which gives back every text over its alphabet as it was, spaces and newlines included."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *alphabet))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNK,
        eos_token=END,
        model_max_length=max_positions,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )

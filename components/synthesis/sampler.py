"""Completions sampled from a policy with `transformers`, `samples` of each problem, in batches of like length.

A policy samples from softmax(logits / temperature), cut to the smallest set of tokens that holds `top_p` of the mass; temperature 0
takes the likeliest token and then draws nothing (one sample, entropy 0). A rollout ends at an end token of the policy, at one of the
`stop` strings, which is cut off its completion, or unfinished after `max_new_tokens`. The policy folder's own sampling defaults
are not used. `batch_size` counts sequences a call; `rows_per_shard` counts problems.

A finished batch is kept in the stage's scratch folder, so that an attempt which is preempted or killed loses one batch and not a shard.
Equal seeds, batches and threads give equal bytes on CPU; GPU kernels promise that only for the same card and libraries. Left out:
sharing one prefill among a problem's samples (`transformers` repeats the prompt), and serving engines.
"""

import json
import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratchet.components.policies.checkpoint import Prompting, load
from ratchet.errors import InputError
from ratchet.identity import derive_seed
from ratchet.interruption import safe_point
from ratchet.records import Problem, Rollout


@dataclass(frozen=True, kw_only=True)
class Sampler:
    samples: int
    temperature: float
    max_new_tokens: int
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    batch_size: int = 256
    rows_per_shard: int = 256

    def __post_init__(self) -> None:
        for name in ("samples", "max_new_tokens", "batch_size", "rows_per_shard"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} counts something", got=getattr(self, name), allowed="1 or more")
        if not 0 <= self.temperature < float("inf"):
            raise InputError("a temperature cannot be negative or endless", got=self.temperature, allowed="0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise InputError("top_p is a share of probability", got=self.top_p, allowed="more than 0, up to 1 (all of it)")
        if self.temperature == 0 and self.samples > 1:
            raise InputError("greedy samples are all the same", got=f"samples={self.samples}", allowed="samples=1 where temperature is 0")
        if "" in self.stop:
            raise InputError("an empty stop string would stop at once", got=self.stop)

    @property
    def seeded(self) -> bool:
        return self.temperature > 0

    def synthesize(self, policy: Path, problems: Sequence[Problem], *, seed: int, scratch: Path) -> Iterator[Rollout]:
        model, tokenizer, prompting = load(policy)
        prompts = [_encode(tokenizer, prompting, problem) for problem in problems]
        _check_lengths(model, problems, prompts, self.max_new_tokens)
        ends = _end_tokens(model, tokenizer)
        waiting: dict[int, list[Rollout]] = {row: [] for row in range(len(problems))}
        row = 0
        for number, (rows, copies) in enumerate(self._batches([len(prompt) for prompt in prompts])):
            drawn = _kept(scratch, number)
            if drawn is None:
                drawn = self._draw(model, tokenizer, ends, [prompts[r] for r in rows], copies, derive_seed(seed, number))
                _keep(scratch, number, drawn)
                safe_point()
            for at, fields in zip((r for r in rows for _ in range(copies)), drawn, strict=True):
                waiting[at].append(_rollout(problems[at], len(waiting[at]), fields))
            while row in waiting and len(waiting[row]) == self.samples:
                yield from waiting.pop(row)
                row += 1

    def _batches(self, lengths: Sequence[int]) -> Iterator[tuple[list[int], int]]:
        """Problems of like prompt length and how many samples of each to draw, at most `batch_size` sequences together."""
        order = sorted(range(len(lengths)), key=lambda row: lengths[row])
        together = max(1, self.batch_size // self.samples)
        for start in range(0, len(order), together):
            for first in range(0, self.samples, self.batch_size):
                yield order[start : start + together], min(self.batch_size, self.samples - first)

    def _draw(self, model: Any, tokenizer: Any, ends: list[int], prompts: Sequence[list[int]], copies: int, seed: int) -> list[dict[str, Any]]:
        """`copies` completions of each prompt, prompt by prompt, as fields of a rollout."""
        import torch
        from transformers import GenerationConfig

        inputs = tokenizer.pad({"input_ids": list(prompts)}, padding_side="left", return_tensors="pt").to(model.device)
        width = inputs["input_ids"].shape[1]
        meter = _Meter()
        # Set whole, not passed: `generate` would fill every value left open from the policy folder's own sampling defaults.
        model.generation_config = GenerationConfig(
            do_sample=self.temperature > 0,
            num_return_sequences=copies,
            max_new_tokens=self.max_new_tokens,
            top_k=0 if self.temperature > 0 else None,
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
            suppress_tokens=[tokenizer.pad_token_id] if tokenizer.pad_token_id not in ends else None,
        )
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(seed)
            output = model.generate(**inputs, logits_processor=self._processors(meter), stopping_criteria=self._criteria(tokenizer, width))
        entropies = meter.entropies() if self.temperature > 0 else [[0.0] * self.max_new_tokens] * len(output)
        before = [prompt[-1] for prompt in prompts for _ in range(copies)]
        sampled = zip(before, output[:, width:].tolist(), entropies, strict=True)
        return [self._read(tokenizer, ends, last, ids, entropy) for last, ids, entropy in sampled]

    def _processors(self, meter: "_Meter") -> Any:
        """Temperature and top-p ourselves, since `generate` would apply its own only after the meter."""
        from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

        if self.temperature == 0:
            return LogitsProcessorList()
        warpers = [TemperatureLogitsWarper(float(self.temperature))]
        return LogitsProcessorList([*warpers, *([TopPLogitsWarper(self.top_p)] if self.top_p < 1 else []), meter])

    def _criteria(self, tokenizer: Any, width: int) -> Any:
        """Stops a sequence whose last tokens, its prompt's not counted, hold a stop string."""
        from transformers import StoppingCriteriaList

        window = max((len(string.encode()) for string in self.stop), default=0)  # a token is a byte or more

        def stopped(ids: Any, scores: Any, **_: Any) -> Any:
            tails = tokenizer.batch_decode(ids[:, width:][:, -window:], skip_special_tokens=True)
            return ids.new_tensor([any(string in tail for string in self.stop) for tail in tails]).bool()

        return StoppingCriteriaList([stopped] if self.stop else [])

    def _read(self, tokenizer: Any, ends: list[int], last: int, ids: list[int], entropy: list[float]) -> dict[str, Any]:
        """A row of tokens sampled after `last`, the prompt's last token, up to its end, as fields of a rollout."""
        length = next((index + 1 for index, token in enumerate(ids) if token in ends), len(ids))
        finished = ids[length - 1] in ends

        def decode(tokens: list[int]) -> str:
            return str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))

        def text(length: int) -> str:
            return decode([last, *ids[:length]])[len(decode([last])) :]  # alone, some tokenizers drop a completion's leading space

        def holds_stop(length: int) -> bool:
            return any(string in text(length) for string in self.stop)

        completion = text(length)
        if holds_stop(length):
            length, finished = bisect_left(range(length), True, key=holds_stop), True
            completion = completion[: min(completion.find(string) for string in self.stop if string in completion)]
        mean = sum(entropy[:length]) / length
        return {"completion": completion, "tokens": length, "finished": finished, "entropy": round(mean, 6)}


def _kept(scratch: Path, number: int) -> list[dict[str, Any]] | None:
    """A batch that an earlier attempt at the same stage drew."""
    try:
        found: list[dict[str, Any]] = json.loads((scratch / f"batch-{number:06d}.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # not drawn, or torn by a power cut
        return None
    return found


def _keep(scratch: Path, number: int, drawn: list[dict[str, Any]]) -> None:
    scratch.mkdir(parents=True, exist_ok=True)
    draft = scratch / f".batch-{number:06d}.{os.getpid()}"
    draft.write_text(json.dumps(drawn), encoding="utf-8")
    draft.replace(scratch / f"batch-{number:06d}.json")


class _Meter:
    """A logits processor that changes nothing and keeps a step's entropy, one number a sequence, instead of its scores."""

    def __init__(self) -> None:
        self.steps: list[Any] = []

    def __call__(self, ids: Any, scores: Any) -> Any:
        import torch

        self.steps.append(torch.special.entr(scores.softmax(dim=-1)).sum(dim=-1))
        return scores

    def entropies(self) -> list[list[float]]:
        """(sequences x steps), in nats."""
        import torch

        return torch.stack(self.steps, dim=1).tolist()


def _encode(tokenizer: Any, prompting: Prompting, problem: Problem) -> list[int]:
    """A chat template writes its own special tokens; plain text gets those that the tokenizer adds."""
    text = prompting.text(tokenizer, problem.shown or problem.prompt)
    ids: list[int] = tokenizer(text, add_special_tokens=prompting.template == "plain")["input_ids"]
    if not ids:
        raise InputError(f"problem {problem.id} has an empty prompt", next="give it a prompt")
    return ids


def _check_lengths(model: Any, problems: Sequence[Problem], prompts: Sequence[list[int]], max_new_tokens: int) -> None:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for problem, prompt in zip(problems, prompts, strict=True):
        if positions is not None and len(prompt) + max_new_tokens > positions:
            raise InputError(
                f"the prompt of problem {problem.id} leaves the policy too little room",
                got=f"{len(prompt)} tokens, and max_new_tokens={max_new_tokens}",
                allowed=f"{positions} tokens together",
                next="lower the synthesizer's max_new_tokens, or drop the problem",
            )


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends a completion: chat models have several."""
    own = model.generation_config.eos_token_id
    return sorted({tokenizer.eos_token_id, *(own if isinstance(own, list) else [own] if own is not None else [])})


def _rollout(problem: Problem, sample: int, fields: dict[str, Any]) -> Rollout:
    return Rollout(problem_id=problem.id, sample=sample, prompt=problem.prompt, reference=problem.reference, **fields)

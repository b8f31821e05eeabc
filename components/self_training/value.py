"""A value model: how likely a policy is to reach the right answer from the end of a step (Math-Shepherd, 2312.08935).

    p(correct | prompt, steps 1…i) = sigmoid(w · [h_i, q_i, log q_i] + b)

h_i is the last hidden state at step i's last token, q_i the probability that the model itself gave to the least likely token of
steps 1…i (the closing one left out, which a last step does not have; log q_i is cut at -10 and divided by 10). q is not in the paper:
a few thousand labels are too few for a small model to learn from h alone where its doubts were. No gradient flows through q.

Trained on binary cross-entropy against labels in [0, 1], or on squared error, from a head of zeros. With
`body_learning_rate` 0 the body stays the policy's and is read only once; above 0 it is trained along, as in the paper, which pays
with many labels only. Prompt and steps are tokenized one by one, so that a prefix and a whole completion have the same tokens.

A share of the problems (by the seed) is held out: `held_out_auc` (does a text with a label above 1/2 get the higher value),
`held_out_correlation` and `held_out_loss` are of their texts; what is undefined is left out. Written: a policy folder,
`value_head.safetensors`, `value_head.json`, `curve.jsonl`. Equal bytes on CPU, killed and continued or not, as with `SFT`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ratchet.components.policies import checkpoint
from ratchet.components.policies.checkpoint import Prompting
from ratchet.components.self_training.examples import reading_order
from ratchet.components.self_training.optimization import Schedule
from ratchet.components.self_training.session import Session, begun, contained
from ratchet.components.self_training.steps import check_separator, steps_of
from ratchet.errors import InputError, NothingSelected
from ratchet.identity import canonical, derive_seed, digest
from ratchet.protocols import Metrics
from ratchet.records import Demonstration

HEAD, SETTINGS = "value_head.safetensors", "value_head.json"
LOWEST_LOG = -10.0
LOGITS_AT_ONCE = 2**26


@dataclass(frozen=True, slots=True)
class Steps:
    """A prompt and its completion as tokens."""

    tokens: list[int]
    start: int
    """Where the completion begins."""
    ends: list[int]
    """The last token of each step to be valued."""


class Reader:
    """Turns texts into tokens, step by step."""

    def __init__(self, model: Any, tokenizer: Any, prompting: Prompting, separator: str) -> None:
        self.tokenizer, self.prompting, self.separator = tokenizer, prompting, separator
        self.limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._known: dict[str, list[int]] = {}

    def read(self, prompt: str, completion: str) -> Steps:
        """What is past the model's positions is cut, so that steps which end there end at the cut."""
        text, special = self.prompting.text(self.tokenizer, prompt), self.prompting.template == "plain"
        tokens: list[int] = list(self.tokenizer(text, add_special_tokens=special)["input_ids"])
        start, ends = len(tokens), []
        for step in steps_of(completion, self.separator):
            tokens += self._tokens(step)
            ends.append(len(tokens) - 1)
        tokens = tokens[: self.limit]
        return Steps(tokens, min(start, len(tokens)), [min(end, len(tokens) - 1) for end in ends])

    def _tokens(self, step: str) -> list[int]:
        if step not in self._known:
            self._known[step] = self.tokenizer(step, add_special_tokens=False)["input_ids"]
        return self._known[step]


def value_model(model: Any) -> Any:
    """A module with `model` as its body: `features` of steps, and `head`, which makes of each step's features one logit."""
    import torch

    class Value(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model.base_model
            self.head = torch.nn.Linear(model.config.get_text_config().hidden_size + 2, 1)
            torch.nn.init.zeros_(self.head.weight)
            torch.nn.init.zeros_(self.head.bias)

        def features(self, texts: Sequence[Steps]) -> Any:
            """One row per step, text after text, in one forward pass; padded on the right."""
            width, device = max(len(text.tokens) for text in texts), self.head.weight.device
            ids = torch.tensor([text.tokens + [0] * (width - len(text.tokens)) for text in texts], device=device)
            mask = torch.tensor([[1] * len(text.tokens) + [0] * (width - len(text.tokens)) for text in texts], device=device)
            states = self.body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            logs = _log_probabilities(model.get_output_embeddings(), states.detach(), ids)
            rows = [self._row(states[row, end], logs[row, max(text.start, 1) - 1 : end - 1]) for row, text in enumerate(texts) for end in text.ends]
            return torch.stack(rows)

        def _row(self, state: Any, logs: Any) -> Any:
            least = logs.min().clamp(min=LOWEST_LOG) if len(logs) else logs.new_zeros(())
            return torch.cat([state.float(), torch.stack([least.exp(), least / -LOWEST_LOG])])

        def forward(self, texts: Sequence[Steps]) -> Any:
            return self.head(self.features(texts)).squeeze(-1)

    return Value().to(model.device)


def _log_probabilities(output: Any, states: Any, ids: Any) -> Any:
    """Of each token but the first, given those before it; a few rows at a time, since logits are large."""
    import torch

    rows = max(1, LOGITS_AT_ONCE // (ids.shape[1] * output.weight.shape[0]))
    with torch.no_grad():
        parts = [
            output(states[first : first + rows, :-1]).float().log_softmax(-1).gather(-1, ids[first : first + rows, 1:, None]).squeeze(-1)
            for first in range(0, len(ids), rows)
        ]
    return torch.cat(parts)


def load_value(folder: Path) -> tuple[Any, Reader]:
    """The value model that `ValueHead` wrote into a folder, and how it reads texts."""
    from safetensors.torch import load_file

    if not (folder / HEAD).is_file():
        raise InputError(f"{folder} holds no value model", next="give the role an artifact that ValueHead trained")
    model, tokenizer, prompting = checkpoint.load(folder)
    value = value_model(model)
    value.head.load_state_dict(load_file(folder / HEAD))
    return value.eval(), Reader(model, tokenizer, prompting, json.loads((folder / SETTINGS).read_text())["separator"])


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text with the value of its last step."""

    problem_id: str
    steps: Steps
    label: float


def labelled(examples: Sequence[Demonstration], reader: Reader) -> list[Labelled]:
    """Demonstrations with labels as texts to learn."""
    texts = []
    for number, example in enumerate(examples):
        if example.label is None or not 0 <= example.label <= 1:
            raise InputError(f"text {number} has no label to fit", got=example.label, allowed="a number from 0 to 1", next="select with StepLabels")
        read = reader.read(example.prompt, example.completion)
        if read.ends:
            texts.append(Labelled(example.problem_id or str(number), Steps(read.tokens, read.start, read.ends[-1:]), example.label))
    if not texts:
        raise NothingSelected("there is no labelled text to train a value on")
    return texts


@dataclass(frozen=True, kw_only=True)
class ValueHead:
    """Train a value model on labelled texts."""

    version = 1

    steps: int
    batch_size: int
    learning_rate: float
    """Of the head."""
    body_learning_rate: float = 0.0
    """0: the body is left as it is."""
    warmup_steps: int = 0
    final_lr_ratio: float = 0.1
    """Of a cosine to the end."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    loss: Literal["bce", "mse"] = "bce"
    balanced: bool = False
    """Under `bce`, let right and wrong weigh alike, however rare right is, so that p = 1/2 lies between them. p then ranks states as
    before but is no longer a frequency; where a weak policy's labels are mostly wrong, it is what makes a threshold at 0 a choice."""
    separator: str = "\n"
    """As in `StepPrefixes`; written beside the head."""
    held_out: float = 0.1
    """Share of the problems that are only measured on."""
    save_every: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} counts something", got=getattr(self, name), allowed="1 or more")
        for name in ("body_learning_rate", "warmup_steps", "weight_decay", "max_grad_norm"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} cannot be negative", got=getattr(self, name), allowed="0 or more")
        if self.learning_rate <= 0:
            raise InputError("learning_rate must be positive", got=self.learning_rate, allowed="more than 0")
        if not 0 <= self.final_lr_ratio <= 1:
            raise InputError("final_lr_ratio is a share of learning_rate", got=self.final_lr_ratio, allowed="0 to 1")
        if not 0 <= self.held_out < 1:
            raise InputError("held_out is a share of the problems", got=self.held_out, allowed="0 up to, not including, 1")
        if self.loss not in ("bce", "mse"):
            raise InputError("unknown loss", got=self.loss, allowed="bce, mse")
        check_separator(self.separator)

    def train(self, policy: Path, examples: Sequence[Demonstration], *, out: Path, scratch: Path, seed: int) -> Metrics:
        with contained():
            model, tokenizer, prompting = checkpoint.load(policy)
            value = value_model(model.float() if self.body_learning_rate else model)
            value.body.requires_grad_(self.body_learning_rate > 0)
            texts = labelled(examples, Reader(model, tokenizer, prompting, self.separator))
            learnt, held_out = self._split(texts, seed)
            rows = digest([[text.problem_id, text.steps.tokens, text.steps.ends, text.label] for text in learnt])
            rates = {"head": self.learning_rate, "body": self.body_learning_rate}
            session = begun(self, value, policy=policy, rows=rows, scratch=scratch, seed=seed, rates=rates)
            self._learn(session, learnt)
            self._write(session, model, tokenizer, prompting, out)
            return {**self._metrics(session, learnt), **self._measured(value.eval(), held_out)}

    def _split(self, texts: Sequence[Labelled], seed: int) -> tuple[list[Labelled], list[Labelled]]:
        """Texts to learn and texts held out; a problem's texts stay together. With too few problems nothing is held out."""
        problems = sorted({text.problem_id for text in texts}, key=lambda name: derive_seed(seed, "held out", name))
        held_out = set(problems[: int(self.held_out * len(problems))])
        return [text for text in texts if text.problem_id not in held_out], [text for text in texts if text.problem_id in held_out]

    def _learn(self, session: Session, learnt: Sequence[Labelled]) -> None:
        import torch

        at, left, value = session.position, self.steps - session.done, session.model
        schedule = Schedule(kind="cosine", peak=1.0, warmup=self.warmup_steps, horizon=self.steps, final=self.final_lr_ratio)
        pace = torch.optim.lr_scheduler.LambdaLR(session.optimizer, lambda update: schedule.ratio(at.step + update))
        mean = sum(text.label for text in learnt) / len(learnt)
        weight = (1 - mean) / mean if self.balanced and 0 < mean < 1 else 1.0
        order = reading_order(len(learnt), seed=at.seed, cursor=at.cursor, count=left * self.batch_size)
        read_once = None if self.body_learning_rate else self._features(value, learnt)
        for first in range(0, len(order), self.batch_size):
            rows = order[first : first + self.batch_size]
            session.seed_step()
            session.optimizer.zero_grad()
            features = value.train().features([learnt[row].steps for row in rows]) if read_once is None else read_once[rows]
            loss = self._loss(value.head(features).squeeze(-1), [learnt[row] for row in rows], weight)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(value.parameters(), self.max_grad_norm or float("inf"))
            session.optimizer.step()
            session.record(float(loss), self.learning_rate * schedule.ratio(session.position.step), float(norm))
            pace.step()

    def _features(self, value: Any, texts: Sequence[Labelled]) -> Any:
        """Every text's features, without gradients."""
        import torch

        value.eval()
        with torch.no_grad():
            batches = (texts[first : first + self.batch_size] for first in range(0, len(texts), self.batch_size))
            return torch.cat([value.features([text.steps for text in batch]) for batch in batches])

    def _loss(self, logits: Any, texts: Sequence[Labelled], weight: float = 1.0) -> Any:
        """`weight` is that of right against wrong."""
        import torch

        labels = torch.tensor([text.label for text in texts], device=logits.device)
        if self.loss == "mse":
            return torch.nn.functional.mse_loss(logits.sigmoid(), labels)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=logits.new_tensor(weight))

    def _write(self, session: Session, model: Any, tokenizer: Any, prompting: Prompting, out: Path) -> None:
        import torch
        from safetensors.torch import save_file

        head = {name: tensor.detach().cpu().contiguous() for name, tensor in session.model.head.state_dict().items()}
        checkpoint.save(model.to(getattr(torch, prompting.dtype)), tokenizer, prompting, out)
        save_file(head, out / HEAD)
        (out / SETTINGS).write_bytes(canonical({"separator": self.separator}) + b"\n")
        (out / "curve.jsonl").write_bytes(b"".join(canonical(row) + b"\n" for row in session.curve))

    def _metrics(self, session: Session, learnt: Sequence[Labelled]) -> dict[str, float]:
        return {
            "steps": self.steps,
            "examples": len(learnt),
            "epochs": self.steps * self.batch_size / len(learnt),
            "label_mean": sum(text.label for text in learnt) / len(learnt),
            "loss_first": session.curve[0]["loss"],
            "loss_last": session.curve[-1]["loss"],
        }

    def _measured(self, value: Any, texts: Sequence[Labelled]) -> dict[str, float]:
        """How well the labels of unseen problems are told."""
        import numpy
        import torch
        from scipy.stats import rankdata

        if not texts:
            return {"held_out": 0}
        with torch.no_grad():
            logits = value.head(self._features(value, texts)).squeeze(-1)
            found = {"held_out": float(len(texts)), "held_out_loss": float(self._loss(logits, texts))}
        values, labels = logits.sigmoid().double().cpu().numpy(), numpy.array([text.label for text in texts])
        if labels.std() > 0 and values.std() > 0:
            found["held_out_correlation"] = float(numpy.corrcoef(values, labels)[0, 1])
        good = labels > 0.5
        if 0 < good.sum() < len(good):
            above = rankdata(values)[good].sum() - good.sum() * (good.sum() + 1) / 2
            found["held_out_auc"] = float(above / (good.sum() * (~good).sum()))
        return found

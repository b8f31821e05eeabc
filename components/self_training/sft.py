"""Supervised fine-tuning on demonstrations, by TRL's `SFTTrainer`: the M-step of STaR, ReST-EM, RFT and B-STaR.

    max  sum over i of log p(completion_i, end | prompt_i)         (methods: STaR 2203.14465, ReST-EM 2312.06585, B-STaR 2412.17256)

The loss is the mean over the completion tokens of a batch (prompt and padding masked), so a long completion weighs more than a short
one. Nothing is packed or truncated: longer examples are left out and counted as `too_long`. Completions are single turns.

What a round inherits is `inherit`. The weights are those of the policy handed in; `training_state` takes AdamW's moments, the place
in the one schedule of `schedule_steps`, and, where the demonstrations are the same, the place in their order, from the policy's folder
(Online RFT, B-STaR). A folder without such a state, or with one of another schedule, starts the schedule at 0 and says so in
`inherited_step` and `inherited_optimizer`. On the CPU equal seed and threads give equal bytes, killed and continued or not; GPU
kernels do not promise that. One process, one device. Policies in half precision are trained on float32 masters.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ratchet.components.policies import checkpoint
from ratchet.components.policies.checkpoint import Prompting
from ratchet.components.self_training.examples import Rows, encode, reading_order
from ratchet.components.self_training.optimization import Schedule, adamw, moments, take_moments
from ratchet.components.self_training.session import Session, contained, reporter, take_weights
from ratchet.components.self_training.training_state import FOLDER, Position, TrainingState, load, save, weights_digest
from ratchet.errors import CorruptArtifact, InputError
from ratchet.identity import canonical, derive_seed, describe, digest
from ratchet.protocols import Metrics
from ratchet.records import Demonstration


@dataclass(frozen=True, kw_only=True)
class SFT:
    """Train on completions; write the policy, its `training_state/` and `curve.jsonl` (one row per optimizer step)."""

    version = 1

    steps: int
    """Optimizer steps of this stage."""
    batch_size: int
    learning_rate: float
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 0
    schedule_steps: int | None = None
    """Steps of the one schedule that all rounds share if the training state is inherited; None, or without inheriting: `steps`."""
    final_lr_ratio: float = 0.0
    """Learning rate at and after the schedule's end, as a share of `learning_rate`."""
    weight_decay: float = 0.0
    """On matrices only."""
    max_grad_norm: float = 1.0
    """0: no clipping."""
    max_length: int | None = None
    """Tokens of prompt, completion and end; None: what the model has positions for."""
    inherit: Literal["weights", "training_state"] = "weights"
    save_every: int = 50
    """Steps between checkpoints, from which a killed attempt continues; they do not change what comes out."""
    micro_batch_size: int | None = None
    """Examples per forward pass where a batch does not fit on the device; divides `batch_size`."""
    gradient_checkpointing: bool = False
    lora_rank: int | None = None
    """None: train every weight. A number: train an adapter of that rank (2106.09685), merged into the weights that are saved."""
    lora_alpha: float = 16.0
    lora_targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "save_every", "schedule_steps", "max_length", "micro_batch_size", "lora_rank"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name} counts something", got=value, allowed="1 or more")
        for name in ("warmup_steps", "weight_decay", "max_grad_norm"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} cannot be negative", got=getattr(self, name), allowed="0 or more")
        for name in ("learning_rate", "lora_alpha"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} must be positive", got=getattr(self, name), allowed="more than 0")
        if not 0 <= self.final_lr_ratio <= 1:
            raise InputError("final_lr_ratio is a share of learning_rate", got=self.final_lr_ratio, allowed="0 to 1")
        if self.schedule not in ("cosine", "linear", "constant"):
            raise InputError("unknown schedule", got=self.schedule, allowed="cosine, linear, constant")
        if self.inherit not in ("weights", "training_state"):
            raise InputError("unknown inherit", got=self.inherit, allowed="weights, training_state")
        if self.batch_size % (self.micro_batch_size or 1):
            raise InputError("micro_batch_size divides batch_size", got=self.micro_batch_size, allowed=f"a divisor of {self.batch_size}")
        if isinstance(self.lora_targets, str) and self.lora_targets != "all-linear":
            raise InputError("lora_targets is a list of layer names", got=self.lora_targets, allowed="all-linear, or [q_proj, v_proj, …]")

    def train(self, policy: Path, examples: Sequence[Demonstration], *, out: Path, scratch: Path, seed: int) -> Metrics:
        with contained():
            model, tokenizer, prompting = checkpoint.load(policy)
            rows = encode(examples, tokenizer, prompting, max_length=self._limit(model))
            model = self._trainable(model, seed)
            optimizer = adamw(model, learning_rate=self.learning_rate, weight_decay=self.weight_decay)
            start, inherited = self._start(policy, model, optimizer, prompting, rows, seed)
            session = Session(
                model=model,
                optimizer=optimizer,
                start=start,
                batch_size=self.batch_size,
                save_every=self.save_every,
                folder=scratch / "checkpoints",
                work=digest([describe(self), asdict(start), weights_digest(policy)]),
            )
            session.restore()
            if session.done < self.steps:
                self._run(session, rows, tokenizer, prompting, scratch)
            self._write(session, tokenizer, prompting, out)
            return self._metrics(session, rows, inherited)

    @property
    def _adapter(self) -> str:
        """What must be the same for one stage's adapter to go on in the next."""
        return digest([self.lora_rank, self.lora_alpha, self.lora_targets]) if self.lora_rank is not None else "none"

    @property
    def _schedule(self) -> Schedule:
        horizon = self.schedule_steps if self.inherit == "training_state" and self.schedule_steps else self.steps
        return Schedule(kind=self.schedule, peak=self.learning_rate, warmup=self.warmup_steps, horizon=horizon, final=self.final_lr_ratio)

    def _limit(self, model: Any) -> int:
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        return min(limit for limit in (positions, self.max_length, 2**31) if limit)

    def _trainable(self, model: Any, seed: int) -> Any:
        """The model in float32; or in its own precision, with a new adapter that changes nothing yet."""
        import torch

        if self.lora_rank is None:
            return model.float()
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(derive_seed(seed, "adapter"))
        targets = self.lora_targets if isinstance(self.lora_targets, str) else list(self.lora_targets)
        config = LoraConfig(r=self.lora_rank, lora_alpha=self.lora_alpha, target_modules=targets, task_type="CAUSAL_LM")
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            layers = {name.rpartition(".")[2] for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
            raise InputError("no adapter fits on lora_targets", got=self.lora_targets, allowed=", ".join(sorted(layers))) from error

    def _start(self, policy: Path, model: Any, optimizer: Any, prompting: Prompting, rows: Rows, seed: int) -> tuple[Position, float]:
        """Where this stage starts, and the share of the trained numbers whose moments it inherits."""
        shared = self.inherit == "training_state" and self.schedule_steps is not None
        fresh = Position(step=0, seed=seed, cursor=0, rows=rows.digest, schedule=digest([asdict(self._schedule), shared]))
        if self.inherit == "weights" or not (policy / FOLDER).is_dir():
            return fresh, 0.0
        state = load(policy / FOLDER)
        if state.extra["policy"] != weights_digest(policy):
            raise CorruptArtifact(f"the training state in {policy} is not that of the weights beside it")
        before = state.position
        start = replace(
            fresh,
            step=before.step if shared and before.schedule == fresh.schedule else 0,
            seed=before.seed if before.rows == fresh.rows else seed,
            cursor=before.cursor if before.rows == fresh.rows else 0,
        )
        if state.extra["adapter"] != self._adapter or not take_weights(self._exact(model, prompting), state.weights):
            return start, 0.0
        return start, take_moments(model, optimizer, state.optimizer)

    def _exact(self, model: Any, prompting: Prompting) -> dict[str, Any]:
        """The parameters that the policy's saved weights do not hold exactly."""
        if self.lora_rank is None:
            return {} if prompting.dtype == "float32" else dict(model.named_parameters())
        return {name: p for name, p in model.named_parameters() if p.requires_grad or ".base_layer." in name}

    def _run(self, session: Session, rows: Rows, tokenizer: Any, prompting: Prompting, scratch: Path) -> None:
        import torch
        from datasets import Dataset
        from transformers import PrinterCallback
        from trl import SFTConfig, SFTTrainer

        left, at, cuda = self.steps - session.done, session.position, torch.cuda.is_available()
        order = reading_order(len(rows), seed=at.seed, cursor=at.cursor, count=left * self.batch_size)
        micro = self.micro_batch_size or self.batch_size
        config = SFTConfig(
            output_dir=str(scratch / "trainer"),
            max_steps=left,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=self.batch_size // micro,
            max_grad_norm=self.max_grad_norm,
            gradient_checkpointing=self.gradient_checkpointing,
            use_cache=session.model.config.use_cache,  # it is written into the policy's own configuration
            bf16=cuda and prompting.dtype == "bfloat16",
            use_cpu=not cuda,
            dataloader_pin_memory=cuda,
            train_sampling_strategy="sequential",
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            log_level="error",
            seed=at.seed,
        )
        config._n_gpu = min(1, config.n_gpu)  # one process trains on one device, however many are in sight
        schedule = torch.optim.lr_scheduler.LambdaLR(session.optimizer, lambda update: self._schedule.ratio(at.step + update))
        trainer = SFTTrainer(
            model=session.model,
            args=config,
            train_dataset=Dataset.from_dict({"input_ids": rows.input_ids, "labels": rows.labels}).select(order),
            processing_class=tokenizer,
            optimizers=(session.optimizer, schedule),
            callbacks=[reporter(session)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()

    def _write(self, session: Session, tokenizer: Any, prompting: Prompting, out: Path) -> None:
        import torch

        weights = {name: p.detach().clone() for name, p in self._exact(session.model, prompting).items()}
        moved = moments(session.model, session.optimizer)
        model = session.model if self.lora_rank is None else session.model.merge_and_unload()
        checkpoint.save(model.to(getattr(torch, prompting.dtype)), tokenizer, prompting, out)
        (out / FOLDER).mkdir(exist_ok=True)
        extra = {"adapter": self._adapter, "policy": weights_digest(out)}
        save(TrainingState(position=session.position, optimizer=moved, weights=weights, extra=extra), out / FOLDER)
        (out / "curve.jsonl").write_bytes(b"".join(canonical(row) + b"\n" for row in session.curve))

    def _metrics(self, session: Session, rows: Rows, inherited: float) -> Metrics:
        first, last, read = session.curve[0], session.curve[-1], self.steps * self.batch_size
        order = reading_order(len(rows), seed=session.start.seed, cursor=session.start.cursor, count=read)
        return {
            "steps": self.steps,
            "examples": len(rows),
            "too_long": rows.too_long,
            "epochs": read / len(rows),
            "tokens": rows.targets(order),
            "loss_first": first["loss"],
            "loss_last": last["loss"],
            "learning_rate_first": first["learning_rate"],
            "learning_rate_last": last["learning_rate"],
            "grad_norm_last": last["grad_norm"],
            "inherited_step": session.start.step,
            "inherited_optimizer": inherited,
        }

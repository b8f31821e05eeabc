"""What the README says of an own model and own data, on a small Llama checkpoint made here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

GSM8K = Path(__file__).parents[2] / "../shared/data/gsm8k/train.jsonl.gz"
SMALL = "synthesis.samples=2 synthesis.max_new_tokens=16 synthesis.batch_size=16 evaluation.samples=2 evaluation.ks=[2] evaluation.s_values=[1]"
SIZES = "task.worked=0 task.prm=0 task.dev=4 task.test=6 rounds=1 on_empty=continue training.steps=2 training.batch_size=4 tracker=null"


def checkpoint(folder: Path) -> Path:
    """A Llama with random weights and a byte-level tokenizer, as `transformers` saves one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["How many clips did Natalia sell? #### 72"] * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = "{% for m in messages %}User: {{ m['content'] }}\nAssistant: {% endfor %}"
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=1024,
        eos_token_id=1,
        bos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def ratchet(root: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "ratchet.flows.cli", "run", *words, *SMALL.split(), *SIZES.split(), "--no-prefect", "--json"],
        env={**os.environ, "RATCHET_ROOT": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(not GSM8K.exists(), reason="needs the published GSM8K training file at ../shared/data/gsm8k")
def test_a_checkpoint_of_ones_own_takes_a_round_on_gsm8k(tmp_path: Path) -> None:
    import gzip

    few = tmp_path / "few.jsonl"
    with gzip.open(GSM8K, "rt") as lines:
        few.write_text("".join(line for _, line in zip(range(20), lines, strict=False)))
    own = ("policy=hf", f"policy.path={checkpoint(tmp_path / 'llama')}", "policy.dtype=float32", "policy.template=chat")

    done = ratchet(tmp_path / "runs", "recipe=online_rft", *own, "task=gsm8k", f"task.train_file={few}", "verification=math", "process_reward=null")

    assert 0 == done.returncode, done.stderr
    summary = json.loads(done.stdout)
    assert [0, 1] == [row["round"] for row in summary["rounds"]]
    sampled = [s for s in summary["stages"] if s["verb"] == "synthesize" and s["round"] == 1 and "evaluation" not in s["title"]]
    assert [(20 - 4 - 6) * 2] == [stage["rows"] for stage in sampled]


def test_a_checkpoint_of_ones_own_learns_from_any_json_lines(tmp_path: Path) -> None:
    problems = tmp_path / "mine.jsonl"
    problems.write_text("".join(json.dumps({"question": f"Say {n}.", "answer": str(n)}) + "\n" for n in range(20)))
    own = ("policy=hf", f"policy.path={checkpoint(tmp_path / 'llama')}", "policy.dtype=float32", "training.lora_rank=2")
    data = ("task=jsonl", f"task.train_file={problems}", "task.prompt_field=question", "task.reference_field=answer")

    # A selection below every reward, so that even a model with random weights has something to imitate.
    anything = ("verification=exact", "process_reward=null", "selection.threshold=-1", "selection.complete_only=false")
    done = ratchet(tmp_path / "runs", "recipe=iterative_rft", *own, *data, *anything)

    assert 0 == done.returncode, done.stderr
    trained = [s for s in json.loads(done.stdout)["stages"] if s["verb"] == "train"]
    assert [2] == [stage["metrics"]["steps"] for stage in trained]

"""Fine-tuning: what it learns, what it inherits, what it writes."""

import json
import random
from pathlib import Path

import pytest

from ratchet.components.policies import checkpoint
from ratchet.components.policies.tiny import Tiny
from ratchet.components.self_training.examples import encode, reading_order
from ratchet.components.self_training.sft import SFT
from ratchet.errors import CorruptArtifact, InputError, NothingSelected, RatchetError
from ratchet.identity import file_sha256
from ratchet.records import Demonstration

SUMS = [Demonstration(prompt=f"{a}+{b}=", completion=str(a + b)) for a in range(5) for b in range(5)]
OTHERS = [Demonstration(prompt=f"{a}-{b}=", completion=str(a - b)) for a in range(5) for b in range(5)]
QUICK = {"steps": 6, "batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 2, "final_lr_ratio": 0.1}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    Tiny(hidden_size=16, layers=1, heads=2, intermediate_size=32, max_positions=32).create([], out=folder, scratch=folder, seed=0)
    return folder


def trained(tmp_path, name, policy, *, examples=SUMS, seed=1, **fields):
    """A policy trained into `tmp_path/name`, its digests by file, and its metrics."""
    out = tmp_path / name
    out.mkdir()
    metrics = SFT(**{**QUICK, **fields}).train(policy, examples, out=out, scratch=tmp_path / f"{name}.scratch", seed=seed)
    return out, digests(out), metrics


def digests(folder):
    return {str(file.relative_to(folder)): file_sha256(file) for file in sorted(folder.rglob("*")) if file.is_file()}


def curve(folder):
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


def test_it_learns_the_completions(base, tmp_path):
    _, _, metrics = trained(tmp_path, "out", base, steps=60, batch_size=16)
    assert metrics["loss_last"] < 0.6 * metrics["loss_first"]


def test_equal_seeds_give_equal_bytes_and_other_seeds_others(base, tmp_path):
    _, first, _ = trained(tmp_path, "first", base)
    _, again, _ = trained(tmp_path, "again", base)
    _, other, _ = trained(tmp_path, "other", base, seed=2)
    assert first == again
    assert first["model.safetensors"] != other["model.safetensors"]


def test_the_loss_is_on_the_completion_and_its_end_only(base, tmp_path):
    import torch

    model, tokenizer, _ = checkpoint.load(base)
    ids = [*tokenizer("12+34=")["input_ids"], *tokenizer("46")["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        surprise = -model(torch.tensor([ids])).logits.log_softmax(-1)[0, range(len(ids) - 1), ids[1:]]
    _, _, metrics = trained(tmp_path, "out", base, examples=[Demonstration(prompt="12+34=", completion="46")], steps=1, batch_size=1)
    assert metrics["loss_first"] == pytest.approx(float(surprise[-3:].mean()), rel=1e-5)
    assert metrics["tokens"] == 3


def test_a_batch_is_the_mean_over_tokens_however_it_is_cut(base, tmp_path):
    uneven = [Demonstration(prompt="a", completion="b" * length) for length in (1, 9, 2, 20)]
    _, _, whole = trained(tmp_path, "whole", base, examples=uneven)
    _, _, cut = trained(tmp_path, "cut", base, examples=uneven, micro_batch_size=1)
    assert whole["loss_last"] == pytest.approx(cut["loss_last"], rel=1e-4)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"schedule": "constant"}, [0.5, 1, 1, 1, 1, 1]),
        ({"schedule": "linear", "final_lr_ratio": 0.0}, [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ({"schedule": "cosine", "final_lr_ratio": 0.0}, [0.5, 1, 1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_the_learning_rate_follows_its_schedule(base, tmp_path, fields, expected):
    out, _, metrics = trained(tmp_path, "out", base, learning_rate=1e-3, **fields)
    assert [row["learning_rate"] / 1e-3 for row in curve(out)] == pytest.approx(expected, abs=1e-6)
    assert [row["step"] for row in curve(out)] == [1, 2, 3, 4, 5, 6]
    assert metrics["learning_rate_last"] == curve(out)[-1]["learning_rate"]


@pytest.mark.parametrize("lora_rank", [None, 2])
def test_two_stages_that_inherit_the_training_state_are_one(base, tmp_path, lora_rank):
    shared = {"inherit": "training_state", "schedule_steps": 6, "lora_rank": lora_rank}
    whole, whole_digests, _ = trained(tmp_path, "whole", base, **shared)
    half, _, _ = trained(tmp_path, "half", base, steps=3, **shared)
    both, both_digests, metrics = trained(tmp_path, "both", half, steps=3, seed=9, **shared)
    assert curve(whole) == curve(half) + curve(both)
    assert {**whole_digests, "curve.jsonl": ""} == {**both_digests, "curve.jsonl": ""}
    assert (metrics["inherited_step"], metrics["inherited_optimizer"]) == (3, 1.0)


def test_a_bfloat16_policy_goes_on_from_its_float32_masters(tmp_path, base):
    import torch

    model, tokenizer, _ = checkpoint.load(base)
    halved = tmp_path / "halved"
    checkpoint.save(model.to(torch.bfloat16), tokenizer, checkpoint.Prompting(dtype="bfloat16"), halved)
    shared = {"inherit": "training_state", "schedule_steps": 6}
    _, whole, _ = trained(tmp_path, "whole", halved, **shared)
    half, _, _ = trained(tmp_path, "half", halved, steps=3, **shared)
    _, both, _ = trained(tmp_path, "both", half, steps=3, **shared)
    assert whole["model.safetensors"] == both["model.safetensors"]
    assert checkpoint.load(half)[0].dtype == torch.bfloat16


def test_new_demonstrations_are_read_from_their_start_under_the_same_schedule(base, tmp_path):
    shared = {"inherit": "training_state", "schedule_steps": 12}
    first, _, _ = trained(tmp_path, "first", base, **shared)
    second, _, metrics = trained(tmp_path, "second", first, examples=OTHERS, seed=2, **shared)
    state = json.loads((second / "training_state/state.json").read_text())["position"]
    assert (metrics["inherited_step"], metrics["inherited_optimizer"]) == (6, 1.0)
    assert (state["step"], state["cursor"], state["seed"]) == (12, 24, 2)
    assert curve(second)[0]["learning_rate"] < curve(first)[-1]["learning_rate"]


@pytest.mark.parametrize(
    ("second", "step", "optimizer"),
    [
        ({"inherit": "weights"}, 0, 0.0),
        ({"schedule_steps": 24}, 0, 1.0),
        ({"learning_rate": 1e-3}, 0, 1.0),
        ({"schedule_steps": None}, 0, 1.0),
        ({"lora_rank": 2}, 6, 0.0),
    ],
)
def test_what_was_not_inherited_is_said(base, tmp_path, second, step, optimizer):
    shared = {"inherit": "training_state", "schedule_steps": 12}
    first, _, _ = trained(tmp_path, "first", base, **shared)
    _, _, metrics = trained(tmp_path, "second", first, **{**shared, **second})
    assert (metrics["inherited_step"], metrics["inherited_optimizer"]) == (step, optimizer)


def test_a_policy_without_a_training_state_starts_the_schedule(base, tmp_path):
    _, _, metrics = trained(tmp_path, "out", base, inherit="training_state", schedule_steps=12)
    assert (metrics["inherited_step"], metrics["inherited_optimizer"]) == (0, 0.0)


def test_a_training_state_of_other_weights_is_refused(base, tmp_path):
    first, _, _ = trained(tmp_path, "first", base)
    (first / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes())
    with pytest.raises(CorruptArtifact, match="not that of the weights beside it"):
        trained(tmp_path, "second", first, inherit="training_state")


def test_an_adapter_is_merged_into_the_policy(base, tmp_path):
    out, files, _ = trained(tmp_path, "out", base, lora_rank=2, lora_targets=("q_proj", "v_proj"))
    before, after = (dict(checkpoint.load(folder)[0].named_parameters()) for folder in (base, out))
    changed = {name.split(".")[-2] for name in before if not before[name].equal(after[name])}
    assert changed == {"q_proj", "v_proj"}
    assert "adapter_model.safetensors" not in files


def test_an_adapter_on_layers_that_are_not_there_is_refused(base, tmp_path):
    with pytest.raises(InputError, match="q_proj"):
        trained(tmp_path, "out", base, lora_rank=2, lora_targets=("no_proj",))


def test_examples_that_are_too_long_are_counted_never_cut(base, tmp_path):
    _, _, metrics = trained(tmp_path, "out", base, examples=[*SUMS, Demonstration(prompt="a" * 20, completion="b" * 12)])
    assert (len(SUMS), 1) == (metrics["examples"], metrics["too_long"])
    with pytest.raises(RatchetError, match="all 25 demonstrations are longer than max_length=3"):
        trained(tmp_path, "none", base, max_length=3)


def test_fewer_examples_than_a_batch_are_read_again_and_again(base, tmp_path):
    _, _, metrics = trained(tmp_path, "out", base, examples=SUMS[:3], batch_size=8, steps=3)
    assert (3, 8.0) == (metrics["examples"], metrics["epochs"])


def test_no_examples_is_a_selection_that_kept_nothing(base, tmp_path):
    with pytest.raises(NothingSelected):
        trained(tmp_path, "out", base, examples=[])


def test_a_diverging_training_stops(base, tmp_path):
    with pytest.raises(RatchetError, match="diverged at step"):
        trained(tmp_path, "out", base, learning_rate=1e30, max_grad_norm=0.0, steps=20)


def test_it_says_nothing_and_leaves_the_process_as_it_was(base, tmp_path, capfd, monkeypatch):
    import torch
    from transformers import logging

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    before = torch.get_rng_state(), random.getstate(), logging.get_verbosity()
    trained(tmp_path, "out", base)
    assert before[1:] == (random.getstate(), logging.get_verbosity())
    assert before[0].equal(torch.get_rng_state())
    assert list(elsewhere.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_what_it_writes_is_a_policy_without_pickles(base, tmp_path):
    out, files, _ = trained(tmp_path, "out", base)
    assert {Path(name).suffix for name in files} <= {".json", ".jsonl", ".jinja", ".safetensors"}
    assert checkpoint.prompting_of(base) == checkpoint.prompting_of(out)
    assert str(tmp_path) not in "".join((out / name).read_text() for name in files if not name.endswith(".safetensors"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("schedule", "cosinus"),
        ("schedule_steps", 0),
        ("warmup_steps", -1),
        ("final_lr_ratio", 1.5),
        ("weight_decay", -0.1),
        ("max_grad_norm", -1.0),
        ("max_length", 0),
        ("inherit", "optimizer"),
        ("save_every", 0),
        ("micro_batch_size", 3),
        ("lora_rank", 0),
        ("lora_alpha", 0.0),
        ("lora_targets", "q_proj"),
    ],
)
def test_impossible_settings_are_refused(field, value):
    with pytest.raises(InputError, match=field):
        SFT(**{**QUICK, field: value})


def test_a_chat_policy_learns_in_its_own_template_and_keeps_it(base, tmp_path):
    model, tokenizer, _ = checkpoint.load(base)
    tokenizer.chat_template = "{% for m in messages %}<{{ m.content }}>{% endfor %}{% if add_generation_prompt %}:{% endif %}"
    chat = tmp_path / "chat"
    checkpoint.save(model, tokenizer, checkpoint.Prompting(template="chat"), chat)
    rows = encode([Demonstration(prompt="1+1", completion="2")], tokenizer, checkpoint.prompting_of(chat), max_length=32)
    assert "<1+1>:2<eos>" == tokenizer.decode(rows.input_ids[0])
    assert tokenizer("2<eos>")["input_ids"] == [label for label in rows.labels[0] if label != -100]
    out, _, _ = trained(tmp_path, "out", chat)
    assert tokenizer.chat_template == checkpoint.load(out)[1].chat_template


def test_a_prompt_keeps_its_tokens_where_its_last_would_merge_with_the_completion():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bpe = models.BPE(vocab={"<eos>": 0, "a": 1, "b": 2, "ab": 3}, merges=[("a", "b")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(bpe), eos_token="<eos>")
    rows = encode([Demonstration(prompt="a", completion="bab")], tokenizer, checkpoint.Prompting(), max_length=9)
    assert ([[1, 2, 3, 0]], [[-100, 2, 3, 0]]) == (rows.input_ids, rows.labels)


def test_gradient_checkpointing_saves_memory_and_changes_nothing_else(base, tmp_path):
    _, plain, _ = trained(tmp_path, "plain", base)
    _, saving, _ = trained(tmp_path, "saving", base, gradient_checkpointing=True)
    assert plain["model.safetensors"] == saving["model.safetensors"]
    assert plain["config.json"] == saving["config.json"]


@pytest.mark.parametrize(("cursor", "count"), [(0, 7), (3, 20), (5, 1), (12, 5)])
def test_an_order_read_in_parts_is_the_order(cursor, count):
    whole = reading_order(5, seed=1, cursor=0, count=40)
    assert whole[cursor : cursor + count] == reading_order(5, seed=1, cursor=cursor, count=count)
    assert [*range(5)] == sorted(whole[:5]) == sorted(whole[5:10])
    assert whole[:5] != whole[5:10]

"""The value model: what it reads, learns and writes."""

import json
import math

import pytest

from ratchet.components.policies import checkpoint
from ratchet.components.policies.tiny import Tiny
from ratchet.components.self_training.value import Reader, Steps, ValueHead, load_value
from ratchet.errors import InputError, NothingSelected
from ratchet.identity import file_sha256
from ratchet.records import Demonstration

QUICK = {"steps": 60, "batch_size": 16, "learning_rate": 3e-2, "held_out": 0.25}
GOOD = [Demonstration(prompt=f"{a}?", completion=f"{'+' * b}=\nyes\n", problem_id=str(a), label=1.0) for a in range(8) for b in range(1, 4)]
BAD = [Demonstration(prompt=f"{a}?", completion=f"{'+' * b}=\nno\n", problem_id=str(a), label=0.0) for a in range(8) for b in range(1, 4)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    Tiny(hidden_size=16, layers=1, heads=2, intermediate_size=32, max_positions=32).create([], out=folder, scratch=folder, seed=0)
    return folder


def trained(tmp_path, name, policy, *, examples=(*GOOD, *BAD), seed=1, **fields):
    out = tmp_path / name
    out.mkdir()
    metrics = ValueHead(**{**QUICK, **fields}).train(policy, examples, out=out, scratch=tmp_path / f"{name}.scratch", seed=seed)
    return out, {file.name: file_sha256(file) for file in sorted(out.rglob("*")) if file.is_file()}, metrics


def value_of(folder, prompt, completion):
    value, reader = load_value(folder)
    return [round(p, 5) for p in value([reader.read(prompt, completion)]).sigmoid().tolist()]


@pytest.mark.parametrize("fields", [{}, {"body_learning_rate": 3e-3}, {"loss": "mse", "learning_rate": 0.1}])
def test_it_learns_to_tell_good_from_bad_on_problems_it_did_not_see(base, tmp_path, fields):
    out, _, metrics = trained(tmp_path, "out", base, **{"steps": 200, **fields})
    assert metrics["loss_last"] < 0.5 * metrics["loss_first"]
    assert 12 == metrics["held_out"]
    assert metrics["held_out_auc"] > 0.95
    assert metrics["held_out_correlation"] > 0.8
    assert value_of(out, "3?", "+=\nyes")[-1] > 0.8 > 0.2 > value_of(out, "3?", "+=\nno")[-1]


RARE = [Demonstration(prompt="1?", completion="+=\nmaybe\n", problem_id=str(n), label=float(n == 0)) for n in range(10)]


@pytest.mark.parametrize(("balanced", "value"), [(False, 0.1), (True, 0.5)])
def test_what_cannot_be_told_is_worth_its_share_of_right_or_one_half_where_right_and_wrong_weigh_alike(base, tmp_path, balanced, value):
    out, _, _ = trained(tmp_path, "out", base, examples=RARE, balanced=balanced, batch_size=10, steps=200, held_out=0.0)
    assert value == pytest.approx(value_of(out, "1?", "+=\nmaybe")[-1], abs=0.02)


def test_balanced_with_labels_on_one_side_only_is_as_unbalanced(base, tmp_path):
    _, plain, _ = trained(tmp_path, "plain", base, examples=GOOD, steps=5)
    _, balanced, _ = trained(tmp_path, "balanced", base, examples=GOOD, steps=5, balanced=True)
    assert plain == balanced


@pytest.mark.parametrize("body_learning_rate", [0.0, 1e-3])
def test_a_prefix_is_worth_the_same_alone_and_inside_a_whole_completion(base, tmp_path, body_learning_rate):
    out, _, _ = trained(tmp_path, "out", base, body_learning_rate=body_learning_rate)
    whole = value_of(out, "1+2=", "1+2=3\n\n3+0=4\n#4")
    assert 3 == len(set(whole))
    assert whole[:2] == pytest.approx(value_of(out, "1+2=", "1+2=3\n\n3+0=4\n"), abs=1e-4)
    assert whole[:1] == pytest.approx(value_of(out, "1+2=", "1+2=3\n\n"), abs=1e-4)


def test_values_do_not_hang_on_what_shares_the_batch(base, tmp_path):
    out, _, _ = trained(tmp_path, "out", base)
    value, reader = load_value(out)
    short, long = reader.read("1?", "+=\nno"), reader.read("2?", "+=\n+++=\nyes\n!")
    together = value([short, long]).tolist()
    assert together == pytest.approx([*value([short]).tolist(), *value([long]).tolist()], abs=1e-5)


def test_the_doubt_is_the_least_likely_token_so_far_without_the_closing_one(base):
    import torch

    from ratchet.components.self_training.value import value_model

    model, tokenizer, prompting = checkpoint.load(base)
    steps = Reader(model, tokenizer, prompting, "\n").read("12", "ab\ncd")
    with torch.no_grad():
        logs = model(torch.tensor([steps.tokens])).logits.log_softmax(-1)[0, :-1].gather(-1, torch.tensor(steps.tokens[1:])[:, None])[:, 0]
        features = value_model(model).features([steps])
    expected = [float(logs[1:3].min()), float(logs[1:6].min())]
    assert expected == pytest.approx((features[:, -1] * 10).tolist(), abs=1e-4)
    assert [math.exp(log) for log in expected] == pytest.approx(features[:, -2].tolist(), abs=1e-5)


def test_what_is_past_the_models_positions_is_cut(base):
    model, tokenizer, prompting = checkpoint.load(base)
    read = Reader(model, tokenizer, prompting, "\n").read("p" * 20, "a\n" + "b" * 40 + "\nc")
    assert (32, 20, [21, 31, 31]) == (len(read.tokens), read.start, read.ends)
    assert Steps(read.tokens[:20], 20, []) == Reader(model, tokenizer, prompting, "\n").read("p" * 20, " ")


@pytest.mark.parametrize("body_learning_rate", [0.0, 1e-3])
def test_equal_seeds_give_equal_bytes_and_a_second_attempt_too(base, tmp_path, body_learning_rate):
    fields = {"body_learning_rate": body_learning_rate, "steps": 20, "save_every": 8}
    _, first, metrics = trained(tmp_path, "first", base, **fields)
    _, again, _ = trained(tmp_path, "again", base, **fields)
    (tmp_path / "again.scratch").rename(tmp_path / "continued.scratch")  # with the checkpoints of steps 8 and 16
    _, continued, measured = trained(tmp_path, "continued", base, **fields)
    assert first == again == continued
    assert metrics == measured


def test_a_frozen_body_is_the_policys(base, tmp_path):
    _, files, _ = trained(tmp_path, "out", base)
    assert file_sha256(base / "model.safetensors") == files["model.safetensors"]
    assert {"value_head.safetensors", "value_head.json", "curve.jsonl", "policy.json"} <= set(files)


def test_the_separator_goes_with_the_model(base, tmp_path):
    out, _, _ = trained(tmp_path, "out", base, separator="; ")
    assert {"separator": "; "} == json.loads((out / "value_head.json").read_text())
    assert 2 == len(value_of(out, "1?", "a; b"))


def test_measures_that_are_undefined_are_absent(base, tmp_path):
    _, _, alike = trained(tmp_path, "alike", base, examples=GOOD, steps=2)
    _, _, none = trained(tmp_path, "none", base, held_out=0.0, steps=2)
    assert {"held_out", "held_out_loss"} == {name for name in alike if name.startswith("held_out")}
    assert (0, len(GOOD) + len(BAD)) == (none["held_out"], none["examples"])


def test_texts_without_a_label_or_without_a_step_are_refused(base, tmp_path):
    with pytest.raises(InputError, match="no label"):
        trained(tmp_path, "unlabelled", base, examples=[Demonstration(prompt="1", completion="2")])
    with pytest.raises(NothingSelected):
        trained(tmp_path, "blank", base, examples=[Demonstration(prompt="1", completion=" ", label=1.0)])


def test_a_policy_is_no_value_model(base):
    with pytest.raises(InputError, match="holds no value model"):
        load_value(base)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("body_learning_rate", -1.0),
        ("warmup_steps", -1),
        ("final_lr_ratio", 2.0),
        ("weight_decay", -1.0),
        ("max_grad_norm", -1.0),
        ("loss", "hinge"),
        ("separator", ""),
        ("held_out", 1.0),
        ("save_every", 0),
    ],
)
def test_impossible_settings_are_refused(field, value):
    with pytest.raises(InputError, match=field):
        ValueHead(**{**QUICK, field: value})

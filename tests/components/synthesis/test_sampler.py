"""Sampling rollouts, on policies whose next token is known."""

import math
import signal
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from ratchet import interruption
from ratchet.components.policies.checkpoint import Prompting, save
from ratchet.components.policies.tiny import SPECIAL, Tiny, character_tokenizer
from ratchet.components.synthesis.sampler import Sampler
from ratchet.errors import InputError
from ratchet.identity import derive_seed, describe, identity_of
from ratchet.records import Problem

ALPHABET = "abcdefgh"
END = 2


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A policy with random weights."""
    folder = tmp_path_factory.mktemp("noise")
    Tiny(hidden_size=16, layers=1, heads=2, kv_heads=1, intermediate_size=32).create([], out=folder / "p", scratch=folder, seed=1)
    return folder / "p"


def markov(folder, odds):
    """A policy whose next token depends on the last alone: `odds[last][next]`; positions and attention do nothing."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    size = len(SPECIAL) + len(ALPHABET)
    config = LlamaConfig(
        vocab_size=size, hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4, max_position_embeddings=64,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=END, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    ids = {"$": END, **{letter: len(SPECIAL) + index for index, letter in enumerate(ALPHABET)}}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        model.model.embed_tokens.weight[:, :size] = torch.eye(size)
        model.lm_head.weight.fill_(-100.0)
        model.lm_head.weight[:, size:] = 0.0
        for last, row in odds.items():
            for following, chance in row.items():  # the final norm brings a one-hot vector to length sqrt(16)
                model.lm_head.weight[ids[following], ids[last]] = math.log(chance) / 4.0
    save(model, character_tokenizer(ALPHABET, 64), Prompting(), folder)
    return folder


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """a → b → c → end; d repeats itself; e → e or end, even odds; f → a quarter each of f, g, h and end; g → end, h → end."""
    odds = {
        "a": {"b": 1.0}, "b": {"c": 1.0}, "c": {"$": 1.0}, "d": {"d": 1.0}, "e": {"e": 0.5, "$": 0.5},
        "f": {"f": 0.1, "g": 0.2, "h": 0.3, "$": 0.4}, "g": {"$": 1.0}, "h": {"$": 1.0},
    }  # fmt: skip
    return markov(tmp_path_factory.mktemp("chain") / "p", odds)


def problems(*prompts):
    return [Problem(id=f"p{index}", prompt=prompt, reference="r") for index, prompt in enumerate(prompts)]


def sample(policy, given, seed=0, scratch=None, **fields):
    sampler = Sampler(**{"samples": 1, "temperature": 0.0, "max_new_tokens": 8, **fields})
    with tempfile.TemporaryDirectory() as fresh:
        return list(sampler.synthesize(policy, given, seed=seed, scratch=scratch or Path(fresh)))


@pytest.mark.parametrize(
    ("prompt", "completion", "tokens", "finished"),
    [("a", "bc", 3, True), ("b", "c", 2, True), ("gggc", "", 1, True), ("d", "dddddddd", 8, False), ("aaad", "dddddddd", 8, False)],
)
def test_a_completion_ends_at_its_end_token_or_at_the_limit(prompt, completion, tokens, finished, chain):
    (rollout,) = sample(chain, problems(prompt))
    assert (completion, tokens, finished) == (rollout.completion, rollout.tokens, rollout.finished)


def test_padding_in_a_batch_changes_nothing(chain):
    prompts = ("a", "gggggggc", "d", "hb", "hha")
    together = sample(chain, problems(*prompts))
    assert ["bc", "", "dddddddd", "c", "bc"] == [rollout.completion for rollout in together]
    assert [3, 1, 8, 2, 3] == [rollout.tokens for rollout in together]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 64])
def test_rollouts_come_problem_by_problem_in_the_order_given(batch_size, noise):
    given = problems("aaaa", "b", "ccccccc", "dd", "a")
    rollouts = sample(noise, given, samples=3, temperature=1.0, batch_size=batch_size)
    assert [(problem.id, index) for problem in given for index in range(3)] == [(r.problem_id, r.sample) for r in rollouts]
    assert all((rollout.prompt, rollout.reference) == (given[int(rollout.problem_id[1:])].prompt, "r") for rollout in rollouts)


def test_equal_seeds_draw_equal_rollouts_and_others_differ(noise):
    one, two, other = (sample(noise, problems("ab", "c"), seed=seed, samples=4, temperature=1.0) for seed in (5, 5, 6))
    assert one == two
    assert one != other
    assert 8 == len({rollout.completion for rollout in one})


def test_batches_and_samples_of_one_seed_do_not_repeat_each_other(noise):
    rollouts = sample(noise, problems("a", "a", "a"), samples=4, temperature=1.0, batch_size=2)
    assert 12 == len({rollout.completion for rollout in rollouts})


def test_an_attempt_after_a_killed_one_draws_only_the_batches_that_are_missing(noise, tmp_path, monkeypatch):
    given, fields = problems(*"abcdef"), {"samples": 2, "temperature": 1.0, "batch_size": 4}
    whole = sample(noise, given, **fields)
    sampler = Sampler(max_new_tokens=8, **fields)
    first = sampler.synthesize(noise, given, seed=0, scratch=tmp_path)
    assert whole[:5] == [next(first) for _ in range(5)], "killed in the second batch of three"
    drawn, draw = [], Sampler._draw
    monkeypatch.setattr(Sampler, "_draw", lambda self, *given: drawn.append(given[-1]) or draw(self, *given))
    (tmp_path / "batch-000000.json").write_text("[{", encoding="utf-8")  # torn by a power cut
    assert whole == list(sampler.synthesize(noise, given, seed=0, scratch=tmp_path))
    assert [derive_seed(0, 0), derive_seed(0, 2)] == drawn


def test_a_wish_to_stop_is_granted_after_a_batch(noise, tmp_path):
    interruption._note(signal.SIGUSR2, None)
    try:
        with pytest.raises(interruption.Interrupted, match="SIGUSR2"):
            sample(noise, problems(*"abcd"), scratch=tmp_path, samples=2, temperature=1.0, batch_size=4)
    finally:
        interruption.forget()
    assert ["batch-000000.json"] == [path.name for path in tmp_path.iterdir()]


def test_sampling_leaves_the_global_random_state_alone(noise, tmp_path):
    import torch

    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    stream = Sampler(samples=2, temperature=1.0, max_new_tokens=4, batch_size=2).synthesize(noise, problems("a", "b"), seed=0, scratch=tmp_path)
    next(stream)
    assert expected.tolist() == torch.rand(3).tolist()


def test_a_hint_is_shown_but_not_recorded(chain):
    (rollout,) = sample(chain, [Problem(id="p", prompt="d", shown="a")])
    assert ("d", "bc") == (rollout.prompt, rollout.completion)


@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.4), (0.5, 0.16 / 0.30), (2.0, 0.4**0.5 / (0.1**0.5 + 0.2**0.5 + 0.3**0.5 + 0.4**0.5))])
def test_temperature_sharpens_and_flattens_what_is_drawn(temperature, share, chain):
    rollouts = sample(chain, problems("f"), samples=2000, temperature=temperature, max_new_tokens=1, batch_size=2000)
    counts = Counter(rollout.completion for rollout in rollouts)
    assert share == pytest.approx(counts[""] / 2000, abs=4 * math.sqrt(share * (1 - share) / 2000))


def test_top_p_leaves_the_unlikely_out(chain):
    rollouts = sample(chain, problems("f"), samples=500, temperature=1.0, top_p=0.65, max_new_tokens=1, batch_size=500)
    assert {"", "h"} == {rollout.completion for rollout in rollouts}
    assert -(4 / 7 * math.log(4 / 7) + 3 / 7 * math.log(3 / 7)) == pytest.approx(rollouts[0].entropy, abs=1e-4)


def test_entropy_is_the_mean_over_the_tokens_sampled_and_no_padding(chain):
    rollouts = sample(chain, problems("e", "a"), samples=50, temperature=1.0)
    assert {3} == {rollout.tokens for rollout in rollouts if rollout.problem_id == "p1"}
    assert [0.0] * 50 == [rollout.entropy for rollout in rollouts if rollout.problem_id == "p1"]
    lengths = {rollout.tokens for rollout in rollouts if rollout.problem_id == "p0"}
    assert {1, 2, 3} <= lengths
    assert all(math.log(2) == pytest.approx(rollout.entropy, abs=1e-4) for rollout in rollouts if rollout.problem_id == "p0")


def test_entropy_is_that_of_the_tempered_distribution(chain):
    (hot, *_) = sample(chain, problems("f"), samples=2, temperature=0.5, max_new_tokens=1)
    odds = [square / 0.30 for square in (0.01, 0.04, 0.09, 0.16)]
    assert -sum(p * math.log(p) for p in odds) == pytest.approx(hot.entropy, abs=1e-4)


def test_greedy_sampling_has_no_entropy_and_no_seed(noise):
    first, second = (sample(noise, problems("ab"), seed=seed) for seed in (1, 2))
    assert first == second
    assert 0.0 == first[0].entropy
    assert [False, True] == [Sampler(samples=1, temperature=t, max_new_tokens=1).seeded for t in (0, 0.5)]


@pytest.mark.parametrize(("stop", "completion", "tokens"), [("c", "b", 2), ("bc", "", 2), ("b", "", 1), ("x", "bc", 3)])
def test_a_stop_string_ends_a_completion_and_is_cut_off(stop, completion, tokens, chain):
    (rollout,) = sample(chain, problems("a"), stop=(stop,))
    assert (completion, tokens, True) == (rollout.completion, rollout.tokens, rollout.finished)


def test_a_stop_string_counts_no_padding_and_does_not_look_into_the_prompt(chain):
    first, second = sample(chain, problems("a", "ddd"), stop=("b", "dddd"))
    assert ("", 1, True) == (first.completion, first.tokens, first.finished)
    assert ("", 4, True) == (second.completion, second.tokens, second.finished)


def test_the_sampling_defaults_of_a_policy_folder_are_not_used(chain, tmp_path):
    import json
    import shutil

    other = shutil.copytree(chain, tmp_path / "p")
    defaults = json.loads((other / "generation_config.json").read_text())
    forced = {"do_sample": True, "top_k": 1, "repetition_penalty": 50.0, "temperature": 0.01, "max_length": 3}
    (other / "generation_config.json").write_text(json.dumps({**defaults, **forced}))
    fields = {"samples": 20, "temperature": 1.0}
    assert sample(chain, problems("f", "d"), **fields) == sample(other, problems("f", "d"), **fields)


def test_every_end_token_of_a_policy_ends_a_completion(chain, tmp_path):
    import json
    import shutil

    other = shutil.copytree(chain, tmp_path / "p")
    defaults = json.loads((other / "generation_config.json").read_text())
    (other / "generation_config.json").write_text(json.dumps({**defaults, "eos_token_id": [END, len(SPECIAL) + ALPHABET.index("c")]}))
    (rollout,) = sample(other, problems("a"))
    assert (2, True) == (rollout.tokens, rollout.finished)


def test_a_policy_that_likes_padding_still_writes_text(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    folder = markov(tmp_path / "p", {"a": {"b": 1.0}, "b": {"$": 1.0}})
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight[0, :] = 50.0
    model.save_pretrained(folder)
    (rollout,) = sample(folder, problems("a"))
    assert ("b", 2) == (rollout.completion, rollout.tokens)


def test_a_leading_space_survives_a_tokenizer_that_marks_words(tmp_path, chain):
    import shutil

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<unk>": 1, "<eos>": 2, "▁a": 3, "▁b": 4, "▁c": 5, **{f"▁{letter}": 6 + i for i, letter in enumerate("defgh")}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    folder = shutil.copytree(chain, tmp_path / "p")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>").save_pretrained(folder)
    (rollout,) = sample(folder, problems("a"))
    assert " b c" == rollout.completion


def test_a_prompt_that_leaves_no_room_is_named(chain):
    with pytest.raises(InputError, match="p1") as caught:
        sample(chain, problems("a", "a" * 60))
    assert "64 tokens" in str(caught.value)


def test_an_empty_prompt_is_named(chain):
    with pytest.raises(InputError, match="p0 has an empty prompt"):
        sample(chain, problems(""))


def test_no_problems_give_no_rollouts(chain):
    assert [] == sample(chain, [])


@pytest.mark.parametrize(
    "fields",
    [
        {"samples": 0}, {"samples": 2}, {"temperature": -0.1}, {"temperature": float("nan")}, {"temperature": float("inf")},
        {"top_p": 0.0}, {"top_p": 1.1}, {"max_new_tokens": 0}, {"batch_size": 0}, {"rows_per_shard": 0}, {"stop": ("",)},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_sampled_with_are_refused(fields):
    with pytest.raises(InputError):
        Sampler(**{"samples": 1, "temperature": 0.0, "max_new_tokens": 4, **fields})


def test_the_fields_that_change_what_is_drawn_are_the_identity():
    base = {"samples": 4, "temperature": 1.0, "max_new_tokens": 8}
    identities = [identity_of(describe(Sampler(**{**base, **change}))) for change in ({}, {"temperature": 1}, {"batch_size": 8}, {"top_p": 0.9})]
    assert identities[0] == identities[1]
    assert 3 == len({str(identity) for identity in identities})

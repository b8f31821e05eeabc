"""The policy that is trained from nothing."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from ratchet.components.policies.checkpoint import load, prompting_of
from ratchet.components.policies.tiny import Tiny, character_tokenizer
from ratchet.errors import InputError
from ratchet.identity import construct, describe, identity_of, source_sha256
from ratchet.records import Demonstration, Problem

SMALL = {"hidden_size": 16, "layers": 1, "heads": 2, "kv_heads": 1, "intermediate_size": 32}
WORKED = [Problem(id="a", prompt="1+2=", solution="3"), Problem(id="b", prompt="4+4=", shown="[8]4+4=", solution="8")]


@dataclass(frozen=True, kw_only=True)
class Recorder:
    """A trainer that writes down what it was given in place of a policy."""

    def train(self, policy, examples, *, out, scratch, seed):
        out.mkdir(parents=True)
        lines = [f"{example.prompt}|{example.completion}|{example.problem_id}" for example in examples]
        (out / "given.txt").write_text("\n".join([str(prompting_of(policy).template), str(seed), *lines]))
        return {"loss_last": 0.5}


def create(policy, folder, examples=WORKED, seed=7):
    return policy.create(examples, out=folder / "out", scratch=folder / "scratch", seed=seed)


@pytest.mark.parametrize("text", ["1+2=3", "  two  spaces ", "\n\nlines\n", "a . b , c ' s n't", "tab-less!", " "])
def test_every_text_over_the_alphabet_comes_back_as_it_was(text, tmp_path):
    create(Tiny(**SMALL), tmp_path)
    _, tokenizer, _ = load(tmp_path / "out")
    ids = tokenizer(text)["input_ids"]
    assert len(text) == len(ids)
    assert text == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_character_outside_the_alphabet_reads_as_unknown():
    tokenizer = character_tokenizer("ab", 16)
    assert [3, tokenizer.unk_token_id, 4] == tokenizer("aéb")["input_ids"]


def test_equal_seeds_give_equal_folders_and_another_seed_gives_another(tmp_path):
    for name, seed in (("one", 7), ("two", 7), ("other", 8)):
        create(Tiny(**SMALL), tmp_path / name, seed=seed)
    one, two, other = (source_sha256(tmp_path / name / "out") for name in ("one", "two", "other"))
    assert one == two
    assert one != other


def test_creating_a_policy_leaves_the_global_random_state_alone(tmp_path):
    import torch

    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    create(Tiny(**SMALL), tmp_path)
    assert expected.tolist() == torch.rand(3).tolist()


def test_the_default_is_as_small_as_promised(tmp_path):
    assert 100_000 < create(Tiny(), tmp_path)["parameters"] < 200_000


def test_the_weights_are_safetensors_of_the_sizes_asked_for(tmp_path):
    create(Tiny(**SMALL, alphabet="0123456789+=[]", max_positions=40), tmp_path)
    model, tokenizer, prompting = load(tmp_path / "out")
    config = model.config
    assert {".safetensors"} == {file.suffix for file in (tmp_path / "out").iterdir() if "model" in file.name}
    assert (1, 16, 17, 40) == (config.num_hidden_layers, config.hidden_size, config.vocab_size, config.max_position_embeddings)
    assert (2, 0, "plain") == (tokenizer.eos_token_id, tokenizer.pad_token_id, prompting.template)
    assert config.eos_token_id == model.generation_config.eos_token_id == 2


def test_the_warm_up_is_given_the_shown_prompts_and_the_solutions(tmp_path):
    metrics = create(Tiny(**SMALL, warmup=Recorder()), tmp_path)
    assert ["plain", "7", "1+2=|3|a", "[8]4+4=|8|b"] == (tmp_path / "out/given.txt").read_text().split("\n")
    assert {"loss_last", "parameters"} == set(metrics)


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (Problem(id="p7", prompt="1+2=é", solution="3"), "é"),
        (Problem(id="p7", prompt="1+2=", solution="3ü"), "ü"),
        (Problem(id="p7", prompt="1" * 255, solution="3"), "max_positions"),
        (Problem(id="p7", prompt="1+2="), "worked solution"),
    ],
)
def test_a_problem_that_cannot_be_learnt_is_named(problem, said, tmp_path):
    with pytest.raises(InputError, match="p7") as caught:
        create(Tiny(**SMALL, warmup=Recorder()), tmp_path, [*WORKED, problem])
    assert said in str(caught.value)


def test_a_warm_up_without_examples_is_refused(tmp_path):
    with pytest.raises(InputError, match="needs worked problems"):
        create(Tiny(**SMALL, warmup=Recorder()), tmp_path, [])


@pytest.mark.parametrize(
    "fields", [{"layers": 0}, {"heads": 3}, {"hidden_size": 20, "heads": 4}, {"kv_heads": 3}, {"alphabet": "aba"}, {"alphabet": ""}]
)
def test_sizes_that_fit_no_model_are_refused(fields):
    with pytest.raises(InputError):
        Tiny(**fields)


def test_the_policy_and_its_warm_up_are_their_description():
    policy = Tiny(**SMALL, warmup=Recorder())
    assert policy == construct(describe(policy))
    assert identity_of(describe(policy)) != identity_of(describe(Tiny(**SMALL)))


def test_a_real_warm_up_learns_and_a_killed_one_can_be_done_again(tmp_path: Path):
    from ratchet.components.self_training.sft import SFT

    policy = Tiny(**SMALL, warmup=SFT(steps=30, batch_size=4, learning_rate=1e-2))
    first = create(policy, tmp_path / "one")
    create(policy, tmp_path / "two")
    assert first["loss_last"] < first["loss_first"] / 2
    assert source_sha256(tmp_path / "one/out") == source_sha256(tmp_path / "two/out")


def test_demonstrations_keep_the_order_of_the_problems():
    from ratchet.components.policies.worked import demonstrations_of

    expected = [Demonstration(prompt="1+2=", completion="3", problem_id="a"), Demonstration(prompt="[8]4+4=", completion="8", problem_id="b")]
    assert expected == demonstrations_of(WORKED)

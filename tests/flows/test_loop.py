"""The loop and its verbs, on stages that are asked and never made."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from ratchet.artifacts import Artifact, Grid
from ratchet.errors import InputError, NothingSelected
from ratchet.flows.b_star import b_star
from ratchet.flows.iterative_rft import iterative_rft
from ratchet.flows.loop import Journal, Recipe, Stages, base_policy, recipe, self_train
from ratchet.flows.online_rft import online_rft
from ratchet.flows.rest_em import rest_em
from ratchet.flows.star import star
from ratchet.rounds import Round, RoundState
from ratchet.stages import Stage
from tests.toys.parts import Coin, Exam, Judge, Keep, Practice, Sums, Thermostat, Toss, Unsolved

KINDS = {"propose": "problems", "create": "policy", "train": "policy", "select": "demonstrations", "evaluate": "report", "adjust": "knobs"}
PARTS = {
    "task": Sums(),
    "policy": Coin(),
    "synthesis": Toss(),
    "verification": Judge(),
    "selection": Keep(),
    "hints": Unsolved(),
    "training": Practice(),
    "evaluation": Exam(),
    "control": Thermostat(),
}


class Asked:
    """Makes nothing: remembers what was asked, and gives every stage an artifact of five rows, or none in the rounds named."""

    def __init__(self, empty: Sequence[int] = ()) -> None:
        self.empty = empty
        self.batches: list[list[Stage]] = []

    @property
    def stages(self) -> list[Stage]:
        return [stage for batch in self.batches for stage in batch]

    def of(self, verb: str, round: int | None = None) -> list[Stage]:
        return [stage for stage in self.stages if stage.verb == verb and round in (None, stage.round)]

    def __call__(self, stages: Sequence[Stage]) -> list[Artifact]:
        self.batches.append(list(stages))
        return [self.artifact(stage) for stage in stages]

    def artifact(self, stage: Stage) -> Artifact:
        rows = 0 if stage.verb == "select" and stage.round in self.empty else 5
        metrics = {"pass_at_1": stage.round / 10} if stage.verb == "evaluate" else {}
        return Artifact(identity=stage.identity, digest=stage.identity, kind=KINDS.get(stage.verb, "rollouts"), rows=rows, metrics=metrics)

    def do(self, round: int = 1, parts: Mapping[str, Any] = PARTS, seed: int = 0) -> Stages:
        return Stages(parts, self, lambda artifact: {"temperature": 0.5, "threshold": 0.25}, seed, round)


def artifact(name: str, rows: int = 5) -> Artifact:
    return Artifact(identity=name, digest=name, kind="policy", rows=rows)


def test_a_verb_is_done_by_the_part_of_its_group_with_fields_overridden() -> None:
    asked = Asked()
    asked.do().synthesize(artifact("p"), artifact("q"), samples=9)
    (stage,) = asked.stages
    assert ("synthesize", Toss(samples=9)) == (stage.verb, stage.component)
    assert {"policy": artifact("p"), "problems": artifact("q")} == stage.inputs


def test_a_field_that_the_part_has_not_is_refused_with_those_it_has() -> None:
    with pytest.raises(InputError, match=r"(?s)Toss, which does `synthesize`, has no field \['heat'\].*temperature"):
        Asked().do().synthesize(artifact("p"), artifact("q"), heat=1)


def test_a_group_that_the_config_has_not_is_asked_for() -> None:
    with pytest.raises(InputError, match=r"(?s)needs `control`, and the config has none.*control="):
        Asked().do(parts={**PARTS, "control": None}).part("control")
    with pytest.raises(InputError, match=r"needs `verification.outcome`"):
        Asked().do().part("verification.outcome")


def test_a_part_may_be_named_deep_in_the_config() -> None:
    do = Asked().do(parts={"process_reward": {"training": Practice(gain=0.5)}})
    assert Practice(gain=0.5) == do.part("process_reward.training")
    assert (True, False) == (do.has("process_reward"), do.has("control"))


def seeds(asked: Asked) -> list[int | None]:
    return [stage.seed for stage in asked.stages]


def test_every_draw_of_a_run_has_a_seed_of_its_own() -> None:
    asked = Asked()
    for round, seed in ((1, 0), (2, 0), (1, 7)):
        do = asked.do(round, seed=seed)
        for _ in range(2):
            do.synthesize(artifact("p"), artifact("q"))
        do.train(artifact("p"), artifact("d"))
    assert 9 == len({*seeds(asked)} - {None})
    assert [0, 1, 0] == [stage.ordinal for stage in asked.stages[:3]]


def test_what_draws_nothing_has_no_seed_and_is_shared() -> None:
    asked = Asked()
    for round in (1, 2):
        do = asked.do(round)
        do.synthesize(artifact("p"), artifact("q"), temperature=0.0)
        do.verify(artifact("r"))
        do.propose(split="test")
    assert {None} == set(seeds(asked))
    assert 3 == len({stage.identity for stage in asked.stages})


def test_a_grid_is_one_stage_per_value_dispatched_together() -> None:
    asked = Asked()
    do = asked.do()
    grid = do.verify(do.synthesize(artifact("p"), artifact("q"), over={"temperature": (0.50, 1.0)}))
    assert isinstance(grid, Grid)
    assert ("temperature", ["0.5", "1"]) == (grid.field, list(grid.cells))
    assert [2, 2] == [len(batch) for batch in asked.batches]
    assert ["temperature=0.5", "temperature=1"] == [stage.cell for stage in asked.batches[0]]
    assert [Toss(temperature=0.5), Toss(temperature=1.0)] == [stage.component for stage in asked.batches[0]]
    assert [{"rollouts": asked.artifact(stage)} for stage in asked.batches[0]] == [stage.inputs for stage in asked.batches[1]]


def test_a_controller_sets_knobs() -> None:
    asked = Asked()
    do = asked.do()
    knobs = do.adjust(do.verify(do.synthesize(artifact("p"), artifact("q"), over={"temperature": (0.5, 1.0)})), artifact("q"))
    assert (0.5, 0.25) == (knobs.temperature, knobs.threshold)


def test_an_empty_selection_ends_the_round_unless_it_may_be_empty() -> None:
    asked = Asked(empty=[1])
    with pytest.raises(NothingSelected, match="round 1: nothing was selected of 10 rollouts"):
        asked.do(1).select(artifact("a"), artifact("b"))
    assert 0 == asked.do(1).select(artifact("a"), allow_empty=True).rows
    assert 5 == asked.do(2).select(artifact("a")).rows


@dataclass(frozen=True, kw_only=True)
class Asks(Judge):
    roles: tuple[str, ...] = field(default=("prm",), init=False)


def test_a_role_that_a_part_reads_is_an_input_of_its_stage() -> None:
    asked = Asked()
    do = asked.do(parts={**PARTS, "verification": Asks()})
    assert do.needs("prm")
    with pytest.raises(InputError, match="Asks reads the role prm, which nobody plays yet"):
        do.verify(artifact("r"))
    do.taking(prm=artifact("judge"), other=artifact("x")).verify(artifact("r"))
    assert {"rollouts": artifact("r"), "role:prm": artifact("judge")} == asked.stages[-1].inputs


class Told(Journal):
    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def decided(self, round: int, knobs: Mapping[str, float]) -> None:
        self.events.append(("decided", round, dict(knobs)))

    def advanced(self, state: RoundState, report: Artifact, *, note: str = "") -> None:
        self.events.append(("advanced", state.round, state.metrics["pass_at_1"], note))

    def stopped(self, reason: str) -> None:
        self.events.append(("stopped", reason.partition(";")[0]))


def go(
    of: Recipe, *, rounds: int = 2, on_empty: str = "stop", empty: Sequence[int] = (), parts: Mapping[str, Any] = PARTS
) -> tuple[Asked, Told, RoundState]:
    asked, told = Asked(empty), Told()
    state = self_train(of, lambda round: asked.do(round, parts), rounds=rounds, on_empty=on_empty, journal=told)
    return asked, told, state


@pytest.mark.parametrize(
    ("of", "trains_from", "inherits"),
    [
        (star, "base", "weights"),
        (rest_em, "base", "weights"),
        (iterative_rft, "the last policy", "weights"),
        (online_rft, "the last policy", "training_state"),
        (b_star, "the last policy", "training_state"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_recipes_differ_in_whose_weights_they_train_and_what_comes_along(of: Recipe, trains_from: str, inherits: str) -> None:
    asked, _, state = go(of)
    first, second = asked.of("train")
    base, after_one = asked.artifact(asked.of("create")[0]), asked.artifact(first)
    assert base == first.inputs["policy"] == state.roles["base"]
    assert (base if trains_from == "base" else after_one) == second.inputs["policy"]
    assert {inherits} == {stage.component.inherit for stage in (first, second)}
    assert state.policy == asked.artifact(second)
    sampled_by = [stage.inputs["policy"] for stage in asked.of("synthesize", 2) if not stage.purpose]
    assert {after_one} == set(sampled_by), "every recipe samples from the last policy"


def test_b_star_searches_on_dev_problems_and_improves_on_train_problems_with_what_it_found() -> None:
    asked, told, _ = go(b_star, rounds=1)
    train, dev = asked.of("propose")[:2]
    *probes, draw = (stage for stage in asked.of("synthesize", 1) if not stage.purpose)
    assert {asked.artifact(dev)} == {stage.inputs["problems"] for stage in probes}
    assert (asked.artifact(train), 0.5) == (draw.inputs["problems"], draw.component.temperature)
    (chosen,) = asked.of("select")
    assert 0.25 == chosen.component.threshold
    assert ("decided", 1, {"temperature": 0.5, "threshold": 0.25}) in told.events


def test_star_hints_at_what_was_not_solved_and_trains_on_both() -> None:
    asked, _, _ = go(star, rounds=1)
    hinted, chosen = asked.of("select")
    assert Unsolved() == hinted.component
    assert asked.artifact(hinted) in [stage.inputs["problems"] for stage in asked.of("synthesize", 1)]
    assert 2 == len(chosen.inputs)


def test_star_asks_for_no_rationales_when_everything_was_solved() -> None:
    asked = Asked(empty=[1])
    with pytest.raises(NothingSelected):
        star(
            Round(index=1, state=RoundState(roles={"policy": artifact("p"), "base": artifact("p")}), problems=artifact("q"), dev=artifact("d")),
            asked.do(1),
        )
    assert 1 == len(asked.of("synthesize"))


def test_every_round_is_measured_on_test_problems_and_so_is_the_start() -> None:
    asked, told, state = go(rest_em)
    assert [("advanced", 0, 0.0, ""), ("advanced", 1, 0.1, ""), ("advanced", 2, 0.2, "")] == told.events
    assert [0, 1, 2] == [stage.round for stage in asked.of("evaluate")]
    assert {"evaluation"} == {stage.purpose for stage in asked.of("evaluate")}
    assert [0.0, 0.1] == [past.metrics["pass_at_1"] for past in state.history]
    assert 0.2 == state.metrics["pass_at_1"]


def test_an_evaluation_without_samples_is_greedy_only() -> None:
    asked, _, _ = go(rest_em, rounds=0, parts={**PARTS, "evaluation": Exam(samples=0)})
    assert [(1, 0.0, None)] == [(stage.component.samples, stage.component.temperature, stage.seed) for stage in asked.of("synthesize")]
    assert ["greedy"] == list(asked.of("evaluate")[0].inputs)


def test_a_round_that_selects_nothing_stops_the_run_where_it_stands() -> None:
    asked, told, state = go(rest_em, rounds=3, empty=[2])
    assert (1, 0.1) == (state.round, state.metrics["pass_at_1"])
    assert ("stopped", "round 2: nothing was selected of 5 rollouts") == told.events[-1]
    assert [] == asked.of("synthesize", 3)


def test_a_round_that_selects_nothing_keeps_the_policy_if_the_run_goes_on() -> None:
    asked, told, state = go(rest_em, rounds=3, empty=[2], on_empty="continue")
    assert [0, 1, 2, 3] == [event[1] for event in told.events]
    assert "the policy is kept" in told.events[2][3]
    assert [1, 3] == [stage.round for stage in asked.of("train")]
    assert state.role("policy", back=1) == state.role("policy", back=2)


def test_a_start_that_selects_nothing_is_the_users_to_mend() -> None:
    def start(do: Stages) -> RoundState:
        do.select(artifact("r"))
        raise AssertionError("not reached")

    with pytest.raises(InputError, match="round 0: nothing was selected of 5 rollouts, so the run cannot start"):
        go(recipe(start=start)(rest_em.step), empty=[0])


def test_a_recipe_may_begin_and_measure_in_its_own_way() -> None:
    def start(do: Stages) -> RoundState:
        return RoundState(roles={"policy": artifact("given"), "base": artifact("given")})

    def measure(state: RoundState, do: Stages) -> Artifact:
        return dataclasses.replace(artifact("report"), metrics={"pass_at_1": 1.0})

    @recipe(start=start, measure=measure)
    def still(round: Round, do: Stages) -> RoundState:
        return round.advance()

    asked, _, state = go(still, rounds=1)
    assert ("still", "given", 1.0) == (still.name, state.policy.identity, state.metrics["pass_at_1"])
    assert ["propose", "propose"] == [stage.verb for stage in asked.stages]


@dataclass(frozen=True, kw_only=True)
class WithOutcome(Asks):
    outcome: Judge = field(default_factory=Judge)


def test_a_process_reward_model_is_learned_before_the_first_round_where_a_verifier_reads_one() -> None:
    parts = {
        **PARTS,
        "verification": WithOutcome(),
        "process_reward": {"samples": 2, "completions": 3, "prefixes": Keep(), "labels": Keep(), "training": Practice(gain=0.5)},
    }
    asked = Asked()
    state = base_policy(asked.do(0, parts))
    (trained,) = asked.of("train")
    assert asked.artifact(trained) == state.roles["prm"]
    assert Practice(gain=0.5) == trained.component
    assert [2, 3] == [stage.component.samples for stage in asked.of("synthesize")]
    assert state.policy == trained.inputs["policy"], "the base policy's weights"

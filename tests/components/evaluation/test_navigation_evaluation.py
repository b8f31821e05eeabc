"""Navigation measured on hand-made walks, and the pictures of them."""

import io
import json
import math

import pytest

from ratchet.components.environments.vln_graph import VLNGraph
from ratchet.components.evaluation.floor_plans import GOAL, draw
from ratchet.components.evaluation.navigation import Navigation
from ratchet.errors import InputError
from ratchet.identity import canonical
from ratchet.records import Rollout

#   a(0,0) ── b(4,0) ── c(8,0)
#     └────── d(0,4)
POSITIONS = {"a": (0, 0, 0), "b": (4, 0, 0), "c": (8, 0, 0), "d": (0, 4, 0)}
BESIDE = {"a": ["b", "d"], "b": ["a", "c"], "c": ["b"], "d": ["a"]}


@pytest.fixture
def environment(tmp_path):
    places = [{"viewpoint": place, "position": POSITIONS[place], "neighbors": near} for place, near in BESIDE.items()]
    (tmp_path / "graphs.jsonl").write_text("".join(json.dumps({"scan": scan, "viewpoints": places}) + "\n" for scan in ("one", "two")))
    return VLNGraph(graphs=tmp_path / "graphs.jsonl")


def rollout(problem, path, sample=0, finished=True, scan="one", goal="c"):
    """A walk by the places that it passes, as actions: those it comes to for the first time."""
    actions = [*dict.fromkeys(path.split()[1:]), *(["stop"] if finished else [])]
    actions = [action for action in actions if action != "a"]
    episode = {"scan": scan, "start": "a", "goals": [goal]}
    return Rollout(problem_id=problem, sample=sample, prompt="the sink", completion=" ".join(actions), finished=finished, episode=episode, group=scan)


def evaluator(environment, **fields):
    return Navigation(**{"environment": environment, "samples": 0, "temperature": 1.0, "resamples": 100, "pictures": 0, **fields})


GREEDY = [
    rollout("p/1", "a b c"),  # perfect
    rollout("p/2", "a d a b c"),  # 16 m for 8
    rollout("p/3", "a b c", scan="two", goal="b"),  # past it
    rollout("p/4", "a b c", finished=False, scan="two"),  # there, but never said so
    rollout("p/5", "a c", scan="two"),  # no walk
]


def test_the_metrics_are_what_one_computes_by_hand(environment):
    found = evaluator(environment).evaluate(GREEDY, []).metrics

    assert (2 / 5, 4 / 5, 2 / 5) == (found["success"], found["oracle_success"], found["success_3m"])
    assert pytest.approx((1 + 0.5) / 5) == found["spl"]
    assert (1.0, 10.0, 2.5) == (found["error"], found["length"], found["steps"]), "over the four that are walks"
    beyond, detour = math.exp(-4 / (2 * 3)), math.exp(-4 / (3 * 3))
    assert pytest.approx((1 + detour + beyond + 1 + 0) / 5) == found["ndtw"]
    assert (1 / 5, 1 / 5) == (found["unfinished"], found["unparsed"])
    assert (1.0, 0.0) == (found["yield.one"], found["yield.two"])
    for name in ("success", "oracle_success", "success_3m", "spl", "error", "length", "steps", "ndtw", "unfinished", "unparsed"):
        assert found[f"{name}.low"] <= found[name] <= found[f"{name}.high"]


def test_success_has_wilson_s_interval(environment):
    """2 of 5: 0.1176 to 0.7693 at 95 %."""
    found = evaluator(environment).evaluate(GREEDY, []).metrics

    assert pytest.approx((0.1176, 0.7693), abs=1e-4) == (found["success.low"], found["success.high"])


def test_yields_and_sampled_success_are_of_the_sampled_rollouts(environment):
    sampled = [
        *(rollout("p/1", path, sample) for sample, path in enumerate(["a b c", "a d", "a b c", "a d a b c"])),
        *(rollout("p/3", path, sample, scan="two") for sample, path in enumerate(["a b", "a c", "a b c", "a"])),
    ]
    found = evaluator(environment, samples=4).evaluate([GREEDY[0], GREEDY[2]], sampled).metrics

    assert (0.75, 0.25) == (found["yield.one"], found["yield.two"])
    assert (0.5, 1.0) == (found["sampled_success"], found["pass_at_4"])
    assert pytest.approx(((1 + 1 + 0.5) / 4 + 1 / 4) / 2) == found["sampled_spl"]
    assert 0.5 == found["success"], "which is greedy"


def test_there_is_a_row_a_problem_that_can_be_written(environment):
    items = evaluator(environment).evaluate(GREEDY, []).items

    assert [row.problem_id for row in GREEDY] == [item["problem_id"] for item in items]
    assert ("one", 1.0, 0.5, ["a", "d", "a", "b", "c"]) == tuple(items[1][name] for name in ("group", "success", "spl", "path"))
    assert (True, False, 0.0) == (items[3]["walk"], items[3]["finished"], items[3]["success"])
    assert (False, []) == (items[4]["walk"], items[4]["path"])
    assert canonical(list(items))


def test_an_environment_without_the_3_m_measure_gives_none(environment):
    class Cells:
        def open(self, episode):
            return environment.open(episode)

        def judge(self, episode, path):
            return {name: value for name, value in environment.judge(episode, path).items() if name != "success_3m"}

    found = evaluator(Cells()).evaluate(GREEDY[:2], []).metrics

    assert "success_3m" not in found
    assert 1.0 == found["success"]


@pytest.mark.parametrize(
    ("greedy", "sampled", "samples", "said"),
    [
        ([], [], 0, "nothing to evaluate"),
        ([GREEDY[0], GREEDY[0]], [], 0, "one greedy rollout"),
        ([GREEDY[0]], [], 2, "p/1 is not rolled out as asked"),
        ([GREEDY[0]], [rollout("p/2", "a")], 1, "is not rolled out as asked"),
        ([Rollout(problem_id="q", sample=0, prompt="", completion="a")], [], 0, "q has no episode"),
    ],
)
def test_rollouts_that_are_not_as_asked_are_refused(environment, greedy, sampled, samples, said):
    with pytest.raises(InputError, match=said):
        evaluator(environment, samples=samples).evaluate(greedy, sampled)


@pytest.mark.parametrize("fields", [{"samples": -1}, {"samples": 1, "temperature": 0}, {"confidence": 1}, {"pictures": -1}, {"resamples": 0}])
def test_settings_that_make_no_sense_are_refused(environment, fields):
    with pytest.raises(InputError):
        evaluator(environment, **fields)


def pixels(content):
    from matplotlib import image

    return (image.imread(io.BytesIO(content))[..., :3] * 255).round().astype(int)


def test_pictures_are_of_walks_spread_over_the_problems_and_always_the_same_bytes(environment):
    files = evaluator(environment, pictures=2).evaluate(GREEDY, []).files

    assert ["trajectory-1-p_1.png", "trajectory-2-p_3.png"] == list(files)
    assert files == evaluator(environment, pictures=2).evaluate(GREEDY, []).files
    assert 4 == len(evaluator(environment, pictures=9).evaluate(GREEDY, []).files), "what is no walk cannot be drawn"
    for content in files.values():
        assert b"\x89PNG\r\n\x1a\n" == content[:8]
        assert b"matplotlib" not in content.lower(), "no version in the bytes"


def test_a_picture_shows_the_goal_where_it_is_and_the_agent_s_way_where_it_went(environment):
    plan = environment.floor(GREEDY[0].episode)
    straight, detour = (pixels(draw(plan, path=path.split(), shortest=["a", "b", "c"], title="")) for path in ("a b c", "a d a b c"))

    gold = tuple(int(GOAL[at : at + 2], 16) for at in (1, 3, 5))
    _, columns = (straight[: straight.shape[0] * 9 // 10] == gold).all(axis=-1).nonzero()
    assert columns.mean() > 0.6 * straight.shape[1], "c is the place furthest to the east"
    red = (detour[..., 0] > detour[..., 2] + 60) & (detour[..., 1] < 120)
    plain = (straight[..., 0] > straight[..., 2] + 60) & (straight[..., 1] < 120)
    assert red.sum() > 1.3 * plain.sum(), "the detour is drawn too"

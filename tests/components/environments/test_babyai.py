"""BabyAI's levels as graphs: minigrid itself is asked what was seen and whether a mission is fulfilled."""

import json
import math
import os
import random
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from itertools import pairwise, product

import numpy as np
import pytest

from ratchet.components.environments.babyai import Grids
from ratchet.components.environments.babyai_levels import COLOURS, LEVELS, TYPES, check_level, generate
from ratchet.errors import InputError
from ratchet.protocols import STOP

GRIDS = Grids(unit=1.0)
SMALL, MAZE, OPEN, LARGE = "BabyAI-GoToLocal-v0", "BabyAI-GoToS5R3N6-v0", "BabyAI-GoToOpenS5R2N4-v0", "BabyAI-GoTo-v0"
EVERY_KIND = (SMALL, MAZE, OPEN, LARGE, "BabyAI-GoToObjMazeS4R2-v0", "BabyAI-GoToRedBlueBall-v0")


def world_of(level, seed):
    """The same level, in minigrid."""
    import gymnasium
    from minigrid.envs.babyai.goto import GoTo

    sizes = {MAZE: {"room_size": 5, "num_dists": 6}, OPEN: {"room_size": 5, "num_rows": 2, "num_cols": 2, "num_dists": 4, "doors_open": True}}
    world = GoTo(**sizes[level]) if level in sizes else gymnasium.make(level).unwrapped
    with redirect_stdout(StringIO()):
        world.reset(seed=seed)
    return world


def shown(world, actions):
    """Cell → what minigrid's observations show in it, as it encodes it, over a walk from the start."""
    seen = {}
    for action in (None, *actions):
        observation = world.step(world.actions[action])[0] if action else world.gen_obs()
        (ahead_x, ahead_y), (right_x, right_y) = world.dir_vec, world.right_vec
        for across, down in product(range(7), range(7)):
            x = int(world.agent_pos[0] + ahead_x * (6 - down) + right_x * (across - 3))
            y = int(world.agent_pos[1] + ahead_y * (6 - down) + right_y * (across - 3))
            if observation["image"][across, down, 0] and ((x, y) not in seen or (x, y) != tuple(world.agent_pos)):
                seen[x, y] = tuple(int(number) for number in observation["image"][across, down])  # a door that one stands in is not shown
    return seen


def wandered(level, seed, decisions):
    """A walk that went to places at random."""
    walk, draws = GRIDS.open({"level": level, "seed": seed}), random.Random(seed)
    for _ in range(decisions):
        if frontier := walk.view().frontier:
            walk.step(draws.choice(frontier))
    return walk


def taught(level, seed):
    """The teacher's walk, to its `STOP`."""
    walk = GRIDS.open({"level": level, "seed": seed})
    while (place := walk.teacher()) != STOP:
        walk.step(place)
    return walk


@pytest.mark.parametrize("level", EVERY_KIND)
def test_the_agent_has_seen_what_minigrid_showed_it_and_nothing_else(level):
    for seed in range(4):
        walk = wandered(level, seed, decisions=8)
        world = world_of(level, seed)
        seen = shown(world, walk.actions)
        assert set(seen) == {(cell % world.width, cell // world.width) for cell in walk.seen}
        assert tuple(int(number) for number in walk.path[-1].split(",")) == tuple(world.agent_pos)


@pytest.mark.parametrize("level", EVERY_KIND)
def test_the_words_of_a_view_are_of_what_minigrid_showed(level):
    from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT

    for seed in range(4):
        walk = wandered(level, seed, decisions=5)
        world = world_of(level, seed)
        seen = shown(world, walk.actions)
        view = walk.view()
        for place, words in zip(view.places, view.words, strict=True):
            x, y = (int(number) for number in place.split(","))
            near = [seen[cell] for cell in ((x, y), (x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)) if cell in seen]
            told = {word for kind, colour, _ in near for word in (IDX_TO_OBJECT[kind], IDX_TO_COLOR[colour])}
            assert set(words) - {"open", "closed", "unseen"} <= told
            assert ("unseen" in words) == (words == ("unseen",)), "an edge is one by itself"
            if words == ("unseen",):
                assert 4 > len([cell for cell in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)) if cell in seen])
            if "door" in words and (x, y) != tuple(world.agent_pos):
                assert {"open": 0, "closed": 1}[words[2]] == world.grid.get(x, y).encode()[2]


@pytest.mark.parametrize("level", EVERY_KIND)
def test_the_teacher_reaches_a_place_where_minigrid_accepts_the_agent(level):
    for seed in range(8):
        walk = taught(level, seed)
        world = world_of(level, seed)
        for action in walk.actions:
            world.step(world.actions[action])
        assert any(terminated for _, _, terminated, _, _ in (world.step(world.actions.left) for _ in range(4)))
        assert 1.0 == GRIDS.judge({"level": level, "seed": seed}, walk.path)["success"]


def test_stopping_succeeds_exactly_where_minigrid_accepts_an_agent_that_looks_about():
    for level, seed in ((SMALL, 3), (MAZE, 3), (OPEN, 1)):
        goals = set(GRIDS.floor({"level": level, "seed": seed}).goals)
        world = world_of(level, seed)
        accepted = set()
        for place in GRIDS.floor({"level": level, "seed": seed}).places:
            world.agent_pos = tuple(int(number) for number in place.split(","))
            if any(world.step(world.actions.left)[2] for _ in range(4)):
                accepted.add(place)
        assert accepted == goals != set()


def test_an_agent_that_visits_all_there_is_has_been_beside_every_object():
    for seed in range(5):
        walk, level = GRIDS.open({"level": MAZE, "seed": seed}), generate(MAZE, seed)
        while frontier := walk.view().frontier:
            walk.step(frontier[0])
        view = walk.view()
        at_hand = {word for words in view.words for word in words}
        assert {word for thing in level.things.values() for word in thing} <= at_hand
        assert set(level.doors) <= {level.cell(place) for place in view.places}
        with pytest.raises(InputError, match="offers no such place"):
            walk.step(view.places[0])


def test_a_way_to_a_place_passes_no_other_one_of_the_frontier_and_goes_cell_by_cell():
    for seed in range(10):
        walk, draws = GRIDS.open({"level": MAZE, "seed": seed}), random.Random(seed)
        while frontier := walk.view().frontier:
            before = len(walk.path)
            chosen = draws.choice(frontier)
            walk.step(chosen)
            passed = walk.path[before - 1 :]
            assert [chosen] == [place for place in passed[1:] if place in frontier]
            cells = [tuple(int(number) for number in place.split(",")) for place in passed]
            assert all(1 == abs(x - a) + abs(y - b) for (x, y), (a, b) in pairwise(cells))


def test_known_ways_are_as_long_as_they_are_walked_where_nothing_bars_them():
    walk = wandered(MAZE, 1, decisions=3)
    view = walk.view()
    assert np.allclose(view.ways, view.ways.T)
    assert 0 == np.trace(view.ways)
    through = view.ways[:, :, None] + view.ways[None]
    assert (view.ways <= through.min(axis=1) + 1e-5).all(), "no way is longer than one over a third place"
    place, far = view.frontier[0], view.ways[0, view.visited]
    before = len(walk.path)
    walk.step(place)
    assert len(walk.path) - before >= far == view.geometry[view.visited, 5]


def test_the_start_looks_where_minigrid_looks_and_counts_headings_clockwise():
    for seed in range(8):
        world = world_of(LARGE, seed)
        view = GRIDS.open({"level": LARGE, "seed": seed}).view()
        for place, row in zip(view.places[1:], view.geometry[1:], strict=True):
            offset = np.array([int(number) for number in place.split(",")]) - world.agent_pos
            far = np.hypot(*offset)
            assert np.allclose(row[:5], [offset @ world.right_vec / far, offset @ world.dir_vec / far, 0, 1, far])
        assert [0, 1, 0, 1, 0, 0] == view.geometry[0].tolist()


def test_it_faces_the_object_that_the_place_is_for():
    walk, level = taught(MAZE, 0), generate(MAZE, 0)
    world = world_of(MAZE, 0)
    for action in walk.actions:
        world.step(world.actions[action])
    assert level.mission.endswith(f"{world.grid.get(*world.front_pos).color} {world.grid.get(*world.front_pos).type}")


def test_the_unit_divides_all_distances_of_a_view_and_none_of_a_judgement():
    episode = {"level": MAZE, "seed": 2}
    fine, coarse = GRIDS.open(episode).view(), Grids(unit=4.0).open(episode).view()
    assert np.allclose(fine.ways / 4, coarse.ways)
    assert np.allclose(fine.geometry / [1, 1, 1, 1, 4, 4], coarse.geometry)
    assert GRIDS.judge(episode, GRIDS.shortest(episode)) == Grids(unit=4.0).judge(episode, GRIDS.shortest(episode))


def test_a_walk_that_is_restored_stands_where_it_stood():
    for level in EVERY_KIND:
        walk = wandered(level, 5, decisions=4)
        again = GRIDS.restore({"level": level, "seed": 5}, walk.path)
        one, other = walk.view(), again.view()
        assert (walk.path, walk.actions, list(walk.seen)) == (again.path, again.actions, list(again.seen))
        assert (one.places, one.visited, one.words) == (other.places, other.visited, other.words)
        assert (one.geometry == other.geometry).all()
        assert (one.ways == other.ways).all()


def test_a_path_that_no_walk_takes_is_refused():
    episode = {"level": MAZE, "seed": 0}
    walk = wandered(MAZE, 0, decisions=2)
    for path, what in (
        ([], "begins where"),
        (["0,0"], "begins where"),
        ([walk.path[0], "0,0"], "no place that is offered"),
        (walk.path[:-1], "no place that is offered"),
        ([walk.path[0], walk.path[-1]], "no place that is offered|as the walk does not"),
    ):
        with pytest.raises(InputError, match=what):
            GRIDS.restore(episode, path)


def test_a_judgement_by_hand():
    episode = {"level": SMALL, "seed": 0}
    way = GRIDS.shortest(episode)
    length = len(way) - 1
    best = GRIDS.judge(episode, way)
    assert best == {"success": 1, "oracle_success": 1, "spl": 1, "error": 0, "length": length, "shortest": length, "ndtw": 1}
    beyond = GRIDS.judge(episode, [*way, way[-2]])
    assert (0, 1, 0, 1) == tuple(beyond[name] for name in ("success", "oracle_success", "spl", "error"))
    detour = GRIDS.judge(episode, [way[0], way[1], way[0], *way[1:]])
    assert (1, length / (length + 2), length + 2) == (detour["success"], detour["spl"], detour["length"])
    assert math.isclose(math.exp(-1 / ((length + 1) * 3)), detour["ndtw"])
    assert (0, 0, length) == tuple(GRIDS.judge(episode, way[:1])[name] for name in ("success", "oracle_success", "error"))


@pytest.mark.parametrize(("rest", "what"), [(["0,0"], "at once"), (["99,99"], "at once"), (["north"], "at once"), (None, "begins where")])
def test_a_path_that_nobody_can_walk_is_not_judged(rest, what):
    episode = {"level": SMALL, "seed": 0}
    with pytest.raises(InputError, match=what):
        GRIDS.judge(episode, [] if rest is None else [GRIDS.shortest(episode)[0], *rest])


def test_the_teacher_goes_on_after_the_goal_was_left_and_stops_with_nothing_left():
    walk = taught(MAZE, 4)
    while frontier := walk.view().frontier:
        assert walk.teacher() in (*frontier, STOP)
        walk.step(frontier[-1])
    assert STOP == walk.teacher()


def test_the_levels_are_those_of_minigrid_that_go_to_an_object():
    import gymnasium
    import minigrid  # noqa: F401  (registers them)

    classes = ("GoToRedBallGrey", "GoToRedBall", "GoToRedBallNoDists", "GoToObj", "GoToLocal", "GoTo", "GoToRedBlueBall")
    known = {name for name, spec in gymnasium.registry.items() if spec.entry_point in {f"minigrid.envs.babyai:{kind}" for kind in classes}}
    assert known == set(LEVELS)
    for level in LEVELS:
        assert generate(level, 0).goals


def test_every_word_is_in_the_vocabulary():
    from minigrid.core.constants import COLOR_NAMES

    words = set(GRIDS.vocabulary())
    assert (sorted(COLOR_NAMES), sorted(words)) == (sorted(COLOURS), list(GRIDS.vocabulary()))
    assert set(TYPES) <= words
    for level in LEVELS:
        walk = wandered(level, 0, decisions=3)
        assert {word for told in walk.view().words for word in told} | set(generate(level, 0).mission.split()) <= words


@pytest.mark.parametrize("level", ["BabyAI-PickupLoc-v0", "BabyAI-GoToSeq-v0", "BabyAI-GoToDoor-v0", "BabyAI-GoToImpUnlock-v0", "GoTo"])
def test_a_level_whose_missions_a_walk_cannot_fulfil_is_refused(level):
    with pytest.raises(InputError, match="BabyAI-GoToObjMazeS5-v0"):
        GRIDS.open({"level": level, "seed": 0})


@pytest.mark.parametrize("level", ["BabyAI-GoToS3R2N1-v0", "BabyAI-GoToS4R0N1-v0", "BabyAI-GoToS4R2N4-v0", "BabyAI-GoToS5R2N0-v0"])
def test_a_maze_that_cannot_be_made_is_refused(level):
    with pytest.raises(InputError, match="such a maze cannot be made"):
        check_level(level)


@pytest.mark.parametrize("episode", [{}, {"level": MAZE}, {"level": MAZE, "seed": -1}, {"level": MAZE, "seed": "1"}, {"level": 1, "seed": 1}])
def test_what_is_no_episode_is_refused(episode):
    with pytest.raises(InputError, match="no episode of BabyAI"):
        GRIDS.open(episode)


def test_a_unit_is_a_number_of_cells():
    with pytest.raises(InputError, match="unit"):
        Grids(unit=0)


def test_another_process_finds_the_same_level_and_the_same_walk():
    code = """
import json, sys
from ratchet.components.environments.babyai import Grids
walk = Grids().open({"level": sys.argv[1], "seed": 11})
for _ in range(4):
    walk.step(walk.view().frontier[-1])
view = walk.view()
print(json.dumps([walk.path, walk.actions, view.places, view.words, view.geometry.tolist()]))
"""
    told = [
        subprocess.run([sys.executable, "-c", code, MAZE], capture_output=True, text=True, check=True, env={**os.environ, **more}).stdout
        for more in ({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2", "BABYAI_DONE_ACTIONS": "1"})
    ]
    assert told[0] == told[1]
    assert 1 == len(told[0].splitlines()), "minigrid's own words are not on stdout"
    walk = GRIDS.open({"level": MAZE, "seed": 11})
    for _ in range(4):
        walk.step(walk.view().frontier[-1])
    assert json.loads(told[0])[:2] == [walk.path, walk.actions]

"""Scanned buildings as graphs: both file formats, the agent's map, the teacher, and the measures, computed by hand on a small house."""

import copy
import gzip
import json
import math
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from ratchet.components.environments.views import GEOMETRY, STOP
from ratchet.components.environments.vln_graph import VLNGraph
from ratchet.errors import InputError

PUBLISHED = Path(__file__).parents[3] / "../shared/data/reverie"

needs_published = pytest.mark.skipif(not PUBLISHED.exists(), reason="the REVERIE files do not lie beside the clone (../shared/data/reverie)")

#   c(0,4) ── d(3,4) ── e(6,4)        b and d are above and below each other in the plan: no way
#     │                   │
#   a(0,0) ── b(3,0)    f(6,0)  …  x(9,9) alone
HOUSE = {"a": (0, 0, 0), "b": (3, 0, 0), "c": (0, 4, 0), "d": (3, 4, 0), "e": (6, 4, 0), "f": (6, 0, 0), "x": (9, 9, 0)}
WAYS = ["ab", "ac", "cd", "de", "ef"]
NORTH, EAST = 12, 15
"""Views at elevation 0: heading 0 and 90°."""
OBJECTS = {
    "a": [(1, "Door#Frame", [NORTH, NORTH + 1]), (2, "lamp", [EAST]), (3, "sky/light", [NORTH + 12])],
    "c": [(4, "sofa", [EAST]), (5, "ghost", [])],
    "d": [(6, "piano", [EAST]), (4, "sofa", [3])],
    "f": [(7, "bed", [NORTH])],
}


def rows(scan="house", places=HOUSE, ways=WAYS):
    beside = {place: sorted({a if b == place else b for a, b in ways if place in (a, b)}) for place in places}
    listed = [{"viewpoint": place, "position": list(at), "camera_height": 1.5, "neighbors": beside[place]} for place, at in places.items()]
    return {"scan": scan, "viewpoints": listed}


def seen(objects=OBJECTS, scan="house"):
    listed = {place: [{"id": id, "name": name, "visible_views": views} for id, name, views in found] for place, found in objects.items()}
    return [{"scan": scan, "viewpoint": place, "objects": found} for place, found in listed.items()]


def lines(path, listed):
    text = "".join(json.dumps(row) + "\n" for row in listed)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def world(folder, graph=None, objects=None, **fields):
    graphs = lines(folder / "graphs.jsonl", [graph or rows()])
    return VLNGraph(graphs=graphs, objects=lines(folder / "objects.jsonl.gz", objects or seen()), **{"unit": 1.0, **fields})


def published(folder, *, excluded=()):
    """The same house as the publishers store it; `excluded` viewpoints stand in the files as not included."""
    places = {**HOUSE, **dict.fromkeys(excluded, (1, 1, 1))}
    ways = [*WAYS, *(("a", place) for place in excluded)]
    listed = []
    for place, (x, y, z) in places.items():
        open_to = [(place, other) in {(a, b) for a, b in ways} | {(b, a) for a, b in ways} for other in places]
        pose = [1, 0, 0, x, 0, 1, 0, y, 0, 0, 1, z, 0, 0, 0, 1]
        entry = {"image_id": place, "pose": pose, "included": place not in excluded, "visible": open_to, "unobstructed": open_to, "height": 1.5}
        listed.append(entry)
    (folder / "connectivity").mkdir()
    (folder / "connectivity" / "house_connectivity.json").write_text(json.dumps(listed))
    (folder / "BBoxes").mkdir()
    for place, found in {**OBJECTS, **{place: [(9, "rug", [1])] for place in excluded}}.items():
        boxes = {str(id): {"name": name, "visible_pos": views, "bbox2d": [[0, 0, 9, 9]] * len(views)} for id, name, views in found}
        (folder / "BBoxes" / f"house_{place}.json").write_text(json.dumps({place: boxes}))
    (folder / "BBoxes" / "elsewhere_q.json").write_text("{}")
    return VLNGraph(graphs=folder / "connectivity", objects=folder / "BBoxes", unit=1.0)


def episode(start="a", *goals, **more):
    return {"scan": "house", "start": start, "goals": list(goals or ("e",)), **more}


# --- views


def test_the_first_view_is_the_start_and_what_is_seen_from_it(tmp_path):
    view = world(tmp_path).open(episode()).view()

    assert (("a", "b", "c"), 1, ("b", "c")) == (view.places, view.visited, view.frontier)
    assert view.features is None
    assert [[0, 3, 4], [3, 0, 7], [4, 7, 0]] == view.ways.tolist()
    assert np.float32 == view.ways.dtype == view.geometry.dtype


def test_a_heading_counts_from_plus_y_clockwise_and_from_where_the_agent_looks(tmp_path):
    environment = world(tmp_path)
    north, east = environment.open(episode()).view(), environment.open(episode(heading=math.pi / 2)).view()
    sin, cos = GEOMETRY.index("sin_heading"), GEOMETRY.index("cos_heading")

    assert [[0, 1], [1, 0], [0, 1]] == north.geometry[:, [sin, cos]].round(6).tolist(), "b lies east, to the right; c ahead"
    assert [[0, 1], [0, 1], [-1, 0]] == east.geometry[:, [sin, cos]].round(6).tolist(), "b ahead, c to the left"
    walk = environment.open(episode(heading=1.0))
    walk.step("c")
    walk.step("d")
    view = walk.view()
    assert ("d", "c", "a", "b", "e") == view.places, "the latest visited first, then the frontier as it was discovered"
    assert [0, 1] == view.geometry[view.places.index("e"), [sin, cos]].round(6).tolist(), "it looks east, where its last step led"


def test_elevation_distance_and_way_are_of_the_place_as_seen_from_the_agent_in_units(tmp_path):
    raised = rows(places={**HOUSE, "c": (0, 4, 3)})
    walk = world(tmp_path, raised, unit=2.0).open(episode())
    walk.step("b")
    view = walk.view()

    assert ("b", "a", "c") == view.places
    assert pytest.approx([0, 1, 0, 1, 0, 0]) == view.geometry[0].tolist()
    straight = math.sqrt(9 + 16 + 9)
    row = view.geometry[2].tolist()
    assert pytest.approx([3 / straight, 5 / straight, straight / 2, (3 + 5) / 2]) == row[2:]


def test_words_are_of_the_place_where_it_was_visited_and_of_its_direction_where_it_was_not(tmp_path):
    walk = world(tmp_path).open(episode())
    words = dict(zip(walk.view().places, walk.view().words, strict=True))
    assert {"a": ("door", "frame", "lamp", "light", "sky"), "b": ("lamp",), "c": ("door", "frame")} == words

    walk.step("c")
    words = dict(zip(walk.view().places, walk.view().words, strict=True))
    assert (("sofa",), ("sofa",)) == (words["c"], words["d"]), "what is in no view is not seen"


def test_a_frontier_place_bears_the_words_of_every_visited_neighbour_s_direction(tmp_path):
    square = rows(places={"a": (0, 0, 0), "b": (3, 0, 0), "c": (0, 3, 0), "d": (3, 3, 0)}, ways=["ab", "ac", "bd", "cd"])
    objects = seen({"b": [(1, "red", [NORTH])], "c": [(2, "blue", [EAST])], "d": [(3, "gold", [0])]})
    walk = world(tmp_path, square, objects).open(episode("a", "d"))
    walk.step("b")
    walk.step("c")

    assert (("c", "a", "b", "d"), ("blue", "red")) == (walk.view().places, walk.view().words[3])


def test_known_ways_lead_over_visited_places_alone_and_get_shorter_as_more_is_visited(tmp_path):
    """From s to t over p and q are 23 m, over r 3 m; r is seen from s and t at once, and first walked at the end."""
    ring = rows(
        places={"s": (0, 0, 0), "p": (0, 9, 0), "q": (3, 9, 0), "t": (3, 0, 0), "r": (1, 0, 0), "u": (9, 0, 0)},
        ways=["sp", "pq", "qt", "sr", "rt", "tu"],
    )
    walk = world(tmp_path, ring, seen({"s": []})).open(episode("s", "u"))
    for place in ("p", "q", "t"):
        walk.step(place)
    view = walk.view()
    assert (("t", "q", "p", "s", "r", "u"), 4) == (view.places, view.visited)
    assert 21 == view.ways[0, 3], "r is known at both ends, and not yet a way through"
    walk.step("r")
    view = walk.view()
    assert 3 == view.ways[view.places.index("t"), view.places.index("s")]
    assert ["s", "p", "q", "t", "r"] == walk.path


def test_a_step_never_cuts_through_a_place_that_was_not_visited(tmp_path):
    places = {"s": (0, 0, 0), "p": (0, 9, 0), "q": (3, 9, 0), "t": (3, 0, 0), "r": (1, 0, 0), "z": (-1, 0, 0)}
    ring = rows(places=places, ways=["sp", "pq", "qt", "sr", "rt", "sz"])
    walk = world(tmp_path, ring, seen({"s": []})).open(episode("s", "z"))
    for place in ("p", "q", "t", "z"):
        walk.step(place)

    assert ["s", "p", "q", "t", "q", "p", "s", "z"] == walk.path


def test_a_step_passes_the_places_on_its_way(tmp_path):
    walk = world(tmp_path).open(episode())
    for place in ("c", "d", "b"):
        walk.step(place)

    assert ["a", "c", "d", "c", "a", "b"] == walk.path
    assert ("b", "a", "c", "d", "e") == walk.view().places, "passing a place again makes it the latest"


def test_a_walk_refuses_what_the_view_does_not_offer(tmp_path):
    walk = world(tmp_path).open(episode())
    for place in ("a", "d", "nowhere", STOP):
        with pytest.raises(InputError, match=r"cannot go there[\s\S]*allowed: b, c"):
            walk.step(place)
    assert ["a"] == walk.path


def test_a_restored_walk_stands_where_the_walked_one_does(tmp_path):
    environment = world(tmp_path)
    walk = environment.open(episode(heading=0.3))
    for place in ("b", "c", "d"):
        walk.step(place)
    assert ["a", "b", "a", "c", "d"] == walk.path

    there, here = environment.restore(episode(heading=0.3), walk.path).view(), walk.view()
    assert (here.places, here.words) == (there.places, there.words)
    assert (here.geometry == there.geometry).all()
    assert (here.ways == there.ways).all()


def test_nothing_of_an_unseen_place_is_in_a_view(tmp_path):
    """Change everything about what lies beyond the frontier: the views stay, bit for bit."""
    changed = copy.deepcopy(rows(places={**HOUSE, "e": (7, 5, 1), "f": (20, 1, 0)}, ways=[*WAYS, "fx"]))
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    one = world(tmp_path / "1").open(episode())
    other = world(tmp_path / "2", changed, seen({**OBJECTS, "d": [(1, "organ", [EAST])], "f": []})).open(episode())
    for place in ("b", "c"):
        one.step(place)
        other.step(place)
    here, there = one.view(), other.view()

    assert ("c", "a", "b", "d") == here.places == there.places
    assert here.words == there.words
    assert (here.geometry == there.geometry).all()
    assert (here.ways == there.ways).all()


# --- the teacher


def test_the_teacher_walks_the_shortest_way_and_stops_at_the_goal(tmp_path):
    walk = world(tmp_path).open(episode())
    actions = []
    while (place := walk.teacher()) != STOP:
        actions.append(place)
        walk.step(place)

    assert ["c", "d", "e"] == actions


def test_the_teacher_leads_back_over_known_ways_after_a_wrong_turn(tmp_path):
    walk = world(tmp_path).open(episode())
    walk.step("b")

    assert "c" == walk.teacher()
    walk.step("c")
    assert ["a", "b", "a", "c"] == walk.path


def test_the_teacher_aims_at_a_goal_that_can_still_be_stopped_at(tmp_path):
    environment = world(tmp_path)
    walk = environment.open(episode("a", "c", "f"))
    walk.step("c")
    assert STOP == walk.teacher()
    walk.step("d")
    assert "e" == walk.teacher(), "c was left; f remains"
    back = environment.restore(episode("a", "c", "b"), ["a", "c", "d"])
    assert "b" == back.teacher(), "though e is nearer to c"
    alone = environment.restore(episode("x", "x"), ["x"])
    assert (STOP, ()) == (alone.teacher(), alone.view().frontier)


def test_ties_of_the_teacher_go_to_the_place_that_was_discovered_first(tmp_path):
    square = rows(places={"a": (0, 0, 0), "b": (3, 0, 0), "c": (0, 3, 0), "d": (3, 3, 0)}, ways=["ab", "ac", "bd", "cd"])

    assert "b" == world(tmp_path, square, seen({"d": []})).open(episode("a", "d")).teacher()


# --- measures


def test_a_perfect_walk(tmp_path):
    found = world(tmp_path).judge(episode(), ["a", "c", "d", "e"])

    wanted = {"success": 1, "oracle_success": 1, "success_3m": 1, "spl": 1, "error": 0, "length": 10, "shortest": 10, "ndtw": 1}
    assert wanted == found


def test_a_detour_costs_length_and_nothing_else(tmp_path):
    found = world(tmp_path).judge(episode(), ["a", "b", "a", "c", "d", "e"])

    assert (1, 16, 10 / 16) == (found["success"], found["length"], found["spl"])
    assert pytest.approx(math.exp(-3 / (4 * 3))) == found["ndtw"], "b is 3 m off the reference, which has 4 places"


def test_passing_the_goal_is_an_oracle_s_success_and_ending_near_it_counts_along_ways(tmp_path):
    environment = world(tmp_path)
    passed = environment.judge(episode("a", "d"), ["a", "c", "d", "e"])
    assert (0, 1, 0, 0, 3) == tuple(passed[name] for name in ("success", "oracle_success", "success_3m", "spl", "error"))
    near = environment.judge(episode("a", "d"), ["a", "b"])
    assert (0, 0, 10) == (near["success_3m"], near["oracle_success"], near["error"]), "4 m through the wall are 10 m along ways"
    assert 1 == world(tmp_path, success_m=3.1).judge(episode("a", "d"), ["a", "c", "d", "e"])["success_3m"]


def test_of_several_goals_the_nearest_counts(tmp_path):
    environment = world(tmp_path)
    goals = episode("a", "f", "d", "x")

    assert ["a", "c", "d"] == environment.shortest(goals)
    assert (1, 7, 1) == tuple(environment.judge(goals, ["a", "c", "d"])[name] for name in ("success", "shortest", "spl"))
    far = environment.judge(goals, ["a", "c", "d", "e", "f"])
    assert (1, 0, 7 / 14) == (far["success"], far["error"], far["spl"])


def test_ndtw_warps_time_as_the_textbook_does(tmp_path):
    """Against every monotone alignment, by enumeration."""
    environment = world(tmp_path)
    path, reference = ["a", "b", "a", "c", "a", "c", "d", "e"], ["a", "c", "d", "e"]
    graph = environment.graph("house")
    cost = [[float(graph.distances[graph.index[p], graph.index[r]]) for r in reference] for p in path]

    def best(i, j):
        if (i, j) == (0, 0):
            return cost[0][0]
        return cost[i][j] + min(best(*at) for at in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if min(at) >= 0)

    assert pytest.approx(math.exp(-best(7, 3) / 12)) == environment.judge(episode(), path)["ndtw"]


def test_what_it_shows_of_itself(tmp_path):
    environment = world(tmp_path)
    plan = environment.floor(episode("a", "e", "f"))

    assert ("bed", "door", "frame", "lamp", "light", "piano", "sky", "sofa") == environment.vocabulary()
    assert ((6.0, 4.0), ("e", "f"), len(WAYS)) == (plan.places["e"], plan.goals, len(plan.ways))
    assert (("house",), ("c", "d"), ()) == (environment.scans(), environment.seen_from("house", "4"), environment.seen_from("house", "5"))
    places = environment.graph("house").hops
    assert (1, 2, 4, 0) == (places[0, 0], places[0, 1], places[0, 4], places[0, 6])


# --- the published files


def test_both_formats_are_the_same_world_and_what_is_not_included_is_counted(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    compact, original = world(tmp_path / "1"), published(tmp_path / "2", excluded=("m", "n"))
    here, there = compact.open(episode()), original.open(episode())
    for place in ("c", "d"):
        here.step(place)
        there.step(place)

    assert (here.view().places, here.view().words) == (there.view().places, there.view().words)
    assert (here.view().geometry == there.view().geometry).all()
    wanted = {
        "scans": 1,
        "viewpoints": 9,
        "viewpoints.used": 7,
        "viewpoints.not_included": 2,
        "ways": 7,
        "ways.used": 5,
        "ways.to_a_viewpoint_not_included": 2,
        "objects": 10,
        "objects.used": 7,
        "objects.in_no_view": 1,
        "objects.at_a_viewpoint_not_included": 2,
        "object_files.of_a_scan_without_a_graph": 1,
    }
    assert wanted == original.census()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: row["viewpoints"][1]["neighbors"].append("nobody"), r"graphs.jsonl:1, viewpoints\[1\]: the neighbour does not exist"),
        (lambda row: row["viewpoints"][2].update(viewpoint="a"), r"graphs.jsonl:1, viewpoints\[2\]: the viewpoint stands there twice"),
        (lambda row: row["viewpoints"][0]["position"].__setitem__(2, math.nan), r"graphs.jsonl:1, viewpoints\[0\]: the position is not 3 finite"),
        (lambda row: row["viewpoints"][0]["position"].pop(), r"viewpoints\[0\]: the position is not 3 finite numbers"),
        (lambda row: row["viewpoints"][3]["neighbors"].append("a"), r"viewpoints\[3\]: the way to entry 0 does not lead back"),
        (lambda row: row["viewpoints"][3]["neighbors"].append("d"), r"viewpoints\[3\]: a viewpoint is its own neighbour"),
        (lambda row: row["viewpoints"][3].pop("neighbors"), r"viewpoints\[3\] has no key 'neighbors'"),
        (lambda row: row["viewpoints"].clear(), "has no viewpoints"),
    ],
)
def test_a_broken_graph_is_named_by_file_and_entry(tmp_path, change, said):
    row = rows()
    change(row)
    with pytest.raises(InputError, match=said):
        world(tmp_path, row).open(episode())


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"objects": [{"id": 1, "name": " ", "visible_views": [1]}]}, r"objects.jsonl.gz:1, objects\[0\]: the object has no name"),
        ({"objects": [{"id": 1, "visible_views": [1]}]}, r"objects.jsonl.gz:1, objects\[0\] has no key 'name'"),
        ({"objects": [{"id": 1, "name": "a", "visible_views": [36]}]}, r"objects\[0\]: there is no such view"),
        ({"objects": [{"id": 1, "name": "a", "visible_views": []}] * 2}, r"objects\[1\]: the object stands there twice"),
        ({"viewpoint": "nobody", "objects": []}, "objects.jsonl.gz:1: scan house has no viewpoint nobody"),
        ({"scan": "castle", "objects": []}, "objects.jsonl.gz:1: there is no graph of scan 'castle'"),
    ],
)
def test_a_broken_object_is_named_by_file_and_entry(tmp_path, row, said):
    with pytest.raises(InputError, match=said):
        world(tmp_path, objects=[{"scan": "house", "viewpoint": "a", **row}]).open(episode())


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("image_id", "a", r"connectivity.json\[1\]: the viewpoint stands there twice"),
        ("pose", [0.0] * 15 + [math.inf], r"connectivity.json\[1\]: the pose is not 16 finite numbers"),
        ("unobstructed", [True], r"connectivity.json\[1\]: 'unobstructed' is not a true or false for each of 7"),
        ("unobstructed", [False] * 7, r"connectivity.json\[0\]: the way to entry 1 does not lead back"),
        ("included", "yes", r"connectivity.json\[1\]: 'included' is of the wrong kind"),
    ],
)
def test_a_broken_published_graph_is_named_by_file_and_entry(tmp_path, key, value, said):
    environment = published(tmp_path)
    path = tmp_path / "connectivity" / "house_connectivity.json"
    listed = json.loads(path.read_text())
    listed[1][key] = value
    path.write_text(json.dumps(listed))
    with pytest.raises(InputError, match=said):
        environment.open(episode())


def test_files_that_cannot_be_read_are_named(tmp_path):
    environment = published(tmp_path)
    (tmp_path / "BBoxes" / "house_a.json").write_text('{"a": {"1": {"name": "x", "visible_pos": [1]')
    with pytest.raises(InputError, match=r"house_a\.json is not JSON"):
        environment.open(episode())
    shutil.rmtree(tmp_path / "BBoxes")
    with pytest.raises(InputError, match="BBoxes does not exist"):
        environment.open(episode())
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no navigation graphs"):
        VLNGraph(graphs=tmp_path / "empty").scans()
    (tmp_path / "torn.jsonl").write_text('{"scan": "house", "viewpoints"\n')
    with pytest.raises(InputError, match=r"torn\.jsonl:1 is not JSON"):
        VLNGraph(graphs=tmp_path / "torn.jsonl").scans()
    with pytest.raises(InputError, match="stands in line 1 already"):
        VLNGraph(graphs=lines(tmp_path / "twice.jsonl", [rows(), rows()])).scans()


def test_a_file_that_changed_is_read_again(tmp_path):
    assert ("a", "b", "c") == world(tmp_path).open(episode()).view().places
    assert ("a", "b", "c", "x") == world(tmp_path, rows(ways=[*WAYS, "ax"])).open(episode()).view().places


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"scan": "castle"}, "has no scan 'castle'"),
        ({"start": "q"}, "the start is no viewpoint of scan house"),
        ({"goals": ["q"]}, "the goal is no viewpoint of scan house"),
        ({"goals": []}, "a list of goals"),
        ({"goals": "e"}, "a list of goals"),
        ({"goals": ["x"]}, "no way leads from the start to a goal in scan house"),
        ({"heading": math.nan}, "heading of an episode is an angle"),
    ],
)
def test_an_episode_that_the_world_does_not_have_is_refused_by_every_verb(tmp_path, given, said):
    environment = world(tmp_path)
    broken = {**episode(), **given}
    for verb in (environment.open, environment.shortest, lambda e: environment.judge(e, ["a"]), lambda e: environment.restore(e, ["a"])):
        with pytest.raises(InputError, match=said):
            verb(broken)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (["a", "d"], "step 1 of the path goes where there is no way"),
        (["a", "a"], "step 1 of the path goes where there is no way"),
        (["b", "a"], "does not begin at the start"),
        (["a", "q"], "place 1 of the path is no viewpoint"),
        ([], "the path is empty"),
    ],
)
def test_a_path_that_is_no_walk_is_refused(tmp_path, path, said):
    environment = world(tmp_path)
    for verb in (environment.restore, environment.judge):
        with pytest.raises(InputError, match=said):
            verb(episode(), path)


def test_a_length_is_above_nothing():
    with pytest.raises(InputError, match="unit is a length in metres"):
        VLNGraph(graphs=Path("graphs"), unit=0)


# --- image features


def features(folder, change=lambda file: None):
    h5py = pytest.importorskip("h5py", reason="image features need h5py")
    path = folder / "features.hdf5"
    with h5py.File(path, "w") as file:
        for number, place in enumerate(HOUSE):
            file[f"house_{place}"] = np.full((36, 2), 100.0 * number) + np.arange(36)[:, None]
        change(file)
    return path


def test_features_are_the_mean_of_a_visited_place_s_views_and_the_view_towards_one_on_the_frontier(tmp_path):
    walk = world(tmp_path, features=features(tmp_path)).open(episode())
    view = walk.view()

    assert {"a": 17.5, "b": EAST, "c": NORTH} == dict(zip(view.places, view.features[:, 0].tolist(), strict=True))
    assert ((3, 2), np.float32) == (view.features.shape, view.features.dtype)
    walk.step("c")
    assert [217.5, 17.5, 15, 200 + EAST] == walk.view().features[:, 0].tolist(), "c and a, then b from a and d from c"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda file: file["house_d"].__setitem__((3, 1), np.nan), "house_d: features are not finite"),
        (lambda file: file.__delitem__("house_e"), "has no features of house_e"),
        (lambda file: (file.__delitem__("house_e"), file.__setitem__("house_e", np.zeros((12, 2)))), "house_e: features are of the wrong shape"),
        (lambda file: (file.__delitem__("house_e"), file.__setitem__("house_e", np.zeros((36, 3)))), "house_e has another size"),
    ],
)
def test_broken_features_are_named_by_file_and_key(tmp_path, change, said):
    with pytest.raises(InputError, match=said):
        world(tmp_path, features=features(tmp_path, change)).open(episode())


# --- the real buildings


@needs_published
def test_in_real_buildings_the_teacher_s_walk_is_the_shortest_and_a_view_is_what_was_seen():
    environment = VLNGraph(graphs=PUBLISHED / "graphs.jsonl.gz", objects=PUBLISHED / "objects.jsonl.gz")
    random_ = random.Random(0)
    scans = environment.scans()
    assert 60 == len(scans)
    for scan in random_.sample(scans, 6):
        graph = environment.graph(scan)
        beside = {place: {graph.places[there] for there in graph.neighbors[here]} for here, place in enumerate(graph.places)}
        reached = [place for here, place in enumerate(graph.places) if np.isfinite(graph.distances[0, here])]
        for _ in range(8):
            start, goal = random_.sample(reached, 2)
            one = {"scan": scan, "start": start, "goals": [goal]}
            walk = environment.open(one)
            while (place := walk.teacher()) != STOP:
                view = walk.view()
                assert set(walk.path) == set(view.places[: view.visited])
                assert set.union(*(beside[passed] for passed in walk.path)) - set(walk.path) == set(view.frontier)
                assert (view.ways == view.ways.T).all()
                walk.step(place)
            found = environment.judge(one, walk.path)
            assert (1, pytest.approx(found["shortest"])) == (found["success"], found["length"])
            assert pytest.approx(float(graph.distances[graph.index[start], graph.index[goal]])) == found["shortest"]


@needs_published
def test_the_census_of_the_real_files_adds_up():
    environment = VLNGraph(graphs=PUBLISHED / "graphs.jsonl.gz", objects=PUBLISHED / "objects.jsonl.gz")
    found = environment.census()

    assert (60, 7633, 26983) == (found["scans"], found["viewpoints"], found["objects"])
    for kind in ("viewpoints", "ways", "objects"):
        assert found[kind] == sum(count for name, count in found.items() if name.startswith(f"{kind}."))

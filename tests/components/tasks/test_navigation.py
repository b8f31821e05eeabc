"""Goal pairs and published instructions: splits by scan, problems that hold, and files that do not."""

import gzip
import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from ratchet.components.environments.vln_graph import VLNGraph
from ratchet.components.tasks.navigation import GoalPairs, Instructions, scans_of
from ratchet.errors import InputError

PUBLISHED = Path(__file__).parents[3] / "../shared/data/reverie"

needs_published = pytest.mark.skipif(not PUBLISHED.exists(), reason="the REVERIE files do not lie beside the clone (../shared/data/reverie)")

SCANS = [f"scan{number}" for number in range(10)]
CHAIN = "abcdefgh"
"""Each scan is a corridor; an object named after its place is seen from each, but g and h look alike and in b nothing is seen."""


def corridor(scan):
    places = [
        {"viewpoint": place, "position": [2 * at, 0, 0], "neighbors": [CHAIN[there] for there in (at - 1, at + 1) if 0 <= there < len(CHAIN)]}
        for at, place in enumerate(CHAIN)
    ]
    return {"scan": scan, "viewpoints": [*places, {"viewpoint": "x", "position": [0, 9, 0], "neighbors": []}]}


def seen(scan):
    names = {place: f"thing#{place}" for place in "acdef"} | {"g": "twin", "h": "twin"}
    return [{"scan": scan, "viewpoint": place, "objects": [{"id": ord(place), "name": name, "visible_views": [1]}]} for place, name in names.items()]


@pytest.fixture
def environment(tmp_path):
    for name, listed in (("graphs", [corridor(scan) for scan in SCANS]), ("objects", [row for scan in SCANS for row in seen(scan)])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
    return VLNGraph(graphs=tmp_path / "graphs.jsonl", objects=tmp_path / "objects.jsonl")


def pairs(environment, **fields):
    return GoalPairs(**{"environment": environment, "min_places": 3, "max_places": 4, "held_out": 3, "dev_scans": 2, **fields})


def proposed(task, split):
    return list(replace(task, split=split).propose())


# --- goal pairs


def test_a_goal_pair_is_told_as_what_is_seen_at_the_goal_and_solved_by_the_shortest_way(environment):
    problem = next(one for one in proposed(pairs(environment), "test") if one.id.endswith("/a/d"))

    scan = problem.group
    assert (f"{scan}/a/d", "d thing", "d", "a b c d", 4) == (problem.id, problem.prompt, problem.reference, problem.solution, problem.difficulty)
    assert {"scan": scan, "start": "a", "goals": ["d"]} == problem.episode
    assert 1 == environment.judge(problem.episode, problem.solution.split())["spl"]


def test_every_pair_that_fits_is_proposed_and_none_whose_goal_is_not_told_apart(environment):
    """Ways of 3 or 4 places to a, c, d, e or f: b has no words, g and h have the same, x is not reached."""
    wanted = {(s, g) for s in CHAIN for g in "acdef" if abs(CHAIN.index(s) - CHAIN.index(g)) in (2, 3)}
    problems = proposed(pairs(environment), "test")

    by_scan = {scan: {(one.episode["start"], one.reference) for one in problems if one.group == scan} for scan in {one.group for one in problems}}
    assert 3 == len(by_scan)
    assert all(wanted == found for found in by_scan.values())


def test_scans_are_split_by_the_hash_of_their_names_the_same_for_every_task_and_seed(environment):
    ranked = sorted(SCANS, key=lambda scan: hashlib.sha256(scan.encode()).hexdigest())
    parts = {split: scans_of(environment, split, held_out=3, dev_scans=2) for split in ("test", "dev", "train", "worked")}

    assert (sorted(ranked[:3]), sorted(ranked[3:5]), sorted(ranked[5:])) == (parts["test"], parts["dev"], parts["train"])
    assert parts["train"] == parts["worked"]
    task = pairs(environment)
    for split in parts:
        for seed in (0, 1):
            assert parts[split] == sorted({problem.group for problem in proposed(replace(task, problem_seed=seed), split)})


def test_splits_are_disjoint_and_together_whole_with_the_problems_of_a_scan_side_by_side(environment):
    task = pairs(environment, worked_share=0.25)
    splits = {split: proposed(task, split) for split in ("worked", "train", "dev", "test")}
    ids = [problem.id for problems in splits.values() for problem in problems]

    assert len(ids) == len(set(ids)) == 10 * len(task.pairs(environment.graph("scan0")))
    assert 5 * round(0.25 * len(ids) / 10) == len(splits["worked"])
    for problems in splits.values():
        groups = [problem.group for problem in problems]
        assert groups == sorted(groups)
    assert splits["train"] == proposed(task, "train")


def test_per_scan_takes_so_many_and_more_of_them_keep_the_first(environment):
    few, more = ({problem.id for problem in proposed(pairs(environment, per_scan=count), "train")} for count in (2, 5))

    assert (5 * 2, 5 * 5) == (len(few), len(more))
    assert few < more
    assert few != {problem.id for problem in proposed(pairs(environment, per_scan=2, problem_seed=1), "train")}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"split": "prm"}, "navigation has no prm split"),
        ({"split": "tset"}, "no such split"),
        ({"min_places": 1}, "at least 2 places"),
        ({"min_places": 6}, "at least 2 places"),
        ({"worked_share": 1.5}, "worked_share is a share"),
        ({"per_scan": -1}, "per_scan counts something"),
    ],
)
def test_settings_that_make_no_sense_are_refused(environment, fields, said):
    with pytest.raises(InputError, match=said):
        pairs(environment, **fields)


def test_more_scans_than_there_are_cannot_be_held_out(environment):
    with pytest.raises(InputError, match=r"not so many scans[\s\S]*at most 10"):
        proposed(pairs(environment, held_out=9), "train")


# --- instructions


def reverie(number, scan, path="abcd", object=ord("d"), **more):
    texts = [f"Go there {number}", f"Walk there {number} "]
    return {"id": f"{number}_{object}", "scan": scan, "path": list(path), "heading": 0.5, "objId": object, "instructions": texts, **more}


def episodes(path, listed):
    if path.suffix == ".json":
        path.write_text(json.dumps(listed))
    else:
        text = "".join(json.dumps(row) + "\n" for row in listed).encode()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def instructions(environment, path, **fields):
    return Instructions(**{"environment": environment, "train_file": path, "held_out": 3, "dev_scans": 2, **fields})


@pytest.mark.parametrize("name", ["train.json", "train.jsonl", "train.jsonl.gz"])
def test_every_instruction_is_a_problem_from_every_kind_of_file(environment, tmp_path, name):
    path = episodes(tmp_path / name, [reverie(number, scan) for number, scan in enumerate(reversed(SCANS))])
    task = instructions(environment, path)
    splits = {split: proposed(task, split) for split in ("worked", "train", "dev", "test")}

    assert (4, 6) == (len(splits["dev"]), len(splits["test"]))
    assert 10 == len(splits["worked"]) + len(splits["train"])
    first, second = splits["test"][:2]
    number = 9 - SCANS.index(first.group)
    assert (f"{number}_100/0", f"{number}_100/1", f"Walk there {number}") == (first.id, second.id, second.prompt)
    assert ("d", "a b c d", 4) == (first.reference, first.solution, first.difficulty)
    assert {"scan": first.group, "start": "a", "heading": 0.5, "goals": ["d"]} == first.episode
    assert [problem.group for problem in splits["test"]] == sorted(problem.group for problem in splits["test"])


def test_goals_are_where_the_object_is_seen_or_where_the_path_ends(environment, tmp_path):
    listed = [reverie(0, "scan0", object=ord("e")), reverie(1, "scan0", object=777)]
    plain = {"path_id": 7, "scan": "scan0", "path": ["a", "b", "c"], "instructions": ["Go."]}
    boxes = [{"image_id": place, "scan": "scan0", "obj_name": None} for place in "ede"]
    soon = {"path": [list("abcd"), list("cde")], "bboxes": boxes, "instructions": [["big", "near", "here", "a big thing near here"]]}
    path = episodes(tmp_path / "all.json", [*listed, plain, soon])
    problems = proposed(instructions(environment, path, test_file=path), "test")

    wanted = [("0_101/0", "e"), ("0_101/1", "e"), ("1_777/0", "d"), ("1_777/1", "d"), ("7/0", "c"), ("3.0/0", "e d"), ("3.1/0", "e d")]
    assert wanted == [(problem.id, problem.reference) for problem in problems]
    assert ("a big thing near here", 0.0, ["e", "d"]) == (problems[-1].prompt, problems[-1].episode["heading"], problems[-1].episode["goals"])


def test_a_split_with_a_file_of_its_own_is_all_of_that_file_and_takes_nothing_from_the_other(environment, tmp_path):
    train = episodes(tmp_path / "train.jsonl", [reverie(number, scan) for number, scan in enumerate(SCANS)])
    test = episodes(tmp_path / "test.jsonl", [reverie(number, scan) for number, scan in enumerate(SCANS, start=50)])
    task = instructions(environment, train, test_file=test, worked_share=0.0)

    assert [f"{number}_100/{index}" for number in range(50, 60) for index in (0, 1)] == [problem.id for problem in proposed(task, "test")]
    assert 16 == len(proposed(task, "train")), "only dev scans are left out"
    assert 20 == len(proposed(replace(task, dev_file=test), "train"))
    assert 10 == len(proposed(replace(task, per_scan=1), "test"))


def test_an_episode_s_instructions_stay_on_one_side(environment, tmp_path):
    scan = scans_of(environment, "train", held_out=3, dev_scans=2)[0]
    task = instructions(environment, episodes(tmp_path / "t.jsonl", [reverie(number, scan) for number in range(10)]), worked_share=0.3)
    sides = [{problem.id.partition("/")[0] for problem in proposed(task, split)} for split in ("worked", "train")]

    assert (3, 7, set()) == (len(sides[0]), len(sides[1]), sides[0] & sides[1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scan": "castle"}, "has no scan 'castle'"),
        ({"path": ["a", "c"]}, "step 1 of the path goes where there is no way"),
        ({"path": ["a", "q"]}, "goal is no viewpoint|place 1 of the path is no viewpoint"),
        ({"path": ["a", "x"], "objId": None}, "no way leads from the start to a goal"),
        ({"path": ["a"]}, "the path has no goal"),
        ({"path": "abcd"}, "'path' is of the wrong kind"),
        ({"instructions": []}, "has no path or no instruction"),
        ({"instructions": ["Go", " "]}, "an instruction that is no text"),
        ({"heading": math.nan}, "heading of an episode is an angle"),
        ({"id": "0_100"}, r"has the id of .*train\.json"),
    ],
)
@pytest.mark.parametrize(("name", "where"), [("train.jsonl", r"train\.jsonl:2"), ("train.json", r"train\.json\[1\]")])
def test_a_broken_episode_is_named_by_file_and_entry_whatever_the_split(environment, tmp_path, change, said, name, where):
    path = episodes(tmp_path / name, [reverie(0, "scan0"), {**reverie(1, "scan1"), **change}])
    for split in ("train", "test"):
        with pytest.raises(InputError, match=where) as caught:
            proposed(instructions(environment, path), split)
        assert caught.match(said)


def test_files_that_hold_no_episodes_are_refused(environment, tmp_path):
    for content, said in (("{", "is not JSON"), ("[]", "is not a list of episodes"), ('{"a": 1}', "is not a list of episodes")):
        (tmp_path / "train.json").write_text(content)
        with pytest.raises(InputError, match=said):
            proposed(instructions(environment, tmp_path / "train.json"), "train")
    with pytest.raises(InputError, match=r"nowhere\.json is not a file"):
        proposed(instructions(environment, tmp_path / "nowhere.json"), "train")


# --- the published files


@pytest.fixture(scope="module")
def buildings():
    return VLNGraph(graphs=PUBLISHED / "graphs.jsonl.gz", objects=PUBLISHED / "objects.jsonl.gz")


@needs_published
def test_goal_pairs_of_real_buildings(buildings):
    task = GoalPairs(environment=buildings, per_scan=10)
    splits = {split: proposed(task, split) for split in ("worked", "train", "dev", "test")}
    scans = {split: {problem.group for problem in problems} for split, problems in splits.items()}

    assert (12, 6, set(), set()) == (len(scans["test"]), len(scans["dev"]), scans["test"] & scans["train"], scans["dev"] & scans["train"])
    assert 120 == len(splits["test"])
    for problem in splits["test"]:
        assert problem.solution.split() == buildings.shortest(problem.episode)
        assert 5 <= problem.difficulty == len(problem.solution.split()) <= 7


@needs_published
def test_every_published_instruction_is_in_one_split(buildings):
    task = Instructions(environment=buildings, train_file=PUBLISHED / "val_seen.jsonl.gz")
    splits = {split: proposed(task, split) for split in ("worked", "train", "dev", "test")}
    with gzip.open(PUBLISHED / "val_seen.jsonl.gz", "rt") as lines:
        published = sum(len(json.loads(line)["instructions"]) for line in lines)

    assert published == len({problem.id for problems in splits.values() for problem in problems}) == sum(map(len, splits.values()))
    goals = {problem.group for problem in splits["test"]}
    assert goals <= set(scans_of(buildings, "test", held_out=12, dev_scans=6))

"""A fork goes on after a round of another run: what is shared is never made again, and neither run harms the other."""

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ratchet.errors import InputError
from ratchet.flows.fork import changed, taken_over, together
from ratchet.flows.states import begun
from ratchet.flows.summary import summary_of
from ratchet.infra.history import history_of
from ratchet.infra.lease import Lease
from ratchet.infra.ledger import results
from ratchet.infra.runs import RunFolder
from ratchet.infra.store import LocalStore
from tests.toys.drive import TOYS, Die, Done, Warm, last_words, wait_until

NAME, NEW = "mine", "branch"
WORDS = ("recipe=b_star", "rounds=3", "evaluation.samples=0")
DIALS = ("training.gain=0.03",)


@pytest.fixture(scope="module")
def original(ratchet: Warm, memory: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=memory) as root:
        assert 0 == ratchet.run(*WORDS, "--name", NAME, root=Path(root)).code
        yield Path(root)


@pytest.fixture
def finished(original: Path, root: Path) -> Path:
    """A root with a finished run of three rounds."""
    return shutil.copytree(original, root, dirs_exist_ok=True)


def run_of(root: Path, name: str = NEW) -> RunFolder:
    return RunFolder(root, name)


def fork(ratchet: Warm, root: Path, *dials: str, after: int = 1, name: str = NAME, new: str = NEW, **more: Any) -> Done:
    words = ("--config-dir", TOYS[1], *(dials or DIALS))
    return ratchet("fork", name, "--round", str(after), "--as", new, *words, "--no-prefect", root=root, **more)


def events(root: Path, kind: str, name: str = NEW) -> list[dict[str, Any]]:
    return [event for event in run_of(root, name).ledger if event["kind"] == kind]


def rounds(root: Path, name: str, upto: int) -> list[Any]:
    """What the rounds up to one made."""
    return [row for row in results(run_of(root, name).ledger) if row[0] <= upto]


def states(root: Path, name: str) -> list[str]:
    return [row.state for row in summary_of(run_of(root, name)).rounds]


def made(root: Path) -> dict[str, list[str]]:
    return last_words(root)


# what a fork is


def test_a_fork_has_the_rounds_of_its_run_and_makes_the_later_ones_with_its_own_dials(ratchet: Warm, finished: Path) -> None:
    before = made(finished)
    done = fork(ratchet, finished)
    assert 0 == done.code, done.err
    assert done.err.startswith(f"{NEW} has rounds 0 to 1 of {NAME}\n")
    assert rounds(finished, NAME, 1) == rounds(finished, NEW, 1)
    assert states(finished, NAME)[:2] == states(finished, NEW)[:2]
    assert {True} == {a != b for a, b in zip(states(finished, NAME)[2:], states(finished, NEW)[2:], strict=True)}
    assert before == {identity: words for identity, words in made(finished).items() if identity in before}, "what is shared is made once"
    mine, branch = summary_of(run_of(finished, NAME)), summary_of(run_of(finished))
    assert (0.01, 0.03) == (mine.config["training"]["gain"], branch.config["training"]["gain"])
    assert ("finished", [0, 1, 2, 3]) == (branch.status, [row.round for row in branch.rounds])
    assert [(r.metrics, r.knobs, r.kept, r.balance) for r in mine.rounds[:2]] == [(r.metrics, r.knobs, r.kept, r.balance) for r in branch.rounds[:2]]


def test_the_dials_do_not_reach_back_even_where_they_would_have_changed_what_was(ratchet: Warm, finished: Path) -> None:
    """Other problems, another seed, another recipe and another start: rounds 0 and 1 stay, and nothing of them is asked again."""
    done = fork(ratchet, finished, "task.size=10", "seed=7", "recipe=rest_em", "policy.skill=0.9")
    assert 0 == done.code, done.err
    assert rounds(finished, NAME, 1) == rounds(finished, NEW, 1)
    assert {2, 3} == {event["round"] for event in events(finished, "stage") if event["number"] > events(finished, "driver")[0]["number"]}
    sizes = {event["title"]: event["rows"] for event in events(finished, "published") if event["title"].endswith("propose")}
    assert (12, 10) == (sizes["round 0 · train problems · propose"], sizes["round 2 · train problems · propose"])
    asked = [event["verb"] for event in events(finished, "stage") if event["round"] == 2]
    assert "adjust" not in asked, "ReST-EM has no controller"
    own = [event["essence"]["seed"] for event in events(finished, "stage") if event["round"] == 2 and event["verb"] == "train"]
    assert own != [event["essence"]["seed"] for event in events(finished, "stage", NAME) if event["round"] == 2 and event["verb"] == "train"]


def test_a_fork_inherits_the_words_and_the_seed_of_its_run(ratchet: Warm, finished: Path) -> None:
    assert 0 == fork(ratchet, finished, "rounds=4").code
    same = {(row[0], row[1], row[3], row[4]) for row in rounds(finished, NAME, 3) if row[1] != "propose"}
    assert same == {(row[0], row[1], row[3], row[4]) for row in rounds(finished, NEW, 3) if row[1] != "propose"}, (
        "more rounds, and all else is shared"
    )
    assert states(finished, NAME) == states(finished, NEW)[:4]
    opening = events(finished, "run")[0]
    assert [*TOYS[2:], *WORDS[0:1], WORDS[2], "rounds=4"] == opening["words"]
    assert 0 == opening["seed"]


def test_a_fork_is_seen_in_both_ledgers_and_by_show(ratchet: Warm, finished: Path) -> None:
    ended = ratchet("show", NAME, "--json", root=finished).json()["ended"]
    assert 0 == fork(ratchet, finished).code
    state = states(finished, NAME)[1]
    forked = events(finished, "run")[0]["forked"]
    assert (NAME, 1, state) == (forked["run"], forked["round"], forked["state"])
    assert [(NEW, 1, state)] == [(e["name"], e["round"], e["state"]) for e in events(finished, "forked", NAME)]
    assert "Forked from mine after round 1" in ratchet("show", NEW, root=finished).out
    assert "Forked as branch after round 1." in ratchet("show", NAME, root=finished).out
    shown = ratchet("show", NAME, "--json", root=finished).json()
    assert ("finished", ended) == (shown["status"], shown["ended"]), "that it was forked is no work of its own"
    shown = ratchet("show", NEW, "--json", root=finished).json()
    assert {"run": NAME, "round": 1, "state": state} == shown["forked"]
    assert {True} == {stage["shared"] for stage in shown["stages"] if stage["round"] <= 1}
    assert 0 == ratchet("compare", NAME, NEW, root=finished).code


def test_a_fork_of_a_fork_has_the_rounds_of_both(ratchet: Warm, finished: Path) -> None:
    assert 0 == fork(ratchet, finished).code
    assert 0 == fork(ratchet, finished, "training.gain=0.05", "rounds=4", after=2, name=NEW, new="twig").code
    assert rounds(finished, NEW, 2) == rounds(finished, "twig", 2)
    assert states(finished, NAME)[:2] == states(finished, "twig")[:2]
    history = history_of(list(run_of(finished, "twig").ledger))
    assert [0.01, 0.01, 0.03, 0.05, 0.05] == [history.config_of(index)["training"]["gain"] for index in range(5)]
    refused = ratchet("retry", "twig", "--round", "0", "--no-prefect", root=finished)
    assert (2, True) == (refused.code, f"`ratchet retry {NEW} --round 0`" in refused.err)


def test_a_running_run_can_be_forked(ratchet: Warm, finished: Path) -> None:
    """Only its own driver writes its ledger; the fork's says all there is to say, until the same command finds it free."""
    with Lease.take(run_of(finished, NAME)):
        done = fork(ratchet, finished)
        assert 0 == done.code, done.err
        assert [] == events(finished, "forked", NAME)
    assert 0 == fork(ratchet, finished).code
    assert [NEW] == [event["name"] for event in events(finished, "forked", NAME)]


# the daily verbs


def test_the_same_command_again_and_resume_and_run_go_on_with_the_fork(ratchet: Warm, finished: Path) -> None:
    assert 0 == fork(ratchet, finished).code
    before, words = results(run_of(finished).ledger), made(finished)
    for again in (
        lambda: fork(ratchet, finished),
        lambda: ratchet("resume", NEW, "--no-prefect", root=finished),
        lambda: ratchet.run(*WORDS, *DIALS, "--name", NEW, root=finished),
    ):
        assert 0 == again().code
        assert (before, words) == (results(run_of(finished).ledger), made(finished))
    assert 0 == ratchet("resume", NEW, "rounds=4", "--no-prefect", root=finished).code
    assert [0, 1, 2, 3, 4] == [row.round for row in summary_of(run_of(finished)).rounds]


def test_a_plan_of_a_fork_begins_where_the_fork_does_and_compares_with_its_run(ratchet: Warm, finished: Path) -> None:
    assert 0 == fork(ratchet, finished).code
    assert 0 == ratchet("delete", NEW, "--yes", root=finished).code
    dead = fork(ratchet, finished, die=Die("ratchet.infra.ledger.Ledger.append", 1, word="driver"))
    assert -9 == dead.code
    plan = ratchet("plan", *TOYS, *WORDS, *DIALS, "--name", NEW, "--json", root=finished).json()
    assert {2} == {line["round"] for line in plan["lines"]}
    run = next(line for line in plan["lines"] if line["fate"] == "run")
    assert ("round 2 · train", "gain: 0.01 → 0.03") == (run["title"], run["why"])


def test_a_retry_of_a_taken_over_round_is_refused_and_names_the_run_it_is_of(ratchet: Warm, finished: Path) -> None:
    assert 0 == fork(ratchet, finished).code
    before = made(finished)
    done = ratchet("retry", NEW, "--round", "1", "--no-prefect", root=finished)
    assert 2 == done.code
    assert f"round 1 of {NEW} is that of {NAME}" in done.err
    assert f"`ratchet retry {NAME} --round 1`" in done.err
    assert before == made(finished)


def test_a_retry_of_an_own_round_leaves_what_was_taken_over(ratchet: Warm, finished: Path) -> None:
    assert 0 == fork(ratchet, finished).code
    before = results(run_of(finished).ledger)
    assert 0 == ratchet("retry", NEW, "--round", "2", "--no-prefect", root=finished).code
    titles = events(finished, "retried")[0]["titles"]
    assert {"2", "3"} == {title.split()[1] for title in titles}
    assert before == results(run_of(finished).ledger)


def test_a_retry_in_the_run_does_not_harm_the_fork(ratchet: Warm, finished: Path) -> None:
    assert 0 == fork(ratchet, finished).code
    before = results(run_of(finished).ledger)
    assert 0 == ratchet("retry", NAME, "--round", "1", "--no-prefect", root=finished).code
    words = made(finished)
    assert 0 == ratchet("resume", NEW, "--no-prefect", root=finished).code
    assert (before, states(finished, NAME)[:2]) == (results(run_of(finished).ledger), states(finished, NEW)[:2])
    assert words == made(finished), "all that the fork needs was made again, with the same content"


def test_while_the_run_makes_a_taken_over_round_again_the_fork_says_what_to_wait_for(ratchet: Warm, finished: Path) -> None:
    assert 0 == fork(ratchet, finished).code
    dead = ratchet("retry", NAME, "--round", "1", "--no-prefect", root=finished, die=Die("ratchet.infra.ledger.Ledger.append", word="driver"))
    assert -9 == dead.code
    done = ratchet("resume", NEW, "rounds=4", "--no-prefect", root=finished)
    assert 1 == done.code
    assert "policy of round 1, which branch took over from mine, is not in the store" in done.err
    assert f"next: `ratchet resume {NAME}` makes it again" in done.err
    assert 0 == ratchet("resume", NAME, "--no-prefect", root=finished).code
    assert 0 == ratchet("resume", NEW, "rounds=4", "--no-prefect", root=finished).code


def test_an_artifact_that_came_out_otherwise_is_not_built_on(ratchet: Warm, finished: Path) -> None:
    assert 0 == fork(ratchet, finished).code
    store = LocalStore(state=finished / ".ratchet")
    state = begun(run_of(finished), store)
    assert state is not None
    assert [1, 0] == [state.round, *(past.round for past in state.history)]
    store.quarantine(state.policy.identity)
    draft = store.draft(state.policy.identity, "other")
    (draft / "policy.json").write_text(json.dumps({"skill": 0.5, "steps": 1}))
    store.publish(draft, identity=state.policy.identity, kind="policy")
    done = ratchet("resume", NEW, "--no-prefect", root=finished)
    assert (1, True) == (done.code, "was made again and came out otherwise" in done.err)
    assert f"next: fork {NAME} anew" in done.err


def test_a_corrupted_artifact_of_a_taken_over_round_is_made_again_by_the_run_it_is_of(ratchet: Warm, finished: Path) -> None:
    assert 0 == fork(ratchet, finished).code
    identity = next(e for e in events(finished, "advanced") if e["round"] == 1)["roles"]["policy"]["identity"]
    (finished / ".ratchet" / "objects" / identity / "manifest.json").write_text("{")
    done = ratchet("resume", NEW, "--no-prefect", root=finished)
    assert (1, True) == (done.code, f"`ratchet retry {NAME} --round 1 --stage train`" in done.err), done.err
    assert 0 == ratchet("retry", NAME, "--round", "1", "--stage", "train", "--no-prefect", root=finished).code
    assert 0 == ratchet("resume", NEW, "--no-prefect", root=finished).code


def test_a_deleted_run_leaves_what_its_fork_uses(ratchet: Warm, finished: Path) -> None:
    assert 0 == fork(ratchet, finished).code
    before = results(run_of(finished).ledger)
    assert 0 == ratchet("delete", NAME, "--yes", root=finished).code
    store = LocalStore(state=finished / ".ratchet")
    assert all(store.open(identity) for *_, identity, _ in before), "with all their shards"
    words = made(finished)
    assert 0 == ratchet("resume", NEW, "--no-prefect", root=finished).code
    assert words == made(finished)
    assert 0 == ratchet("resume", NEW, "rounds=4", "--no-prefect", root=finished).code
    assert 0 == ratchet("delete", NEW, "--yes", root=finished).code
    assert [] == list((finished / ".ratchet" / "objects").iterdir()), "and with the last of both all is gone"


# deaths


DEATHS = [
    *(Die("ratchet.infra.ledger.Ledger.append", n) for n in (1, 2, 20)),  # while the ledger is copied
    Die("pathlib.Path.rename", 1, "before"),
    Die("pathlib.Path.rename", 1, "after"),
    *(Die("ratchet.infra.ledger.Ledger.append", n, "after", word) for n, word in ((1, "forked"), (1, "driver"), (1, "finished"))),
    *(Die("ratchet.infra.executors.Inline.release", n) for n in (1, 5)),
]


@pytest.mark.parametrize("die", DEATHS, ids=str)
def test_a_fork_that_is_killed_anywhere_goes_on_with_the_same_command_to_the_same_digests(
    ratchet: Warm, finished: Path, original: Path, die: Die, memory: Path
) -> None:
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        whole = Path(shutil.copytree(original, folder, dirs_exist_ok=True))
        assert 0 == fork(ratchet, whole).code
        expected, words = (results(run_of(whole).ledger), states(whole, NEW)), made(whole)
    dead = fork(ratchet, finished, die=die)
    assert -9 == dead.code, dead.err
    names = [run["name"] for run in ratchet("runs", "--json", root=finished).json()]
    assert names in ([NAME], [NEW, NAME]), "there is the fork or not: no half of one"
    if NEW in names:
        assert rounds(finished, NAME, 1) == rounds(finished, NEW, 1)
    assert 0 == fork(ratchet, finished).code
    assert expected == (results(run_of(finished).ledger), states(finished, NEW))
    assert words.keys() == made(finished).keys()
    assert not [found for found in made(finished).values() if found.count("published") > 1], "nothing is made twice"
    assert [NEW] == [event["name"] for event in events(finished, "forked", NAME)]
    assert not (finished / NEW / ".forking").exists()


def test_two_forks_at_once_under_one_name_are_one(ratchet: Warm, finished: Path) -> None:
    both = [
        ratchet.start(
            "fork", NAME, "--round", "1", "--as", NEW, "--config-dir", TOYS[1], *DIALS, "synthesis.seconds=0.01", "--no-prefect", root=finished
        )
        for _ in range(2)
    ]
    assert [0, 3] == sorted(going.wait().code for going in both)


def test_a_fork_whose_ledger_was_cut_short_is_completed_by_the_same_command_and_by_no_other(ratchet: Warm, finished: Path) -> None:
    """As in a bucket, where there is no renaming of a whole ledger."""
    assert 0 == fork(ratchet, finished).code
    before, ledger = results(run_of(finished).ledger), run_of(finished).ledger.folder
    for path in sorted(ledger.iterdir())[20:]:
        path.unlink()
    done = ratchet("resume", NEW, "--no-prefect", root=finished)
    assert (2, True) == (done.code, "was cut short before it had all of the rounds 0 to 1 of mine" in done.err)
    assert 0 == fork(ratchet, finished).code
    assert before == results(run_of(finished).ledger)
    for path in sorted(ledger.iterdir())[20:]:
        path.unlink()
    (ledger / "000003.json").write_text((ledger / "000002.json").read_text())
    done = fork(ratchet, finished)
    assert (2, True) == (done.code, "was cut short, and mine has changed since" in done.err), done.err


def test_a_fork_has_the_store_of_its_run(ratchet: Warm, finished: Path) -> None:
    from ratchet.flows.fork import fork as fork_it

    run = run_of(finished, NAME)
    config = {**summary_of(run).config, "store": {"_target_": "ratchet.infra.stores.S3", "uri": "s3://bucket/prefix"}}
    with pytest.raises(InputError, match=r"(?s)must have the same store.*s3://bucket/prefix.*the local store"):
        fork_it(run, run_of(finished), config, [], round=1)
    assert not (finished / NEW).exists()


# what is answered


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        (("nobody", "--round", "1", "--as", NEW, *DIALS), "there is no run 'nobody'"),
        (
            (NAME, "--round", "9", "--as", NEW, *DIALS),
            "round 9 of the run mine has not ended\n  got:     --round 9\n  allowed: a round that has ended: 0, 1, 2, 3",
        ),
        ((NAME, "--round", "-1", "--as", NEW, *DIALS), "round -1 of the run mine has not ended"),
        ((NAME, "--round", "3", "--as", NEW, *DIALS), "branch would have no round of its own"),
        ((NAME, "--round", "1", "--as", NEW), "nothing would be changed, so branch would be mine again"),
        ((NAME, "--round", "1", "--as", NEW, "training.gain=0.01", "executor=local"), "nothing would be changed"),
        ((NAME, "--round", "1", "--as", NEW, "training.gian=0.02"), "there is no key 'training.gian'"),
        ((NAME, "--round", "1", "--as", NEW, "training.gain=much"), "training.gain has a wrong value"),
        ((NAME, "--round", "1", "--as", "../up", *DIALS), "a run's name must be a plain folder name"),
        ((NAME, "--round", "1", "--as", NAME, *DIALS), "the run mine exists and is another one"),
    ],
)
def test_what_cannot_be_forked_is_answered_and_leaves_nothing(ratchet: Warm, finished: Path, words: tuple[str, ...], phrase: str) -> None:
    before = made(finished)
    done = ratchet("fork", *words, "--config-dir", TOYS[1], "--no-prefect", root=finished)
    assert (2, True) == (done.code, phrase in done.err), done.err
    assert before == made(finished)
    assert not (finished / NEW).exists()
    assert [] == events(finished, "forked", NAME)


def test_a_name_that_is_taken_by_another_run_is_refused(ratchet: Warm, finished: Path) -> None:
    assert 0 == fork(ratchet, finished).code
    for dials, after, got in (("seed=3",), 1, "with other values for seed, training.gain"), (DIALS, 2, "forked from mine after round 1"):
        done = fork(ratchet, finished, *dials, after=after)
        assert (2, True, True) == (done.code, "the run branch exists and is another one" in done.err, got in done.err), done.err


# the pieces


def test_words_of_a_fork_replace_those_before_and_a_group_chosen_anew_what_was_set_in_it() -> None:
    before = ["experiment=toy", "training=sft", "training.steps=3", "seed=1", "+task.extra=2", "tasks.other=1"]
    assert ["experiment=toy", "+task.extra=2", "tasks.other=1", "training=dpo", "seed=2"] == together(before, ["training=dpo", "seed=2"])
    assert ["a.b=1", "a.c=2"] == together(["a.b=1"], ["a.c=2"])


def test_a_recorded_config_keeps_what_today_is_composed_otherwise_unless_it_is_what_changed() -> None:
    recorded = {"seed": 1, "old": 5, "part": {"_target_": "A", "x": 1, "y": 1, "gone": 1}, "group": {"_target_": "A", "z": 1}}
    before = {"seed": 0, "part": {"_target_": "A", "x": 7, "y": 1}, "group": {"_target_": "A", "z": 2}}
    after = {"seed": 0, "part": {"_target_": "A", "x": 7, "y": 2, "w": None}, "group": {"_target_": "B"}}
    expected = {"seed": 1, "old": 5, "part": {"_target_": "A", "x": 1, "y": 2, "gone": 1, "w": None}, "group": {"_target_": "B"}}
    assert expected == changed(recorded, before, after)


def test_a_dial_that_others_follow_takes_them_along(ratchet: Warm, root: Path) -> None:
    """`${…}` is resolved in what is recorded, and yet the followers follow."""
    from ratchet.flows.compose import compose
    from ratchet.flows.driver import opening_of
    from ratchet.flows.fork import dials

    run = run_of(root, NAME)
    words = ["recipe=b_star", "selection.max_per_problem=3"]
    run.ledger.append("run", **opening_of(run, compose(words), words))
    config, whole = dials(run, ["selection.max_per_problem=2", "selection.complete_only=false"], None, name=NEW)
    assert [2, 2] == [config[part]["max_per_problem"] for part in ("selection", "control")]
    assert [False, False] == [config[part]["complete_only"] for part in ("selection", "control")]
    assert ["recipe=b_star", "selection.max_per_problem=2", "selection.complete_only=false"] == whole


def test_a_round_that_was_set_aside_or_built_on_another_cannot_be_taken_over() -> None:
    def ended(number: int, round: int, state: str, previous: str | None) -> dict[str, Any]:
        return {"kind": "advanced", "number": number, "round": round, "state": state, "previous": previous}

    first = [ended(1, 0, "a", None), ended(2, 1, "b", "a"), ended(3, 2, "c", "b")]
    assert ["a", "b", "c"] == [event["state"] for event in taken_over("r", first, 2)]
    aside = [*first, {"kind": "retried", "number": 4, "identities": ["c"]}]
    with pytest.raises(InputError, match=r"(?s)round 2 .* has not ended.*: 0, 1"):
        taken_over("r", aside, 2)
    otherwise = [*first, ended(4, 1, "B", "a")]
    assert ["a", "B"] == [event["state"] for event in taken_over("r", otherwise, 1)]
    with pytest.raises(InputError, match=r"(?s)round 2 .* has not ended.*: 0, 1"):
        taken_over("r", otherwise, 2)


# MLflow


def test_mlflow_shows_whole_curves_and_each_round_with_the_dials_it_was_made_with(ratchet: Warm, finished: Path) -> None:
    from ratchet.infra import tracking
    from ratchet.infra.tracking import MLflowTracker

    assert 0 == fork(ratchet, finished).code
    tracking.prepare()
    from mlflow import MlflowClient

    tracker = MLflowTracker(uri=None, experiment="ratchet")
    found = [tracker.ingest(run_of(finished, name), LocalStore(state=finished / ".ratchet")) for name in (NAME, NEW)]
    client = MlflowClient(tracking_uri=tracking.local_address(finished))
    mine, branch = (client.get_run(ingested.run_id) for ingested in found if ingested)
    assert (NAME, "1", mine.data.tags["ratchet.key"]) == tuple(branch.data.tags[f"ratchet.forked_{name}"] for name in ("from", "round", "key"))
    curves = [[(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "pass_at_1")] for run in (mine, branch)]
    assert [0, 1, 2, 3] == [step for step, _ in curves[1]]
    assert curves[0][:2] == curves[1][:2]
    children = client.search_runs([branch.info.experiment_id], f"tags.`mlflow.parentRunId` = '{branch.info.run_id}'")
    gains = {int(child.data.tags["ratchet.round"]): child.data.params["training.gain"] for child in children}
    assert {0: "0.01", 1: "0.01", 2: "0.03", 3: "0.03"} == gains
    assert mine.info.end_time < branch.info.end_time, "that it was forked does not make a run longer"


# a driver that was frozen


def test_a_driver_that_was_frozen_and_taken_over_from_another_machine_writes_nothing_more(ratchet: Warm, root: Path) -> None:
    words = ("run", *TOYS, "recipe=rest_em", "rounds=1", "synthesis.seconds=0.02", "--no-prefect", "--name", NAME)
    main = "tests.toys.elsewhere.main"
    first = ratchet.start(*words, root=root, main=main, env={"RATCHET_TEST_HOST": "alpha"})
    wait_until(lambda: len(events(root, "published", NAME)) > 3, "some stages")
    os.kill(first.pid, signal.SIGSTOP)
    second = ratchet(*words, root=root, main=main, env={"RATCHET_TEST_HOST": "beta"})
    assert 0 == second.code, second.err
    assert f"last in the hands of process {first.pid} on alpha" in second.err
    before = [event["number"] for event in run_of(root, NAME).ledger]
    os.kill(first.pid, signal.SIGCONT)
    done = first.wait()
    assert (3, True) == (done.code, "the run mine was taken over by process" in done.err and " on beta since " in done.err), done.err
    assert before == [event["number"] for event in RunFolder(root, NAME).ledger]

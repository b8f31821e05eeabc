"""What the command line answers: one clear message, the right exit code, never a traceback, and at once."""

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratchet.errors import InputError
from ratchet.flows.cli import OVERRIDE, parser
from ratchet.flows.compose import compose
from ratchet.flows.sweep import members
from ratchet.infra.ledger import results
from ratchet.infra.runs import RunFolder
from tests.toys.drive import HOUSE, TOYS, Done, Warm

ONE_ROUND = ("recipe=rest_em", "rounds=1", "evaluation.samples=0", "synthesis.rows_per_shard=null")


def refused(done: Done, *phrases: str, code: int = 2) -> None:
    """An answer to what the user can mend."""
    assert (code, False) == (done.code, "Traceback" in done.err), done.err
    for phrase in phrases:
        assert phrase in done.err


BAD = [
    (["synthesis.sampls=3"], "there is no key 'synthesis.sampls'", "did you mean synthesis.samples?", "synthesis.temperature"),
    (["sed=1"], "there is no key 'sed'", "did you mean seed?", "rounds, seed, selection"),
    (["recipe=b_sta"], "there is no recipe called 'b_sta'", "did you mean recipe=b_star?", "online_rft, rest_em"),
    (["synthesis=nonsense"], "there is no synthesis called 'nonsense'", "sampler, toss", "--config-dir"),
    (["experiment=nonsense"], "there is no experiment called 'nonsense'"),
    (["synthesis.samples=many"], "synthesis.samples has a wrong value", "'many'", "int"),
    (["synthesis.samples=1.5"], "synthesis.samples has a wrong value"),
    (["seed=x"], "seed has a wrong value", "'x'", "a whole number"),
    (["rounds=-1"], "rounds has a wrong value", "a whole number from 0"),
    (["rounds=true"], "rounds has a wrong value"),
    (["on_empty=perhaps"], "on_empty has a wrong value", "'perhaps'", "stop, continue"),
    (["knobs=all"], "knobs has a wrong value", "fixed, temperature, threshold, both"),
    (["executor=local", "executor.slots=0"], "slots has a wrong value", "1 or more"),
    (["synthesis.samples=[1"], "cannot read the override 'synthesis.samples=[1'", "KEY=VALUE"),
    (["synthesis._target_=nowhere.Toss"], "cannot import nowhere.Toss", "PYTHONPATH"),
    (["synthesis._target_=json.loads"], "synthesis._target_ must name a dataclass", "json.loads"),
    (["recipe.step=json.loads"], "json.loads is no recipe", "@recipe"),
    (["~synthesis"], "this recipe needs `synthesis`"),
    (["recipe=b_star", "control=null"], "this recipe needs `control`"),
    (["task=jsonl"], "task.train_file needs a value", "add task.train_file="),
    (["task=jsonl", "task.train_file=/nowhere.jsonl"], "/nowhere.jsonl does not exist"),
    (["task.size=0"], "the task has no problems in its train split", "at least one problem"),
    (["task=null"], "this recipe needs `task`"),
    (["experiment=sid_reverie", "sweep=null", "reverie=/", "task=null"], "`task` names no component to do `propose`", "choose one: task=…"),
    (["--name=../up"], "a run's name must be a plain folder name", "'../up'"),
]


@pytest.mark.parametrize(("words", "phrases"), [(words, phrases) for words, *phrases in BAD], ids=lambda value: value[0])
def test_bad_input_is_answered_with_what_would_be_good(ratchet: Warm, root: Path, words: list[str], phrases: list[str]) -> None:
    refused(ratchet.run(*words, root=root), *phrases)


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        ([], "required: VERB"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["runs", "seed=1"], "`runs` takes no KEY=VALUE"),
        (["run", "--config-dir", "/nowhere"], "--config-dir /nowhere is not a folder"),
        (["retry", "unknown", "--round=1"], "there is no run 'unknown'"),
        *(([verb, "unknown"], "there is no run 'unknown'") for verb in ("show", "compare", "logs", "delete", "resume")),
        (["retry", "unknown"], "required: --round"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_is_answered_with_what_would_be_right(ratchet: Warm, root: Path, words: list[str], phrase: str) -> None:
    refused(ratchet(*words, root=root), phrase)


def jsonl(path: Path, *lines: str) -> tuple[str, ...]:
    path.write_text("".join(f"{line}\n" for line in lines))
    sizes = ("task.worked=1", "task.prm=1", "task.dev=1", "task.test=2")
    return (*ONE_ROUND, "task=jsonl", f"task.train_file={path}", *sizes)


GOOD = [json.dumps({"prompt": f"{n}+1=", "reference": str(n + 1)}) for n in range(9)]


def test_a_torn_line_is_named_by_file_and_line_and_the_run_goes_on_once_it_is_mended(ratchet: Warm, root: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    refused(ratchet.run(*jsonl(path, *GOOD[:3], '{"prompt": "4+', *GOOD[4:]), root=root), f"{path}:4 is not JSON", "mend or remove the line")
    assert 0 == ratchet.run(*jsonl(path, *GOOD), root=root).code


def test_a_name_that_has_other_science_is_refused_and_the_keys_are_named(ratchet: Warm, root: Path) -> None:
    assert 0 == ratchet.run(*ONE_ROUND, "--name", "mine", root=root).code
    refused(
        ratchet.run(*ONE_ROUND, "seed=1", "synthesis.samples=9", "--name", "mine", root=root),
        "the run mine exists with other science",
        "other values for seed, synthesis.samples",
        "take another --name",
    )
    assert 0 == ratchet.run(*ONE_ROUND, "rounds=2", "executor.cpus_per_task=2", "--name", "mine", root=root).code, "operations may change"


def test_resume_changes_operations_only(ratchet: Warm, root: Path) -> None:
    assert 0 == ratchet.run(*ONE_ROUND, "--name", "mine", root=root).code
    refused(ratchet("resume", "mine", "seed=1", "--no-prefect", root=root), "`resume` keeps the run's science", "seed=1", "rounds")
    assert 0 == ratchet("resume", "mine", "rounds=2", "--no-prefect", root=root).code
    assert [0, 1, 2] == [row["round"] for row in ratchet("show", "mine", "--json", root=root).json()["rounds"]]
    assert 2 == ratchet("show", "mine", "--json", root=root).json()["config"]["rounds"], "and the next resume knows"


def test_a_run_of_a_sweep_is_shown_by_the_name_that_it_has(ratchet: Warm, root: Path) -> None:
    assert 0 == ratchet.run(*ONE_ROUND, "sweep={seed: [1]}", "--name", "group", root=root).code
    (name,) = (run["name"] for run in ratchet("runs", "--json", root=root).json())
    assert "group/seed=1" == name
    assert (0, name) == ((shown := ratchet("show", name, "--json", root=root)).code, shown.json()["name"])
    assert 0 == ratchet("resume", name, "rounds=0", "--no-prefect", root=root).code


def test_a_sweep_is_one_group_that_the_same_command_goes_on_with(ratchet: Warm, root: Path) -> None:
    words = (*TOYS, *ONE_ROUND[:1], *ONE_ROUND[2:], "rounds=0,1", "--name", "group", "--no-prefect")
    done = ratchet("sweep", *words, root=root)
    assert (0, True) == (done.code, "run 2 of 2" in done.err), done.err
    assert {"group/rounds=0", "group/rounds=1"} == {run["name"] for run in ratchet("runs", "--json", root=root).json()}
    again = ratchet("sweep", *words, root=root)
    assert "0 stages made" in again.err
    assert "stages made, 0 reused" not in again.err
    refused(ratchet("sweep", *TOYS, *ONE_ROUND, "--no-prefect", root=root), "a sweep is over something", "seed=1,2,3")


def test_a_sweep_without_a_name_is_called_after_what_it_sweeps_and_meets_no_run_of_its_config(ratchet: Warm, root: Path) -> None:
    words = (*TOYS, *ONE_ROUND[:1], *ONE_ROUND[2:], "rounds=0")
    assert 0 == ratchet("run", *words, "--no-prefect", root=root).code
    for axis in ("seed=0,1", "training.gain=0.01,0.02"):
        assert 0 == ratchet("sweep", *words, axis, "--no-prefect", root=root).code
    single, *swept = sorted((run["name"] for run in ratchet("runs", "--json", root=root).json()), key=lambda name: "/" in name)
    groups = [name.partition("/")[0] for name in swept]
    assert ["sweep-seed", "sweep-seed", "sweep-training.gain", "sweep-training.gain"] == [name.rpartition("-")[0] for name in groups]
    assert {single: 1, groups[0]: 2, groups[2]: 2} == {name: len(ratchet("compare", name, "--json", root=root).json()) for name in (single, *groups)}


def test_the_same_command_finds_the_same_run(ratchet: Warm, root: Path) -> None:
    for words in (["seed=1"], ["seed=1", "executor=local"], ["seed=2"]):
        assert 0 == ratchet.run("recipe=rest_em", "rounds=0", "evaluation.samples=0", *words, root=root).code
    assert 2 == len(ratchet("runs", "--json", root=root).json())


def test_a_root_that_cannot_be_written_is_named(ratchet: Warm) -> None:
    refused(ratchet.run(*ONE_ROUND, root=Path("/sys/nowhere")), "cannot write under /sys/nowhere", "RATCHET_ROOT")


def test_nothing_selected_stops_the_run_as_planned(ratchet: Warm, root: Path) -> None:
    done = ratchet.run("recipe=rest_em", "selection.threshold=2", "--name", "mine", root=root)
    assert 0 == done.code, done.err
    assert "round 1: nothing was selected of 48 rollouts" in done.out
    run = ratchet("show", "mine", "--json", root=root).json()
    assert ("stopped", [0]) == (run["status"], [row["round"] for row in run["rounds"]])
    again = ratchet("resume", "mine", "--no-prefect", root=root)
    assert (0, True) == (again.code, "nothing was selected" in again.out)


def test_nothing_selected_keeps_the_policy_if_the_run_is_to_go_on(ratchet: Warm, root: Path) -> None:
    done = ratchet.run("recipe=rest_em", "selection.threshold=2", "on_empty=continue", "--name", "mine", root=root)
    assert 0 == done.code, done.err
    run = ratchet("show", "mine", "--json", root=root).json()
    assert ("finished", [0, 1, 2]) == (run["status"], [row["round"] for row in run["rounds"]])
    assert 1 == len({row["roles"]["policy"]["digest"] for row in run["rounds"]})
    assert "nothing was selected of 48 rollouts; the policy is kept" in run["rounds"][1]["note"]
    draws = [
        stage["identity"] for stage in run["stages"] if stage["verb"] == "synthesize" and stage["title"].endswith("synthesize") and stage["round"]
    ]
    assert 2 == len(set(draws)), "the next round draws anew from the same policy"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem that a run does not fit on; where none can be mounted, None."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], capture_output=True, check=False).returncode == 0
    yield folder
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_and_the_same_command_goes_on_once_there_is_room(ratchet: Warm, small_disk: Path, tmp_path: Path) -> None:
    """On a disk of 400 kB where one can be mounted, else with files limited to 2 kB: too little for a ledger with a config in it."""
    mounted = os.path.ismount(small_disk)
    words = (*ONE_ROUND, "--name", "mine")
    full = ratchet.run(*words, root=small_disk, largest=None if mounted else 2000)
    refused(full, "No space left on device" if mounted else "File too large", "free space", code=1)
    if mounted:
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert 0 == ratchet.run(*words, root=small_disk).code
    assert 0 == ratchet.run(*words, root=tmp_path / "roomy").code
    assert results(RunFolder(tmp_path / "roomy", "mine").ledger) == results(RunFolder(small_disk, "mine").ledger)


def test_a_job_that_meets_a_full_disk_fails_its_stage(ratchet: Warm, root: Path) -> None:
    """Files limited to 20 kB: the ledger fits, 400 rollouts do not."""
    words = (*ONE_ROUND, "synthesis.samples=64", "--name", "mine")
    full = ratchet.run(*words, root=root, largest=20_000)
    assert 1 == full.code
    assert "round 1 · synthesize failed (failed): [Errno 27] File too large (free space" in full.err
    assert "failed" == ratchet("show", "mine", "--json", root=root).json()["status"]
    assert 0 == ratchet.run(*words, root=root).code


@pytest.mark.parametrize("verb", ["run", "show", "runs", "compare", "plan"])
def test_what_a_machine_reads_is_json(ratchet: Warm, root: Path, verb: str) -> None:
    first = ratchet.run(*ONE_ROUND, "--name", "mine", "--json", root=root)
    if verb == "plan":
        done = ratchet("plan", "--config-dir", str(HOUSE / "tests/toys/configs"), "experiment=toy", *ONE_ROUND, "--name", "mine", "--json", root=root)
        assert {"reuse"} == {line["fate"] for line in done.json()["lines"]}
        return
    names = {"show": ["mine"], "compare": ["mine", "mine"]}
    done = first if verb == "run" else ratchet(verb, *names.get(verb, []), "--json", root=root)
    found = done.json() if verb in ("run", "show") else done.json()[0]
    assert "mine" == found["name"]
    assert 1 == found["rounds"][-1]["round"]


def test_runs_are_listed_and_a_root_without_any_says_how_to_start_one(ratchet: Warm, root: Path) -> None:
    assert "ratchet run" in ratchet("runs", root=root / "nowhere").out
    assert not (root / "nowhere").exists(), "looking makes nothing"
    assert 0 == ratchet.run(*ONE_ROUND, "--name", "group/mine", root=root).code
    assert "group/mine" in ratchet("runs", root=root).out


WORDS = ["seed=1", "a.b=c", "+extra=1", "++x.y=2", "~synthesis", "~a.b=1", "task.train_file=/a/b=c.jsonl", "a@b=c", "x=[1, 2]"]


@pytest.mark.parametrize("word", WORDS)
def test_an_override_is_known_from_an_option(word: str) -> None:
    assert OVERRIDE.match(word)
    assert not any(OVERRIDE.match(option) for option in ("--name=x", "-n", "NAME", "group/name", "group/seed=1,knobs=both", "~", "=x"))


HEAVY = {"torch", "transformers", "prefect", "mlflow", "hydra", "omegaconf", "boto3", "submitit", "numpy", "scipy", "pydantic"}


@pytest.mark.parametrize("words", [["--help"], ["runs"], ["show", "mine"], ["--version"]], ids=" ".join)
def test_light_verbs_answer_at_once_and_import_nothing_heavy(ratchet: Warm, root: Path, words: list[str]) -> None:
    assert 0 == ratchet.run("recipe=b_star", "--name", "mine", root=root).code
    command = [sys.executable, "-P", "-X", "importtime", "-m", "ratchet.flows.cli", *words]
    seconds = []
    while len(seconds) < 5 and not any(taken < 0.3 for taken in seconds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "RATCHET_ROOT": str(root)})
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)  # what a busy neighbour does not lengthen
    assert min(seconds) < 0.3
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "import time" in line}
    assert set() == imported & HEAVY


def test_help_names_every_verb_and_every_verb_has_help() -> None:
    text = parser().format_help()
    (verbs,) = (action.choices for action in parser()._actions if action.dest == "verb")
    assert verbs is not None
    assert {"run", "plan", "runs", "show", "resume", "retry", "compare", "logs", "delete", "doctor"} <= set(verbs)
    assert all(re.search(rf"^    {verb}( |$)", text, re.M) for verb in verbs)


def test_every_command_that_a_message_proposes_exists() -> None:
    (verbs,) = (action.choices for action in parser()._actions if action.dest == "verb")
    assert verbs is not None
    sources = [path.read_text() for layer in ("flows", "infra", "ratchet", "components") for path in (HOUSE / layer).rglob("*.py")]
    proposed = {found for text in sources for found in re.findall(r"`ratchet ([a-z]+)", text)}
    assert {"retry", "run"} <= proposed
    assert set() == proposed - set(verbs)


def test_a_sweep_over_paths_names_its_runs_without_them(tmp_path: Path) -> None:
    toys = ["experiment=toy", "verification=by_the_book", "verification.file=x"]
    words = [*toys, f"sweep={{verification.file: [{tmp_path}/a.txt, {tmp_path}/b.txt]}}"]
    names = [member.name for member in members(compose(words, Path(TOYS[1])), words, Path(TOYS[1]), "group")]
    folder = str(tmp_path).strip("/").replace("/", "_")
    assert [f"group/verification.file={folder}_{name}.txt" for name in "ab"] == names
    twins = [*toys, "sweep={verification.file: [a/b, a//b]}"]
    with pytest.raises(InputError, match="two runs of the sweep would have one name"):
        members(compose(twins, Path(TOYS[1])), twins, Path(TOYS[1]), "group")

"""The smaller verbs: compare, logs, retry, delete, doctor."""

import io
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import ratchet.flows.doctor as doctor_module
from ratchet.flows.doctor import Check, Found, doctor
from ratchet.flows.summary import RunSummary, summary_of
from ratchet.flows.tables import compare_table
from ratchet.infra.ledger import results
from ratchet.infra.runs import RunFolder
from ratchet.infra.store import LocalStore
from tests.toys.drive import TOYS, Die, Warm, wait_until

NAME = "mine"
WORDS = ("recipe=b_star", "rounds=2", "evaluation.samples=0")
SLOW = ("recipe=rest_em", "rounds=0", "evaluation.samples=0", "executor=local", "synthesis.seconds=0.08", "synthesis.rows_per_shard=null")


@pytest.fixture(scope="module")
def original(ratchet: Warm, memory: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=memory) as root:
        assert 0 == ratchet.run(*WORDS, "--name", NAME, root=Path(root)).code
        yield Path(root)


@pytest.fixture
def finished(original: Path, root: Path) -> Path:
    """A root with a finished run."""
    return shutil.copytree(original, root, dirs_exist_ok=True)


def run_of(root: Path, name: str = NAME) -> RunFolder:
    return RunFolder(root, name)


def stage(root: Path, title: str, name: str = NAME) -> dict[str, Any]:
    return next(event for event in run_of(root, name).ledger if event["kind"] == "stage" and event["title"] == title)


def object_of(root: Path, title: str, name: str = NAME) -> Path:
    return root / ".ratchet" / "objects" / str(stage(root, title, name)["identity"])


def objects(root: Path) -> set[str]:
    return {folder.name for folder in (root / ".ratchet" / "objects").iterdir()}


# compare


def printed(runs: list[RunSummary], width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(compare_table(runs))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_runs_are_compared_round_by_round_one_column_a_run(ratchet: Warm, finished: Path) -> None:
    assert 0 == ratchet.run("recipe=rest_em", "rounds=1", "seed=3", "--name", "other", root=finished).code
    text = printed([summary_of(run_of(finished, name)) for name in (NAME, "other")], 110)
    header, *lines = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in text.splitlines() if "│" in line or "┃" in line]
    assert ["", "round", NAME, "other"] == header
    assert ["status", "", "finished", "finished"] in lines
    assert ["recipe.name", "", "b_star", "rest_em"] in lines
    assert ["seed", "", "0", "3"] in lines
    rates = lines[[line[0] for line in lines].index("pass@1") :][:3]
    assert ["0", "1", "2"] == [line[1] for line in rates]
    assert "–" == rates[2][3], "the other has no round 2"
    assert all(re.fullmatch(r"\d+\.\d% \[\d+\.\d, \d+\.\d\]", cell) for line in rates for cell in line[2:] if cell != "–")
    kept = lines[[line[0] for line in lines].index("kept") :][:2]
    assert [str(row.kept) for row in summary_of(run_of(finished)).rounds[1:]] == [line[2] for line in kept]


@pytest.mark.parametrize(("count", "width"), [(1, 110), (2, 80), (5, 150)])
def test_a_comparison_is_readable_for_one_two_and_five(finished: Path, count: int, width: int) -> None:
    """No number is cut, on a terminal of that width."""
    text = printed([summary_of(run_of(finished))] * count, width)
    assert "…" not in text
    rate = summary_of(run_of(finished)).rounds[2].metrics["pass_at_1"]
    assert count == max(line.count(f"{100 * rate:.1f}% [") for line in text.splitlines())
    assert max(map(len, text.splitlines())) <= width


# logs


def test_logs_say_what_attempts_printed_under_a_header_each(ratchet: Warm, root: Path) -> None:
    failed = ratchet.run("recipe=rest_em", "rounds=1", "training._target_=tests.toys.odd.Breaks", "--name", NAME, root=root)
    assert 1 == failed.code
    done = ratchet("logs", NAME, root=root)
    assert 0 == done.code
    assert "── round 1 · train · attempt 1\ntraining on" in done.out
    assert "ValueError: not today" in done.out
    assert "round 1 · synthesize" not in done.out, "what printed nothing has no header"
    again = ratchet("resume", NAME, "--no-prefect", root=root)
    assert 1 == again.code
    assert ["attempt 1", "attempt 2"] == re.findall(r"── round 1 · train · (attempt \d)", ratchet("logs", NAME, "--stage", "train", root=root).out)
    assert "" == ratchet("logs", NAME, "--round", "0", root=root).out


def test_logs_of_nothing_say_so_and_unknown_filters_are_answered(ratchet: Warm, finished: Path) -> None:
    done = ratchet("logs", NAME, root=finished)
    assert (0, "", f"ratchet: {NAME}: its stages printed nothing\n") == (done.code, done.out, done.err)
    done = ratchet("logs", NAME, "--round", "7", root=finished)
    assert (2, True) == (done.code, "allowed: 0, 1, 2" in done.err)
    done = ratchet("logs", NAME, "--stage", "fly", root=finished)
    assert (2, True) == (done.code, "allowed: propose, create" in done.err)
    done = ratchet("logs", NAME, "--round", "2", "--stage", "create", root=finished)
    assert (2, True) == (done.code, "round 2 has no stage 'create'" in done.err)


def test_logs_of_shards_are_shown_by_their_own_name(ratchet: Warm, finished: Path) -> None:
    shard = next(e for e in run_of(finished).ledger if e["kind"] == "attempt" and e["title"] == "round 1 · synthesize #2 · shard 2/3")
    (finished / ".ratchet" / "claims" / shard["identity"] / "attempts" / "1" / "log").write_text("from the shard\n")
    assert "── round 1 · synthesize #2 · shard 2/3 · attempt 1\nfrom the shard\n" == ratchet("logs", NAME, root=finished).out


def test_following_prints_what_is_new_until_the_driver_is_done(ratchet: Warm, root: Path) -> None:
    driver = ratchet.start("run", *TOYS, *SLOW, "--no-prefect", "--name", NAME, root=root)
    wait_until(lambda: any("synthesize" in e["title"] for e in run_of(root).ledger if e["kind"] == "attempt"), "the synthesis")
    claim = root / ".ratchet" / "claims" / str(stage(root, "round 0 · evaluation · synthesize")["identity"])
    follower = ratchet.start("logs", NAME, "--follow", "--stage", "synthesize", root=root)
    for line in ("first", "second, in two ", "writes"):
        with (claim / "attempts" / "1" / "log").open("a") as log:
            log.write(line + ("" if line.endswith(" ") else "\n"))
        time.sleep(0.35)
    assert 0 == driver.wait().code
    followed = follower.wait()
    assert (0, "── round 0 · evaluation · synthesize · attempt 1\nfirst\nsecond, in two writes\n") == (followed.code, followed.out)


# retry


HARMS: dict[str, Callable[[Path], None]] = {
    "a lost file": lambda folder: next(path for path in folder.iterdir() if path.name not in ("manifest.json", "made.json")).unlink(),
    "a lost manifest": lambda folder: (folder / "manifest.json").unlink(),
    "a torn manifest": lambda folder: (folder / "manifest.json").write_text("{"),
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize(("title", "round", "verb"), [("round 1 · train", 1, "train"), ("round 0 · train problems · propose", 0, "propose")])
def test_a_corrupted_artifact_is_named_with_the_retry_that_makes_it_again_the_same(
    ratchet: Warm, finished: Path, harm: str, title: str, round: int, verb: str
) -> None:
    before = results(run_of(finished).ledger)
    HARMS[harm](object_of(finished, title))
    told_and_mended(ratchet, finished, title, f"--round {round} --stage {verb}")
    assert before == results(run_of(finished).ledger)


def told_and_mended(ratchet: Warm, root: Path, title: str, words: str) -> None:
    """The next command names the file and the `retry`; that one makes the artifact again, and then all is well."""
    again = ratchet("resume", NAME, "--no-prefect", root=root)
    assert (1, False) == (again.code, again.err.startswith("Traceback"))
    assert f"corrupted artifact {object_of(root, title)}" in again.err
    assert f"`ratchet retry {NAME} {words}`" in again.err
    retried = ratchet("retry", NAME, *words.split(), "--no-prefect", root=root)
    assert 0 == retried.code, retried.err
    assert title in retried.err
    assert 0 == ratchet("resume", NAME, "--no-prefect", root=root).code


def test_a_flipped_bit_is_found_by_the_job_that_reads_it(ratchet: Warm, finished: Path) -> None:
    before = results(run_of(finished).ledger)
    LocalStore(state=finished / ".ratchet").quarantine(stage(finished, "round 2 · train")["identity"])
    path = object_of(finished, "round 2 · select") / "records.jsonl"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    told_and_mended(ratchet, finished, "round 2 · select", "--round 2 --stage select")
    assert before == results(run_of(finished).ledger)


def test_a_corrupted_state_is_made_again_by_a_retry_of_its_round(ratchet: Warm, finished: Path) -> None:
    state = next(e for e in run_of(finished).ledger if e["kind"] == "advanced" and e["round"] == 2)["state"]
    (finished / ".ratchet" / "objects" / state / "state.json").unlink()
    again = ratchet("resume", NAME, "--no-prefect", root=finished)
    assert (1, True) == (again.code, f"`ratchet retry {NAME} --round 2`" in again.err)
    assert 0 == ratchet("retry", NAME, "--round", "2", "--no-prefect", root=finished).code


def set_aside(root: Path) -> list[str]:
    return [event for event in run_of(root).ledger if event["kind"] == "retried"][-1]["titles"]


def test_a_retry_sets_aside_what_depends_on_the_stage_and_nothing_else(ratchet: Warm, finished: Path) -> None:
    before = results(run_of(finished).ledger)
    done = ratchet("retry", NAME, "--round", "2", "--stage", "select", "--no-prefect", root=finished)
    assert 0 == done.code, done.err
    whole = [title for title in set_aside(finished) if "shard" not in title]
    assert ["round 2 · select", "round 2 · train"] == whole[:2]
    assert all(title.startswith("round 2 · evaluation · ") for title in whole[2:-1])
    assert "round 2 · state" == whole[-1]
    assert not any("propose" in title for title in whole), "the test problems depend on nothing"
    attempts = [e["title"] for e in run_of(finished).ledger if e["kind"] == "attempt" and e["attempt"] == 2]
    assert {title for title in whole if "state" not in title} == {title.split(" · shard")[0] for title in attempts}
    assert before == results(run_of(finished).ledger)


def test_a_retry_of_a_round_makes_it_and_all_that_was_built_on_it_again(ratchet: Warm, finished: Path) -> None:
    before, first = results(run_of(finished).ledger), objects(finished)
    assert 0 == ratchet("retry", NAME, "--round", "1", "--no-prefect", root=finished).code
    titles = [title for title in set_aside(finished) if "shard" not in title]
    assert {"1", "2"} == {title.split()[1] for title in titles}
    assert {e["title"] for e in run_of(finished).ledger if e["kind"] == "stage" and e["round"]} - set(titles) == {
        f"round {n} · evaluation · propose" for n in (1, 2)
    }
    assert (before, first) == (results(run_of(finished).ledger), objects(finished))
    quarantined = {folder.name.partition(".")[0] for folder in (finished / ".ratchet" / "quarantine").iterdir()}
    assert quarantined < first


def test_a_retry_of_a_controller_includes_all_that_its_knobs_decided(ratchet: Warm, finished: Path) -> None:
    assert 0 == ratchet("retry", NAME, "--round", "2", "--stage", "adjust", "--no-prefect", root=finished).code
    assert ["round 2 · adjust", "round 2 · synthesize #2", "round 2 · verify #2", "round 2 · select"] == [
        title for title in set_aside(finished) if "shard" not in title
    ][:4]


def test_a_corrupted_shard_is_made_again_alone_with_what_was_read_from_it(ratchet: Warm, finished: Path) -> None:
    before = results(run_of(finished).ledger)
    shard = next(e for e in run_of(finished).ledger if e["kind"] == "attempt" and e["title"] == "round 1 · synthesize #2 · shard 2/3")
    (finished / ".ratchet" / "objects" / shard["identity"] / "records.jsonl").unlink()
    assert 0 == ratchet("retry", NAME, "--round", "1", "--stage", "synthesize", "--no-prefect", root=finished).code
    assert before == results(run_of(finished).ledger)


def test_after_a_retry_was_begun_the_run_shows_what_is_missing(ratchet: Warm, finished: Path) -> None:
    dead = ratchet("retry", NAME, "--round", "2", "--no-prefect", root=finished, die=Die("ratchet.infra.ledger.Ledger.append", word="driver"))
    assert -9 == dead.code
    run = ratchet("show", NAME, "--json", root=finished).json()
    assert ("interrupted", [0, 1]) == (run["status"], [row["round"] for row in run["rounds"]])
    assert {None} == {s["digest"] for s in run["stages"] if s["round"] == 2 and s["verb"] != "propose"}
    assert 0 == ratchet("resume", NAME, "--no-prefect", root=finished).code
    run = ratchet("show", NAME, "--json", root=finished).json()
    assert ("finished", [0, 1, 2]) == (run["status"], [row["round"] for row in run["rounds"]])


def test_a_retry_that_dies_while_it_sets_aside_can_be_given_again(ratchet: Warm, finished: Path) -> None:
    before = results(run_of(finished).ledger)
    for n in (1, 4):
        die = Die("ratchet.infra.store.LocalStore.quarantine", n, "after")
        assert -9 == ratchet("retry", NAME, "--round", "1", "--no-prefect", root=finished, die=die).code
    assert 0 == ratchet("retry", NAME, "--round", "1", "--no-prefect", root=finished).code
    assert before == results(run_of(finished).ledger)


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        (["--round", "9"], "allowed: 0, 1, 2"),
        (["--round", "1", "--stage", "create"], "round 1 has no stage 'create'"),
        (["--round", "1", "seed=2"], "`retry` keeps the run's science"),
    ],
)
def test_what_cannot_be_retried_is_answered_and_nothing_is_set_aside(ratchet: Warm, finished: Path, words: list[str], phrase: str) -> None:
    before = objects(finished)
    done = ratchet("retry", NAME, *words, "--no-prefect", root=finished)
    assert (2, True) == (done.code, phrase in done.err), done.err
    assert before == objects(finished)


def test_a_held_run_is_neither_retried_nor_deleted(ratchet: Warm, root: Path) -> None:
    driver = ratchet.start("run", *TOYS, *SLOW, "--no-prefect", "--name", NAME, root=root)
    wait_until(lambda: any("synthesize" in e["title"] for e in run_of(root).ledger if e["kind"] == "attempt"), "the synthesis")
    for words in (["retry", NAME, "--round", "0", "--no-prefect"], ["delete", NAME], ["delete", NAME, "--yes"]):
        done = ratchet(*words, root=root)
        assert (3, True) == (done.code, f"held by process {driver.pid}" in done.err), done.err
    assert 0 == driver.wait().code


# delete


def test_deleting_says_first_what_would_go(ratchet: Warm, finished: Path) -> None:
    before = objects(finished)
    done = ratchet("delete", NAME, root=finished)
    assert 0 == done.code
    assert re.search(rf"would delete the run {NAME}, {len(before)} of its {len(before)} artifacts .*, [\d.]+ kB\n  next: add --yes", done.out)
    assert before == objects(finished)


def test_deleting_takes_the_run_and_what_it_alone_used(ratchet: Warm, finished: Path) -> None:
    alone = ratchet.run(*WORDS, "training.gain=0.02", "--name", "group/other", root=finished)
    assert 0 == alone.code
    shared = objects(finished)
    assert 0 == ratchet("delete", NAME, "--yes", root=finished).code
    assert objects(finished) < shared
    assert ["group/other"] == [run["name"] for run in ratchet("runs", "--json", root=finished).json()]
    whole = {identity for *_, identity, _ in results(run_of(finished, "group/other").ledger)}
    assert all(LocalStore(state=finished / ".ratchet").open(identity) for identity in whole), "with all their shards"
    before = results(run_of(finished, "group/other").ledger)
    done = ratchet("resume", "group/other", "--no-prefect", "--json", root=finished)
    assert (0, "finished") == (done.code, done.json()["status"])
    assert not [e for e in run_of(finished, "group/other").ledger if e["kind"] == "attempt" and e["attempt"] > 1], "all it needs is there"
    assert before == results(run_of(finished, "group/other").ledger)
    assert 0 == ratchet("delete", "group/other", "--yes", root=finished).code
    left = [path for path in finished.rglob("*") if path.is_file() and path.name not in ("trash.lock",)]
    assert [] == left, "nothing is left of anything"
    assert not (finished / "group").exists()


@pytest.mark.parametrize("n", [1, 2, 9, 40])
def test_a_deletion_that_is_cut_short_is_finished_by_the_next(ratchet: Warm, finished: Path, n: int) -> None:
    """Killed at the n-th rename: the run is gone, and no artifact of the other one is harmed."""
    assert 0 == ratchet.run("recipe=rest_em", "--name", "other", root=finished).code
    whole = results(run_of(finished, "other").ledger)
    mine = objects(finished) - referenced_by(finished, "other")
    assert -9 == ratchet("delete", NAME, "--yes", root=finished, die=Die("pathlib.Path.rename", n, "after")).code
    assert ["other"] == [run["name"] for run in ratchet("runs", "--json", root=finished).json()]
    assert 0 == ratchet.run("recipe=star", "rounds=0", "--name", "third", root=finished).code
    assert 0 == ratchet("delete", "third", "--yes", root=finished).code
    assert set() == mine & objects(finished)
    assert [] == list((finished / ".ratchet" / "trash").iterdir())
    assert (0, whole) == (ratchet("resume", "other", "--no-prefect", root=finished).code, results(run_of(finished, "other").ledger))


def referenced_by(root: Path, name: str) -> set[str]:
    from ratchet.flows.delete import referenced

    return referenced(run_of(root, name).ledger, LocalStore(state=root / ".ratchet"))


def test_a_run_that_holds_others_is_deleted_after_them(ratchet: Warm, root: Path) -> None:
    for name in ("nightly", "nightly/2030"):
        assert 0 == ratchet.run("recipe=rest_em", "rounds=0", "--name", name, root=root).code
    done = ratchet("delete", "nightly", "--yes", root=root)
    assert (2, True) == (done.code, "holds other runs" in done.err and "nightly/2030" in done.err)
    assert 0 == ratchet("delete", "nightly/2030", "--yes", root=root).code
    assert 0 == ratchet("delete", "nightly", "--yes", root=root).code


def test_nothing_is_deleted_under_a_job_that_is_at_work(ratchet: Warm, root: Path) -> None:
    dead = ratchet.run(*SLOW, "--name", NAME, root=root, die=Die("ratchet.infra.executors.Local.release", 5, "after"))
    assert -9 == dead.code
    done = ratchet("delete", NAME, "--yes", root=root)
    assert (3, True) == (done.code, "a job of the run mine is still at work (round 0 · evaluation · synthesize)" in done.err)
    assert run_of(root).exists()
    wait_until(lambda: 0 == ratchet("delete", NAME, "--yes", root=root).code, "the job's end")
    assert not run_of(root).exists()


# doctor


def test_the_doctor_finds_this_environment_fit(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    assert 0 == doctor(root, as_json=True), capsys.readouterr().out
    found = {row["check"]: row for row in json.loads(capsys.readouterr().out)}
    assert {"python", "packages", "torch", "root", "disk", "filesystem", "MLflow", "Prefect", "SLURM", "S3", "sandbox"} == set(found)
    assert {"ok", "warn"} >= {row["state"] for row in found.values()}
    assert all(row["next"] for row in found.values() if row["state"] == "warn"), "what is amiss comes with what to do"
    assert 40 > time.monotonic() - began


def said(check: Callable[[], Found]) -> Found:
    return doctor_module._all([Check("one", check)])["one"]


def test_the_doctor_fails_on_a_root_that_cannot_be_written(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module, "_torch", lambda: Found("ok", ""))
    assert 1 == doctor(Path("/sys/nowhere"), as_json=False)
    out = capsys.readouterr().out
    assert re.search(r"root +│ fail +│ cannot write to /sys.*RATCHET_ROOT", out)


def test_a_check_that_breaks_or_hangs_is_a_line_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks() -> Found:
        raise ZeroDivisionError("unforeseen")

    monkeypatch.setattr(doctor_module, "IMPORT_S", 0.1)
    monkeypatch.setattr(doctor_module, "LIMIT_S", 0.1)
    assert Found("warn", "ZeroDivisionError: unforeseen") == said(breaks)
    assert Found("warn", "no answer within 0 s", doctor_module.HANGS) == said(lambda: time.sleep(3) or Found("ok", ""))
    assert Found("warn", "`sleep` does not answer within 0 s", doctor_module.HANGS) == said(
        lambda: doctor_module._runs("sleep", "3") and Found("ok", "")
    )


@pytest.mark.parametrize("variable", ["PREFECT_API_URL", "MLFLOW_TRACKING_URI"])
def test_a_server_that_is_not_there_is_a_warning(root: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9/api")
    found = doctor_module._prefect() if variable == "PREFECT_API_URL" else doctor_module._mlflow(root)
    assert ("warn", True) == (found.state, f"{variable}=http://127.0.0.1:9/api does not answer" in found.what)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts commands of a SLURM that answers so on PATH."""

    def install(sinfo: str, *names: str) -> None:
        for name in (*names, "sinfo"):
            (tmp_path / name).write_text(f"#!/bin/sh\n{sinfo if name == 'sinfo' else 'exit 0'}\n")
            (tmp_path / name).chmod(0o755)
        (tmp_path / "sleep").symlink_to("/bin/sleep")
        monkeypatch.setenv("PATH", str(tmp_path))  # this machine may have a SLURM of its own

    return install


@pytest.mark.parametrize(
    ("names", "sinfo", "state", "what"),
    [
        (("sbatch", "squeue", "sacct"), "echo gpu up; echo cpu up", "ok", "partitions cpu, gpu"),
        (("sbatch", "squeue"), "echo gpu up", "warn", "no sacct"),
        (("sbatch", "squeue", "sacct"), "echo slurm_load_partitions: Unable to contact >&2; exit 1", "warn", "Unable to contact"),
        (("sbatch", "squeue", "sacct"), "sleep 9", "warn", "sinfo does not come back"),
        ((), "exit 0", "warn", "sbatch and squeue and sacct not on PATH"),
    ],
)
def test_the_doctor_says_how_slurm_answers(
    slurm: Callable[..., None], monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], sinfo: str, state: str, what: str
) -> None:
    monkeypatch.setattr(doctor_module, "LIMIT_S", 0.5)
    slurm(sinfo, *names)
    found = said(doctor_module._slurm)
    assert (state, True) == (found.state, what in found.what), found


def test_credentials_for_s3_are_found_where_boto3_finds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://minio:9000")
    assert Found("ok", "http://minio:9000, credentials from env") == doctor_module._s3()

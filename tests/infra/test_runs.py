"""Where runs live, and who has one in hand."""

import os
from pathlib import Path

import pytest

from ratchet.errors import InputError
from ratchet.infra.claims import Claim, Lock, is_locked
from ratchet.infra.runs import RunFolder, find_root, make_root, runs_under


def test_the_root_is_the_option_then_the_variable_then_the_nearest_then_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / "project" / "deep"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert deep / "runs" == find_root()
    (tmp_path / "project" / "runs" / ".ratchet").mkdir(parents=True)
    assert tmp_path / "project" / "runs" == find_root()
    monkeypatch.setenv("RATCHET_ROOT", str(tmp_path / "variable"))
    assert tmp_path / "variable" == find_root()
    assert tmp_path / "option" == find_root(tmp_path / "option")


def test_a_root_that_cannot_be_written_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write under .*file/runs"):
        make_root(tmp_path / "file" / "runs")


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a//b", "a/../b", "/absolute", "a/"])
def test_a_name_that_leads_out_of_the_root_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="plain folder name"):
        RunFolder(tmp_path, name)


def test_runs_are_found_in_groups_and_under_other_runs(tmp_path: Path) -> None:
    for name in ("single", "group/seed=1", "group/seed=2", "nightly", "nightly/2030-01-01"):
        RunFolder(tmp_path, name).ledger.append("run", name=name)
    (tmp_path / ".ratchet" / "trash" / "x" / "ledger").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    assert ["group/seed=1", "group/seed=2", "nightly", "nightly/2030-01-01", "single"] == [run.name for run in runs_under(tmp_path)]
    assert [] == runs_under(tmp_path / "nowhere")


def test_an_unknown_run_is_answered_with_those_there_are(tmp_path: Path) -> None:
    RunFolder(tmp_path, "known").ledger.append("run", name="known")
    with pytest.raises(InputError, match=r"(?s)no run 'unknown'.*known"):
        RunFolder(tmp_path, "unknown").opening()


def test_asking_who_holds_a_run_needs_no_right_to_write_and_makes_no_file(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()
    with Lock(tmp_path / "lock") as lock:
        assert lock.try_acquire()
        assert lock.try_acquire(), "ours already"
        (tmp_path / "lock").chmod(0o444)
        assert is_locked(tmp_path / "lock")
    assert not is_locked(tmp_path / "lock")


def test_a_claim_counts_its_attempts_and_remembers_its_job(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "claims" / "i")
    assert (0, None, None) == (claim.attempts(), claim.job(), claim.exit(1))
    claim.attempt(9).mkdir(parents=True)
    claim.attempt(10).mkdir()
    claim.record({"attempt": 10, "job": {"pid": os.getpid()}})
    assert (10, os.getpid()) == (claim.attempts(), (claim.job() or {})["job"]["pid"])
    claim.forget()
    claim.forget()
    assert claim.job() is None

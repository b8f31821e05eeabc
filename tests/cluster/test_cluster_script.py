"""The manners of `infra/slurm/cluster.sh`: what it says to a wrong word, whose folders it touches, and that it ends whatever it started."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.cluster.clusters import CLUSTER, Cluster, cluster, daemons_of, need_installed, script


def test_up_again_changes_nothing_and_up_with_other_options_is_refused(slurm: Cluster) -> None:
    before = daemons_of(slurm.state)
    assert slurm("up", "--nodes", "2").startswith("already up")
    refused = script(CLUSTER, "up", "--nodes", "3", "--state", str(slurm.state))
    assert (2, True) == (refused.returncode, "a cluster with other options is up" in refused.stderr)
    assert before == daemons_of(slurm.state)
    assert {"node1": "idle", "node2": "idle"} == slurm.nodes()


WRONG = [
    (("up", "--nodes", "two"), "--nodes must be a whole number of at least 1; got 'two'"),
    (("up", "--requeue-delay", "1"), "--requeue-delay must be a whole number of at least 5; got '1'"),
    (("up", "--memory-limit", "maybe"), "--memory-limit must be one of: kill cgroup off; got 'maybe'"),
    (("up", "--accounts", "on", "--accounting", "off"), "--accounts on needs --accounting on"),
    (("up", "--frobnicate", "1"), "no option '--frobnicate'"),
    (("status",), "no cluster is up"),
    (("explode",), "no verb 'explode'"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_a_wrong_word_is_answered_with_the_right_ones(words: tuple[str, ...], message: str) -> None:
    need_installed(CLUSTER)
    done = script(CLUSTER, *words, "--state", "/tmp/ratchet-no-such-cluster")
    assert 2 == done.returncode
    assert message in done.stderr
    assert 1 == len(done.stderr.splitlines())


def test_every_option_that_is_explained_is_there_and_every_one_that_is_there_is_explained() -> None:
    options = re.search(r"^OPTIONS=\((.*)\)$", (CLUSTER.parent / "options.sh").read_text(), re.M)
    assert options
    explained = set(re.findall(r"--[a-z-]+", script(CLUSTER, "--help").stdout))
    assert {f"--{name.replace('_', '-')}" for name in options[1].split()} | {"--state", "--clean", "--with-jobs"} == explained


def test_down_with_nothing_up_and_a_start_after_a_crash_are_no_trouble() -> None:
    need_installed(CLUSTER)
    with cluster("--accounting", "off") as made:
        os.kill(int((made.state / "run/munged.pid").read_text()), 9)  # the first of them is gone, the rest is not
        (made.state / "run/slurmctld.pid").unlink()
        made("up", "--accounting", "off")
        made.wait(made.submit("true"), "COMPLETED")
        assert ["munged", "slurmctld", "slurmd"] == daemons_of(made.state), "once each"
        for _ in range(2):
            down = script(CLUSTER, "down", "--state", str(made.state))
            assert (0, "", "") == (down.returncode, down.stdout, down.stderr)
        assert [] == daemons_of(made.state)


def stranger(*words: str, path: str | None = None, user: int | None = None) -> "subprocess.CompletedProcess[str]":
    """`cluster.sh` as somebody else, or elsewhere, would give it."""
    with tempfile.TemporaryDirectory(prefix="ratchet-script-") as folder:
        Path(folder).chmod(0o755)
        for file in CLUSTER.parent.iterdir():
            shutil.copy(file, folder)
        environment = {**os.environ, **({"PATH": path} if path else {})}
        command = [str(shutil.which("bash")), f"{folder}/{CLUSTER.name}", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, user=user, cwd="/")


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root can")
def test_who_is_not_root_is_told_that_root_is_needed() -> None:
    for verb in ("install", "up", "down", "status"):
        refused = stranger(verb, user=65534)
        assert (2, 1) == (refused.returncode, len(refused.stderr.splitlines()))
        assert "needs root" in refused.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="`install` needs root")
def test_a_machine_without_apt_is_told_what_to_install(tmp_path: Path) -> None:
    for tool in ("basename", "dirname", "id"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    refused = stranger("install", path=str(tmp_path))
    assert (2, 1) == (refused.returncode, len(refused.stderr.splitlines()))
    assert "apt-get, which is not here" in refused.stderr
    assert "slurm-wlm munge slurmdbd mariadb-server" in refused.stderr


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_what_cannot_be_tried_is_skipped_with_its_reason_but_fails_in_ci(monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[Exception]) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(outcome, match=r"infra/slurm/cluster\.sh starts system daemons and needs root; this is user 1000"):
        need_installed(CLUSTER)


def test_a_folder_that_holds_other_things_is_left_alone() -> None:
    need_installed(CLUSTER)
    with tempfile.TemporaryDirectory(prefix="ratchet-other-") as folder:
        (Path(folder) / "run").mkdir()
        refused = script(CLUSTER, "up", "--state", folder)
        assert (2, True) == (refused.returncode, "which holds other things" in refused.stderr)
        assert 0 == script(CLUSTER, "down", "--state", folder).returncode
        assert (Path(folder) / "run").is_dir()

"""SQLite does not belong on a network filesystem."""

from pathlib import Path

import pytest

from ratchet.errors import InputError
from ratchet.infra import views
from ratchet.infra.views import filesystem_of, view_folder


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Mount points → filesystem type, as the kernel would tell; and a user's state folder."""
    points: dict[str, str] = {"/": "ext4"}
    table = tmp_path / "mounts"

    class Table:
        def read_text(self, errors: str) -> str:
            table.write_text("".join(f"device {where.replace(' ', chr(92) + '040')} {kind} rw 0 0\n" for where, kind in points.items()))
            return table.read_text(errors=errors)

    monkeypatch.setattr(views, "MOUNTS", Table())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    return points


def test_views_lie_beside_a_root_on_a_local_disk(mount: dict[str, str], tmp_path: Path) -> None:
    assert tmp_path / "runs" / ".ratchet" == view_folder(tmp_path / "runs")
    assert (tmp_path / "runs" / ".ratchet").is_dir()


@pytest.mark.parametrize("kind", ["nfs4", "lustre", "gpfs", "cifs", "fuse.sshfs"])
def test_views_of_a_root_on_the_network_lie_in_the_users_state_folder(kind: str, mount: dict[str, str], tmp_path: Path) -> None:
    mount[str(tmp_path / "shared")] = kind
    one, two = view_folder(tmp_path / "shared" / "runs"), view_folder(tmp_path / "shared" / "other")
    assert tmp_path / "state" / "ratchet" == one.parent == two.parent
    assert one != two
    assert one.is_dir()
    assert not (tmp_path / "shared").exists()


def test_views_lie_in_the_temporary_folder_if_home_is_on_the_network_too(mount: dict[str, str], tmp_path: Path) -> None:
    mount |= {str(tmp_path / "shared"): "nfs4", str(tmp_path / "state"): "nfs"}
    folder = view_folder(tmp_path / "shared")
    assert tmp_path / "temporary" == folder.parent.parent
    assert 0o700 == folder.parent.stat().st_mode & 0o777
    assert folder.is_dir()


def test_a_folder_that_cannot_be_made_is_the_users_to_mend(mount: dict[str, str], tmp_path: Path) -> None:
    mount[str(tmp_path / "shared")] = "nfs4"
    (tmp_path / "state").write_text("")
    with pytest.raises(InputError, match="XDG_STATE_HOME"):
        view_folder(tmp_path / "shared")


def test_the_nearest_mount_counts_and_of_two_at_one_place_the_later(mount: dict[str, str], tmp_path: Path) -> None:
    mount |= {str(tmp_path): "nfs4", str(tmp_path / "with blank"): "xfs"}
    assert ("nfs4", "xfs") == (filesystem_of(tmp_path / "with"), filesystem_of(tmp_path / "with blank" / "not" / "there"))

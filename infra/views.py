"""Where the views' SQLite files lie: beside the root, or on a disk of this machine if the root is on a network filesystem.

SQLite's locks do not hold on network filesystems. A view can be deleted at any time and is replayed from the ledger, so it loses
nothing by lying on one machine only.
"""

import hashlib
import os
import tempfile
from pathlib import Path

from ratchet.errors import InputError

NETWORK = {
    *("9p", "afs", "beegfs", "ceph", "cifs", "daos", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs3", "nfs4", "ocfs2", "orangefs"),
    *(
        "panfs",
        "pvfs2",
        "smb2",
        "smb3",
        "smbfs",
        "wekafs",
        "fuse.ceph-fuse",
        "fuse.dfuse",
        "fuse.glusterfs",
        "fuse.juicefs",
        "fuse.s3fs",
        "fuse.sshfs",
    ),
}
"""Filesystem types, as the kernel names them, whose files several machines may have open."""

MOUNTS = Path("/proc/mounts")


def view_folder(root: Path) -> Path:
    """The folder for a root's SQLite views, created: `<root>/.ratchet`, or if that is on a network the user's state folder.

    On a cluster the user's home is often on the network too: then the machine's temporary folder takes them.
    """
    root = root.resolve()
    name = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    choices = (root / ".ratchet", home / "ratchet" / name, Path(tempfile.gettempdir()) / f"ratchet-{os.getuid()}" / name)
    folder = next((choice for choice in choices if not is_network(choice)), choices[0])
    try:
        if folder is choices[-1]:
            folder.parent.mkdir(mode=0o700, exist_ok=True)
            if folder.parent.stat().st_uid != os.getuid():
                raise InputError(f"{folder.parent} belongs to another user", next="set XDG_STATE_HOME to a folder on a local disk")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}", next="set XDG_STATE_HOME to a folder on a local disk") from None
    return folder


def is_network(path: Path) -> bool:
    """Whether a path (or what of it exists) is on a network filesystem; False where the system does not tell."""
    return filesystem_of(path) in NETWORK


def filesystem_of(path: Path) -> str:
    """The type of the filesystem that a path is on, or would be."""
    try:
        mounts = [line.split(" ") for line in MOUNTS.read_text(errors="surrogateescape").splitlines()]
    except FileNotFoundError:
        return ""  # not Linux
    # A later mount hides an earlier one at the same place; blanks in a path are written \040.
    types = {Path(where.replace("\\040", " ")): kind for _, where, kind, *_ in mounts}
    resolved = path.resolve()
    return next((types[folder] for folder in (resolved, *resolved.parents) if folder in types), "")

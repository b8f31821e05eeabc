"""Where runs live: the root folder, and a run's own folder."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from ratchet.errors import InputError
from ratchet.infra.ledger import Event, Ledger

STATE = ".ratchet"


def find_root(option: str | Path | None = None) -> Path:
    """The option, else `RATCHET_ROOT`, else the nearest `runs/.ratchet` above, else `./runs`."""
    if option or os.environ.get("RATCHET_ROOT"):
        return Path(option or os.environ["RATCHET_ROOT"]).expanduser().resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "runs" / STATE).is_dir():
            return folder / "runs"
    return here / "runs"


def make_root(root: Path) -> Path:
    """Create the root's state folder on first use, and make sure that it can be written."""
    state = root / STATE
    try:
        for name in ("objects", "drafts", "claims"):
            (state / name).mkdir(parents=True, exist_ok=True)
        probe = state / f".writable.{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write under {root}: {error.strerror}", next="give another folder: root=PATH, or RATCHET_ROOT") from None
    return state


@dataclass(frozen=True)
class RunFolder:
    """One run under a root."""

    root: Path
    name: str
    ledger: Ledger = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if not self.name or self.name.startswith(".") or any(part in ("..", "") for part in self.name.split("/")):
            raise InputError("a run's name must be a plain folder name", got=repr(self.name), allowed="letters, digits, `-`, `_`, `.`, `/`")
        object.__setattr__(self, "ledger", Ledger(self.folder / "ledger"))

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def state(self) -> Path:
        return self.root / STATE

    def exists(self) -> bool:
        return any(self.ledger.folder.glob("*.json"))  # a driver that died before its first word made no run

    def opening(self) -> Event:
        """The event that says what the run is."""
        for event in self.ledger:
            if event["kind"] == "run":
                return event
        raise InputError(
            f"there is no run {self.name!r} under {self.root}", allowed=", ".join(run.name for run in runs_under(self.root)) or "none yet"
        )


def runs_under(root: Path) -> list[RunFolder]:
    """Every run under a root, by name."""
    found = []
    for folder, names, _ in os.walk(root):
        if "ledger" in names:
            found += [run for run in [RunFolder(root, str(Path(folder).relative_to(root)))] if run.exists()]
        names[:] = sorted(name for name in names if name not in (STATE, "ledger"))  # a run's folder may hold others: `nightly/2030-01-01`
    return sorted(found, key=lambda run: run.name)

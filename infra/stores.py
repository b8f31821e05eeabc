"""Which store a config or a job's spec means, and a run in it: its ledger brought up to date, its lease taken wherever it is kept."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ratchet.errors import InputError, RatchetError
from ratchet.identity import digest, locate
from ratchet.infra.lease import Lease
from ratchet.infra.manifests import write_atomic
from ratchet.infra.runs import STATE, RunFolder, runs_under
from ratchet.infra.store import LocalStore, Store

GLANCE_S = 3.0
"""How long those who only look wait for a store."""

Spec = Mapping[str, Any]
Warn = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Local:
    """Artifacts and ledgers under the root."""

    @property
    def place(self) -> str:
        return ""

    def open(self, state: Path, warn: Warn | None = None) -> Store:
        return LocalStore(state=state)


@dataclass(frozen=True, kw_only=True)
class S3:
    """Artifacts and ledgers in a bucket; the root has a copy of what this machine made or opened."""

    uri: str
    endpoint_url: str | None = None
    region: str | None = None
    patience_s: float = 600.0
    timeout_s: float = 60.0
    part_mb: int = 16
    concurrency: int = 8

    def __post_init__(self) -> None:
        from ratchet.infra.bucket import check_endpoint, check_uri

        check_uri(self.uri)
        if self.endpoint_url is not None:
            check_endpoint(self.endpoint_url)
        for name, least in (("patience_s", 0), ("timeout_s", 0.001), ("part_mb", 5), ("concurrency", 1)):
            if not getattr(self, name) >= least:
                raise InputError(f"{name} has a wrong value", got=getattr(self, name), allowed=f"{least} or more")

    @property
    def place(self) -> str:
        """What two configs of one store have in common, however it is reached."""
        return self.uri.rstrip("/")

    def open(self, state: Path, warn: Warn | None = None) -> Store:
        from ratchet.infra.bucket import Bucket
        from ratchet.infra.bucket_connection import Connection, to_stderr
        from ratchet.infra.s3_store import S3Store

        connection = Connection(
            uri=self.uri,
            endpoint_url=self.endpoint_url,
            region=self.region,
            patience_s=self.patience_s,
            timeout_s=self.timeout_s,
            concurrency=self.concurrency,
            warn=warn or to_stderr,
        )
        bucket = Bucket(connection=connection)
        checked = state / "stores" / f"{digest([self.place, self.endpoint_url])}.json"
        if not checked.exists():
            bucket.check_conditions()
            write_atomic(checked, b'{"honours conditional writes":true}')
        spec = {"_target_": f"{type(self).__module__}.{type(self).__qualname__}", **asdict(self)}
        return S3Store(state=state, bucket=bucket, spec=spec, part_bytes=self.part_mb << 20)


def open_store(spec: Spec | None, state: Path, warn: Warn | None = None) -> Store:
    """The store that a config's `store` (or a store's own `spec`) says; none is the local one. `state` is the root's state folder."""
    return _kind(spec).open(state, warn)


def _kind(spec: Spec | None) -> Any:
    if not spec:
        return Local()
    fields = dict(spec)
    kind = locate(fields.pop("_target_"))
    try:
        return kind(**fields)
    except InputError as error:
        raise InputError(f"store: {error}") from None


def place_of(spec: Spec | None) -> str:
    """Where a store's truth is: a URI, or nothing for the local one."""
    return str(_kind(spec).place)


def recorded(run: RunFolder) -> Spec | None:
    """The store that a run's ledger says it was last driven with."""
    found = None
    for event in run.ledger:
        if event["kind"] == "run":
            found = event["config"].get("store")
        elif event["kind"] == "driver":
            found = event["operations"].get("store", found)
    return found


def store_of(run: RunFolder, warn: Warn | None = None) -> Store:
    """The store of a run that this root knows, its ledger brought up to date."""
    return enter(run, recorded(run), warn)


def enter(run: RunFolder, spec: Spec | None, warn: Warn | None = None) -> Store:
    """Open the store that a command gives, and with it the run's ledger, if that is kept there: InputError if it is kept elsewhere.

    The root may know nothing of the run yet: then it does afterwards, if the store does.
    """
    if run.exists() and (place := place_of(recorded(run))) != place_of(spec):
        raise InputError(
            f"the run {run.name} is kept in {place or 'the local store'}",
            got=f"the store {place_of(spec) or 'local'}",
            next=f"give {f'store=s3 store.uri={place}' if place else 'store=local'}, or take another --name",
        )
    store = open_store(spec, run.root / STATE, warn)
    follow(run, store)
    return store


def follow(run: RunFolder, store: Store) -> None:
    """Bring a run's ledger up to date, and keep it where the store does."""
    if store.runs is not None:
        run.ledger.follow(store.runs.ledger(run.name), place_of(store.spec))


def refresh(run: RunFolder, warn: Warn) -> str | None:
    """For those who only look: bring a copied ledger up to date, and say who holds the run where it is kept, in words.

    A store that does not answer at once, or that this user may not ask, is said, and the copy is shown as it is.
    """
    spec = recorded(run)
    if not spec or not place_of(spec):
        return None
    try:
        store = enter(run, {**spec, "patience_s": GLANCE_S, "timeout_s": GLANCE_S}, lambda text: None)
        return store.runs.holder(run.name) if store.runs else None
    except (RatchetError, OSError) as error:
        warn(f"{run.name} is shown as this machine last knew it: {error}")
        return None


@contextmanager
def held(run: RunFolder, store: Store, *, watch: bool = True) -> Iterator[Callable[[], None]]:
    """Hold a run, or say who does (`RunHeld`); what it yields is called before every word in the ledger and raises if it was lost.

    A run in a bucket has two leases: the root's, which is quick and stands between drivers here, and the bucket's, between machines.
    """
    with ExitStack() as stack:
        near = stack.enter_context(Lease.take(run, watch=watch))
        if store.runs is None:
            yield near.check
            return
        far = stack.enter_context(store.runs.lease(run.name, watch=watch))
        follow(run, store)  # with what a driver elsewhere wrote before it let go

        def check() -> None:
            near.check()
            far.check()

        yield check


def known_runs(root: Path, store: Store) -> list[RunFolder]:
    """Every run that may refer to a store's artifacts: those of this root, and those that are kept in the store itself."""
    here = {run.name: run for run in runs_under(root)}
    for name in store.runs.names() if store.runs else ():
        run = here.setdefault(name, RunFolder(root, name))
        if place_of(recorded(run)) == place_of(store.spec) or not run.exists():
            follow(run, store)
    return [here[name] for name in sorted(here)]

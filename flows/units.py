"""What a run asked for, by name and by place: each stage with the shards it is made of, read back from ledger and store.

Used by the verbs that reach for a run's artifacts from outside the loop (`logs`, `retry`, `delete`). They must work when an artifact
is corrupted, so a manifest that cannot be read counts as one that lists no shards; the ledger's attempts name those too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ratchet.errors import CorruptArtifact, InputError
from ratchet.infra.claims import Claim
from ratchet.infra.ledger import Ledger
from ratchet.infra.store import Store

TRIES = ("attempt", "attached", "failed")


@dataclass(kw_only=True)
class Asked:
    """A stage at its place in a run."""

    round: int
    verb: str
    title: str
    identity: str
    inputs: Mapping[str, Any]
    """name → digest, or cell → digest of a grid."""
    shards: dict[str, str] = field(default_factory=dict[str, str])
    """identity → title, in order."""
    digests: set[str] = field(default_factory=set[str])
    """Every digest it was published with."""

    @property
    def units(self) -> dict[str, str]:
        """What is claimed and published by itself: the shards, if there are any, and the stage; identity → title."""
        return {**self.shards, self.identity: self.title}


def asked(ledger: Ledger, store: Store) -> list[Asked]:
    """Every stage that a run asked for and still would, each at its last identity, in the order they were asked."""
    places: dict[tuple[Any, ...], Asked] = {}
    titles: dict[str, Asked] = {}
    published: dict[str, set[str]] = {}
    for event in ledger:
        if event["kind"] == "stage":
            place = (event["round"], event["verb"], event["ordinal"], event["cell"])
            places.pop(place, None)
            fields = {name: event[name] for name in ("round", "verb", "title", "identity")}
            places[place] = titles[event["title"]] = Asked(**fields, inputs=event["essence"]["inputs"])
        elif event["kind"] in TRIES and " · shard " in event["title"]:
            titles[event["title"].split(" · shard ")[0]].shards[event["identity"]] = event["title"]
        elif event["kind"] == "published":
            published.setdefault(event["identity"], set()).add(event["digest"])
    store.survey(stage.identity for stage in places.values())
    for stage in places.values():
        stage.digests = published.get(stage.identity, set())
        for index, identity in enumerate(shards_of(store, stage.identity), start=1):
            stage.shards.setdefault(identity, f"{stage.title} · shard {index}")
    return list(places.values())


def shards_of(store: Store, identity: str) -> list[str]:
    """The shards that an artifact's manifest lists, as far as it can be read."""
    try:
        manifest = store.find(identity)
    except CorruptArtifact:
        return []
    return [part["identity"] for part in manifest.parts] if manifest else []


def chosen(stages: list[Asked], round: int | None, verb: str | None) -> list[Asked]:
    """The stages of a round, of a verb, of both or of neither; InputError if there are none such."""
    rounds = sorted({stage.round for stage in stages})
    if round is not None and round not in rounds:
        raise InputError(f"this run has no round {round}", got=f"--round {round}", allowed=", ".join(map(str, rounds)) or "none yet")
    found = [stage for stage in stages if round is None or stage.round == round]
    verbs = list(dict.fromkeys(stage.verb for stage in found))
    if verb is not None and verb not in verbs:
        where = "this run" if round is None else f"round {round}"
        raise InputError(f"{where} has no stage {verb!r}", got=f"--stage {verb}", allowed=", ".join(verbs))
    return [stage for stage in found if verb is None or stage.verb == verb]


def claim_of(store: Store, identity: str) -> Claim:
    return Claim(store.state / "claims" / identity)

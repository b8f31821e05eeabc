"""What holds of a run, or of a sweep's, after any deaths. Each check returns what it found to be otherwise."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

from tests.chaos.world import Strike, World, made
from tests.toys.drive import wait_until

BATCH = 4
"""Completions that the toy keeps together: what a death costs at most, of those drawn."""


def violations(world: World, whole: list[Any]) -> list[str]:
    """Everything that does not hold of a world whose command is done."""
    with suppress(AssertionError):
        wait_until(lambda: not world.site.queue(), "the end of every job", 100)  # one that ended while the controller hung is over after a minute
    checks = (
        *(published_once, made_by_one_run, begun_once, drawn_once, one_at_a_time),
        *(no_job_is_left, drivers_ended_as_they_may, nothing_is_left_to_do),
    )
    return [*nothing_is_lost(world, whole), *(found for check in checks for found in check(world))]


def nothing_is_lost(world: World, whole: list[Any]) -> Iterator[str]:
    """Every stage has the digest that it has undisturbed, and every run compares as it does then."""
    found, whole = made(world.ratchet, world.root, world.env), [row for row in whole if row[0] <= world.rounds]
    if whole != found:
        missing, other = [row for row in whole if row not in found], [row for row in found if row not in whole]
        yield f"the results differ from the undisturbed ones: {missing} became {other}"


def published_once(world: World) -> Iterator[str]:
    """By one attempt, written down once, and never differently."""
    counts = Counter((run, event["identity"]) for run, events in world.traces.events("published").items() for event in events)
    yield from (f"{identity[:8]} is published {n} times in the ledger of {run}" for (run, identity), n in counts.items() if n > 1)
    for claim in world.traces.claims():
        words = [word["state"] for n in range(1, claim.attempts() + 1) if (word := claim.exit(n))]
        if words.count("published") > 1:
            yield f"{claim.folder.name[:8]} was published by {words.count('published')} attempts"
        yield from (f"{path} was written" for path in claim.folder.glob("nondeterministic*"))


def made_by_one_run(world: World) -> Iterator[str]:
    """What several runs share is made, and paid for, by one of them: the others find it."""
    makers = defaultdict[str, list[str]](list)
    for run, events in world.traces.events("published").items():
        for event in events:
            makers[event["identity"]] += [] if event["shared"] else [run]
    yield from (f"{identity[:8]} was made by {', '.join(runs) or 'no run'}" for identity, runs in makers.items() if len(runs) != 1)


def begun_once(world: World) -> Iterator[str]:
    """And once more at most for each strike that hit it and may cost that."""
    for identity, begun in world.traces.starts().items():
        may = 1 + sum(strike.begins for strike in hits(world, identity))
        if begun > may:
            yield f"{identity[:8]} was begun {begun} times; the strikes on it allow {may}"


def hits(world: World, identity: str) -> list[Strike]:
    """The strikes that hit a unit."""

    def hit(strike: Strike) -> bool:
        if strike.victims is not None:
            return identity in strike.victims
        return world.watcher.was_alive(identity, strike.began, strike.ended)

    return [strike for strike in world.strikes if hit(strike)]


def drawn_once(world: World) -> Iterator[str]:
    """Each piece of work was done once, but for what a killed attempt had under way; and no two processes took turns at one unit."""
    units = defaultdict(list)
    for draw in world.traces.draws():
        units[draw["unit"]].append(draw)
    may = sum(strike.begins for strike in world.strikes)
    for unit, draws in units.items():
        again = sum(n - 1 for n in Counter(draw["piece"] for draw in draws).values())
        if again > BATCH * may:
            yield f"{again} pieces of {unit} were done again; {may} strikes may have cost it that"
        who = [draw["pid"] for draw in draws]
        turns = 1 + sum(a != b for a, b in pairwise(who))
        if turns > len(set(who)):
            yield f"two processes were at {unit} at once: {who}"


def one_at_a_time(world: World) -> Iterator[str]:
    """No two living jobs had the same stage, and none had a stage that its claim knew nothing of."""
    yield from sorted(set(world.watcher.twice))
    yield from (f"the job {job} was known to no claim" for job in world.watcher.strangers())


def no_job_is_left(world: World) -> Iterator[str]:
    yield from (f"the job {line} is left in the queue" for line in world.site.queue())


def drivers_ended_as_they_may(world: World) -> Iterator[str]:
    """With 0, or as a strike during their lives allows; and never with a traceback."""
    for life in world.lives:
        allowed = {0}.union(*(strike.codes for strike in world.strikes if strike.began <= life.ended and life.began <= strike.ended + 1))
        if life.code not in allowed:
            yield f"a driver ended with {life.code}; allowed: {sorted(allowed)}; it said: {life.err}"
        if "Traceback" in life.err:
            yield f"a driver ended with a traceback: {life.err}"


def nothing_is_left_to_do(world: World) -> Iterator[str]:
    """The same command once more submits nothing."""
    before = world.traces.events("attempt")
    again = world.command().wait()
    if again.code != 0:
        yield f"once more, the command ended with {again.code}: {again.err}"
    if world.traces.events("attempt") != before:
        yield "once more, the command made new attempts"

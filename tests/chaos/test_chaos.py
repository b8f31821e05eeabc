"""Seeded deaths against a run on a real Slurm: the same command again ends it, nothing is lost, and no work is done twice.

`make chaos N=200` runs two hundred schedules; one that fails says how to replay it.
"""

import shutil
from typing import Any

import pytest

from tests.chaos.deaths import DEATHS
from tests.chaos.proof import violations
from tests.chaos.schedule import ALL, QUICK, Schedule, schedule
from tests.chaos.site import Site
from tests.chaos.world import ROUNDS, World
from tests.toys.drive import Warm

APART = 2
"""Artifacts that are published between one death and the next, if the deaths are quick enough."""


def disturb(world: World, deal: Schedule) -> None:
    """Spread the deaths over the run, with more rounds if it ends before they all struck, and bring it to its end."""
    for number, death in enumerate(deal.deaths):
        rng = deal.rng(number)
        due = APART * (number + rng.random())
        world.go(lambda due=due: world.traces.published() >= due)  # type: ignore[misc]
        while death.strike(world, rng).missed and world.rounds < ROUNDS:
            world.more()
    world.finish()


def test_a_schedule_of_deaths_costs_a_run_nothing(site: Site, ratchet: Warm, whole: list[Any], seed: int) -> None:
    deal = schedule(seed)
    site.heal()
    world = World(site, ratchet, site.disk / f"seed-{seed}", in_bucket=deal.in_bucket)
    try:
        try:
            disturb(world, deal)
            found = violations(world, whole)
            found += [f"{strike.name} struck nothing in {ROUNDS} rounds" for strike in world.strikes[-1:] if strike.missed]
        except AssertionError as error:
            found = [f"{type(error).__name__}: {error}"]
    finally:
        world.end()
    story = "\n".join([f"replay: {deal.replay}", *found, world.story()])
    if found:
        pytest.fail(story, pytrace=False)
    print(story)  # for `pytest -s`
    shutil.rmtree(world.root, ignore_errors=True)


def test_of_many_drivers_that_start_at_once_one_works(site: Site, ratchet: Warm, whole: list[Any]) -> None:
    site.heal()
    world = World(site, ratchet, site.disk / "many", rounds=0)
    try:
        with world.strike("many drivers at once", codes=(3,), begins=0):
            world.others(7)
        world.finish()
        found = violations(world, whole)
    finally:
        world.end()
    assert [] == found, world.story()
    assert [0] + 7 * [3] == sorted(life.code for life in world.lives), world.story()


def test_every_death_is_dealt_once_in_a_deal() -> None:
    for deal in range(3):
        dealt = [schedule(deal * ALL + hand) for hand in range(ALL)]
        quick = [name for hand in dealt[:QUICK] for name in hand.names]
        assert sorted(name for name, death in DEATHS.items() if not death.slow) == sorted(quick)
        assert {name for name, death in DEATHS.items() if death.slow} < {name for hand in dealt[QUICK:] for name in hand.names}
    assert schedule(5) == schedule(5)

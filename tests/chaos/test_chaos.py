"""Seeded deaths against runs and sweeps on a real Slurm: the same command again ends them, nothing is lost, and no work is done twice.

`make chaos N=200` runs two hundred schedules; one that fails says how to replay it.
"""

import shutil

import pytest

from tests.chaos.deaths import DEATHS
from tests.chaos.proof import violations
from tests.chaos.schedule import ALL, AXES, QUICK, Schedule, schedule
from tests.chaos.site import Site
from tests.chaos.world import Whole, World
from tests.toys.drive import Warm


def disturb(world: World, deal: Schedule) -> None:
    """Spread the deaths over the run, with more rounds if it ends before they all struck, and bring it to its end."""
    for number, death in enumerate(deal.deaths):
        rng = deal.rng(number)
        due = deal.apart * (number + rng.random())
        world.go(lambda due=due: world.traces.published() >= due)  # type: ignore[misc]
        if world.done:
            world.more()
        while death.strike(world, rng).missed:
            world.more()
    world.finish()


def test_a_schedule_of_deaths_costs_nothing(site: Site, ratchet: Warm, whole: Whole, seed: int) -> None:
    deal = schedule(seed)
    site.heal()
    world = World(site, ratchet, site.disk / f"seed-{seed}", in_bucket=deal.in_bucket, axis=deal.axis, hold=deal.hold)
    try:
        try:
            disturb(world, deal)
            found = violations(world, whole(deal.axis))
        except AssertionError as error:
            found = [f"{type(error).__name__}: {error}"]
    finally:
        world.end()
    story = "\n".join([f"replay: {deal.replay}", *found, world.story()])
    if found:
        pytest.fail(story, pytrace=False)
    print(story)  # for `pytest -s`
    shutil.rmtree(world.root, ignore_errors=True)


def test_of_many_drivers_that_start_at_once_one_works(site: Site, ratchet: Warm, whole: Whole) -> None:
    site.heal()
    world = World(site, ratchet, site.disk / "many", rounds=0)
    try:
        with world.strike("many drivers at once", codes=(3,), begins=0):
            world.others(7)
        world.finish()
        found = violations(world, whole(None))
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


def test_every_death_is_dealt_to_sweeps_over_every_axis_too() -> None:
    for axis in AXES:
        assert set(DEATHS) == {name for seed in range(20 * ALL) if schedule(seed).axis == axis for name in schedule(seed).names}
    assert any(schedule(seed).axis for seed in range(QUICK)), "so that every change meets a sweep"

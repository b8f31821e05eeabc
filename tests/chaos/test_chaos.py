"""Seeded deaths against a run on a real Slurm: the same command again ends it, nothing is lost, and no work is done twice.

`make chaos N=200` runs two hundred schedules; one that fails says how to replay it.
"""

import shutil
from typing import Any

import pytest

from tests.chaos.cluster import Cluster
from tests.chaos.deaths import DEATHS
from tests.chaos.proof import violations
from tests.chaos.schedule import ALL, QUICK, Schedule, schedule
from tests.chaos.world import World
from tests.toys.drive import Warm

REACH = 0.6
"""The share of a run's artifacts by which the last death is due: after that there may be no job left that it could strike."""


def disturb(world: World, deal: Schedule, artifacts: int) -> None:
    """Spread the deaths over the run, and bring it to its end."""
    for number, death in enumerate(deal.deaths):
        rng = deal.rng(number)
        due = REACH * artifacts * (number + rng.random()) / len(deal.deaths)
        world.go(lambda due=due: world.published() >= due)  # type: ignore[misc]
        death.strike(world, rng)
    world.finish()


def prove(cluster: Cluster, ratchet: Warm, deal: Schedule, whole: tuple[list[Any], int]) -> World:
    cluster.heal()
    root = cluster.disk / f"seed-{deal.seed}"
    world = World(cluster, ratchet, root)
    try:
        try:
            disturb(world, deal, whole[1])
            found = violations(world, whole[0])
        except AssertionError as error:
            found = [f"{type(error).__name__}: {error}"]
    finally:
        world.end()
    if found:
        pytest.fail("\n".join([f"replay: {deal.replay}", *found, world.story()]), pytrace=False)
    shutil.rmtree(root, ignore_errors=True)
    return world


def test_a_schedule_of_deaths_costs_a_run_nothing(cluster: Cluster, ratchet: Warm, whole: tuple[list[Any], int], seed: int) -> None:
    world = prove(cluster, ratchet, schedule(seed), whole)
    print(world.story())  # for `pytest -s`
    assert sum(strike.missed for strike in world.strikes) <= 2, "most deaths strike"


def test_of_many_drivers_that_start_at_once_one_works(cluster: Cluster, ratchet: Warm, whole: tuple[list[Any], int]) -> None:
    cluster.heal()
    world = World(cluster, ratchet, cluster.disk / "many", rounds=0)
    try:
        with world.strike("many drivers at once", codes=(3,), begins=0):
            world.others(7)
        world.finish()
        found = violations(world, [row for row in whole[0] if row[0] == 0])
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

"""The deaths: each strikes a run that goes on, at a moment that its random numbers choose.

`codes` are the exit codes that a driver may end with because of it, besides 0. `begins` is how many times more it may make a unit begin
whose job it hit; most may not at all. None may make anything be published twice, or let two jobs be at one unit.
"""

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.chaos.world import Missed, Strike, World
from tests.toys.drive import Die

Act = Callable[[World, random.Random], Any]

SBATCH = "ratchet.infra.slurm_executor.Slurm._sbatch"
APPEND = "ratchet.infra.ledger.Ledger.append"
KILLED, FAILED, HELD, INTERRUPTED = -signal.SIGKILL, 1, 3, 130


@dataclass(frozen=True, kw_only=True)
class Death:
    """A kind of death."""

    name: str
    act: Act
    """Does it; returns the identities of the units whose jobs it hit, or None if that is any that was alive meanwhile."""
    codes: tuple[int, ...]
    begins: int
    slow: bool
    """It takes longer than a test that runs with every change may."""
    in_bucket: bool
    """It strikes a run whose store is in a bucket."""

    def strike(self, world: World, rng: random.Random) -> Strike:
        with world.strike(self.name, self.codes, self.begins) as strike:
            hit = self.act(world, rng)
            strike.victims = None if hit is None else frozenset(hit)
        return strike


DEATHS: dict[str, Death] = {}


def death(*codes: int, begins: int = 0, slow: bool = False, in_bucket: bool = False) -> Callable[[Act], Act]:
    def enter(act: Act) -> Act:
        DEATHS[act.__name__] = Death(name=act.__name__, act=act, codes=codes, begins=begins, slow=slow, in_bucket=in_bucket)
        return act

    return enter


def release(world: World) -> str:
    """What lets jobs go in a world."""
    return f"ratchet.infra.{'allocation.Allocation' if world.hold else 'slurm_executor.Slurm'}.release"


# Of the driver


@death(KILLED)
def driver_killed_at_any_moment(world: World, rng: random.Random) -> None:
    world.during(rng.uniform(0, 1.5))
    world.kill()


@death(KILLED)
def driver_killed_at_a_ledger_write(world: World, rng: random.Random) -> None:
    world.doomed(Die(APPEND, rng.randint(1, 10), rng.choice(("before", "after"))))


@death(KILLED)
def driver_killed_before_the_submit(world: World, rng: random.Random) -> None:
    world.doomed(Die(SBATCH, rng.randint(1, 1 if world.hold else 3), "before"))


@death(KILLED)
def driver_killed_while_it_submits(world: World, rng: random.Random) -> None:
    """Its `sbatch` stands still meanwhile; if it went on later, the same would be submitted twice."""
    sbatch = world.child("sbatch")
    with world.stopped(sbatch):
        world.kill()
        world.during(rng.uniform(0, 3))


@death(KILLED)
def driver_killed_between_submit_and_record(world: World, rng: random.Random) -> None:
    world.doomed(Die(SBATCH, rng.randint(1, 1 if world.hold else 3), "after"))


@death(KILLED)
def driver_killed_at_a_record(world: World, rng: random.Random) -> None:
    """Of an array, the jobs before it are recorded, and those after it are not."""
    world.doomed(Die("ratchet.infra.claims.Claim.record", rng.randint(1, 4), rng.choice(("before", "after"))))


@death(KILLED)
def driver_killed_between_record_and_release(world: World, rng: random.Random) -> None:
    world.doomed(Die(release(world), rng.randint(1, 3), "before"))


@death(KILLED)
def drivers_killed_over_one_job(world: World, rng: random.Random) -> None:
    """One that has not yet written down that it began the job, and the next before it writes down what the job made."""
    world.doomed(Die(APPEND, 1, "before", "attempt"))
    world.doomed(Die(APPEND, 1, "before", "published"))


@death(KILLED)
def driver_killed_after_the_release(world: World, rng: random.Random) -> None:
    world.doomed(Die(release(world), rng.randint(1, 3), "after"))


@death(INTERRUPTED)
def driver_interrupted(world: World, rng: random.Random) -> None:
    world.during(rng.uniform(0.5, 1.5))
    world.kill(signal.SIGINT)


@death()
def driver_frozen(world: World, rng: random.Random) -> None:
    world.go(lambda: world.pid)
    if (pid := world.pid) is None:
        raise Missed
    with world.stopped(pid):
        time.sleep(rng.uniform(1, 4))


@death(HELD)
def more_drivers_at_once(world: World, rng: random.Random) -> None:
    world.others(rng.randint(2, 4))


# Of jobs


@death(FAILED, begins=1)
def job_cancelled(world: World, rng: random.Random) -> set[str] | None:
    id, units, _ = world.job_at_work()
    world.site.answers("scancel", id)  # it may be over by now
    world.during(2)
    return units


@death(begins=1)
def job_requeued(world: World, rng: random.Random) -> set[str] | None:
    id, units, _ = world.job_at_work()
    world.site.answers("scontrol", "requeue", id)  # it may be over by now
    return units


@death(begins=1)
def jobs_preempted(world: World, rng: random.Random) -> None:
    world.job_at_work()
    id = world.site.says("sbatch", "--parsable", "-p", "high", "-N", "2", "--exclusive", "-o", "/dev/null", "--wrap", f"sleep {rng.randint(1, 4)}")
    world.go(lambda: not world.site.answers("squeue", "-h", "-j", id))


@death(begins=1)
def job_warned_of_its_walltime(world: World, rng: random.Random) -> set[str] | None:
    id, units, _ = world.job_at_work()
    world.site.answers("scancel", "--signal=USR2", id)  # it may be over, or be back in the queue
    return units


@death(begins=1, slow=True)
def job_out_of_walltime(world: World, rng: random.Random) -> set[str] | None:
    """A job that hangs when it is warned, and maybe until it is killed; Slurm looks at the time twice a minute."""
    states = rng.choice(("running", "running,completing"))
    id, units, pid = world.job_at_work()
    with world.stopped(pid):
        world.site.answers("scontrol", "update", f"JobId={id}", "EndTime=now")
        world.go(lambda: not world.site.answers("squeue", "-h", "-t", states, "-j", id))
    return units


@death(FAILED, begins=1)
def job_out_of_memory(world: World, rng: random.Random) -> None:
    feast = world.feast()
    world.go(lambda: not feast.exists())
    world.during(3)
    if feast.exists():
        feast.unlink()
        raise Missed


@death()
def job_suspended(world: World, rng: random.Random) -> set[str] | None:
    id, units, _ = world.job_at_work()
    world.site.answers("scontrol", "suspend", id)
    world.during(rng.uniform(1, 4))
    world.site.answers("scontrol", "resume", id)
    return units


# Of the cluster


@death()
def controller_restarted(world: World, rng: random.Random) -> None:
    world.site("stop-controller")
    try:
        world.during(rng.uniform(0, 4))
    finally:
        world.site("start-controller")


@death()
def controller_hangs(world: World, rng: random.Random) -> None:
    """A submission meanwhile is said to have failed, and is done when the controller goes on."""
    with world.site.frozen("slurmctld"):
        world.during(rng.uniform(2, 8))


@death()
def node_drained(world: World, rng: random.Random) -> None:
    node = rng.choice(("node1", "node2"))
    world.site.says("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=chaos")
    world.during(rng.uniform(1, 4))
    world.site.answers("scontrol", "update", f"NodeName={node}", "State=RESUME")  # it may have come back by itself


@death(begins=1)
def node_down(world: World, rng: random.Random) -> None:
    world.job_at_work()
    node = rng.choice(("node1", "node2"))
    world.site.says("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=chaos")
    world.during(rng.uniform(1, 4))
    world.site.answers("scontrol", "update", f"NodeName={node}", "State=RESUME")  # it may have come back by itself


@death()
def node_daemon_restarted(world: World, rng: random.Random) -> None:
    node = rng.choice("12")
    world.site("kill-node", node)
    world.during(rng.uniform(0, 2))
    world.site("start-node", node)


@death(FAILED, begins=1, slow=True)
def node_lost(world: World, rng: random.Random) -> None:
    """With its jobs; it is back before, or after, it is missed."""
    world.job_at_work()
    node = rng.choice("12")
    world.site("kill-node", node, "--with-jobs")
    world.during(rng.choice((0.0, 5.0, 25.0)))
    world.site("start-node", node)


@death(begins=1, slow=True)
def node_cut_off(world: World, rng: random.Random) -> None:
    """A job that hung goes on there while, on the other node, another takes its place."""
    id, _, pid = world.job_at_work()
    node = world.site.answers("squeue", "-h", "-j", id, "-o", "%N")
    if not node:
        raise Missed
    with world.stopped(pid):
        world.site("kill-node", node[-1])
        world.go(lambda: world.site.answers("squeue", "-h", "-j", id, "-t", "running", "-o", "%N") not in (node, ""))
    world.during(rng.uniform(0, 5))
    world.site("start-node", node[-1])


@death()
def accounting_down(world: World, rng: random.Random) -> None:
    world.site("stop-accounting")
    try:
        world.during(rng.uniform(1, 4))
    finally:
        world.site("start-accounting")


# Of what lies below


@death(FAILED, begins=1)
def disk_full(world: World, rng: random.Random) -> None:
    world.during(rng.uniform(0, 1.5))
    with world.site.full():
        end = time.monotonic() + rng.uniform(1, 3)
        world.go(lambda: time.monotonic() > end, restart=False)


@death()
def clocks_wrong(world: World, rng: random.Random) -> None:
    """By less than the five minutes that munge allows; from now on, for whoever starts."""
    world.clocks({whose: rng.uniform(-290, 290) for whose in ("driver", "node1", "node2")})


@death(in_bucket=True)
def store_failing(world: World, rng: random.Random) -> None:
    """Of its answers some are 500 or 503, late, torn, or lost."""
    world.site.proxy.rate = rng.uniform(0.1, 0.3)
    try:
        world.during(rng.uniform(3, 6))
    finally:
        world.site.proxy.rate = 0.0


@death(in_bucket=True)
def store_away(world: World, rng: random.Random) -> None:
    world.site.proxy.away = True
    try:
        world.during(rng.uniform(1, 5))
    finally:
        world.site.proxy.away = False

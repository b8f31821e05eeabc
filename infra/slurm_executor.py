"""Stages as SLURM jobs, submitted through submitit; those of one verb that are ready together go out as one job array.

submitit writes the batch file, submits it and starts the job's Python. Everything after that is our own, because its polling, its
re-attachment and its result pickles do not survive what happens to a run that lasts for days: the sign of completion is the
published artifact, the state comes from one `squeue` for all jobs (accounting is asked only how an ended job ended, and may be off),
and a job is known by its id *and* its name, which is its batch's alone, since ids are used again.
"""

import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ratchet.errors import OF_THE_MACHINE, InputError, RatchetError
from ratchet.infra.executors import Ending, Job, JobRecord, Look, State, at_least_one, environment
from ratchet.infra.scheduler import LOST, Scheduler, SchedulerAway, SchedulerRefuses, Seen, is_silence, unheard
from ratchet.infra.slurm_job import run_in_job
from ratchet.infra.snapshot import snapshot

OURS = {"command", "dependency", "folder", "job_name", "name", "setup", "stderr_to_stdout", "teardown", "use_srun", "wckey"}
"""submitit's parameters that the launch protocol sets itself."""

FASTEST_S, SLOWEST_S = 1.0, 20.0
"""How often the queue is looked at: soon after something moved, three times a minute when nothing does. (What a job publishes is seen
on the filesystem, without a question to the scheduler.)"""

VERBS = ("propose", "create", "synthesize", "verify", "select", "train", "evaluate", "adjust", "gate")


@dataclass
class _Picture:
    """The queue as it was last seen."""

    jobs: dict[str, Seen] = field(default_factory=dict[str, Seen])
    at: float = -1e9
    pause: float = FASTEST_S
    away_since: float | None = None
    submitted: dict[str, float] = field(default_factory=dict[str, float])
    """Job → when this process submitted it: a picture from before then says nothing about it."""
    last: dict[str, tuple[Seen, float]] = field(default_factory=dict[str, tuple[Seen, float]])
    """Job → as it was last seen, and when."""


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """Runs each stage as a SLURM job; it outlives its driver and is attached to again."""

    kind: ClassVar[str] = "slurm"
    outlives_machine: ClassVar[bool] = True
    resources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    """`default`, and per verb what differs from it, in submitit's spelling."""
    setup: tuple[str, ...] = ()
    """Shell commands before the job's Python: `module load cuda`, `source …/activate`."""
    python: str | None = None
    """The interpreter on the nodes; None: this one, which they must see under the same path."""
    attempts: int = 5
    """How often a stage that is preempted, requeued, out of walltime or lost with its node is begun before it counts as failed."""
    slots: int = 1000
    """Jobs in the queue at a time; SLURM's MaxArraySize and the site's limits bound it."""
    hold: bool = False
    """One allocation for a whole round, in which its stages run as steps (`allocation.py`)."""
    grace_s: float = 15.0
    """How long after a job's end its result may still become visible on a shared filesystem."""
    patience_s: float = 3600.0
    """How long a scheduler that does not answer is waited for."""
    scheduler: Scheduler = field(default_factory=Scheduler, init=False, compare=False, repr=False)
    _picture: _Picture = field(default_factory=_Picture, compare=False, repr=False)

    def __post_init__(self) -> None:
        at_least_one(attempts=self.attempts, slots=self.slots)
        known = {"default", *VERBS}
        if unknown := set(self.resources) - known:
            raise InputError("executor.resources is given per verb", got=", ".join(sorted(unknown)), allowed=", ".join(["default", *VERBS]))
        for verb, given in self.resources.items():
            if wrong := sorted(given.keys() - valid_resources()):
                raise InputError(f"executor.resources.{verb} has no key {wrong[0]!r}", got=given[wrong[0]], allowed=", ".join(valid_resources()))

    @property
    def cpus_per_task(self) -> int:
        """Threads of the driver itself and of stages that say nothing else."""
        return int(self.resources_of("")["cpus_per_task"])

    def resources_of(self, verb: str) -> dict[str, Any]:
        """What a stage of a verb asks for."""
        asked = {**self.resources.get("default", {}), **{k: v for k, v in self.resources.get(verb, {}).items() if v is not None}}
        return {"cpus_per_task": 1, **{key: value for key, value in asked.items() if value is not None}}

    def submit(self, jobs: Sequence[Job], name: str) -> list[JobRecord]:
        asked = self.resources_of(jobs[0].verb)
        executor = self._submitit(jobs[0], name, asked)
        # A name that is this batch's alone lets no second copy of a job begin. Tasks of one array may wait for each other (seen).
        more = {"dependency": "singleton"} if len(jobs) == 1 else {}
        executor.update_parameters(**more, additional_parameters={**executor.parameters["additional_parameters"], "hold": True})
        return self._submitted(executor, jobs, name)

    def submit_worker(self, job: Job, name: str) -> JobRecord:
        """Submit a job that nobody has to release, and that is its batch step itself: it ends by itself when nobody needs it."""
        executor = self._submitit(job, name, self.resources_of(""), python="exec ")  # else bash dies on SIGTERM and Python lives on (seen)
        executor.update_parameters(use_srun=False)
        (record,) = self._submitted(executor, [job], name)
        return record

    def _submitit(self, job: Job, name: str, asked: Mapping[str, Any], python: str = "") -> Any:
        """submitit's executor for a batch of jobs."""
        import submitit

        # On the class: for an array, submitit makes an executor of its own.
        submitit.SlurmExecutor._make_submission_command = lambda _, file: _command(file)
        executor = submitit.SlurmExecutor(folder=_folder(job, name), python=f"{python}{shlex.quote(self.python or sys.executable)} -P")
        parameters = executor._convert_parameters(dict(asked))
        step = [f"--cpus-per-task={asked['cpus_per_task']}", *parameters.pop("srun_args", ())]  # srun does not take it from sbatch
        executor.update_parameters(
            **{**parameters, "additional_parameters": {"requeue": True, **parameters.get("additional_parameters", {})}},
            job_name=name,
            setup=[*self.setup, *self._exports(job, int(asked["cpus_per_task"]))],
            stderr_to_stdout=True,
            srun_args=step,
        )
        return executor

    def _submitted(self, executor: Any, jobs: Sequence[Job], name: str) -> list[JobRecord]:
        """Submit, and wait for a scheduler that does not answer; what it took without saying so is ended first."""
        deadline = time.monotonic() + self.patience_s
        pause = FASTEST_S
        while True:
            try:
                ids = self._sbatch(executor, jobs)
                break
            except SchedulerAway as error:
                if time.monotonic() > deadline:
                    raise self._given_up(error) from None
                time.sleep(pause)
                pause = min(pause * 2, SLOWEST_S)
                for _ in range(2):  # its answer may be lost while the jobs stand, and a controller that hung takes them up when it goes on
                    self._end_held(name)
                    time.sleep(FASTEST_S)
        self._picture.pause = FASTEST_S
        self._picture.submitted.update(dict.fromkeys(ids, time.monotonic()))
        return [{"job_id": id, "name": name, "folder": str(executor.folder)} for id in ids]

    def _sbatch(self, executor: Any, jobs: Sequence[Job]) -> list[str]:
        """Hand jobs to `sbatch`; return their ids in order."""
        try:
            submitted = executor.map_array(run_in_job, [job.arguments for job in jobs], [str(job.log) for job in jobs])
        except Exception as error:  # noqa: BLE001 - submitit has no type of its own for what sbatch answered
            if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:  # a full disk, and nothing that SLURM said
                raise OSError(error.errno, error.strerror, error.filename or str(executor.folder)) from None
            raise self._refused(str(error), jobs[0].verb) from None
        return [str(job.job_id) for job in submitted]

    def _exports(self, job: Job, cpus: int) -> list[str]:
        """The environment of a job: the code as it is now, the thread count pinned."""
        code = snapshot(job.modules, job.state / "code")
        pinned = environment(cpus, {})
        return [
            f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
            *(f"export {key}={value}" for key, value in pinned.items()),
        ]

    def _refused(self, said: str, verb: str) -> RatchetError:
        lines = [line.strip() for line in said.splitlines() if "sbatch" in line or "slurm" in line.lower()]
        words = "; ".join(dict.fromkeys(lines)) or said.strip().splitlines()[-1]
        if is_silence(said):
            return SchedulerAway(words)
        got = ", ".join(f"{key}={value}" for key, value in self.resources_of(verb).items())
        return InputError(f"SLURM refuses the jobs of `{verb}`: {words}", got=got, next=f"mend executor.resources.{verb}.… (or .default.…)")

    def find(self, name: str, index: int) -> JobRecord | None:
        found = self._named(name, index)
        if found is None or found.ended:
            return None
        if found.held:  # its payload may not be in place, and it did nothing
            self._end_held(name, index)
            return None
        return {"job_id": found.id, "name": name, "folder": None}

    def _named(self, name: str, index: int | None = None) -> Seen | None:
        """The living job of a name (and place in its array) in a fresh picture of the queue; waits for the scheduler to answer."""
        deadline = time.monotonic() + self.patience_s
        while True:
            try:
                self._look(fresh=True)
                break
            except SchedulerAway as error:
                if time.monotonic() > deadline:
                    raise self._given_up(error) from None
                time.sleep(FASTEST_S)
        mine = [seen for seen in self._picture.jobs.values() if seen.name == name and not seen.ended]
        return next((seen for seen in mine if index is None or seen.id.partition("_")[2] in ("", str(index))), None)

    def _end_held(self, name: str, index: int | None = None) -> None:
        """Cancel jobs of a name that were never released, and see them gone."""
        while (found := self._named(name, index)) and found.held:
            with suppress(SchedulerRefuses, SchedulerAway):
                self.scheduler.cancel([found.id])
            time.sleep(0.2)

    def release(self, records: Sequence[JobRecord]) -> None:
        # Whatever goes wrong shows as `held` in the next picture, and is done again.
        with suppress(SchedulerAway, SchedulerRefuses):
            self.scheduler.release(_whole_arrays([record["job_id"] for record in records], self._picture.submitted))
        self._picture.pause = FASTEST_S

    def cancel(self, records: Sequence[JobRecord]) -> None:
        self._look(fresh=True)
        alive = [r["job_id"] for r in records if (seen := self._seen(r)) is not None and not seen.ended]
        self.scheduler.cancel(_whole_arrays(alive, self._picture.submitted))

    def probe(self, records: Sequence[JobRecord]) -> list[Look]:
        if not records:
            return []
        try:
            self._look()
            self._picture.away_since = None
        except SchedulerAway as error:
            since = self._picture.away_since = self._picture.away_since or time.monotonic()
            if time.monotonic() - since > self.patience_s:
                raise self._given_up(error) from None
            return [Look(state="unknown", words="the scheduler does not answer; waiting") for _ in records]
        return [self._judge(record) for record in records]

    def _look(self, *, fresh: bool = False) -> None:
        """Refresh the picture of the queue, if it is time."""
        picture = self._picture
        now = time.monotonic()
        if not fresh and now - picture.at < picture.pause:
            return
        before = picture.jobs
        picture.at = now  # of the question: what is submitted while it is answered may be missing
        try:
            picture.jobs = self.scheduler.queue()
        finally:
            changed = picture.jobs != before  # a long array that moves all the time is not asked for every second
            picture.pause = max(picture.pause / 2, FASTEST_S) if changed else min(picture.pause * 1.5, SLOWEST_S)

    def _seen(self, record: JobRecord) -> Seen | None:
        """A job in the picture; one of another name only has its id."""
        seen = self._picture.jobs.get(record["job_id"])
        return seen if seen is not None and seen.name == record["name"] else None

    def _judge(self, record: JobRecord) -> Look:
        seen = self._seen(record)
        if seen is not None:
            self._picture.last[record["job_id"]] = seen, self._picture.at
            state: State = "over" if seen.ended else "held" if seen.held else "running"
            return Look(state=state, words=seen.words, begun=1 + seen.restarts)
        if self._picture.submitted.get(record["job_id"], -1e9) >= self._picture.at:
            return Look(state="running", words="SUBMITTED")
        return Look(state="over", words="GONE")

    def verdict(self, record: JobRecord) -> Ending:
        id, name = record["job_id"], record["name"]
        last, at = self._picture.last.get(id, (None, 0.0))
        seen = last
        if seen is None or not seen.ended:
            told = self.scheduler.accounting([id]).get(id)
            seen = told if told is not None and told.name == name else Seen(id, name, "GONE")
        if seen.state == "GONE" and last is not None and last.state == "PENDING" and time.monotonic() - at < 2 * SLOWEST_S:
            seen = Seen(id, name, "CANCELLED")  # the record of a task that never began vanishes at once, and accounting has none
        restarts = last.restarts if last is not None else 0
        # A node that comes back while a job of its is requeued ends that job unrun: FAILED, and no signal.
        unrun = seen.state == "FAILED" and restarts > 0 and not seen.code_and_signal[1]
        warned = seen.state == "FAILED" and seen.code_and_signal[1] == signal.SIGUSR2  # before it could listen
        log = Path(record["folder"]) / f"{id}_0_log.out" if record.get("folder") else None
        if seen.state == "FAILED" and (silence := unheard(_read(log))):
            return Ending(words=f"FAILED, the controller did not answer its step: {silence}", lost=True, log=log)
        return Ending(words=_words(seen), lost=seen.state in LOST or unrun or warned, log=log)

    def _given_up(self, error: Exception) -> RatchetError:
        return RatchetError(
            f"the scheduler did not answer for {self.patience_s:.0f} s: {error}\n  next: nothing is lost; give the same command again when it is back"
        )


def _whole_arrays(ids: Sequence[str], submitted: Mapping[str, float]) -> list[str]:
    """The ids, those of an array by the array's own where all of its tasks are meant: one word for the scheduler instead of hundreds."""
    arrays: dict[str, list[str]] = {}
    for id in ids:
        arrays.setdefault(id.partition("_")[0], []).append(id)
    known = [id.partition("_")[0] for id in submitted]
    return [id for array, tasks in arrays.items() for id in ([array] if len(tasks) == known.count(array) else tasks)]


def _words(seen: Seen) -> str:
    code, signal = seen.code_and_signal
    if seen.state == "GONE":
        return "GONE: the scheduler no longer knows the job, and accounting does not say how it ended"
    if seen.state == "OUT_OF_MEMORY" or (seen.state == "FAILED" and signal == 9):
        return f"{seen.state}, killed by signal 9: out of memory? give it more by executor.resources.VERB.mem_gb"
    if seen.state == "FAILED":
        return f"FAILED, {f'killed by signal {signal}' if signal else f'exit code {code}'}"
    return seen.state


def _read(log: Path | None) -> str:
    """What a job printed outside of its stage; nothing where that is not known."""
    with suppress(OSError):
        return log.read_text(errors="replace") if log else ""
    return ""


WITH_US = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.getppid() == int(sys.argv[1]) and os.execv(sys.argv[2], sys.argv[2:])"
"""Becomes a command that the kernel kills with its parent (PR_SET_PDEATHSIG)."""


def _command(file: Path) -> list[str]:
    """`sbatch`, which tries for seconds and must not submit what its driver, dead meanwhile, is thought not to have submitted."""
    sbatch = shutil.which("sbatch")
    return [sys.executable, "-I", "-S", "-c", WITH_US, str(os.getpid()), sbatch, str(file)] if sbatch else ["sbatch", str(file)]


def _folder(job: Job, name: str) -> Path:
    """Where submitit keeps the batch file, the payloads and what SLURM itself prints."""
    return job.state / "submitit" / name


def valid_resources() -> list[str]:
    """The keys that `executor.resources.VERB` takes: submitit's, in either of its spellings."""
    from submitit.slurm.slurm import SlurmExecutor

    return sorted((SlurmExecutor._valid_parameters() | set(SlurmExecutor._equivalence_dict())) - OURS)

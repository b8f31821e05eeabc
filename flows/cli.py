"""`ratchet VERB [NAME] [KEY=VALUE …]`: reads the words, hands them to the verb, turns errors into exit codes.

Nothing heavy is imported here: `--help`, `runs` and `show` answer at once.
"""

import argparse
import json
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ratchet import __version__
from ratchet.errors import OF_THE_MACHINE, InputError, RatchetError

EPILOG = """\
examples:
  ratchet run recipe=b_star                      the default task and policy, on this machine
  ratchet run recipe=rest_em policy=hf policy.path=CKPT task=jsonl task.train_file=DATA.jsonl
  ratchet plan recipe=b_star training.steps=80   what would run again, and why
  ratchet show NAME                              rounds, stages, attempts
  ratchet compare NAME OTHER --by samples        what is a difference at equal budget, and what is not

The same command again is resume. exit codes: 0 done, 1 a stage failed, 2 your input, 3 held by another driver, 130 detached.
"""

OVERRIDE = re.compile(r"[+~]{0,2}[A-Za-z_][\w.@-]*=|~[A-Za-z_]")
"""`KEY=VALUE`. A slash before the `=` is of a run's name: `GROUP/seed=1,knobs=both`."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="ratchet", description="Self-improvement pipelines that cannot lose a round.", epilog=EPILOG)
    top.formatter_class = argparse.RawDescriptionHelpFormatter
    top.add_argument("--version", action="version", version=f"ratchet {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB [NAME …]", required=True)

    def verb(name: str, help: str, does: Callable[[argparse.Namespace], int], *, overrides: bool = False, json_too: bool = False) -> Any:
        sub = verbs.add_parser(name, help=help, description=help)
        sub.set_defaults(does=does)
        sub.add_argument("--root", help="where runs live (default: RATCHET_ROOT, the nearest runs/ above, ./runs)")
        if overrides:
            sub.usage = f"ratchet {name} [options] [KEY=VALUE …]"
            sub.set_defaults(takes_overrides=True)
            sub.add_argument("--config-dir", type=Path, help="a folder with config groups of your own")
        if json_too:
            sub.add_argument("--json", action="store_true", help="for a machine to read")
        return sub

    run = verb("run", "start a run, or continue it: the same command again is resume", _run, overrides=True, json_too=True)
    run.add_argument("--name", help="the run's name (default: RECIPE-TASK-SCIENCE)")
    run.add_argument("--no-prefect", action="store_true", help="run without Prefect; no result depends on it")
    sweep = verb("sweep", "one run for every combination of KEY=VALUE,VALUE,… as one group", _run_sweep, overrides=True)
    sweep.add_argument("--name", help="the group's name (default: from what is swept)")
    sweep.add_argument("--no-prefect", action="store_true")
    sweep.set_defaults(json=False)
    plan = verb("plan", "what would run, what would be reused, and why", _plan, overrides=True, json_too=True)
    plan.add_argument("--name")
    plan.add_argument("--verify", action="store_true", help="compare every reused artifact's files with its manifest")
    verb("runs", "list runs", _runs, json_too=True)
    show = verb("show", "one run's rounds, stages, attempts, jobs and metrics", _show, json_too=True)
    show.add_argument("name")
    resume = verb("resume", "continue a run from its recorded config", _resume, overrides=True, json_too=True)
    resume.add_argument("run_name", metavar="NAME")
    resume.add_argument("--no-prefect", action="store_true")
    retry = verb("retry", "set a round's stages (or one verb's) and all after them aside, and make them again", _retry, overrides=True, json_too=True)
    retry.add_argument("run_name", metavar="NAME")
    retry.add_argument("--round", type=int, required=True)
    retry.add_argument("--stage", metavar="VERB")
    retry.add_argument("--no-prefect", action="store_true")
    fork = verb("fork", "a new run that goes on after a round of another one, with other dials", _fork, overrides=True, json_too=True)
    fork.usage = "ratchet fork NAME --round K --as NEW [options] KEY=VALUE …"
    fork.add_argument("run_name", metavar="NAME")
    fork.add_argument("--round", type=int, required=True, help="the last round that is taken over")
    fork.add_argument("--as", dest="new_name", metavar="NEW", required=True, help="the new run's name")
    fork.add_argument("--no-prefect", action="store_true")
    promote = verb("promote", "say that a round's policy is the champion, of its run or of a model that many runs feed", _promote)
    promote.add_argument("name")
    promote.add_argument("--round", type=int, help="default: the run's champion")
    promote.add_argument("--to", metavar="MODEL", help="MLflow's registered model (default: the run's own)")
    promote.add_argument("--yes", action="store_true", help="also if the run's gates did not let it pass")
    cancel = verb("cancel", "end a run's driver and its jobs; what is published stays", _cancel)
    cancel.add_argument("name")
    compare = verb("compare", "what is and what is not a difference: rounds of a run, or runs against the first one named", _compare, json_too=True)
    compare.add_argument("names", nargs="+", metavar="NAME", help="a run, or a group of runs")
    compare.add_argument(
        "--by", choices=("round", "samples", "tokens", "seconds"), default="round", help="same round, or equal budget (default: round)"
    )
    compare.add_argument("--against", choices=("first", "previous"), default="first", help="of one run: which round the others are set against")
    compare.add_argument("--metric", action="append", default=[], help="a metric to test, again for another (default: the evaluation's headline)")
    compare.add_argument("--report", type=Path, metavar="FILE", help="also write one self-contained HTML page")
    logs = verb("logs", "what a run's stages printed", _logs)
    logs.add_argument("name")
    logs.add_argument("--round", type=int)
    logs.add_argument("--stage", metavar="VERB")
    logs.add_argument("--follow", action="store_true", help="keep printing while the run goes")
    delete = verb("delete", "delete a run, and the artifacts that no other run uses", _delete)
    delete.add_argument("name")
    delete.add_argument("--yes", action="store_true", help="do it; without this only say what would go")
    gc = verb("gc", "delete the artifacts that no run needs any more, and say why each may go", _gc)
    gc.add_argument("names", nargs="*", metavar="NAME", help="only these runs' (default: all runs', and what is nobody's)")
    gc.add_argument("--keep-last", type=int, default=2, metavar="K", help="how many of the last rounds are kept whole (default: 2)")
    gc.add_argument("--metric", help="also keep the round that is best by this")
    gc.add_argument("--yes", action="store_true", help="do it; without this only say what would go")
    verb("doctor", "what of the environment works", _doctor, json_too=True)
    verb("ui", "the MLflow and Prefect pages of this root, until Ctrl-C", _ui)
    schedule = verb("schedule", "have a run started again and again, by `ratchet serve`", _schedule, overrides=True)
    schedule.usage = 'ratchet schedule NAME --cron "0 2 * * *" [--tz Europe/Berlin] [options] [KEY=VALUE …]'
    schedule.add_argument("schedule_name", metavar="NAME", help="each firing is the run NAME/<when it was due>")
    when = schedule.add_mutually_exclusive_group(required=True)
    when.add_argument("--cron", help="minute hour day month weekday")
    when.add_argument("--every", type=int, metavar="SECONDS", help="counted from now")
    schedule.add_argument("--tz", default="UTC", metavar="ZONE", help="whose clock --cron means (default: UTC)")
    schedule.add_argument("--overlap", choices=("skip", "queue"), default="skip", help="a firing that is due while one is at work (default: skip)")
    schedule.add_argument("--missed", choices=("run-once", "skip"), default="run-once", help="what was due while nobody served (default: run-once)")
    schedule.add_argument("--continue", dest="continues", type=int, metavar="N", help="each firing is N more rounds of the run NAME instead")
    schedule.add_argument("--on-failure", metavar="BLOCK", help="the Prefect block that is told of a failed firing: TYPE/NAME")
    schedule.add_argument("--on-finish", metavar="BLOCK", help="the Prefect block that is told of a finished firing: TYPE/NAME")
    verb("schedules", "list schedules: when they are due next, and how the last firing ended", _schedules, json_too=True)
    unschedule = verb("unschedule", "forget a schedule; its runs stay, and one at work goes on", _unschedule)
    unschedule.add_argument("schedule_name", metavar="NAME")
    serve = verb("serve", "let the schedules fire, and bring back what crashed, until Ctrl-C", _serve)
    serve.add_argument("--pool", metavar="POOL", help="a work pool of a team's server (PREFECT_API_URL), made if it is not there")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """The `ratchet` command; returns its exit code."""
    try:
        signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        given = _given(list(sys.argv[1:] if arguments is None else arguments))
        return int(given.does(given))
    except RatchetError as error:
        sys.stderr.write(f"ratchet: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write(
            "\nratchet: detached: its jobs go on. The same command (or `ratchet resume NAME`) takes them up again, `ratchet cancel NAME` ends them.\n"
        )
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno not in OF_THE_MACHINE:
            raise
        sys.stderr.write(f"ratchet: {error}\n  next: free space or mend the path, and give the same command again: what is published stays\n")
        return 1


def _given(words: Sequence[str]) -> argparse.Namespace:
    """The words, read. Overrides may stand anywhere between the options, which argparse cannot say of a positional under a verb."""
    overrides = [word for word in words if OVERRIDE.match(word)]
    given = parser().parse_args([word for word in words if word not in overrides])
    given.overrides = overrides
    if overrides and not getattr(given, "takes_overrides", False):
        raise InputError(f"`{given.verb}` takes no KEY=VALUE", got=" ".join(overrides))
    return given


def _config(given: argparse.Namespace) -> dict[str, Any]:
    from ratchet.flows.compose import compose, default_name

    config = compose(given.overrides, given.config_dir)
    config["name"] = given.name or config.get("name") or default_name(config)
    return config


def _folder(given: argparse.Namespace, name: str, root: str | None = None) -> Any:
    from ratchet.infra.runs import RunFolder, find_root

    return RunFolder(find_root(given.root or root), name)


def _run(given: argparse.Namespace) -> int:
    config = _config(given)
    if config["sweep"]:
        return _sweep(given)
    run = _folder(given, config["name"], config.get("root"))
    return _drive(given, run, config)


def _run_sweep(given: argparse.Namespace) -> int:
    from ratchet.flows.sweep import as_sweep

    given.overrides = as_sweep(given.overrides)
    return _sweep(given)


def _sweep(given: argparse.Namespace) -> int:
    from ratchet.champions import headline_of
    from ratchet.flows.compose import compose
    from ratchet.flows.summary import summary_of
    from ratchet.flows.sweep import averaged, members
    from ratchet.flows.tables import console, sweep_table

    config = compose(given.overrides, given.config_dir)  # a group has a name of its own, not that of a run of this config
    found = members(config, given.overrides, given.config_dir, given.name)
    out = console(stderr=True)
    for number, member in enumerate(found, start=1):
        out.print(f"[bold]run {number} of {len(found)}[/bold]")
        run = _folder(given, member.name, config.get("root"))
        _drive(given, run, member.config, member.overrides)
    runs = [(member.point, summary_of(_folder(given, member.name, config.get("root")))) for member in found]
    for metric in headline_of(found[0].config)[:1]:
        console().print(sweep_table(averaged(runs, metric)))
    group = found[0].name.rpartition("/")[0]
    console().print(f"  what is a difference, and what is not: [bold]ratchet compare {group}[/bold]")
    return 0


def _resume(given: argparse.Namespace) -> int:
    run = _folder(given, given.run_name)
    return _drive(given, run, _recorded(given, run))


def _recorded(given: argparse.Namespace, run: Any) -> dict[str, Any]:
    """A run's own config with operations that the user changes for this turn, the last turn's otherwise."""
    from ratchet.flows.compose import OPERATIONS, compose
    from ratchet.flows.summary import summary_of

    config = dict(summary_of(run).config)
    if given.overrides:
        wrong = [o for o in given.overrides if o.partition("=")[0].split(".")[0] not in OPERATIONS]
        if wrong:
            what = f"`{given.verb}` keeps the run's science"
            raise InputError(what, got=" ".join(wrong), allowed=f"changes of {', '.join(sorted(OPERATIONS))}", next="`ratchet run` with a new name")
        fresh = compose(given.overrides, given.config_dir)
        config |= {key: fresh[key] for key in {o.partition("=")[0].split(".")[0] for o in given.overrides}}
    return config


def _drive(given: argparse.Namespace, run: Any, config: dict[str, Any], words: Sequence[str] | None = None) -> int:
    from ratchet.flows.retry import with_command
    from ratchet.flows.session import session

    try:
        return session(run, config, overrides=given.overrides if words is None else words, prefect=not given.no_prefect, as_json=given.json)
    except RatchetError as error:
        raise with_command(run, error) from None


def _retry(given: argparse.Namespace) -> int:
    from ratchet.flows.retry import set_aside

    run = _folder(given, given.run_name)
    config = _recorded(given, run)
    titles = set_aside(run, given.round, given.stage)
    sys.stderr.write(f"set aside: {', '.join(titles) or 'nothing, since none of it is published'}\n")
    return _drive(given, run, config)


def _promote(given: argparse.Namespace) -> int:
    from ratchet.flows.promote import promote

    return promote(_folder(given, given.name), round=given.round, model=given.to, really=given.yes)


def _cancel(given: argparse.Namespace) -> int:
    from ratchet.flows.cancel import cancel

    return cancel(_folder(given, given.name))


def _fork(given: argparse.Namespace) -> int:
    from ratchet.flows.driver import check
    from ratchet.flows.fork import dials, fork

    run, new = _folder(given, given.run_name), _folder(given, given.new_name)
    config, words = dials(run, given.overrides, given.config_dir, name=new.name)
    check(config)
    shared = fork(run, new, config, words, round=given.round)
    sys.stderr.write(f"{new.name} has round{'s' if shared > 1 else ''} {'0 to ' if shared > 1 else ''}{given.round} of {run.name}\n")
    return _drive(given, new, config, words)


def _plan(given: argparse.Namespace) -> int:
    from ratchet.flows.plan import plan
    from ratchet.flows.tables import console, plan_table
    from ratchet.infra.stores import enter

    config = _config(given)
    run = _folder(given, config["name"], config.get("root"))
    found = plan(run, config)
    if given.verify:
        store = enter(run, config.get("store"))
        for line in found.lines:
            if line.identity and store.find(line.identity):  # what `gc` deleted is passed by
                store.verify(line.identity)
                store.open(line.identity)  # with its shards
    if given.json:
        _emit({"run": run.name, **asdict(found)})
        return 0
    out = console()
    out.print(plan_table(found))
    count = {fate: sum(line.fate == fate for line in found.lines) for fate in ("reuse", "run", "unknown")}
    out.print(f"{run.name}: {count['reuse']} stages reused, {count['run']} to run, {count['unknown']} depend on those.")
    if found.planned < found.rounds:
        out.print(f"Rounds {found.planned + 1} to {found.rounds} depend on round {found.planned}.")
    if found.compared and found.compared != run.name:
        out.print(f"The reasons compare with the run {found.compared}.")
    return 0


def _runs(given: argparse.Namespace) -> int:
    from ratchet.infra.runs import find_root, runs_under

    root = find_root(given.root)
    summaries = [_seen(run) for run in runs_under(root)]
    if given.json:
        _emit([{key: value for key, value in asdict(run).items() if key not in ("stages", "config")} for run in summaries])
        return 0
    from ratchet.flows.tables import console, runs_table

    console().print(runs_table(summaries) if summaries else f"no runs under {root} yet: `ratchet run recipe=b_star` starts one")
    return 0


def _seen(run: Any) -> Any:
    """A run as it stands, wherever it is driven from."""
    from ratchet.flows.summary import summary_of
    from ratchet.infra.stores import refresh

    return summary_of(run, elsewhere=refresh(run, _warn))


def _warn(text: str) -> None:
    sys.stderr.write(f"ratchet: {text}\n")


def _show(given: argparse.Namespace) -> int:
    run = _seen(_folder(given, given.name))
    if given.json:
        _emit(asdict(run))
        return 0
    from ratchet.champions import BY, headline_of
    from ratchet.flows.tables import console, judged_text, rounds_table, stages_table

    out = console()
    out.print(rounds_table(run.rounds, f"{run.name}: {run.status}, {run.reason}", headline_of(run.config)))
    for row in run.rounds:
        out.print(judged_text(row), end="")
    if run.champion:
        out.print(f"Champion: round {run.champion.round}, {BY[run.crownings[-1].by]}.")
    for one in run.promoted:
        out.print(f"Promoted: round {one['round']}" + (f" as {one['model']}." if one["model"] else "."))
    if run.forked:
        out.print(f"Forked from {run.forked['run']} after round {run.forked['round']}: the rounds up to it are that run's.")
    for fork in run.forks:
        out.print(f"Forked as {fork['name']} after round {fork['round']}.")
    out.print(stages_table(run))
    return 0


def _compare(given: argparse.Namespace) -> int:
    from ratchet.flows.comparison import compare
    from ratchet.flows.measured import measured
    from ratchet.infra.stores import refresh

    runs = [measured(run, elsewhere=refresh(run, _warn)) for name in given.names for run in _members(given, name)]
    found = compare(runs, by=given.by, against=given.against, metrics=given.metric)
    if given.report:
        from ratchet.flows.report import write_report

        write_report(found, given.report)
    if given.json:
        _emit([found.plain(run) for run in runs])
        return 0
    from ratchet.flows.tables import compare_table, console, verdicts_text

    out = console()
    out.print(compare_table([run.summary for run in runs], found.metrics))
    out.print(verdicts_text(found))
    if given.report:
        out.print(f"report: {given.report}")
    return 0


def _members(given: argparse.Namespace, name: str) -> list[Any]:
    """The run of a name, or the runs of a group of that name."""
    from ratchet.infra.runs import runs_under

    run = _folder(given, name)
    return [run] if run.exists() else [_folder(given, f"{name}/{member.name}") for member in runs_under(run.folder)] or [run]


def _logs(given: argparse.Namespace) -> int:
    from ratchet.flows.logs import print_logs

    return print_logs(_folder(given, given.name), given.round, given.stage, follow=given.follow)


def _delete(given: argparse.Namespace) -> int:
    from ratchet.flows.delete import delete

    return delete(_folder(given, given.name), really=given.yes)


def _gc(given: argparse.Namespace) -> int:
    from ratchet.flows.gc import gc
    from ratchet.infra.runs import find_root

    return gc(find_root(given.root), given.names, keep_last=given.keep_last, metric=given.metric, really=given.yes)


def _doctor(given: argparse.Namespace) -> int:
    from ratchet.flows.doctor import doctor
    from ratchet.infra.runs import find_root

    return doctor(find_root(given.root), as_json=given.json)


def _ui(given: argparse.Namespace) -> int:
    from ratchet.flows.ui import ui
    from ratchet.infra.runs import find_root

    return ui(find_root(given.root))


def _schedule(given: argparse.Namespace) -> int:
    from ratchet.flows.compose import compose
    from ratchet.flows.deployments import check_blocks
    from ratchet.flows.driver import check
    from ratchet.flows.schedules import Book, Schedule
    from ratchet.flows.serve import is_served
    from ratchet.infra.runs import make_root

    root = _folder(given, given.schedule_name).root
    schedule = Schedule(
        name=given.schedule_name,
        words=given.overrides,
        config_dir=str(given.config_dir.resolve()) if given.config_dir else None,
        cron=given.cron,
        every_s=given.every,
        tz=given.tz,
        overlap=given.overlap,
        missed=given.missed,
        continues=given.continues,
        on_failure=given.on_failure,
        on_finish=given.on_finish,
    ).checked()
    config = compose(given.overrides, given.config_dir)
    check(config)
    check_blocks(root, schedule)
    make_root(root)
    book = Book(root)
    book.put(replace(schedule, seed=config["seed"]))
    sys.stdout.write(f"{schedule.name}: {schedule.when}, next at {schedule.due_after(datetime.now(UTC)):%Y-%m-%d %H:%M:%S} UTC\n")
    if not is_served(book):
        sys.stdout.write(f"  nobody serves it on this machine yet: ratchet serve --root {root}\n")
    return 0


def _schedules(given: argparse.Namespace) -> int:
    from ratchet.flows.schedules import Book
    from ratchet.flows.serve import is_served
    from ratchet.infra.runs import find_root

    root = find_root(given.root)
    book = Book(root)
    found = [(schedule, book.last(schedule.name), schedule.due_after(datetime.now(UTC)).isoformat()) for schedule in book.schedules()]
    if given.json:
        _emit([{**asdict(one), "next": due, "last": {"run": last.run, "ended": last.ended} if last else None} for one, last, due in found])
        return 0
    if not found:
        sys.stdout.write(f'no schedules under {root} yet: `ratchet schedule NAME --cron "0 2 * * *" KEY=VALUE …` makes one\n')
        return 0
    from ratchet.flows.schedules import schedules_table
    from ratchet.flows.tables import console

    console().print(schedules_table(found))
    if not is_served(book):
        sys.stdout.write(f"nobody serves them on this machine: ratchet serve --root {root}\n")
    return 0


def _unschedule(given: argparse.Namespace) -> int:
    from ratchet.flows.schedules import Book
    from ratchet.infra.runs import find_root

    Book(find_root(given.root)).remove(given.schedule_name)
    sys.stdout.write(f"{given.schedule_name} fires no more; its runs stay, and one at work goes on\n")
    return 0


def _serve(given: argparse.Namespace) -> int:
    from ratchet.flows.serve import serve
    from ratchet.infra.runs import find_root

    return serve(find_root(given.root), given.pool)


def _emit(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())

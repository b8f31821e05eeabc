"""`ratchet promote`: somebody's word that a round's policy is the champion, of its run or of a registered model that many runs feed.

It changes no run: the next round begins where it would have begun. What is promoted stands in the ledger, `gc` keeps it, and MLflow's
alias `champion` is on it.
"""

import re
import sys

from ratchet.champions import headline_of
from ratchet.errors import CorruptArtifact, InputError, RatchetError
from ratchet.flows.build import build
from ratchet.flows.summary import RoundSummary, RunSummary, summary_of
from ratchet.flows.tables import interval, metric_words
from ratchet.infra.runs import RunFolder
from ratchet.infra.store import Store
from ratchet.infra.stores import held, store_of

MODEL = re.compile(r"[\w][\w .=,@+-]*")


def promote(run: RunFolder, *, round: int | None, model: str | None, really: bool) -> int:
    """Write down that a round's policy (by default the champion's) is promoted, and show it in MLflow; returns the exit code.

    `model` is the registered model it becomes the champion of: None is the run's own. Raises InputError for a round that has not ended,
    a policy that is gone, and, without `really`, a round that the run's gates did not let pass.
    """
    if model is not None and not MODEL.fullmatch(model):
        raise InputError("--to is no name for a registered model", got=model, allowed="letters, digits, spaces and . _ - + = , @")
    run.opening()
    store = store_of(run)
    with held(run, store, watch=False) as check:
        summary = summary_of(run)
        row = _chosen(summary, round)
        _refuse_what_is_gone(store, run, row)
        if not really:
            _refuse_what_gates_refused(run, row)
        # Of another model many runs say who is champion, so that the same word may be news again.
        if already := model is None and summary.champion is row and summary.crownings[-1].by == "hand":
            words = f"is the champion of {model or run.name} already"
        else:
            check()
            run.ledger.append("promoted", round=row.round, state=row.state, model=model, policy=dict(row.policy))
            words = f"is the champion of {model or run.name} now"
    main = headline_of(summary.config)[0]
    sys.stdout.write(f"round {row.round} of {run.name} ({metric_words(main)} {interval(row.metrics, main)}) {words}\n")
    sys.stdout.write(f"  its policy: {store.address(row.policy['identity'])}\n")
    if not already and summary.champion not in (None, row) and not model:
        sys.stdout.write(f"  the one before: round {summary.crownings[-1].round}\n")
    _show(run, store, summary)
    return 0


def _chosen(summary: RunSummary, round: int | None) -> RoundSummary:
    if round is None and summary.champion:
        return summary.champion
    for row in summary.rounds:
        if row.round == round:
            return row
    allowed = ", ".join(str(row.round) for row in summary.rounds) or "none yet"
    raise InputError(f"no such round of {summary.name} has ended", got=f"--round {round}", allowed=f"a round that has ended: {allowed}")


def _refuse_what_is_gone(store: Store, run: RunFolder, row: RoundSummary) -> None:
    try:
        there = store.find(row.policy["identity"])
    except CorruptArtifact as error:
        raise InputError(str(error)) from None
    if there is None or there.digest != row.policy["digest"]:
        what = f"the policy of round {row.round} is not in the store any more: `ratchet gc` deleted it, or `ratchet retry` set it aside"
        raise InputError(what, got=f"--round {row.round}", next=f"`ratchet retry {run.name} --round {row.round}` makes it again")


def _refuse_what_gates_refused(run: RunFolder, row: RoundSummary) -> None:
    if row.judged and not row.judged["promoted"]:
        failed = "; ".join(f"{said['name']}: {said['words']}" for said in row.judged["gates"] if said["verdict"] == "fail")
        what = f"the gates of {run.name} did not let round {row.round} pass"
        raise InputError(what, got=failed or "inconclusive", next="--yes promotes it all the same")


def _show(run: RunFolder, store: Store, summary: RunSummary) -> None:
    """Bring MLflow up to date, if the run is shown there; that it is away is no reason to fail."""
    if not summary.config.get("tracker"):
        return
    tracker = build(summary.config["tracker"], "tracker")
    try:
        tracker.ingest(run, store)
        sys.stdout.write(f"  in MLflow: the alias champion, at {tracker.address(run.root)}\n")
    except RatchetError as error:
        sys.stderr.write(f"ratchet: {error}\n  It is written at the next contact, such as `ratchet ui`.\n")

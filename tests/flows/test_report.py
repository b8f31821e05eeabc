"""The page of `compare --report`: it asks for nothing, holds every number that it draws, and says what it could not read."""

import re
import shutil
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest

import ratchet.flows.report_data as data
from ratchet.errors import InputError
from ratchet.flows.comparison import compare
from ratchet.flows.measured import Measured, measured
from ratchet.flows.report import render, write_report
from ratchet.flows.report_plots import Ink, css
from ratchet.infra.runs import RunFolder
from ratchet.records import Rollout
from tests.toys.compared import EXAM, some_runs
from tests.toys.drive import Warm


class Page(HTMLParser):
    """What a browser would find."""

    VOID = frozenset({"meta", "br", "i"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open.pop(), f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if not {"style", "svg"} & set(self.open):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def original(ratchet: Warm, memory: Path) -> Path:
    return some_runs(ratchet, memory)


@pytest.fixture(scope="module")
def balanced(ratchet: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose controller searches a map."""
    root = tmp_path_factory.mktemp("balanced")
    words = (
        "control=balance",
        "selection=threshold",
        "selection.max_per_problem=2",
        "control.samples_wanted=40",
        "control.temperatures=[0.5,1.0]",
        "control.threshold_step=0.5",
    )
    done = ratchet.run("recipe=b_star", "rounds=1", *EXAM, *words, "--name", "mapped", root=root)
    assert 0 == done.code, done.err
    return root


def run_of(root: Path, name: str) -> Measured:
    return measured(RunFolder(root, name))


@cache
def page_of(root: Path, *names: str) -> tuple[str, Page]:
    html = render(compare([run_of(root, name) for name in names]))
    return html, Page(html)


def test_the_page_asks_for_nothing_beyond_itself(original: Path) -> None:
    html, page = page_of(original, "slow", "probing")
    assert {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"} == set(re.findall(r"https?://[^\s\"'<>)]+", html))
    assert not {"script", "link", "img", "iframe", "object", "video", "base"} & {tag for tag, _ in page.tags}
    links = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("href", "xlink:href", "src", "action")]
    assert {"#"} == {(link or "")[:1] for link in links}
    assert "@import" not in html
    assert all(found.startswith("#") for found in re.findall(r"url\(([^)]*)\)", html))
    assert [] == page.open, "every element is closed"


def test_every_colour_is_the_schemes_own(original: Path) -> None:
    html, _ = page_of(original, "slow", "probing")
    style, _, body = html.partition("</style>")
    assert [] == re.findall(r"#[0-9a-f]{6}\b", body), "a colour that is fixed is right in one scheme only"
    used = set(re.findall(r"var\((--[\w-]+)\)", html))
    light, _, dark = style.partition("prefers-color-scheme: dark")
    for scheme in (light, dark):
        assert used <= set(re.findall(r"(--[\w-]+):", scheme))
    assert "color-mix(in oklab, var(--late) 50%, var(--early))" == css(Ink.step(0.5))


def test_every_round_and_every_sentence_is_there(original: Path) -> None:
    comparison = compare([run_of(original, "slow"), run_of(original, "probing")])
    _, page = page_of(original, "slow", "probing")
    for pair in comparison.pairs:
        words = pair.words[0].upper() + pair.words[1:]
        assert words in page.text.replace("\u00a0", " ")
    for run in comparison.runs:
        for row in run.rounds:
            assert f"{100 * row.summary.metrics['pass_at_1']:.1f}%" in page.text
            assert f"{row.cost.samples:,.0f}" in page.text
    sections = [section["id"] for section in page.all("section")]
    assert ["differences", "rounds", "curves", "pass-at-k", "balance", "diversity", "flow", "time", "changed", "lineage"] == sections
    assert [f"#{name}" for name in sections] == [link["href"] for link in page.all("a")]


def test_every_plot_can_be_read_without_seeing_it(original: Path) -> None:
    _, page = page_of(original, "slow", "probing")
    drawn = [attributes for tag, attributes in page.tags if tag == "div" and attributes.get("role") == "img"]
    assert len(page.all("figure")) == len(drawn) == len(page.all("svg")) == len(page.all("details")) >= 12
    assert all(len(attributes["aria-label"] or "") > 20 for attributes in drawn)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    marks = {name for name in ids if ids.count(name) > 1}
    assert all(re.fullmatch(r"[mp][0-9a-f]+", name or "") for name in marks), "what stands twice is one and the same mark or clip"


def test_the_rollouts_that_changed_are_those_that_did(original: Path) -> None:
    run = run_of(original, "slow")
    first, last = run.rounds[0], run.rounds[-1]
    up, down, between = data.changes(first, last, "pass_at_1")
    right = {index: {i for i, item in run.rounds[index].items.items() if item["correct"]} for index in range(9)}
    assert (len(right[8] - right[0]), len(right[0] - right[8]), 40) == (up.count, down.count, up.of)
    assert len(set.union(*right.values()) - right[0] - right[8]) == between.count
    assert 6 == len(up.examples)
    for example in up.examples:
        assert example.problem_id in right[8] - right[0]
        assert example.before
        assert example.after
        assert ("wrong", "correct", f"#{example.reference}") == (example.before.outcome, example.after.outcome, example.after.completion)
        assert "".join("✓" if example.problem_id in right[index] else "✗" for index in range(9)) == example.track
    probing = run_of(original, "probing")
    up, *_ = data.changes(probing.rounds[0], probing.rounds[-1], "pass_at_1")
    _, page = page_of(original, "probing")
    assert f"wrong → right: {up.count} of 40 problems, from round 0 to round 2" in page.text
    assert f"{up.count - 6} more are not shown." in page.text


def test_what_a_model_wrote_is_shown_and_not_obeyed(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = "</pre><script>alert(1)</script>"
    texts = {f"test-{n}": Rollout(problem_id=f"test-{n}", sample=0, prompt="<b>1+1", completion=evil, outcome="wrong") for n in range(40)}
    monkeypatch.setattr(data, "greedy", lambda row: texts)
    run = run_of(original, "probing")
    run.rounds = run.rounds[::2]
    html = render(compare([run]))
    page = Page(html)
    assert "<script" not in html
    assert evil in page.text


def test_rows_flow_from_what_was_sampled_to_what_was_kept(original: Path) -> None:
    run = run_of(original, "slow")
    for flow, row in zip(data.row_flows(run), run.rounds[1:], strict=True):
        assert (row.index, 160) == (flow.round, flow.sampled)
        assert {"correct": row.summary.kept} == flow.kept, "the toys keep what is right"


def test_the_time_of_a_round_is_all_of_its_stages(original: Path) -> None:
    run = run_of(original, "probing")
    found = data.seconds(run)
    assert {"probing", "sampling", "training", "evaluation"} <= found[1].keys()
    published = {event["identity"]: event["seconds"] for event in run.trail.published.values() if " · shard " not in event["title"]}
    assert pytest.approx(sum(published.values())) == sum(sum(parts.values()) for parts in found.values())


def test_the_champion_descends_from_the_base_policy_round_by_round(original: Path) -> None:
    run = run_of(original, "slow")
    chain = data.lineage(run, run.rounds[3])
    assert [0, 1, 2, 3] == [step.round for step in chain]
    assert "base policy, made by Coin" == chain[0].words
    kept = run.rounds[3].summary.kept
    expected = f"weights of round 0, trained on {kept} rows kept above a reward of 0.5 of 160 sampled from round 2 at temperature 1"
    assert expected == chain[3].words, "ReST-EM trains the base policy anew on samples of the last one"


def test_a_map_is_drawn_of_every_round_that_was_searched(balanced: Path) -> None:
    run = run_of(balanced, "mapped")
    (rows,) = data.cells(run).values()
    assert 10 == len(rows)
    _, page = page_of(balanced, "mapped")
    assert "balance" in [section["id"] for section in page.all("section")]
    knobs = run.rounds[1].summary.knobs
    assert f"chosen: temperature {knobs['temperature']:g}, threshold {knobs['threshold']:g}" in page.text


def test_a_run_whose_artifacts_were_deleted_is_shown_with_what_is_left(ratchet: Warm, original: Path, root: Path) -> None:
    shutil.copytree(original, root, dirs_exist_ok=True)
    assert 0 == ratchet("gc", "--keep-last", "1", "--yes", root=root).code
    page = Page(render(compare([run_of(root, "probing")])))
    assert "the rows themselves are not in the store any more" in page.text
    shutil.rmtree(root / ".ratchet" / "objects")
    _, page = page_of(root, "probing")
    assert "no answer per problem is left of round" in page.text.lower()
    assert "The grid of round 1, 2 of probing is not in the store any more." in page.text
    assert "Lineage of the champion" in page.text, "which the ledger knows"


def test_a_run_that_has_only_begun_has_a_page(original: Path) -> None:
    run = run_of(original, "slow")
    run.rounds = []
    page = Page(render(compare([run])))
    assert "There is nothing to set against each other yet." in page.text
    assert "No round of slow has ended yet." in page.text


def test_the_page_is_written_whole_or_refused(original: Path, tmp_path: Path) -> None:
    run = run_of(original, "probing")
    run.rounds = run.rounds[:1]
    comparison = compare([run])
    write_report(comparison, tmp_path / "page.html")
    assert ["page.html"] == [file.name for file in tmp_path.iterdir()]
    assert render(comparison) == (tmp_path / "page.html").read_text(encoding="utf-8"), "the same comparison is the same page"
    for wrong in (tmp_path, tmp_path / "page.html" / "below.html", tmp_path / "nowhere" / "page.html"):
        with pytest.raises(InputError, match=r"--report PATH\.html"):
            write_report(comparison, wrong)

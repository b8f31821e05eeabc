"""What `ratchet ui` serves, as a user finds it: from a start page by clicks to the curve, the tables, the champion and the stages."""

import re
from collections.abc import Sequence

import pytest
from playwright.sync_api import Locator, Page, expect

from ratchet.flows.summary import RunSummary
from tests.browser.conftest import Served
from tests.toys.drive import wait_until

MAIN = "pass_at_1"


def metric(run: RunSummary, name: str = MAIN) -> list[float]:
    """A metric over the rounds, as the ledger has it."""
    return [row.metrics[name] for row in run.rounds]


def open_experiment(page: Page, served: Served) -> None:
    """From MLflow's start page, which greets users of language models, to the runs."""
    page.goto(served.mlflow)
    page.get_by_role("button", name="Model training").click()
    page.get_by_role("link", name="ratchet", exact=True).click()
    expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()


def open_run(page: Page, served: Served, name: str) -> None:
    open_experiment(page, served)
    page.get_by_role("link", name=name, exact=True).click()
    expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()


def open_round(page: Page, served: Served, index: int) -> None:
    open_run(page, served, "gated")
    page.get_by_role("link", name=f"round {index} · gated", exact=True).click()
    expect(page.get_by_role("heading", name=f"round {index} · gated", exact=True)).to_be_visible()


def unfold(page: Page, name: str) -> None:
    """Show the rounds of a run in the table of runs."""
    page.get_by_role("gridcell").filter(has=page.get_by_role("link", name=name, exact=True)).first.get_by_role("button").click()


def runs_listed(page: Page) -> Locator:
    return page.get_by_role("gridcell").get_by_role("link").and_(page.locator("[href*='/runs/']"))


def tick(page: Page, *names: str) -> None:
    """Select runs in the table of runs."""
    for name in names:
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True).and_(page.locator("[href*='/runs/']")))
        row.get_by_role("checkbox").first.click()


def row_of(page: Page, *cells: str) -> Locator:
    """The rows of tables that have a cell, or the head of the row, with exactly the first text, and the other texts somewhere."""
    first = re.compile(rf"^{re.escape(cells[0])}$")
    found = page.get_by_role("row").filter(has=page.get_by_role("cell").or_(page.get_by_role("rowheader")).filter(has_text=first))
    for text in cells[1:]:
        found = found.filter(has_text=text)
    return found


def compared(page: Page, name: str) -> list[str]:
    """The values of a metric where runs are compared: the table holds the lines in view, its left column apart from the values."""
    tables = page.get_by_role("grid")
    expect(tables).to_have_count(2)
    link = tables.first.get_by_role("link", name=name, exact=True)

    def scrolled_to() -> bool:
        page.mouse.wheel(0, 150)
        return link.count() > 0

    tables.last.hover()
    wait_until(scrolled_to, f"{name} in the table", 60)
    height = link.locator("xpath=ancestor::*[contains(@style, 'top')][1]").evaluate("cell => cell.style.top")
    return tables.last.locator(f"[style*='top: {height};']").all_inner_texts()


def chart_of(page: Page, name: str) -> Locator:
    """Search the charts for that of a metric."""
    page.get_by_role("searchbox", name="Search metric charts").fill(f"^{name}$")
    return page.get_by_test_id("experiment-view-compare-runs-card").filter(has=page.get_by_role("heading", name=name, exact=True))


def expect_lines(chart: Locator, *lines: Sequence[float]) -> None:
    """A chart draws these values over the steps 0, 1, …, to scale, a point for each value; the lines stand in the order of their names."""
    points = chart.locator(".scatterlayer .points path")
    expect(points).to_have_count(sum(len(line) for line in lines))
    places = [re.findall(r"-?[\d.]+", shift) for shift in points.evaluate_all("points => points.map(point => point.getAttribute('transform'))")]
    drawn = [(float(across), -float(down)) for across, down in places]
    wanted = [(float(step), value) for line in lines for step, value in enumerate(line)]
    for axis in (0, 1):
        assert pytest.approx(_scaled([point[axis] for point in wanted]), abs=0.01) == _scaled([point[axis] for point in drawn])
    expect(chart.get_by_text("Step", exact=True)).to_be_visible()


def _scaled(values: Sequence[float]) -> list[float]:
    """Values on a scale on which the least is 0 and the greatest 1."""
    low, high = min(values), max(values)
    return [(value - low) / (high - low) for value in values]


def test_the_start_page_leads_to_the_runs_with_their_rounds_under_them(page: Page, served: Served) -> None:
    open_experiment(page, served)
    expect(runs_listed(page)).to_have_text(["mended", "gated"])
    unfold(page, "gated")
    expect(runs_listed(page)).to_have_text(["mended", "gated", *[f"round {index} · gated" for index in (2, 1, 0)]])


def test_the_address_of_the_runs_leads_to_a_page_that_begins_with_champion_table_and_curves(page: Page, served: Served) -> None:
    page.goto(served.runs)
    expect(runs_listed(page)).to_have_text(["mended", "gated"])
    page.get_by_role("link", name="gated", exact=True).click()
    expect(page.get_by_text("Champion: round 1, promoted by its gates")).to_be_in_viewport()
    expect(row_of(page, "round 1", "champion")).to_have_count(1)
    expect(row_of(page, "round 2", "not promoted")).to_have_count(1)
    if (more := page.get_by_role("button", name="Show more")).is_visible():
        more.click()
    picture = page.locator("img[src*='curves.png']")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.complete && image.naturalWidth > 100")
    with page.expect_popup() as opened:
        page.get_by_role("link", name="round 1", exact=True).first.click()
    expect(opened.value.get_by_role("heading", name="round 1 · gated", exact=True)).to_be_visible()
    expect(opened.value.get_by_text("diversity pass")).to_be_visible()
    opened.value.close()


def test_the_curve_of_the_main_metric_is_drawn_over_the_rounds(page: Page, served: Served) -> None:
    open_run(page, served, "gated")
    page.get_by_role("tab", name="Model metrics").click()
    expect_lines(chart_of(page, MAIN), metric(served.gated))


def test_a_run_and_its_fork_are_curves_in_one_chart(page: Page, served: Served) -> None:
    gated, mended = metric(served.gated), metric(served.mended)
    assert gated[:2] == mended[:2]
    open_experiment(page, served)
    page.locator("label:has(input[value=CHART])").click()
    expect_lines(chart_of(page, MAIN), mended, gated)


def test_a_run_shows_its_settings_and_its_figure(page: Page, served: Served) -> None:
    open_run(page, served, "gated")
    page.get_by_role("textbox", name="Search parameters").fill("training.falls")
    expect(row_of(page, "training.falls", "0.5")).to_be_visible()
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("curves.png", exact=True).click()
    picture = page.get_by_role("img", name="curves.png")
    expect(picture).to_be_visible()
    assert 500 < picture.evaluate("picture => picture.naturalWidth")


def test_a_round_shows_what_its_policy_answered_as_a_table(page: Page, served: Served) -> None:
    open_round(page, served, 1)
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("samples.json", exact=True).click()
    expect(page.get_by_role("checkbox", name="View as table")).to_be_checked()
    columns = ["problem", "drawn", "outcome", "reward", "answer", "reference", "prompt", "completion", "tokens"]
    expect(page.get_by_role("columnheader")).to_contain_text(columns)
    rows = [row.get_by_role("cell").all_inner_texts() for row in page.get_by_role("row").all()[1:]]
    shown = [dict(zip(columns, row, strict=True)) for row in rows]
    assert len(shown) > 10
    assert [("test-0", "greedy"), ("test-5", "greedy")] == [(row["problem"], row["drawn"]) for row in shown[:2]]
    right = [row["reference"] == row["answer"] for row in shown]
    assert {True, False} == set(right)
    assert [("correct", "1") if so else ("wrong", "0") for so in right] == [(row["outcome"], row["reward"]) for row in shown]


def test_a_round_shows_the_data_that_it_learned_from_and_was_measured_on(page: Page, served: Served) -> None:
    open_round(page, served, 2)
    page.get_by_role("button", name=re.compile("^demonstrations")).click()
    details = page.get_by_role("dialog", name="Data details for")
    expect(details.get_by_text("2 datasets used")).to_be_visible()
    for name, context, rows in (("demonstrations", "Training", served.gated.rounds[2].kept), ("test problems", "Evaluation", 100)):
        details.get_by_role("button", name=re.compile(f"^{name}")).click()
        expect(details.get_by_role("heading", name=name).last).to_be_visible()
        expect(details.get_by_text("num rows:").locator("..")).to_contain_text(f"num rows: {rows}")
        expect(details.get_by_role("heading", name=name).first).to_contain_text(re.compile(context, re.IGNORECASE))


def test_the_policy_of_a_round_is_a_model_with_its_metrics_on_their_data(page: Page, served: Served) -> None:
    open_experiment(page, served)
    page.get_by_role("link", name="Models", exact=True).click()
    page.get_by_role("link", name="gated-round-1", exact=True).click()
    expect(page.get_by_role("heading", name="gated-round-1", exact=True)).to_be_visible()
    page.get_by_role("textbox", name="Search metrics").fill(MAIN)
    expect(row_of(page, MAIN, "test problems", "round 1 · gated", f"{metric(served.gated)[1]:g}")).to_be_visible()
    page.get_by_role("textbox", name="Search parameters").fill("digest")
    expect(row_of(page, "digest", served.gated.rounds[1].policy["digest"])).to_be_visible()
    page.get_by_role("link", name="round 1 · gated", exact=True).first.click()
    expect(page.get_by_role("heading", name="round 1 · gated", exact=True)).to_be_visible()


def test_rounds_are_compared_side_by_side(page: Page, served: Served) -> None:
    open_experiment(page, served)
    unfold(page, "gated")
    tick(page, "round 1 · gated", "round 2 · gated")
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_role("heading", name="Comparing 2 Runs from 1 Experiment")).to_be_visible()
    assert [f"{value:g}" for value in metric(served.gated)[1:]] == compared(page, MAIN)


def test_what_a_fork_changed_is_what_differs_between_the_two_runs(page: Page, served: Served) -> None:
    open_experiment(page, served)
    tick(page, "gated", "mended")
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_role("switch", name="Parameters - Show diff only").click()
    expect(page.get_by_role("rowheader", name="training.gain")).to_have_count(0)
    expect(row_of(page, "training.falls")).to_have_count(1)
    assert ["0.5", "0"] == row_of(page, "training.falls").get_by_role("cell").all_inner_texts()


@pytest.mark.parametrize(("run", "champion", "previous"), [("gated", 1, 0), ("mended", 2, 1)])
def test_the_champion_is_a_registered_model_that_leads_to_its_round(page: Page, served: Served, run: str, champion: int, previous: int) -> None:
    page.goto(served.mlflow)
    page.get_by_role("button", name="Model training").click()
    page.get_by_role("link", name="Model registry").click()
    expect(row_of(page, run, "champion")).to_be_visible()
    page.get_by_role("link", name=run, exact=True).click()
    expect(page.get_by_role("heading", name=run, exact=True)).to_be_visible()
    versions = page.get_by_role("row").filter(has=page.get_by_role("link", name=re.compile(r"^Version \d+$")))
    for alias, index in (("champion", champion), ("previous", previous)):
        version = versions.filter(has=page.get_by_role("cell", name=alias, exact=True))
        expect(version).to_have_count(1)
        expect(version).to_contain_text(f"round {index} of {run}")
        version.get_by_role("link").click()
        page.get_by_role("link", name=f"round {index} · {run}", exact=True).click()
        expect(page.get_by_role("heading", name=f"round {index} · {run}", exact=True)).to_be_visible()
        page.go_back()
        page.go_back()


def test_prefect_shows_the_flow_and_its_stages(page: Page, served: Served) -> None:
    page.goto(served.prefect)
    page.get_by_role("link", name="Runs", exact=True).click()
    expect(page.get_by_role("link", name="mended", exact=True)).to_be_visible()
    page.get_by_role("link", name="gated", exact=True).click()
    expect(page.get_by_role("tab", name="Subflow Runs")).to_be_visible()
    main = page.get_by_role("main")
    expect(main.get_by_text("Completed", exact=True)).to_have_count(1)
    page.get_by_role("tab", name="Task Runs").click()
    expect(main.get_by_text(f"{len(served.gated.stages)} Task runs").last).to_be_visible()
    page.get_by_role("textbox", name="Search by run name").fill("round 2 · ")
    wanted = [stage.title for stage in served.gated.stages if stage.round == 2]
    shown = page.get_by_role("tabpanel").get_by_role("link", name=re.compile("^round "))
    expect(shown).to_have_count(len(wanted))
    assert sorted(wanted) == sorted(shown.all_inner_texts())
    page.get_by_role("link", name="round 2 · train", exact=True).click()
    expect(main.get_by_text(re.compile("^round 2 · train: attempt 1, job "))).to_be_visible()
    expect(main.get_by_text(re.compile("^round 2 · train: completed, policy, "))).to_be_visible()
    expect(main.get_by_text("Completed", exact=True)).to_be_visible()
    expect(main.get_by_role("link", name="gated", exact=True).first).to_be_visible()


def test_prefect_shows_the_rounds_as_a_table(page: Page, served: Served) -> None:
    page.goto(served.prefect)
    page.get_by_role("link", name="Runs", exact=True).click()
    page.get_by_role("link", name="gated", exact=True).click()
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_role("link", name="rounds-of-gated").click()
    page.get_by_role("link", name=re.compile("^[0-9a-f]{8}$")).click()
    for row in served.gated.rounds:
        expect(row_of(page, str(row.round), f"{100 * row.metrics[MAIN]:.1f}%")).to_have_count(1)

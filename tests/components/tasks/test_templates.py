"""Templates: each name once said, nothing else."""

import pytest

from ratchet.components.tasks.templates import check_template, with_hint
from ratchet.errors import InputError
from ratchet.records import Problem


def test_a_hint_is_shown_and_the_prompt_stays():
    problem = with_hint(Problem(id="a", prompt="{1}+1=", reference="2"), "({reference}) {prompt}")
    assert ("(2) {1}+1=", "{1}+1=") == (problem.shown, problem.prompt)


def test_a_problem_without_reference_cannot_be_hinted_at():
    with pytest.raises(InputError, match="a has no reference"):
        with_hint(Problem(id="a", prompt="1+1="))


@pytest.mark.parametrize("template", ["", "{}", "{prompt", "{other}{prompt}", "{prompt.__class__}", "{prompt!r}", "{prompt:>9}"])
def test_a_template_with_other_names_is_refused(template):
    with pytest.raises(InputError, match="template"):
        check_template("template", template, ("prompt",))


def test_doubled_braces_are_braces():
    check_template("template", "{{x}} {prompt}", ("prompt",))

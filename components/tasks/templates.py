"""How a problem's text is laid out: prompts from the rows of a file, and prompts that show the answer as a hint.

A template is a format string, such as `Question: {prompt}\\nAnswer:`; a brace that is meant as such is doubled. The hint is STaR's
rationalisation (Zelikman et al., 2203.14465, §3.3): a policy that fails a problem is shown the answer and asked for the way to it. A
task that teaches the form and a selector that asks with it must use one template, `HINT` unless a field says otherwise.
"""

from dataclasses import replace
from string import Formatter

from ratchet.errors import InputError
from ratchet.records import Problem

PROMPT = "{prompt}"
HINT = "[{reference}]{prompt}"


def check_template(field: str, template: str, names: tuple[str, ...]) -> None:
    """Refuse a template that does not use each of the names, or anything else."""
    allowed = f"text with each of {', '.join('{' + name + '}' for name in names)}; {{{{ and }}}} for braces"
    try:
        parts = [(name, spec, conversion) for _, name, spec, conversion in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise InputError(f"{field} is not a template ({error})", got=repr(template), allowed=allowed) from None
    if {name for name, _, _ in parts} != set(names) or any(spec or conversion for _, spec, conversion in parts):
        raise InputError(f"{field} does not name what it must", got=repr(template), allowed=allowed)


def with_hint(problem: Problem, template: str = HINT) -> Problem:
    """The same problem, shown with its answer."""
    if problem.reference is None:
        raise InputError(f"the problem {problem.id} has no reference to hint at", next="hint only at problems whose answer is known")
    return replace(problem, shown=template.format(prompt=problem.prompt, reference=problem.reference))

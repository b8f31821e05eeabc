"""What a new policy is warmed up on: worked problems as demonstrations."""

from collections.abc import Sequence

from ratchet.errors import InputError
from ratchet.records import Demonstration, Problem


def demonstrations_of(examples: Sequence[Problem]) -> list[Demonstration]:
    """Each worked problem as a prompt, as the policy is shown it, and the completion to imitate."""
    if not examples:
        raise InputError("a warm-up needs worked problems, and there are none", next="give the task a `worked` split, or set warmup=null")
    return [Demonstration(prompt=p.shown or p.prompt, completion=_solution(p), problem_id=p.id) for p in examples]


def _solution(problem: Problem) -> str:
    if problem.solution is None:
        raise InputError(
            f"problem {problem.id} has no worked solution to warm up on", next="give every `worked` problem a solution, or set warmup=null"
        )
    return problem.solution

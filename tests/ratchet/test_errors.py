"""What the command line answers with."""

import pytest

from ratchet.errors import CorruptArtifact, InputError, NothingSelected, RatchetError, RunHeld, StageFailed


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RatchetError("x"), 1),
        (InputError("x"), 2),
        (RunHeld("x"), 3),
        (CorruptArtifact("x"), 1),
        (NothingSelected("x"), 0),
        (StageFailed("s", state="failed", reason="r"), 1),
        (StageFailed("s", state="failed", reason="r", exit_code=2), 2),
    ],
)
def test_every_error_has_its_exit_code(error: RatchetError, code: int) -> None:
    assert code == error.exit_code


def test_an_input_error_says_what_got_allowed_and_next() -> None:
    assert "no colour\n  got:     red\n  allowed: blue\n  next:    choose" == str(InputError("no colour", got="red", allowed="blue", next="choose"))
    assert "no colour\n  got:     0" == str(InputError("no colour", got=0))


def test_a_failed_stage_carries_its_state_and_the_end_of_its_log() -> None:
    text = str(StageFailed("round 1 · train", state="out of memory", reason="too big", log_tail="a\nb", log_path="/x/log", next="less"))
    assert "round 1 · train failed (out of memory): too big\n  end of its log:\n    a\n    b\n  whole log: /x/log\n  next: less" == text

"""What dialects share about the fields of a body."""

from __future__ import annotations

import pytest

from guardrail.wire.fields import latest_turn
from guardrail.wire.openai_chat import OpenAIChat


@pytest.mark.parametrize(
    ("roles", "first"),
    [
        ([], 0),
        (["user"], 0),
        (["system", "user"], 0),
        (["user", "assistant", "user"], 2),
        (["user", "assistant", "tool", "user"], 2),
        (["user", "assistant", "user", "assistant"], 2),
        (["user", "assistant"], 0),
        (["user", "assistant", "assistant"], 0),
        (["assistant"], 0),
    ],
)
def test_the_latest_turn_begins_after_the_models_last_answer_unless_that_was_begun_by_the_client(
    roles: list[str], first: int
) -> None:
    assert latest_turn(roles) == first


def test_a_question_is_no_history_because_its_answer_was_begun_for_the_model() -> None:
    body = b'{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"Sure, here is"}]}'
    asked = {segment.text: segment.latest for segment in OpenAIChat().read_prompt(body).content.segments}
    assert asked == {"q": True, "Sure, here is": False}

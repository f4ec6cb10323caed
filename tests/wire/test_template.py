"""A body that an operator wrote, with what we say in its places."""

from __future__ import annotations

import pytest

from guardrail.core.surface import Notice
from guardrail.wire import template

NOTICE = Notice(400, "content_filter", "No {code}.", incident="I1", rules=("a/b",))


def test_a_place_alone_becomes_the_value_and_within_a_text_its_words() -> None:
    written = template.parse(
        '{"ok": false, "n": 1.5, "detail": [{"msg": "{message}", "why": "({code}, {rules}) {until}"}],'
        ' "id": "{incident}", "until": "{until}", "all": "{guardrail}", "brace": "{} {X} }{"}',
        template.NOTICE,
    )
    assert template.fill(written, template.of_notice(NOTICE)) == {
        "ok": False,
        "n": 1.5,
        "detail": [{"msg": "No {code}.", "why": '(content_filter, ["a/b"]) '}],
        "id": "I1",
        "until": None,
        "all": {"type": "guardrail", "code": "content_filter", "incident": "I1", "rules": ["a/b"]},
        "brace": "{} {X} }{",
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "not JSON"), ("[]", "object"), ('"{code}"', "object"), ('{"a": "{mesage}"}', "expected one of appeal_url")],
)
def test_a_template_that_cannot_be_used_is_refused_with_what_would_be(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        template.parse(text, template.NOTICE)

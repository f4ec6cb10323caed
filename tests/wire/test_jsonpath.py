"""Paths say where texts stand, as RFC 9535 has it, and what is no path of ours is refused with the place."""

from __future__ import annotations

from typing import Any

import pytest

from guardrail.wire.jsonpath import parse

BODY: Any = {
    "question": "q",
    "history": [{"text": "a"}, {"text": "b", "by": "x"}, "no object"],
    "a name": {"it's": 1, 'say "so"': 2, "中文": 3},
    "": 0,
    "n": None,
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$", [((), BODY)]),
        ("$.question", [(("question",), "q")]),
        ("$['question']", [(("question",), "q")]),
        ('$["question"]', [(("question",), "q")]),
        ("$.history[0].text", [(("history", 0, "text"), "a")]),
        ("$.history[-2].text", [(("history", 1, "text"), "b")]),
        ("$.history[ 1 ]['by']", [(("history", 1, "by"), "x")]),
        ("$.history[*].text", [(("history", 0, "text"), "a"), (("history", 1, "text"), "b")]),
        ("$.history.*.text", [(("history", 0, "text"), "a"), (("history", 1, "text"), "b")]),
        ("$['a name'].*", [(("a name", "it's"), 1), (("a name", 'say "so"'), 2), (("a name", "中文"), 3)]),
        (r"$['a name']['it\'s']", [(("a name", "it's"), 1)]),
        ("$['a name'][\"it's\"]", [(("a name", "it's"), 1)]),
        ("$['a name']['say \"so\"']", [(("a name", 'say "so"'), 2)]),
        (r'$["a name"]["say \"so\""]', [(("a name", 'say "so"'), 2)]),
        ("$['a name'].中文", [(("a name", "中文"), 3)]),
        (r"$['a name']['\u4e2d\u6587']", [(("a name", "中文"), 3)]),
        ("$['']", [(("",), 0)]),
        ("$.n", [(("n",), None)]),
        ("$.nothing", []),
        ("$.history[3]", []),
        ("$.history[-4]", []),
        ("$.history.text", []),
        ("$.question[0]", []),
        ("$.a.b.c", []),
    ],
)
def test_a_path_finds_what_it_names_in_the_order_of_the_body(path: str, found: Any) -> None:
    assert list(parse(path).find(BODY)) == found


@pytest.mark.parametrize(
    ("path", "rest"),
    [
        ("", "expected $"),
        ("question", "expected $"),
        ("@.question", "expected $"),
        ("$question", 'from "question" on'),
        ("$.", 'from "." on'),
        ("$.a.", 'from "." on'),
        ("$..text", 'from "..text" on'),
        ("$.history[1:2]", 'from "[1:2]" on'),
        ("$.history[0,1]", 'from "[0,1]" on'),
        ("$.history[?(@.by)]", 'from "[?(@.by)]" on'),
        ("$.history[01]", 'from "[01]" on'),
        ("$.history[-0]", 'from "[-0]" on'),
        ("$.history[", 'from "[" on'),
        ("$.1st", 'from ".1st" on'),
        ("$.a-b", 'from "-b" on'),
        ("$['a", "from"),
        ("$ .a", "from"),
        (r"$['\q']", "escapes of JSON"),
    ],
)
def test_what_is_no_path_of_ours_is_refused_where_it_begins(path: str, rest: str) -> None:
    with pytest.raises(ValueError) as raised:
        parse(path)
    assert rest in str(raised.value)


def test_a_path_is_singular_if_it_has_no_wildcard() -> None:
    assert parse("$.a[0]['*']").singular
    assert not parse("$.a[*]").singular
    assert not parse("$.*").singular


@pytest.mark.parametrize("path", ["$.reply", "$.a[0].b", "$.a[2]", "$['x y'][*].text", "$"])
def test_the_smallest_body_that_holds_a_text_has_it_where_the_path_looks(path: str) -> None:
    query = parse(path)
    assert [value for _, value in query.find(query.holding("text"))][-1] == "text"

"""Appeals through their links: what the holder of one sees and does, and what nobody else does."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from guardrail.core.appeals import MOST_STATEMENT, Ruling
from guardrail.errors import StoreError
from guardrail.portal.forms import MOST_BYTES
from guardrail.stores.memory import MemoryStore
from tests.portal.conftest import BLOCKED, SECRET, TITLE, Maker, Portal, local


def filing(link: str, statement: str = "It was a quotation.", **changes: str) -> dict[str, str]:
    query = parse_qs(urlsplit(link).query)
    return {"incident": query["incident"][0], "capability": query["capability"][0], "statement": statement} | changes


# -- what its holder sees ------------------------------------------------------------------------------------------


async def test_the_link_of_a_refusal_shows_what_happened_and_what_is_in_force_and_no_word_of_it(
    portal: Portal,
) -> None:
    link = await portal.offend()
    answer = await portal.get(link)
    assert answer.status == 200
    shown = answer.json()
    assert shown["incident"] == {
        "id": filing(link)["incident"],
        "at": "2026-09-21T14:13:40Z",
        "direction": "prompt",
        "action": "block",
        "strike": True,
        "rules": [
            {
                "rule": "house/marmalade", "category": "<b>category</b>", "title": TITLE,
                "because": "No <i>marmalade</i>.", "severity": "high", "articles": ["House rule 1 & 2"],
            }
        ],
    }  # fmt: skip
    assert shown["standing"] == {"step": "warn", "until": "2026-09-22T14:13:40Z"}
    assert (shown["appeal"], shown["may_appeal"]) == (None, True)
    for page in (False, True):
        body = (await portal.get(link, page=page)).body.decode()
        assert SECRET not in body
        assert BLOCKED not in body


async def test_the_page_is_in_the_language_that_is_asked_for(portal: Portal) -> None:
    link = await portal.offend()
    english = (await portal.get(link, page=True)).body.decode()
    chinese = (await portal.get(link, page=True, accept_language="zh-CN,zh;q=0.9,en;q=0.5")).body.decode()
    assert '<html lang="en">' in english
    assert "What happened" in english
    assert '<html lang="zh-CN">' in chinese
    assert "发生了什么" in chinese


async def test_an_appeal_gets_a_ticket_that_tells_where_it_stands(portal: Portal) -> None:
    link = await portal.offend()
    filed = await portal.post(filing(link))
    assert filed.status == 201
    made = filed.json()
    assert (made["state"], made["decided_at"], made["reason"]) == ("filed", None, None)
    ticket = f"/guardrail/tickets/{made['ticket']}?capability={made['capability']}"
    assert local(made["ticket_url"]) == ticket
    assert (await portal.get(ticket)).json()["state"] == "filed"
    await portal.guard.store.decide_appeal(
        made["ticket"], Ruling.DENY, at=portal.now + 60, by="Wu Min", reason="<b>no</b> quotation"
    )
    told = await portal.get(ticket)
    assert (told.json()["state"], told.json()["reason"]) == ("denied", "<b>no</b> quotation")
    page = (await portal.get(ticket, page=True)).body.decode()
    assert "&lt;b&gt;no&lt;/b&gt; quotation" in page
    for body in (told.body.decode(), page):
        assert "Wu Min" not in body
        assert "It was a quotation" not in body


async def test_a_form_leads_to_the_ticket_and_sending_it_again_files_nothing_again(portal: Portal) -> None:
    link = await portal.offend()
    page = (await portal.get(link, page=True)).body.decode()
    assert 'method="post" action="appeals"' in page
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page))
    first = await portal.post(fields | {"statement": "第一行\r\n第二行"}, page=True)
    again = await portal.post(fields | {"statement": "another"}, page=True)
    assert (first.status, again.status) == (303, 303)
    assert first.headers["location"] == again.headers["location"]
    assert first.headers["location"].startswith("tickets/")
    ticket = await portal.get(f"/guardrail/{first.headers['location']}", page=True)
    assert ticket.status == 200
    store: Any = portal.guard.store
    assert list(store.statements.values()) == ["第一行\n第二行"]
    # The link shows the ticket from now on, and no second form.
    shown = (await portal.get(link, page=True)).body.decode()
    assert "<form" not in shown
    assert first.headers["location"].partition("?")[0] in shown


async def test_filing_again_as_a_program_gives_the_same_ticket(portal: Portal) -> None:
    link = await portal.offend()
    first, again = await portal.post(filing(link)), await portal.post(filing(link, "another"))
    assert (first.status, again.status) == (201, 200)
    assert first.json() == again.json()


async def test_a_suspended_user_appeals_and_a_granted_appeal_gives_the_account_back(portal: Portal) -> None:
    for _ in range(3):
        link = await portal.offend()
    suspended = await portal.ask("hello")
    assert (suspended.status, suspended.json()["error"]["code"]) == (403, "account_suspended")
    assert local(suspended.json()["error"]["guardrail"]["appeal_url"]) == link
    assert (await portal.get(link)).json()["standing"]["step"] == "suspend"
    ticket = (await portal.post(filing(link))).json()["ticket"]
    await portal.guard.store.decide_appeal(ticket, Ruling.GRANT, at=portal.now, by="r", reason="a quotation")
    assert (await portal.ask("hello")).status == 200
    shown = (await portal.get(link)).json()
    assert (shown["appeal"]["state"], shown["may_appeal"]) == ("granted", False)
    assert shown["incident"]["strike"] is True, "the record says what was"
    assert "We are sorry" in (await portal.get(link, page=True)).body.decode()


# -- what nobody else does -----------------------------------------------------------------------------------------


async def test_a_wrong_a_missing_and_another_persons_secret_are_answered_like_an_incident_that_is_not_there(
    portal: Portal,
) -> None:
    mine, other = await portal.offend("me"), await portal.offend("other")
    ident, secret = filing(mine)["incident"], filing(mine)["capability"]
    ticket = (await portal.post(filing(mine))).json()
    tries = [
        f"/guardrail/appeals?incident={ident}&capability={filing(other)['capability']}",
        f"/guardrail/appeals?incident={ident}&capability={secret[:-1]}",
        f"/guardrail/appeals?incident={ident}&capability={secret}A",
        f"/guardrail/appeals?incident={ident}&capability=",
        f"/guardrail/appeals?incident={ident}",
        f"/guardrail/appeals?incident={ident}&capability=%F0%9F%94%91%00%ff",
        f"/guardrail/appeals?incident={ident.upper()}&capability={secret}",
        f"/guardrail/appeals?incident={ident}&capability={ticket['capability']}",
        "/guardrail/appeals",
        "/guardrail/appeals?incident=nothing&capability=nothing",
        f"/guardrail/tickets/{ticket['ticket']}",
        f"/guardrail/tickets/{ticket['ticket']}?capability={secret}",
        f"/guardrail/tickets/{ident}?capability={secret}",
        "/guardrail/tickets/nothing?capability=nothing",
    ]
    answers = [await portal.get(path, peer="10.0.0.2") for path in tries]
    assert {answer.status for answer in answers} == {404}
    assert len({answer.body for answer in answers}) == 1
    assert len({tuple(sorted(answer.headers.items())) for answer in answers}) == 1
    unknown = "0" * len(ident)
    right_but_gone = portal.guard.keyring.capability(unknown)
    gone = await portal.get(f"/guardrail/appeals?incident={unknown}&capability={right_but_gone}", peer="10.0.0.3")
    assert (gone.status, gone.body) == (404, answers[0].body)
    posted = [
        await portal.post(filing(mine, capability=filing(other)["capability"]), peer="10.0.0.3"),
        await portal.post(filing(mine, incident=filing(other)["incident"]), peer="10.0.0.3"),
        await portal.post(filing(mine, incident=unknown, capability=right_but_gone), peer="10.0.0.3"),
    ]
    assert {(answer.status, answer.body) for answer in posted} == {(404, answers[0].body)}
    assert len(await portal.guard.store.appeals()) == 1


async def test_nothing_is_looked_up_before_the_secret_fits(make_portal: Maker) -> None:
    class Watched(MemoryStore):
        looked = 0

        async def incident(self, ident: str) -> Any:
            self.looked += 1
            return await super().incident(ident)

        async def appeals(self, **about: Any) -> Any:
            self.looked += 1
            return await super().appeals(**about)

    store = Watched()
    portal = await make_portal(store)
    ident = filing(await portal.offend())["incident"]
    await portal.get(f"/guardrail/appeals?incident={ident}&capability=guess")
    await portal.get("/guardrail/appeals?incident=none&capability=guess")
    await portal.get(f"/guardrail/tickets/{ident}?capability=guess")
    await portal.post({"incident": ident, "capability": "guess", "statement": "x"})
    assert store.looked == 0


async def test_guessing_is_slowed_down_for_whoever_guesses_and_for_nobody_else(portal: Portal) -> None:
    link = await portal.offend()
    guess = f"/guardrail/appeals?incident={filing(link)['incident']}&capability=guess"
    answers = [await portal.get(guess) for _ in range(40)]
    assert [answer.status for answer in answers] == [404] * 30 + [429] * 10
    assert int(answers[-1].headers["retry-after"]) == 2
    assert (await portal.get(link)).status == 429, "the right link waits with the others, or it would be told apart"
    assert (await portal.get(link, peer="10.0.0.4")).status == 200
    portal.now += 2
    assert (await portal.get(link)).status == 200


async def test_behind_a_trusted_proxy_each_client_has_a_limit_of_its_own(make_portal: Maker) -> None:
    portal = await make_portal(server={"trusted_proxies": ["10.0.0.1"]})
    guess = "/guardrail/appeals?incident=x&capability=y"
    for _ in range(30):
        await portal.get(guess, x_forwarded_for="6.6.6.6, 198.51.100.7")
    assert (await portal.get(guess, x_forwarded_for="7.7.7.7, 198.51.100.7")).status == 429
    assert (await portal.get(guess, x_forwarded_for="198.51.100.8")).status == 404
    assert (await portal.get(guess, peer="10.0.0.5", x_forwarded_for="198.51.100.7")).status == 404


# -- what is sent --------------------------------------------------------------------------------------------------


async def test_a_statement_has_as_many_characters_as_are_allowed_and_no_more(portal: Portal) -> None:
    longest = "𠮷" * MOST_STATEMENT
    link = await portal.offend()
    for page in (False, True):
        assert (await portal.post(filing(link, longest + "吉"), page=page)).status == 422
        assert (await portal.post(filing(link, " \n "), page=page)).status == 422
    assert await portal.guard.store.appeals() == []
    assert (await portal.post(filing(link, longest), page=True)).status == 303


async def test_a_body_that_is_too_large_is_refused_while_it_comes(portal: Portal) -> None:
    link = await portal.offend()
    for page in (False, True):
        answer = await portal.post(filing(link, "x" * (MOST_BYTES + 1)), page=page)
        assert answer.status == 413
    assert await portal.guard.store.appeals() == []


@pytest.mark.parametrize(
    ("body", "media", "status"),
    [
        (b"", "application/json", 422),
        (b"{", "application/json", 422),
        (b"[" * 60_000, "application/json", 422),
        (b'{"incident": "a", "capability": 5, "statement": "x"}', "application/json", 422),
        (b'{"incident": "a", "capability": "b", "statement": "x", "more": 1}', "application/json", 422),
        (b"incident=a&capability=b", "application/x-www-form-urlencoded", 422),
        (b"incident=a&incident=b&capability=b&statement=x", "application/x-www-form-urlencoded", 422),
        (b"incident=a&capability=b&statement=%ff", "application/x-www-form-urlencoded", 422),
        (b"\xff", "application/x-www-form-urlencoded", 422),
        (b"a=1&" * 9_000, "application/x-www-form-urlencoded", 422),
        (b"incident=a", "multipart/form-data; boundary=x", 415),
        (b"incident=a", "", 415),
        (b"{}", "application/json; charset=utf-16", 415),
    ],
)
async def test_what_cannot_be_read_is_refused_and_not_repeated(
    portal: Portal, body: bytes, media: str, status: int
) -> None:
    answer = await portal.post(body, content_type=media)
    assert answer.status == status
    assert answer.json()["error"]["code"] in ("malformed", "unsupported")


async def test_a_compressed_body_is_refused(portal: Portal) -> None:
    assert (await portal.post(b"{}", content_encoding="gzip")).status == 415


async def test_what_a_policy_a_person_or_a_link_says_is_text_on_a_page(portal: Portal) -> None:
    link = await portal.offend()
    attack = '"><script>alert(1)</script>'
    page = (await portal.get(link, page=True)).body.decode()
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#34;title&#34;)&lt;/script&gt;" in page
    assert "<b>category" not in page
    assert "<i>marmalade" not in page
    filed = await portal.post(filing(link, attack), page=True)
    for path in (link, f"/guardrail/{filed.headers['location']}", f"/guardrail/appeals?incident={attack}"):
        body = (await portal.get(path.replace('"', "%22").replace("<", "%3C"), page=True)).body.decode()
        assert "<script" not in body
        assert "alert(1)" not in body


async def test_after_as_many_denials_as_are_allowed_no_more_can_be_filed(portal: Portal) -> None:
    link = await portal.offend()
    for number in range(3):
        filed = await portal.post(filing(link))
        assert filed.status == 201
        await portal.guard.store.decide_appeal(
            filed.json()["ticket"], Ruling.DENY, at=portal.now, by=f"reviewer {number}", reason="no"
        )
    refused = await portal.post(filing(link))
    assert (refused.status, refused.json()["error"]["code"]) == (409, "too_many")
    page = (await portal.get(link, page=True)).body.decode()
    assert "no more can be filed" in page
    assert "<form" not in page


async def test_while_the_store_is_away_the_portal_says_so(make_portal: Maker) -> None:
    class Away(MemoryStore):
        async def incident(self, ident: str) -> Any:
            raise StoreError("the database is away")

    portal = await make_portal(Away())
    link = await portal.offend()
    for answer in (await portal.get(link), await portal.post(filing(link))):
        assert answer.status == 503
        assert answer.headers["retry-after"] == "5"

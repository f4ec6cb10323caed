"""Appeals and their tickets: what whoever holds a link may see and do. Never shows what was written.

A link's secret opens one incident, another secret the ticket of one appeal. An id that is not there, a secret that is
wrong and one that is missing get the same answer after the same work, and nothing is looked up before the secret fits.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlencode

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from guardrail.core.appeals import MOST_STATEMENT, Appeal, may_file
from guardrail.core.incidents import Incident
from guardrail.core.sanctions import Standing
from guardrail.errors import CaseError, StoreError
from guardrail.portal.forms import Unacceptable, read_fields
from guardrail.portal.limits import Buckets
from guardrail.portal.pages import answer, moment, problem, see_other, wants_page
from guardrail.portal.service import APPEAL, TICKET, Service

APPEALS = "/guardrail/appeals"
TICKETS = "/guardrail/tickets"

_log = logging.getLogger("guardrail.portal")

Handler = Callable[[Request], Awaitable[Response]]


class _Filing(msgspec.Struct, forbid_unknown_fields=True):
    incident: str
    capability: str
    statement: str


def routes(service: Service) -> list[Route]:
    """The routes of appeals and tickets."""
    desk = _Desk(service)
    return [
        Route(APPEALS, desk.guarded(desk.show), methods=["GET"]),
        Route(APPEALS, desk.guarded(desk.file), methods=["POST"]),
        Route(TICKETS + "/{ticket}", desk.guarded(desk.ticket), methods=["GET"]),
    ]


class _Desk:
    """The handlers, and how often each peer may ask them."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._buckets = Buckets()

    def guarded(self, handler: Handler) -> Handler:
        """A handler behind the limit of each peer, with an answer for everything that goes wrong."""

        async def handle(request: Request) -> Response:
            peer = request.client.host if request.client else None
            address = self._service.address(dict(request.scope["headers"]), peer)
            if wait := self._buckets.take(address, self._service.clock()):
                return problem(request, 429, "too_many_requests", retry_after=wait)
            try:
                return await handler(request)
            except Unacceptable as error:
                return problem(request, error.status, error.code)
            except StoreError as error:
                _log.warning("an appeal could not be served: %s", error)
                return problem(request, 503, "unavailable", retry_after=5)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody is there to read it

        return handle

    async def show(self, request: Request) -> Response:
        """The incident, what is in force, and a form or the ticket of the appeal."""
        ident = request.query_params.get("incident", "")
        capability = request.query_params.get("capability", "")
        incident = await self._incident(ident, capability)
        if incident is None:
            return problem(request, 404, "not_found")
        appeals = await self._service.store.appeals(incident=ident)
        data = {
            "incident": self._incident_json(incident),
            "standing": self._standing_json(incident),
            "appeal": self._ticket_json(appeals[-1]) if appeals else None,
            "may_appeal": may_file(appeals),
        }
        ticket = self._link(appeals[-1], "tickets/") if appeals else ""
        return answer(request, "appeal.html", data, capability=capability, ticket=ticket, most_statement=MOST_STATEMENT)

    async def file(self, request: Request) -> Response:
        """File an appeal: 201 and its ticket, 200 where it had been filed before; a browser is sent to the ticket."""
        filing = await read_fields(request, _Filing)
        incident = await self._incident(filing.incident, filing.capability)
        if incident is None:
            return problem(request, 404, "not_found")
        statement = filing.statement.replace("\r\n", "\n").strip()
        if not 0 < len(statement) <= MOST_STATEMENT:
            raise Unacceptable(422, "statement")
        service = self._service
        wanted = Appeal(service.new_id(), service.clock(), incident.id, incident.subject, statement)
        try:
            filed = await service.store.file_appeal(wanted)
        except CaseError as error:
            return problem(request, 409, error.code) if error.code == "too_many" else problem(request, 404, "not_found")
        if wants_page(request):
            return see_other(self._link(filed, "tickets/"))
        data = self._ticket_json(filed) | {"capability": service.capability(filed.id, TICKET)}
        return answer(request, "ticket.html", data, status=201 if filed.id == wanted.id else 200)

    async def ticket(self, request: Request) -> Response:
        """Where an appeal stands."""
        ident = request.path_params["ticket"]
        appeals = []
        if self._service.check(ident, request.query_params.get("capability", ""), TICKET):
            appeals = list(await self._service.store.appeals(ident=ident))
        if not appeals:
            return problem(request, 404, "not_found")
        incident = appeals[0].incident
        query = urlencode({"incident": incident, "capability": self._service.capability(incident, APPEAL)})
        return answer(request, "ticket.html", self._ticket_json(appeals[0]), about=f"../appeals?{query}")

    async def _incident(self, ident: str, capability: str) -> Incident | None:
        if not self._service.check(ident, capability, APPEAL):
            return None
        return await self._service.store.incident(ident)

    def _link(self, appeal: Appeal, base: str) -> str:
        return f"{base}{appeal.id}?{urlencode({'capability': self._service.capability(appeal.id, TICKET)})}"

    def _ticket_json(self, appeal: Appeal) -> dict[str, Any]:
        return {
            "ticket": appeal.id,
            "ticket_url": self._link(appeal, f"{self._service.public_url}{TICKETS}/"),
            "incident_id": appeal.incident,
            "state": appeal.state.value,
            "at": moment(appeal.at),
            "decided_at": moment(appeal.decided_at),
            "reason": appeal.reason or None,
        }

    def _incident_json(self, incident: Incident) -> dict[str, Any]:
        known = {rule.id: (policy, rule) for policy in self._service.policies().policies for rule in policy.rules}
        rules = []
        for name, category in dict.fromkeys((hit.rule, hit.category) for hit in incident.hits):
            policy, rule = known.get(name, (None, None))
            rules.append(
                {
                    "rule": name,
                    "category": category,
                    "title": policy.title if policy else None,
                    "because": rule.because if rule else None,
                    "severity": rule.severity.value if rule else None,
                    "articles": list(rule.articles) if rule else [],
                }
            )
        return {
            "id": incident.id,
            "at": moment(incident.at),
            "direction": incident.direction.value,
            "action": incident.action.word,
            "strike": incident.strike is not None,
            "rules": rules,
        }

    def _standing_json(self, incident: Incident) -> dict[str, Any]:
        service = self._service
        standing = Standing()
        if service.ladder is not None:
            standing = service.store.standing(incident.subject, service.clock())
        return {"step": standing.step.word, "until": moment(standing.until)}

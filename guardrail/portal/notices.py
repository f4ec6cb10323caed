"""What everybody may read: the rules that are enforced and what follows from them, and what this service is."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from guardrail.core.policy import Policy
from guardrail.portal.pages import answer, language_of, wants_page
from guardrail.portal.service import Service
from guardrail.portal.words import ladder_words, word


def routes(service: Service) -> list[Route]:
    """The routes of `/guardrail/rules` and `/guardrail/about`."""
    made: dict[tuple[str, str, bool, str], Response] = {}

    def kept(request: Request, template: str, data: dict[str, Any], digest: str) -> Response:
        """The answer, made once for each language, form and set of policies: a long page costs milliseconds."""
        key = (template, language_of(request), wants_page(request), digest)
        if key not in made:
            if len(made) >= 16:
                made.clear()
            made[key] = answer(request, template, data, private=False)
        return made[key]

    async def rules(request: Request) -> Response:
        lang, policies = language_of(request), service.policies()
        data = {
            "provider": service.provider or None,
            "provider_rules": service.provider_rules or None,
            "policies": [shown for policy in policies.policies if (shown := _policy(policy))["rules"]],
            "digest": policies.digest,
            "sanctions": ladder_words(service.ladder, lang) if service.ladder else [],
            "appeal": word("rules.appeal_how", lang),
        }
        return kept(request, "rules.html", data, policies.digest)

    async def about(request: Request) -> Response:
        lang = language_of(request)
        data = {
            "provider": service.provider or None,
            "provider_code": service.provider_code or None,
            "profile": service.profile,
            "profile_title": service.profile_title,
            "ai_generated": word("about.ai_text", lang),
            "labels": _labels(service, lang),
            "appeal": word("rules.appeal_how", lang),
            "authority": word("about.authority", lang) if service.regulated else None,
            "rules_url": service.provider_rules or f"{service.public_url}/guardrail/rules",
        }
        return kept(request, "about.html", data, "")

    return [Route("/guardrail/rules", rules), Route("/guardrail/about", about)]


def _policy(policy: Policy) -> dict[str, Any]:
    """What is enforced of a policy. Phrases and thresholds are no one's business but the operator's."""
    return {
        "id": policy.id,
        "title": policy.title,
        "rules": [
            {
                "rule": rule.id,
                "category": rule.category,
                "severity": rule.severity.value,
                "action": rule.action.word,
                "strike": rule.strike is not None,
                "because": rule.because,
                "articles": list(rule.articles),
            }
            for rule in policy.rules
            if rule.enforced
        ],
    }


def _labels(service: Service, lang: str) -> list[str]:
    """How answers are labelled, as the settings have it (Labeling Measures 8: the agreement explains it)."""
    label = service.label_text(lang)
    said = []
    if service.label_position == "none":
        said.append(word("about.label_app", lang, label=label))
    else:
        place = word(f"about.place.{service.label_position}", lang)
        said.append(word("about.label_visible", lang, label=label, place=place))
    said.append(word("about.label_headers" if service.label_headers else "about.label_member", lang))
    said.append(word("about.label_keep", lang))
    return said

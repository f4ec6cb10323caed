"""What is known of each guard model: how it is asked, which words are its verdict, and what its categories are to us.

A guard model is a language model trained to say whether a conversation is safe, in a fixed form. The probability of its
verdict's token is a score (Llama Guard's card reads the first token's; Granite Guardian's cookbook takes yes against
no). This module holds the words; `hazards` what categories mean to us; `verdicts` reads answers, `openai` asks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import Template
from typing import Any, NamedTuple

from guardrail.inference.card import LabelUse, ModelCard, Role
from guardrail.inference.hazards import CRITERIA, GRANITE_GUARDIAN, LLAMA_GUARD, OWN, QWEN3GUARD

NOT_SHOWN = "(not shown)"
"""What stands for the question where only an answer is known: these models judge an answer as one to a question."""

_TURN = re.compile(r"(?im)^([^\S\n]*)(user|human|agent|assistant)([^\S\n]*[:\uff1a])")

# -- how they are asked -------------------------------------------------------------------------------------------


class Exchange(NamedTuple):
    """What is judged: a user's `prompt`, or a model's `answer` where there is one (then `prompt` is its context)."""

    prompt: str
    answer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardModel:
    """One family of guard models.

    `words`: what a verdict can be, each with how unsafe that is, 0 or 1 (None: as the settings say). `mark`: what its
    answer says right before the verdict; `lead`: the same with all that comes before it. `verdict_tokens`: most tokens
    of an answer up to and with the verdict. `clear`: strings that end an answer which found nothing, so that only
    unsafe texts cost more tokens. `categories`: the words it may name after the verdict, in at most `category_tokens`
    more; none with `by_risk`, where a request asks about one risk alone. `markup`: what frames its conversations, which
    no text may bring along. `turn`, `answer_turn`, `frame`: the prompt that `completions` uses, of our own wording in
    the model's format. `risk_member`, `judge`: how a chat endpoint is told the risk, in the model's own template's
    arguments or in a last message.
    """

    title: str
    words: Mapping[str, float | None]
    markup: re.Pattern[str]
    frame: str
    turn: str
    answer_turn: str
    mark: str = ""
    lead: str = ""
    verdict_tokens: int = 3
    category_tokens: int = 0
    clear: tuple[str, ...] = ()
    categories: Mapping[str, str] = field(default_factory=dict)
    by_risk: bool = False
    risk_member: str = ""
    judge: str = ""

    def labels(self, risks: Sequence[str], *, categories: bool = True) -> tuple[str, ...]:
        """Our labels that it can score: `unsafe` first, then those of its categories, or of the `risks` asked about."""
        named = [GRANITE_GUARDIAN[risk] for risk in risks] if self.by_risk else []
        if categories and not self.by_risk:
            named = list(self.categories.values())
        return tuple(dict.fromkeys([*([] if self.by_risk and "unsafe" not in named else ["unsafe"]), *named]))

    def clean(self, text: str) -> str:
        """`text` with its markup broken up: nobody may end the conversation that is judged and write the verdict, or
        begin another turn in it, so that the last message is a harmless one."""
        return _TURN.sub(r'\1"\2"\3', self.markup.sub(lambda match: match[0][0] + " " + match[0][1:], text))

    def messages(self, exchange: Exchange, risk: str) -> list[dict[str, str]]:
        """The conversation for a chat endpoint, which puts the model's own prompt around it."""
        turns = [{"role": "user", "content": self.clean(exchange.prompt)}]
        if exchange.answer is not None:
            turns.append({"role": "assistant", "content": self.clean(exchange.answer)})
        if self.judge:
            who = "user" if exchange.answer is None else "assistant"
            turns.append({"role": "user", "content": Template(self.judge).substitute(who=who, risk=CRITERIA[risk])})
        return turns

    def extras(self, risk: str) -> dict[str, Any]:
        """More members of a chat request: what a template of the model's own wants to know."""
        if not self.risk_member:
            return {}
        told: dict[str, Any] = {"guardian_config": {self.risk_member: risk}}
        return {"chat_template_kwargs": told | ({"think": False} if self.risk_member == "criteria_id" else {})}

    def prompt(self, exchange: Exchange, risk: str) -> str:
        """The whole prompt for a completions endpoint, up to the verdict. Special tokens at its very beginning are the
        server's to add."""
        # Template.substitute looks at no value again: a text with $ signs in it stays as it is.
        form = self.turn if exchange.answer is None else self.answer_turn
        turns = Template(form).substitute(
            prompt=self.clean(exchange.prompt), answer=self.clean(exchange.answer or ""), risk=CRITERIA[risk]
        )
        return Template(self.frame).substitute(turns=turns) + self.lead


def card(
    name: str, model: GuardModel, risks: Sequence[str], *, categories: bool = True, threshold: float = 0.5
) -> ModelCard:
    """A model card for a guard model at a server, named `name` there: what its labels are for."""
    labels = model.labels(risks, categories=categories)
    alone = "unsafe" not in labels
    uses = {}
    for label in labels:
        role: Role = "unsafe" if label == "unsafe" else "own" if label in OWN or alone else "class"
        uses[label] = LabelUse(label, role, flag=min(0.5, threshold), block=threshold, strike=max(0.9, threshold))
    # As for the shipped model: evaluation counts political texts among the harmful ones, whoever listens to them.
    harm = tuple(label for label in ("unsafe", "political") if label in uses)
    return ModelCard(id=name, title=f"{model.title} at a server", labels=uses, harm=harm)


# -- the models ---------------------------------------------------------------------------------------------------

_CONVERSATION = r"</?(?:begin|end) (?:conversation|unsafe content categories|safety policy)>|</?think>|</?score>"


def _markup(*tokens: str) -> re.Pattern[str]:
    return re.compile("|".join([*tokens, _CONVERSATION]), re.IGNORECASE)


_SAFE_UNSAFE = {"safe": 0.0, "unsafe": 1.0}
_YES_NO = {"no": 0.0, "yes": 1.0}

_QWEN_ASKED = """Judge the safety of the last message of $who in the conversation below, and of nothing else.

Verdicts: Safe, Controversial (it depends on the setting or the society) or Unsafe.
Categories: $names.

<BEGIN CONVERSATION>
$said
<END CONVERSATION>

Answer in lines: "Safety: " and the verdict, then "Categories: " and those that apply, separated by commas, or None."""

_LLAMA_ASKED = """Task: say whether the last message of $who in the conversation below is unsafe by these categories.

$names

<BEGIN CONVERSATION>

$said

<END CONVERSATION>

First line: safe or unsafe. If it is unsafe, second line: the codes of the categories, separated by commas."""

_LLAMA_NAMES = """S1: Violent Crimes.
S2: Non-Violent Crimes.
S3: Sex-Related Crimes.
S4: Child Sexual Exploitation.
S5: Defamation.
S6: Specialized Advice.
S7: Privacy.
S8: Intellectual Property.
S9: Indiscriminate Weapons.
S10: Hate.
S11: Suicide & Self-Harm.
S12: Sexual Content.
S13: Elections.
S14: Code Interpreter Abuse."""

_GRANITE_ASKED = """Guard a model's conversations: say whether the last message of the $who meets the risk described.

$said

Risk: $risk

Answer Yes if it does, No if it does not."""

_GRANITE_JUDGE = (
    "<guardian><no-think>Say whether the last text of the $who above meets the criterion, at once and without reasons: "
    "an empty <think>\n</think>, then yes or no inside <score></score>.\n\n### Criteria: $risk\n\n"
    "### Scoring Schema: yes if the text meets the criterion, no if it does not."
)


def _asked(form: str, who: str, said: str, names: str = "") -> str:
    # What comes with a request ($prompt, $answer, $risk) stays for `GuardModel.prompt`.
    return Template(form).safe_substitute(who=who, said=said, names=names)


def _qwen(who: str, said: str) -> str:
    return _asked(
        _QWEN_ASKED, who, said, ", ".join(name for name in QWEN3GUARD if who == "USER" or name != "Jailbreak")
    )


def _llama(name: str, frame: str) -> GuardModel:
    return GuardModel(
        title=name,
        words=_SAFE_UNSAFE,
        markup=_markup(r"<\|[a-z0-9_]+\|>"),
        frame=frame,
        turn=_asked(_LLAMA_ASKED, "User", "User: $prompt", _LLAMA_NAMES),
        answer_turn=_asked(_LLAMA_ASKED, "Agent", "User: $prompt\n\nAgent: $answer", _LLAMA_NAMES),
        verdict_tokens=2,
        category_tokens=14,
        categories=LLAMA_GUARD,
    )


def _granite(name: str, **more: Any) -> GuardModel:
    return GuardModel(
        title=name,
        words=_YES_NO,
        markup=_markup(r"<\|[a-z0-9_]+\|>", r"<(?:start|end)_of_turn>", r"</?guardian>", r"</?no-think>"),
        frame="<|start_of_role|>user<|end_of_role|>$turns<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
        turn=_asked(_GRANITE_ASKED, "user", "User: $prompt"),
        answer_turn=_asked(_GRANITE_ASKED, "assistant", "User: $prompt\n\nAssistant: $answer"),
        by_risk=True,
        **more,
    )


GUARD_MODELS: dict[str, GuardModel] = {
    "qwen3guard": GuardModel(
        title="Qwen3Guard-Gen",
        words={"safe": 0.0, "unsafe": 1.0, "controversial": None},
        markup=_markup(r"<\|[a-z0-9_]+\|>"),
        frame="<|im_start|>user\n$turns<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        turn=_qwen("USER", "USER: $prompt"),
        answer_turn=_qwen("ASSISTANT", "USER: $prompt\nASSISTANT: $answer"),
        mark="Safety:",
        lead="Safety:",
        verdict_tokens=4,
        category_tokens=40,
        clear=("Safe\n",),
        categories=QWEN3GUARD,
    ),
    "llama-guard-3": _llama(
        "Llama Guard 3",
        "<|start_header_id|>user<|end_header_id|>\n\n$turns<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "llama-guard-4": _llama(
        "Llama Guard 4",
        "<|header_start|>user<|header_end|>\n\n$turns<|eot|><|header_start|>assistant<|header_end|>\n\n",
    ),
    "granite-guardian-3": _granite("Granite Guardian 3.0 to 3.2", risk_member="risk_name"),
    "granite-guardian-3.3": _granite(
        "Granite Guardian 3.3", risk_member="criteria_id", mark="<score>", lead="<score>", verdict_tokens=12
    ),
    "granite-guardian-4": _granite(
        "Granite Guardian 4", judge=_GRANITE_JUDGE, mark="<score>", lead="<think>\n</think><score>", verdict_tokens=16
    ),
}
"""The guard models that can be asked, by the name that the settings give them (`[classifier] template`)."""

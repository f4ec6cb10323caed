"""The files people write policies in: their keys, and refusals that say what, where and what would be accepted."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import msgspec
from msgspec import inspect as shapes

from guardrail.core.lexicon import MatchMode, Part, PhraseList
from guardrail.errors import PolicyError

T = TypeVar("T", bound=msgspec.Struct)

KEYWORDS = "keywords"

ActionWord = Literal["allow", "flag", "redact", "answer", "block"]
DirectionWord = Literal["prompt", "completion"]
SeverityWord = Literal["low", "medium", "high", "critical"]
ModeWord = Literal["observe", "enforce"]
OnErrorWord = Literal["allow", "flag", "block"]
AffixWord = Literal["none", "start", "end"]

_MARKS: Mapping[str, Part] = {"re:": "patterns", "!": "exceptions"}


class RuleFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[rule]]` of a policy.toml. `docs/policies.md` explains every key."""

    id: str
    detector: str
    category: str
    action: ActionWord
    phrases: str | list[str] = []
    match: MatchMode | None = None
    label: str | None = None
    labels: list[str] = []
    directions: list[DirectionWord] = []
    severity: SeverityWord = "medium"
    mode: ModeWord = "enforce"
    threshold: float | None = None
    strike: bool | float = False
    articles: list[str] = []
    because: str = ""
    placeholder: str = ""
    answer: dict[str, str] = {}


class AppliesToFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a policy holds; an empty list means everywhere."""

    directions: list[DirectionWord] = []
    surfaces: list[str] = []
    tenants: list[str] = []


class PolicyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A policy.toml without its rules, which are decoded one by one so that a refusal can name them."""

    id: str
    title: str
    applies_to: AppliesToFile = AppliesToFile()
    on_error: OnErrorWord = "block"
    rule: list[dict[str, Any]]


class ProfileDefaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a profile changes in the settings where the operator has set nothing.

    `affix` is where the visible label goes; the other three are duties: reports to an authority exist, a provider's
    name and code must be set, JSON and tool routes need a client that shows the label itself.
    """

    affix: AffixWord = "none"
    reports_to_authority: bool = False
    requires_provider: bool = False
    json_needs_client_label: bool = False


class ProfileFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A profiles/<profile>.toml: which policies are enforced, and the defaults that come with them."""

    title: str
    policies: list[str]
    defaults: ProfileDefaults = ProfileDefaults()


class CaseFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[case]]`: a text in one direction, and exactly the rules of its pack that match it.

    `detector` narrows what is compared to the rules of one detector, so that a case about a phrase does not depend on
    what a model thinks of it; empty means all.
    """

    desc: str
    prompt: str | None = None
    completion: str | None = None
    expect: list[str]
    detector: str | None = None


class CasesFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cases.toml; `detector` is the default of its cases."""

    detector: str = ""
    case: list[dict[str, Any]]


def read_text(path: Path) -> str:
    """The text of a file people wrote; raises `PolicyError` when it is missing or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise PolicyError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise PolicyError(f"{path}: byte {error.start} is not UTF-8; expected a text file in UTF-8") from None
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read ({error.strerror})") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; a syntax error or a repeated key carries its line."""
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"{path}: not valid TOML: {error}") from None


def decode(data: Mapping[str, Any], kind: type[T], where: str) -> T:
    """Turn a table into `kind`. `where` (file, rule) begins the message of the `PolicyError` that a bad key raises."""
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise PolicyError(f"{where}: {_explain(str(error), data, kind)}") from None


def one_of(words: Sequence[str]) -> str:
    """`a, b or c`, for messages; "nothing" when there is none."""
    if len(words) < 2:
        return words[0] if words else "nothing"
    return ", ".join(words[:-1]) + " or " + words[-1]


def check_rule(rule: RuleFile, where: str) -> None:
    """Refuse keys that contradict each other, which would otherwise mean something other than what was written."""
    keywords = rule.detector == KEYWORDS
    labels = [rule.label] if rule.label is not None else rule.labels
    wrong: str | None = None
    if keywords and not rule.phrases and not labels:
        wrong = 'key "phrases" is missing; expected a phrase file beside policy.toml, or a list of them'
    elif keywords and rule.phrases and labels:
        wrong = "label is set; expected phrases only, since a keyword rule's label is its id"
    elif keywords and rule.threshold is not None:
        wrong = f"threshold is {rule.threshold}; expected none, since a phrase is found or it is not"
    elif not keywords and (rule.phrases or rule.match):
        wrong = f'phrases or match is set; expected label or labels, since detector is "{rule.detector}"'
    elif not keywords and (rule.label is None) == (not rule.labels):
        wrong = "expected either label (one) or labels (a list)"
    elif len(set(labels)) < len(labels):
        wrong = "labels names one twice; expected each once"
    elif (rule.action == "redact") != bool(rule.placeholder):
        wrong = f'placeholder is "{rule.placeholder}"; expected a text with action = "redact", and none otherwise'
    elif rule.action == "answer" and not (rule.answer.get("zh") and rule.answer.get("en")):
        wrong = 'answer is incomplete; expected { zh = "...", en = "..." } with action = "answer"'
    elif rule.action != "answer" and rule.answer:
        wrong = f'answer is set with action = "{rule.action}"; expected it with action = "answer" only'
    elif rule.threshold is not None and not 0 < rule.threshold <= 1:
        wrong = f"threshold is {rule.threshold}; expected a number above 0 and up to 1"
    elif rule.strike is not False and rule.action != "block":
        wrong = f'strike is set with action = "{rule.action}"; expected it with action = "block" only'
    elif not isinstance(rule.strike, bool) and not (rule.threshold or 0) <= rule.strike <= 1:
        wrong = f"strike is {rule.strike}; expected true, false or a number from the rule's threshold up to 1"
    elif not isinstance(rule.strike, bool) and rule.strike == 0:
        wrong = "strike is 0; expected true, false or a number above 0"
    if wrong is not None:
        raise PolicyError(f"{where}: {wrong}")


class Phrases(NamedTuple):
    """A phrase list and, for each of its parts, the file and line of each entry."""

    phrases: PhraseList
    origins: Mapping[Part, Sequence[str]]


def read_phrases(paths: Sequence[Path], match: MatchMode = "auto") -> Phrases:
    """Read phrase files into one list: a term a line, `#` comments, `re:` before a pattern, `!` before an exception.

    What a single entry must be like is the detector's business: it raises `PhraseError`, which `origins` locates.
    """
    seen: dict[str, str] = {}
    entries: dict[Part, list[str]] = {"terms": [], "patterns": [], "exceptions": []}
    origins: dict[Part, list[str]] = {"terms": [], "patterns": [], "exceptions": []}
    for path in paths:
        for number, raw in enumerate(read_text(path).splitlines(), 1):
            line, where = raw.strip(), f"{path}: line {number}"
            if not line or line.startswith("#"):
                continue
            mark = next((mark for mark in _MARKS if line.startswith(mark)), "")
            part, phrase = _MARKS.get(mark, "terms"), line.removeprefix(mark).strip()
            key = phrase if part == "patterns" else folded(phrase)
            if key in seen:
                raise PolicyError(f'{where}: "{phrase}" is there already, at {seen[key]}; expected each once')
            seen[key] = where
            entries[part].append(phrase)
            origins[part].append(where)
    terms, patterns, exceptions = entries["terms"], entries["patterns"], entries["exceptions"]
    if not terms and not patterns:
        raise PolicyError(f"{paths[0]}: holds no phrase; expected at least one term, or one pattern after re:")
    if not patterns:
        held = [folded(term) for term in terms]
        for phrase, where in zip(exceptions, origins["exceptions"], strict=True):
            if not any(term in folded(phrase) for term in held):
                raise PolicyError(
                    f'{where}: "!{phrase}" excepts nothing; expected a phrase that holds a term of the list'
                )
    return Phrases(PhraseList(tuple(terms), tuple(patterns), tuple(exceptions), match), origins)


def folded(text: str) -> str:
    """A phrase with width, case and runs of spaces made equal, to find the same phrase written twice."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


# -- wording ---------------------------------------------------------------------------------------------------------

# msgspec sorts the words of a Literal; people list them from mild to strict.
_IN_ORDER: Mapping[frozenset[Any], Sequence[str]] = {
    frozenset(get_args(words)): get_args(words)
    for words in (ActionWord, DirectionWord, SeverityWord, ModeWord, OnErrorWord, AffixWord, MatchMode)
}
_PATH = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")


def _explain(message: str, data: Any, kind: type) -> str:
    found = _PATH.match(message)
    assert found is not None
    what, path = found["what"], found["path"] or ""
    shape: shapes.Type | None = shapes.type_info(kind)
    value: Any = data
    for name, index in _STEP.findall(path):
        shape = _inside(shape, name)
        try:
            value = value[name] if name else (value[int(index)] if index != "..." else value)
        except (KeyError, IndexError, TypeError):
            value = None
    key = path.lstrip(".").replace("[...]", "")
    if unknown := re.search(r"unknown field `(.*)`", what):
        inner = f" in {key}" if key else ""
        return f'unknown key "{unknown[1]}"{inner}; known keys: {", ".join(_fields(shape))}'
    if missing := re.search(r"missing required field `(.*)`", what):
        expected = _accepted(_inside(shape, missing[1]))
        name = f"{key}.{missing[1]}" if key else missing[1]
        return f'key "{name}" is missing; expected {expected}'
    shown = f'"{value}"' if isinstance(value, str) else repr(value).lower() if isinstance(value, bool) else repr(value)
    return f"{key or 'it'} is {shown}; expected {_accepted(shape)}"


def _inside(shape: shapes.Type | None, name: str) -> shapes.Type | None:
    """The type of key `name` (or of an item, when `name` is empty) of a value of type `shape`."""
    options = shape.types if isinstance(shape, shapes.UnionType) else (shape,)
    for option in options:
        if name and isinstance(option, shapes.StructType):
            return next((field.type for field in option.fields if field.name == name), None)
        if not name and isinstance(option, shapes.ListType):
            return option.item_type
        if isinstance(option, shapes.DictType):
            return option.value_type
    return None


def _fields(shape: shapes.Type | None) -> list[str]:
    return [field.name for field in shape.fields] if isinstance(shape, shapes.StructType) else []


def _accepted(shape: shapes.Type | None) -> str:
    if isinstance(shape, shapes.UnionType):
        return one_of([_accepted(option) for option in shape.types if not isinstance(option, shapes.NoneType)])
    if isinstance(shape, shapes.LiteralType):
        return one_of(_IN_ORDER.get(frozenset(shape.values), [str(value) for value in shape.values]))
    if isinstance(shape, shapes.ListType):
        return f"a list of: {_accepted(shape.item_type)}"
    if isinstance(shape, shapes.StrType):
        return "text"
    if isinstance(shape, shapes.BoolType):
        return "true, false"
    return "a number" if isinstance(shape, shapes.FloatType) else "a table"

"""Load policy packs and a profile into the one `PolicySet` that is enforced; knows of detectors what it is told."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from guardrail.core.content import Direction
from guardrail.core.lexicon import PhraseError, PhraseList
from guardrail.core.policy import Action, AppliesTo, Mode, Policy, PolicySet, Rule, Severity, TenantTerms
from guardrail.errors import PolicyError
from guardrail.policyfile import (
    KEYWORDS,
    Phrases,
    PolicyFile,
    ProfileDefaults,
    ProfileFile,
    RuleFile,
    check_rule,
    decode,
    one_of,
    read_phrases,
    read_toml,
)

PROFILES = "profiles"
CERTAIN = 1.0
"""The score of a phrase that was found: it is there or it is not."""
OWN_LABELS = ("hidden-characters",)
"""What the keywords detector reports without a phrase list."""

_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*(/[a-z0-9]+(-[a-z0-9]+)*)*")
_WORDS = {action.word: action for action in Action}


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is enforced (`policies`), what the keywords detector looks for (`phrases`, by label), and the profile."""

    policies: PolicySet
    phrases: Mapping[str, PhraseList]
    profile: str
    title: str
    defaults: ProfileDefaults
    lists: Mapping[str, Phrases] = field(repr=False)

    def locate(self, error: PhraseError) -> PolicyError:
        """What the keywords detector refused, with the file and line where it stands."""
        return PolicyError(f"{self.lists[error.label].origins[error.part][error.index]}: {error.problem}")


def load(
    directories: Sequence[Path],
    profile: str,
    *,
    defaults: Mapping[str, Mapping[str, float]],
    strike_defaults: Mapping[str, Mapping[str, float]] | None = None,
    flag_defaults: Mapping[str, Mapping[str, float]] | None = None,
    disabled_detectors: Collection[str] = (),
    other_models: Collection[str] = (),
    tenants: Mapping[str, TenantTerms] | None = None,
    observe_all: bool = False,
) -> Loaded:
    """Load what `profile` enforces: the policies it names, and every policy of the directories after the first.

    `directories[0]` holds the shipped policies, the others an operator's own. `defaults` gives each detector's own
    thresholds by label, `strike_defaults` those for strikes and `flag_defaults` looser ones for rules that only flag;
    a detector that is neither in `defaults` nor in `disabled_detectors` is unknown.
    Rules of disabled detectors are left out and named in `PolicySet.not_enforced`; so are rules of shipped policies
    that want labels which a detector in `other_models` has not, as shipped policies are written for the shipped model
    (an operator's own may name only labels that are there). `observe_all` turns every rule to
    observe mode. Raises `PolicyError`, whose message names file, rule, key, value and what would be accepted.
    """
    chosen, path = _profile(directories, profile)
    known = Thresholds(defaults, strike_defaults or {}, flag_defaults or {}, frozenset(disabled_detectors), observe_all)
    foreign = frozenset(other_models)
    packs = [
        _read_pack(place, known, foreign if place.parent == directories[0] else frozenset())
        for place in _places(directories, chosen, path)
    ]
    rules = {rule.id for pack in packs for rule in pack.policy.rules}.union(*(pack.left_out for pack in packs))
    _check_tenants(tenants or {}, {pack.policy.id for pack in packs}, rules)
    policies = PolicySet(
        policies=tuple(pack.policy for pack in packs),
        digest=_digest(packs, profile, chosen, tenants or {}),
        tenants=dict(tenants or {}),
        not_enforced=tuple(rule for pack in packs for rule in pack.left_out),
    )
    lists = {label: found for pack in packs for label, found in pack.lists.items()}
    phrases = {label: found.phrases for label, found in lists.items()}
    return Loaded(policies, phrases, profile, chosen.title, chosen.defaults, lists)


def profile_names(directories: Sequence[Path]) -> tuple[str, ...]:
    """Every profile that can be named, sorted."""
    return tuple(sorted({path.stem for directory in directories for path in (directory / PROFILES).glob("*.toml")}))


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What the loader is told about detectors: the known ones with their labels, and which are switched off."""

    scores: Mapping[str, Mapping[str, float]]
    strikes: Mapping[str, Mapping[str, float]]
    flags: Mapping[str, Mapping[str, float]]
    disabled: frozenset[str]
    observe_all: bool

    def check(self, rule: RuleFile, labels: Sequence[str], where: str) -> None:
        """Refuse a detector or label that nobody has."""
        if rule.detector in self.disabled or (rule.detector == KEYWORDS and rule.phrases):
            return
        scores = {**self.scores, KEYWORDS: dict.fromkeys(OWN_LABELS, CERTAIN)}
        if rule.detector not in scores:
            names = sorted({*scores, *self.disabled})
            raise PolicyError(f'{where}: detector is "{rule.detector}"; expected {one_of(names)}')
        for label in labels:
            if label not in scores[rule.detector]:
                known = one_of(sorted(scores[rule.detector]))
                raise PolicyError(f'{where}: label is "{label}"; expected {known} (the labels of {rule.detector})')

    def of(self, rule: RuleFile, label: str, where: str) -> tuple[float, float | None]:
        """(least score that matches, least score that strikes or None) of `rule` for one of its labels."""
        if rule.threshold is not None:
            threshold = rule.threshold
        elif rule.detector == KEYWORDS:
            threshold = CERTAIN
        else:
            threshold = self.scores[rule.detector][label]
            if rule.action == "flag":
                threshold = self.flags.get(rule.detector, {}).get(label, threshold)
        if rule.strike is False:
            return threshold, None
        if rule.strike is not True:
            return threshold, float(rule.strike)
        strike = CERTAIN if rule.detector == KEYWORDS else self.strikes.get(rule.detector, {}).get(label)
        if strike is None:
            raise PolicyError(
                f'{where}: strike is true, but {rule.detector} has no strike threshold of its own for "{label}"; '
                "expected a number, or false"
            )
        return threshold, max(strike, threshold)


@dataclass(slots=True)
class _Pack:
    policy: Policy
    files: dict[str, str] = field(default_factory=dict)  # name below the policies directory -> sha256
    lists: dict[str, Phrases] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


# -- which packs -----------------------------------------------------------------------------------------------------


def _profile(directories: Sequence[Path], profile: str) -> tuple[ProfileFile, Path]:
    found = [path for directory in directories if (path := directory / PROFILES / f"{profile}.toml").is_file()]
    if not found:
        names = one_of(profile_names(directories))
        raise PolicyError(
            f'no profile "{profile}" in {one_of([str(d / PROFILES) for d in directories])}; expected {names}'
        )
    if len(found) > 1:
        raise PolicyError(f'{found[1]}: profile "{profile}" is there already, at {found[0]}; expected a new name')
    return decode(read_toml(found[0]), ProfileFile, str(found[0])), found[0]


def _places(directories: Sequence[Path], chosen: ProfileFile, path: Path) -> list[Path]:
    """The folders of the policies to load, in order; an id that is in two directories is refused."""
    places: dict[str, Path] = {}
    for directory in directories:
        if not directory.is_dir():
            raise PolicyError(f"{directory}: no such directory; expected one that holds <policy-id>/policy.toml")
        for place in sorted(directory.iterdir()):
            if not place.is_dir() or place.name == PROFILES or place.name.startswith((".", "_")):
                continue
            if place.name in places:
                raise PolicyError(
                    f'{place}: policy "{place.name}" is there already, at {places[place.name]}; expected a new id'
                )
            places[place.name] = place
    named: list[str] = []
    for policy in chosen.policies:
        if policy not in places:
            raise PolicyError(f'{path}: policies names "{policy}"; expected {one_of(sorted(places))}')
        if policy in named:
            raise PolicyError(f'{path}: policies names "{policy}" twice; expected each once')
        named.append(policy)
    own = [name for name, place in places.items() if place.parent != directories[0] and name not in named]
    return [places[name] for name in (*named, *own)]


# -- one pack --------------------------------------------------------------------------------------------------------


def _read_pack(place: Path, known: Thresholds, foreign: frozenset[str]) -> _Pack:
    path = place / "policy.toml"
    file = decode(read_toml(path), PolicyFile, str(path))
    if file.id != place.name:
        raise PolicyError(f'{path}: id is "{file.id}"; expected "{place.name}", the name of its folder')
    if not file.rule:
        raise PolicyError(f"{path}: rule is []; expected at least one [[rule]]")
    pack = _Pack(Policy(file.id, file.title, (), _applies_to(file), _WORDS[file.on_error]))
    pack.files[_below(path, place)] = _sha256(path)
    rules: list[Rule] = []
    seen: dict[str, int] = {}
    for number, table in enumerate(file.rule, 1):
        name = table.get("id")
        where = f'{path}: rule "{name}"' if isinstance(name, str) else f"{path}: rule {number}"
        rule = decode(table, RuleFile, where)
        if not _ID.fullmatch(rule.id):
            raise PolicyError(f'{where}: id is "{rule.id}"; expected lower-case words joined by - and /')
        if rule.id in seen:
            raise PolicyError(f'{where}: id is "{rule.id}", as of rule {seen[rule.id]}; expected each id once')
        seen[rule.id] = number
        check_rule(rule, where)
        full = f"{file.id}/{rule.id}"
        phrases = _phrases(rule, place, pack, where) if rule.phrases else None
        labels = [full] if phrases else [rule.label] if rule.label is not None else rule.labels
        if rule.detector in foreign and rule.detector in known.scores:
            labels = [label for label in labels if label in known.scores[rule.detector]]
        known.check(rule, labels, where)
        if rule.detector in known.disabled or not labels:
            pack.left_out.append(full)
            continue
        if phrases:
            pack.lists[full] = phrases
        rules.extend(_core_rules(rule, full, labels, known, where))
    pack.policy = Policy(file.id, file.title, tuple(rules), pack.policy.applies_to, pack.policy.on_error)
    return pack


def _core_rules(rule: RuleFile, full: str, labels: Sequence[str], known: Thresholds, where: str) -> list[Rule]:
    """One core rule for each pair of thresholds: labels of one rule may have different ones. All have the same id."""
    groups: dict[tuple[float, float | None], list[str]] = defaultdict(list)
    for label in labels:
        groups[known.of(rule, label, where)].append(label)
    return [
        Rule(
            id=full,
            detector=rule.detector,
            labels=frozenset(group),
            category=rule.category,
            threshold=threshold,
            action=_WORDS[rule.action],
            severity=Severity(rule.severity),
            mode=Mode.OBSERVE if known.observe_all else Mode(rule.mode),
            strike=strike,
            articles=tuple(rule.articles),
            because=rule.because,
            placeholder=rule.placeholder,
            answer=dict(rule.answer),
            directions=frozenset(Direction(word) for word in rule.directions),
        )
        for (threshold, strike), group in groups.items()
    ]


def _phrases(rule: RuleFile, place: Path, pack: _Pack, where: str) -> Phrases:
    names = [rule.phrases] if isinstance(rule.phrases, str) else rule.phrases
    paths: list[Path] = []
    for name in names:
        path = (place / name).resolve()
        if not path.is_relative_to(place.parent.resolve()):
            raise PolicyError(f'{where}: phrases is "{name}"; expected a file inside {place.parent}')
        if path.suffix != ".txt" or not path.is_file():
            there = one_of(sorted(file.name for file in place.glob("*.txt")))
            raise PolicyError(f'{where}: phrases is "{name}", which is no phrase file; expected {there}')
        paths.append(place / name)
        pack.files[_below(path, place)] = _sha256(path)
    return read_phrases(paths, rule.match or "auto")


def _applies_to(file: PolicyFile) -> AppliesTo:
    where = file.applies_to
    directions = frozenset(Direction(word) for word in where.directions)
    return AppliesTo(directions, frozenset(where.surfaces), frozenset(where.tenants))


def _check_tenants(tenants: Mapping[str, TenantTerms], policies: set[str], rules: set[str]) -> None:
    for tenant, terms in tenants.items():
        for key, named, known in (
            ("policies", terms.policies, policies),
            ("thresholds", terms.thresholds, rules),
            ("exceptions", terms.exceptions, rules),
        ):
            for name in sorted(set(named) - known):
                raise PolicyError(f'tenant "{tenant}": {key} names "{name}"; expected {one_of(sorted(known))}')


# -- the digest ------------------------------------------------------------------------------------------------------


def _digest(packs: Sequence[_Pack], profile: str, chosen: ProfileFile, tenants: Mapping[str, TenantTerms]) -> str:
    """SHA-256 (hex) of all that decides a verdict: files, profile, tenants' terms, thresholds and modes as resolved."""
    canonical: dict[str, Any] = {
        "profile": [profile, msgspec.to_builtins(chosen)],
        "packs": [
            {
                "id": pack.policy.id,
                "files": pack.files,
                "left_out": pack.left_out,
                "rules": [
                    [rule.id, sorted(rule.labels), rule.threshold, rule.strike, rule.mode.value]
                    for rule in pack.policy.rules
                ],
            }
            for pack in packs
        ],
        "tenants": {
            tenant: {
                "policies": sorted(terms.policies),
                "thresholds": dict(terms.thresholds),
                "exceptions": {rule: until.isoformat() for rule, until in terms.exceptions.items()},
            }
            for tenant, terms in tenants.items()
        },
    }
    return hashlib.sha256(msgspec.json.encode(canonical, order="sorted")).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _below(path: Path, place: Path) -> str:
    """A file's name below its policies directory: the digest must not depend on where that directory lives."""
    return path.resolve().relative_to(place.parent.resolve()).as_posix()

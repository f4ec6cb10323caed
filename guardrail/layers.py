"""Read layers of settings (file, environment, arguments) into frozen msgspec structs, and say which layer is wrong.

Knows no setting by name: the structs' annotations say what is accepted. Each layer is checked by itself, so that a
message can name the file or variable: `guardrail.toml: server.workers: got 0; expected a whole number from 1 to 64`.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec

from guardrail.errors import SettingsError

Tree = dict[str, Any]


class Key(NamedTuple):
    """One setting: its path, what it accepts and means, and its default (`...` where it must be given)."""

    path: tuple[str, ...]
    expected: str
    meaning: str
    default: object

    @property
    def dotted(self) -> str:
        return ".".join(self.path)

    def variable(self, prefix: str) -> str:
        """The environment variable that mirrors it."""
        return prefix + "__".join(self.path).upper()


class Layer(NamedTuple):
    """Where values came from. `name(path)` is how a message calls a key there, `base` what relative paths start at.

    `textual` layers (the environment) hold strings that stand for numbers, truths and lists.
    """

    name: Callable[[str], str]
    base: Path
    textual: bool = False


def keys(struct: type[msgspec.Struct], at: tuple[str, ...] = ()) -> Iterator[Key]:
    """Every setting below `struct`, in the order of its fields; the items of a list of tables as `tenants[].id`."""
    hints = get_type_hints(struct, include_extras=True)
    for field in msgspec.structs.fields(struct):
        hint, path = hints[field.name], (*at, field.name)
        if _hidden(hint):
            continue
        section, many = _section(hint)
        if section is not None and not many:
            yield from keys(section, path)
            continue
        made = field.default_factory
        default = ... if field.required else field.default if made is msgspec.NODEFAULT else made()
        yield Key(path, expected(hint), _meta(hint).description or "", default)
        if section is not None:
            yield from keys(section, (*at, f"{field.name}[]"))


def check(values: Mapping[str, Any], struct: type[msgspec.Struct], layer: Layer, refuse: Callable[[str], str]) -> Tree:
    """Return `values` with every leaf converted to its field's type; missing keys stay missing.

    Raises `SettingsError` for an unknown key, a wrong type or a value out of range. `refuse(path)` is asked about
    unknown keys first: a sentence it returns is the reason to give.
    """
    return _Check(layer, refuse, [key.dotted for key in keys(struct)]).table(values, struct, "")


def merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> Tree:
    """Lay `upper` over `lower`: tables are merged key by key, everything else is replaced."""
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def build(values: Mapping[str, Any], struct: type[msgspec.Struct]) -> Any:
    """Make `struct` out of a checked tree."""
    return msgspec.convert(values, struct, dec_hook=lambda _, value: value)


def expected(hint: Any) -> str:
    """What a type accepts, in words."""
    meta = _meta(hint)
    if meta.extra and "expected" in meta.extra:
        return str(meta.extra["expected"])
    base = _bare(hint)
    if get_origin(base) is Literal:
        return _either([f'"{word}"' for word in get_args(base)])
    if get_origin(base) is tuple:
        item = get_args(base)[0]
        return "a list of tables" if _section(item)[0] else f"a list, each {expected(item)}"
    if get_origin(base) is not None and issubclass(get_origin(base), Mapping):
        return f"a table of names, each with {expected(get_args(base)[1])}"
    if base is int or base is float:
        return ("a whole number" if base is int else "a number") + _range(meta)
    words = {bool: "true or false", str: "a string", Path: "a path", date: "a date such as 2027-01-31"}
    return words.get(base, "a table")


class _Check:
    def __init__(self, layer: Layer, refuse: Callable[[str], str], known: list[str]) -> None:
        self.layer, self.refuse, self.known = layer, refuse, known

    def table(self, values: Any, struct: type[msgspec.Struct], at: str) -> Tree:
        if self.layer.textual and isinstance(values, str):
            values = _decoded(values)
        if not isinstance(values, Mapping):
            raise self.wrong(at, values, expected(struct))
        hints = {k: v for k, v in get_type_hints(struct, include_extras=True).items() if not _hidden(v)}
        out: Tree = {}
        for key, value in values.items():
            path = f"{at}.{key}" if at else str(key)
            if key not in hints:
                raise self.unknown(path, list(hints))
            out[key] = self.value(value, hints[key], path)
        for field in msgspec.structs.fields(struct):
            if field.required and field.name not in out:
                raise SettingsError(f"{self.layer.name(at)}: {field.name} is missing; expected {expected(field.type)}")
        return out

    def value(self, value: Any, hint: Any, path: str) -> Any:
        section, many = _section(hint)
        if section is not None and not many:
            return self.table(value, section, path)
        base = _bare(hint)
        if get_origin(base) is tuple:
            if self.layer.textual and isinstance(value, str):
                value = _listed(value)
            if not isinstance(value, list | tuple):
                raise self.wrong(path, value, expected(hint), hint)
            items = [self.value(item, get_args(base)[0], f"{path}[{index}]") for index, item in enumerate(value)]
            return self.leaf(items, hint, path) if section is None else items
        if get_origin(base) is not None and get_origin(base) is not Literal:
            if self.layer.textual and isinstance(value, str):
                value = _decoded(value)
            if not isinstance(value, Mapping):
                raise self.wrong(path, value, expected(hint), hint)
            return {str(key): self.value(item, get_args(base)[1], f"{path}.{key}") for key, item in value.items()}
        return self.leaf(value, hint, path)

    def leaf(self, value: Any, hint: Any, path: str) -> Any:
        strict = not (self.layer.textual and isinstance(value, str))
        try:
            converted = msgspec.convert(value, hint, strict=strict, dec_hook=self.convert)
            for check in (_meta(hint).extra or {}).get("checks", ()):
                check(converted)
        except (msgspec.ValidationError, ValueError, TypeError):
            raise self.wrong(path, value, expected(hint), hint) from None
        return converted

    def convert(self, kind: type, value: Any) -> Any:
        if kind is not Path:
            raise TypeError(kind)
        if isinstance(value, Path):
            return self.layer.base / value
        if not isinstance(value, str) or not value:
            raise ValueError(value)
        return self.layer.base / Path(value).expanduser()

    def wrong(self, path: str, value: object, accepted: str, hint: Any = None) -> SettingsError:
        secret = hint is not None and (_meta(hint).extra or {}).get("secret")
        shown = "something else (not shown: it may be a secret)" if secret else _shown(value)
        return SettingsError(f"{self.layer.name(path)}: got {shown}; expected {accepted}")

    def unknown(self, path: str, here: list[str]) -> SettingsError:
        reason = self.refuse(path)
        if reason:
            return SettingsError(f"{self.layer.name(path)}: {reason}")
        at, _, name = path.rpartition(".")
        prefix = f"{at}." if at else ""
        elsewhere = [key for key in self.known if key.rpartition(".")[2] == name and "[]" not in key]
        close = difflib.get_close_matches(name, here, 1, 0.6)
        if close:
            hint = f"the closest known key is {prefix}{close[0]}"
        elif elsewhere:
            hint = f"there is {_either(elsewhere)}"
        else:
            hint = f"expected {_either([prefix + key for key in here])}"
        return SettingsError(f"{self.layer.name(path)}: unknown key; {hint}")


def _meta(hint: Any) -> msgspec.Meta:
    """The annotations of a type laid over one another: the outermost word on each point counts."""
    found = msgspec.Meta()
    for part in _parts(hint):
        if isinstance(part, msgspec.Meta):
            given = {name: getattr(part, name) for name in _META if getattr(part, name) is not None}
            found = msgspec.Meta(**{name: getattr(found, name) for name in _META} | given)
    return found


_META = ("description", "extra", "ge", "gt", "le", "lt")


def _parts(hint: Any) -> Iterator[Any]:
    """The annotations of a type, innermost first, those behind `| None` included."""
    if get_origin(hint) is Annotated:
        base, *parts = get_args(hint)
        yield from _parts(base)
        yield from parts
    elif get_origin(hint) in (Union, UnionType):
        yield from _parts(next(arm for arm in get_args(hint) if arm is not NoneType))


def _bare(hint: Any) -> Any:
    """The type without its annotations and without `| None`."""
    if get_origin(hint) is Annotated:
        return _bare(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return _bare(next(arm for arm in get_args(hint) if arm is not NoneType))
    return hint


def _section(hint: Any) -> tuple[type[msgspec.Struct] | None, bool]:
    """The struct a hint stands for, and whether it stands for a list of them."""
    base = _bare(hint)
    many = get_origin(base) is tuple
    item = _bare(get_args(base)[0]) if many else base
    return (item, many) if isinstance(item, type) and issubclass(item, msgspec.Struct) else (None, many)


def _hidden(hint: Any) -> bool:
    """Whether a field is no setting: code fills it in."""
    return bool((_meta(hint).extra or {}).get("hidden"))


def _range(meta: msgspec.Meta) -> str:
    low, high = (meta.ge if meta.ge is not None else meta.gt), (meta.le if meta.le is not None else meta.lt)
    if low is None:
        return "" if high is None else f" up to {_number(high)}"
    if meta.ge is None:
        return f" above {_number(low)}" + ("" if high is None else f" and up to {_number(high)}")
    return f" from {_number(low)}" + (" on" if high is None else f" to {_number(high)}")


def _number(value: float) -> str:
    # typing keeps one of two annotations that are equal, and 1 is equal to somebody else's 1.0: show both alike.
    return str(int(value)) if value == int(value) else str(value)


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]


def _shown(value: object) -> str:
    """A value as its layer would write it, cut short."""
    if isinstance(value, bool | str | int | float):
        text = json.dumps(value, ensure_ascii=False)
    else:
        text = {dict: "a table", list: "a list", NoneType: "nothing"}.get(type(value), str(value))
    text = re.sub(r"//[^/@\s]*@", "//...@", text)  # a password in a URL is a secret
    return text if len(text) <= 80 else text[:77] + "..."


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _listed(text: str) -> Any:
    """A list as one string: JSON, or words between commas."""
    if text.lstrip().startswith("["):
        return _decoded(text)
    return [word.strip() for word in text.split(",") if word.strip()]

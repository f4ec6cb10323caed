"""What the documentation promises is what the code has: settings, metrics, commands, endpoints, dependencies.

The tables between `<!-- name:begin -->` and `<!-- name:end -->` are made from the code; after a change, rewrite them
with `python tests/test_docs.py`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from guardrail.app import own_dialects
from guardrail.cli import app, register
from guardrail.console.app import operators_app
from guardrail.credentials import NAMES
from guardrail.layers import Key
from guardrail.metrics import TABLE
from guardrail.policyset import profile_names
from guardrail.portal.app import portal_app
from guardrail.resources import policies_dir
from guardrail.settings import ALIASES, PREFIX, known_keys

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
MARKER = "<!-- {0}:begin (made by tests/test_docs.py) -->\n{1}<!-- {0}:end -->"


# -- tables made from the code -----------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, Any]]:
    """Every command of the command line with its options, as (`records list`, command)."""
    if not app.registered_commands:
        register(app)
    waiting = [("", typer.main.get_command(app))]
    while waiting:
        name, command = waiting.pop()
        children = getattr(command, "commands", None)
        if children is None:
            yield name, command
        else:
            waiting += [(f"{name} {word}".strip(), child) for word, child in children.items()]


def settings_table() -> str:
    lines = ["| key | accepts | default | meaning |", "| --- | --- | --- | --- |"]
    lines += [
        f"| `{key.dotted}` | {_cell(key.expected)} | {_default(key)} | {_cell(key.meaning)} |" for key in known_keys()
    ]
    return "\n".join(lines) + "\n"


def variables_table() -> str:
    lines = ["| key | in the environment |", "| --- | --- |"]
    for key in known_keys():
        if "[]" not in key.dotted:
            short = [f"`{PREFIX}{alias.upper()}`" for alias, path in ALIASES.items() if path == key.path]
            names = ", ".join([f"`{key.variable(PREFIX)}`", *short])
            lines.append(f"| `{key.dotted}` | {names} |")
    return "\n".join(lines) + "\n"


def metrics_table() -> str:
    lines = ["| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
    for row in TABLE:
        labels = ", ".join(f"`{label}`" for label in row.labels) or "none"
        lines.append(f"| `{row.name}` | {row.kind} | {labels} | {_cell(row.meaning)} |")
    return "\n".join(lines) + "\n"


def surfaces_table() -> str:
    lines = ["| surface | screened in prompts | screened in answers | a blocked answer |", "| --- | --- | --- | --- |"]
    for dialect in own_dialects():
        screened = dialect.screened  # type: ignore[attr-defined]
        where = " ".join([f"`{dialect.surface}`", *(f"`{path}`" for path in dialect.paths)])
        prompt, answer = (", ".join(f"`{field}`" for field in fields) for fields in (screened.prompt, screened.answer))
        passes = f"; not screened: {screened.passes}" if screened.passes else ""
        lines.append(f"| {where} | {prompt} | {answer or 'nothing'}{passes} | {_cell(screened.blocked)} |")
    return "\n".join(lines) + "\n"


def commands_table() -> str:
    lines = []
    for name, command in sorted(commands(), key=lambda item: item[0]):
        about = inspect.cleandoc(command.help or "")
        arguments = [f"[{item.name}]" if not item.required else item.name for item in command.params if _bare(item)]
        lines += [f"### `{' '.join(['guardrail', name, *(word.upper() for word in arguments)])}`", "", about, ""]
        lines += ["| option | meaning | default |", "| --- | --- | --- |"]
        for item in command.params:
            default = "" if item.default in (None, False, ()) or _bare(item) else f"`{item.default}`"
            spelled = item.name.upper() if _bare(item) else "`, `".join(item.opts)
            lines.append(f"| `{spelled}` | {_cell(' '.join((item.help or '').split()))} | {default} |")
        lines.append("")
    return "\n".join(lines)


def _bare(item: Any) -> bool:
    """Whether a parameter is an argument, not an option."""
    return item.param_type_name == "argument"


def _default(key: Key) -> str:
    if key.default is ...:
        return "required"
    if key.default is None:
        return "unset"
    if isinstance(key.default, tuple):
        return f"`[{', '.join(json.dumps(item) for item in key.default)}]`"
    if key.default == {}:
        return "`{}`"
    if isinstance(key.default, bool | int):
        return f"`{json.dumps(key.default)}`"
    if isinstance(key.default, float):
        return f"`{key.default:g}`" if key.default < 1e6 else f"`{key.default:.0f}`"
    return f"`{json.dumps(str(key.default))}`" if str(key.default) else "empty"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


GENERATED = [
    ("settings.md", "settings", settings_table),
    ("settings.md", "variables", variables_table),
    ("metrics.md", "metrics", metrics_table),
    ("commands.md", "commands", commands_table),
    ("api.md", "surfaces", surfaces_table),
]


@pytest.mark.parametrize(("page", "name", "table"), GENERATED, ids=lambda value: value if type(value) is str else "")
def test_a_table_made_from_the_code_is_up_to_date(page: str, name: str, table: object) -> None:
    assert callable(table)
    said = MARKER.format(name, table())
    assert said in (DOCS / page).read_text(encoding="utf-8"), f"run python tests/test_docs.py to rewrite docs/{page}"


def rewrite() -> None:
    """Put the tables into the pages as the code has them now."""
    for page, name, table in GENERATED:
        path = DOCS / page
        between = re.compile(rf"<!-- {name}:begin .*?<!-- {name}:end -->", re.DOTALL)
        fresh = MARKER.format(name, table())
        path.write_text(between.sub(lambda _, text=fresh: text, path.read_text(encoding="utf-8")), encoding="utf-8")


# -- settings ----------------------------------------------------------------------------------------------------


def test_every_setting_says_in_one_sentence_what_it_means() -> None:
    for key in known_keys():
        assert re.fullmatch(r"[^\n]{10,130}\.", key.meaning), f"{key.dotted}: {key.meaning!r}"


def test_secrets_short_forms_and_profiles_are_documented() -> None:
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    for name in (*NAMES, *(alias.upper() for alias in ALIASES), "CONFIG"):
        assert f"`{PREFIX}{name}`" in page, name
    for profile in profile_names([policies_dir()]):
        assert f"`{profile}`" in page, profile


def test_the_example_file_names_every_setting() -> None:
    example = (ROOT / "deploy/guardrail.example.toml").read_text(encoding="utf-8")
    bare = re.sub(r"(?m)^# (?=[a-z_]+ = |\[)", "", example)
    section = ""
    named = set()
    for line in bare.splitlines():
        if heading := re.match(r"\[\[?([a-z_.]+)\]\]?", line):
            section = heading[1]
        elif key := re.match(r"([a-z_]+) = ", line):
            named.add(f"{section}.{key[1]}".lstrip("."))
    for key in known_keys():
        dotted = key.dotted.replace("[]", "")
        assert dotted in named or any(name.startswith(f"{dotted}.") for name in named), dotted
    assert named <= {key.dotted.replace("[]", "") for key in known_keys()}


# -- commands ----------------------------------------------------------------------------------------------------


def pages() -> list[Path]:
    """The README, if it is there yet, and every page of docs/."""
    return [path for path in (ROOT / "README.md", *sorted(DOCS.glob("*.md"))) if path.exists()]


def written() -> str:
    """All pages, as one text."""
    return "\n".join(path.read_text(encoding="utf-8") for path in pages())


def test_every_command_and_option_is_documented() -> None:
    text = written()
    for name, command in commands():
        assert f"guardrail {name}" in text, f"guardrail {name}"
        for parameter in command.params:
            for flag in parameter.opts:
                if flag.startswith("--") and flag != "--help":
                    assert re.search(rf"{flag}\b(?!-)", text), f"guardrail {name} {flag}"


def test_every_command_says_what_it_does() -> None:
    for name, command in commands():
        assert len(inspect.cleandoc(command.help or "")) > 20, name


# -- endpoints ---------------------------------------------------------------------------------------------------


def endpoints() -> Iterator[str]:
    """Every path that a listener of ours answers, from the apps' own route tables, and those of the dialects."""
    for factory in (portal_app, operators_app):
        unused = [lambda *_: None for _ in inspect.signature(factory).parameters]  # routes are made, none is called
        yield from (route.path for route in factory(*unused).routes)  # type: ignore[attr-defined, operator]
    for path in sorted((ROOT / "guardrail/wire").glob("*.py")):
        for value in vars(importlib.import_module(f"guardrail.wire.{path.stem}")).values():
            if inspect.isclass(value) and isinstance(getattr(value, "paths", None), tuple):
                yield from value.paths


def test_every_endpoint_is_documented() -> None:
    text = written()
    found = set(endpoints())
    assert found >= {"/livez", "/readyz", "/metrics", "/guardrail/screen", "/v1/chat/completions"}
    for path in sorted(found):
        assert re.search(rf"{re.escape(path)}(?![\w/-])", text), path


# -- what comes along --------------------------------------------------------------------------------------------


def test_every_dependency_is_named_with_its_licence() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8").lower()
    required = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    for line in required:
        name = re.split(r"[\[<>=;! ]", line)[0].lower()
        assert re.search(rf"(?m)^\| {re.escape(name)} \| [^|]{{2,}} \|", page), name


def test_the_readme_gives_the_two_commands_and_names_every_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "scripts/serve" in readme
    assert "scripts/test" in readme
    for name, _ in commands():
        assert f"guardrail {name.partition(' ')[0]}" in readme, name


def test_the_changelog_has_the_version_that_is_built() -> None:
    from guardrail import __version__

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_a_page_links_only_to_what_is_there() -> None:
    for page in pages():
        for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


if __name__ == "__main__":
    rewrite()

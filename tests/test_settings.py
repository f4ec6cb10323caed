"""Settings come from where they may, in the right order, and whatever is wrong is named with its place."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest

from guardrail.core.sanctions import Ladder
from guardrail.errors import SettingsError
from guardrail.sections import Address, parse_address
from guardrail.settings import Settings, admin_token

ROOT = Path(__file__).resolve().parent.parent
CODE = "001199999999999999999910001"
HASH = "a" * 64

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a guardrail.toml and give its path."""

    def write_file(text: str) -> Path:
        path = tmp_path / "guardrail.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def load(path: Path | None = None, env: dict[str, str] | None = None, **overrides: object) -> Settings:
    return Settings.load(path, env or {}, overrides)


def refusal(path: Path | None = None, env: dict[str, str] | None = None, **overrides: object) -> str:
    with pytest.raises(SettingsError) as caught:
        load(path, env, **overrides)
    return str(caught.value)


# -- where a value comes from ------------------------------------------------------------------------------------


def test_without_anything_the_defaults_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load()
    assert settings.profile == "neutral"
    assert settings.server.address == Address("127.0.0.1", 8080)
    assert settings.labels.affix == "none"
    assert settings.upstream.url == ""
    assert settings.unknown_surface == "refuse"
    assert settings.passthrough == ("GET /v1/models", "GET /v1/models/*")
    assert settings.sanctions.ladder() == Ladder()


def test_arguments_win_over_the_environment_over_the_file_over_the_profile(write: Write) -> None:
    provider = f'[provider]\nname = "Example"\ncode = "{CODE}"\n'
    file = write('profile = "cn_2026"\n' + provider)
    assert load(file).labels.affix == "end"
    file = write('profile = "cn_2026"\n' + provider + '[labels]\naffix = "start"\n')
    assert load(file).labels.affix == "start"
    env = {"GUARDRAIL_LABELS__AFFIX": "none"}
    assert load(file, env).labels.affix == "none"
    assert load(file, env, labels={"affix": "end"}).labels.affix == "end"
    assert load(file, env, labels={"affix": "end"}).provider.name == "Example"


def test_a_part_of_a_section_leaves_the_rest_of_it_alone(write: Write) -> None:
    file = write('[server]\nworkers = 3\nlisten = "127.0.0.1:9000"\n')
    settings = load(file, {"GUARDRAIL_SERVER__DRAIN_SECONDS": "5"}, listen="127.0.0.1:9001")
    server = settings.server
    assert (server.workers, server.drain_seconds, server.listen) == (3, 5.0, "127.0.0.1:9001")
    assert server.max_body_bytes == 8 * 1024 * 1024


def test_the_file_is_the_one_named_or_the_one_in_the_working_directory(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write("observe = true\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert not load().observe
    assert load(env={"GUARDRAIL_CONFIG": str(file)}).observe
    monkeypatch.chdir(tmp_path)
    assert load().observe


def test_short_forms_work_as_variables_and_as_arguments() -> None:
    env = {
        "GUARDRAIL_UPSTREAM": "http://10.0.0.1:8000/v1",
        "GUARDRAIL_LISTEN": "127.0.0.1:1",
        "GUARDRAIL_ADMIN_LISTEN": "127.0.0.1:2",
        "GUARDRAIL_PUBLIC_URL": "https://ai.example.com",
        "GUARDRAIL_PROFILE": "eu_2026",
        "GUARDRAIL_STATE_DIR": "/var/lib/guardrail",
        "GUARDRAIL_KEYS_DIR": "/etc/guardrail/keys",
        "GUARDRAIL_DATABASE_URL": "postgresql://db/guardrail",
    }
    settings = load(env=env)
    assert settings.upstream.url == "http://10.0.0.1:8000/v1"
    assert (settings.server.listen, settings.server.admin_listen) == ("127.0.0.1:1", "127.0.0.1:2")
    assert settings.server.public_url == "https://ai.example.com"
    assert settings.profile == "eu_2026"
    assert (settings.state_dir, settings.keys_dir) == (Path("/var/lib/guardrail"), Path("/etc/guardrail/keys"))
    assert settings.database_url == "postgresql://db/guardrail"
    assert load(upstream="http://a:1", listen="[::1]:80").server.address == Address("::1", 80)
    assert load(upstream={"url": "http://a:1"}) == load(upstream="http://a:1")
    assert load(**{"server.workers": 2}) == load(server__workers=2) == load(server={"workers": 2})


def test_an_argument_that_was_not_given_does_not_count() -> None:
    assert load(env={"GUARDRAIL_LISTEN": "127.0.0.1:1"}, listen=None, profile=None).server.listen == "127.0.0.1:1"


def test_numbers_truths_lists_and_tables_can_be_written_in_the_environment() -> None:
    env = {
        "GUARDRAIL_OBSERVE": "true",
        "GUARDRAIL_SERVER__TRUSTED_PROXIES": "10.0.0.0/8, ::1",
        "GUARDRAIL_PASSTHROUGH": '["GET /health"]',
        "GUARDRAIL_SANCTIONS__SUSPEND_SECONDS": "60,120",
        "GUARDRAIL_SANCTIONS__DAY_OFFSET": "28800",
        "GUARDRAIL_CLASSIFIER__DEADLINE": "2.5",
        "GUARDRAIL_CLASSIFIER__LABELS": '{"toxic": "insult", "neutral": ""}',
        "GUARDRAIL_TENANTS": f'[{{"id": "acme", "key_hashes": ["{HASH}"], "thresholds": {{"pii/email": 0.7}}}}]',
    }
    settings = load(env=env)
    assert settings.observe is True
    assert settings.server.trusted_proxies == ("10.0.0.0/8", "::1")
    assert settings.passthrough == ("GET /health",)
    assert settings.sanctions.suspend_seconds == (60.0, 120.0)
    assert settings.sanctions.day_offset == 28800
    assert settings.classifier.deadline == 2.5
    assert settings.classifier.labels == {"toxic": "insult", "neutral": ""}
    assert settings.tenants[0].thresholds == {"pii/email": 0.7}


def test_relative_paths_of_the_file_start_at_the_file_and_others_at_the_working_directory(
    write: Write, tmp_path: Path
) -> None:
    file = write('state_dir = "data"\n[policies]\ndirectories = ["rules", "/srv/rules"]\n')
    settings = load(file)
    assert settings.state_dir == tmp_path / "data"
    assert settings.keys_dir == tmp_path / "data/keys"
    assert settings.database_url == f"sqlite:///{tmp_path}/data/guardrail.db"
    assert settings.policies.directories == (tmp_path / "rules", Path("/srv/rules"))
    assert load(file, {"GUARDRAIL_STATE_DIR": "data"}).state_dir == Path("data")


def test_links_start_at_the_public_url_or_at_the_listener() -> None:
    assert load(listen="127.0.0.1:9").server.public_url == "http://127.0.0.1:9"
    assert load(public_url="https://ai.example.com/x").server.public_url == "https://ai.example.com/x"


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_an_upstream_is_the_same_with_and_without_v1(url: str) -> None:
    assert load(upstream=url).upstream.root == "http://h:1"


def test_a_tenants_terms_are_those_that_policies_read(write: Write) -> None:
    file = write(
        f'[[tenants]]\nid = "acme"\nkey_hashes = ["{HASH}"]\npolicies = ["pii"]\nthresholds = {{ "pii/email" = 0.7 }}\n'
        '[[tenants.exceptions]]\nrule = "pii/phone"\nuntil = 2027-01-31\nbecause = "A migration."\n'
    )
    terms = load(file).tenants[0].terms()
    assert terms.policies == {"pii"}
    assert terms.thresholds == {"pii/email": 0.7}
    assert terms.exceptions == {"pii/phone": date(2027, 1, 31)}


# -- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nworkers = 0\n", "server.workers: got 0; expected a whole number from 1 to 256"),
        ("[server]\nworkers = 2.5\n", "server.workers: got 2.5; expected a whole number from 1 to 256"),
        ('[server]\nworkers = "2"\n', 'server.workers: got "2"; expected a whole number from 1 to 256'),
        ("[server]\nworkers = true\n", "server.workers: got true; expected a whole number from 1 to 256"),
        ("[server]\nbody_timeout = 0\n", "server.body_timeout: got 0; expected a number above 0 and up to 86400"),
        ("observe = 1\n", "observe: got 1; expected true or false"),
        ('profile = "China 1"\n', 'profile: got "China 1"; expected neutral, eu_2026, cn_2026'),
        ('server = "x"\n', 'server: got "x"; expected a table'),
        ("[[server]]\n", "server: got a list; expected a table"),
        ('passthrough = "GET /"\n', 'passthrough: got "GET /"; expected a list, each a method and a path'),
        ('passthrough = ["/v1"]\n', 'passthrough[0]: got "/v1"; expected a method and a path'),
        ('[server]\nlisten = "8080"\n', 'server.listen: got "8080"; expected host:port'),
        ('[server]\nlisten = "127.0.0.1:70000"\n', 'server.listen: got "127.0.0.1:70000"; expected host:port'),
        ('[server]\ntrusted_proxies = ["10.0.0"]\n', 'server.trusted_proxies[0]: got "10.0.0"; expected an address'),
        ('[upstream]\nurl = "ftp://x"\n', 'upstream.url: got "ftp://x"; expected an http or https URL'),
        ('[upstream]\nurl = "http://x:y"\n', 'upstream.url: got "http://x:y"; expected an http or https URL'),
        ('[identity]\nheader = "X User"\n', 'identity.header: got "X User"; expected a header\'s name'),
        ('[provider]\ncode = "123"\n', 'provider.code: got "123"; expected 27 characters 0-9 and A-Z'),
        ('[classifier]\ndevice = "tpu"\n', 'classifier.device: got "tpu"; expected "auto", "cpu"'),
        ('state_dir = ""\n', 'state_dir: got ""; expected a path'),
        (
            "[sanctions]\nsuspend_seconds = []\n",
            "sanctions.suspend_seconds: got a list; expected a list, each a number",
        ),
        ('[[tenants]]\nid = "Acme Inc"\n', 'tenants[0].id: got "Acme Inc"; expected an id'),
        ("[[tenants]]\nkey_hashes = []\n", "tenants[0]: id is missing; expected an id of 1 to 64 letters"),
        (
            '[[tenants]]\nid = "a"\nthresholds = { "r" = 2 }\n',
            "tenants[0].thresholds.r: got 2; expected a number from 0",
        ),
        (
            '[[tenants]]\nid = "a"\n[[tenants.exceptions]]\nrule = "r"\nbecause = "b"\nuntil = "soon"\n',
            'tenants[0].exceptions[0].until: got "soon"; expected a date',
        ),
        ('[[upstreams]]\nid = "a"\nurl = "http://x"\n', "upstreams[0]: no paths and no models"),
    ],
)
def test_a_wrong_value_is_named_with_its_file_its_key_and_what_is_accepted(
    write: Write, text: str, message: str
) -> None:
    file = write(text)
    said = refusal(file)
    assert message in said
    assert said.startswith((f"{file}: ", "upstreams[0]"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nwokers = 2\n", "server.wokers: unknown key; the closest known key is server.workers"),
        ("[serve]\nworkers = 2\n", "serve: unknown key; the closest known key is server"),
        ('listen = "127.0.0.1:1"\n', "listen: unknown key; there is server.listen"),
        (
            '[[tenants]]\nid = "a"\npolicy = ["x"]\n',
            "tenants[0].policy: unknown key; the closest known key is tenants[0].policies",
        ),
        ("[keywords]\nzzz = 1\n", "keywords.zzz: unknown key; expected keywords.enabled"),
        ("secrets = {}\n", "secrets: unknown key"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_an_error_that_names_the_closest_known_one(write: Write, text: str, message: str) -> None:
    file = write(text)
    assert refusal(file).startswith(f"{file}: {message}")


def test_a_wrong_variable_is_named_as_it_is_spelled() -> None:
    assert refusal(env={"GUARDRAIL_SERVER__WORKERS": "many"}) == (
        'environment: GUARDRAIL_SERVER__WORKERS: got "many"; expected a whole number from 1 to 256'
    )
    assert refusal(env={"GUARDRAIL_CLASSIFIER__LABELS": "toxic"}) == (
        'environment: GUARDRAIL_CLASSIFIER__LABELS: got "toxic"; expected a table of names, each with a string'
    )
    assert refusal(env={"GUARDRAIL_LISTEN": "x"}).startswith('environment: GUARDRAIL_LISTEN: got "x"; expected host')
    assert refusal(env={"GUARDRAIL_SERVER__TRUSTED_PROXIES": "10.0.0.1,x"}).startswith(
        'environment: GUARDRAIL_SERVER__TRUSTED_PROXIES[1]: got "x"; expected an address'
    )
    assert refusal(env={"GUARDRAIL_SEVER__WORKERS": "2"}) == (
        "environment: GUARDRAIL_SEVER__WORKERS: unknown variable; the closest known one is GUARDRAIL_SERVER__WORKERS"
    )
    assert "GUARDRAIL_PROFILE" in refusal(env={"GUARDRAIL_PROFLE": "neutral"})
    assert "says the same" in refusal(
        env={"GUARDRAIL_LISTEN": "127.0.0.1:1", "GUARDRAIL_SERVER__LISTEN": "127.0.0.1:2"}
    )


def test_a_wrong_argument_is_named() -> None:
    assert refusal(server={"workers": 0}).startswith("arguments: server.workers: got 0; expected")
    assert refusal(workers=2).startswith("arguments: workers: unknown key; there is server.workers")


def test_variables_that_are_not_settings_are_left_alone() -> None:
    env = {
        "GUARDRAIL_PORT": "tcp://10.0.0.1:8080",
        "GUARDRAIL_SERVICE_HOST": "10.0.0.1",
        "GUARDRAIL_SERVICE_PORT_HTTP": "8080",
        "GUARDRAIL_PORT_8080_TCP_ADDR": "10.0.0.1",
        "GUARDRAIL_ADMIN_SERVICE_HOST": "10.0.0.1",
        "GUARDRAIL_TEST_ALL": "1",
        "GUARDRAIL_INTERNAL_SOCKET": "3",
        "PATH": "/bin",
    }
    assert load(env=env) == load()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[server\n", "expected a settings file in TOML"),
        (b"observe = true\nobserve = false\n", "expected a settings file in TOML"),
        (b"profile = '\xff'\n", "expected a settings file in TOML"),
    ],
)
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "guardrail.toml"
    file.write_bytes(content)
    said = refusal(file)
    assert said.startswith(f"{file}: ")
    assert message in said


def test_a_file_that_is_named_and_not_there_is_an_error(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "x.toml")
    assert "no such file" in refusal(env={"GUARDRAIL_CONFIG": str(tmp_path / "x.toml")})
    assert "expected a settings file" in refusal(tmp_path)


# -- secrets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "variable"),
    [
        ('[upstream]\napi_key = "sk-hush"\n', "GUARDRAIL_UPSTREAM_API_KEY"),
        ('upstream_api_key = "sk-hush"\n', "GUARDRAIL_UPSTREAM_API_KEY"),
        ('[[upstreams]]\nid = "a"\nurl = "http://x"\napi_key = "sk-hush"\n', "GUARDRAIL_UPSTREAM_API_KEY"),
        ('admin_token = "sk-hush"\n', "GUARDRAIL_ADMIN_TOKEN"),
        ('[identity]\nsecret = "sk-hush"\n', "GUARDRAIL_IDENTITY_SECRET"),
        ('[[tenants]]\nid = "a"\nkeys = ["sk-hush"]\n', "key_hashes"),
        ('[[tenants]]\nid = "a"\nkey_hashes = ["sk-hush"]\n', "SHA-256"),
        ('[upstream]\nurl = "http://u:sk-hush@x"\n', "without user"),
    ],
)
def test_a_secret_in_the_file_is_refused_with_the_reason(write: Write, text: str, variable: str) -> None:
    said = refusal(write(text))
    assert variable in said
    assert "sk-hush" not in said


def test_secrets_come_from_the_environment_or_a_file_it_names_and_are_not_shown(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-from-file\n")
    settings = load(
        env={
            "GUARDRAIL_UPSTREAM_API_KEY_FILE": str(tmp_path / "key"),
            "GUARDRAIL_IDENTITY_SECRET": "s" * 32,
            "GUARDRAIL_ADMIN_TOKEN": "tok-abc",
        }
    )
    assert settings.secrets.upstream_api_key == "sk-from-file"
    assert settings.secrets.identity_secret == "s" * 32
    assert admin_token(settings) == "tok-abc"
    assert not any(secret in repr(settings) for secret in ("sk-from-file", "s" * 32, "tok-abc"))


def test_an_upstream_may_have_a_key_of_its_own(write: Write) -> None:
    file = write('[[upstreams]]\nid = "big-one"\nurl = "http://x"\nmodels = ["big-*"]\n')
    env = {"GUARDRAIL_UPSTREAM_API_KEY": "sk-all", "GUARDRAIL_UPSTREAM_API_KEY__BIG_ONE": "sk-big"}
    secrets = load(file, env).secrets
    assert (secrets.key_for(), secrets.key_for("big-one"), secrets.key_for("other")) == ("sk-all", "sk-big", "sk-all")
    assert "GUARDRAIL_UPSTREAM_API_KEY__BIG_ONE" in refusal(file, {"GUARDRAIL_UPSTREAM_API_KEY__BIG": "x"})


def test_a_secret_that_cannot_serve_is_refused_and_not_shown(tmp_path: Path) -> None:
    assert "at least 32" in refusal(env={"GUARDRAIL_IDENTITY_SECRET": "short-one"})
    assert "short-one" not in refusal(env={"GUARDRAIL_IDENTITY_SECRET": "short-one"})
    assert "no header can carry" in refusal(env={"GUARDRAIL_UPSTREAM_API_KEY": "sk-\u94a5"})
    assert "one of the two" in refusal(
        env={"GUARDRAIL_ADMIN_TOKEN": "a", "GUARDRAIL_ADMIN_TOKEN_FILE": str(tmp_path / "x")}
    )
    assert "expected a text file" in refusal(env={"GUARDRAIL_ADMIN_TOKEN_FILE": str(tmp_path / "x")})
    (tmp_path / "empty").touch()
    assert "expected the secret" in refusal(env={"GUARDRAIL_ADMIN_TOKEN_FILE": str(tmp_path / "empty")})


def test_the_admin_token_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    settings = load(state_dir=tmp_path / "state")
    token = admin_token(settings)
    file = tmp_path / "state/admin-token"
    assert len(token) >= 32
    assert admin_token(settings) == token == file.read_text().strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(tmp_path / "state") == ["admin-token"]
    file.write_text("\n")
    with pytest.raises(SettingsError, match="it is empty"):
        admin_token(settings)


def test_processes_that_start_together_agree_on_the_admin_token(tmp_path: Path) -> None:
    code = (
        "from guardrail.settings import Settings, admin_token; import sys\n"
        "print(admin_token(Settings.load(None, {}, {'state_dir': sys.argv[1]})))"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "s")], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert len({process.communicate(timeout=60)[0] for process in started}) == 1
    assert [process.returncode for process in started] == [0] * 4


# -- what must hold between keys ---------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["cn_2026", "cn_draft_2023"])
def test_a_chinese_profile_needs_a_provider(profile: str) -> None:
    assert refusal(profile=profile).startswith(f"provider.name: it is missing; profile {profile} expects [provider]")
    assert refusal(profile=profile, provider={"name": "Example"}).startswith("provider.code: it is missing")
    settings = load(profile=profile, provider={"name": "Example", "code": CODE})
    assert settings.regulated
    assert settings.labels.affix == "end"


def test_a_profile_that_is_not_there_is_refused_with_those_that_are() -> None:
    assert refusal(profile="china") == 'profile: got "china"; expected cn_2026, cn_draft_2023, eu_2026 or neutral'


def test_a_profile_may_be_the_operators_own_and_set_its_own_defaults(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/house.toml").write_text(
        'title = "House rules"\npolicies = ["pii"]\n[defaults]\naffix = "start"\nrequires_provider = true\n'
    )
    policies = {"directories": [str(tmp_path)]}
    assert refusal(profile="house", policies=policies).startswith("provider.name: it is missing; profile house")
    settings = load(profile="house", policies=policies, provider={"name": "Example", "code": CODE})
    assert settings.labels.affix == "start"
    assert settings.regulated
    assert not load().regulated


def test_a_key_of_the_operator_is_not_offered_to_the_world() -> None:
    env = {"GUARDRAIL_UPSTREAM_API_KEY": "sk-1"}
    said = refusal(env=env, listen="0.0.0.0:8080")
    assert said.startswith("server.listen: got 0.0.0.0:8080 with GUARDRAIL_UPSTREAM_API_KEY set and no [[tenants]]")
    assert load(env=env, listen="127.0.0.1:8080")
    assert load(env=env, listen="0.0.0.0:8080", tenants=[{"id": "a", "key_hashes": [HASH]}])
    assert load(listen="0.0.0.0:8080")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"listen": "127.0.0.1:1", "admin_listen": "127.0.0.1:1"}, "server.admin_listen: got 127.0.0.1:1"),
        ({"tenants": [{"id": "a"}, {"id": "a"}]}, "tenants[].id: got a twice"),
        (
            {"tenants": [{"id": "a", "key_hashes": [HASH]}, {"id": "b", "key_hashes": [HASH]}]},
            "tenants[].key_hashes: got one twice",
        ),
        ({"sanctions": {"limit_row": 4}}, "sanctions: a milder step needs more strikes than a harder one"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(overrides: dict[str, Any], message: str) -> None:
    assert refusal(**overrides).startswith(message)


def test_two_listeners_may_both_ask_for_any_free_port() -> None:
    assert load(listen="127.0.0.1:0", admin_listen="127.0.0.1:0")


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("localhost.example.com:1", False),
    ],
)
def test_only_a_loopback_address_is_one(text: str, loopback: bool) -> None:
    address = parse_address(text)
    assert address.loopback is loopback
    assert str(address) == text


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        load().server.workers = 2  # type: ignore[misc]


def test_the_example_file_loads_and_shows_the_defaults() -> None:
    example = ROOT / "deploy/guardrail.example.toml"
    shipped = load(example)
    kept = {"state_dir": Path("state"), "keys_dir": Path("state/keys"), "database_url": load().database_url}
    assert msgspec.structs.replace(shipped, **kept) == load()


def test_importing_the_package_loads_nothing_dear() -> None:
    dear = {"torch", "transformers", "presidio_analyzer", "aiohttp", "sqlalchemy", "prometheus_client"}
    code = f"import sys, guardrail; guardrail.Settings; print(sorted({dear!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

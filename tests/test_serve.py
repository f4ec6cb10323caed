"""`guardrail serve` as processes: its listeners, its workers, how it ends, and what keeps it from starting."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import httpx
import psutil
import pytest

from guardrail.records.keys import Keyring
from guardrail.resources import models_dir
from tests.conftest import Needs
from tests.e2e.upstream import Say, Upstream, script
from tests.house import BLOCKED, POLICY, REDACTED, Running, run, serve, write_policy, write_settings

BOTH = pytest.mark.parametrize("workers", ["1", "2"])
Start = Callable[..., Running]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    server.start()
    yield server
    server.stop()


@contextlib.contextmanager
def ending(running: list[Running]) -> Iterator[None]:
    """End what was started and still runs, workers included."""
    try:
        yield
    finally:
        for one in running:
            for process in [*family(one), one.process]:
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                    process.kill()
            one.process.wait()


def family(running: Running) -> list[psutil.Process]:
    """The processes that a supervisor has started, in that order."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return sorted(psutil.Process(running.process.pid).children(), key=lambda child: child.create_time())
    return []


def proxies(running: Running) -> list[psutil.Process]:
    return [child for child in family(running) if "proxy" in child.cmdline()]


@pytest.fixture
def start(tmp_path: Path, upstream: Upstream) -> Iterator[Start]:
    """Start a process of the test's own in front of the test upstream; it need not be ready yet."""
    started: list[Running] = []

    def begin(*arguments: str, home: Path = tmp_path, more: str = "", top: str = "", **env: str) -> Running:
        home.mkdir(exist_ok=True)
        write_settings(home, more, top=top)
        started.append(serve(home, "--upstream", upstream.url, *arguments, **env))
        return started[-1]

    with ending(started):
        yield begin


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[dict[str, Running]]:
    """By number of workers a process that the tests below share; they leave it as they found it."""
    started: dict[str, Running] = {}
    with ending(list(started.values())):
        for workers in ("1", "2"):
            home = tmp_path_factory.mktemp(f"serve-{workers}")
            write_settings(home)
            started[workers] = serve(home, "--upstream", upstream.url, "--workers", workers)
        for running in started.values():
            running.ready()
        yield started
        for running in started.values():
            running.terminate()
        for running in started.values():
            assert running.wait() == 0, running.log
            assert "Traceback" not in running.log


# -- listeners -----------------------------------------------------------------------------------------------------


@BOTH
def test_both_listeners_say_that_it_lives_and_is_ready(workers: str, fleet: dict[str, Running]) -> None:
    running = fleet[workers]
    for base in (running.url, running.admin):
        assert httpx.get(f"{base}/livez").status_code == 200
        ready = httpx.get(f"{base}/readyz")
        assert (ready.status_code, ready.json()["ready"], ready.json()["draining"]) == (200, True, False)
    assert f"guardrail: public     {running.url}" in running.log


@BOTH
def test_nothing_of_the_operators_listener_answers_on_the_public_one(workers: str, fleet: dict[str, Running]) -> None:
    running = fleet[workers]
    host = running.url.removeprefix("http://")
    for target in (
        "/metrics", "/metrics/", "//metrics", "/%6detrics", "/console", "/console/", "/console/login", "/api",
        "/api/incidents", "/guardrail/metrics", "/guardrail/console", "/guardrail/../metrics", "/livez/../metrics",
        "/v1/models/../../metrics", "/guardrail/%2e%2e/metrics",
    ):  # fmt: skip
        connection = http.client.HTTPConnection(host, timeout=10)
        connection.putrequest("GET", target, skip_host=True)
        connection.putheader("host", running.admin.removeprefix("http://"))
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        assert answer.status == 404, target
        assert b"guardrail_requests_total" not in body, target
    for path in ("/v1/chat/completions", "/guardrail/screen"):
        assert httpx.post(f"{running.admin}{path}", json={}).status_code in (404, 405)


@BOTH
def test_the_operators_token_is_made_for_its_owner_alone_and_opens_screening(
    workers: str, fleet: dict[str, Running]
) -> None:
    running = fleet[workers]
    file = running.home / "state" / "admin-token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    question = {"text": f"a {REDACTED} b"}
    url = f"{running.url}/guardrail/screen"
    for wrong in ({}, {"authorization": "Bearer no"}, {"authorization": f"Basic {file.read_text().strip()}"}):
        assert httpx.post(url, json=question, headers=wrong).status_code == 401
    answer = httpx.post(url, json=question, headers={"authorization": f"Bearer {file.read_text().strip()}"})
    assert (answer.status_code, answer.json()["text"]) == (200, "a [removed] b")
    unknown = httpx.post(
        url, json={**question, "policies": ["nope"]}, headers={"authorization": f"Bearer {file.read_text().strip()}"}
    )
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (422, "unknown_policy")


def test_every_private_file_is_its_owners_alone(fleet: dict[str, Running]) -> None:
    state = fleet["2"].home / "state"
    found = {path.name for path in state.rglob("*") if path.is_file()}
    assert {"admin-token", "guardrail.db", "seal.key", "subject.key"} <= found
    for path in state.rglob("*"):
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


@BOTH
def test_what_all_workers_count_is_added_up(workers: str, fleet: dict[str, Running]) -> None:
    running = fleet[workers]
    name, labels = "guardrail_requests_total", {"surface": "openai_chat", "outcome": "allowed"}
    before = running.metric(name, **labels)
    servers = set()
    for _ in range(2 if workers == "1" else 8):
        for pid in both_sides(running):
            servers.add(pid)
    asked = 2 if workers == "1" else 16
    assert running.counts(before + asked, name, **labels)
    assert len(servers) == int(workers)


def both_sides(running: Running) -> list[int]:
    """Ask once of each worker (which one takes a connection is the kernel's whim: all others are stopped
    meanwhile); their process ids."""
    workers = proxies(running)
    for chosen in workers:
        with alone(running, chosen):
            assert running.ask("hello").status_code == 200
    if not workers:
        assert running.ask("hello").status_code == 200
    return [worker.pid for worker in workers] or [running.process.pid]


@contextlib.contextmanager
def alone(running: Running, chosen: psutil.Process) -> Iterator[None]:
    """While this lasts, new connections are taken by one worker only."""
    others = [worker for worker in proxies(running) if worker.pid != chosen.pid]
    for other in others:
        other.suspend()
    try:
        yield
    finally:
        for other in others:
            other.resume()


# -- several workers -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs() -> Iterator[list[Running]]:
    started: list[Running] = []
    with ending(started):
        yield started


@pytest.fixture
def pair(pairs: list[Running], upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Running:
    """Two workers, for tests that do something to them: whoever ends it leaves the next one a new pair."""
    if not pairs or pairs[-1].process.poll() is not None:
        home = tmp_path_factory.mktemp("pair")
        write_settings(home, "[sanctions]\nlimit_interval = 0.1")
        pairs.append(serve(home, "--upstream", upstream.url, "--workers", "2").ready())
    time.sleep(0.3)  # what the test before has asked is counted a moment after its answer
    return pairs[-1]


def test_a_suspension_by_one_worker_holds_on_the_other_within_a_second(pair: Running) -> None:
    one, two = proxies(pair)
    with alone(pair, one):
        for _ in range(3):
            assert pair.ask(BLOCKED, "sk-culprit").status_code == 400
            time.sleep(0.15)
        assert pair.ask("hello", "sk-culprit").status_code == 403
        assert pair.ask("hello", "sk-other").status_code == 200
    time.sleep(1)
    with alone(pair, two):
        answer = pair.ask("hello", "sk-culprit")
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "account_suspended")
        assert pair.ask("hello", "sk-other").status_code == 200


def test_a_worker_that_is_killed_is_replaced_and_nothing_that_was_counted_is_lost(pair: Running) -> None:
    name, labels = "guardrail_requests_total", {"surface": "openai_chat", "outcome": "allowed"}
    before = pair.metric(name, **labels)
    victim, other = proxies(pair)
    both_sides(pair)
    for _ in range(5):
        with alone(pair, victim):
            pair.ask("hello")
    assert pair.counts(before + 7, name, **labels)
    victim.kill()
    assert pair.ask("hello").status_code == 200, "the other one serves"
    assert pair.counts(before + 8, name, **labels)
    until = time.monotonic() + 30
    while len(proxies(pair)) < 2 or httpx.get(f"{pair.admin}/readyz").json()["workers_ready"] < 2:
        assert time.monotonic() < until, pair.log
        time.sleep(0.1)
    fresh = [worker for worker in proxies(pair) if worker.pid not in (victim.pid, other.pid)]
    assert len(fresh) == 1
    with alone(pair, fresh[0]):
        assert pair.ask("hello").status_code == 200
    assert pair.counts(before + 9, name, **labels)
    assert f"proxy process {victim.pid} ended with -9" in pair.log


def test_workers_end_when_their_supervisor_is_killed(pair: Running) -> None:
    children = family(pair)
    assert len(children) == 2
    pair.process.kill()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{pair.url}/livez")


CLASSIFIED = """

[[rule]]
id = "insult"
detector = "classifier"
label = "insult"
category = "house-insult"
action = "block"
"""


@pytest.mark.slow
def test_workers_share_one_classifier_over_a_unix_socket(start: Start, tmp_path: Path, needs: Needs) -> None:
    needs("the shipped model guard-zh-en", (models_dir() / "guard-zh-en" / "model.toml").is_file())
    write_policy(tmp_path, policy=POLICY + CLASSIFIED)
    running = start(
        "--workers", "2", GUARDRAIL_CLASSIFIER__ENABLED="true", GUARDRAIL_CLASSIFIER__THREADS="1",
        GUARDRAIL_CLASSIFIER__DEVICE="cpu",
    ).ready(120)  # fmt: skip
    children = family(running)
    [classifier] = [child for child in children if "classifier" in child.cmdline()]
    assert len(children) == 3
    both_sides(running)
    assert running.counts(2, "guardrail_detector_seconds_count", detector="classifier", phase="prompt")
    assert running.metric("guardrail_batch_tokens_count") >= 2, "its own numbers are among the workers'"
    for worker in proxies(running):
        assert "torch" not in Path(f"/proc/{worker.pid}/maps").read_text(), "a worker loads no model of its own"

    classifier.kill()
    answer = running.ask("what no worker has a verdict of yet")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "screening_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert httpx.get(f"{running.admin}/readyz").status_code == 503
    running.ready(60)
    both_sides(running)


# -- the end -------------------------------------------------------------------------------------------------------


class Listening(threading.Thread):
    """A client that reads a slow stream: its text so far, whether it came whole, and the error that ended it."""

    def __init__(self, running: Running, words: int, pause: float) -> None:
        super().__init__(daemon=True)
        say = script(Say(" ".join(map(str, range(words)))), pause=pause)
        self._body = {"model": "m", "messages": [{"role": "user", "content": "count"}], "stream": True, **say}
        self._url = f"{running.url}/v1/chat/completions"
        self.begun = threading.Event()
        self.text = ""
        self.error = ""
        self.whole = False
        self.start()

    def run(self) -> None:
        with contextlib.suppress(httpx.TransportError), httpx.stream("POST", self._url, json=self._body) as answer:
            for line in answer.iter_lines():
                if line == "data: [DONE]":
                    self.whole = True
                elif line.startswith("data: "):
                    event = json.loads(line[6:])
                    self.error = event.get("error", {}).get("code", "")
                    for choice in event.get("choices", []):
                        self.text += choice["delta"].get("content") or ""
                        self.begun.set()


def refuses(url: str) -> bool:
    """Whether new connections are turned away."""
    host, _, port = url.removeprefix("http://").partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


@BOTH
def test_on_sigterm_readiness_falls_streams_finish_and_nobody_new_comes_in(workers: str, start: Start) -> None:
    running = start("--workers", workers).ready()
    children = family(running)
    client = Listening(running, words=30, pause=0.08)
    assert client.begun.wait(10)
    began = time.monotonic()
    running.terminate()
    while not refuses(running.url):
        assert time.monotonic() < began + 1.5, "new connections are still taken"
        time.sleep(0.02)
    state = httpx.get(f"{running.admin}/readyz")
    assert (state.status_code, state.json()["draining"]) == (503, True)
    assert "guardrail_degraded" in httpx.get(f"{running.admin}/metrics").text
    assert not client.whole, "the stream must still be running for this test to say anything"
    client.join(20)
    assert client.whole
    assert client.text.split() == [str(number) for number in range(30)]
    assert running.wait(15) == 0, running.log
    assert not any(child.is_running() for child in children)
    assert "Traceback" not in running.log
    assert " ERROR " not in running.log
    with contextlib.closing(sqlite3.connect(running.home / "state" / "guardrail.db")) as database:
        assert database.execute("select outcome from decisions").fetchall() == [("allowed",)]


@BOTH
def test_an_answer_that_outlasts_the_drain_is_ended_and_its_client_told(
    workers: str, start: Start, upstream: Upstream
) -> None:
    running = start("--workers", workers, GUARDRAIL_SERVER__DRAIN_SECONDS="1").ready()
    client = Listening(running, words=600, pause=0.1)
    assert client.begun.wait(10)
    told: list[httpx.Response] = []
    plain = threading.Thread(target=lambda: told.append(running.ask("hi", model="slow")))
    plain.start()
    while upstream.last.json["model"] != "slow":
        time.sleep(0.02)
    stream = next(request for request in reversed(upstream.received) if b'"stream"' in request.body)
    began = time.monotonic()
    running.terminate()
    assert running.wait(10) == 0, running.log
    assert 0.8 < time.monotonic() - began < 6
    client.join(5)
    plain.join(5)
    assert client.text
    assert client.error == "upstream_unavailable"
    assert not client.whole, "a stream that was ended must not look complete"
    assert (told[0].status_code, told[0].json()["error"]["code"]) == (502, "upstream_unavailable")
    assert stream.left.wait(5), "the upstream is let go"
    assert "Traceback" not in running.log
    with contextlib.closing(sqlite3.connect(running.home / "state" / "guardrail.db")) as database:
        outcomes = database.execute("select outcome, completion_length > 0 from decisions order by streamed").fetchall()
    assert outcomes == [("upstream_unavailable", 0), ("upstream_unavailable", 1)]


def test_an_interrupt_ends_it_like_sigterm_and_nothing_of_the_workers_folder_stays(
    start: Start, tmp_path: Path
) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    running = start("--workers", "2", TMPDIR=str(scratch)).ready()
    assert list(scratch.iterdir())
    running.process.send_signal(signal.SIGINT)
    assert running.wait(10) == 0, running.log
    assert list(scratch.iterdir()) == []


# -- what keeps it from starting -------------------------------------------------------------------------------------


def hashed(key: str) -> str:
    return sha256(key.encode()).hexdigest()


def port_taken(home: Path) -> dict[str, str]:
    return {"GUARDRAIL_LISTEN": f"127.0.0.1:{_TAKEN.getsockname()[1]}"}


def admin_port_taken(home: Path) -> dict[str, str]:
    return {"GUARDRAIL_ADMIN_LISTEN": f"127.0.0.1:{_TAKEN.getsockname()[1]}"}


def unknown_key(home: Path) -> dict[str, str]:
    write_settings(home, "[sever]\nlisten = 1")
    return {}


def bad_value(home: Path) -> dict[str, str]:
    return {"GUARDRAIL_SERVER__WORKERS": "two"}


def no_policy_directory(home: Path) -> dict[str, str]:
    return {"GUARDRAIL_PROFILE": "neutral", "GUARDRAIL_POLICIES__DIRECTORIES": str(home / "nowhere")}


def broken_policy(home: Path) -> dict[str, str]:
    write_policy(home, policy='id = "house"\ntitle = "T"\n[[rule]]\nid = "x"\ndetector = "keywords"\naction = "blok"\n')
    return {}


def corrupt_key(home: Path) -> dict[str, str]:
    Keyring.open(home / "state" / "keys")
    (home / "state" / "keys" / "digest.key").write_text("not hexadecimal\n")
    return {}


def altered_model(home: Path) -> dict[str, str]:
    folder = home / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"other weights")
    card = (
        'id = "m"\ntitle = "M"\n[labels.unsafe]\ncategory = "unsafe"\n[[file]]\nname = "model.safetensors"\nsize = 13\n'
    )
    (folder / "model.toml").write_text(f'{card}sha256 = "{hashed("these weights")}"\n')
    return {"GUARDRAIL_CLASSIFIER__ENABLED": "true", "GUARDRAIL_CLASSIFIER__MODEL": str(folder)}


def database_of_text(home: Path) -> dict[str, str]:
    (home / "text.db").write_text("nothing that SQLite knows, though long enough to be looked at\n" * 30)
    return {"GUARDRAIL_DATABASE_URL": f"sqlite:///{home / 'text.db'}"}


def open_proxy(home: Path) -> dict[str, str]:
    return {"GUARDRAIL_UPSTREAM_API_KEY": "sk-operator", "GUARDRAIL_LISTEN": "0.0.0.0:0"}


def unnamed_provider(home: Path) -> dict[str, str]:
    return {"GUARDRAIL_PROFILE": "cn_2026"}


CAUSES: dict[Callable[[Path], dict[str, str]], str] = {
    port_taken: "cannot listen on 127.0.0.1",
    admin_port_taken: "cannot listen on 127.0.0.1",
    unknown_key: "guardrail.toml: sever: unknown key; the closest known key is server",
    bad_value: "GUARDRAIL_SERVER__WORKERS",
    no_policy_directory: "nowhere",
    broken_policy: 'rule "x": action is "blok"',
    corrupt_key: "digest.key: not a key",
    altered_model: "model.safetensors: altered",
    database_of_text: "text.db: cannot be used",
    open_proxy: "anybody could spend that key",
    unnamed_provider: "provider.name: it is missing",
}
_TAKEN = socket.create_server(("127.0.0.1", 0))


@pytest.mark.parametrize(
    ("cause", "workers"),
    [(cause, "1") for cause in CAUSES] + [(cause, "2") for cause in (port_taken, corrupt_key, altered_model)],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_what_keeps_it_from_starting_is_said_in_one_line_and_ends_with_2(
    cause: Callable[[Path], dict[str, str]], workers: str, tmp_path: Path
) -> None:
    write_settings(tmp_path)
    env = {"GUARDRAIL_LISTEN": "127.0.0.1:0", "GUARDRAIL_ADMIN_LISTEN": "127.0.0.1:0", **cause(tmp_path)}
    env = {"GUARDRAIL_SERVER__WORKERS": workers, **env}
    ended = run(tmp_path, "serve", **env)
    assert ended.returncode == 2, ended.stderr
    [line] = ended.stderr.strip().splitlines()
    assert line.startswith("guardrail: ")
    assert CAUSES[cause] in line
    assert ended.stdout == ""


# -- observing -----------------------------------------------------------------------------------------------------


def test_observing_blocks_nothing_and_counts_what_it_would_have_done(start: Start, upstream: Upstream) -> None:
    running = start("--observe").ready()
    for _ in range(4):
        answer = running.ask(f"a {BLOCKED} and a {REDACTED}")
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"] == f"a {BLOCKED} and a {REDACTED}"
        assert answer.headers["guardrail-action"] == "allow"
    assert "observe mode: nothing is enforced" in running.log
    assert running.counts(8, "guardrail_rule_matches_total", rule="house/block", mode="observe")  # both ways
    assert running.counts(8, "guardrail_rule_matches_total", rule="house/redact", mode="observe")
    assert running.counts(0, "guardrail_rule_matches_total", mode="enforce")
    assert running.counts(4, "guardrail_requests_total", outcome="allowed")
    assert running.counts(0, "guardrail_sanctions")
    running.terminate()
    assert running.wait() == 0
    with contextlib.closing(sqlite3.connect(running.home / "state" / "guardrail.db")) as database:
        assert database.execute("select count(*) from incidents").fetchone()[0] > 0, "what would have been is on record"
        assert database.execute("select count(*) from ledger").fetchone() == (0,)


# -- keys, tenants and routes --------------------------------------------------------------------------------------


def test_the_operators_key_is_spent_for_tenants_alone_and_theirs_stay_here(start: Start, upstream: Upstream) -> None:
    tenants = f"""
        passthrough = ["GET /v1/models", "POST /v1/moderations"]
        [[tenants]]
        id = "acme"
        key_hashes = ["{hashed("sk-acme-1")}", "{hashed("sk-acme-2")}"]
        [[upstreams]]
        id = "second"
        url = "{upstream.url}"
        models = ["second-*"]
    """
    head, _, rest = tenants.partition("\n        [[")
    running = start(
        top=head.strip(), more="[[" + rest, GUARDRAIL_UPSTREAM_API_KEY="sk-operator",
        GUARDRAIL_UPSTREAM_API_KEY__SECOND="sk-second",
    ).ready()  # fmt: skip
    before = len(upstream.received)
    for headers in ({}, {"authorization": "Bearer sk-stranger"}, {"authorization": ""}, {"x-api-key": "sk-operator"}):
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        refused = httpx.post(f"{running.url}/v1/chat/completions", json=body, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        for method, path in (("GET", "/v1/models"), ("POST", "/v1/moderations")):
            refused = httpx.request(method, f"{running.url}{path}", headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key"), path
    assert len(upstream.received) == before, "nothing was spent on a stranger"

    for headers in ({"authorization": "Bearer sk-acme-1"}, {"x-api-key": "sk-acme-2"}):
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        assert httpx.post(f"{running.url}/v1/chat/completions", json=body, headers=headers).status_code == 200
        assert upstream.last.headers["authorization"] == "Bearer sk-operator"
        assert "sk-acme" not in json.dumps(upstream.last.headers)
        assert httpx.get(f"{running.url}/v1/models", headers=headers).status_code == 200
        assert upstream.last.headers["authorization"] == "Bearer sk-operator"
    assert running.ask("hi", "sk-acme-1", model="second-1").status_code == 200
    assert upstream.last.headers["authorization"] == "Bearer sk-second"
    assert httpx.options(f"{running.url}/v1/chat/completions").status_code != 401, "browsers send no key with OPTIONS"
    for secret in ("sk-operator", "sk-second", "sk-acme"):
        assert secret not in running.log
    environ = Path(f"/proc/{running.process.pid}/cmdline").read_bytes()
    assert b"sk-" not in environ


@BOTH
def test_without_a_key_of_the_operators_the_clients_own_goes_on_unchanged(
    workers: str, fleet: dict[str, Running], upstream: Upstream
) -> None:
    running = fleet[workers]
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    for headers in ({"authorization": "Bearer sk-mine"}, {"x-api-key": "mine"}, {"authorization": "Basic eA=="}, {}):
        assert httpx.post(f"{running.url}/v1/chat/completions", json=body, headers=headers).status_code == 200
        kept = {name: upstream.last.headers.get(name) for name in ("authorization", "x-api-key")}
        assert kept == {"authorization": None, "x-api-key": None} | headers


def test_requests_go_where_their_path_or_model_says(start: Start, upstream: Upstream) -> None:
    routes = ""
    others = {}
    for name, by in (("paths", 'paths = ["/v1/models/local-*"]'), ("models", 'models = ["local-*"]')):
        others[name] = Upstream()
        others[name].start()
        routes += f'[[upstreams]]\nid = "{name}"\nurl = "{others[name].url}/"\n{by}\n'
    running = start(more=routes).ready()
    served = {"default": upstream, **others}

    def taken() -> str:
        [name] = [name for name, server in served.items() if len(server.received) > before[name]]
        return name

    for ask, expected in (
        (lambda: running.ask("hi", model="gpt"), "default"),
        (lambda: running.ask("hi", model="local-7b"), "models"),
        (lambda: running.ask("hi", model="not-local-7b"), "default"),
        (lambda: httpx.get(f"{running.url}/v1/models"), "default"),
        (lambda: httpx.get(f"{running.url}/v1/models/local-7b"), "paths"),
    ):
        before = {name: len(server.received) for name, server in served.items()}
        assert ask().status_code == 200
        assert taken() == expected
    assert others["models"].last.path == "/v1/chat/completions"
    assert running.counts(2, "guardrail_bypassed_total", reason="passthrough")
    for server in others.values():
        server.stop()


# -- a database that is away ---------------------------------------------------------------------------------------


CHOICES = {"cached": (403, 200), "block": (503, 503), "allow": (200, 200)}
"""For each `on_store_error` what a suspended and an unknown subject get while the database cannot be written."""


@pytest.fixture
def locked(start: Start, tmp_path: Path) -> Iterator[dict[str, tuple[Running, sqlite3.Connection]]]:
    """By choice a process that knows a suspended subject, whose database another process has just locked."""
    more = "[sanctions]\nlimit_interval = 0.05"
    begun = {choice: start(home=tmp_path / choice, more=more, GUARDRAIL_ON_STORE_ERROR=choice) for choice in CHOICES}
    held: dict[str, tuple[Running, sqlite3.Connection]] = {}
    for choice, running in begun.items():
        running.ready()
        for _ in range(3):
            assert running.ask(BLOCKED, "sk-culprit").status_code == 400
            time.sleep(0.06)
        assert running.ask("hello", "sk-culprit").status_code == 403
        lock = sqlite3.connect(running.home / "state" / "guardrail.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        held[choice] = running, lock
    yield held
    for _, lock in held.values():
        lock.close()


def test_when_the_database_is_away_on_store_error_decides_who_is_served(
    locked: dict[str, tuple[Running, sqlite3.Connection]],
) -> None:
    refused: dict[str, str] = {}

    def notice(choice: str, running: Running) -> None:
        # A refusal is what first finds out: it waits for the lock, then goes to the journal and keeps its id.
        answer = running.ask(f"hello {BLOCKED}", "sk-first")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "content_filter")
        refused[choice] = answer.headers["guardrail-incident"]

    threads = [threading.Thread(target=notice, args=(choice, held[0])) for choice, held in locked.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert refused.keys() == CHOICES.keys()

    for choice, (running, _) in locked.items():
        known, unknown = CHOICES[choice]
        assert running.ask("hello", "sk-culprit").status_code == known, choice
        answer = running.ask("hello", "sk-stranger")
        assert answer.status_code == unknown, choice
        if unknown == 503:
            assert answer.json()["error"]["code"] == "screening_unavailable"
            assert running.metric("guardrail_failed_closed_total", reason="store") > 0
        assert list((running.home / "state").glob("journal-*.jsonl")), "what was refused is on the disk"
    for choice in ("cached", "allow"):
        running = locked[choice][0]
        assert running.ask(BLOCKED, "sk-second").status_code == 400, "whoever is served is screened"
        assert running.ask("hello", "sk-second").status_code == 200

    # The journal cannot be written either: a refusal that nobody could ever look up is not given.
    running, _ = locked["cached"]
    state = running.home / "state"
    for journal in state.glob("journal-*.jsonl"):
        limit_file_size(running.process.pid, journal.stat().st_size)
    answer = running.ask(BLOCKED, "sk-third")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "screening_unavailable")
    cut = running.ask("hello", "sk-fourth", stream=True, **script(Say(f"one {BLOCKED} two")))
    assert "marmalade" not in cut.text
    assert cut.text.count("screening_unavailable") == 1
    assert "[DONE]" not in cut.text
    assert running.ask("hello", "sk-fourth").status_code == 200
    limit_file_size(running.process.pid, None)

    for _, lock in locked.values():
        lock.rollback()
    for choice, (running, _) in locked.items():
        until = time.monotonic() + 10
        while list((running.home / "state").glob("journal-*.jsonl")):
            assert time.monotonic() < until, running.log
            time.sleep(0.1)
        with contextlib.closing(sqlite3.connect(running.home / "state" / "guardrail.db")) as database:
            found = database.execute("select count(*) from incidents where id = ?", (refused[choice],)).fetchone()
        assert found == (1,), "the journal is in the database"
        assert running.ask("hello", "sk-culprit").status_code == 403
        assert running.ask("hello", "sk-stranger").status_code == 200


def limit_file_size(pid: int, size: int | None) -> None:
    """Keep a process from making files larger than `size` bytes: as if the disk were full."""
    import resource

    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY if size is None else size, hard))

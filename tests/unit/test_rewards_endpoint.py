"""Rewards behind an endpoint, asked of a local server that behaves and misbehaves; nothing leaves this machine."""

import email.utils
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import moa
from moa.ahead import local
from moa.errors import MoaError
from moa.experiment import schema
from moa.experiment.endpoint import LIMITS, LIMITS_VARIABLE, Endpoint
from moa.plan import Plan
from moa.rewards import asking, endpoint, scoring
from moa.rewards.answers import Answers

KEY = "sk-very-secret"
Reply = Callable[[BaseHTTPRequestHandler, str], None]


def send(handler: BaseHTTPRequestHandler, content: bytes, status: int = 200, **headers: str) -> None:
    """Send a reply; `headers` stand for their names with '_' for '-'."""
    handler.send_response(status)
    for name, value in {"Content_Length": str(len(content)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(content)


def completion(text: str | None, reason: str = "stop") -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}, "finish_reason": reason}]}).encode()


def says(text: str | None, reason: str = "stop") -> Reply:
    return lambda handler, asked: send(handler, completion(text, reason))


def fails(status: int, message: str = "no", **headers: str) -> Reply:
    content = json.dumps({"error": {"message": message}}).encode()
    return lambda handler, asked: send(handler, content, status, **headers)


def counts(handler: BaseHTTPRequestHandler, asked: str) -> None:
    """Answer with how many letters stand after the last colon of what is asked."""
    send(handler, completion(f"Score: {len(asked.rpartition(':')[2].strip())}"))


class Server(ThreadingHTTPServer):
    """Replies in order, the last one for ever; keeps what it is asked.

    Attributes:
        replies: what is sent.
        asked: texts of the user's messages.
        requests: path, headers and body of each request.
        most: requests that were there at the same time.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[Reply] = [counts]
        self.asked: list[str] = []
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(body["messages"][0]["content"])
            self.server.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            reply = self.server.replies.pop(0) if len(self.server.replies) > 1 else self.server.replies[0]
            self.server.now += 1
            self.server.most = max(self.server.most, self.server.now)
        try:
            reply(self, self.server.asked[-1] if len(self.server.asked) == 1 else body["messages"][0]["content"])
        finally:
            with self.server.lock:
                self.server.now -= 1

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(asking, "FIRST_WAIT", 0.01)
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "MY_KEY"):
        monkeypatch.delenv(variable, raising=False)
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def declared(server: Server, **settings: object) -> Endpoint:
    defaults = {"url": f"http://127.0.0.1:{server.server_port}/v1", "model": "judge", "low": 0, "high": 10}
    template = "To {prompt} somebody says: {response}"
    return Endpoint.model_validate(
        {"kind": "endpoint", "template": template, "pattern": r"(\d+)", "timeout": 5, "retries": 2}
        | defaults
        | settings
    )


def ask(spec: Endpoint, *responses: str) -> list[float]:
    scorer = scoring.load("judge", spec, [])
    return scoring.score("judge", scorer, ["hi"] * len(responses), list(responses), None).values.tolist()


def test_it_asks_once_and_a_rerun_asks_nothing(server: Server) -> None:
    """Five responses, one of them twice and one blank: three requests, and 'abc' is worth its 3 letters."""
    spec = declared(server)
    assert ask(spec, "abc", "a", "abc", " ", "abcde") == [3, 1, 3, 0, 5]
    assert sorted(server.asked) == [f"To hi somebody says: {text}" for text in ("a", "abc", "abcde")]
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions" and (body["model"], body["temperature"], body["max_tokens"]) == (
        "judge",
        0,
        64,
    )
    assert "authorization" not in headers
    assert ask(spec, "abcde", "abc", "a") == [5, 3, 1] and len(server.asked) == 3
    looser = declared(server, pattern=r"Score: (\d)", requests=3, timeout=1)
    assert ask(looser, "abc") == [3] and len(server.asked) == 3, "another rule reads the same answers"
    assert ask(declared(server, model="other"), "abc") == [3] and len(server.asked) == 4, "another model is asked"
    assert scoring.bounds(spec) == (0, 10)


def test_no_more_are_asked_at_a_time_than_declared(server: Server) -> None:
    def slowly(handler: BaseHTTPRequestHandler, asked: str) -> None:
        time.sleep(0.05)
        counts(handler, asked)

    server.replies = [slowly]
    assert ask(declared(server, concurrency=3), *["a" * n for n in range(1, 10)]) == list(range(1, 10))
    assert 1 < server.most <= 3


def slow(handler: BaseHTTPRequestHandler, asked: str) -> None:
    time.sleep(1)


def drips(handler: BaseHTTPRequestHandler, asked: str) -> None:
    """Send a byte now and then: no read takes long, the whole takes for ever."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(20):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def cut(handler: BaseHTTPRequestHandler, asked: str) -> None:
    send(handler, completion("7")[:-5])


def hangs_up(handler: BaseHTTPRequestHandler, asked: str) -> None:
    send(handler, completion("7")[:-5], Content_Length="500")
    handler.close_connection = True


def huge(handler: BaseHTTPRequestHandler, asked: str) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" " * 2**17)


TRANSIENT = {
    "slow": (slow, r"no whole answer within 0.3 s"),
    "drips": (drips, r"no whole answer within 0.3 s"),
    "429": (fails(429, "slow down"), r"HTTP 429: slow down"),
    "500": (fails(500, "oops"), r"HTTP 500: oops"),
    "503": (lambda handler, asked: send(handler, b"<html>busy</html>", 503), r"HTTP 503: <html>busy</html>"),
    "cut": (cut, r"JSON that is cut off or none: \{\"choices\""),
    "hangs up": (hangs_up, r"RemoteProtocolError: peer closed connection"),
}


@pytest.mark.parametrize("which", TRANSIENT)
def test_what_may_pass_is_tried_again(server: Server, which: str) -> None:
    """Two failures and then an answer are three requests; three failures end in a line that names what came."""
    reply, message = TRANSIENT[which]
    spec = declared(server, timeout=0.3 if which in ("slow", "drips") else 5)
    server.replies = [reply, reply, counts]
    assert ask(spec, "abc") == [3] and len(server.asked) == 3
    server.replies = [reply]
    with pytest.raises(
        MoaError, match=rf"reward judge: http://127.0.0.1:\d+/v1 did not answer \({message}.*, after 3 t"
    ):
        ask(spec, "abcd")
    assert len(server.asked) == 6 and ask(spec, "abc") == [3], "what was answered is kept"


FINAL = {
    "400": (fails(400, "no such model"), r"did not answer \(HTTP 400: no such model\)"),
    "401": (fails(401, f"wrong key {KEY}"), r"did not answer \(HTTP 401: wrong key \*\*\*\)"),
    "redirect": (
        fails(307, Location="http://127.0.0.2:1/v1"),
        r"HTTP 307, a redirect to 127.0.0.2:1, which is not fol",
    ),
    "huge": (huge, r"it sends more than 1048576 bytes"),
    "empty": (lambda handler, asked: send(handler, b"{}"), r"no chat completion with a text: \{\}"),
    "list": (lambda handler, asked: send(handler, b"[1]"), r"no chat completion with a text: \[1\]"),
    "null": (says(None), r"no chat completion with a text"),
    "later": (fails(429, "quota", Retry_After="3600"), r"HTTP 429: quota; it asks to be left alone for 3600 s"),
    "no number": (
        says("Good!"),
        r"no number in the answer 'Good!' to response 'abc' by pattern '\(\\\\d\+\)'; correct",
    ),
    "too long": (says("Well,", "length"), r"'abc', which was cut off at max_tokens 64, by pattern"),
    "too large": (says("11"), r"number 11 in the answer '11' to response 'abc' is outside of \[0, 10\]"),
}


@pytest.mark.parametrize("which", FINAL)
def test_what_does_not_pass_ends_at_once_in_one_line_without_the_key(
    server: Server, which: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    reply, message = FINAL[which]
    server.replies = [counts, reply]
    spec = declared(server, api_key_env="MY_KEY", concurrency=1)
    assert ask(spec, "ab") == [2]
    with pytest.raises(MoaError, match=f"^reward judge: .*{message}") as found:
        ask(spec, "abc")
    assert len(server.asked) == 2 and "\n" not in str(found.value) and "kept" in str(found.value)
    assert server.requests[0][1]["authorization"] == f"Bearer {KEY}"
    written = [path.read_text() for path in Path(".moa").rglob("*") if path.is_file()]
    assert not [text for text in [str(found.value), caplog.text, *written] if KEY in text], "the key is nowhere"
    assert ask(spec, "ab") == [2] and len(server.asked) == 2


def test_an_answer_without_a_number_is_asked_again_once_its_file_is_gone(server: Server) -> None:
    spec = declared(server)
    server.replies = [says("Good!"), says("8")]
    for _ in range(2):  # it is read again, not asked again
        with pytest.raises(MoaError, match="or delete .*json to ask it again") as found:
            ask(spec, "abc")
    assert len(server.asked) == 1
    Path(str(found.value).partition("delete ")[2].partition(" to ask")[0]).unlink()
    assert ask(spec, "abc") == [8]


def test_a_damaged_answer_is_named(server: Server) -> None:
    spec = declared(server)
    ask(spec, "abc")
    (path,) = Path(".moa/answers").glob("*/*.json")
    path.write_text('{"answer": "4')
    with pytest.raises(MoaError, match=r"\.moa/answers/\w+/\w+\.json: not readable as an answer .*delete it"):
        ask(spec, "abc")
    path.write_text('{"answer": 4}')
    with pytest.raises(MoaError, match="not an answer, its keys are answer; delete it"):
        ask(spec, "abc")


def test_an_endpoint_is_left_alone_as_long_as_it_asks(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """0 s at once; a date, which is written to the second, two seconds ahead is a wait of 1 to 2 s."""
    assert asking._wait(None) is None and asking._wait("soon") is None and asking._wait("7") == 7
    assert 1 <= asking._wait(email.utils.formatdate(time.time() + 2.5, usegmt=True)) <= 2.5  # type: ignore[operator]
    assert asking._wait(email.utils.formatdate(0, usegmt=True)) == 0
    waits: list[float] = []

    async def noted(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(asking.asyncio, "sleep", noted)
    monkeypatch.setattr(asking, "FIRST_WAIT", 1.0)
    monkeypatch.setattr(asking, "LONGEST_WAIT", 3.0)
    server.replies = [fails(429, Retry_After="5"), fails(500), fails(500), fails(500), counts]
    assert ask(declared(server, retries=4), "abc") == [3]
    assert waits == [5, 2, 3, 3]  # what it asks for; then 2, 4 and 8 seconds, of which 3 are the most


def test_requests_are_bounded_over_all_jobs_and_what_was_answered_is_kept(server: Server) -> None:
    """Failures count: two answers and a failed try are the three that are allowed; a second job has none left."""
    spec = declared(server, requests=3, concurrency=1)
    server.replies = [counts, counts, fails(500), counts]
    message = "reward judge: 3 requests were made, and rewards.judge.requests allows no more; raise it and run"
    with pytest.raises(MoaError, match=message):
        ask(spec, "a", "ab", "abc")
    with pytest.raises(MoaError, match=message):
        ask(spec, "a", "abc")
    assert len(server.asked) == 3
    assert ask(declared(server, requests=4, concurrency=1), "a", "ab", "abc") == [1, 2, 3] and len(server.asked) == 4


JOB = """
import sys
from moa.experiment.rewards import Endpoint
from moa.rewards import scoring
scorer = scoring.load("judge", Endpoint.model_validate_json(sys.argv[1]), [])
print(scorer.score(["hi"] * 8, ["a" * n for n in range(1, 9)]).values.tolist())
"""


def test_jobs_that_run_at_once_count_every_request_and_keep_whole_answers(server: Server) -> None:
    spec = declared(server, requests=1000)
    command = [sys.executable, "-c", JOB, spec.model_dump_json()]
    environment = {**os.environ, "PYTHONPATH": str(Path(moa.__file__).parents[1])}
    jobs = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [json.loads(job.communicate()[0]) for job in jobs] == [list(range(1, 9))] * 2
    kept = Answers(spec.url, spec.model, spec.template, "64").folder
    assert len(list(kept.glob("*.json"))) == 8 and len((kept / "requests").read_text()) == len(server.asked) >= 8
    assert not list(kept.glob(".*")), "nothing half written is left"


def test_an_endpoint_that_is_down_is_named(server: Server) -> None:
    spec = declared(server)
    ask(spec, "abc")
    gone = spec.model_copy(update={"url": "http://127.0.0.1:9/v1"})
    with pytest.raises(
        MoaError, match=r"http://127.0.0.1:9/v1 did not answer \(ConnectError: .*, after 3 tries\); see"
    ):
        ask(gone, "abc")


def experiment(spec: Endpoint) -> Plan:
    rewards = {"mood": {"kind": "vader"}, "short": {"kind": "conciseness"}, "judge": spec.model_dump()}
    return Plan(
        schema.parse(
            {
                "task": "mine",
                "run": {"methods": ["reference"], "seeds": [0]},
                "data": {"source": "embedded"},
                "model": {"source": "scratch", "scratch": {}, "sft": {}},
                "objectives": {"mood": {"reward": "mood", "judge": "judge"}, "short": {"reward": "short"}},
                "rewards": rewards,
            }
        ),
        "mine.yaml",
    )


def test_a_run_without_network_or_key_is_refused_before_it_begins_and_nothing_is_asked(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = declared(server, api_key_env="MY_KEY")
    away = here.model_copy(update={"url": "https://api.example.com/v1"})
    assert local.mistakes(experiment(here)) == [
        "rewards.judge.api_key_env: no environment variable MY_KEY; export it with the endpoint's key"
    ]
    monkeypatch.setenv("MY_KEY", "two\nlines")
    (found,) = local.mistakes(experiment(here))
    assert "what MY_KEY holds is no key" in found and "two" not in found
    monkeypatch.setenv("MY_KEY", KEY)
    assert local.mistakes(experiment(here)) == local.mistakes(experiment(away)) == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert local.mistakes(experiment(here)) == []
    (found,) = local.mistakes(experiment(away))
    assert found.startswith("rewards.judge: HF_HUB_OFFLINE is set, so the run is offline, and kind endpoint asks https")
    assert server.asked == []
    assert isinstance(endpoint.load("judge", here, [], None), endpoint.EndpointScorer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "Is it good?"}, "a template must hold {response}"),
        ({"pattern": r"\d+"}, r"pattern '\\\\d\+' has 0 groups; give one"),
        ({"pattern": r"(\d+)(/10)?"}, "has 2 groups"),
        ({"pattern": "("}, r"is no regular expression: missing \)"),
        ({"low": 10}, r"high \(10\) must be above low \(10\)"),
        ({"url": "ftp://x/v1"}, "url"),
        ({"url": f"https://{KEY}@x/v1"}, "url"),
        ({"url": f"https://x/v1?key={KEY}"}, "url"),
        ({"url": "https://x:99999/v1"}, "Port out of range"),
        ({"url": "http://x/v1", "api_key_env": "MY_KEY"}, "http://x/v1 would carry the key in the open"),
        ({"api_key_env": "sk-1"}, "api_key_env"),
        ({"requests": 0}, "requests"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_the_schema(server: Server, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        declared(server, **settings)


def test_how_it_is_asked_reruns_nothing_and_reaches_the_jobs(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sections of two experiments are the same; only what their jobs find in the environment differs."""
    monkeypatch.setenv(LIMITS_VARIABLE, "{}")
    changed = {"requests": 7, "concurrency": 2, "timeout": 9, "retries": 0, "api_key_env": "MY_KEY"}
    one, other = experiment(declared(server)), experiment(declared(server, **changed))
    assert set(changed) == set(LIMITS) and one.scoring(judges=True) == other.scoring(judges=True)
    assert one.scoring(judges=True) != experiment(declared(server, model="x")).scoring(judges=True)
    monkeypatch.setenv("MY_KEY", KEY)
    endpoint.export(other.endpoints())
    assert KEY not in os.environ[LIMITS_VARIABLE]
    loaded = scoring.load("judge", other.scoring(judges=True).rewards["judge"], [])
    assert isinstance(loaded, endpoint.EndpointScorer) and loaded.spec == declared(server, **changed)
    assert scoring.score("judge", loaded, ["hi"], ["abc"], None).values.tolist() == [3]
    assert server.requests[0][1]["authorization"] == f"Bearer {KEY}"

"""One bad answer costs one answer, whatever its shape: kept as it came, counted, and no other is lost or paid twice."""

import copy
import gzip
import json
import random
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.answers import Answers
from catalog.errors import EndpointRefused, InputError
from scoring.client.chat import ChatClient
from scoring.client.language_client import Answer, LLMError, Sending
from scoring.client.response import Completion, completion, error_in, read_json, tokens_in, whole
from tests.scoring.chat_server import Endpoint, Reply

GOOD = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 0,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "fine", "refusal": None, "reasoning_content": None},
        }
    ],
    "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
}
KEY = "sk-secret-0123456789"


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Answers]:
    monkeypatch.setenv("SAEQL_CONFIG", str(tmp_path / "config"))
    with Answers(tmp_path / "answers.sqlite") as answers:
        yield answers


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def said(content: Any = "fine", **more: Any) -> dict[str, Any]:
    """The good response with another content, or other keys: those of its message, its choice, else its own."""
    found = copy.deepcopy(GOOD)
    choice: dict[str, Any] = found["choices"][0]  # type: ignore[index, assignment]
    choice["message"]["content"] = content
    for name, value in more.items():
        place = found if name in found else choice if name in choice else choice["message"]
        place[name] = value
    return found


def client(endpoint: Endpoint, answers: Answers, **options: Any) -> ChatClient:
    own = {name: options.pop(name) for name in ("api_key", "budget") if name in options}
    sending = Sending(**{"max_retries": 0, "timeout": 5.0, **options})
    return ChatClient("m", endpoint.url, answers=answers, sending=sending, **own)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
        (["a", {"text": "b"}], "ab"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "no"}]}, {"type": "text", "text": "yes"}], "yes"),
        ([{"type": "reasoning", "text": "no"}, {"type": "output_text", "text": "yes"}], "yes"),
        ([{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "yes"}], "yes"),
        ({"type": "text", "text": "a"}, "a"),
        ("a\ud83db", "a\ufffdb"),
        ([{"text": "\ud83d"}, {"text": "\ude00"}], "😀"),
        ("nul \0 and \u202e", "nul \0 and \u202e"),
    ],
)
def test_a_text_in_another_shape_is_an_answer_and_paid_once(
    endpoint: Endpoint, answers: Answers, content: Any, text: str
) -> None:
    endpoint.answer = lambda n, body: Reply(body=json.dumps(said(content)))
    first = client(endpoint, answers).complete(asked("x"))
    again = client(endpoint, answers).complete(asked("x"))
    assert (first.text, again.text, again.stored, len(endpoint.requests)) == (text, text, True, 1)
    text.encode()


def test_half_a_surrogate_is_stored_as_it_came(endpoint: Endpoint, answers: Answers) -> None:
    endpoint.answer = lambda n, body: Reply(body=json.dumps(said("a\ud83d")))
    client(endpoint, answers).complete(asked("x"))
    request = '{"messages":[{"content":"x","role":"user"}],"model":"m","parameters":{}}'
    stored = answers.get(request)
    assert stored
    assert stored.text == "a\ud83d"


BAD: list[tuple[Any, str]] = [
    (said(None), "empty"),
    (said(None, reasoning_content="[EXPLANATION]: a draft"), "only thought"),
    (said(42), "a number, not text"),
    (said([1]), "a number among its parts"),
    (said([]), "empty"),
    (said({}), "empty"),
    (said(None, tool_calls=[{"type": "function"}]), "called a tool"),
    (said(None, refusal={"why": "no"}), "refused"),
    (said([{"type": "refusal", "refusal": "never"}]), "refused: never"),
    (said("x", finish_reason="length"), "cut off"),
    (said("x", finish_reason="content_filter"), "refused"),
    (said("x", message=None), "nothing in place of a message"),
    (said("x", message="hello"), "a text in place of a message"),
    (said("x", choices={"0": {}}), "no choices, but an object"),
    (said("x", choices=None), "no choices"),
    (said("x", choices=[]), "no choices"),
    (said("x", choices="x"), "no choices, but a text"),
    (said("x", choices=[None]), "nothing in place of a message"),
    (said("x", choices=[[1]]), "nothing in place of a message"),
    ([], "no choices"),
    (7, "no choices"),
    ("hello", "no choices"),
    (None, "no JSON"),
]


def test_each_bad_answer_costs_itself_alone_and_is_kept_as_it_came(endpoint: Endpoint, answers: Answers) -> None:
    bodies = [json.dumps(body) for body, _ in BAD]
    n = len(BAD)

    def answer(number: int, body: dict[str, Any]) -> Reply:
        i = int(body["messages"][0]["content"])
        return Reply(body=bodies[i]) if i < n else Reply(f"good {i}")

    endpoint.answer = answer
    chat = client(endpoint, answers, jobs=4)
    got = dict(chat.complete_many([asked(str(i)) for i in range(2 * n)]))
    for i, (body, reason) in enumerate(BAD):
        assert isinstance(got[i], LLMError), body
        assert reason in str(got[i])
    assert [got[i].text for i in range(n, 2 * n)] == [f"good {i}" for i in range(n, 2 * n)]  # type: ignore[union-attr]
    assert (len(answers), chat.spent.failed) == (n, n)
    assert sorted(body.decode() for _, body, _ in answers.unusable()) == sorted(bodies)


RAW: list[tuple[Reply, str]] = [
    (Reply(raw=b""), "no JSON"),
    (Reply(raw=b"<html><b>busy</b>"), "no JSON"),
    (Reply(raw=json.dumps(GOOD).encode()[:-9]), "no JSON"),
    (Reply(raw=json.dumps(GOOD).encode(), cut=True), "did not answer"),
    (Reply(raw=b"[" * 200_000), "no JSON"),
    (Reply(raw=b'{"choices": ' + b"9" * 5000 + b"}"), "no JSON"),
    (Reply(raw=b"\xff\xfe\xfd"), "no JSON"),
    (Reply(raw=b"data: {}\n\n", headers={"Content-Type": "text/event-stream"}), "no JSON"),
    (Reply(raw=b"zz\r\nnonsense", headers={"Transfer-Encoding": "chunked"}, cut=True), "did not answer"),
    (Reply(raw=b"\x1f\x8bnonsense", headers={"Content-Encoding": "gzip"}), "did not answer"),
    (Reply(raw=b"x", headers={"Content-Encoding": "zstd"}), "packed"),
    (Reply(raw=gzip.compress(b" " * 20_000_000), headers={"Content-Encoding": "gzip"}), "more than 8,388,608 bytes"),
    (Reply(raw=b" " * 9_000_000), "more than 8,388,608 bytes"),
    (Reply(raw=b" " * 9_000_000, status=500), "more than 8,388,608 bytes"),
    (Reply(status=204, raw=b""), "no JSON"),
    (Reply(status=418, raw=b"\xff"), "418"),
]


@pytest.mark.parametrize(("reply", "reason"), RAW)
def test_a_body_that_is_none_costs_itself_alone(
    endpoint: Endpoint, answers: Answers, reply: Reply, reason: str
) -> None:
    endpoint.answer = lambda n, body: reply if body["messages"][0]["content"] == "bad" else Reply("fine")
    got = dict(client(endpoint, answers, jobs=1).complete_many([asked("bad"), asked("good")]))
    assert isinstance(got[0], LLMError)
    assert reason in str(got[0])
    assert isinstance(got[1], Answer)
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize(
    "raw",
    [
        b"\xef\xbb\xbf" + json.dumps(GOOD).encode(),
        json.dumps(GOOD).encode("utf-16"),
        json.dumps(GOOD).replace("chatcmpl", "caf\xe9").encode("latin-1"),
    ],
)
def test_an_answer_in_another_encoding_or_type_is_an_answer(endpoint: Endpoint, answers: Answers, raw: bytes) -> None:
    endpoint.answer = lambda n, body: Reply(raw=raw, headers={"Content-Type": "text/html; charset=klingon"})
    assert client(endpoint, answers).complete(asked("x")) == Answer("fine", 11, 3, stored=False)


def test_an_answer_that_drips_ends_in_time(
    endpoint: Endpoint, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A clock on which every look takes a second: the drip's bytes come one by one within the time of a read.
    clock = iter(range(10_000))
    monkeypatch.setattr("scoring.client.transport.time", type("Clock", (), {"monotonic": lambda: next(clock)}))
    endpoint.answer = lambda n, body: Reply(raw=b" " * 5_000_000)
    with pytest.raises(LLMError, match="Timeout"):
        client(endpoint, answers, timeout=3.0).complete(asked("x"))


WRONG = [0, None, -5, 10**30, "x", True, 1.5, [], float("nan"), float("inf"), "9" * 5000, "-1", "\u0661", {}]


@pytest.mark.parametrize(
    ("value", "count"),
    [(11, 11), (11.0, 11), ("11", 11), *((wrong, 0) for wrong in WRONG)],
)
def test_a_count_of_tokens_is_a_number_within_reason(value: Any, count: int) -> None:
    assert tokens_in(value) == count
    assert completion(said(usage={"prompt_tokens": value})).prompt_tokens == count


@pytest.mark.parametrize("usage", ["many", None, [], 3, {"prompt_tokens": {"x": 1}}])
def test_a_usage_of_another_shape_counts_nothing(usage: Any) -> None:
    assert completion(said(usage=usage)) == Completion("fine")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "text", "message"]), inner),
    max_leaves=6,
)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_no_response_makes_an_error(data: st.DataObject) -> None:
    """The good response with one of its parts replaced, dropped or copied elsewhere."""
    body: Any = said()
    for _ in range(data.draw(st.integers(1, 2))):
        at, key = body, None
        parent: Any = None
        while isinstance(at, dict | list) and at and (key is None or data.draw(st.integers(0, 3))):
            parent, key = at, data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
            at = at[key]
        if parent is None:
            break
        if data.draw(st.booleans()):
            parent[key] = data.draw(_JSON)
        else:
            del parent[key]
    found = completion(body)
    assert (found.problem is None) == bool(found.text.strip())
    assert type(found.prompt_tokens) is type(found.completion_tokens) is int
    whole(found.text).encode()
    failure = error_in(body, data.draw(st.sampled_from([200, 400, 429, 500])))
    assert failure is None or 300 <= failure.status < 600
    error_in(data.draw(_JSON))


@given(st.binary(max_size=200))
@settings(max_examples=100)
def test_no_body_makes_an_error(noise: bytes) -> None:
    raw = json.dumps(GOOD).encode()
    completion(read_json(noise))
    completion(read_json(raw[:50] + noise + raw[50:]))


def test_forty_spoiled_bodies_cost_themselves_alone(endpoint: Endpoint, answers: Answers) -> None:
    chance = random.Random(0)
    raw = json.dumps(said("fine"), ensure_ascii=False).encode()
    spoiled = []
    for _ in range(40):
        at, n = chance.randrange(len(raw)), chance.randrange(1, 20)
        spoiled.append(raw[:at] + bytes(chance.randrange(256) for _ in range(n)) + raw[at + chance.randrange(20) :])

    def answer(number: int, body: dict[str, Any]) -> Reply:
        i = int(body["messages"][0]["content"])
        return Reply(raw=spoiled[i // 2]) if i % 2 else Reply(f"good {i}")

    endpoint.answer = answer
    chat = client(endpoint, answers, jobs=2)
    got = dict(chat.complete_many([asked(str(i)) for i in range(80)]))
    assert all(isinstance(got[i], Answer) for i in range(0, 80, 2))
    assert all(isinstance(got[i], Answer | LLMError) for i in range(80))
    assert chat.spent.failed == sum(isinstance(one, LLMError) for one in got.values()) > 8
    paid = len(endpoint.requests)
    assert len(answers) == 80 - chat.spent.failed
    list(client(endpoint, answers).complete_many([asked(str(i)) for i in range(0, 80, 2)]))
    assert len(endpoint.requests) == paid


ERRORS: list[tuple[Any, bool, str]] = [
    (
        {"error": {"message": "upstream rate limit exceeded", "code": 429}},
        True,
        "upstream rate limit exceeded (code 429)",
    ),
    ({"error": {"message": "x", "code": "503"}}, True, "x (code 503)"),
    ({"error": {"message": "Overloaded", "type": "overloaded_error"}}, True, "Overloaded"),
    ({"error": "model is overloaded, try again"}, True, "model is overloaded"),
    ([{"error": {"code": 429, "message": "slow", "status": "RESOURCE_EXHAUSTED"}}], True, "slow"),
    ({"object": "error", "message": "internal", "code": 500}, True, "internal"),
    (
        {"choices": [{"error": {"code": 502, "message": "bad gateway"}, "message": {"content": ""}}]},
        True,
        "bad gateway",
    ),
    ({"error": {"message": "no such model", "code": 404}}, False, "no such model"),
    ({"error": {"message": "rate limit is not a parameter", "code": 400}}, False, "not a parameter"),
    ({"error": {"message": "You are out", "code": "insufficient_quota"}}, False, "You are out"),
    ({"error": {"message": "insufficient_quota", "code": 429}}, False, "insufficient_quota"),
    ({"error": {"code": 7}}, False, '{"code": 7}'),
    ({"error": ["?"]}, False, '["?"]'),
    ({"detail": "Not Found"}, False, "Not Found"),
    ({"errors": [{"message": "bad key"}]}, False, "bad key"),
]


@pytest.mark.parametrize(("body", "again", "reason"), ERRORS)
def test_an_error_in_a_200_says_why_and_is_tried_again_if_it_passes(
    endpoint: Endpoint, answers: Answers, body: Any, again: bool, reason: str
) -> None:
    endpoint.answer = lambda n, _: Reply(body=json.dumps(body)) if n < 2 else Reply("at last")
    chat = client(endpoint, answers, max_retries=2)
    if again:
        assert chat.complete(asked("x")).text == "at last"
        assert len(endpoint.requests) == 3
        endpoint.answer = lambda n, _: Reply(body=json.dumps(body))
    with pytest.raises(LLMError) as caught:
        client(endpoint, answers).complete(asked("y"))
    assert reason in str(caught.value)
    assert len(endpoint.requests) == (4 if again else 1)
    assert chat.spent.failed == 0


def test_a_quota_that_is_spent_is_not_asked_for_again(endpoint: Endpoint, answers: Answers) -> None:
    body = '{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}'
    endpoint.answer = lambda n, _: Reply(status=429, body=body)
    with pytest.raises(LLMError, match="You exceeded your quota"):
        client(endpoint, answers, max_retries=3).complete(asked("x"))
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [("7", 7, 7), ("0.5", 0.5, 0.5), ("DATE", 7, 10), ("soon", 0, 0.1), ("-3", 0, 0.1), ("nan", 0, 0.1)],
)
def test_the_wait_is_as_long_as_the_endpoint_asks_for(
    endpoint: Endpoint, answers: Answers, monkeypatch: pytest.MonkeyPatch, header: str, least: float, most: float
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("openai._base_client.time", SimpleNamespace(sleep=waited.append, time=time.time))
    value = formatdate(time.time() + 10, usegmt=True) if header == "DATE" else header
    # In a 200 as well as with a status.
    for reply in (Reply(status=429, body="{}"), Reply(body='{"error": {"code": 429}}')):
        reply.headers["Retry-After"] = value
        endpoint.answer = lambda n, _, reply=reply: reply if n % 2 == 0 else Reply()  # type: ignore[misc]
        client(endpoint, answers, max_retries=1).complete(asked(reply.body or ""))
    assert len(waited) == 2
    assert all(least <= seconds <= most for seconds in waited)


def test_who_asks_for_hours_is_not_waited_for(endpoint: Endpoint, answers: Answers) -> None:
    endpoint.answer = lambda n, _: Reply(status=429, body="{}", headers={"Retry-After": "7200"})
    with pytest.raises(LLMError, match="429"):
        client(endpoint, answers, max_retries=5).complete(asked("x"))
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_nothing_follows_a_redirect(
    endpoint: Endpoint, answers: Answers, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    other = endpoint.url.replace("127.0.0.1", "localhost") + "/chat/completions"
    endpoint.answer = lambda n, _: Reply(status=status, raw=b"", headers={"Location": other})
    with pytest.raises(LLMError, match=f"{status} - it sends on to another address"):
        client(endpoint, answers, max_retries=2).complete(asked("private"))
    assert len(endpoint.requests) == 1


def test_this_machine_gets_no_key_and_no_account_that_was_not_allowed(
    endpoint: Endpoint, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    from catalog.trust.endpoints import allow_endpoint

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org")
    client(endpoint, answers).complete(asked("x"))
    assert endpoint.keys == ["Bearer no-key"]
    endpoint.answer = lambda n, _: Reply(status=401, body='{"error": {"message": "who are you"}}')
    with pytest.raises(
        LLMError, match=r"was not sent; to send it: saeql refresh --allow-endpoint http://127.0.0.1:\d+"
    ):
        client(endpoint, answers).complete(asked("y"))
    endpoint.answer = lambda n, _: Reply()
    allow_endpoint(endpoint.url)
    client(endpoint, answers).complete(asked("z"))
    assert endpoint.keys[2] == f"Bearer {KEY}"


def test_what_stays_on_this_machine_passes_no_proxy(
    endpoint: Endpoint, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert client(endpoint, answers).complete(asked("x")).text == "ok"


@pytest.mark.parametrize("url", ["http://llm.example/v1", "http://127.0.0.1.evil.com:1/v1", "https://llm.example"])
def test_nothing_is_sent_where_nobody_allowed_it(answers: Answers, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def connect(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr("socket.getaddrinfo", connect)
    chat = ChatClient("m", url, answers=answers)
    with pytest.raises(EndpointRefused, match="nothing was sent"):
        list(chat.complete_many([asked("private"), asked("more")]))
    with pytest.raises(InputError, match="holds an @"):
        ChatClient("m", "http://localhost@evil.com", answers=answers).complete(asked("x"))

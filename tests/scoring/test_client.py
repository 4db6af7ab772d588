"""The chat client against a real server: retries, limits, storing, secrecy."""

import logging
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from catalog.answers import Answers
from catalog.errors import CatalogError, InputError
from scoring.client.chat import ChatClient
from scoring.client.language_client import Answer, LLMError, Sending
from tests.scoring.chat_server import Endpoint, Reply

KEY = "sk-secret-0123456789"


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    return Answers(tmp_path / "answers.sqlite")


def client(endpoint: Endpoint, answers: Answers, **options: Any) -> ChatClient:
    own = {name: options.pop(name) for name in ("api_key", "budget") if name in options}
    sending = Sending(**{"max_retries": 3, "timeout": 5.0, **options})
    return ChatClient("m", endpoint.url, answers=answers, sending=sending, **own)


def test_an_answer_carries_text_tokens_and_cost(endpoint: Endpoint, answers: Answers) -> None:
    chat = client(endpoint, answers, prices=(2.0, 10.0))
    answer = chat.complete(asked("hello"), temperature=0)
    assert answer == Answer("ok", 11, 3, stored=False, cost=52e-6)
    assert endpoint.requests == [{"model": "m", "messages": asked("hello"), "temperature": 0}]
    assert endpoint.keys == ["Bearer no-key"]


def test_too_many_requests_is_tried_again(endpoint: Endpoint, answers: Answers) -> None:
    endpoint.answer = lambda n, body: (
        Reply(status=429, body='{"error": {"message": "slow down"}}') if n == 0 else Reply()
    )
    assert client(endpoint, answers).complete(asked("x")).text == "ok"
    assert len(endpoint.requests) == 2


def test_every_third_request_failing_loses_no_answer(endpoint: Endpoint, answers: Answers) -> None:
    endpoint.answer = lambda n, body: (
        Reply(status=500, body="broken") if n % 3 == 0 else Reply("to " + body["messages"][0]["content"])
    )
    chat = client(endpoint, answers, jobs=4, max_retries=8)
    got = dict(chat.complete_many([asked(str(i)) for i in range(30)]))
    assert {i: a.text for i, a in got.items() if isinstance(a, Answer)} == {i: f"to {i}" for i in range(30)}
    assert chat.spent.paid == len(answers) == 30


def test_one_failure_for_good_stops_no_other(endpoint: Endpoint, answers: Answers) -> None:
    endpoint.answer = lambda n, body: Reply(status=400, body="no") if body["messages"][0]["content"] == "2" else Reply()
    got = dict(client(endpoint, answers).complete_many([asked(str(i)) for i in range(5)]))
    assert [isinstance(got[i], LLMError) for i in range(5)] == [False, False, True, False, False]


def test_a_hanging_endpoint_times_out_with_a_reason(endpoint: Endpoint, answers: Answers) -> None:
    endpoint.answer = lambda n, body: Reply(delay=3)
    with pytest.raises(LLMError, match="Timeout"):
        client(endpoint, answers, timeout=0.2, max_retries=1).complete(asked("x"))
    assert len(endpoint.requests) == 2
    assert len(answers) == 0


def test_a_hang_is_survived_by_the_next_try(endpoint: Endpoint, answers: Answers) -> None:
    endpoint.answer = lambda n, body: Reply(delay=3 if n == 0 else 0)
    assert client(endpoint, answers, timeout=0.3).complete(asked("x")).text == "ok"


def test_nobody_listening_is_an_error_with_a_reason(answers: Answers) -> None:
    chat = ChatClient("m", "http://127.0.0.1:9/v1", answers=answers, sending=Sending(max_retries=0))
    with pytest.raises(LLMError, match="m did not answer: APIConnectionError"):
        chat.complete(asked("x"))


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply("half of", finish="length"), "cut off"),
        (Reply(""), "empty"),
        (Reply(" \n"), "empty"),
        (Reply(None), "empty"),
        (Reply("no", finish="content_filter"), "refused"),
        (Reply(None, refusal="I will not"), "refused: I will not"),
        (Reply(body='{"choices": []}'), "no choices"),
        (Reply(body='"hello"'), "no choices"),
        (Reply(body="<html>"), "m did not answer"),
    ],
)
def test_an_unusable_answer_is_a_problem_and_is_not_stored(
    endpoint: Endpoint, answers: Answers, reply: Reply, reason: str
) -> None:
    endpoint.answer = lambda n, body: reply
    with pytest.raises(LLMError, match=reason):
        client(endpoint, answers).complete(asked("x"))
    assert len(answers) == 0


def test_a_cut_off_answer_counts_what_it_cost(endpoint: Endpoint, answers: Answers) -> None:
    endpoint.answer = lambda n, body: Reply("half of", finish="length")
    chat = client(endpoint, answers, prices=(1e6, 0))
    with pytest.raises(LLMError) as caught:
        chat.complete(asked("x"))
    assert (caught.value.prompt_tokens, caught.value.completion_tokens, caught.value.cost) == (11, 3, 11.0)
    assert (chat.spent.paid, chat.spent.failed, chat.spent.cost) == (1, 1, 11.0)


def test_an_answer_without_usage_counts_no_tokens(endpoint: Endpoint, answers: Answers) -> None:
    endpoint.answer = lambda n, body: Reply(usage=None)
    assert client(endpoint, answers).complete(asked("x")).prompt_tokens == 0


def test_a_stored_answer_is_not_asked_again_by_a_new_client(endpoint: Endpoint, answers: Answers) -> None:
    client(endpoint, answers).complete(asked("x"), temperature=0)
    answers.close()
    chat = client(endpoint, Answers(answers.path))
    assert chat.complete(asked("x"), temperature=0).stored
    assert not chat.complete(asked("x"), temperature=1).stored
    assert len(endpoint.requests) == 2
    assert (chat.spent.paid, chat.spent.stored) == (1, 1)


def test_a_stored_answer_needs_neither_key_nor_network(endpoint: Endpoint, answers: Answers) -> None:
    client(endpoint, answers).complete(asked("x"))
    offline = ChatClient("m", answers=answers)
    assert offline.complete(asked("x")).text == "ok"
    with pytest.raises(LLMError, match="set OPENAI_API_KEY"):
        offline.complete(asked("y"))


def test_equal_conversations_are_paid_once(endpoint: Endpoint, answers: Answers) -> None:
    got = dict(client(endpoint, answers).complete_many([asked("x")] * 5))
    assert len(endpoint.requests) == 1
    assert sorted(got) == [0, 1, 2, 3, 4]


def test_jobs_requests_run_at_once_and_no_more(endpoint: Endpoint, answers: Answers) -> None:
    endpoint.answer = lambda n, body: Reply(delay=0.1)
    list(client(endpoint, answers, jobs=4).complete_many([asked(str(i)) for i in range(12)]))
    assert endpoint.most_at_once == 4


def test_stopping_early_drops_what_was_not_asked_yet(endpoint: Endpoint, answers: Answers) -> None:
    endpoint.answer = lambda n, body: Reply(delay=0.05)
    arriving = client(endpoint, answers, jobs=2).complete_many([asked(str(i)) for i in range(50)])
    next(arriving)
    arriving.close()  # type: ignore[attr-defined]
    assert len(endpoint.requests) < 10
    assert len(answers) == len(endpoint.requests)


def test_nothing_more_is_paid_for_once_an_answer_cannot_be_stored(endpoint: Endpoint, answers: Answers) -> None:
    endpoint.answer = lambda n, body: Reply(delay=0.05)
    chat = client(endpoint, answers, jobs=2)
    with sqlite3.connect(answers.path) as other:
        other.execute("CREATE TRIGGER full BEFORE INSERT ON answers BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    with pytest.raises(CatalogError, match=r"answers.sqlite failed: disk is full"):
        list(chat.complete_many([asked(str(i)) for i in range(50)]))
    assert len(endpoint.requests) <= 4
    assert chat.spent.paid == len(endpoint.requests)


def test_the_environment_names_endpoint_and_key(
    endpoint: Endpoint, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    ChatClient("m", answers=answers).complete(asked("x"))
    assert endpoint.keys == [f"Bearer {KEY}"]


def test_the_key_is_nowhere_in_errors_logs_or_the_store(
    endpoint: Endpoint, answers: Answers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    endpoint.answer = lambda n, body: (
        Reply() if n == 0 else Reply(status=401, body=f'{{"error": {{"message": "bad key {KEY}"}}}}')
    )
    chat = client(endpoint, answers, api_key=KEY)
    chat.complete(asked("x"))
    with pytest.raises(LLMError, match=r"bad key \*\*\*") as caught:
        chat.complete(asked("y"))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert KEY not in repr(chat) + caplog.text
    answers.close()
    assert all(KEY.encode() not in path.read_bytes() for path in answers.path.parent.iterdir())


def test_impossible_options_are_refused(answers: Answers) -> None:
    with pytest.raises(InputError, match="jobs=0"):
        ChatClient("m", answers=answers, sending=Sending(jobs=0))


def test_no_module_of_scoring_imports_torch_openai_or_lancedb() -> None:
    code = (
        "import sys\n"
        "from scoring import windows; from scoring.client import chat; from ingest.model import embed\n"
        "from scoring.explainers import lexical, llm; from scoring.prompts import parse, template\n"
        "from scoring.scorers import detection, lexical_detection\n"
        "sys.exit(','.join({'torch', 'openai', 'lancedb', 'transformers'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""An OpenAI-compatible server on 127.0.0.1 whose replies a test scripts."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass
class Reply:
    """What the server says: a completion, or a status with a text; `delay` in seconds goes before it."""

    content: str | None = "ok"
    finish: str = "stop"
    status: int = 200
    body: str | None = None
    delay: float = 0.0
    refusal: str | None = None
    usage: tuple[int, int] | None = (11, 3)
    raw: bytes | None = None
    """The body as it is, instead of `body`."""
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    """Whether the connection is closed before the body's end."""
    drop: bool = False
    """Whether the connection is closed without a word."""
    thought: str | None = None
    """`reasoning_content`, beside the content."""
    logprobs: list[dict[str, Any]] | None = None
    """Of the answer's tokens, as the API has them."""


@dataclass
class Endpoint:
    """`answer(request number, request body) -> Reply`; `requests` and `keys` are what arrived."""

    url: str = ""
    answer: Callable[[int, dict[str, Any]], Reply] = lambda number, body: Reply()
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def answer(number: int, body: dict[str, Any]) -> Reply:
    """A label for the Interpreter, a list for the Predictor: what the prompt asks for."""
    text = body["messages"][-1]["content"]
    if "[EXPLANATION]" in json.dumps(body["messages"][:-1]) and "Explanation" not in text.split("\n")[0]:
        return Reply(f"[EXPLANATION]: words about {len(text)} letters and {text[-20:]!r}")
    return Reply(str([i % 2 for i in range(text.count("Example "))]))


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    # The client's waits between tries, so that tests of its back-off do not take seconds.
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    with serving() as state:
        yield state


@contextmanager
def serving() -> Iterator[Endpoint]:
    """The server, for as long as the block runs."""
    state = Endpoint()
    under_way = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        """Head and body in one packet: else the second waits until the client has confirmed the first."""

        def do_POST(self) -> None:
            nonlocal under_way
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                number = len(state.requests)
                state.requests.append(body)
                state.keys.append(self.headers["Authorization"])
                state.paths.append(self.path)
                under_way += 1
                state.most_at_once = max(state.most_at_once, under_way)
            reply = state.answer(number, body)
            time.sleep(reply.delay)
            with state.lock:
                under_way -= 1
            if reply.drop:
                self.close_connection = True
                return
            self.send(reply, body["model"])

        def send(self, reply: Reply, model: str) -> None:
            message = {"role": "assistant", "content": reply.content, "refusal": reply.refusal}
            if reply.thought is not None:
                message["reasoning_content"] = reply.thought
            choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": reply.finish}
            if reply.logprobs is not None:
                choice["logprobs"] = {"content": reply.logprobs}
            completion: dict[str, Any] = {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 0,
                "model": model,
                "choices": [choice],
            }
            if reply.usage:
                prompt, done = reply.usage
                completion["usage"] = {
                    "prompt_tokens": prompt,
                    "completion_tokens": done,
                    "total_tokens": prompt + done,
                }
            raw = reply.raw
            if raw is None:
                raw = (json.dumps(completion) if reply.body is None else reply.body).encode()
            try:
                self.send_response(reply.status)
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                if "Transfer-Encoding" not in reply.headers:
                    self.send_header("Content-Length", str(len(raw) + 100 * reply.cut))
                self.end_headers()
                self.wfile.write(raw)
                self.wfile.flush()
                self.close_connection = self.close_connection or reply.cut
            except OSError:
                self.close_connection = True  # the client gave up waiting

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 128
        """Connections that wait to be accepted: many threads of a client come at once."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()

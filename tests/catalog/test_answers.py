"""Paid answers: kept at once, read by others, never replaced."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from catalog.answers import Answers, canonical_request, request_key
from catalog.errors import CatalogError

MESSAGES = [{"role": "user", "content": "wörd <<\u2028"}]


def put_many(path: Path, first: int) -> None:
    with Answers(path) as answers:
        for i in range(first, first + 50):
            request = canonical_request("m", {"seed": i}, MESSAGES)
            answers.put(request, f"from {first}", prompt_tokens=1, completion_tokens=1)


def test_an_answer_comes_back_as_it_was_put(tmp_path: Path) -> None:
    request = canonical_request("m", {"temperature": 0}, MESSAGES)
    with Answers(tmp_path / "a.sqlite") as answers:
        assert answers.get(request) is None
        put = answers.put(request, "text\n⏎", prompt_tokens=5, completion_tokens=2, cost=0.25)
    with Answers(tmp_path / "a.sqlite") as answers:
        got = answers.get(request)
        assert got == put
        assert (put.text, put.prompt_tokens, put.completion_tokens, put.cost) == ("text\n⏎", 5, 2, 0.25)
        assert len(answers) == 1


def test_the_first_answer_stays(tmp_path: Path) -> None:
    request = canonical_request("m", {}, MESSAGES)
    with Answers(tmp_path / "a.sqlite") as answers:
        answers.put(request, "first", prompt_tokens=1, completion_tokens=1)
        assert answers.put(request, "second", prompt_tokens=1, completion_tokens=1).text == "first"


def test_the_key_depends_on_all_of_the_request_and_on_no_order_of_names() -> None:
    keys = {
        request_key(canonical_request(model, parameters, messages))
        for model in ("m", "n")
        for parameters in ({}, {"temperature": 0}, {"temperature": 1})
        for messages in (MESSAGES, MESSAGES * 2)
    }
    assert len(keys) == 12
    assert canonical_request("m", {"a": 1, "b": 2}, MESSAGES) == canonical_request("m", {"b": 2, "a": 1}, MESSAGES)


def test_a_parameter_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(CatalogError, match="cannot be stored as JSON"):
        canonical_request("m", {"temperature": float("nan")}, MESSAGES)


def test_threads_share_one_store(tmp_path: Path) -> None:
    with Answers(tmp_path / "a.sqlite") as answers:
        requests = [canonical_request("m", {"seed": i % 40}, MESSAGES) for i in range(200)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda r: answers.put(r, "x", prompt_tokens=1, completion_tokens=1), requests))
        assert len(answers) == 40


def test_processes_share_one_file_from_its_creation_on(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=put_many, args=(path, first)) for first in (0, 25, 50, 75)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    with Answers(path) as answers:
        assert len(answers) == 125


def test_what_was_put_survives_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    code = (
        "import os, signal, sys\n"
        "from catalog.answers import Answers, canonical_request\n"
        "Answers(sys.argv[1]).put(canonical_request('m', {}, []), 'paid', prompt_tokens=1, completion_tokens=1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], env=dict(os.environ), check=False)
    assert done.returncode == -signal.SIGKILL
    with Answers(path) as answers:
        kept = answers.get(canonical_request("m", {}, []))
    assert kept is not None
    assert kept.text == "paid"


def test_the_store_syncs_every_commit(tmp_path: Path) -> None:
    with Answers(tmp_path / "a.sqlite") as answers:
        assert answers._run("PRAGMA synchronous") == [(2,)]
        assert answers._run("PRAGMA journal_mode") == [("wal",)]


def test_a_file_of_another_kind_or_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, but long enough to be read as one" * 20)
    with pytest.raises(CatalogError, match="cannot be used"):
        Answers(tmp_path / "text")
    with pytest.raises(CatalogError, match="cannot be opened"):
        Answers(tmp_path / "missing" / "a.sqlite")
    db = sqlite3.connect(tmp_path / "new.sqlite")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(CatalogError, match="version 99"):
        Answers(tmp_path / "new.sqlite")


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    answers = Answers(tmp_path / "a.sqlite")
    answers.close()
    with pytest.raises(CatalogError, match="closed"):
        answers.get("{}")

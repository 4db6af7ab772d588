"""Where a refresh sends text and key: nowhere that its user did not name, and a plan says so beforehand."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from catalog import Catalog
from catalog.answers import Answers
from catalog.errors import EndpointRefused
from catalog.study.file import Study
from catalog.study.tables import configuration_rows
from catalog.trust.endpoints import endpoint as endpoint_of
from catalog.trust.permissions import is_allowed
from queries.cli.main import main
from queries.refresh.engine import plan, refresh
from queries.refresh.explain import plan_rows, planned
from scoring.client.budget import Budget
from scoring.client.language_client import LLMError
from scoring.client.request import sampler
from scoring.kernels.counted_client import counted_client, read_settings
from tests.once import once
from tests.queries.made import explainer, scorer
from tests.queries.test_paid import STEPS, calls, configure, run, text_root
from tests.scoring.chat_server import Endpoint, Reply, answer, endpoint

__all__ = ["endpoint", "text_root"]

KEY = "sk-secret-0123456789"
EVIL = "https://evil.example/v1"
CONCEPT = '[[concept]]\nname = "algebra"\nwords = ["matrix", "linear system"]\nshortlist = 20\n'


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEQL_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hosts that a connection was made to, this machine's apart; none is let through."""
    import socket

    hosts: list[str] = []
    real = socket.getaddrinfo

    def asked(host: Any, *rest: Any, **more: Any) -> Any:
        if host in ("127.0.0.1", "localhost"):
            return real(host, *rest, **more)
        hosts.append(str(host))
        raise socket.gaierror(f"no {host}")

    monkeypatch.setattr("socket.getaddrinfo", asked)
    return hosts


@pytest.fixture(scope="module")
def ready_root(text_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made catalog that wants nothing but labels and what follows from them. Not to be written to."""

    def build(root: Path) -> None:
        shutil.copytree(text_root, root, dirs_exist_ok=True)
        with Catalog(root) as catalog:
            refresh(catalog, ("shortlist",))

    return once(tmp_path_factory, "ready", build)


@pytest.fixture
def paid(ready_root: Path, tmp_path: Path, endpoint: Endpoint) -> Iterator[Catalog]:
    """A catalog whose explainers a and b, and whose scorer, ask the endpoint."""
    endpoint.answer = answer
    with Catalog(shutil.copytree(ready_root, tmp_path / "paid")) as catalog:
        configure(catalog, endpoint)
        yield catalog


@pytest.fixture
def strange(ready_root: Path, tmp_path: Path) -> Path:
    """Somebody else's catalog: one explainer asks a host of theirs, the other one is lexical."""
    root = Path(shutil.copytree(ready_root, tmp_path / "strange"))
    with Catalog(root) as catalog, catalog.write("explainers") as tx:
        tx.execute("DELETE FROM lake.explainers")
        tx.execute("DELETE FROM lake.scorers")
        tx.insert("explainers", [explainer("evil", "openai", base_url=EVIL, retries=0), explainer("words")])
        tx.insert("scorers", [scorer("asks", "openai", examples=4, base_url="http://evil.example:8000", retries=0)])
    (root / "study.toml").write_text(study(EVIL))
    return root


def study(url: str, name: str = "llm", **more: str) -> str:
    keys = "".join(f"{key} = {value}\n" for key, value in more.items())
    section = f'[[explainer]]\nname = "{name}"\nprovider = "openai"\nmodel = "stub"\nbase_url = "{url}"\n{keys}'
    return f'name = "made"\n{section}{CONCEPT}'


def saeql(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments])


def test_a_strangers_catalog_sends_nothing_and_says_what_to_do(strange: Path, reached: list[str]) -> None:
    done = saeql("-C", strange, "refresh", "labels", "--json")
    assert done.exit_code == 1
    (row,) = [row for row in json.loads(done.stdout) if row["step"] == "labels"]
    assert row["state"] == "failed"
    assert "nothing was sent to https://evil.example:443, neither text nor key" in row["why"]
    assert "saeql refresh --allow-endpoint https://evil.example:443" in row["why"]
    assert reached == []
    assert KEY not in done.output
    with Catalog(strange, read_only=True) as catalog:
        # What needs nobody's permission is made, and no row stands for what was refused.
        assert {name for (name,) in catalog.rows("SELECT explainer FROM labels")} == {"words"}
        problems = {said for (said,) in catalog.rows("SELECT problem FROM labels WHERE problem IS NOT NULL")}
        assert all(said.startswith(("no short rule found", "it fires on nearly everything")) for said in problems)
    with Catalog(strange) as catalog:
        with catalog.write("explainers") as tx:
            tx.execute("DELETE FROM lake.explainers WHERE explainer = 'evil'")
        failed = {result.step: result.error for result in refresh(catalog, ("judgements",)) if result.error}
    assert isinstance(failed["judgements"], EndpointRefused)
    assert "http://evil.example:8000" in str(failed["judgements"])
    assert "plain http" in str(failed["judgements"])
    assert reached == []


def test_a_plan_names_host_and_model_of_every_step_that_would_call(strange: Path, reached: list[str]) -> None:
    done = saeql("-C", strange, "refresh", "--dry-run", "judgements")
    assert "labels asks stub at https://evil.example:443 (not allowed on this machine: --allow-" in done.stderr
    assert "judgements asks stub at http://evil.example:8000 (not allowed" in done.stderr
    rows = {row["step"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert rows["labels"]["asks"].startswith("stub at https://evil.example:443 (not allowed")
    assert KEY not in done.output
    # As if the study had been passed to a refresh; the plan itself allows nothing.
    with Catalog(strange, read_only=True) as catalog:
        path = strange / "study.toml"
        (row,) = [row for row in plan_rows(planned(catalog, ("labels",), None, path), path) if row["step"] == "labels"]
    assert row["asks"] == "stub at https://evil.example:443"
    assert not is_allowed("endpoints", "https://evil.example:443")
    assert reached == []


def test_a_plan_names_them_also_where_counts_are_not_known_yet(strange: Path) -> None:
    with Catalog(strange) as catalog:
        with catalog.write("no windows") as tx:
            tx.execute("DELETE FROM lake.contexts WHERE kind = 'top'")
        rows = {row["step"]: row for row in plan_rows(plan(catalog, ("judgements",)))}
    assert rows["judgements"]["state"] in ("after", "stale")
    assert "stub at http://evil.example:8000" in rows["judgements"]["asks"]


def test_an_address_with_mistakes_in_a_catalog_is_an_error_without_a_trace(strange: Path, reached: list[str]) -> None:
    with Catalog(strange) as catalog, catalog.write("explainers") as tx:
        tx.execute("DELETE FROM lake.explainers")
        wrong = ["http://me:s3cret@evil.example", "http://2130706433", "nonsense", "", "http://a\nb"]
        tx.insert("explainers", [explainer(f"e{i}", "openai", base_url=url) for i, url in enumerate(wrong)])
    for command in ("plan", "refresh"):
        done = saeql("-C", strange, command, "labels")
        assert "base_url" in done.output
        assert "s3cret" not in done.output
        assert done.exception is None or isinstance(done.exception, SystemExit)
    assert reached == []


NOT_OURS = ["{}", "[]", "no", "null", "[" * 9999, '{"jobs": -1}', '{"base_url": 7}', '{"request": {"stream": true}}']
NOT_OURS += ['{"retries": "x"}', '{"price_prompt": NaN}', '{"sampling": []}', '{"max_tokens": true}']


def test_what_the_user_allows_is_asked_from_then_on(strange: Path, reached: list[str]) -> None:
    done = saeql("-C", strange, "refresh", "labels", "--allow-endpoint", "HTTPS://Evil.example.")
    assert "https://evil.example:443 may get text and OPENAI_API_KEY from now on (--allow-endpoint" in done.stderr
    assert set(reached) == {"evil.example"}
    assert is_allowed("endpoints", "https://evil.example:443")
    assert saeql("-C", strange, "refresh", "--allow-endpoint", "http://a@b").exit_code == 1


def test_a_study_that_is_passed_allows_its_endpoints_also_one_beside_the_catalog(strange: Path) -> None:
    done = saeql("-C", strange, "refresh", "token_frequency")
    assert not is_allowed("endpoints", "https://evil.example:443"), "the study beside the catalog is nobody's word"
    done = saeql("-C", strange, "refresh", "token_frequency", "--study", strange / "study.toml")
    assert f"from now on ({strange / 'study.toml'}" in done.stderr.replace("\n", "")
    assert is_allowed("endpoints", "https://evil.example:443")
    assert not [path for path in strange.rglob("*") if "allowed" in path.name]


def test_a_sweep_allows_only_what_a_study_that_was_passed_names(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(study(EVIL))
    for more in ([], ["--study", tmp_path / "study.toml"]):
        # There is no such SAE: it ends after the study was read.
        assert saeql("-C", tmp_path, "sweep", "nobody", "--values", "1", *more).exit_code == 2
        assert is_allowed("endpoints", "https://evil.example:443") is bool(more)


def test_ingest_allows_what_its_study_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    monkeypatch.setattr(
        "queries.cli.build.run_ingest", lambda *_: ran.append(is_allowed("endpoints", endpoint_of(EVIL).name))
    )
    (tmp_path / "s.toml").write_text(study(EVIL))
    assert saeql("-C", tmp_path / "c", "ingest", tmp_path / "s.toml").exit_code == 0
    assert ran == [True]
    (tmp_path / "bad.toml").write_text(study("https://other.example") + "nonsense = 1\n")
    assert saeql("-C", tmp_path / "c", "ingest", tmp_path / "bad.toml").exit_code == 2
    assert not is_allowed("endpoints", "https://other.example:443")


def test_stored_answers_need_no_permission_and_are_found_by_the_text_of_older_catalogs(
    paid: Catalog, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(paid, "labels")
    body = endpoint.requests[0]
    # A request without the new keys is, letter by letter, what it was: written here by hand.
    messages = json.dumps(body["messages"], sort_keys=True, separators=(",", ":"))
    old = f'{{"messages":{messages},"model":"stub","parameters":{{"max_tokens":100,"temperature":0.0}}}}'
    assert {name: body[name] for name in body.keys() - {"messages"}} == {
        "model": "stub",
        "temperature": 0.0,
        "max_tokens": 100,
    }
    with Answers(paid.root / "answers.sqlite", read_only=True) as answers:
        assert answers.get(old)
    labels = paid.rows("SELECT * FROM labels ORDER BY ALL")
    monkeypatch.setattr(endpoint, "url", EVIL)
    configure(paid, endpoint)
    calls(endpoint)
    with paid.write("lose the labels") as tx:
        tx.execute("DELETE FROM lake.labels")
        tx.execute("DELETE FROM lake.runs WHERE step = 'labels'")
    run(paid, "labels")
    assert paid.value("SELECT count(*) FROM labels") == len(labels)
    assert calls(endpoint) == 0


def test_the_settings_of_an_older_study_are_the_same_text(tmp_path: Path) -> None:
    (row,) = configuration_rows(Study.parse('name = "s"\n[[explainer]]\nname = "a"\n', tmp_path))["explainers"]
    assert row["settings"] == (
        '{"provider": "lexical", "model": null, "base_url": null, "temperature": 0.0, "max_tokens": 1000, "jobs": 8, '
        '"price_prompt": 0.0, "price_completion": 0.0, "name": "a", "examples": 10, "sampling": "stratified", '
        '"max_terms": 8, "min_words": 8, "max_words": 15, "instructions": "", "template": null}'
    )


def ask(endpoint: Endpoint, root: Path, **settings: Any) -> Any:
    """Ask once, as a kernel does with these settings of an explainer."""
    said = read_settings(explainer("a", "openai", base_url=endpoint.url, **settings), "explainer")
    catalog = SimpleNamespace(root=root)
    work: Any = SimpleNamespace(catalog=catalog, jobs=None, budget=Budget(), calls=0, tokens=0, cost=0.0, notes=[])
    with counted_client("stub", said, work) as (client, _):
        try:
            return client.complete([{"role": "user", "content": "x"}], **sampler(said))
        except LLMError as error:
            return error


def test_a_request_of_ones_own_is_sent_and_makes_another_answer(endpoint: Endpoint, tmp_path: Path) -> None:
    own = '{ max_completion_tokens = 4000, reasoning_effort = "low", temperature = false, x = { y = [1, true] } }'
    made = Study.parse(study(endpoint.url, request=own, timeout="7.5", retries="1"), tmp_path)
    settings = json.loads(configuration_rows(made)["explainers"][0]["settings"])
    assert (settings["timeout"], settings["retries"]) == (7.5, 1)
    ask(endpoint, tmp_path, request=settings["request"])
    assert endpoint.requests == [
        {
            "model": "stub",
            "messages": [{"role": "user", "content": "x"}],
            "max_completion_tokens": 4000,
            "reasoning_effort": "low",
            "x": {"y": [1, True]},
        }
    ]
    # A time-out and tries are no part of what is asked; an effort is.
    ask(endpoint, tmp_path, request=settings["request"], timeout=9.0, retries=0)
    assert len(endpoint.requests) == 1
    ask(endpoint, tmp_path, request={**settings["request"], "reasoning_effort": "high"})
    ask(endpoint, tmp_path, request={"max_tokens": False})
    assert len(endpoint.requests) == 3
    assert endpoint.requests[2].keys() == {"model", "messages", "temperature"}


def test_the_time_out_and_the_tries_are_the_explainers(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = lambda n, body: Reply(status=500, body="down")
    for retries in (2, 0):
        assert "500" in str(ask(endpoint, tmp_path, retries=retries))
        assert calls(endpoint) == retries + 1
    endpoint.answer = lambda n, body: Reply(delay=0.3)
    assert "Timeout" in str(ask(endpoint, tmp_path, retries=0, timeout=0.05))


def test_one_bad_answer_costs_one_label_and_all_others_are_paid_once(paid: Catalog, endpoint: Endpoint) -> None:
    shapes: list[Any] = [
        "<think>\n[EXPLANATION]: wrong</think> I cannot tell",
        [{"type": "text", "text": "[EXPLANATION]: in parts"}],
        "[EXPLANATION]: half \ud83d and \0 nul",
        42,
    ]

    def bad(number: int, body: dict[str, Any]) -> Reply:
        reply = answer(number, body)
        if any("Description: " in message["content"] for message in body["messages"]):
            return reply
        content = shapes[number] if number < len(shapes) else reply.content
        usage = {"prompt_tokens": "many", "completion_tokens": -7} if number % 2 else None
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        return Reply(body=json.dumps({"choices": [choice], "usage": usage}))

    endpoint.answer = bad
    result = run(paid, "labels", jobs=1)["labels"]
    sent = calls(endpoint)
    assert result.failed == 2
    labels = {label for (label,) in paid.rows("SELECT label FROM labels")}
    assert {"in parts", "half \ufffd and \0 nul", None} <= labels
    assert not any(label and "wrong" in label for label in labels)
    assert paid.value("SELECT count(*) FROM labels") == sent
    run(paid)
    calls(endpoint)
    assert {step.state for step in refresh(paid, STEPS)} == {"current"}
    assert calls(endpoint) == 0
    with Answers(paid.root / "answers.sqlite") as answers:
        assert [json.loads(body)["choices"][0]["message"]["content"] for _, body, _ in answers.unusable()] == [42]

"""The kernels of labels and judgements against a real HTTP endpoint: what it answers, and what is paid for once."""

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from catalog import Catalog
from catalog.answers import Answers
from queries.refresh.engine import Options, refresh
from tests.forked import Forked
from tests.once import once
from tests.queries.made import STEPS, explainer, make, refresh_made, scorer
from tests.scoring.chat_server import Endpoint, Reply


@pytest.fixture(scope="session")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made catalog with its contexts, whose explainer and scorer ask an endpoint (still nowhere)."""

    def build(root: Path) -> None:
        explainers, scorers = [explainer("llm", "openai")], [scorer("asked", "openai", examples=7)]
        with make(root, explainers=explainers, scorers=scorers).open() as catalog:
            refresh(catalog, ("contexts_top", "contexts_stratum", "contexts_random"))

    return once(tmp_path_factory, "unlabelled", build)


@pytest.fixture
def catalog(unlabelled: Path, tmp_path: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalog]:
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    with Catalog(shutil.copytree(unlabelled, tmp_path / "catalog")) as catalog:
        yield catalog


def asked_for(body: dict[str, Any]) -> tuple[str, int]:
    """("explain", 0) or ("predict", number of windows)."""
    found = re.search(r"Answer with a list of (\d+) values", body["messages"][-1]["content"])
    return ("predict", int(found[1])) if found else ("explain", 0)


def sensible(number: int, body: dict[str, Any]) -> Reply:
    """A label of its own for each feature, or a list of as many values as were asked for."""
    kind, n = asked_for(body)
    return Reply(f"[{', '.join(['1'] * n)}]" if kind == "predict" else f"Hm.\n[EXPLANATION]: words {number}")


def features(catalog: Catalog) -> int:
    return int(catalog.value("SELECT count(*) FROM shortlist"))


def test_labels_and_scores_come_from_the_endpoint(catalog: Catalog, endpoint: Endpoint) -> None:
    endpoint.answer = sensible
    results = refresh_made(catalog)
    n = features(catalog)
    labels = catalog.rows(
        "SELECT label, problem, kept_constraints, model, prompt_hash, prompt_tokens, completion_tokens, cost "
        "FROM labels"
    )
    assert len(labels) == n
    for label, problem, kept, model, prompt_hash, *paid in labels:
        assert (label[:6], problem, kept, model) == ("words ", None, True, "stub")
        assert prompt_hash.startswith("blake2b:")
        assert paid == [11, 3, pytest.approx(17e-6)]
    explained = [body for body in endpoint.requests if asked_for(body)[0] == "explain"]
    assert len(explained) == results["labels"].calls == n
    assert len(endpoint.requests) - n == results["judgements"].calls
    assert results["labels"].cost == pytest.approx(n * 17e-6)
    assert catalog.rows("SELECT failed, calls FROM runs WHERE step = 'labels'") == [(0, n)]
    for recall, precision, accuracy, auroc in catalog.rows(
        "SELECT recall, precision, balanced_accuracy, auroc FROM scores"
    ):
        # It always says yes, and the classes are of one size.
        assert (recall, precision, accuracy, auroc) == (1, 0.5, 0.5, None)


def test_the_interpreter_sees_train_windows_and_the_predictor_no_activation(
    catalog: Catalog, endpoint: Endpoint
) -> None:
    endpoint.answer = sensible
    refresh_made(catalog)
    train = {start for (start,) in catalog.rows("SELECT start FROM contexts WHERE split = 'train'")}
    for (details,) in catalog.rows("SELECT details FROM labels"):
        shown = json.loads(details)["shown"]
        assert len(shown) == 4 + 6, "examples, and counterexamples"
        assert {start for _, start in shown} <= train
    for body in endpoint.requests:
        marked = "<<" in body["messages"][-1]["content"]
        assert marked == (asked_for(body)[0] == "explain")
        assert (body["temperature"], body["max_tokens"]) == (0.0, 100)
    sizes = [asked_for(body)[1] for body in endpoint.requests if asked_for(body)[0] == "predict"]
    assert max(sizes) == 5
    assert min(sizes) < 5, "the last batch of a label is short"


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (Reply("I cannot say."), "no line that begins with [EXPLANATION]:"),
        (Reply("[EXPLANATION]: half a", finish="length"), "cut off at the token limit"),
        (Reply(status=400, body='{"error": {"message": "no such model"}}'), "did not answer"),
    ],
)
def test_a_label_that_did_not_come_is_a_row_with_its_problem(
    catalog: Catalog, endpoint: Endpoint, reply: Reply, problem: str
) -> None:
    first = []

    def answer(number: int, body: dict[str, Any]) -> Reply:
        if not first:
            first.append(number)
            return reply
        return sensible(number, body)

    endpoint.answer = answer
    results = refresh_made(catalog)
    rows = catalog.rows("SELECT label, problem FROM labels ORDER BY problem NULLS LAST")
    assert len(rows) == features(catalog)
    assert rows[0][0] is None
    assert problem in rows[0][1]
    assert [row[1] for row in rows[1:]] == [None] * (len(rows) - 1)
    assert results["labels"].failed == 1
    assert catalog.value("SELECT failed FROM runs WHERE step = 'labels'") == 1
    # What has no label is not judged, and no label of another feature is given to it.
    judged = {feature for (feature,) in catalog.rows("SELECT DISTINCT feature FROM judgements")}
    assert judged == {feature for (feature,) in catalog.rows("SELECT feature FROM labels WHERE label IS NOT NULL")}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[1, 0]", "values, not"),
        ("yes", "has no list"),
    ],
)
def test_a_malformed_list_costs_its_own_batch_alone(
    catalog: Catalog, endpoint: Endpoint, content: str, problem: str
) -> None:
    spoiled: list[str] = []

    def answer(number: int, body: dict[str, Any]) -> Reply:
        # The first such request, and the one that asks again in its conversation.
        asked = [message["content"] for message in body["messages"] if "Answer with a list of 5" in message["content"]]
        if asked and (not spoiled or asked[-1] in spoiled):
            spoiled.append(asked[-1])
            return Reply(content)
        return sensible(number, body)

    endpoint.answer = answer
    results = refresh_made(catalog)
    assert len(spoiled) == 2
    rows = catalog.rows("SELECT predicted, problem FROM judgements WHERE problem IS NOT NULL")
    assert len(rows) == 5 == results["judgements"].failed
    assert all(predicted is None and problem in said for predicted, said in rows)
    assert catalog.value("SELECT failed FROM runs WHERE step = 'judgements'") == 5
    total, n = catalog.rows("SELECT sum(failed), sum(n) FROM scores")[0]
    own = catalog.value("SELECT count(*) FROM judgements WHERE feature = label_feature")
    assert total + n == own
    assert total == catalog.value("SELECT count(problem) FROM judgements WHERE feature = label_feature")


def test_a_second_run_pays_for_nothing(catalog: Catalog, endpoint: Endpoint) -> None:
    endpoint.answer = sensible
    refresh_made(catalog)
    paid = len(endpoint.requests)
    assert {result.state for result in refresh_made(catalog).values()} == {"current"}
    with catalog.write("lose the labels") as tx:
        for table in ("labels", "judgements"):
            tx.execute(f"DELETE FROM lake.{table}")
        tx.execute("DELETE FROM lake.runs WHERE step IN ('labels', 'judgements')")
    results = refresh_made(catalog)
    assert len(endpoint.requests) == paid
    assert (results["labels"].calls, results["judgements"].calls) == (0, 0)
    assert catalog.value("SELECT min(prompt_tokens) FROM labels") == 11, "what it cost when it was paid for"


REFRESH = """
import sys
from catalog import Catalog
from queries.refresh.engine import refresh
refresh(Catalog(sys.argv[1]), tuple(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["explain", "predict"])
def test_what_was_answered_before_a_kill_is_not_paid_for_again(catalog: Catalog, endpoint: Endpoint, stop: str) -> None:
    process: list[Forked] = []
    hung = []

    def answer(number: int, body: dict[str, Any]) -> Reply:
        kind, _ = asked_for(body)
        before = sum(asked_for(other)[0] == kind for other in endpoint.requests[:number])
        if kind == stop and before == 2 and not hung:
            hung.append(number)
            process[0].send_signal(signal.SIGKILL)
            process[0].wait()
        return sensible(number, body)

    endpoint.answer = answer
    environment = {**os.environ, "OPENAI_BASE_URL": endpoint.url}
    process.append(Forked(REFRESH, catalog.root, *STEPS, env=environment))
    assert process[0].wait(timeout=60) == -signal.SIGKILL
    assert hung
    with Answers(catalog.root / "answers.sqlite") as answers:
        stored = len(answers)
    # Requests go out one at a time (jobs = 1): all before the one that hung were answered.
    assert stored == hung[0]
    refresh_made(catalog)
    bodies = [json.dumps(body, sort_keys=True) for body in endpoint.requests]
    again = [body for body in set(bodies) if bodies.count(body) > 1]
    assert again == [bodies[hung[0]]], "only the request that was never answered is sent again"
    assert catalog.value("SELECT count(*) FROM labels WHERE problem IS NULL") == features(catalog)


def test_a_retry_asks_again_for_what_has_a_problem_and_for_nothing_else(catalog: Catalog, endpoint: Endpoint) -> None:
    def one_fails(number: int, body: dict[str, Any]) -> Reply:
        kind, _ = asked_for(body)
        lost = kind == "explain" and number == 1
        return Reply(status=400, body='{"error": {"message": "down"}}') if lost else sensible(number, body)

    endpoint.answer = one_fails
    assert refresh_made(catalog)["labels"].failed == 1
    asked = len(endpoint.requests)
    endpoint.answer = sensible
    assert refresh_made(catalog)["labels"].state == "current"
    assert len(endpoint.requests) == asked
    results = {result.step: result for result in refresh(catalog, options=Options(retry=True))}
    assert (results["labels"].state, results["labels"].calls, results["labels"].failed) == ("done", 1, 0)
    assert catalog.value("SELECT count(*) FROM labels WHERE problem IS NOT NULL") == 0


def test_the_lens_of_another_model_than_the_catalogs_is_refused(own: Path) -> None:
    with Catalog(own) as catalog:
        before = catalog.rows("SELECT * FROM logit_lens ORDER BY ALL LIMIT 20")
        with catalog.write("as if built from another model") as tx:
            tx.execute("UPDATE lake.models SET digest = 'other'")
        (result,) = [r for r in refresh(catalog, ("logit_lens",)) if r.step == "logit_lens"]
        assert result.state == "failed"
        assert "is not the 'embedded' that this catalog was built from (weights or tokenizer differ)" in str(
            result.error
        )
        assert catalog.rows("SELECT * FROM logit_lens ORDER BY ALL LIMIT 20") == before

"""What is paid for: each prompt once, as planned, within the limits, whatever fails or is killed in between."""

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from catalog import Catalog
from catalog.answers import Answers
from catalog.study.tables import record_configurations
from queries.refresh.engine import StepResult, plan, refresh
from queries.refresh.options import Options
from tests.forked import Forked
from tests.once import once
from tests.queries.made import explainer, make, scorer
from tests.scoring.chat_server import Endpoint, Reply, answer, endpoint

__all__ = ["endpoint"]

STEPS = ("scores",)
PRICES = {"price_prompt": 1.0, "price_completion": 2.0}


@pytest.fixture(scope="module")
def text_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made catalog refreshed up to the contexts, with a lexical explainer. Not to be written to."""

    def build(root: Path) -> None:
        with make(root).open() as catalog:
            results = refresh(catalog, ("contexts_top", "contexts_stratum", "contexts_random"))
            assert [result.error for result in results if result.error] == []

    return once(tmp_path_factory, "text", build)


@pytest.fixture
def paid(text_root: Path, tmp_path: Path, endpoint: Endpoint) -> Iterator[Catalog]:
    """A catalog whose explainers a and b, and whose scorer, ask the endpoint."""
    endpoint.answer = answer
    with Catalog(shutil.copytree(text_root, tmp_path / "paid")) as catalog:
        configure(catalog, endpoint)
        yield catalog


def configure(catalog: Catalog, endpoint: Endpoint, **settings: dict[str, Any]) -> None:
    """Put the explainers a and b with these settings of theirs, and an asking scorer, into the catalog."""
    common = {"base_url": endpoint.url, **PRICES}
    own = {name: {"instructions": f"You are {name}.", **settings.get(name, {})} for name in "ab"}
    with catalog.write("explainers") as tx:
        tx.execute("DELETE FROM lake.explainers")
        tx.execute("DELETE FROM lake.scorers")
        tx.insert("explainers", [explainer(name, "openai", **common, **own[name]) for name in "ab"])
        tx.insert("scorers", [scorer("detection", "openai", examples=6, **common)])


def run(catalog: Catalog, *names: str, **options: Any) -> dict[str, StepResult]:
    results = {result.step: result for result in refresh(catalog, names or STEPS, Options(**options))}
    assert [result.error for result in results.values() if result.error] == []
    return results


def calls(endpoint: Endpoint) -> int:
    """Requests that arrived since the last time."""
    n = len(endpoint.requests)
    endpoint.requests.clear()
    return n


def test_a_plan_counts_the_calls_that_the_refresh_then_makes(paid: Catalog, endpoint: Endpoint) -> None:
    before = {result.step: result for result in plan(paid, STEPS)}
    run(paid, "labels")
    assert before["labels"].estimate
    assert before["labels"].estimate.calls == calls(endpoint)
    between = {result.step: result for result in plan(paid, STEPS)}
    run(paid)
    assert between["judgements"].estimate
    assert between["judgements"].estimate.calls == calls(endpoint)
    # Before there are labels, each counts as one that will have to be judged.
    planned = before["judgements"].estimate
    assert planned
    assert planned.calls > 0
    assert {result.state for result in plan(paid, STEPS)} == {"current"}


def test_the_cost_of_like_calls_is_estimated_from_those_that_were_made(paid: Catalog, endpoint: Endpoint) -> None:
    estimate = next(r for r in plan(paid, ("labels",)) if r.step == "labels").estimate
    assert estimate
    assert estimate.like == 0
    run(paid, "labels")
    configure(paid, endpoint, a={"min_words": 3}, b={"min_words": 4})
    again = next(r for r in plan(paid, ("labels",)) if r.step == "labels").estimate
    # The instructions differ with the limits: like calls are those of the same instructions.
    assert again
    assert again.calls == estimate.calls
    configure(paid, endpoint, a={"examples": 3}, b={"examples": 2})
    like = next(r for r in plan(paid, ("labels",)) if r.step == "labels").estimate
    assert like
    assert like.like > 0
    # The server says 11 and 3 tokens for each call.
    assert like.completion_tokens == 3 * like.calls
    assert like.cost == pytest.approx((like.prompt_tokens * 1.0 + like.completion_tokens * 2.0) / 1e6, rel=0.02)


def test_an_edited_template_asks_for_its_own_labels_alone_and_once(paid: Catalog, endpoint: Endpoint) -> None:
    run(paid)
    features = paid.value("SELECT count(DISTINCT feature) FROM shortlist")
    before = paid.rows("SELECT * FROM labels WHERE explainer = 'b' ORDER BY ALL")
    calls(endpoint)
    configure(paid, endpoint, a={"instructions": "Name the part of speech."})
    planned = {result.step: result for result in plan(paid, STEPS)}
    assert planned["labels"].changes.changed == planned["labels"].estimate.calls == features  # type: ignore[union-attr]
    assert {key[2] for key in planned["labels"].keys} == {"a"}
    assert planned["labels"].why[0].startswith("inputs: explainers, scorers: 'explainers' (snapshot ")
    assert {name for name, r in planned.items() if r.state != "current"} <= {"labels", "judgements", "scores"}
    results = run(paid, "labels")
    assert results["labels"].calls == calls(endpoint) == features
    assert paid.rows("SELECT * FROM labels WHERE explainer = 'b' ORDER BY ALL") == before
    assert run(paid, "labels")["labels"].state == "current"
    assert calls(endpoint) == 0


def test_a_template_of_ones_own_is_kept_in_the_catalog_by_its_text(paid: Catalog, endpoint: Endpoint) -> None:
    run(paid, "labels")
    calls(endpoint)
    own = 'system = "Say what these have in common. [EXPLANATION]: the claim"\nuser = "$examples"\n'
    configure(paid, endpoint, b={"template": own})
    run(paid, "labels")
    assert {body["messages"][0]["content"] for body in endpoint.requests} == {
        "Say what these have in common. [EXPLANATION]: the claim"
    }
    configure(paid, endpoint, b={"template": "system = 1"})
    (failed,) = [result for result in refresh(paid, ("labels",)) if result.error]
    assert "the prompt template of this explainer or scorer is not usable" in str(failed.error)


@pytest.mark.parametrize("most", [0, 1, 3])
def test_no_more_calls_are_made_than_allowed(paid: Catalog, endpoint: Endpoint, most: int) -> None:
    wanted = next(r for r in plan(paid, ("labels",)) if r.step == "labels").estimate
    assert wanted
    results = run(paid, "labels", max_calls=most)
    assert calls(endpoint) == most == results["labels"].calls
    assert (results["labels"].state, results["labels"].left) == ("part", wanted.calls - most)
    assert paid.value("SELECT count(*) FROM labels") == most
    assert paid.value("SELECT count(*) FROM labels WHERE problem IS NOT NULL") == 0
    left = next(r for r in plan(paid, ("labels",)) if r.step == "labels")
    assert left.changes.added == wanted.calls - most
    assert run(paid, "labels")["labels"].state == "done"
    assert calls(endpoint) == wanted.calls - most


def test_no_more_is_paid_than_allowed(paid: Catalog, endpoint: Endpoint) -> None:
    endpoint.answer = lambda number, body: Reply(answer(number, body).content, usage=(3000, 600))
    each = (3000 * 1.0 + 600 * 2.0) / 1e6
    results = run(paid, "labels", max_cost=3.5 * each, jobs=4)
    assert results["labels"].cost <= 3.5 * each
    assert 1 <= results["labels"].calls <= 3
    assert results["labels"].state == "part"
    assert endpoint.most_at_once <= 4


def test_an_endpoint_that_fails_for_a_third_of_its_calls_costs_those_rows_alone(
    paid: Catalog, endpoint: Endpoint
) -> None:
    def flaky(number: int, body: dict[str, Any]) -> Reply:
        text = body["messages"][-1]["content"]
        return Reply(status=400, body="no") if len(text) % 3 == 0 else answer(number, body)

    endpoint.answer = flaky
    results = run(paid, "labels")
    failed = paid.value("SELECT count(*) FROM labels WHERE problem IS NOT NULL")
    assert results["labels"].failed == failed > 0
    assert paid.value("SELECT count(*) FROM labels WHERE problem IS NULL") > 0
    assert run(paid, "labels")["labels"].state == "current"
    endpoint.answer = answer
    calls(endpoint)
    assert next(r for r in plan(paid, ("labels",), Options(retry=True)) if r.step == "labels").changes.changed == failed
    run(paid, "labels", retry=True)
    assert calls(endpoint) == failed
    assert paid.value("SELECT count(*) FROM labels WHERE problem IS NOT NULL") == 0


def test_a_second_explainer_lives_beside_the_first(paid: Catalog) -> None:
    run(paid)
    beside = paid.rows(
        "SELECT count(*), count(a.f1), count(b.f1) FROM scores AS a JOIN scores AS b "
        "ON (a.sae, a.feature, a.scorer) = (b.sae, b.feature, b.scorer) AND a.explainer = 'a' AND b.explainer = 'b'"
    )
    assert beside[0][0] > 0


_REFRESH = """
import sys
from catalog import Catalog
from queries.refresh.engine import refresh
refresh(Catalog(sys.argv[1]), ("labels",))
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_killed_refresh_pays_for_no_stored_answer_again(
    text_root: Path, tmp_path: Path, endpoint: Endpoint, after: int
) -> None:
    root = Path(shutil.copytree(text_root, tmp_path / "killed"))
    endpoint.answer = lambda number, body: Reply(answer(number, body).content, delay=0.1)
    with Catalog(root) as catalog:
        configure(catalog, endpoint, a={"jobs": 2}, b={"jobs": 2})
        wanted = next(r for r in plan(catalog, ("labels",)) if r.step == "labels").estimate
    assert wanted
    process = Forked(_REFRESH, root)
    deadline = time.monotonic() + 60
    while len(endpoint.requests) <= after and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.3)
    first = calls(endpoint)
    with Answers(root / "answers.sqlite") as answers:
        stored = len(answers)
    with Catalog(root) as catalog:
        run(catalog, "labels")
        assert calls(endpoint) == wanted.calls - stored
        assert first - stored <= 2
        assert catalog.value("SELECT count(*) FROM labels WHERE label IS NOT NULL") == wanted.calls
        keys = "SELECT count(*) - count(DISTINCT (sae, feature, explainer)) FROM labels"
        assert catalog.value(keys) == 0


def test_the_study_file_brings_new_explainers_into_plan_and_refresh(paid: Catalog, tmp_path: Path) -> None:
    from catalog.study.file import Study
    from queries.refresh.explain import configure as take
    from queries.refresh.explain import planned

    study = tmp_path / "study.toml"
    study.write_text(
        'name = "made"\n[[explainer]]\nname = "a"\n[[explainer]]\nname = "third"\nmax_terms = 3\n'
        '[[concept]]\nname = "algebra"\nwords = ["matrix", "linear system"]\nshortlist = 20\n'
    )
    before = paid.snapshot()
    results = {r.step: r for r in planned(paid, STEPS, Options(), study)}
    assert paid.snapshot() == before
    assert {key[2] for key in results["labels"].keys} == {"a", "third"}
    assert results["labels"].why
    take(paid, study)
    assert Study.load(study).explainers[1].max_terms == 3
    assert {name for (name,) in paid.rows("SELECT explainer FROM explainers")} == {"a", "third"}
    assert {r.step: r.changes for r in plan(paid, STEPS)}["labels"] == results["labels"].changes
    record_configurations(paid, Study.load(study))

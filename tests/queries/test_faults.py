"""A refresh that is killed, overtaken or refused anywhere ends, when run again, in the tables of one that was not."""

import random
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from catalog import Catalog
from catalog.doctor import CHECKS, examine
from tests.queries.disturbed import MORE, Contents, Killer, add_text, build, contents, copy, differences, sent, stored
from tests.scoring.chat_server import Endpoint, answer, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Endpoint]:
    with serving() as endpoint:
        endpoint.answer = answer
        yield endpoint


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    with Killer() as running:
        yield running


@pytest.fixture(scope="module")
def grown_root(server: Endpoint, killer: Killer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Refreshed, and then given more text: every kind of step has work. Not to be written to."""
    root = tmp_path_factory.mktemp("grown") / "catalog"
    build(root, server.url)
    assert killer.refresh(root)[0] == 0
    with Catalog(root) as catalog:
        add_text(catalog, MORE[0], 2)
    return root


@pytest.fixture(scope="module")
def refreshed(grown_root: Path, killer: Killer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Contents, float]:
    """What the grown catalog holds after a refresh that nothing disturbs, and the seconds that it takes."""
    root = copy(grown_root, tmp_path_factory.mktemp("undisturbed") / "catalog")
    code, seconds = killer.refresh(root)
    assert code == 0
    return contents(root), seconds


@pytest.fixture(scope="module")
def expected(refreshed: tuple[Contents, float]) -> Contents:
    """What the grown catalog holds after a refresh that nothing disturbs."""
    return refreshed[0]


@pytest.fixture
def grown(grown_root: Path, tmp_path: Path) -> Path:
    """A copy of the grown catalog."""
    return copy(grown_root, tmp_path / "grown")


def to_collect(root: Path, *, fix: bool = False, every: bool = True) -> set[str]:
    """Examine a catalog, in which nothing may be broken; the checks that found what a killed process left behind."""
    only = None if every else CHECKS.keys() - {"keys", "views"}
    with Catalog(root) as catalog:
        found = examine(catalog, fix=fix, age=timedelta(0), only=only)
    assert [f for f in found if f.severity == "error"] == []
    return {f.check for f in found if f.severity == "warning"} & {"orphans", "vector versions"}


def assert_as_expected(root: Path, expected: Contents) -> None:
    """The tables are the expected ones, before and after all that was left behind is collected."""
    assert differences(contents(root), expected) == []
    if to_collect(root, fix=True):
        assert to_collect(root, every=False) == set()
        assert differences(contents(root), expected) == []


def paid_again(root: Path, server: Endpoint, work: Callable[[], Any]) -> list[str]:
    """The requests that `work` sent although their answers were stored before."""
    before = stored(root)
    server.requests.clear()
    work()
    return [request for request in sent(server.requests) if request in before]


# --- kill -9

COMMIT, LANCE, ANSWER = "catalog.store:Catalog._finish", "catalog.vectors:Vectors.write", "catalog.answers:Answers.put"
BEFORE = {
    "the Lance write of decoder_vectors": (LANCE, "decoder", 1, set()),
    "the commit of a step in SQL": (COMMIT, "refresh feature_sums", 1, {"orphans"}),
    "the commit of a slice": (COMMIT, "refresh contexts_top", 1, {"orphans"}),
    "the commit of the first labels": (COMMIT, "refresh labels", 1, {"orphans"}),
    "the commit of the second labels": (COMMIT, "refresh labels", 2, {"orphans"}),
    "an answer is stored": (ANSWER, None, 2, set()),
    "the commit of judgements": (COMMIT, "refresh judgements", 2, {"orphans"}),
    "the Lance write of label_vectors": (LANCE, "labels", 1, set()),
    "the tag of the Lance version": ("catalog.vectors:_tagged", "labels", 1, {"vector versions"}),
    "the commit of label_vectors": (COMMIT, "refresh label_vectors", 1, {"orphans", "vector versions"}),
    "the commit of the last step": (COMMIT, "refresh scores", 1, {"orphans"}),
}
AFTER = {
    "the Lance write of decoder_vectors": (LANCE, "decoder", 1, {"vector versions"}),
    "the commit of decoder_vectors": (COMMIT, "refresh decoder_vectors", 1, set()),
    "the commit of a step in SQL": (COMMIT, "refresh feature_sums", 1, set()),
    "the commit lock is taken": ("catalog.store:Catalog._newest", None, 1, {"orphans"}),
    "the commit of the first labels": (COMMIT, "refresh labels", 1, set()),
    "an answer is stored": (ANSWER, None, 2, set()),
    "the commit of judgements": (COMMIT, "refresh judgements", 1, set()),
    "the Lance write of label_vectors": (LANCE, "labels", 1, {"vector versions"}),
    "the commit of label_vectors": (COMMIT, "refresh label_vectors", 1, set()),
    "the commit of the last step": (COMMIT, "refresh scores", 1, set()),
}
"""Where: what the process was killed at -> (function, what is among its arguments, which call, what it leaves)."""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_refresh_killed_at_one_point_after_another_ends_with_the_tables_of_one_that_was_not(
    grown: Path, expected: Contents, killer: Killer, server: Endpoint, when: str
) -> None:
    for name, (target, said, n, left) in (BEFORE if when == "before" else AFTER).items():
        job = {"target": target, "said": said, "n": n, "when": when}

        def killed(job: dict[str, Any] = job, name: str = name) -> None:
            assert killer.refresh(grown, **job)[0] == -signal.SIGKILL, name

        assert paid_again(grown, server, killed) == [], name
        # What was left is collected after each kill, or all of it in the end.
        assert to_collect(grown, fix=when == "before", every=False) >= left, name
    assert paid_again(grown, server, lambda: killer.refresh(grown)) == []
    assert_as_expected(grown, expected)


@pytest.mark.slow
def test_a_refresh_killed_at_five_random_moments_ends_with_the_tables_of_one_that_was_not(
    grown: Path, refreshed: tuple[Contents, float], killer: Killer, server: Endpoint
) -> None:
    expected, seconds = refreshed
    moments = [random.uniform(0, seconds / 2) for _ in range(5)]
    for after in moments:
        assert paid_again(grown, server, lambda after=after: killer.refresh(grown, after=after)) == [], moments
        to_collect(grown, every=False)
    assert paid_again(grown, server, lambda: killer.refresh(grown)) == [], moments
    assert_as_expected(grown, expected)

"""Scorers that cannot judge an explainer's labels, contexts of several corpora, and what Python imports."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from catalog import Catalog
from queries.cli.main import main
from queries.refresh.engine import plan, refresh
from queries.refresh.unjudged import unjudged
from queries.session import Session
from queries.studies.demo import best_features
from tests.catalog.small_catalog import shard
from tests.empty import make_empty
from tests.queries.made import explainer, scorer

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def paired(mine: Catalog) -> Catalog:
    """The made catalog with labels of a second explainer, a language model, and a second scorer like it."""
    with mine.write("configuration") as tx:
        tx.insert("explainers", [explainer("llm", "openai", base_url="http://127.0.0.1:1")])
        tx.insert("scorers", [scorer("llm-detection", "openai", base_url="http://127.0.0.1:1")])
        columns = [row[0] for row in mine.rows("DESCRIBE labels")]
        listed = ", ".join("'llm' AS explainer" if c == "explainer" else f'"{c}"' for c in columns)
        tx.execute(f"INSERT INTO lake.labels SELECT {listed} FROM lake.labels WHERE explainer = 'lexical'")
    return mine


def test_a_pair_that_cannot_be_judged_is_no_job_but_one_problem(paired: Catalog) -> None:
    rows = unjudged(paired)
    assert [(row["stage"], row["subject"], row["count"]) for row in rows] == [
        ("judgements", "explainer llm, scorer detection", 1)
    ]
    # The step's own query asks for every other pair, and for that one never.
    from queries.refresh.step import packaged_steps

    step = next(step for step in packaged_steps() if step.name == "judgements")
    pairs = paired.rows(f"SELECT DISTINCT explainer, scorer FROM ({step.query}) ORDER BY ALL")
    assert pairs == [("lexical", "detection"), ("lexical", "llm-detection"), ("llm", "llm-detection")]
    before = paired.snapshot()
    for _ in range(2):
        refresh(paired, ("leaks",))
        assert paired.rows("SELECT subject, count FROM problems WHERE stage = 'judgements'") == [
            ("explainer llm, scorer detection", 1)
        ]
    assert paired.snapshot() == before + 1
    with paired.write("the explainer goes") as tx:
        tx.execute("DELETE FROM lake.explainers WHERE explainer = 'llm'")
    refresh(paired, ("leaks",))
    assert paired.value("SELECT count(*) FROM problems WHERE stage = 'judgements'") == 0


def test_plan_and_refresh_say_it_once(paired: Catalog) -> None:
    for command in (("plan", "leaks"), ("refresh", "leaks")):
        result = CliRunner().invoke(main, ["-C", str(paired.root), *command])
        said = [line for line in result.stderr.splitlines() if line.startswith("left out (judgements)")]
        assert len(said) == 1
        assert "explainer llm, scorer detection" in said[0]
    assert [r.error for r in plan(paired, ("leaks",)) if r.error] == []


JUDGED, EVIDENCE = (
    "no windows of the split test in which a feature",
    "no window of the split train in which a shortlisted",
)


@pytest.mark.parametrize(
    ("gone", "stage", "subject", "reason"),
    [
        ("contexts WHERE split = 'test'", "judgements", "SAE s", f"{JUDGED} fires: no label is judged; add text"),
        ("contexts WHERE split = 'test' AND kind = 'stratum'", "judgements", "SAE s", f"{JUDGED} fires"),
        ("contexts WHERE split = 'test' AND kind = 'random'", "judgements", "SAE s", f"{JUDGED} is silent"),
        ("contexts WHERE split = 'train'", "labels", "SAE s", f"{EVIDENCE} feature fires: explainers have no evidence"),
        ("shortlist", "shortlist", "SAE s, concept algebra", "no feature that fires often enough"),
    ],
)
def test_an_sae_that_goes_without_labels_or_scores_is_one_problem_and_one_line(
    gone: str, stage: str, subject: str, reason: str, mine: Catalog
) -> None:
    assert unjudged(mine) == []
    with mine.write("as from text without such windows") as tx:
        tx.execute(f"DELETE FROM lake.{gone}")
    for command in (("plan", "leaks"), ("refresh", "leaks")):
        result = CliRunner().invoke(main, ["-C", str(mine.root), *command])
        said = [line for line in result.stderr.splitlines() if line.startswith("left out (")]
        assert len(said) == 1, result.stderr
        assert said[0].startswith(f"left out ({stage}): {subject}: {reason}")
    stages = "('judgements', 'labels', 'shortlist')"
    found = mine.rows(f"SELECT stage, subject, reason, count FROM problems WHERE stage IN {stages}")
    assert [(row[0], row[1], row[3]) for row in found] == [(stage, subject, 1)]
    assert said[0].endswith(f": {found[0][2]}")


# --- contexts of several corpora


def two_corpora(mine: Catalog) -> None:
    """A second corpus that shares documents with the first one."""
    for relation in ("documents", "tokens", "activations"):
        rows = mine.arrow(f"SELECT * REPLACE ('b' AS corpus) FROM lake.{relation} WHERE shard = 0")
        with mine.write(f"b {relation}") as tx:
            path = shard(mine, tx, relation, rows, 0, "s" if relation == "activations" else None)
            tx.execute("UPDATE lake.shards SET corpus = 'b' WHERE path = ?", [str(path.relative_to(mine.data))])
    assert [r.error for r in refresh(mine, ("contexts_top",)) if r.error] == []


def test_show_ranks_the_contexts_of_all_corpora_by_activation(mine: Catalog) -> None:
    two_corpora(mine)
    fired = mine.rows(
        "SELECT a.corpus, a.feature, a.position, a.activation, t.sequence FROM activations AS a "
        "JOIN tokens AS t ON t.corpus = a.corpus AND t.position = a.position WHERE a.feature IN (1, 3, 5, 6)"
    )
    documents = mine.rows("SELECT corpus, start, tokens, hash FROM documents")
    for feature, n in ((1, 7), (3, 20), (6, 3), (5, 12)):
        best: dict[tuple[str, int], tuple[float, str, int, str]] = {}
        for corpus, owner, position, activation, sequence in fired:
            if owner == feature:
                start, digest = next((s, h) for c, s, k, h in documents if c == corpus and s <= position < s + k)
                place = (-activation, digest, position - start, corpus)
                best[corpus, sequence] = min(place, best.get((corpus, sequence), place))
        expected = [(corpus, -negative) for negative, _, _, corpus in sorted(best.values())[:n]]
        card = Session(mine.root).feature(feature, contexts=n)
        assert [(c.corpus, c.activation) for c in card.contexts] == expected
        assert [c.rank for c in card.contexts] == list(range(1, len(expected) + 1))
        assert all(max(c.activations) == c.activation for c in card.contexts)
        assert {"b", "c"} <= {c.corpus for c in card.contexts}
    page = CliRunner().invoke(main, ["-C", str(mine.root), "show", "1", "--contexts", "7"]).stdout
    found = re.findall(r"^([bc])  +\w+ +([\d.]+)  ", page, re.MULTILINE)
    shown = json.loads(CliRunner().invoke(main, ["-C", str(mine.root), "show", "1", "--json"]).stdout)["contexts"]
    assert len(found) == 7
    assert len(shown) == 5
    assert [(c["corpus"], f"{c['activation']:.4g}") for c in shown] == found[:5]


# --- Python


def python_blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (REPOSITORY / "README.md").read_text(), re.DOTALL | re.MULTILINE)


def test_the_readme_s_python_runs(built: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").symlink_to(built)
    blocks = python_blocks()
    assert blocks
    for block in blocks:
        # The demo has 2,048 features, the catalog of the tests 256.
        exec(compile(block.replace("398", "98"), "README.md", "exec"), {})


def test_the_front_doors_import_nothing_heavy() -> None:
    code = (
        "import sys, queries, saeql\n"
        "heavy = {'torch', 'lancedb', 'lance', 'duckdb', 'pyarrow', 'transformers', 'pydantic', 'rich', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert set(saeql.__all__) <= set(dir(saeql)) and set(queries.__all__) <= set(dir(queries))\n"
        "from queries import connect\n"
        "assert saeql.connect is connect and saeql.__version__ and issubclass(saeql.SaeqlError, Exception)\n"
        "assert saeql.Catalog and saeql.Study\n"
        "assert not {'torch', 'lancedb', 'lance'} & set(sys.modules)\n"
        "try:\n    saeql.nothing\nexcept AttributeError as error:\n    assert 'nothing' in str(error)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def test_the_demos_best_features_keep_their_sae(tmp_path: Path) -> None:
    found = [("a", 7, 1, 3.0), ("b", 2, 1, 9.0), ("a", 2, 2, 2.0), ("b", 7, 2, 8.0)]
    with make_empty(tmp_path / "two") as catalog:
        with catalog.write("two SAEs") as tx:
            tx.insert("study", [{"name": "two", "concept": "c"}])
            rows = [(sae, "c", feature, rank, separation) for sae, feature, rank, separation in found]
            rows.append(("a", "other", 5, 1, 99.0))
            for row in rows:
                names = ("sae", "concept", "feature", "rank", "separation")
                tx.insert("shortlist", [dict(zip(names, row, strict=True))])
        assert best_features(catalog, 3) == [("a", 7), ("b", 2), ("a", 2)]

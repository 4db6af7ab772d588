"""Step files: what a header must say, in which order steps run, and what makes a step stale."""

from pathlib import Path
from typing import Any

import pytest

from catalog.errors import StepError
from queries.refresh import fingerprint as source_module
from queries.refresh import step as step_module
from queries.refresh.fingerprint import kernel_source
from queries.refresh.order import check_steps, ordered
from queries.refresh.reads import column_sources
from queries.refresh.step import Step, packaged_steps, parse_step
from queries.refresh.step import fingerprint as fingerprint_of

TEXT = """-- step: shout
-- writes: shouts
-- key: sae, feature
-- slice: kind = 'loud'
-- param: k = 3
-- param: word = "a = b"
-- kernel: scoring.kernels.labels:labels
-- input: sae, feature
-- prompts: interpreter
-- doc: a step: with a colon
WITH own AS (SELECT sae, feature FROM labels)
SELECT o.sae, o.feature, $k AS n FROM own AS o JOIN Features AS f ON f.feature = o.feature
"""


def header(**changes: str | None) -> str:
    """TEXT with header lines replaced, or dropped where the value is None."""
    lines = []
    for line in TEXT.splitlines():
        key = line.removeprefix("-- ").partition(":")[0]
        if key not in changes:
            lines.append(line)
        elif changes[key] is not None:
            lines.append(f"-- {key}: {changes[key]}")
    return "\n".join(lines) + "\n"


def test_a_header_says_what_the_step_is() -> None:
    step = parse_step(TEXT, "shout.sql")
    assert (step.name, step.writes, step.key, step.input) == ("shout", "shouts", ("sae", "feature"), ("sae", "feature"))
    assert step.slice == "kind = 'loud'"
    assert step.parameters == {"k": 3, "word": "a = b"}
    assert (step.kernel, step.prompts) == ("scoring.kernels.labels:labels", ("interpreter",))
    assert step.doc == "a step: with a colon"


def test_parents_are_the_tables_of_the_query_without_its_own_ctes() -> None:
    assert parse_step(TEXT, "shout.sql").parents == {"labels", "features"}


@pytest.mark.parametrize("key", ["step", "writes", "key", "doc"])
def test_a_header_without_a_required_line_is_refused(key: str) -> None:
    with pytest.raises(StepError, match=f"shout.sql: the header lacks {key}"):
        parse_step(header(**{key: None}), "shout.sql")


def test_all_missing_lines_are_named_at_once() -> None:
    with pytest.raises(StepError, match="lacks step, writes, key, doc"):
        parse_step("SELECT 1", "x.sql")


def test_a_kernel_without_an_input_key_is_refused() -> None:
    with pytest.raises(StepError, match="declares its input key"):
        parse_step(header(input=None), "shout.sql")


@pytest.mark.parametrize("line", ["k", "k = three", "k = [1,"])
def test_a_parameter_that_is_no_json_is_refused(line: str) -> None:
    with pytest.raises(StepError, match="is not `name = JSON value`"):
        parse_step(header(param=line), "shout.sql")


def test_a_query_that_does_not_parse_is_refused() -> None:
    with pytest.raises(StepError, match="the query does not parse"):
        parse_step(TEXT + " WHERE (", "shout.sql")


@pytest.mark.parametrize(
    "expression",
    [
        "random()",
        "now()",
        "uuid()",
        "gen_random_uuid()",
        "uuidv7()",
        "current_timestamp",
        "current_date",
        "today()",
        "current_localtimestamp()",
        "get_current_timestamp()",
        "transaction_timestamp()",
        "nextval('s')",
    ],
)
def test_a_function_that_gives_another_answer_each_time_is_refused(expression: str) -> None:
    text = header().replace("$k AS n", f"{expression} AS n")
    with pytest.raises(StepError, match="gives other rows each time"):
        parse_step(text, "shout.sql")


@pytest.mark.parametrize("sample", ["USING SAMPLE 10", "TABLESAMPLE 10%"])
def test_sampling_is_refused(sample: str) -> None:
    with pytest.raises(StepError, match="SAMPLE"):
        parse_step(f"-- step: a\n-- writes: a\n-- key: x\n-- doc: d\nSELECT x FROM t {sample}", "a.sql")


# --- order


def simple(name: str, writes: str, *reads: str, slice: str = "true") -> Step:
    query = f"-- step: {name}\n-- slice: {slice}\nSELECT 1\nFROM {', '.join(reads) or 'nothing'}"
    return Step(name, writes, ("x",), query, "", frozenset(reads), f"{name}.sql", slice)


def test_steps_come_after_those_that_write_what_they_read() -> None:
    steps = (simple("a", "ta", "tb"), simple("b", "tb", "tc"), simple("c", "tc"), simple("d", "td"))
    assert [step.name for step in ordered(steps, {})] == ["c", "b", "a", "d"]


def test_a_step_waits_for_every_slice_of_a_table_and_sees_through_views() -> None:
    views = {"v": {"w"}, "w": {"t"}}
    steps = (simple("a", "out", "v"), simple("top", "t", slice="k = '1'"), simple("z", "t", slice="k = '2'"))
    assert [step.name for step in ordered(steps, views)] == ["top", "z", "a"]


def test_a_cycle_is_named() -> None:
    steps = (simple("a", "ta", "tb"), simple("b", "tb", "ta"), simple("c", "tc"))
    with pytest.raises(StepError, match=r"wait for each other: a\.sql, line 4 reads tb; b.sql, line 4 reads ta"):
        ordered(steps, {})


def test_packaged_steps_write_disjoint_slices() -> None:
    seen: dict[str, list[str]] = {}
    for step in packaged_steps():
        seen.setdefault(step.writes, []).append(step.slice)
    for table, slices in seen.items():
        assert len(set(slices)) == len(slices), table
        assert len(slices) == 1 or "true" not in slices, table


@pytest.mark.parametrize(
    ("slices", "told"),
    [
        (("true", "true"), "where true and true"),
        (("k = 'x'", "true"), "where k = 'x' and true"),
        (("k = 'x'", "k = 'x'"), "must differ in the value of one column"),
        (("k = 'x'", "j = 'y'"), "must differ in the value of one column"),
    ],
)
def test_steps_whose_slices_overlap_are_refused_with_file_and_line(slices: tuple[str, str], told: str) -> None:
    steps = [simple(name, "t", slice=slice) for name, slice in zip("ab", slices, strict=True)]
    with pytest.raises(StepError, match=r"line 2 and b\.sql, line 2: both write t") as error:
        check_steps(steps, ["t"])
    assert told in str(error.value)


def test_a_table_that_there_is_not_is_named_with_its_line() -> None:
    text = header().replace("FROM own AS o JOIN Features", "FROM own AS o\nJOIN Futures")
    with pytest.raises(StepError, match=r"shout.sql, line 13: .*no table or view 'futures'"):
        check_steps([parse_step(text, "shout.sql")], ["labels", "features", "shouts"])


@pytest.mark.parametrize("source", ["read_parquet('/etc/x')", "sqlite_scan('a', 'b')", "'file.parquet'"])
def test_a_table_from_outside_of_the_catalog_is_refused(source: str) -> None:
    text = header().replace("JOIN Features AS f", f"JOIN {source} AS f")
    with pytest.raises(StepError, match=r"shout.sql, line 1[23]"):
        check_steps([parse_step(text, "shout.sql")], ["labels", "features", "shouts"])


@pytest.mark.parametrize(
    ("query", "parents"),
    [
        ("SELECT 1 FROM (WITH a AS (FROM b) FROM a) AS x JOIN a ON true", {"a", "b"}),
        ("WITH a AS (FROM a) FROM a", {"a"}),
        ("WITH a AS (FROM c), b AS (SELECT * FROM a UNION ALL FROM d) FROM b WHERE x IN (FROM e)", {"c", "d", "e"}),
        ("WITH RECURSIVE a AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM a JOIN t ON n < t.k) FROM a", {"t"}),
        ("SELECT (SELECT max(x) FROM a) FROM b SEMI JOIN c ON true, unnest([1]) AS u", {"a", "b", "c"}),
    ],
)
def test_parents_follow_from_the_scope_of_each_name(query: str, parents: set[str]) -> None:
    assert parse_step(f"-- step: a\n-- writes: a\n-- key: x\n-- doc: d\n{query}", "a.sql").parents == parents


def test_each_column_of_a_step_is_traced_to_the_columns_it_is_made_of() -> None:
    sources = column_sources(
        "WITH own AS (SELECT sae, feature + 1 AS next FROM labels) "
        "SELECT o.sae, o.next * f.firings AS x FROM own AS o JOIN features AS f ON f.feature = o.next",
        SCHEMA,
    )
    assert sources == {"sae": ["labels.sae"], "x": ["features.firings", "labels.feature"]}


# --- fingerprint

SCHEMA = {
    "labels": {"sae": "VARCHAR", "feature": "INTEGER", "label": "VARCHAR"},
    "features": {"feature": "INTEGER", "firings": "BIGINT"},
    "shouts": {"sae": "VARCHAR", "feature": "INTEGER", "shout": "VARCHAR"},
}


def fingerprint(text: str, **parameters: Any) -> str:
    step = parse_step(text, "shout.sql")
    return fingerprint_of(step.made_of({**step.parameters, **parameters}, SCHEMA))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("WITH own", "-- a remark\nWITH own"),
        ("SELECT o.sae", "SELECT /* why */ o.sae"),
        ("FROM own AS o JOIN", "FROM own AS o\n\n    JOIN"),
        ("SELECT sae, feature FROM labels", "select SAE, feature from LABELS"),
        ("own AS o", "own o"),
        ("SELECT o.sae, o.feature", "SELECT sae, o.feature AS feature"),
        ("SELECT sae, feature FROM labels", "SELECT labels.sae, labels.feature FROM labels"),
        ("-- doc: a step: with a colon", "-- doc: other words"),
    ],
)
def test_a_cosmetic_edit_changes_no_fingerprint(old: str, new: str) -> None:
    assert old in TEXT
    assert fingerprint(TEXT.replace(old, new)) == fingerprint(TEXT)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("o.feature, $k", "o.feature + 1, $k"),
        ("'loud'", "'Loud'"),
        ("-- param: k = 3", "-- param: k = 4"),
        ("-- key: sae, feature", "-- key: feature"),
        ("kernels.labels:labels", "kernels.judgements:judgements"),
        ("-- prompts: interpreter", "-- prompts: predictor"),
    ],
)
def test_an_edit_that_matters_changes_the_fingerprint(old: str, new: str) -> None:
    assert old in TEXT
    assert fingerprint(TEXT.replace(old, new)) != fingerprint(TEXT)


def test_a_parameter_of_the_study_changes_the_fingerprint() -> None:
    assert fingerprint(TEXT, k=4) != fingerprint(TEXT)


def test_a_kernels_source_has_the_modules_that_it_uses_without_their_comments() -> None:
    source = kernel_source("scoring.kernels.labels:labels")
    kernel = ("kernels.labels", "explainers.lexical", "explainers.llm", "windows", "prompts.parse")
    assert {f"scoring.{module}" for module in kernel} <= source.keys()
    assert "Sorted, because a product" not in "".join(source.values())
    assert not [module for module in source if module.startswith("catalog")]


@pytest.mark.parametrize(
    ("step", "counts", "does_not"),
    [
        ("decoder_vectors", "catalog.vectors.collections", "ingest.sae.losses.auxk"),
        ("label_vectors", "ingest.model.text_encoder", "ingest.sae.model"),
        ("logit_lens", "ingest.sae.layout.fold", "ingest.sae.products.triton_sums"),
        ("labels", "scoring.explainers.lexical", "catalog.vectors.collections"),
    ],
)
def test_the_code_that_decides_a_kernels_rows_counts_and_no_other(step: str, counts: str, does_not: str) -> None:
    known = {step.name: step for step in packaged_steps()}[step]
    source = kernel_source(known.kernel or "", known.code)
    assert counts in source
    assert does_not not in source
    assert set(known.code) <= {module.rpartition(".")[0] for module in source} | source.keys()


def test_a_step_whose_code_is_nowhere_is_refused() -> None:
    with pytest.raises(StepError, match=r"'ingest\.model\.lense' is no module of saeql"):
        kernel_source("scoring.kernels.logit_lens:logit_lens", ["ingest.model.lense"])


def test_an_edit_of_a_helper_of_a_kernel_changes_the_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, parse = source_module._module_file, "scoring.prompts.parse"
    helper = tmp_path / "parse.py"
    monkeypatch.setattr(source_module, "_module_file", lambda name: helper if name == parse else found(name))
    prints = []
    for text in ("X = 1\n", "# why\nX  =  1\n", '"""Doc."""\nX = 1\n', "X = 2\n"):
        helper.write_text(text)
        prints.append(fingerprint(TEXT))
    assert prints[0] == prints[1] == prints[2] != prints[3]


def test_an_edit_of_a_prompt_changes_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(TEXT)
    monkeypatch.setattr(step_module, "template_text", lambda name: "other")
    assert fingerprint(TEXT) != before


def test_a_table_named_with_its_schema_is_refused() -> None:
    with pytest.raises(StepError, match=r"s.sql, line 6: a step names its tables alone, without main\."):
        parse_step(
            "-- step: s\n-- writes: leaks\n-- key: corpus\n-- doc: d\nSELECT *\nFROM lake.main.tokens\n", "s.sql"
        )

"""An ingest says what it left out itself; how much earlier ones did is a number."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from queries.cli.main import main

STUDY = """
name = "left"

[[corpus]]
name = "docs"
kind = "jsonl"
files = ["docs.jsonl"]

[[sae]]
name = "sae"
width = 64
k = 4
steps = 2
batch = 32

[evaluation]
tokens = 0
"""


def left_out(study: Path) -> list[str]:
    """The lines of an ingest that speak of what was left out."""
    result = CliRunner().invoke(main, ["ingest", str(study)])
    assert result.exit_code == 0, result.output
    return [line for line in result.stderr.splitlines() if line.startswith("left out")]


@pytest.mark.slow
def test_what_was_left_out_before_is_counted_and_what_is_new_is_named(tmp_path: Path) -> None:
    study, text = tmp_path / "study.toml", tmp_path / "docs.jsonl"
    study.write_text(STUDY)
    lines = [f'{{"text": "document {n} about matrices, eigenvalues and {n * 37} other words"}}' for n in range(60)]
    text.write_text("\n".join([*lines, '{"text": null}']) + "\n")
    first = "left out (text:docs): docs.jsonl:61: no text under 'text' (1)"
    assert [line.replace(f"{tmp_path}/", "") for line in left_out(study)] == [first]
    earlier = 'left out earlier: 1; `saeql sql "FROM problems"` lists them'
    assert left_out(study) == [earlier]
    text.write_text(text.read_text() + "no JSON\n")
    new, said = left_out(study)
    assert "docs.jsonl:62: line that is not JSON (1)" in new
    assert said == earlier

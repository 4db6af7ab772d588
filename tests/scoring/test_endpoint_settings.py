"""Settings of explainers and scorers: what a study may say, and what a catalog may hold."""

import json
import re
from pathlib import Path

import pytest

from catalog.errors import CatalogError, StudyError
from catalog.study.file import Study
from scoring.kernels.counted_client import read_settings
from tests.queries.made import explainer

NOT_OURS = ["{}", "[]", "no", "null", "[" * 9999, '{"jobs": -1}', '{"base_url": 7}', '{"request": {"stream": true}}']
NOT_OURS += ['{"retries": "x"}', '{"price_prompt": NaN}', '{"sampling": []}', '{"max_tokens": true}']
SECTION = 'name = "s"\n[[explainer]]\nname = "a"\nprovider = "openai"\nmodel = "m"\n'


@pytest.mark.parametrize("settings", NOT_OURS)
def test_settings_that_saeql_did_not_write_are_an_error(settings: str) -> None:
    row = explainer("evil", "openai")
    said = json.dumps({**json.loads(row["settings"]), **json.loads(settings)}) if settings[:2] == '{"' else settings
    with pytest.raises(CatalogError, match="the explainer 'evil' of the catalog has no usable"):
        read_settings({**row, "settings": said}, "explainer")
    assert read_settings(row, "explainer") == {**json.loads(row["settings"]), "provider": row["provider"]}


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ("{ stream = true }", "saeql reads an answer whole"),
        ("{ n = 2 }", "saeql reads one answer"),
        ("{ messages = [] }", "saeql writes the messages"),
        ('{ model = "x" }', "the section's own key"),
        ('{ api_key = "hunter2" }', "the key is OPENAI_API_KEY"),
        ('{ Authorization = "hunter2" }', "the key is OPENAI_API_KEY"),
        ("{ max_tokens = 0 }", "at least 1, or false to leave it out, not 0"),
        ("{ max_completion_tokens = false }", "at least 1, not False"),
        ("{ seed = 2020-01-01 }", "should be a text, a finite number"),
        ("{ x = { y = [nan] } }", "x.y should be a text, a finite number"),
        ("7", "request"),
    ],
)
def test_what_a_request_cannot_hold_is_refused_with_the_reason(tmp_path: Path, own: str, reason: str) -> None:
    with pytest.raises(StudyError, match=re.escape(reason)) as caught:
        Study.parse(f"{SECTION}request = {own}\n", tmp_path)
    assert "hunter2" not in str(caught.value)

"""[[scorer]] sections of each protocol: what a study may say, and what becomes of it in the catalog."""

import json
from pathlib import Path

import pytest

from catalog.errors import SaeqlError
from catalog.study.file import Study
from catalog.study.tables import configuration_rows

OPENAI = 'provider = "openai"\nmodel = "m"\n'


def scorers(tmp_path: Path, *sections: str) -> list[dict[str, object]]:
    text = 'name = "s"\n' + "".join(f'[[scorer]]\nname = "s{n}"\n{said}\n' for n, said in enumerate(sections))
    return configuration_rows(Study.parse(text, tmp_path))["scorers"]


def test_each_protocol_has_its_number_of_windows_and_nulls(tmp_path: Path) -> None:
    rows = scorers(
        tmp_path,
        "",
        'protocol = "fuzzing"',
        'protocol = "embedding"',
        'protocol = "example_embedding"',
        OPENAI + 'protocol = "intruder"',
        OPENAI + 'protocol = "fuzzing"',
    )
    assert [(row["protocol"], row["examples"], row["nulls"]) for row in rows] == [
        ("detection", 100, 5),
        ("fuzzing", 100, 5),
        ("embedding", 50, 5),
        ("example_embedding", 50, 5),
        ("intruder", 50, 1),
        ("fuzzing", 50, 1),
    ]


def test_the_settings_of_an_older_study_are_the_same_text(tmp_path: Path) -> None:
    plain, hard = scorers(tmp_path, "", 'protocol = "fuzzing"\nnegatives = "firing"')
    assert "negatives" not in str(plain["settings"])
    assert json.loads(str(hard["settings"]))["negatives"] == "firing"


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ('protocol = "guess"', "scorer[0].protocol"),
        (OPENAI + 'protocol = "embedding"', "'embedding' asks no language model: leave out provider"),
        (OPENAI + 'protocol = "example_embedding"', "'example_embedding' asks no language model"),
        ('protocol = "intruder"', "'intruder' asks a language model: name a provider and its model"),
        (OPENAI + 'protocol = "intruder"\nbatch = 2', "an intruder stands among at least 2 others"),
        ('protocol = "fuzzing"\nnegatives = "loud"', "scorer[0].negatives"),
    ],
)
def test_a_section_that_cannot_be_is_refused(section: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(SaeqlError) as error:
        scorers(tmp_path, section)
    assert told in str(error.value)

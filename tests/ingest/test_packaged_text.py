"""Text that installed packages carry: files below a package's folder, licences, lines, and the topics of help()."""

import pydoc_data.topics
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import InputError, StudyError
from catalog.study.file import Study
from catalog.study.text import Corpus
from ingest.text.licences import MOST, REPEATED
from ingest.text.sources import read_corpus, source_fingerprint
from ingest.text.unusable import LeftOut


def read(**settings: Any) -> tuple[list[tuple[str, str]], LeftOut]:
    left_out: LeftOut = Counter()
    return list(read_corpus(Corpus(name="c", **settings), left_out)), left_out


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages with one that carries text, and fails when it is imported."""
    folder = tmp_path / "site[1]"
    texts = folder / "carrying_package" / "data"
    texts.mkdir(parents=True)
    (folder / "carrying_package" / "__init__.py").write_text("raise RuntimeError('imported')")
    (texts / "a.txt").write_text("One.\n\n  \nTwo. \r\nthree")
    (texts / "b.txt").write_text("Four.")
    monkeypatch.syspath_prepend(folder)
    return folder


def licence(folder: Path, package: str, **files: str | bytes) -> None:
    """Install a distribution that lists these files, a name's `__` for its `/`."""
    about = folder / f"{package}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    record = []
    for name, text in files.items():
        path = about / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        record.append(f"{path.relative_to(folder).as_posix()},,")
    (about / "RECORD").write_text("\n".join([*record, f"{about.name}/licenses/LICENSE-gone,,"]))


@pytest.mark.parametrize("pattern", ["data/*.txt", "**/*.txt", "data/?.txt"])
def test_files_of_a_package_are_found_by_pattern_and_the_package_is_not_imported(installed: Path, pattern: str) -> None:
    found, _ = read(kind="text", files=(f"package:carrying_package/{pattern}",))
    assert found == [("a.txt", "One.\n\n  \nTwo. \r\nthree"), ("b.txt", "Four.")]
    assert "carrying_package" not in sys.modules


def test_lines_are_documents_placed_by_line_and_blank_ones_are_none(installed: Path) -> None:
    found, left_out = read(kind="lines", files=("package:carrying_package/data/a.txt",))
    assert found == [("a.txt:1", "One."), ("a.txt:4", "Two. "), ("a.txt:5", "three")]
    assert not left_out


def test_lines_that_cannot_be_used_are_counted_by_line(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"caf\xe9\nlonger than ten\nshort\n")
    found, left_out = read(kind="lines", files=(str(tmp_path / "t"),), max_line_bytes=10)
    assert found == [("t:3", "short")]
    assert left_out == {("t:1", "text that is not UTF-8"): 1, ("t:2", "text of more than 10 bytes"): 1}


def test_a_file_without_a_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("\n \n")
    with pytest.raises(InputError, match="is empty: it holds no line for corpus 'c'"):
        read(kind="lines", files=(str(tmp_path / "t"),))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ("package:no_such_package/a.txt", "a.txt comes with the package 'no_such_package', which is not installed"),
        ("package:os.path/a.txt", "'os.path', which is not installed"),
        ("package:sys/a.txt", "'sys', which is not installed"),
        ("package:carrying_package/data/*.md", "carries no file 'data/*.md'"),
        ("package:carrying_package/data", "carries no file 'data'"),
    ],
)
def test_a_packaged_file_that_is_not_there_is_named(installed: Path, files: str, said: str) -> None:
    with pytest.raises(InputError) as raised:
        read(kind="text", files=(files,))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("files", ["package:carrying_package", "package:", "package:a/../b.txt", "package:/etc/passwd"])
def test_a_pattern_that_leaves_the_package_is_a_mistake_of_the_study(files: str) -> None:
    with pytest.raises(StudyError, match=r"corpus\[0\].files\[0\]: '.*' is no file of a package"):
        Study.parse(f'name = "s"\n[[corpus]]\nname = "c"\nkind = "text"\nfiles = ["{files}"]\n', Path())


def test_each_paragraph_of_the_licences_comes_once_whatever_its_line_breaks(installed: Path) -> None:
    licence(installed, "beta", licenses__LICENSE="MIT License\n\nCopyright (c) Beta\n\nTHE SOFTWARE IS\nPROVIDED\n")
    licence(
        installed, "Alpha", **{"LICENCE.txt": "MIT license\r\n\r\nCopyright (c) Alpha\n \nThe software  is provided."}
    )
    found, left_out = read(kind="licences", packages=("Alpha", "beta"))
    assert found == [
        ("Alpha/LICENCE.txt", "MIT license\n\nCopyright (c) Alpha\n\nThe software  is provided."),
        ("beta/LICENSE", "Copyright (c) Beta"),
    ]
    assert left_out == {("beta", REPEATED): 2}


def test_a_long_licence_is_several_documents_cut_between_paragraphs(installed: Path) -> None:
    paragraphs = [f"{number} " + "word " * 300 for number in range(5)]
    licence(installed, "alpha", NOTICE="\n\n\n".join(paragraphs), AUTHORS="Ada", **{"license.py": "x = 1"})
    found, _ = read(kind="licences", packages=("alpha",))
    # 1,502 characters each: two fit.
    assert [text for _, text in found] == ["\n\n".join(paragraphs[at : at + 2]) for at in (0, 2, 4)]
    assert all(len(text) <= MOST for _, text in found)


def test_a_licence_that_is_not_utf8_is_counted(installed: Path) -> None:
    licence(installed, "alpha", COPYING=b"caf\xe9", LICENSE="fine")
    found, left_out = read(kind="licences", packages=("alpha",))
    assert found == [("alpha/LICENSE", "fine")]
    assert left_out == {("alpha/COPYING", "text that is not UTF-8"): 1}


def test_without_packages_the_licences_of_all_that_is_installed_are_read(installed: Path) -> None:
    licence(installed, "aaaa", LICENSE="A paragraph of its own.")
    found, _ = read(kind="licences")
    assert found[0] == ("aaaa/LICENSE", "A paragraph of its own.")
    assert {"torch", "numpy"} <= {place.partition("/")[0] for place, _ in found}
    assert len({text for _, text in found}) == len(found)


def test_the_licence_of_a_package_that_is_not_installed_is_refused() -> None:
    with pytest.raises(InputError, match=r"'no_such_package' is not installed.*pip list"):
        read(kind="licences", packages=("no_such_package",))


def test_another_version_of_a_package_is_another_source(installed: Path) -> None:
    licence(installed, "alpha", LICENSE="fine")
    section = Corpus(name="c", kind="licences", packages=("alpha",))
    before = source_fingerprint(section)
    assert source_fingerprint(section) == before
    about = installed / "alpha-1.0.dist-info" / "METADATA"
    about.write_text(about.read_text().replace("1.0\n", "1.1\n"))
    assert source_fingerprint(section) != before


def test_the_topics_of_help_are_read_by_section() -> None:
    texts = [text for place, text in read(packages=("pydoc_data",))[0] if place == "pydoc_data/topics"]
    # All lines but blank ones, in order: sections are the topics, cut and not changed.
    lines = [line for topic in pydoc_data.topics.topics.values() for line in said(topic)]
    assert [line for text in texts for line in text.splitlines() if line.strip()] == lines
    assert sum(text.startswith("Boolean operations\n***") for text in texts) >= 1
    assert len(texts) > len(pydoc_data.topics.topics)


def said(topic: str) -> list[str]:
    return [line for line in topic.partition("\nRelated help topics:")[0].strip().splitlines() if line.strip()]

"""Docstrings are parsed out of source files, outermost first; a package that has none to read is named."""

import ast
import sys
from pathlib import Path

import pytest

from catalog.errors import InputError
from ingest.text.docstrings import file_docstrings, package_files

SOURCE = '''"""Of the module."""
x = "no docstring"


class C:
    """Of the class.

    Flush.
        Indented.
    """

    def f(self):
        """Of the method."""

        def inner():
            """Of the inner function: 日本."""

    async def g(self):
        """Of the coroutine."""

    def h(self):
        """   """
'''


def test_docstrings_of_modules_classes_and_functions_are_found_and_dedented() -> None:
    assert list(file_docstrings(SOURCE)) == [
        "Of the module.",
        "Of the class.\n\nFlush.\n    Indented.",
        "Of the method.",
        "Of the coroutine.",
        "Of the inner function: 日本.",
    ]


def test_docstrings_come_as_a_walk_over_all_nodes_finds_them() -> None:
    nested = (
        "try:\n def f(): 'in try'\nexcept E:\n class C:\n  'in except'\n  x = lambda: 0\nelse:\n def g(): 'in else'\n"
    )
    nested += "match x:\n case 1:\n  async def h(): 'in case'\nwith a as b:\n for i in c:\n  def k(): 'in for'\n"
    sources = [nested, *(path.read_text() for path in list(package_files("sympy.core"))[:20])]
    for source in sources:
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        found = [ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
        assert list(file_docstrings(source)) == [text for text in found if text and text.strip()]
    assert len(list(file_docstrings(nested))) == 5


def test_source_without_docstrings_gives_none() -> None:
    assert list(file_docstrings("x = 1\n")) == []


@pytest.mark.parametrize("source", ["def f(:", "x = '\0'"])
def test_source_that_does_not_parse_raises(source: str) -> None:
    with pytest.raises((SyntaxError, ValueError)):
        list(file_docstrings(source))


def test_odd_escapes_give_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    assert list(file_docstrings('"""A \\d escape."""')) == ["A \\d escape."]
    assert not recwarn.list


def test_the_files_of_a_package_come_sorted_and_from_its_subpackages() -> None:
    files = list(package_files("catalog"))
    assert files == sorted(files)
    assert {"catalog.py", "errors.py"} <= {path.name for path in files}
    assert any(path.parent.name == "text" for path in package_files("ingest"))


def test_a_module_of_one_file_is_a_package_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lonely_module.py").write_text('"""One file."""')
    monkeypatch.syspath_prepend(tmp_path)
    assert list(package_files("lonely_module")) == [tmp_path / "lonely_module.py"]


def test_the_standard_library_has_no_installed_packages() -> None:
    names = {path.parts[-2:] for path in package_files("stdlib")}
    assert ("json", "decoder.py") in names
    assert not any("site-packages" in path.parts for path in package_files("stdlib"))


def test_files_are_parsed_and_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "explosive_package"
    package.mkdir()
    (package / "__init__.py").write_text('"""Docs."""\nraise RuntimeError("imported")')
    monkeypatch.syspath_prepend(tmp_path)
    assert [text for path in package_files("explosive_package") for text in file_docstrings(path.read_text())] == [
        "Docs."
    ]
    assert "explosive_package" not in sys.modules


@pytest.mark.parametrize("name", ["no_such_package", "no_such_package.part", ".."])
def test_a_package_that_is_not_installed_is_named(name: str) -> None:
    with pytest.raises(InputError, match=r"is not installed.*'stdlib'") as raised:
        list(package_files(name))
    assert repr(name) in str(raised.value)


@pytest.mark.parametrize("name", ["sys", "_ctypes"])
def test_a_compiled_module_has_no_source_and_says_so(name: str) -> None:
    with pytest.raises(InputError, match="is compiled"):
        list(package_files(name))

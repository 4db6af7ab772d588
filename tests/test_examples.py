"""What docstrings, README and --help show is run or parsed: nothing there is out of date."""

import doctest
import re
import shlex
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest

from queries.cli.examples import EXAMPLES
from queries.cli.main import main
from queries.session import connect

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
_ENDS = {"|", "&&", ";", ">"}


def modules() -> Iterator[str]:
    """Modules with an example in a docstring."""
    for folder in ("catalog", "ingest", "scoring", "queries", "saeql.py"):
        place = REPOSITORY / folder
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            if re.search(r"^\s*>>> ", path.read_text(encoding="utf-8"), re.MULTILINE):
                yield ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


def test_the_examples_of_docstrings_give_what_they_show(built: Path) -> None:
    names = list(modules())
    assert {"saeql", "queries.session", "queries.terminal.answer"} <= set(names)
    said: list[str] = []
    with connect(built) as cat:
        for name in names:
            module = import_module(name)
            runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
            for example in doctest.DocTestFinder().find(module, globs={**vars(module), "cat": cat, "root": built}):
                runner.run(example, out=said.append)
    assert not said, "".join(said)


def test_the_python_of_the_readme_runs(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(built, tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    assert PYTHON
    for block in PYTHON:
        exec(compile(block, "README.md", "exec"), {})


def shown_commands() -> list[str]:
    """Lines of blocks in README and docs/ that begin with `saeql` or `$ saeql`, with the lines that quotes span."""
    found: list[str] = []
    pages = [README, *(page.read_text(encoding="utf-8") for page in sorted((REPOSITORY / "docs").glob("*.md")))]
    lines = iter("\n".join(pages).splitlines())
    for line in lines:
        if begin := re.match(r"(?:    |\$ )(?:\$ )?(saeql .*)", line):
            text = begin[1]
            while _open_quote(text):
                text += "\n" + next(lines)
            found.append(text)
    return found


def _open_quote(text: str) -> bool:
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return True
    return False


def parsed(line: str) -> click.Context:
    """The context of a command line, which shows that the command is there and takes these options."""
    words = shlex.split(line, comments=True)[1:]
    end = next((i for i, word in enumerate(words) if word in _ENDS), len(words))
    group = main.make_context("saeql", words[:end])
    name, command, rest = main.resolve_command(group, [*group._protected_args, *group.args])
    assert command is not None
    assert name is not None
    return command.make_context(name, rest, parent=group)


def test_the_commands_of_the_readme_are_there_with_their_options() -> None:
    commands = shown_commands()
    assert len(commands) > 20
    for line in commands:
        try:
            parsed(line)
        except click.ClickException as error:
            pytest.fail(f"{line}: {error.format_message()}")
    with pytest.raises(click.UsageError):
        parsed("saeql sql --no-such-option 'SELECT 1'")


@pytest.mark.parametrize("name", sorted(main.commands))
def test_help_shows_an_example_that_can_be_run(name: str) -> None:
    command = main.commands[name]
    with click.Context(main, info_name="saeql") as parent:
        text = command.get_help(click.Context(command, info_name=name, parent=parent))
    assert EXAMPLES[name]
    for line in EXAMPLES[name]:
        # As it is typed: click has not filled it into a paragraph.
        assert f"  {line}\n" in f"{text}\n"
        assert parsed(line).info_name == name

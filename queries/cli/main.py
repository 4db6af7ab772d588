"""`saeql`: the group of commands, and what an error becomes (a sentence on stderr and an exit code)."""

import sys
from typing import Any

import click

from catalog.errors import SaeqlError, StudyError
from catalog.store.location import Location
from queries.cli import interruption
from queries.cli.ask import search, show, sql
from queries.cli.build import add, demo, ingest, init
from queries.cli.care import doctor, hookpoints
from queries.cli.check import check
from queries.cli.compare import study, sweep
from queries.cli.early import start_early
from queries.cli.examples import epilog
from queries.cli.failures import argument_problem, check_folder, described_bug, told
from queries.cli.place import Place, hide_password
from queries.cli.refresh import plan, refresh
from queries.cli.versions import blame, diff, gc, log, rollback, tag
from queries.terminal.control_characters import guarded


class _Group(click.Group):
    """Turns our errors into messages; a user's mistake never shows a stack trace."""

    def main(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        if not args and not kwargs:
            hide_password()
        interruption.at_home = not args and not kwargs
        with guarded():
            self._run(*args, **kwargs)

    def _run(self, *args: Any, **kwargs: Any) -> None:
        try:
            problem = argument_problem(kwargs.get("args") or (args[0] if args and args[0] else sys.argv[1:]))
            if problem:
                raise click.UsageError(problem)
            check_folder()
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
            # What the stream holds back may fail to be written, which is an error as any other.
            sys.stdout.flush()
            # Not standalone, click returns the code of `context.exit` instead of leaving with it.
            code = code if isinstance(code, int) else 0
            interruption.leave(code)
            sys.exit(code)
        except click.exceptions.Exit as done:
            sys.exit(done.exit_code)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            click.echo("interrupted; what was committed is kept", err=True)
            interruption.leave()
            sys.exit(interruption.EXIT_CODE)
        except SaeqlError as error:
            # Text in a message may have lines: only those of a study's mistakes, which are ours, begin on the left.
            said = str(error) if isinstance(error, StudyError) else str(error).replace("\n", "\n  ")
            # Without color=True click removes escape sequences where there is no terminal, instead of spelling them.
            click.echo(f"saeql: {said}", err=True, color=True)
            sys.exit(error.exit_code)
        except BrokenPipeError:
            # The reader (head, less) has seen enough.
            sys.exit(1)
        except BaseException as error:
            if isinstance(error, SystemExit | GeneratorExit):
                raise
            sentence = told(error)
            click.echo(f"saeql: {sentence}" if sentence else described_bug(error), err=True, color=True)
            sys.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "color": True})
@click.option(
    "-C",
    "--catalog",
    "location",
    envvar="SAEQL_CATALOG",
    type=Place(),
    help="Catalog to work on: a folder, or postgres://USER@HOST/DATABASE?data=FOLDER.",
)
@click.version_option(package_name="saeql", prog_name="saeql")
@click.pass_context
def main(context: click.Context, location: Location | None) -> None:
    """A catalog of the features of sparse autoencoders, with SQL as its interface.

    Start with `saeql demo`. A setting is taken from the flag, then SAEQL_*, then the study, then the default.
    """
    context.obj = location


for command in (
    demo,
    init,
    ingest,
    add,
    plan,
    refresh,
    sweep,
    study,
    sql,
    search,
    show,
    log,
    diff,
    blame,
    rollback,
    tag,
    gc,
    doctor,
    check,
    hookpoints,
):
    command.epilog = epilog(str(command.name))
    main.add_command(command)

__all__ = ["main"]

if __name__ == "__main__":
    start_early(sys.argv[1:])
    main()

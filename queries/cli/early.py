"""Whether the process of a query can be started before the command line is read, and starting it."""


def start_early(arguments: list[str]) -> None:
    """Start the process of a query if the command is one; not for an address, whose password is hidden first."""
    if asks(arguments) and not any("://" in argument for argument in arguments):
        from queries.ask.door import prepare
        from queries.ask.lean import without_numpy

        prepare()
        without_numpy()


def asks(arguments: list[str]) -> bool:
    """Whether the command is `sql`.

    >>> asks(["-C", "demo", "sql", "SELECT 1"]), asks(["search", "sql"]), asks(["sql", "--help"])
    (True, False, False)
    """
    words = iter(arguments)
    for word in words:
        if word in ("-C", "--catalog"):
            next(words, None)
        elif not word.startswith("-"):
            return word == "sql" and not {"-h", "--help"} & set(arguments)
    return False

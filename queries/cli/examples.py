"""An example or two of each command, as its --help shows them."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "add": ("saeql add docstrings CHANGELOG.md", "saeql add answers more.jsonl.gz --field text"),
    "blame": ("saeql blame 917", "saeql blame layer6 917 --json"),
    "check": ("saeql check checks.toml", "saeql check checks.toml --against before --json"),
    "demo": ("saeql demo", "saeql demo /tmp/demo"),
    "diff": ("saeql diff before", "saeql diff 20 25 --table scores --limit 10"),
    "doctor": ("saeql doctor", "saeql -C mystudy doctor --json"),
    "gc": ("saeql gc --keep-days 30 --dry-run", "saeql gc --keep-days 30"),
    "hookpoints": ("saeql hookpoints embedded", "saeql hookpoints models/pythia-160m --layer 6"),
    "ingest": (
        "saeql ingest mystudy/study.toml --dry-run",
        "saeql ingest mystudy/study.toml",
        "saeql -C /data/saes ingest study.toml --wait 600",
    ),
    "init": ("saeql init mystudy", "saeql init 'postgres://me@db.lab/saes?data=/shared/saes'"),
    "log": ("saeql log -n 5", "saeql log --table labels --json"),
    "plan": ("saeql plan", "saeql plan labels --explain labels"),
    "refresh": ("saeql refresh", "saeql refresh labels --where 'feature < 100' --max-cost 2.50"),
    "rollback": ("saeql rollback labels --to before", "saeql rollback contexts_top --to 20 --downstream"),
    "search": ('saeql search "string formatting"', 'saeql search "linear algebra" -k 3 --json'),
    "show": ("saeql show 398", "saeql show 398 --sae layer6 --contexts 20"),
    "sql": (
        'saeql sql "SELECT feature, label, f1 FROM features WHERE f1 > 0.7"',
        "saeql sql 'FROM features WHERE sae = $sae' -p sae layer6 --parquet features.parquet",
    ),
    "study": ("saeql study ssae", "saeql study ssae mystudy --pool web.jsonl --seed notes.jsonl --ood answers.jsonl"),
    "sweep": ("saeql sweep general --values 0.5,1,2,4 --seeds 0,1,2",),
    "tag": ("saeql tag release", "saeql tag before 20"),
}


def epilog(command: str) -> str:
    """The examples of a command, as click prints them below its options."""
    lines = EXAMPLES.get(command, ())
    title = "Example:" if len(lines) == 1 else "Examples:"
    # \b keeps click from filling the lines into one paragraph.
    return "\n".join(["\b", title, *(f"  {line}" for line in lines)]) if lines else ""

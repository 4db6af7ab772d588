"""Writes the rows of `evaluations`, and rows of `problems` for what cannot be measured."""

from catalog import Catalog
from catalog.quote import quoted
from catalog.store.transaction import Transaction
from ingest.text.held_out import MeasuredText

STAGE = "evaluation"


def record_problem(catalog: Catalog, corpus: str, split: str, reason: str | None, saes: list[str]) -> list[str]:
    """Say why nothing can be measured on a text, or no longer; those of `saes` whose rows on it were deleted."""
    subject, gone = f"{corpus}:{split}", []
    if reason:
        sql = "SELECT sae FROM evaluations WHERE corpus = ? AND split = ? AND list_contains(?, sae) ORDER BY sae"
        gone = [sae for (sae,) in catalog.rows(sql, [corpus, split, saes])]
    there = catalog.rows("SELECT reason FROM problems WHERE stage = ? AND subject = ?", [STAGE, subject])
    if not gone and there == ([(reason,)] if reason else []):
        return gone
    with catalog.write(f"evaluation of {corpus}, split {split}: {reason or 'possible now'}", removed=len(gone)) as tx:
        delete_rows(tx, corpus, split, gone)
        tx.execute("DELETE FROM lake.problems WHERE stage = ? AND subject = ?", [STAGE, subject])
        if reason:
            tx.insert("problems", [{"stage": STAGE, "subject": subject, "reason": reason, "count": 1}])
    return gone


def delete_rows(tx: Transaction, corpus: str, split: str, saes: list[str]) -> None:
    """What was measured of some SAEs on one text, and what was said of it."""
    tx.execute(
        "DELETE FROM lake.evaluations WHERE corpus = ? AND split = ? AND list_contains(?, sae)", [corpus, split, saes]
    )
    subjects = [subject_of(sae, corpus, split) for sae in saes]
    tx.execute("DELETE FROM lake.problems WHERE stage = ? AND list_contains(?, subject)", [STAGE, subjects])


def subject_of(sae: str, corpus: str, split: str) -> str:
    """Of a problem of one SAE on one text."""
    return f"{sae} on {corpus}:{split}"


def store_rows(
    catalog: Catalog,
    text: MeasuredText,
    rows: list[dict[str, object]],
    unexplained: dict[str, str],
    failed: dict[str, str],
) -> list[tuple[str, str, str]]:
    """The rows of some SAEs on one text, why some of them have no FVE, and others no row; those that lost theirs."""
    saes = [*(str(row["sae"]) for row in rows), *failed]
    there = "SELECT sae FROM evaluations WHERE corpus = ? AND split = ? AND list_contains(?, sae) ORDER BY sae"
    gone = [(sae, text.corpus, text.split) for (sae,) in catalog.rows(there, [text.corpus, text.split, list(failed)])]
    subjects = {sae: subject_of(sae, text.corpus, text.split) for sae in saes}
    problems = [
        {"stage": STAGE, "subject": subjects[sae], "reason": reason, "count": 1}
        for sae, reason in {**unexplained, **failed}.items()
    ]
    said = "SELECT subject, reason FROM problems WHERE stage = ? AND list_contains(?, subject)"
    known = set(catalog.rows(said, [STAGE, list(subjects.values())]))
    if not rows and not gone and known == {(row["subject"], row["reason"]) for row in problems}:
        return []
    ours, theirs = (", ".join(map(quoted, names)) for names in (subjects, subjects.values()))
    scope = f"corpus = {quoted(text.corpus)} AND split = {quoted(text.split)} AND sae IN ({ours})"
    problem = f"stage = {quoted(STAGE)} AND subject IN ({theirs})"
    with catalog.write(f"evaluation on {text.corpus}, split {text.split}", saes=len(rows)) as tx:
        tx.replace("evaluations", rows, ["sae", "corpus", "split"], scope)
        tx.replace("problems", problems, ["stage", "subject", "reason"], problem)
    return gone

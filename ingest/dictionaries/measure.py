"""Measures SAEs on text with the model running: how sparse they are, what they lose, and what that costs the model.

All SAEs of one corpus and split share one pass over its text. A clean pass and one ablated pass per hookpoint are
run for each batch, and one spliced pass per SAE; nothing is kept but sums (float64). Tokens that repeat train text
(`held_out`) are read as context, and not measured. Text is read in samples that double, documents by their hash, until
the cost of every SAE is known as exactly as is asked for: that takes some thousand tokens, and not all there are.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from catalog import Catalog
from catalog.errors import UnknownName
from ingest.activations.finite import default_batch
from ingest.callbacks import Counted
from ingest.dictionaries.evaluation_rows import STAGE, delete_rows, record_problem, store_rows
from ingest.dictionaries.spliced_run import SplicedRun
from ingest.dictionaries.stale_evaluations import inputs_of, measurements, outdated, unspliceable
from ingest.model.language_model import LanguageModel
from ingest.stored.reader import Reader

SPLITS = ("train", "val", "test")


@dataclass
class EvaluationReport:
    """What an evaluation did."""

    evaluated: list[tuple[str, str, str]] = field(default_factory=list)
    """(SAE, corpus, split) of the rows written."""
    current: list[tuple[str, str, str]] = field(default_factory=list)
    """Those whose row was made of the same inputs."""
    left_out: list[tuple[str, str, str]] = field(default_factory=list)
    """(corpus, split, reason): text that nothing can be measured on."""
    dropped: list[tuple[str, str, str]] = field(default_factory=list)
    """(SAE, corpus, split) of rows on such text that were deleted."""
    failed: list[tuple[str, str, str, str]] = field(default_factory=list)
    """(SAE, corpus, split, reason): what could not be measured, though others were."""
    tokens: int = 0
    """Tokens read."""


class Sample(NamedTuple):
    """How much of a text is measured."""

    max_tokens: int | None = None
    """Of each corpus and split; None for all."""
    precision: float = 0.0
    """Half the 95% interval of ce_spliced - ce_clean, as a share of ce_clean, at which it is enough; 0: never."""


def evaluate_text(
    catalog: Catalog,
    model: LanguageModel,
    readers: list[Reader],
    corpora: list[str],
    splits: tuple[str, ...] = ("val", "test"),
    max_tokens: int | None = None,
    progress: Counted | None = None,
) -> EvaluationReport:
    """As `evaluate_sample`, on all text up to `max_tokens`."""
    return evaluate_sample(catalog, model, readers, corpora, splits, Sample(max_tokens), progress)


def evaluate_sample(
    catalog: Catalog,
    model: LanguageModel,
    readers: list[Reader],
    corpora: list[str],
    splits: tuple[str, ...],
    sample: Sample,
    progress: Counted | None = None,
) -> EvaluationReport:
    """Bring the table `evaluations` up to date for every SAE on each split of the corpora, each committed when done.

    What was measured on the same model, SAE and text is left as it is. `max_tokens` is per corpus and split: documents
    are taken in the order of their hash until it is reached, so that new text changes few of them. With `precision`
    they are taken only until half the 95% interval of ce_spliced - ce_clean over 8 documents or more is at most this
    share of ce_clean, for every SAE that is measured here. A split without text
    is left out with a row in `problems`, and what these SAEs had on it goes; so is the FVE where an SAE's rows are all
    equal. An SAE of which `config.target_hookpoint` is set replaces what stands at that hookpoint and is measured
    against it. `progress` is told (tokens read, tokens to read).

    An SAE that cannot be measured, since the model cannot run with its hookpoint replaced or gives no finite loss, is a
    row in `problems`, and the others are measured. Of a model whose head cannot be called on its own nothing is.

    Raises UnknownName for a corpus, split or hookpoint that there is not, InputError for activations that are not
    finite, and for rows of another width than the SAE's.
    """
    _check_names(catalog, corpora, splits)
    max_tokens, precision = sample
    report, work = EvaluationReport(), []
    names = [reader.name for reader in readers]
    for one in measurements(catalog, model, readers, corpora, splits, max_tokens, precision):
        corpus, split = one.text.corpus, one.text.split
        report.dropped += [(sae, corpus, split) for sae in record_problem(catalog, corpus, split, one.unusable, names)]
        report.current += [(reader.name, corpus, split) for reader in one.current]
        if one.unusable:
            report.left_out.append((corpus, split, one.unusable))
        elif one.stale:
            work.append((one.text, one.stale))
    total = sum(text.tokens for text, _ in work)
    places = {r.name: r.sae.config.target_hookpoint or r.hookpoint for _, stale in work for r in stale}
    blocked = unspliceable(model, places)
    for text, stale in work:
        run = SplicedRun(catalog, model, stale, text, default_batch(model), blocked)
        before = report.tokens
        for tokens in run.batches(precision):
            report.tokens += tokens
            if progress:
                progress(report.tokens, total)
        # A text that was known soon enough leaves less to read.
        total -= text.tokens - (report.tokens - before)
        inputs = {reader.name: inputs_of(model, reader, text, max_tokens, precision) for reader in stale}
        rows = [row | {"max_tokens": max_tokens, "inputs": inputs[str(row["sae"])]} for row in run.rows()]
        report.dropped += store_rows(catalog, text, rows, run.unexplained(), run.failed)
        report.failed += [(sae, text.corpus, text.split, reason) for sae, reason in run.failed.items()]
        report.evaluated += [(str(row["sae"]), text.corpus, text.split) for row in rows]
    return report


def drop_stale(
    catalog: Catalog,
    model: LanguageModel,
    readers: list[Reader],
    asked: Mapping[str, Collection[tuple[str, str]]],
    max_tokens: int | None = None,
    precision: float = 0.0,
) -> int:
    """Delete, in one commit, what a measurement would now find otherwise on text that is no longer measured.

    `asked` has the (corpus, split) that a whole study measures each SAE on. A row on other text stays while model, SAE,
    text and `max_tokens` are as they were; after that it would stand beside new ones as if it were one of them.
    Problems of text that nobody asks for go too. Returns the number of rows.
    """
    ours = [reader for reader in readers if reader.name in asked]
    gone, kept = outdated(catalog, model, ours, asked, max_tokens, precision)
    known = {sae: {f"{corpus}:{split}" for corpus, split in texts} for sae, texts in asked.items()}
    known[""] = set().union(*known.values())
    for (corpus, split), saes in kept.items():
        for sae in saes:
            known[sae].add(f"{corpus}:{split}")
    said = [subject for (subject,) in catalog.rows("SELECT subject FROM problems WHERE stage = ?", [STAGE])]
    # A problem of a text names no SAE.
    places = {subject: subject.rpartition(" on ")[::2] for subject in said}
    stale = [subject for subject, (sae, text) in places.items() if sae in known and text not in known[sae]]
    count = sum(map(len, gone.values()))
    if not count and not stale:
        return 0
    with catalog.write(f"{count} evaluations that are neither asked for nor up to date", removed=count) as tx:
        for (corpus, split), saes in gone.items():
            delete_rows(tx, corpus, split, saes)
        tx.execute("DELETE FROM lake.problems WHERE stage = ? AND list_contains(?, subject)", [STAGE, stale])
    return count


def _check_names(catalog: Catalog, corpora: list[str], splits: tuple[str, ...]) -> None:
    known = [corpus for (corpus,) in catalog.rows("SELECT corpus FROM corpora ORDER BY corpus")]
    for corpus in corpora:
        if corpus not in known:
            raise UnknownName(f"there is no corpus {corpus!r}; the catalog has {', '.join(known) or 'none'}")
    for split in splits:
        if split not in SPLITS:
            raise UnknownName(f"there is no split {split!r}; the splits are {', '.join(SPLITS)}")

"""Measures SAEs on text with the model running: how sparse they are, what they lose, and what that costs the model.

All SAEs of one corpus and split share one pass over its text. A clean pass and one ablated pass per hookpoint are
run for each batch, and one spliced pass per SAE; nothing is kept but sums (float64). Tokens that repeat train text
(`held_out`) are read as context, and not measured.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from catalog import Catalog
from catalog.errors import UnknownName
from ingest.activations.finite import checked, default_batch
from ingest.dictionaries.evaluation_rows import STAGE, delete_rows, record_problem, store_rows
from ingest.dictionaries.stale_evaluations import inputs_of, measurements, outdated, unspliceable
from ingest.model.batches import Batch, Sequences, batches, load_sequences
from ingest.model.language_model import LanguageModel
from ingest.model.splice import CleanPass, run_clean, run_replaced
from ingest.sae.evaluate import Tally
from ingest.stored.reader import Reader
from ingest.text.held_out import MeasuredText

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


def evaluate_text(
    catalog: Catalog,
    model: LanguageModel,
    readers: list[Reader],
    corpora: list[str],
    splits: tuple[str, ...] = ("val", "test"),
    max_tokens: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> EvaluationReport:
    """Bring the table `evaluations` up to date for every SAE on each split of the corpora, each committed when done.

    What was measured on the same model, SAE and text is left as it is. `max_tokens` is per corpus and split: documents
    are taken in the order of their hash until it is reached, so that new text changes few of them. A split without text
    is left out with a row in `problems`, and what these SAEs had on it goes; so is the FVE where an SAE's rows are all
    equal. An SAE of which `config.target_hookpoint` is set replaces what stands at that hookpoint and is measured
    against it. `progress` is told (tokens read, tokens to read).

    An SAE that cannot be measured, since the model cannot run with its hookpoint replaced or gives no finite loss, is a
    row in `problems`, and the others are measured. Of a model whose head cannot be called on its own nothing is.

    Raises UnknownName for a corpus, split or hookpoint that there is not, InputError for activations that are not
    finite, and for rows of another width than the SAE's.
    """
    _check_names(catalog, corpora, splits)
    report, work = EvaluationReport(), []
    names = [reader.name for reader in readers]
    for one in measurements(catalog, model, readers, corpora, splits, max_tokens):
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
        run = _Run(catalog, model, stale, text, default_batch(model), blocked)
        for tokens in run.batches():
            report.tokens += tokens
            if progress:
                progress(report.tokens, total)
        inputs = {reader.name: inputs_of(model, reader, text, max_tokens) for reader in stale}
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
) -> int:
    """Delete, in one commit, what a measurement would now find otherwise on text that is no longer measured.

    `asked` has the (corpus, split) that a whole study measures each SAE on. A row on other text stays while model, SAE,
    text and `max_tokens` are as they were; after that it would stand beside new ones as if it were one of them.
    Problems of text that nobody asks for go too. Returns the number of rows.
    """
    ours = [reader for reader in readers if reader.name in asked]
    gone, kept = outdated(catalog, model, ours, asked, max_tokens)
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


class _Run:
    """One pass over the text of one corpus and split, for several SAEs."""

    def __init__(
        self,
        catalog: Catalog,
        model: LanguageModel,
        readers: list[Reader],
        text: MeasuredText,
        batch_tokens: int,
        blocked: Mapping[str, str],
    ):
        self._catalog, self._model, self._text = catalog, model, text
        self._batch_tokens = batch_tokens
        self.failed = {reader.name: blocked[reader.name] for reader in readers if reader.name in blocked}
        """Why some SAEs have no row, by name."""
        self._readers = readers = [reader for reader in readers if reader.name not in blocked]
        self._tallies = {reader.name: Tally(reader.sae) for reader in readers}
        self._targets = {reader.name: reader.sae.config.target_hookpoint or reader.hookpoint for reader in readers}
        self._hookpoints = [*(reader.hookpoint for reader in readers), *self._targets.values()]
        self._clean = 0.0
        self._ablated = dict.fromkeys(self._targets.values(), 0.0)
        self._spliced = dict.fromkeys(self._targets, 0.0)
        self._predictions = 0

    def batches(self) -> Iterator[int]:
        """Read all of the text; yields the tokens of each batch when it is done."""
        if not self._readers:
            return
        for shard in self._text.shards:
            sequences = self._text.within(load_sequences(self._catalog, self._text.corpus, shard))
            for batch in batches(sequences, self._model.bos, self._batch_tokens):
                self._measure(batch, sequences)
                yield len(batch.positions)

    def _measure(self, batch: Batch, sequences: Sequences) -> None:
        measured = torch.from_numpy(self._text.measured(batch.positions))
        if not bool(measured.any()):
            return
        clean = run_clean(self._model, batch, self._hookpoints)
        rows = {name: checked(output, batch, sequences, name) for name, output in clean.outputs.items()}
        measured = measured.to(self._model.device)
        predicted = _predicted(batch, measured)
        self._predictions += int(predicted.sum())
        self._clean += _summed(clean.losses[predicted])
        for target in self._ablated:
            zeros = torch.zeros_like(rows[target])
            self._ablated[target] += self._replaced(clean, target, zeros, predicted)
        for reader in self._readers:
            target = self._targets[reader.name]
            x = reader.fitting(rows[reader.hookpoint], reader.hookpoint, reader.sae.config.d_in)
            t = reader.fitting(rows[target], target, reader.sae.config.out)
            found = self._tallies[reader.name].add(x[measured], t[measured])
            x_hat = found.new_empty(len(x), found.shape[1])
            x_hat[measured] = found
            if not bool(measured.all()):
                # The model must read everything through the SAE, also what is not measured.
                x_hat[~measured] = reader.sae.decode(reader.sae.encode(x[~measured]), x[~measured])
            self._spliced[reader.name] += self._replaced(clean, target, x_hat, predicted)

    def _replaced(self, clean: CleanPass, target: str, rows: Tensor, predicted: Tensor) -> float:
        return _summed(run_replaced(self._model, clean, target, rows)[predicted])

    def _finite(self) -> list[Reader]:
        """Those SAEs whose losses are all finite; of the others `failed` says what is not."""
        for reader in self._readers:
            target = self._targets[reader.name]
            losses = {
                "the clean pass": self._clean,
                f"zeros in place of {target!r}": self._ablated[target],
                f"the SAE in place of {target!r}": self._spliced[reader.name],
            }
            wrong = [what for what, total in losses.items() if not np.isfinite(total)]
            if wrong:
                self.failed[reader.name] = f"{wrong[0]} gives a loss that is not finite: try dtype = 'float32'"
        return [reader for reader in self._readers if reader.name not in self.failed]

    def rows(self) -> list[dict[str, object]]:
        """Rows of `evaluations`, without what they were made from."""
        n = self._predictions
        found: list[dict[str, object]] = []
        for reader in self._finite():
            measured = self._tallies[reader.name].result()
            clean, spliced = self._clean / n, self._spliced[reader.name] / n
            ablated = self._ablated[self._targets[reader.name]] / n
            found.append(
                {
                    "sae": reader.name,
                    "corpus": self._text.corpus,
                    "split": self._text.split,
                    "documents": len(self._text.starts),
                    "tokens": measured.rows,
                    "repeated": len(self._text.repeated),
                    "predictions": n,
                    **{name: getattr(measured, name) for name in ("l0", "fve", "mse", "cosine", "dead", "dense")},
                    "ce_clean": clean,
                    "ce_spliced": spliced,
                    "ce_ablated": ablated,
                    "loss_recovered": (ablated - spliced) / (ablated - clean) if ablated != clean else None,
                }
            )
        return found

    def unexplained(self) -> dict[str, str]:
        """Why there is no FVE, by SAE, of those that have none."""
        ours = {name: tally for name, tally in self._tallies.items() if name not in self.failed}
        reasons = {name: tally.result().unexplained for name, tally in ours.items()}
        return {name: reason for name, reason in reasons.items() if reason}


def _summed(losses: Tensor) -> float:
    return float(losses.double().sum())


def _check_names(catalog: Catalog, corpora: list[str], splits: tuple[str, ...]) -> None:
    known = [corpus for (corpus,) in catalog.rows("SELECT corpus FROM corpora ORDER BY corpus")]
    for corpus in corpora:
        if corpus not in known:
            raise UnknownName(f"there is no corpus {corpus!r}; the catalog has {', '.join(known) or 'none'}")
    for split in splits:
        if split not in SPLITS:
            raise UnknownName(f"there is no split {split!r}; the splits are {', '.join(SPLITS)}")


def _predicted(batch: Batch, measured: Tensor) -> Tensor:
    """Which predictions `[predictions]` are of measured tokens, given which real tokens `[real tokens]` are."""
    of = torch.zeros_like(batch.real, device=measured.device)
    of[batch.real.to(measured.device)] = measured
    return of[:, 1:][batch.real[:, 1:].to(measured.device)]

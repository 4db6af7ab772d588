"""Runs several SAEs over the text of one corpus and split in the place that they describe, and adds up the measures."""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from catalog import Catalog
from ingest.activations.finite import checked
from ingest.dictionaries.paired_interval import FEWEST, interval
from ingest.dictionaries.row_figures import far_from
from ingest.model.batches import Batch, Sequences, batches, load_sequences
from ingest.model.language_model import LanguageModel
from ingest.model.splice import run_clean, run_replaced
from ingest.sae.evaluate import Tally
from ingest.stored.reader import Reader
from ingest.text.held_out import MeasuredText

FIRST_SAMPLE = 2048
"""Tokens that are read before the precision is looked at."""


class SplicedRun:
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
        self._predictions = self._documents = self._repeated = 0
        self._outliers = dict.fromkeys(self._targets, 0)
        self._counts = np.zeros(len(text.starts))
        """By document, its predictions."""
        self._increases = {name: np.zeros(len(text.starts)) for name in self._targets}
        """By SAE and document, the sum of spliced - clean over them."""

    def batches(self, precision: float = 0.0) -> Iterator[int]:
        """Read the text, all of it or until `precise`; yields the tokens of each batch when it is done."""
        if not self._readers:
            return
        for part in self._text.parts(FIRST_SAMPLE) if precision else [self._text]:
            self._documents += len(part.starts)
            self._repeated += part.repeats
            for shard in part.shards:
                sequences = part.within(load_sequences(self._catalog, part.corpus, shard))
                for batch in batches(sequences, self._model.bos, self._batch_tokens):
                    self._measure(batch, sequences)
                    yield len(batch.positions)
            if precision and self._precise(precision):
                return

    def _precise(self, precision: float) -> bool:
        """Whether the increase of every SAE's loss is known to this share of the clean loss."""
        if np.count_nonzero(self._counts) < FEWEST:
            return False
        halves = [interval(self._increases[name], self._counts).half for name in self._increases]
        return all(half is not None and half <= precision * self._clean / self._predictions for half in halves)

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
        documents = self._documents_of(batch, predicted)
        self._counts += np.bincount(documents, minlength=len(self._counts))
        for target in self._ablated:
            zeros = torch.zeros_like(rows[target])
            self._ablated[target] += _summed(run_replaced(self._model, clean, target, zeros)[predicted])
        for reader in self._readers:
            target = self._targets[reader.name]
            x = reader.fitting(rows[reader.hookpoint], reader.hookpoint, reader.sae.config.d_in)
            t = reader.fitting(rows[target], target, reader.sae.config.out)
            far = far_from(x, reader.median_norm) & measured
            self._outliers[reader.name] += int(far.sum())
            counted = measured & ~far
            x_hat = x.new_empty(len(x), t.shape[1])
            if bool(counted.any()):
                x_hat[counted] = self._tallies[reader.name].add(x[counted], t[counted]).to(x_hat)
            if not bool(counted.all()):
                # The model must read everything through the SAE, also what is not measured.
                x_hat[~counted] = reader.sae.decode(reader.sae.encode(x[~counted]), x[~counted]).to(x_hat)
            losses = run_replaced(self._model, clean, target, x_hat)[predicted].double()
            self._spliced[reader.name] += float(losses.sum())
            increase = (losses - clean.losses[predicted].double()).cpu().numpy()
            self._increases[reader.name] += np.bincount(documents, increase, len(self._counts))

    def _documents_of(self, batch: Batch, predicted: Tensor) -> npt.NDArray[np.int64]:
        """The document of each measured prediction, `[measured predictions]`, as a number within the text."""
        follows = batch.real.nonzero()[:, 1] > 0
        positions = batch.positions[follows.numpy()][predicted.cpu().numpy()]
        found: npt.NDArray[np.int64] = np.searchsorted(self._text.starts, positions, side="right") - 1
        return found

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
            if not self._tallies[reader.name].rows:
                self.failed[reader.name] = "every row that is measured has a norm above 10 times the SAE's median"
            elif wrong:
                self.failed[reader.name] = f"{wrong[0]} gives a loss that is not finite: try dtype = 'float32'"
        return [reader for reader in self._readers if reader.name not in self.failed]

    def rows(self) -> list[dict[str, object]]:
        """Rows of `evaluations`, without what they were made from."""
        n = self._predictions
        found: list[dict[str, object]] = []
        for reader in self._finite():
            measured = self._tallies[reader.name].result()
            low, high = interval(self._increases[reader.name], self._counts).ends
            clean, spliced = self._clean / n, self._spliced[reader.name] / n
            ablated = self._ablated[self._targets[reader.name]] / n
            found.append(
                {
                    "sae": reader.name,
                    "corpus": self._text.corpus,
                    "split": self._text.split,
                    "documents": self._documents,
                    "tokens": measured.rows,
                    "repeated": self._repeated,
                    "outliers": None if reader.median_norm is None else self._outliers[reader.name],
                    "predictions": n,
                    **{name: getattr(measured, name) for name in ("l0", "fve", "mse", "cosine", "dead", "dense")},
                    "ce_clean": clean,
                    "ce_spliced": spliced,
                    "ce_ablated": ablated,
                    "ce_increase_low": low,
                    "ce_increase_high": high,
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


def _predicted(batch: Batch, measured: Tensor) -> Tensor:
    """Whether each prediction `[predictions]` is of a measured token, given that of each token `[real tokens]`."""
    of = torch.zeros_like(batch.real, device=measured.device)
    of[batch.real.to(measured.device)] = measured
    return of[:, 1:][batch.real[:, 1:].to(measured.device)]

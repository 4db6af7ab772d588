"""Gives training rows straight from the model, without a cache on disk, from a buffer of two shards.

The order follows from seed and step, as with a cache: each epoch permutes the shards, two of them at a time are read
by the model and their train rows mixed. What a resumed run needs is computed again.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from catalog import Catalog
from catalog.errors import InputError
from ingest.activations.finite import checked, default_batch
from ingest.activations.half_rows import in_half
from ingest.activations.residual_cache import residuals_digest
from ingest.model.batches import batches, load_sequences
from ingest.model.language_model import LanguageModel
from ingest.sae.training.rows import SAMPLE, RowNumbers, Sampler, as_tensor
from ingest.sae.training.scaled_rows import Rows, ScaledRows, joined
from ingest.text.held_out import repeated_positions

BUFFER_SHARDS = 2
HELD_OUT = 50_000
"""Val rows that an SAE trained or loaded without a cache is measured on."""

Shard = tuple[str, int, int]
"""(corpus, shard, train tokens)."""


class ModelRows:
    """Train rows of one hookpoint, computed when they are drawn."""

    def __init__(
        self, catalog: Catalog, model: LanguageModel, hookpoint: str, corpora: list[str], train_tokens: int | None
    ) -> None:
        self._catalog, self._model, self._hookpoint = catalog, model, hookpoint
        self._shards = _train_shards(catalog, corpora, train_tokens)
        self.digest = "model:" + residuals_digest(catalog, model, hookpoint, corpora, train_tokens)
        if not self._shards:
            raise InputError(f"hookpoint {hookpoint!r}: no train tokens to read; add text")
        self._first = self.read(self._shards[:BUFFER_SHARDS])

    @property
    def rows(self) -> int:
        """Train rows of an epoch."""
        return sum(n for *_, n in self._shards)

    @property
    def widths(self) -> tuple[int, int]:
        """(d_in, d_out)."""
        return self._first.shape[1], self._first.shape[1]

    def check(self, d_in: int, d_out: int, batch: int) -> None:
        """Raises InputError if the rows do not fit an SAE of these widths, or two shards fill no batch."""
        if self.widths != (d_in, d_out):
            raise InputError(f"hookpoint {self._hookpoint!r} gives rows of width {self.widths[0]}, not {d_in}")
        if len(self._first) < batch:
            raise InputError(f"{len(self._first)} rows of two shards do not fill one batch of {batch}: lower the batch")

    def sample(self) -> tuple[Tensor, Tensor]:
        """Up to SAMPLE rows of the first shards; `read` raised InputError if one were not finite."""
        at = np.linspace(0, len(self._first) - 1, min(SAMPLE, len(self._first))).astype(np.int64)
        x = as_tensor(self._first[at])
        return x, x

    def sampler(self, batch: int, seed: int) -> Sampler:
        """Draws batches of `batch` rows."""
        return _Stream(self, self._shards, batch, seed)

    def read(self, shards: list[Shard]) -> Rows:
        """The train rows [n, d] of these shards, half precision, in the order of the batches.

        Raises InputError naming the hookpoint if a value is not finite.
        """
        return _rows(self._catalog, self._model, [self._hookpoint], shards, "train")[self._hookpoint]


class _Stream:
    """Batches from the model; `_fill` reads what a step needs."""

    def __init__(self, source: ModelRows, shards: list[Shard], batch: int, seed: int) -> None:
        self._source, self._shards, self._batch, self._seed = source, shards, batch, seed
        self._buffer: npt.NDArray[Any] = np.empty((0, source.widths[0]), np.float16)
        self._mixed: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._place: tuple[int, int] | None = None
        self._plan: list[tuple[int, int, int, list[Shard]]] = []
        """(first step, epoch, part, shards) of the buffers so far."""
        self._planned = self._epochs = 0

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The rows of a step."""
        first, epoch, part, shards = self._find(step)
        if self._place != (epoch, part):
            self._buffer = np.asarray(self._source.read(shards))
            self._mixed = np.random.default_rng([self._seed, epoch, part + 1]).permutation(len(self._buffer))
            self._place = (epoch, part)
        x = torch.from_numpy(self._buffer[self._rows(step - first)])
        return x, x

    def row_numbers(self, step: int) -> npt.NDArray[np.int64]:
        """Numbers within the buffer of the rows drawn last."""
        return self._rows(step - self._find(step)[0])

    def _rows(self, at: int) -> npt.NDArray[np.int64]:
        return self._mixed[at * self._batch : (at + 1) * self._batch]

    def _find(self, step: int) -> tuple[int, int, int, list[Shard]]:
        while self._planned <= step:
            order = np.random.default_rng([self._seed, self._epochs]).permutation(len(self._shards))
            before = self._planned
            for part in range(0, len(order), BUFFER_SHARDS):
                shards = [self._shards[i] for i in order[part : part + BUFFER_SHARDS]]
                batches_here = sum(n for *_, n in shards) // self._batch
                if batches_here:
                    self._plan.append((self._planned, self._epochs, part, shards))
                    self._planned += batches_here
            if self._planned == before:
                raise InputError(f"no two shards hold a batch of {self._batch} train rows: lower the batch")
            self._epochs += 1
        return next(found for found in reversed(self._plan) if found[0] <= step)


def held_out_rows(catalog: Catalog, model: LanguageModel, hookpoints: list[str], corpora: list[str]) -> dict[str, Rows]:
    """Up to HELD_OUT rows [n, d] of val documents, from the first shards on, at each hookpoint; nothing else is read.

    Tokens that repeat train text (`repeated_positions`) are read for their context, and left out. Raises InputError
    naming the hookpoint if a value is not finite.
    """
    repeated = {corpus: repeated_positions(catalog, corpus, "val") for corpus in corpora}
    parts: list[dict[str, Rows]] = []
    for corpus, shard in _shards(catalog, corpora):
        parts.append(_rows(catalog, model, hookpoints, [(corpus, shard, 0)], "val", repeated))
        if sum(len(part[hookpoints[0]]) for part in parts) >= HELD_OUT:
            break
    empty = {name: np.empty((0, width), np.float16) for name, width in row_widths(model, hookpoints).items()}
    return {name: joined([part[name] for part in parts] or [empty[name]])[:HELD_OUT] for name in empty}


def row_widths(model: LanguageModel, hookpoints: list[str]) -> dict[str, int]:
    """The width of a row at each hookpoint, from one token that is read."""
    read = model.read(torch.zeros((1, 1), dtype=torch.int64), hookpoints)
    return {name: rows.shape[-1] for name, rows in read.items()}


def _shards(catalog: Catalog, corpora: list[str]) -> list[tuple[str, int]]:
    return catalog.rows(
        "SELECT corpus, shard FROM shards WHERE relation = 'tokens' AND list_contains(?, corpus) ORDER BY ALL",
        [corpora],
    )


def _train_shards(catalog: Catalog, corpora: list[str], train_tokens: int | None) -> list[Shard]:
    """Shards with train tokens, as many as `train_tokens` asks for, whole."""
    rows = catalog.rows(
        "SELECT corpus, shard, sum(tokens)::BIGINT FROM documents WHERE split = 'train' AND list_contains(?, corpus) "
        "GROUP BY corpus, shard ORDER BY corpus, shard",
        [corpora],
    )
    found, seen = [], 0
    for corpus, shard, tokens in rows:
        if train_tokens is not None and seen >= train_tokens:
            break
        found.append((corpus, shard, tokens))
        seen += tokens
    return found


def _rows(
    catalog: Catalog,
    model: LanguageModel,
    hookpoints: list[str],
    shards: list[Shard],
    split: str,
    left_out: Mapping[str, RowNumbers] = MappingProxyType({}),
) -> dict[str, Rows]:
    """The rows [n, d] of the split's documents at each hookpoint; the model reads no other text.

    `left_out` are positions per corpus whose rows are not given.
    """
    parts: dict[str, list[Rows]] = {name: [] for name in hookpoints}
    for corpus, shard, _ in shards:
        sequences = load_sequences(catalog, corpus, shard).of_splits(split)
        for batch in batches(sequences, model.bos, default_batch(model)):
            read = model.read(batch.ids, hookpoints)
            kept = torch.from_numpy(~np.isin(batch.positions, left_out.get(corpus, []))).to(model.device)
            for name, outputs in read.items():
                rows = in_half(checked(outputs, batch, sequences, name)[kept])
                parts[name].append(ScaledRows(*rows) if rows.exponents.any() else rows.halves)
    widths = row_widths(model, hookpoints)
    return {name: joined(found or [np.empty((0, widths[name]), np.float16)]) for name, found in parts.items()}

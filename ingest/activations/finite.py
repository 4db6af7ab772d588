"""Checks that activations are finite, and says how many rows the model takes at once."""

import numpy as np
import torch

from catalog.errors import InputError
from ingest.model.batches import Batch, Sequences
from ingest.model.language_model import LanguageModel

BATCH_TOKENS = 2048
"""Of a forward pass on a CPU: what fits its caches is 10% faster than 4,096 or 8,192 (measured at d 256)."""

GPU_BATCH_TOKENS = 16_384


def checked(output: torch.Tensor, batch: Batch, sequences: Sequences, hookpoint: str) -> torch.Tensor:
    """The rows of real tokens, `[tokens, d]` in float32; InputError with the place if one is not finite."""
    rows = output[batch.real.to(output.device)].float()
    if not torch.isfinite(rows).all():
        bad = int(torch.nonzero(~torch.isfinite(rows).all(1))[0])
        position = int(batch.positions[bad])
        raise InputError(
            f"hookpoint {hookpoint!r} gives a value that is not finite at position {position} of corpus "
            f"{sequences.corpus!r} (the sequence that begins at {_sequence_of(sequences, position)}): "
            "try dtype = 'float32', or look at that text"
        )
    return rows


def _sequence_of(sequences: Sequences, position: int) -> int:
    at = int(np.searchsorted(sequences.starts, position - sequences.first, side="right")) - 1
    return int(sequences.starts[at]) + sequences.first


def default_batch(model: LanguageModel, asked: int | None = None) -> int:
    """Tokens of a forward pass: `asked`, else as the model says, else by where it is.

    1, one sequence, if rows depend on others of their batch.
    """
    if model.layout.alone:
        return 1
    return asked or model.batch_tokens or (BATCH_TOKENS if model.device.type == "cpu" else GPU_BATCH_TOKENS)

"""Compares every stored activation with a pass over its sequence alone, followed by the SAE written out in float64."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from catalog import Catalog
from ingest.model.language_model import LanguageModel
from ingest.sae.architecture import Weights
from ingest.sae.config import SAEConfig
from ingest.sae.model import SAE
from ingest.stored.reader import Reader


def relu_reader(name: str, hookpoint: str, d: int, width: int = 24, seed: int = 0) -> Reader:
    """A random ReLU SAE of which about half of the latents fire on a row."""
    draws = torch.Generator().manual_seed(seed)
    encoder = torch.nn.functional.normalize(torch.randn(width, d, generator=draws), dim=1)
    config = SAEConfig(d_in=d, width=width, k=None, model_name="tiny", hookpoint=hookpoint, architecture="relu")
    weights = Weights(encoder, torch.zeros(width), encoder.clone(), torch.zeros(d))
    return Reader(name, hookpoint, SAE(config, weights), f"digest of {name}")


def wrong_activations(catalog: Catalog, model: LanguageModel, reader: Reader, module: Module) -> list[str]:
    """What differs between `activations` and a naive second way to them; `module` gives the rows. Empty if all agree.

    Stored values are of half precision; the rest of the tolerance is what rounding may do to a sum of a few hundred.
    """
    expected: dict[tuple[int, int], float] = {}
    sequences = catalog.rows(
        "SELECT corpus, sequence, list(position ORDER BY position), list(token ORDER BY position) "
        "FROM tokens GROUP BY corpus, sequence ORDER BY ALL"
    )
    encoder = reader.sae.weights.encoder.double()
    for _, _, positions, tokens in sequences:
        lead = [] if model.bos is None else [model.bos]
        rows = _rows(model, module, torch.tensor([lead + tokens]))[len(lead) :]
        for position, row in zip(positions, rows.double(), strict=True):
            for feature, value in enumerate(torch.relu(encoder @ row).tolist()):
                expected[position, feature] = value
    stored = {
        (position, feature): value
        for position, feature, value in catalog.rows(
            "SELECT position, feature, activation FROM activations WHERE sae = ?", [reader.name]
        )
    }
    wrong = [f"{place} is none of the text" for place in stored.keys() - expected.keys()]
    for place, value in expected.items():
        there = stored.get(place, 0.0)
        if abs(there - value) > 1e-3 * abs(value) + 1e-4:
            wrong.append(f"position {place[0]}, feature {place[1]}: stored {there}, and alone {value}")
    if not any(value > 0.1 for value in stored.values()):
        wrong.append("nothing fires")
    return wrong


def _rows(model: LanguageModel, module: Module, ids: Tensor) -> Tensor:
    """`[seq, d]` of one sequence, by a plain hook of torch in a pass of the whole model."""
    seen: list[Tensor] = []

    def keep(_module: Module, _args: Any, output: Any) -> None:
        seen.append((output if isinstance(output, Tensor) else output[0])[0].clone())

    handle = module.register_forward_hook(keep)
    with torch.inference_mode():
        model.network(ids, use_cache=False)
    handle.remove()
    return seen[0].float()

"""Rows of sweeps and their measures, as a test says them."""

import math
from typing import Any

from catalog import Catalog


def evaluation(sae: str, l0: float, perplexity: float, **changes: Any) -> dict[str, Any]:
    row = {"sae": sae, "corpus": "c", "split": "test", "documents": 1, "tokens": 100, "predictions": 90}
    row |= {"l0": l0, "fve": 0.5, "mse": 0.1, "cosine": 0.9, "dead": 2, "dense": 1, "inputs": "-"}
    ce = {"ce_clean": math.log(10), "ce_spliced": math.log(perplexity), "ce_ablated": math.log(1000)}
    return row | ce | {"loss_recovered": 0.5} | changes


def sweep(catalog: Catalog, points: list[tuple[str, float, int, float, float]], **changes: Any) -> None:
    """A sweep of (family, coefficient, seed, L0, perplexity) on test text of corpus c."""
    made, found = [], []
    for family, coefficient, seed, l0, perplexity in points:
        sae = f"{family}-{coefficient:g}-{seed}"
        row = {"sweep": "w", "sae": sae, "family": family, "setting": "sparsity", "seed": seed}
        made.append({"l0_low": 60.0, "l0_high": 140.0, **row, "coefficient": coefficient, **changes})
        found.append(evaluation(sae, l0, perplexity))
    insert(catalog, "sweeps", made)
    insert(catalog, "evaluations", found)


def insert(catalog: Catalog, table: str, rows: list[dict[str, Any]]) -> None:
    with catalog.write(table) as tx, catalog.scratch() as scratch:
        tx.execute(f"INSERT INTO lake.{table} FROM {scratch.rows(rows, like=table)}")

"""Logit lens: the tokens that a decoder direction writes for and against (nostalgebraist 2020).

The final norm's weight is applied to the direction, its division by the residual's norm is not: it is one
positive factor per token position, so that it does not change the ranking.
"""

from collections.abc import Iterator
from typing import Any

from scoring.kernels.contract import Run

_CHUNK = 1024


def logit_lens(rows: list[dict[str, Any]], run: Run) -> Iterator[list[dict[str, Any]]]:
    """The k tokens with the largest and the k with the smallest logits, for every latent of each SAE.

    An SAE whose decoder rows are no directions of the residual stream has none; `problems` has said so since ingest.
    """
    import torch

    from catalog.sections import Model
    from ingest.models import load_model, unembedding
    from ingest.sae.model import SAE

    k = run.parameters["k"]
    for number, row in enumerate(rows):
        model = load_model(Model(name=row["model"], source=row["source"], revision=row["revision"]))
        directions = unembedding(model)
        decoder = SAE.load(run.catalog.weights_of(row["weights"])).weights.decoder
        if decoder.shape[1] != directions.shape[1]:
            run.progress(number + 1, len(rows))
            continue
        output = []
        for start in range(0, len(decoder), _CHUNK):
            logits = decoder[start : start + _CHUNK] @ directions.T
            for side, largest in (("top", True), ("bottom", False)):
                values, tokens = torch.topk(logits, min(k, logits.shape[1]), dim=1, largest=largest, sorted=True)
                output += [
                    {"sae": row["sae"], "feature": start + i, "side": side, "rank": r, "token": token, "logit": value}
                    for i, (v, t) in enumerate(zip(values.tolist(), tokens.tolist(), strict=True))
                    for r, (value, token) in enumerate(zip(v, t, strict=True), start=1)
                ]
        run.progress(number + 1, len(rows))
        yield output

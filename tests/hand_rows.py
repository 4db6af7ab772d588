"""Rows for tests that write a catalog by hand: each fills the NOT NULL columns of its table; give what matters."""

from typing import Any


def feature_stats(feature: int, sae: str = "a", **changes: Any) -> dict[str, Any]:
    """A row of `feature_stats`: a latent that fires on 4 of 100 tokens."""
    stats = {"firings": 4, "tokens": 100, "density": 0.04, "mean": 2.0, "std": 1.0, "maximum": 6.25}
    return {"sae": sae, "feature": feature, **stats, "histogram": [1, 3], "deciles": [0.5, 1.5], **changes}


def label(feature: int, text: str | None, sae: str = "a", **changes: Any) -> dict[str, Any]:
    """A row of `labels`, by the explainer `lexical`; None where it gave none."""
    made = {"explainer": "lexical", "kept_constraints": True, "model": "none", "input": "i"}
    costs = {"prompt_tokens": 0, "completion_tokens": 0, "cost": 0.0}
    return {"sae": sae, "feature": feature, "label": text, **made, **costs, **changes}


def score(feature: int, f1: float | None, sae: str = "a", **changes: Any) -> dict[str, Any]:
    """A row of `scores`: of the explainer `lexical`, by the scorer `d`."""
    return {"sae": sae, "feature": feature, "explainer": "lexical", "scorer": "d", "f1": f1, **_SCORED, **changes}


_SCORED: dict[str, Any] = {"protocol": "detection", "n": 50, "failed": 0, "n_null": 50}

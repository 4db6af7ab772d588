"""Searches by meaning: compares the text's embedding with those of the labels, in the version of the snapshot."""

from typing import Any

from catalog import Catalog
from catalog.errors import InputError, UnknownName
from catalog.quote import quoted


def search(catalog: Catalog, text: str, k: int, explainer: str | None = None) -> list[dict[str, Any]]:
    """The k nearest labels: rank, similarity (cosine), sae, feature, explainer, label, and what the view knows.

    Raises InputError for k below 1, UnknownName if there are no labels to search, or no such explainer.
    """
    from catalog.vectors.collections import Vectors
    from queries.ask.query_vectors import query_vector

    if k < 1:
        raise InputError(f"k is {k}; a search gives at least 1 label")
    version = catalog.value("SELECT version FROM lance WHERE collection = 'labels'")
    if version is None:
        raise UnknownName("no labels to search in: run `saeql refresh` first")
    where = None
    if explainer is not None:
        known = [row[0] for row in catalog.rows("SELECT explainer FROM explainers ORDER BY ALL")]
        if explainer not in known:
            raise UnknownName(f"there is no explainer {explainer!r}; known: {', '.join(known)}")
        where = f"explainer = {quoted(explainer)}"
    found = Vectors(catalog.vectors).search("labels", version, query_vector(catalog, text), k, where=where).to_pylist()
    scores = {
        (sae, feature, name): (f1, low, high)
        for sae, feature, name, f1, low, high in catalog.rows(
            "SELECT sae, feature, explainer, f1, f1_low, f1_high FROM scores "
            "WHERE scorer = (SELECT any_value(scorer) FROM study)"
        )
    }
    separation = {
        (sae, feature): value
        for sae, feature, value in catalog.rows(
            "SELECT sae, feature, separation FROM separation WHERE concept = (SELECT any_value(concept) FROM study)"
        )
    }
    rows = []
    for rank, row in enumerate(found, start=1):
        f1, low, high = scores.get((row["sae"], row["feature"], row["explainer"]), (None, None, None))
        rows.append(
            {
                "rank": rank,
                "similarity": row["similarity"],
                "sae": row["sae"],
                "feature": row["feature"],
                "explainer": row["explainer"],
                "label": row["label"],
                "f1": f1,
                "f1_low": low,
                "f1_high": high,
                "separation": separation.get((row["sae"], row["feature"])),
            }
        )
    return rows

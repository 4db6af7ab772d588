"""All that a catalog knows of one feature: statistics, labels with scores, contexts, logit lens, neighbours."""

from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from catalog import Catalog
from catalog.errors import UnknownName
from catalog.quote import quoted
from catalog.store.connection import answered

_LABELS = """
SELECT l.*, r.f1 AS f1_at_rate, r.f1_low AS f1_at_rate_low, r.f1_high AS f1_at_rate_high
FROM label_scores AS l
LEFT JOIN rate_scores AS r
    ON r.sae = l.sae AND r.feature = l.feature AND r.explainer = l.explainer AND r.scorer = l.scorer
WHERE l.sae = ? AND l.feature = ?
ORDER BY l.explainer, l.scorer
"""
_MOST_CONTEXTS = 1_000_000
"""More than any feature has; the engine's numbers end somewhere."""


@dataclass(frozen=True)
class Context:
    """A window of text and what the feature does on each of its tokens."""

    corpus: str
    activation: float
    """At the peak, the largest of the window."""
    kind: str
    split: str
    rank: int
    """From 1, over the corpora together."""
    source: str
    tokens: tuple[str, ...]
    activations: tuple[float, ...]


@dataclass(frozen=True)
class FeatureCard:
    """All that is known of one feature."""

    sae: str
    feature: int
    row: dict[str, Any]
    """Its row of the view `features`."""
    deciles: list[float] | None
    histogram: list[int]
    labels: list[dict[str, Any]]
    """Its rows of the view `label_scores`, every explainer and scorer, with F1 at the rate at which it fires."""
    separation: list[dict[str, Any]]
    """Its separation from each concept."""
    promoted: list[tuple[str, float]]
    """Tokens that its decoder direction writes for, with logits."""
    suppressed: list[tuple[str, float]]
    contexts: list[Context]
    """The strongest of all corpora."""
    neighbours: list[tuple[int, float, str | None]]
    """Features with the most similar decoder directions: feature, cosine, label."""
    without_label: list[dict[str, Any]] = field(default_factory=list)
    """Its rows of `scores` by scorers that need no label."""


def chosen_sae(catalog: Catalog, name: str | None) -> str:
    """The SAE of that name, or the only one. Raises UnknownName with the known ones."""
    known = [row[0] for row in catalog.rows("SELECT sae FROM saes ORDER BY sae")]
    if name is None and len(known) == 1:
        return str(known[0])
    if name not in known:
        asked = f"no SAE {name!r}" if name is not None else "several SAEs: name one with --sae" if known else "no SAE"
        raise UnknownName(f"the catalog has {asked}; known: {', '.join(known) or 'none'}")
    return str(name)


def _records(catalog: Catalog, sql: str, parameters: list[Any]) -> list[dict[str, Any]]:
    with answered(catalog.location):
        cursor = catalog.connection.execute(sql, parameters)
        names = [column[0] for column in cursor.description or []]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def feature_card(catalog: Catalog, sae: str, feature: int, contexts: int) -> FeatureCard:
    """The card of a feature with its strongest contexts. Raises UnknownName if there is no such feature."""
    place = [sae, feature]
    found = _records(catalog, "SELECT * FROM features WHERE sae = ? AND feature = ?", place)
    if not found:
        width = catalog.value("SELECT width FROM saes WHERE sae = ?", [sae])
        if catalog.value("SELECT count(*) FROM feature_stats WHERE sae = ?", [sae]):
            raise UnknownName(f"SAE {sae!r} has features 0 to {width - 1}, not {feature}")
        raise UnknownName(f"nothing is known of SAE {sae!r} yet: run `saeql refresh`")
    stats = _records(catalog, "SELECT deciles, histogram FROM feature_stats WHERE sae = ? AND feature = ?", place)[0]
    lens = catalog.rows(
        "SELECT l.side, v.text, l.logit FROM logit_lens AS l JOIN saes AS s ON s.sae = l.sae "
        "JOIN vocabulary AS v ON v.model = s.model AND v.token = l.token "
        "WHERE l.sae = ? AND l.feature = ? ORDER BY l.side, l.rank",
        place,
    )
    return FeatureCard(
        sae,
        feature,
        found[0],
        stats["deciles"],
        stats["histogram"],
        _labels(catalog, place),
        _records(catalog, "SELECT * FROM separation WHERE sae = ? AND feature = ? ORDER BY concept", place),
        [(text, logit) for side, text, logit in lens if side == "top"],
        [(text, logit) for side, text, logit in lens if side == "bottom"],
        _contexts(catalog, sae, feature, contexts),
        _neighbours(catalog, sae, feature),
        _records(
            catalog, "SELECT * FROM scores WHERE sae = ? AND feature = ? AND explainer = '' ORDER BY scorer", place
        ),
    )


def _labels(catalog: Catalog, place: list[Any]) -> list[dict[str, Any]]:
    """The rows of `label_scores`; in a catalog of a version without `rate_scores` they have no figures at the rate."""
    if not catalog.value("SELECT count(*) FROM columns_doc WHERE relation = 'rate_scores'"):
        return _records(
            catalog, "SELECT * FROM label_scores WHERE sae = ? AND feature = ? ORDER BY explainer, scorer", place
        )
    return _records(catalog, _LABELS, place)


def _contexts(catalog: Catalog, sae: str, feature: int, n: int) -> list[Context]:
    """The n strongest contexts of all corpora; equal ones stand as within a corpus, by document and place in it."""
    strongest = (resources.files("queries.ask") / "sql" / "strongest_contexts.sql").read_text(encoding="utf-8")
    rows = catalog.rows(strongest, {"sae": sae, "feature": feature, "n": min(n, _MOST_CONTEXTS)})
    return [
        Context(corpus, activation, "top", split, rank, source, tuple(tokens), tuple(activations))
        for rank, (corpus, activation, split, source, tokens, activations) in enumerate(rows, start=1)
    ]


def _neighbours(catalog: Catalog, sae: str, feature: int, k: int = 5) -> list[tuple[int, float, str | None]]:
    version = catalog.value("SELECT version FROM lance WHERE collection = 'decoder'")
    if version is None:
        return []
    from catalog.vectors.collections import Vectors

    vectors = Vectors(catalog.vectors)
    where = f"sae = {quoted(sae)}"
    mine = vectors.some("decoder", version, f"{where} AND feature = {feature}")
    if not mine:
        return []
    found = vectors.search("decoder", version, mine[0], k + 1, where=where).to_pylist()
    near = [(row["feature"], row["similarity"]) for row in found if row["feature"] != feature][:k]
    labels = dict(catalog.rows("SELECT feature, label FROM features WHERE sae = ? AND label IS NOT NULL", [sae]))
    return [(number, similarity, labels.get(number)) for number, similarity in near]

"""Measures which score of separation finds features that people would call a concept's.

    python tests/benchmarks/separation_scores.py CATALOG... [--best 10] [--contexts 20] [--json]

For each concept of each catalog, and each score, it takes the best features (of those that fire 32 times and more on
the concept than elsewhere) and reads their activations: the area under ROC as detectors of the concept's tokens, how
many of their strongest contexts (a sequence each, at its strongest token) are the concept's (by that token, or by any
of the 16 around it), and how often they fire.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).parents[2]))

from catalog import Catalog

SCORES = ("separation", "fisher", "cohens_d", "mean_difference", "rate_difference", "auroc", "domain")
AROUND = 8
"""Tokens on either side of the strongest."""
_BEST = """
    SELECT s.feature FROM separation AS s JOIN feature_stats AS f USING (sae, feature)
    WHERE s.sae = ? AND s.concept = ? AND s.mean_positive > s.mean_negative AND f.firings >= 32
    ORDER BY {score} DESC, s.feature LIMIT ?
"""


class Concept:
    """The tokens of a concept's corpora, end to end, and which of them belong to it."""

    def __init__(self, catalog: Catalog, concept: str) -> None:
        self.catalog, self.name = catalog, concept
        rows = catalog.rows("SELECT corpora FROM concepts WHERE concept = ?", [concept])
        self.corpora = rows[0][0] or [corpus for (corpus,) in catalog.rows("SELECT corpus FROM corpora ORDER BY 1")]
        self.first: dict[str, int] = {}
        sequences: list[Any] = []
        length = 0
        for corpus in self.corpora:
            self.first[corpus] = length
            found = catalog.connection.execute(
                "SELECT sequence FROM tokens WHERE corpus = ? ORDER BY position", [corpus]
            ).fetchnumpy()["sequence"]
            sequences.append(np.asarray(found) + length)
            length += len(found)
        self.sequence = np.concatenate(sequences)
        self.inside = np.zeros(length, bool)
        for corpus, position in catalog.rows(
            "SELECT corpus, position FROM concept_positions WHERE concept = ?", [concept]
        ):
            self.inside[self.first[corpus] + position] = True
        self.near = np.convolve(self.inside, np.ones(2 * AROUND + 1), "same") > 0.5

    def measured(self, sae: str, feature: int, contexts: int) -> dict[str, float]:
        """What one feature does on the concept."""
        dense = np.zeros(len(self.inside))
        for corpus in self.corpora:
            found = self.catalog.connection.execute(
                "SELECT position, activation FROM activations WHERE sae = ? AND corpus = ? AND feature = ?",
                [sae, corpus, feature],
            ).fetchnumpy()
            dense[self.first[corpus] + np.asarray(found["position"])] = found["activation"]
        fired = np.flatnonzero(dense)
        strongest = fired[np.argsort(-dense[fired], kind="stable")]
        # The first of each sequence is its strongest.
        _, at = np.unique(self.sequence[strongest], return_index=True)
        peaks = strongest[np.sort(at)][:contexts]
        return {
            "auroc": roc_auc_score(self.inside, dense),
            "peak_in": self.inside[peaks].mean(),
            "window_in": self.near[peaks].mean(),
            "density": len(fired) / len(dense),
        }


def compare(catalog: Catalog, best: int, contexts: int) -> list[dict[str, Any]]:
    """A row for each concept and score: means over the best features of every SAE."""
    rows = []
    for (name,) in catalog.rows("SELECT DISTINCT concept FROM separation ORDER BY concept"):
        concept, known = Concept(catalog, name), {}
        for score in SCORES:
            for (sae,) in catalog.rows("SELECT DISTINCT sae FROM separation WHERE concept = ? ORDER BY sae", [name]):
                features = [row[0] for row in catalog.rows(_BEST.format(score=score), [sae, name, best])]
                for feature in features:
                    if (sae, feature) not in known:
                        known[sae, feature] = concept.measured(sae, feature, contexts)
                of_each = [known[sae, feature] for feature in features]
                means = {
                    key: _round(np.mean([one[key] for one in of_each])) for key in ("auroc", "peak_in", "window_in")
                }
                densities = [one["density"] for one in of_each]
                rows.append(
                    {
                        "concept": name,
                        "sae": sae,
                        "score": score,
                        **means,
                        "median_density": _round(np.median(densities), 5),
                        "most_density": _round(np.max(densities), 5),
                        "features": features,
                    }
                )
    return rows


def _round(value: Any, digits: int = 3) -> float:
    return round(float(value), digits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalogs", nargs="+", type=Path)
    parser.add_argument("--best", type=int, default=10)
    parser.add_argument("--contexts", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for place in options.catalogs:
        with Catalog(place, read_only=True) as catalog:
            rows += [{"catalog": place.name, **row} for row in compare(catalog, options.best, options.contexts)]
    if options.json:
        sys.stdout.write(json.dumps(rows) + "\n")
        return
    for row in rows:
        figures = "  ".join(f"{key} {row[key]}" for key in list(row)[4:-1])
        sys.stdout.write(f"{row['catalog']} {row['concept']:15} {row['score']:16} {figures}  {row['features']}\n")


if __name__ == "__main__":
    main()

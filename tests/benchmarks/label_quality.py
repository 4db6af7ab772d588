"""How many labels of a catalog beat another feature's label on the same test windows, and how strong their windows are.

    python tests/benchmarks/label_quality.py CATALOG [--drawn 100] [--low 0.0005] [--high 0.05] [--keep DIR] [--json]

Of the catalog as it is: the shortlisted features. A label beats its null if its interval of balanced accuracy lies
above that of the other label. A feature that fires in most windows counts as dense and is in no share; one without a
label counts, as one whose label does not beat its null.

With --drawn N also N features by hash, of a density between --low and --high, in a copy of the catalog whose shortlist
they are: by the same steps, so that what chose the shortlist shows. --keep leaves the copy.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
sys.path.insert(0, str(Path(__file__).parents[2]))

import click

from catalog import Catalog
from queries.refresh.engine import refresh
from queries.refresh.step import packaged_steps

DRAWN = "by hash"
"""The concept under which drawn features are shortlisted."""
DRAW = """
INSERT INTO lake.shortlist BY NAME
SELECT
    sae, $concept AS concept, feature, 0 AS separation, 0 AS score,
    row_number() OVER (PARTITION BY sae ORDER BY md5(feature::VARCHAR))::INTEGER AS rank
FROM lake.feature_stats
WHERE density BETWEEN $low AND $high
QUALIFY rank <= $n
"""
LABELS = """
SELECT
    l.sae, l.feature, e.explainer, b.label, b.problem, s.balanced_accuracy AS accuracy,
    s.balanced_accuracy_null AS of_null,
    coalesce(s.balanced_accuracy_low > s.balanced_accuracy_null_high, false) AS beats,
    r.firing > 0.5 * r.windows AS dense
FROM (SELECT DISTINCT sae, feature FROM shortlist) AS l
CROSS JOIN explainers AS e
LEFT JOIN labels AS b ON b.sae = l.sae AND b.feature = l.feature AND b.explainer = e.explainer
LEFT JOIN (
    SELECT sae, feature, sum(firing) AS firing, sum(windows) AS windows
    FROM firing_rates
    WHERE role = 'scorer' AND name = $scorer
    GROUP BY sae, feature
) AS r ON r.sae = l.sae AND r.feature = l.feature
LEFT JOIN scores AS s
    ON s.sae = l.sae AND s.feature = l.feature AND s.explainer = e.explainer AND s.scorer = $scorer
WHERE e.explainer = $explainer
ORDER BY ALL
"""
RECALL = """
SELECT stratum, count(*) FILTER (predicted) / count(*) AS recall
FROM judgements
WHERE active AND feature = label_feature AND scorer = $scorer AND explainer = $explainer AND predicted IS NOT NULL
GROUP BY stratum
ORDER BY stratum
"""


def quality(catalog: Catalog) -> dict[str, Any]:
    """Figures over the shortlisted features, of the primary explainer and scorer."""
    explainer, scorer = catalog.rows(
        "SELECT coalesce(y.explainer, (SELECT min(explainer) FROM explainers)), "
        "coalesce(y.scorer, (SELECT min(scorer) FROM scorers)) FROM study AS y"
    )[0]
    by = {"explainer": explainer, "scorer": scorer}
    rows = catalog.arrow(LABELS, by).to_pylist()
    asked = [row for row in rows if not row["dense"]]
    scored = [row for row in asked if row["accuracy"] is not None]
    beating = sum(row["beats"] for row in asked)
    return {
        "features": len(rows),
        "dense": len(rows) - len(asked),
        "without_label": sum(row["label"] is None for row in asked),
        "scored": len(scored),
        "beat_their_null": beating,
        "share_that_beats": _mean([row["beats"] for row in asked]),
        "mean_balanced_accuracy": _mean([row["accuracy"] for row in scored]),
        "mean_of_null": _mean([row["of_null"] for row in scored if row["of_null"] is not None]),
        "recall_by_decile": {stratum: round(recall, 3) for stratum, recall in catalog.rows(RECALL, by)},
    }


def drawn_quality(root: Path, folder: Path, n: int, low: float, high: float) -> dict[str, Any]:
    """The same of features drawn by hash, in a copy of the catalog, and the seconds that labelling and judging take."""
    shutil.copytree(root, folder, dirs_exist_ok=True)
    steps = tuple(step for step in packaged_steps() if step.name != "shortlist")
    with Catalog(folder) as catalog:
        with catalog.write("features by hash instead of the shortlist") as tx:
            tx.execute("DELETE FROM lake.shortlist")
            tx.execute(DRAW, {"concept": DRAWN, "n": n, "low": low, "high": high})
        begun = time.perf_counter()
        failed = [result.error for result in refresh(catalog, ("scores",), steps=steps) if result.error]
        if failed:
            raise failed[0]
        return {**quality(catalog), "seconds": round(time.perf_counter() - begun, 1)}


def _mean(values: list[Any]) -> float | None:
    return round(sum(values) / len(values), 3) if values else None


@click.command()
@click.argument("root", type=click.Path(exists=True, path_type=Path))
@click.option("--drawn", default=0, show_default=True, help="Also this many features by hash.")
@click.option("--low", default=0.0005, show_default=True, help="Least density of those.")
@click.option("--high", default=0.05, show_default=True, help="Largest density of those.")
@click.option("--keep", type=click.Path(path_type=Path), help="A folder that keeps the copy with those.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(root: Path, drawn: int, low: float, high: float, keep: Path | None, *, as_json: bool) -> None:
    """Measure, and print lines or one JSON object."""
    with Catalog(root, read_only=True) as catalog:
        found = {"shortlisted": quality(catalog)}
    if drawn:
        with ExitStack() as stack:
            folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            found["drawn"] = drawn_quality(root, folder, drawn, low, high)
    if as_json:
        click.echo(json.dumps(found))
        return
    for features, figures in found.items():
        for name, value in figures.items():
            click.echo(f"{features:12} {name:24} {value}")


if __name__ == "__main__":
    main()

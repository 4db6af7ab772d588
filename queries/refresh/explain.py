"""Shows plans and refreshes as rows, and applies the study file that may change them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog import Catalog
from catalog.errors import EndpointRefused, InputError
from catalog.store.locks import locked
from catalog.study.file import Study
from catalog.trust.endpoints import endpoint, named, permission
from queries.refresh.engine import Listener, Options, StepResult, plan
from queries.refresh.unjudged import left_out_lines, unjudged

if TYPE_CHECKING:
    from queries.refresh.step import Step


def planned(
    catalog: Catalog,
    names: tuple[str, ...] = (),
    options: Options | None = None,
    study: Path | None = None,
    steps: "tuple[Step, ...] | None" = None,
) -> list[StepResult]:
    """The plan of these steps; with a study file, as if its concepts, explainers and scorers were the catalog's."""
    from catalog.study.tables import configuration_rows

    rows = configuration_rows(Study.load(study)) if study is not None else {}
    return plan(catalog, names, options, Listener(), steps, expected=rows)


def left_out(catalog: Catalog, study: Path | None = None) -> list[str]:
    """A line for each thing of the catalog or a study that goes without labels or scores as a whole."""
    from catalog.study.tables import configuration_rows

    rows = configuration_rows(Study.load(study)) if study is not None else None
    return left_out_lines(unjudged(catalog, rows))


def configure(catalog: Catalog, study: Path, wait: float = 0.0) -> None:
    """Take the concepts, explainers, scorers and parameters of a study file. Raises StudyError with its mistakes."""
    from catalog.study.tables import record_configurations

    with locked(catalog.root / "refresh.lock", wait=wait):
        record_configurations(catalog, Study.load(study))


def asked(result: StepResult, study: Path | None = None) -> list[str]:
    """`MODEL at HOST` of the endpoints that a step of a plan would call, with what is in the way of it.

    `study` is the file that the user passed: a refresh with it may ask what it names.
    """
    named_there = {endpoint(url).name for url in named(Study.load(study))} if study is not None else set()
    return [_asks(model, url, named_there) for model, url in (result.estimate.asks if result.estimate else ())]


def _asks(model: str, url: str | None, named_there: set[str]) -> str:
    try:
        where = endpoint(url).name if url is not None else permission(None).endpoint.name
        if where in named_there:
            return f"{model} at {where}"
        found = permission(url)
    except EndpointRefused:
        return f"{model} at {where} (not allowed on this machine: --allow-endpoint {where})"
    except InputError as error:
        return f"{model} nowhere: {error}"
    return f"{model} at {where}" + ("" if found.key else " (without a key)")


def plan_rows(results: list[StepResult], study: Path | None = None) -> list[dict[str, Any]]:
    """A row for each step of a plan that has work, or whose work cannot be known yet."""
    rows = []
    for result in results:
        if result.state == "current":
            continue
        known, estimate = result.state not in ("after", "waiting", "failed"), result.estimate
        rows.append(
            {
                "step": result.step,
                "state": result.state,
                "new": result.changes.added if known else None,
                "changed": result.changes.changed if known else None,
                "gone": result.changes.removed if known else None,
                "unchanged": result.same,
                "why": str(result.error) if result.error else "; ".join(result.why),
                "calls": estimate.calls if estimate else 0,
                "stored": estimate.stored if estimate else 0,
                "prompt_tokens": estimate.prompt_tokens if estimate else 0,
                "completion_tokens": estimate.completion_tokens if estimate else 0,
                "cost": estimate.cost if estimate else 0.0,
                "asks": "; ".join(asked(result, study)),
            }
        )
    return rows


def refresh_rows(results: list[StepResult]) -> list[dict[str, Any]]:
    """A row for each step of a refresh that had work."""
    return [
        {
            "step": result.step,
            "state": result.state,
            "added": result.changes.added,
            "changed": result.changes.changed,
            "removed": result.changes.removed,
            "failed": result.failed,
            "left": result.left,
            "why": str(result.error) if result.error else "; ".join(result.why),
            "calls": result.calls,
            "tokens": result.tokens,
            "cost": result.cost,
            "seconds": round(result.seconds, 3),
        }
        for result in results
        if result.state != "current"
    ]


def explained(catalog: Catalog, name: str, results: list[StepResult], limit: int = 20) -> dict[str, Any]:
    """What one step of a plan is: query, what it reads, where each column comes from, what is stale.

    At most `limit` stale keys are listed; `stale` counts them all.
    """
    from queries.refresh.context import Context
    from queries.refresh.reads import KEPT, column_sources, parent_tables
    from queries.refresh.step import packaged_steps

    step = {step.name: step for step in packaged_steps()}[name]
    result = {result.step: result for result in results}[name]
    context = Context(catalog, packaged_steps(), Options())
    row = next(iter(plan_rows([result])), {"state": "current", "why": ""})
    columns = step.input if step.kernel else step.key
    return {
        "step": name,
        "doc": step.doc,
        "state": row["state"],
        "why": row["why"],
        "writes": step.writes + ("" if step.slice == "true" else f" where {step.slice}"),
        "key": list(step.key),
        "parts": list(step.partition),
        "kernel": step.kernel,
        "parents": sorted(parent_tables(step.parents, context.view_parents)),
        "lineage": column_sources(step.query, {**context.schema, KEPT: context.schema[step.writes]}),
        "stale": sum((result.changes.added, result.changes.changed, result.changes.removed)),
        "keys": [dict(zip(columns, key, strict=True)) for key in result.keys[:limit]],
        "query": step.query,
    }


def explanation_text(said: dict[str, Any]) -> str:
    """`explained` as a page to read."""
    lines = [f"{said['step']}: {said['doc']}"]
    lines += [f"state    {said['state']}" + (f": {said['why']}" if said["why"] else "")]
    lines += [f"writes   {said['writes']}, by {', '.join(said['key'])}"]
    if said["parts"]:
        lines += [f"parts    {', '.join(said['parts'])}"]
    if said["kernel"]:
        lines += [f"kernel   {said['kernel']}"]
    lines += [f"reads    {', '.join(said['parents'])}", "columns"]
    lines += [f"  {column}: {', '.join(sources) or 'a constant'}" for column, sources in said["lineage"].items()]
    lines += [f"stale    {said['stale']}"]
    lines += [f"  {json.dumps(key)}" for key in said["keys"]]
    return "\n".join([*lines, "", said["query"].rstrip()])

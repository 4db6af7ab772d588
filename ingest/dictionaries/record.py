"""Records an SAE that was trained or loaded: measured on val tokens, in one commit with all that it changes."""

import hashlib
import json
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from catalog import Catalog
from catalog.quote import quoted
from catalog.store.shards import file_digest
from catalog.store.transaction import Transaction
from catalog.study.sae import Sae
from ingest.dictionaries.plan import Plan
from ingest.dictionaries.row_figures import FAR, RowFigures, rounding_share, within
from ingest.model.language_model import LanguageModel
from ingest.model.lens import lens_problem
from ingest.sae.config import SAEConfig
from ingest.sae.evaluate import Evaluation, evaluate
from ingest.sae.model import SAE, WEIGHTS_FILE
from ingest.sae.training.rows import RowNumbers
from ingest.sae.training.scaled_rows import Rows
from ingest.sae.training.settings import TrainReport
from ingest.stored.reader import HALF, Reader

_LENS, _HELD_OUT, _OUTLIERS = "logit lens", "held-out measures", "training"
"""Stages of problems."""
_IDENTITY = ("model", "hookpoint", "target", "architecture", "k", "digest")
"""Columns of `saes` that decide, with `code`, what an SAE's activations and measures are."""


class HeldOut(NamedTuple):
    """The rows of val tokens that an SAE is measured on."""

    rows: Rows
    """[n, d_in]."""
    target: Rows | None = None
    """[n, d_out] of the same tokens, for a transcoder."""
    subset: RowNumbers | None = None
    """Numbers of those that are held out in truth, ascending; None: all."""
    figures: RowFigures | None = None
    """Their outliers are not measured."""
    cached: bool = False
    """Whether they come from the cache that the SAE was trained from."""
    sample: Tensor | None = None
    """Some rows `[n, d_in]` as the model gives them."""

    @property
    def measured(self) -> RowNumbers | None:
        """Numbers of those that are measured, ascending; None: all."""
        return within(self.subset, self.figures.val) if self.figures else self.subset

    @property
    def outliers(self) -> int | None:
        """How many of those held out are outliers."""
        return None if self.figures is None else int(_of(self.figures.val, self.subset).sum())


def _of(values: npt.NDArray[np.bool_], subset: RowNumbers | None) -> npt.NDArray[np.bool_]:
    return values if subset is None else values[subset]


def record(catalog: Catalog, model: LanguageModel, plan: Plan, report: TrainReport | None, held_out: HeldOut) -> Reader:
    """Measure an SAE on val tokens and put it into the catalog, with the course of its training.

    Where nothing can be measured its figures are NULL; why there is no FVE is a problem.
    """
    sae = plan.sae
    trained = SAE.load(plan.folder, model.device)
    config = trained.config
    numbers, figures = held_out.measured, held_out.figures
    tokens = len(held_out.rows) if numbers is None else len(numbers)
    measured = evaluate(trained, *held_out[:2], subset=numbers) if tokens else None
    far = int(figures.train.sum()) if figures and held_out.cached else None
    problems = _without_fve(sae.name, measured) + _outliers(sae, model, far)
    penalised = config.k is None
    row = {
        "sae": sae.name,
        "model": model.spec.name,
        "hookpoint": sae.hookpoint,
        "architecture": config.architecture,
        "width": config.width,
        "d": config.d_in,
        "k": config.k,
        "parent": sae.parent,
        "weights": plan.folder.name,
        "digest": file_digest(plan.folder / WEIGHTS_FILE),
        "l0": measured and measured.l0,
        "fve": measured and measured.fve,
        "dead": measured and measured.dead,
        "held_out": tokens,
        "steps": report and report.steps,
        "config": plan.config,
        "target": sae.target,
        "selection": sae.selection,
        "sparsity": report.sparsity if report and penalised else None,
        "tilt": sae.tilt if report else None,
        "seed": sae.seed if report else None,
        "code": code_of(config),
        "rows": HALF if held_out.cached else None,
        "rounding": None if held_out.sample is None else rounding_share(trained, held_out.sample),
        "median_norm": figures and figures.median_norm,
        "outliers": far,
        "held_out_outliers": held_out.outliers,
    }
    course = [{"sae": sae.name, **metric._asdict()} for metric in (report.metrics if report else [])]
    _store(catalog, row, course, problems)
    median_norm = figures.median_norm if figures else None
    return Reader(sae.name, sae.hookpoint, trained, str(row["digest"]), held_out.cached, median_norm)


def code_of(config: SAEConfig) -> str:
    """Digest of what decides its activations and reconstructions besides the weights."""
    said = json.dumps([config.architecture, config.k, config.centred, config.groups])
    return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()


def _without_fve(name: str, measured: Evaluation | None) -> list[dict[str, Any]]:
    """Says, of an SAE, why it has no FVE."""
    reason = measured.unexplained if measured else "no token of split val is left that does not repeat train text"
    return [{"stage": _HELD_OUT, "subject": name, "reason": reason, "count": 1}] if reason else []


def _outliers(sae: Sae, model: LanguageModel, count: int | None) -> list[dict[str, Any]]:
    """Says how many rows an SAE was not trained on."""
    if not count or sae.outliers == "keep":
        return []
    reason = f"rows of train text at {sae.hookpoint!r} above {FAR:g} times the median norm: not trained on"
    if model.bos is None and model.tokenizer.bos_token_id is not None:
        # Where no BOS stands first, the first token of a sequence has its part.
        reason += (
            "; if they are first tokens of sequences, bos = 'always' in [model] gives them another to stand for it"
        )
    return [{"stage": _OUTLIERS, "subject": sae.name, "reason": reason, "count": count}]


def record_lens_problems(catalog: Catalog, model: LanguageModel, readers: list[Reader]) -> None:
    """Says, of each SAE whose decoder rows are no directions of the residual stream, why they have no logits."""
    asked = {r.name: (r.sae.config.target_hookpoint or r.hookpoint, r.sae.config.out) for r in readers}
    now = lens_problems(catalog, model, asked)
    if now is None:
        return
    ours, place = "stage = ? AND list_contains(?, subject)", [_LENS, list(asked)]
    with catalog.write(f"{len(now)} SAEs without a logit lens") as tx:
        tx.execute(f"DELETE FROM lake.problems WHERE {ours}", place)
        tx.insert("problems", [{"stage": _LENS, "subject": n, "reason": r, "count": 1} for n, r in sorted(now)])


def lens_problems(
    catalog: Catalog, model: LanguageModel, asked: dict[str, tuple[str, int]]
) -> set[tuple[str, str]] | None:
    """(SAE, why it has no logit lens), given hookpoint and width of each one's decoder; None if the catalog says so."""
    why = {place: lens_problem(model, *place) for place in dict.fromkeys(asked.values())}
    now = {(name, reason) for name, place in asked.items() if (reason := why[place])}
    said = "SELECT subject, reason FROM problems WHERE stage = ? AND list_contains(?, subject)"
    return None if now == set(catalog.rows(said, [_LENS, list(asked)])) else now


def _store(catalog: Catalog, row: dict[str, Any], course: list[dict[str, Any]], problems: list[dict[str, Any]]) -> None:
    """Write the SAE's row, its training metrics and its problems; rows of other weights with its name are deleted."""
    mine = f"sae = {quoted(row['sae'])}"
    problem = f"stage IN ({quoted(_HELD_OUT)}, {quoted(_OUTLIERS)}) AND subject = {quoted(row['sae'])}"

    def work(tx: Transaction) -> None:
        there = tx.rows(f"SELECT {', '.join(_IDENTITY)}, code FROM lake.saes WHERE {mine}")
        # `code` is NULL of an SAE that is older than this column.
        if there and (
            there[0][:-1] != tuple(row[name] for name in _IDENTITY) or there[0][-1] not in (None, row["code"])
        ):
            # What the study names now is made anew: the rest would stay, as if it were of these weights.
            for table in ("activations", "shards", "evaluations"):
                tx.execute(f"DELETE FROM lake.{table} WHERE {mine}")
        tx.replace("saes", [row], ["sae"], mine)
        tx.replace("training", course, ["sae", "step"], mine)
        tx.replace("problems", problems, ["stage", "subject", "reason"], problem)

    catalog.commit(f"SAE {row['sae']}", work)

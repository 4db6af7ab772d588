"""Tells which evaluations are to be measured, and which that nobody asks for are out of date. Writes nothing."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from catalog import Catalog
from catalog.digest import digest
from ingest.model.language_model import LanguageModel
from ingest.model.splice import splice_problem
from ingest.stored.reader import Reader
from ingest.text.held_out import MeasuredText, measured_text

_MEASURES = 2
"""Part of the inputs' digest: a change of what is measured raises it, and everything is measured again."""


class Measurement(NamedTuple):
    """One text, and the SAEs that are asked for on it."""

    text: MeasuredText
    unusable: str | None
    """Why nothing can be measured on it."""
    stale: list[Reader]
    """Those that have no row on it, or one that was made from something else."""
    current: list[Reader]


def measurements(
    catalog: Catalog,
    model: LanguageModel,
    readers: list[Reader],
    corpora: list[str],
    splits: tuple[str, ...],
    max_tokens: int | None,
    precision: float = 0.0,
) -> list[Measurement]:
    """What is to be measured on each split of the corpora; the texts are those of `measured_text`.

    A row that was measured on all of a text is as good as one that ended at `precision`.
    """
    found = []
    for corpus in corpora:
        for split in splits:
            text = measured_text(catalog, corpus, split, max_tokens)
            sql = "SELECT sae, inputs FROM evaluations WHERE corpus = ? AND split = ?"
            known = dict(catalog.rows(sql, [corpus, split]))
            unusable = _unusable(model, text)
            asked = [] if unusable else readers
            stale = [r for r in asked if not _current(known.get(r.name), model, r, text, max_tokens, precision)]
            found.append(Measurement(text, unusable, stale, [reader for reader in asked if reader not in stale]))
    return found


def outdated(
    catalog: Catalog,
    model: LanguageModel,
    readers: list[Reader],
    asked: Mapping[str, Collection[tuple[str, str]]],
    max_tokens: int | None,
    precision: float = 0.0,
) -> tuple[dict[tuple[str, str], list[str]], dict[tuple[str, str], list[str]]]:
    """By (corpus, split) the SAEs with a row that nobody asks for: those that are out of date, and the others.

    `asked` has the (corpus, split) that a whole study measures each SAE on.
    """
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for sae, corpus, split, inputs in catalog.rows("SELECT sae, corpus, split, inputs FROM evaluations ORDER BY ALL"):
        if sae in asked and (corpus, split) not in asked[sae]:
            rows.setdefault((corpus, split), {})[sae] = inputs
    gone: dict[tuple[str, str], list[str]] = {}
    kept: dict[tuple[str, str], list[str]] = {}
    for (corpus, split), saes in rows.items():
        text = measured_text(catalog, corpus, split, max_tokens)
        usable = _unusable(model, text) is None
        gone[corpus, split] = [
            reader.name
            for reader in readers
            if reader.name in saes
            and not (usable and _current(saes[reader.name], model, reader, text, max_tokens, precision))
        ]
        kept[corpus, split] = sorted(saes.keys() - set(gone[corpus, split]))
    return gone, kept


def inputs_of(
    model: LanguageModel, reader: Reader, text: MeasuredText, max_tokens: int | None, precision: float = 0.0
) -> str:
    """The digest of all that decides what is measured of an SAE on a text."""
    more = {"precision": precision} if precision else {}
    if reader.median_norm is not None:
        more["median_norm"] = reader.median_norm
    return digest(
        {
            **more,
            "measures": _MEASURES,
            "model": model.digest,
            "dtype": str(model.dtype),
            "hookpoint": reader.hookpoint,
            "target": reader.sae.config.target_hookpoint,
            "sae": reader.identity,
            "text": text.digest,
            "max_tokens": max_tokens,
        }
    )


def unspliceable(model: LanguageModel, targets: Mapping[str, str]) -> dict[str, str]:
    """Why some SAEs cannot be put in the place that they describe, by name; `targets` are their hookpoints there."""
    why = {target: splice_problem(model, target) for target in dict.fromkeys(targets.values())}
    return {name: reason for name, target in targets.items() if (reason := why[target])}


def _current(
    inputs: str | None,
    model: LanguageModel,
    reader: Reader,
    text: MeasuredText,
    max_tokens: int | None,
    precision: float,
) -> bool:
    """Whether a row with these inputs is of this SAE on this text, by the present digest or by the earlier one."""
    asked = (model, reader, text, max_tokens)
    return inputs in (inputs_of(*asked, precision), inputs_of(*asked), _earlier_inputs(*asked))


def _earlier_inputs(model: LanguageModel, reader: Reader, text: MeasuredText, max_tokens: int | None) -> str:
    """The digest that older catalogs hold in place of `inputs_of`: it counts neither k, centring nor groups.

    It is as good as that: the commit that changes one of those of an SAE takes the SAE's evaluations away.
    """
    target = reader.sae.config.target_hookpoint
    said = [_MEASURES, model.digest, str(model.dtype), reader.hookpoint, target, reader.digest, text.digest, max_tokens]
    return digest(said)


def _unusable(model: LanguageModel, text: MeasuredText) -> str | None:
    """Why nothing can be measured with the model on the text; None if it can."""
    if model.layout.headless:
        return f"no losses can be measured: {model.layout.headless}"
    return text.unusable(model.bos is not None)

"""Foresees which shards a harvest would make anew for each SAE, and how many activations and bytes to expect."""

from collections.abc import Iterator, Mapping

from catalog import Catalog
from ingest.activations.shard_harvest import stale_readers
from ingest.dictionaries.foresee import Foreseen
from ingest.model.batches import TextShard, text_shards
from ingest.model.language_model import LanguageModel
from ingest.to_do import CHANGED, CURRENT, MAY_CHANGE, NEW, Work

_BYTES = 3.3
"""Of an activation on disk, where the catalog has none to tell: see `activation_file`."""


def foresee_harvest(
    catalog: Catalog, model: LanguageModel, found: Foreseen, kept: Mapping[str, tuple[str, ...]]
) -> Iterator[Work]:
    """A row for each SAE with the corpora of which its activations are kept, as `kept` names them."""
    sizes = _Sizes(catalog)
    for name, corpora in kept.items():
        if not corpora:
            continue
        shards = text_shards(catalog, list(corpora))
        reader = found.readers.get(name)
        stale = shards
        if reader is not None:
            by_shard = stale_readers(catalog, model, [reader], shards)
            stale = [shard for shard, readers in zip(shards, by_shard, strict=True) if readers]
        if not stale:
            yield Work("harvest", name)
            continue
        tokens = sum(shard.tokens for shard in stale)
        rows = sizes.rows(name, found, tokens)
        size = None if rows is None else round(rows * sizes.bytes)
        state, why = _state(catalog, name, found, stale, corpora)
        yield Work("harvest", name, state, why, None, tokens, len(stale), rows, size)


def _state(
    catalog: Catalog, name: str, found: Foreseen, stale: list[TextShard], corpora: tuple[str, ...]
) -> tuple[str, str]:
    """(state, why) of the harvest of an SAE on shards that are stale."""
    there = catalog.rows(
        "SELECT corpus, shard FROM shards WHERE relation = 'activations' AND sae = ? AND list_contains(?, corpus)",
        [name, list(corpora)],
    )
    if not there:
        return NEW, ""
    if name in found.perhaps:
        return MAY_CHANGE, "the SAE is trained anew"
    if found.works[name].state != CURRENT:
        return CHANGED, "the SAE is another one now"
    fresh = [shard for shard in stale if (shard.corpus, shard.shard) not in there]
    if len(fresh) == len(stale):
        return CHANGED, f"new text in {', '.join(dict.fromkeys(shard.corpus for shard in stale))}"
    return CHANGED, "text, model or SAE are not those that it was made from"


class _Sizes:
    """What the activations in a catalog tell of those to come."""

    def __init__(self, catalog: Catalog) -> None:
        rows, size = catalog.rows(
            "SELECT sum(rows)::BIGINT, sum(bytes)::BIGINT FROM shards WHERE relation = 'activations'"
        )[0]
        self.bytes = size / rows if rows else _BYTES
        """Of an activation on disk."""
        self._active: dict[str, float] = dict(
            catalog.rows(
                "SELECT a.sae, sum(a.rows) / sum(t.rows) FROM shards AS a JOIN shards AS t "
                "ON t.relation = 'tokens' AND (t.corpus, t.shard) = (a.corpus, a.shard) "
                "WHERE a.relation = 'activations' GROUP BY a.sae"
            )
        )

    def rows(self, name: str, found: Foreseen, tokens: int) -> int | None:
        """Activations of an SAE on so many tokens; None where nothing tells how sparse it will be."""
        config = found.configs.get(name)
        active = self._active.get(name) if found.works[name].state == CURRENT else None
        if active is None and config is not None and config.k is not None:
            active = config.k
        return None if active is None else round(active * tokens)

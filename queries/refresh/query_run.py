"""Runs a step that is a query alone: the rows of stale parts, or of all of it."""

import json
from collections.abc import Callable

from catalog.quote import content, named
from catalog.store.comparison import Changes
from catalog.store.transaction import Transaction
from queries.refresh import parts
from queries.refresh.reads import KEPT
from queries.refresh.result import StepResult
from queries.refresh.step_run import StepRun


class QueryRun(StepRun):
    """One refresh or plan of a step without a kernel."""

    def _stage(self, inputs: str) -> Callable[[], None]:
        now, selection, found = self._selection()
        idle = selection is not None and not found.stale and not found.gone and self.step.name in self.context.runs
        scope = self.step.slice if idle else self._query_rows(selection)
        contents = {} if idle else self._part_rows(selection)
        self.touched = selection.read if selection else []
        self.partial = self._filter is not None

        def work(tx: Transaction) -> Changes:
            changes = Changes(0, 0, 0)
            if not idle:
                changes = tx.replace(self.step.writes, self.fresh, list(self.step.key), scope)
            self._record(tx, inputs, changes, now, contents)
            return changes

        def finish() -> None:
            self.changes = self._commit(work, inputs)

        return finish

    def _planned(self) -> StepResult:
        now, selection, found = self._selection()
        if selection is not None and not found.stale and not found.gone:
            return self._result("current")
        scope = self._query_rows(selection)
        comparison = self._compared(scope)
        before = self.context.parted(self.step.writes)
        if before is not None and selection is not None:
            made = {part: content for part, (_, content) in self._part_rows(selection).items()}
            after = {part: made.get(part) or before.digests[part] for part in now}
            self.context.expect_parts(self.step.writes, self.step.partition, after)
        self._expect(scope, comparison)
        if not comparison.changes:
            return self._result("current", same=comparison.same)
        self.changes = comparison.changes
        return self._result("stale", same=comparison.same)

    def _parted_parents(self) -> dict[str, parts.Parted]:
        """The tables that the step reads in parts of its own columns."""
        found = {}
        for table in self.reads:
            parted = self.context.parted(table)
            if parted is not None and set(parted.columns) <= set(self.step.partition):
                found[table] = parted
        return found

    def _seed(self, parted: dict[str, parts.Parted]) -> str:
        """The fingerprint, and the last change of what is read whole and has no parts."""
        return json.dumps([self.fingerprint, {t: s for t, s in self.inputs.items() if t not in parted}])

    def _selection(self) -> tuple[dict[parts.Part, str], parts.Selection | None, parts.Difference]:
        """(digest of every part now, what to read and replace, which parts differ); no selection: no parts."""
        if not self.step.partition:
            return {}, None, parts.Difference()
        parents = self._parted_parents()
        now = parts.joined(self.step.partition, parents, self._seed(parents))
        found = parts.difference(now, {part: made.digest for part, made in self.recorded.items()})
        return now, parts.select(self.step.partition, self.columns, found, self.step.folds), found

    def _query_rows(self, selection: parts.Selection | None) -> str:
        """Put the query's rows, those of stale parts alone, into its new rows' table; the scope that they replace."""
        scope, narrow = self.step.slice, None
        if selection is not None:
            shape = {column: self.context.type_of(column) for column in self.step.partition}
            kept = [c for c in self.step.partition if c in self.columns]
            grown = {column: shape[column] for column in kept}
            parts.stage_parts(self.catalog, "_parts", shape, selection.read)
            parts.stage_parts(self.catalog, "_grown", grown, selection.grown)
            anew = set(selection.groups) - set(selection.grown)
            parts.stage_parts(self.catalog, self.groups, grown, sorted(anew))
            parents = self._parted_parents()

            def narrow(table: str, relation: str) -> str:
                if table == KEPT:
                    own = f"(SELECT * FROM {self.context.relations.of(self.step.writes)} WHERE {self.step.slice})"
                    return parts.narrowed(own, kept, selection.grown, "_grown", bounded=False)
                if selection.everything or table not in parents or table in self.step.whole:
                    return relation
                columns = parents[table].columns
                read = [tuple(part[self.step.partition.index(c)] for c in columns) for part in selection.read]
                return parts.narrowed(relation, columns, read, "_parts", bounded=table in parts.FILES)

            if not selection.everything:
                listed, touched = ", ".join(map(named, kept)), ", ".join(map(named, self.step.touches))
                replaced = f"({listed}) IN (SELECT ({listed}) FROM {self.groups})"
                if selection.grown:
                    replaced += f" OR ({touched}) IN (SELECT ({touched}) FROM {self.fresh})"
                scope = f"({scope}) AND ({replaced})"
        tables = sorted({*self.step.parents, KEPT} if self.step.folds else self.step.parents)
        query = self.context.relations.query(self.step.query, tables, narrow)
        cast = ", ".join(f"CAST({named(name)} AS {kind}) AS {named(name)}" for name, kind in self.columns.items())
        where = "true"
        if self._filter:
            where = self._filter
            scope = f"({scope}) AND ({where})"
        made = f"CREATE OR REPLACE TEMP TABLE {self.fresh} AS SELECT {cast} FROM ({query}\n) WHERE {where}"
        self.catalog.connection.execute(made, self._named_in(query))
        return scope

    def _part_rows(self, selection: parts.Selection | None) -> dict[parts.Part, tuple[int, str]]:
        """(rows, digest of the rows) of each part in its new rows' table, for a step whose rows say their part."""
        if selection is None or not set(self.step.partition) <= self.columns.keys():
            return {}
        listed = ", ".join(map(named, self.step.partition))
        rows = self.catalog.rows(f"SELECT {listed}, count(*), {content('f')} FROM {self.fresh} AS f GROUP BY {listed}")
        found = {tuple(row[:-2]): (int(row[-2]), str(row[-1])) for row in rows}
        return {part: found.get(part, (0, "0")) for part in selection.read}

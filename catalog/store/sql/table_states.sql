-- For each state that the table $table is in at one of the snapshots $kept: one snapshot that has it.
-- A state begins where a file of the table begins or ends. A file that was merged with later ones has
-- changes up to partial_max: each snapshot of that span may be the begin of a state.
WITH files AS (
    SELECT table_id, begin_snapshot, coalesce(partial_max, begin_snapshot) AS until, end_snapshot
    FROM __ducklake_metadata_lake.ducklake_data_file
    UNION ALL
    SELECT table_id, begin_snapshot, coalesce(partial_max, begin_snapshot), end_snapshot
    FROM __ducklake_metadata_lake.ducklake_delete_file
),
mine AS (
    SELECT f.*
    FROM files AS f
    SEMI JOIN (FROM __ducklake_metadata_lake.ducklake_table WHERE table_name = $table) AS t USING (table_id)
),
points AS (
    SELECT unnest(range(begin_snapshot, until + 1)) AS point FROM mine
    UNION
    SELECT end_snapshot FROM mine WHERE end_snapshot IS NOT NULL
),
kept AS (SELECT unnest($kept::BIGINT[]) AS snapshot)
SELECT min(k.snapshot)
FROM kept AS k
ASOF JOIN points AS p ON k.snapshot >= p.point
GROUP BY p.point
ORDER BY 1

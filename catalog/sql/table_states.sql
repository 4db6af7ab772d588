-- For each state that the table $table is in at one of the snapshots $kept: one snapshot that has it.
-- A state begins where a file of the table begins or ends.
WITH tables AS (
    SELECT table_id, begin_snapshot FROM __ducklake_metadata_lake.ducklake_table WHERE table_name = $table
),
files AS (
    FROM __ducklake_metadata_lake.ducklake_data_file SELECT table_id, begin_snapshot, end_snapshot
    UNION ALL
    FROM __ducklake_metadata_lake.ducklake_delete_file SELECT table_id, begin_snapshot, end_snapshot
),
points AS (
    SELECT begin_snapshot AS point FROM files SEMI JOIN tables USING (table_id)
    UNION
    SELECT end_snapshot FROM files SEMI JOIN tables USING (table_id) WHERE end_snapshot IS NOT NULL
),
kept AS (SELECT unnest($kept::BIGINT[]) AS snapshot)
SELECT min(k.snapshot)
FROM kept AS k
ASOF JOIN points AS p ON k.snapshot >= p.point
GROUP BY p.point
ORDER BY 1

-- Tables whose rows or columns changed after snapshot $a, up to snapshot $b: DuckLake keeps the first and last
-- snapshot of each file. A file that was merged with later ones has changes up to partial_max.
WITH changes AS (
    SELECT table_id, begin_snapshot, coalesce(partial_max, begin_snapshot) AS until, end_snapshot
    FROM __ducklake_metadata_lake.ducklake_data_file
    UNION ALL
    SELECT table_id, begin_snapshot, coalesce(partial_max, begin_snapshot), end_snapshot
    FROM __ducklake_metadata_lake.ducklake_delete_file
    UNION ALL
    SELECT table_id, begin_snapshot, begin_snapshot, end_snapshot
    FROM __ducklake_metadata_lake.ducklake_column
)
SELECT DISTINCT table_id
FROM changes
WHERE (until > $a AND begin_snapshot <= $b) OR (end_snapshot > $a AND end_snapshot <= $b)

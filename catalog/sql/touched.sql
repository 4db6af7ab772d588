-- Tables whose files or columns changed after snapshot $a, up to snapshot $b: DuckLake keeps their first and last snapshot.
WITH files AS (
    SELECT table_id, begin_snapshot, end_snapshot FROM __ducklake_metadata_lake.ducklake_data_file
    UNION ALL
    SELECT table_id, begin_snapshot, end_snapshot FROM __ducklake_metadata_lake.ducklake_delete_file
    UNION ALL
    SELECT table_id, begin_snapshot, end_snapshot FROM __ducklake_metadata_lake.ducklake_column
)
SELECT DISTINCT table_id
FROM files
WHERE (begin_snapshot > $a AND begin_snapshot <= $b) OR (end_snapshot > $a AND end_snapshot <= $b)

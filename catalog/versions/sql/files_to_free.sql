-- Files that no snapshot will name once only those in $kept are left: path, bytes.
WITH files AS (
    SELECT table_id, path, path_is_relative, file_size_bytes, begin_snapshot, end_snapshot
    FROM __ducklake_metadata_lake.ducklake_data_file
    UNION ALL
    SELECT table_id, path, path_is_relative, file_size_bytes, begin_snapshot, end_snapshot
    FROM __ducklake_metadata_lake.ducklake_delete_file
),
kept AS (SELECT unnest($kept::BIGINT[]) AS snapshot)
SELECT path, file_size_bytes
FROM files AS f
WHERE f.end_snapshot IS NOT NULL
    AND NOT EXISTS (FROM kept AS k WHERE k.snapshot >= f.begin_snapshot AND k.snapshot < f.end_snapshot)

-- The tables that there were at snapshot $at.
SELECT table_name, table_id
FROM __ducklake_metadata_lake.ducklake_table
WHERE begin_snapshot <= $at AND (end_snapshot IS NULL OR end_snapshot > $at)
ORDER BY table_name

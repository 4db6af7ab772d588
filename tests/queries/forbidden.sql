-- Statements that must not pass, one a line; \n is a line break, {canary} a folder with secrets, {root} the catalog,
-- {db} an empty SQLite file, {server} a PostgreSQL database: that of the metadata, or none. See test_guard.py.
COPY problems TO '{canary}/out.csv'
COPY (SELECT 1) TO '{canary}/out.parquet' (FORMAT parquet)
COPY problems FROM '{canary}/secret.csv'
COPY FROM DATABASE lake TO memory
EXPORT DATABASE '{canary}/export'
IMPORT DATABASE '{canary}'
ATTACH '{canary}/new.duckdb'
ATTACH '{db}' AS x (TYPE sqlite)
ATTACH 'ducklake:sqlite:{root}/catalog.sqlite' AS again
DETACH lake
INSTALL httpfs
LOAD '{canary}/secret.csv'
FORCE INSTALL httpfs FROM community
UPDATE EXTENSIONS
PRAGMA database_list
PRAGMA enable_external_access=true
SET threads = 1
SET VARIABLE x = 1
RESET threads
CALL ducklake_expire_snapshots('lake', versions => [1])
CALL ducklake_cleanup_old_files('lake', cleanup_all => true)
CALL lake.set_commit_message('me', 'you')
CALL ducklake_add_data_files('lake', 'problems', '{canary}/secret.parquet')
FROM ducklake_set_commit_message('lake', 'me', 'you')
FROM ducklake_table_changes('lake', 'main', 'problems', 0, 9)
FROM ducklake_list_files('lake', 'problems')
FROM lake.snapshots()
FROM lake.set_commit_message('me', 'you')
SELECT * FROM sqlite_scan('{root}/catalog.sqlite', 'ducklake_table')
SELECT * FROM sqlite_query('lake', 'DELETE FROM ducklake_table')
SELECT * FROM SQLITE_SCAN('{canary}/made.sqlite', 't')
CALL sqlite_attach('{root}/catalog.sqlite')
SELECT * FROM sqlite_master
ATTACH '{server}' AS x (TYPE postgres)
ATTACH 'postgres:{server}' AS x
ATTACH 'ducklake:postgres:{server}' AS again
CREATE SECRET s (TYPE postgres, PASSWORD 'x')
CALL postgres_attach('{server}')
CALL postgres_execute('__ducklake_metadata_lake', 'DELETE FROM ducklake_table')
CALL postgres_execute('lake', 'DELETE FROM ducklake_table')
FROM postgres_execute('__ducklake_metadata_lake', 'DELETE FROM ducklake_table')
FROM postgres_query('__ducklake_metadata_lake', 'SELECT * FROM ducklake_table')
FROM postgres_query('__ducklake_metadata_lake', 'DELETE FROM ducklake_table RETURNING table_name')
SELECT * FROM POSTGRES_SCAN('{server}', 'public', 'ducklake_table')
SELECT (SELECT any_value(table_name) FROM postgres_scan('{server}', 'public', 'ducklake_table'))
FROM postgres_scan_pushdown('{server}', 'public', 'ducklake_table')
FROM read_postgres_binary('{canary}/secret.csv', columns = {'x': 'INT'})
CALL postgres_configure_pool(catalog_name = '__ducklake_metadata_lake', max_connections = 0)
CALL pg_clear_cache()
SET pg_debug_show_queries = true
FROM __ducklake_metadata_lake.public.ducklake_table
FROM public.ducklake_table
FROM 'postgres:{server}'
SELECT * FROM read_csv('{canary}/secret.csv')
SELECT * FROM read_csv_auto(['{canary}/secret.csv'])
SELECT * FROM "read_csv"('{canary}/secret.csv')
SELECT * FROM main.read_csv('{canary}/secret.csv')
SELECT * FROM system.main.read_text('{canary}/secret.txt')
SELECT * FROM sniff_csv('{canary}/secret.csv')
SELECT * FROM read_parquet('{canary}/secret.parquet')
SELECT * FROM parquet_scan('{canary}/secret.parquet')
SELECT * FROM parquet_metadata('{canary}/secret.parquet')
SELECT * FROM read_text('{canary}/*')
SELECT * FROM read_text('{root}/data/../../canary/secret.txt')
SELECT * FROM read_blob('{canary}/secret.txt')
SELECT * FROM read_json('{canary}/secret.json')
SELECT * FROM read_ndjson_objects('{canary}/secret.json')
SELECT * FROM glob('{canary}/*')
SELECT * FROM '{canary}/secret.csv'
FROM '{canary}/secret.parquet'
FROM '{root}/data/main/problems/*.parquet'
FROM "{canary}/secret.csv"
FROM 'secret.csv' AS problems
FROM E'{canary}/secret.csv'
FROM $${canary}/secret.csv$$
TABLE '{canary}/secret.csv'
DESCRIBE '{canary}/secret.csv'
DESCRIBE FROM read_csv('{canary}/secret.csv')
SUMMARIZE '{canary}/secret.csv'
SUMMARIZE SELECT * FROM read_csv('{canary}/secret.csv')
FROM (SHOW DATABASES)
FROM (FROM (FROM read_csv('{canary}/secret.csv')))
FROM problems, '{canary}/secret.csv'
FROM problems JOIN read_csv('{canary}/secret.csv') ON true
FROM problems, LATERAL (FROM read_text('{canary}/' || stage))
FROM problems POSITIONAL JOIN read_text('{canary}/secret.txt')
SELECT (SELECT content FROM read_text('{canary}/secret.txt'))
SELECT EXISTS (FROM read_text('{canary}/secret.txt'))
SELECT 1 IN (SELECT size FROM read_text('{canary}/secret.txt'))
SELECT list_transform([1], x -> (SELECT any_value(content) FROM read_text('{canary}/secret.txt')))
SELECT [(SELECT content FROM read_text('{canary}/secret.txt')) FOR x IN [1]]
SELECT count(*) FILTER (WHERE EXISTS (FROM read_text('{canary}/secret.txt'))) FROM problems
SELECT sum(count) OVER (ORDER BY (SELECT size FROM read_text('{canary}/secret.txt'))) FROM problems
SELECT count FROM problems ORDER BY (SELECT size FROM read_text('{canary}/secret.txt'))
SELECT count FROM problems LIMIT (SELECT size FROM read_text('{canary}/secret.txt'))
SELECT count FROM problems QUALIFY row_number() OVER () < (SELECT size FROM read_text('{canary}/secret.txt'))
SELECT count FROM problems GROUP BY ALL HAVING EXISTS (FROM read_text('{canary}/secret.txt'))
SELECT * REPLACE ((SELECT content FROM read_text('{canary}/secret.txt')) AS stage) FROM problems
SELECT COLUMNS(c -> c = (SELECT content FROM read_text('{canary}/secret.txt'))) FROM problems
SELECT CASE WHEN true THEN (SELECT content FROM read_text('{canary}/secret.txt')) END
FROM problems AT (VERSION => (SELECT size FROM read_text('{canary}/secret.txt')))
FROM problems AT (VERSION => getenv('HOME')::INT)
FROM problems AT (VERSION => 1 + 1)
FROM problems AT (VERSION => CAST('1' AS INTEGER))
FROM problems AT (VERSION => 1.5)
FROM problems AT (VERSION => NULL)
FROM problems AT (VERSION => -1)
FROM problems AT (VERSION => 999999)
FROM problems AT (VERSION => [1])
FROM problems AT (VERSION => 'no such tag')
FROM problems AT (VERSION => '{canary}/secret.csv')
FROM problems AT (VERSION => '1) ; DELETE FROM problems')
FROM problems AT (VERSION => problems.count)
FROM problems AT (TIMESTAMP => now())
FROM problems AT (TIMESTAMP => (SELECT size FROM read_text('{canary}/secret.txt')))
FROM features AT (VERSION => 3)
FROM lake.main.features AT (VERSION => $v)
FROM features AT (TIMESTAMP => '2100-01-01')
FROM sqlite_master AT (VERSION => 1)
FROM '{canary}/secret.csv' AT (VERSION => 1)
FROM __ducklake_metadata_lake.ducklake_table AT (VERSION => 1)
WITH sqlite_master AS (SELECT 1) FROM sqlite_master AT (VERSION => 1)
WITH "{canary}/secret.csv" AS (SELECT 1) FROM "{canary}/secret.csv" AT (VERSION => 1)
WITH a AS (SELECT 1) FROM a AT (VERSION => 1)
FROM range((SELECT size FROM read_text('{canary}/secret.txt')))
VALUES ((SELECT content FROM read_text('{canary}/secret.txt')))
SELECT 1 UNION ALL SELECT content FROM read_text('{canary}/secret.txt')
WITH a AS (FROM read_text('{canary}/secret.txt')) FROM a
WITH a AS MATERIALIZED (FROM '{canary}/secret.csv') SELECT 1
WITH RECURSIVE a AS (SELECT 1 UNION ALL SELECT size FROM read_text('{canary}/secret.txt')) FROM a
WITH "{canary}/secret.csv" AS (SELECT 1) SELECT * FROM "{canary}/secret.csv"
SELECT * FROM (WITH sqlite_master AS (SELECT 1) FROM sqlite_master) AS t, sqlite_master
WITH a AS (SELECT * FROM b), b AS (SELECT 1) FROM a
SELECT * FROM (SELECT 1) AS b, (SELECT * FROM b) AS c
WITH a AS (DELETE FROM problems RETURNING *) FROM a
WITH a AS (INSERT INTO problems VALUES ('a', 'b', 'c', 1) RETURNING *) FROM a
FROM (DELETE FROM problems RETURNING *)
INSERT INTO problems VALUES ('a', 'b', 'c', 1)
INSERT OR REPLACE INTO problems SELECT * FROM problems
UPDATE problems SET count = 0
DELETE FROM problems
TRUNCATE problems
MERGE INTO problems USING (SELECT 1 AS count) AS s ON false WHEN NOT MATCHED THEN INSERT VALUES ('a', 'b', 'c', 1)
CREATE TABLE made AS SELECT 1
CREATE TEMP TABLE made AS SELECT 1
CREATE VIEW made AS SELECT 1
CREATE MACRO sum(x) AS 1
CREATE SECRET s (TYPE s3)
CREATE SCHEMA made
CREATE TYPE made AS ENUM ('a')
DROP TABLE problems
ALTER TABLE problems ADD COLUMN x INTEGER
COMMENT ON TABLE problems IS 'x'
VACUUM
ANALYZE
CHECKPOINT
FORCE CHECKPOINT lake
EXPLAIN ANALYZE DELETE FROM problems
EXPLAIN ANALYZE COPY (SELECT 1) TO '{canary}/out.csv'
BEGIN
ROLLBACK
USE memory
PREPARE p AS DELETE FROM problems
EXECUTE p
DEALLOCATE p
SELECT 1 INTO made
SELECT * INTO made FROM problems
SELECT 1; DROP TABLE problems
SELECT 1; SELECT 2
SELECT 1;; DELETE FROM problems
SELECT 1 /* ; */ ; DELETE FROM problems
SELECT 1 -- \n; DELETE FROM problems
SELECT 1 /* /* */ */ ; DELETE FROM problems
SELECT $$a$$; DELETE FROM problems; SELECT $$b$$
SELECT $a$ ' $a$; DELETE FROM problems; --'
SELECT E'\'; DELETE FROM problems; --'; DELETE FROM problems
SELECT 'a\'; DELETE FROM problems; --'
SELECT U&'\0027'; DELETE FROM problems
ＳＥＬＥＣＴ 1
DELETE/**/FROM problems
/*! DELETE FROM problems */
FROM query('SELECT 1')
FROM query('DELETE ' || 'FROM problems')
FROM query_table('problems')
FROM query_table(['{canary}/secret.csv'])
FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))
SELECT json_serialize_plan('SELECT * FROM read_text(''{canary}/secret.txt'')')
SELECT json_serialize_sql('SELECT 1')
SELECT json_deserialize_sql('{}')
FROM histogram_values(problems, count)
FROM histogram(problems, count)
FROM seq_scan('problems')
FROM duckdb_settings()
FROM duckdb_secrets()
FROM duckdb_tables
FROM duckdb_logs_parsed('QueryLog')
FROM "duckdb_tables"()
FROM pragma_table_info('problems')
FROM pragma_storage_info('problems')
FROM test_all_types()
FROM arrow_scan(1, 2, 3)
FROM pandas_scan(1)
FROM python_map_function(1)
FROM checkpoint('lake')
FROM enable_logging()
FROM which_secret('s3://x', 's3')
FROM repeat_row(1, num_rows := 3)
FROM information_schema.tables
FROM lake.information_schema.tables
FROM pg_catalog.pg_tables
FROM pg_tables
FROM system.main.duckdb_tables
FROM memory.main.x
FROM temp.main.x
FROM __ducklake_metadata_lake.ducklake_table
FROM __ducklake_metadata_lake.main.ducklake_data_file
FROM "__DuckLake_Metadata_lake"."main"."ducklake_table"
FROM lake.other.problems
FROM recurring.problems
SELECT * FROM (PIVOT problems ON stage USING first((SELECT content FROM read_text('{canary}/secret.txt'))))
PIVOT (FROM read_csv('{canary}/secret.csv')) ON a IN ('b') USING count(*)
PIVOT problems ON stage IN (SELECT stage FROM problems) USING count(*)
FROM problems PIVOT (count(*) FOR stage IN some_enum)
UNPIVOT (FROM read_csv('{canary}/secret.csv')) ON COLUMNS(*) INTO NAME n VALUE v
SELECT getenv('HOME')
SELECT getvariable('x')
SELECT current_setting('temp_directory')
SELECT list_transform(['threads'], x -> current_setting(x))
SELECT 'threads'.current_setting()
SELECT stage.current_setting() FROM problems
SELECT current_query()
SELECT current_database()
SELECT system.main.current_setting('threads')
SELECT "current_setting"('threads')
SELECT nextval('s')
SELECT setseed(0.5)
SELECT random()
SELECT gen_random_uuid()
SELECT now()
SELECT sleep_ms(10)
SELECT pg_sleep(1)
SELECT write_log('x')
SELECT txid_current()
SELECT version()
SELECT pg_get_viewdef(1)
SELECT in_search_path('lake', 'main')
SELECT count(*) OVER w FROM problems WINDOW w AS (ORDER BY current_setting('threads'))
SELECT stats(count) FROM problems
SELECT reservoir_quantile(count, 0.5) FROM problems
SELECT unknown_function(1)
FROM unknown_table
FROM parquet.problems
FROM "problems "
FROM prоblems
SELECT current_catalog
SELECT current_date
SELECT current_role
SELECT current_schema
SELECT current_time
SELECT CURRENT_TIMESTAMP
SELECT "current_user"
SELECT localtime
SELECT localtimestamp
SELECT session_user
SELECT user
SELECT count FROM problems WHERE reason < current_timestamp::VARCHAR
SELECT list_transform([1], x -> current_user)
SELECT count FROM problems ORDER BY current_timestamp
SELECT filename FROM problems
SELECT problems.FileName FROM problems
SELECT lake.problems.filename FROM lake.problems
SELECT file_row_number, file_index FROM problems
SELECT rowid FROM problems
SELECT max(snapshot_id) FROM problems
SELECT count FROM problems ORDER BY filename
SELECT count(*) FROM problems GROUP BY ALL HAVING max(filename) LIKE '/%'
SELECT count(*) FROM problems JOIN (SELECT '{root}/x' AS filename) AS guess USING (filename)
SELECT count(*) FROM problems WHERE EXISTS (SELECT 1 WHERE filename LIKE '{root}%')
PIVOT problems ON stage IN ('harvest') USING count(*) GROUP BY filename
PIVOT problems ON filename USING count(*)
PIVOT problems ON stage USING first(filename)
UNPIVOT problems ON stage, filename INTO NAME n VALUE v
UNPIVOT (SELECT filename FROM problems) ON COLUMNS(*) INTO NAME n VALUE v
EXPLAIN ANALYZE SELECT 1
EXPLAIN (ANALYZE) SELECT 1
EXPLAIN (FORMAT json) SELECT 1
EXPLAIN /* ; */ ANALYZE SELECT 1
EXPLAIN COPY problems TO '{canary}/out.csv'
EXPLAIN FROM read_text('{canary}/secret.txt')
EXPLAIN EXPLAIN SELECT 1
EXPLAIN DELETE FROM problems
EXPLAIN SELECT 1; DELETE FROM problems
EXPLAIN
DESCRIBE SELECT * FROM read_text('{canary}/secret.txt')
SUMMARIZE FROM read_csv('{canary}/secret.csv')
DESCRIBE lake
SHOW DATABASES
SHOW SCHEMAS
SHOW FUNCTIONS
SHOW TABLES FROM memory
PIVOT '{canary}/secret.csv' ON column0 USING count(*)
PIVOT (FROM read_text('{canary}/secret.txt')) ON content USING count(*)
PIVOT problems ON getenv('HOME') USING count(*)
PIVOT problems ON stage USING count(*); DELETE FROM problems
PIVOT problems ON (SELECT content FROM read_text('{canary}/secret.txt')) USING count(*)
WITH a AS (FROM read_text('{canary}/secret.txt')) PIVOT a ON content USING count(*)
PIVOT_WIDER problems ON current_setting('threads') USING count(*)
SELECT json_structure(reason) FROM problems
SELECT json_group_structure(reason) FROM problems
SELECT json_merge_patch('{"a": 1}', '{"b": 2}')
SELECT json_contains('[1]', '1')
SELECT json_transform('[]', repeat('[', 200000) || repeat(']', 200000))
SELECT from_json('[]', reason) FROM problems
SELECT '[1]'::JSON::VARIANT
SELECT TRY_CAST('[1]'::JSON AS VARIANT[])
SELECT {'a': '[1]'::JSON}::STRUCT(a VARIANT)
SELECT 'a'::VARIANT::VARCHAR
FROM histogram('problems', 'count')
FROM problems SELECT reservoir_quantile(count, 0.5)
SELECT array_agg(reservoir_quantile(count, [0.5])) OVER () FROM problems
FROM read_blob('{canary}/*')
FROM '{canary}/*.csv'
FROM '{canary}/secret.parquet' AS t(secret)
FROM parquet_metadata('{canary}/secret.parquet')
FROM parquet_schema('{canary}/secret.parquet')
FROM parquet_bloom_probe('{canary}/secret.parquet', 'secret', 'a')
FROM sniff_csv('{canary}/secret.csv')
FROM read_ndjson_objects('{canary}/secret.json')
FROM 'https://127.0.0.1:1/x.csv'
FROM 's3://bucket/x.parquet'
FROM '/proc/self/environ'
FROM read_text('/proc/self/cmdline')
FROM read_duckdb('{canary}/other.sqlite', table_name = 't')
FROM duckdb_functions()
FROM duckdb_temporary_files()
FROM duckdb_memory()
FROM duckdb_extensions()
FROM duckdb_databases()
FROM duckdb_columns()
FROM duckdb_views()
SELECT pg_get_expr('a', 1)
SELECT pg_typeof(current_setting('threads'))
SELECT currval('s')
SELECT uuid()
SELECT uuidv7()
SELECT today()
SELECT get_current_timestamp()
SELECT transaction_timestamp()
SELECT current_localtimestamp()
SELECT current_schemas(true)
SELECT error('x')
SELECT getvariable('a') FROM problems
SELECT file_exists('{canary}/secret.csv')
SELECT has_table_privilege('problems', 'select')
SELECT list_transform(['HOME'], getenv)
SELECT list_aggregate([1], 'reservoir_quantile', 0.5)
SELECT list_aggregate(['{canary}/secret.txt'], 'read_text')
SELECT array_aggr([1], reason) FROM problems
SELECT json_execute_serialized_sql('{}')
SELECT apply([1], x -> nextval('s'))
SELECT 1 WHERE 1 = (SELECT count(*) FROM glob('{canary}/*'))
SET VARIABLE a = (SELECT content FROM read_text('{canary}/secret.txt'))
SET SESSION memory_limit = '1TB'
PRAGMA memory_limit = '1TB'
LOAD json; SELECT 1
CREATE OR REPLACE TEMP MACRO count(x) AS 1
CREATE TRIGGER t AFTER INSERT ON problems EXECUTE SELECT 1
CREATE INDEX i ON problems (count)
CREATE SEQUENCE s
ATTACH ':memory:' AS x
ATTACH OR REPLACE '{db}' AS lake
COPY (FROM problems) TO '/dev/stdout'
COPY (SELECT 1) TO STDOUT
COPY problems TO '{canary}/out.db' (FORMAT sqlite)
CALL pragma_version()
CALL force_checkpoint()
CALL ducklake_flush_inlined_data('lake')
CALL ducklake_merge_adjacent_files('lake')
CALL ducklake_rewrite_data_files('lake')
CALL ducklake_delete_orphaned_files('lake', cleanup_all => true)
CALL lake.set_option('parquet_compression', 'zstd')
FROM lake.options()
FROM lake.table_changes('problems', 0, 9)
FROM lake.current_snapshot()
LISTEN x
LOCK TABLE problems
GRANT ALL ON problems TO public
SELECT * FROM problems FOR UPDATE OF unknown_table
SELECT 1 FROM problems, LATERAL (DELETE FROM problems RETURNING *)
SELECT 1; ; ; COPY problems TO '{canary}/out.csv'

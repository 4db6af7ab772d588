-- Writes the comments of tables and of their columns as rows of columns_doc, where queries can read them. Rows of views
-- stay, and those of comments that did not change.
CREATE OR REPLACE TEMPORARY TABLE comments AS
SELECT table_name AS relation, '*' AS name, comment AS doc
FROM duckdb_tables()
WHERE database_name = 'lake'
UNION ALL
SELECT c.table_name, c.column_name, c.comment
FROM duckdb_columns() AS c
SEMI JOIN (FROM duckdb_tables() WHERE database_name = 'lake') AS t ON t.table_name = c.table_name
WHERE c.database_name = 'lake';

DELETE FROM lake.main.columns_doc
WHERE
    relation NOT IN (SELECT view_name FROM duckdb_views() WHERE database_name = 'lake')
    AND (relation, name, doc) NOT IN (SELECT (relation, name, coalesce(doc, '')) FROM comments);

INSERT INTO lake.main.columns_doc
SELECT relation, name, doc
FROM comments
ANTI JOIN lake.main.columns_doc USING (relation, name, doc)
WHERE doc IS NOT NULL
ORDER BY ALL;

DROP TABLE comments;

-- A slice of a text walks from its first character: a long document's tokens, each sliced out of the whole of it, take
-- time by the square of its length. Here no token is sliced out of more than a few hundred characters.
-- Offsets that no tokenizer gives, below 0 or backwards, count from a text's end: those alone see all of it.

DROP VIEW token_text;
-- A document of more than 512 tokens is cut into pieces of 200 characters, by a pattern that reads it once (beyond a
-- few hundred repetitions the pattern's automaton would not be kept, and each piece take 100 times as long). A piece
-- holds the next one too, so that a token across its end lies in it; what is longer is sliced out of the document.
-- The pieces are joined by plain equalities and from the left: what is asked of a token's corpus and document is then
-- asked of the pieces' documents before they are cut.
CREATE VIEW token_text AS
WITH cut AS (
    SELECT corpus, document, regexp_extract_all(text, '.{1,200}', 0, 's') AS pieces
    FROM documents
    WHERE tokens > 512
),
pieces AS (
    SELECT
        corpus, document, unnest(range(0, 200 * len(pieces), 200)) AS first,
        unnest(pieces) || coalesce(unnest(pieces[2:]), '') AS text
    FROM cut
)
SELECT
    t.corpus, t.position, t.document, t.sequence, t.token, d.split, d.source,
    CASE
        WHEN t.char_start < 0 OR t.char_end < t.char_start THEN d.text[t.char_start + 1 : t.char_end]
        WHEN t.char_end = t.char_start THEN ''
        WHEN t.char_end <= p.first + 400 THEN p.text[t.char_start - p.first + 1 : t.char_end - p.first]
        ELSE substring(d.text, t.char_start + 1, t.char_end - t.char_start)
    END AS text
FROM tokens AS t
JOIN documents AS d ON (d.corpus, d.document) = (t.corpus, t.document)
LEFT JOIN pieces AS p
    ON p.corpus = t.corpus AND p.document = t.document AND p.first = t.char_start - t.char_start % 200;

DROP VIEW context_tokens;
-- A window's passage is sliced out of its document once, and its tokens out of the passage: only documents of the
-- windows that are asked for are looked into.
CREATE VIEW context_tokens AS
WITH windows AS (
    SELECT c.*, unnest(range(c.start, c.start + c.length)) AS position
    FROM contexts AS c
),
spans AS (
    SELECT
        w.sae, w.corpus, w.feature, w.kind, w.split, w.stratum, w.rank, w.start, w.peak, t.document,
        min(t.char_start) AS char_start, max(t.char_end) AS char_end, bool_or(t.char_end < t.char_start) AS backwards,
        list({position: t.position, token: t.token, char_start: t.char_start, char_end: t.char_end}) AS tokens
    FROM windows AS w
    JOIN tokens AS t ON t.corpus = w.corpus AND t.position = w.position
    GROUP BY w.sae, w.corpus, w.feature, w.kind, w.split, w.stratum, w.rank, w.start, w.peak, t.document
),
passages AS (
    SELECT
        s.* EXCLUDE (char_start, char_end, backwards, tokens), d.source,
        CASE WHEN s.char_start < 0 OR s.backwards THEN 0 ELSE s.char_start END AS first,
        CASE
            WHEN s.char_start < 0 OR s.backwards THEN d.text
            ELSE substring(d.text, s.char_start + 1, s.char_end - s.char_start)
        END AS text,
        unnest(s.tokens) AS token
    FROM spans AS s
    JOIN documents AS d ON (d.corpus, d.document) = (s.corpus, s.document)
)
SELECT
    p.sae, p.corpus, p.feature, p.kind, p.split, p.stratum, p.rank, p.start, p.peak,
    p.token.position AS position, p.token.token AS token, p.source,
    p.text[p.token.char_start - p.first + 1 : p.token.char_end - p.first] AS text,
    coalesce(a.activation, 0) AS activation
FROM passages AS p
LEFT JOIN activations AS a
    ON a.sae = p.sae AND a.corpus = p.corpus AND a.feature = p.feature AND a.position = p.token.position;

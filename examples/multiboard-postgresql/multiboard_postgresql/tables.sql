-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
--
-- One set of tables for all boards of a database: the board's namespace is a column.
--
-- The tables constrain little on purpose. A row that somebody edited by hand and damaged
-- is not "sound" (the column): it is skipped and reported, and blocks nobody.

CREATE SCHEMA multiboard;

-- Numbers serials, tokens and events. It is asked under the lock of a board only: a sequence by
-- itself hands out numbers in order, but transactions commit in any order.
CREATE SEQUENCE multiboard.numbers;

-- The row is the lock of its board: every verb that writes holds it (see multiboard.enter).
CREATE TABLE multiboard.boards (
    namespace   text COLLATE "C" PRIMARY KEY,
    incarnation text NOT NULL DEFAULT gen_random_uuid()::text,
    trimmed     bigint NOT NULL DEFAULT 0,  -- events up to this one were forgotten
    swept_on    timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE multiboard.sessions (
    id        text COLLATE "C" PRIMARY KEY,
    namespace text COLLATE "C" NOT NULL,
    deadline  timestamptz NOT NULL  -- in no index: it is moved often, and there are few sessions
);
CREATE INDEX ON multiboard.sessions (namespace);

-- All three shelves. Live and trash share their keys; entities have keys of their own.
CREATE TABLE multiboard.postings (
    namespace   text COLLATE "C",
    shelf       text,
    key         text COLLATE "C",
    rank        integer,
    serial      bigint,
    body        bytea,
    attempts    integer DEFAULT 0,
    deaths      integer DEFAULT 0,
    created_on  timestamptz,
    modified_on timestamptz,
    due_on      timestamptz,
    claim_id    text,         -- the lease, or NULL: then holder, token and ends_on are NULL too
    holder      text,
    token       bigint,
    ends_on     timestamptz,  -- of a timed lease
    session     text COLLATE "C",  -- of a session lease, or of an entity
    entity      boolean GENERATED ALWAYS AS (coalesce(shelf = 'entities', false)) STORED,
    sound       boolean GENERATED ALWAYS AS (coalesce(
        shelf IN ('live', 'trash', 'entities')
        AND key ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$'
        AND rank BETWEEN 0 AND 99 AND serial > 0 AND body IS NOT NULL
        AND attempts >= 0 AND deaths >= 0
        AND created_on IS NOT NULL AND modified_on IS NOT NULL AND due_on IS NOT NULL
        AND CASE
            WHEN claim_id IS NULL
            THEN holder IS NULL AND token IS NULL AND ends_on IS NULL
                AND (session IS NOT NULL) = (shelf = 'entities')
            ELSE shelf = 'live' AND holder IS NOT NULL AND token > 0
                AND (ends_on IS NULL) <> (session IS NULL)
        END, false)) STORED,
    PRIMARY KEY (namespace, key, entity)
);
-- Bodies are compressed by nobody here: most are so already.
ALTER TABLE multiboard.postings ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX ON multiboard.postings (namespace, shelf, rank, serial) WHERE sound;
CREATE INDEX ON multiboard.postings (namespace, rank, serial)  -- for acquire_next
    WHERE sound AND shelf = 'live' AND claim_id IS NULL;
CREATE INDEX ON multiboard.postings (namespace, claim_id) WHERE claim_id IS NOT NULL;
CREATE INDEX ON multiboard.postings (namespace) WHERE entity;
CREATE INDEX ON multiboard.postings (namespace) WHERE NOT sound;

-- What was done by leases, for two minutes: a release or a removal that is repeated finds itself here,
-- and so does the repeated add of a posting that was consumed or purged meanwhile.
CREATE TABLE multiboard.past (
    namespace text COLLATE "C" NOT NULL,
    key       text COLLATE "C" NOT NULL,
    token     bigint NOT NULL,
    operation      text NOT NULL,  -- released, removed, trashed; purged, by a number that is no lease's
    rank      integer,
    digest    bytea,
    done_on   timestamptz NOT NULL,
    PRIMARY KEY (namespace, key, token)
);
CREATE INDEX ON multiboard.past (namespace, done_on);

-- The callers that lost replies, and how many: what they sent before the last loss is void when it arrives.
CREATE TABLE multiboard.callers (
    namespace text COLLATE "C" NOT NULL,
    name      text COLLATE "C" NOT NULL,
    losses    bigint NOT NULL,
    noted_on  timestamptz NOT NULL,
    PRIMARY KEY (namespace, name)
);

CREATE TABLE multiboard.events (
    namespace text COLLATE "C" NOT NULL,
    id        bigint NOT NULL,
    kind      text NOT NULL,
    key       text COLLATE "C" NOT NULL,
    token     bigint,
    published_on   timestamptz NOT NULL,
    PRIMARY KEY (namespace, id)
);

-- A posting as a verb returns it. A flaw is the reason why it is none: damaged, exists, gone.
-- (Without its collation the key would be compared in another one than that of the index.)
CREATE TYPE multiboard.posting AS (
    flaw text, key text COLLATE "C", rank integer, serial bigint, body bytea,
    attempts integer, deaths integer,
    created_on float8, modified_on float8, due_in float8,
    holder text, claim_id text, token bigint, session text, ends_in float8
);

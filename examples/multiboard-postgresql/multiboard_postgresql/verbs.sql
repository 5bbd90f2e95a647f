-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
--
-- The verbs. Each is one function, called by one statement, which is one transaction.
--
-- Why functions: between two statements of a transaction the client may be frozen (SIGSTOP, a swapped
-- machine, a lost network), and would keep the lock of the board for all that time. For the same reason
-- no verb that writes returns bodies: a transaction ends when its reply was received, and a large
-- one does not fit into what the network holds for a client that does not read.
--
-- Those that write are VOLATILE: each statement in them sees what was committed before it, which is
-- what is needed after waiting for a lock. Those that read are STABLE: all their statements see
-- one and the same instant, the board's row included.

-- The life of a backend.

CREATE FUNCTION multiboard.open(board text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO multiboard.boards (namespace) VALUES (board) ON CONFLICT DO NOTHING;
    -- A statement of its own: the one above does not see the row for which it has waited.
    RETURN (SELECT incarnation FROM multiboard.boards WHERE namespace = board);
END $$;

CREATE FUNCTION multiboard.keepalive(
    board text, known text, me text, begun boolean, lasting float8
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    t timestamptz := multiboard.enter(board, known);
BEGIN
    PERFORM multiboard.check_session(me, begun);
    PERFORM multiboard.ensure_session(board, me, lasting, t);
    RETURN me;
END $$;

CREATE FUNCTION multiboard.leave(board text, known text, me text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    t timestamptz := multiboard.enter(board, known);
BEGIN
    UPDATE multiboard.sessions SET deadline = t WHERE id = me;
    PERFORM multiboard.reap(board, t);
END $$;

-- The directory.

CREATE FUNCTION multiboard.add(
    board text, known text, keys text[], ranks integer[], bodies bytea[], delays float8[]
) RETURNS SETOF multiboard.posting LANGUAGE plpgsql AS $$
DECLARE
    t timestamptz := multiboard.enter(board, known);
    old record;
    answer multiboard.posting;
BEGIN
    FOR i IN 1 .. cardinality(keys) LOOP
        answer := NULL;
        SELECT shelf, sound AND rank = ranks[i] AND body = bodies[i] AS same INTO old
        FROM multiboard.postings WHERE namespace = board AND NOT entity AND key = keys[i];
        IF FOUND THEN
            answer.flaw := CASE WHEN old.same THEN NULL ELSE 'exists' END;
        ELSE
            SELECT CASE WHEN rank = ranks[i] AND digest = sha256(bodies[i])
                   THEN 'gone' ELSE 'exists' END INTO answer.flaw
            FROM multiboard.past
            WHERE namespace = board AND key = keys[i] AND operation IN ('removed', 'purged')
            ORDER BY token DESC LIMIT 1;
            IF NOT FOUND THEN
                INSERT INTO multiboard.postings
                    (namespace, shelf, key, rank, serial, body, created_on, modified_on, due_on)
                VALUES (board, 'live', keys[i], ranks[i], nextval('multiboard.numbers'), bodies[i],
                    t, t, t + make_interval(secs => delays[i]));
                PERFORM multiboard.publish(board, 'posted', keys[i], NULL, t);
            END IF;
        END IF;
        IF answer.flaw IS NULL THEN
            SELECT s.* INTO answer
            FROM multiboard.shown(board, coalesce(old.shelf, 'live'), t, false) s WHERE s.key = keys[i];
            END IF;
        RETURN NEXT answer;
    END LOOP;
END $$;

CREATE FUNCTION multiboard.add_entities(
    board text, known text, me text, begun boolean, lasting float8,
    keys text[], ranks integer[], bodies bytea[], delays float8[]
) RETURNS SETOF multiboard.posting LANGUAGE plpgsql AS $$
DECLARE
    t timestamptz := multiboard.enter(board, known);
BEGIN
    PERFORM multiboard.check_session(me, begun);
    PERFORM multiboard.ensure_session(board, me, lasting, t);
    FOR i IN 1 .. cardinality(keys) LOOP
        DELETE FROM multiboard.postings WHERE namespace = board AND entity AND key = keys[i];
        INSERT INTO multiboard.postings (namespace, shelf, key, rank, serial, body,
            created_on, modified_on, due_on, session)
        VALUES (board, 'entities', keys[i], ranks[i], nextval('multiboard.numbers'), bodies[i],
            t, t, t + make_interval(secs => delays[i]), me);
        RETURN QUERY SELECT * FROM multiboard.shown(board, 'entities', t, false) s WHERE s.key = keys[i];
    END LOOP;
END $$;

CREATE FUNCTION multiboard.server_info(
    board text, known text, OUT version text, OUT switched_off text[]
) LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM multiboard.check_board(board, known);
    version := current_setting('server_version');
    switched_off := (SELECT array_agg(name) FROM pg_settings WHERE setting = 'off'
        AND name IN ('fsync', 'full_page_writes', 'synchronous_commit'));
END $$;

CREATE FUNCTION multiboard.get(board text, known text, keys text[])
RETURNS SETOF multiboard.posting LANGUAGE plpgsql STABLE AS $$
DECLARE
    t timestamptz := multiboard.check_board(board, known);
BEGIN
    RETURN QUERY SELECT * FROM multiboard.shown(board, 'live', t, true) s WHERE s.key = ANY (keys);
END $$;

CREATE FUNCTION multiboard.list(
    board text, known text, on_shelf text, after_rank integer, after_serial bigint, at_most integer
) RETURNS SETOF multiboard.posting LANGUAGE plpgsql STABLE AS $$
DECLARE
    t timestamptz := multiboard.check_board(board, known);
BEGIN
    RETURN QUERY SELECT * FROM multiboard.shown(board, on_shelf, t, true) s
        WHERE (s.rank, s.serial) > (coalesce(after_rank, -1), coalesce(after_serial, 0))
        ORDER BY s.rank, s.serial LIMIT at_most;
    IF after_rank IS NULL THEN  -- damaged rows have no place in the order: the first page names them
        RETURN QUERY SELECT 'damaged', p.key, NULL::integer, NULL::bigint, NULL::bytea,
            NULL::integer, NULL::integer, NULL::float8, NULL::float8, NULL::float8,
            NULL::text, NULL::text, NULL::bigint, NULL::text, NULL::float8
        FROM multiboard.postings p WHERE p.namespace = board AND NOT p.sound
            AND coalesce(p.shelf = on_shelf OR p.shelf NOT IN ('live', 'trash', 'entities'), true);
    END IF;
END $$;

CREATE FUNCTION multiboard.count(board text, known text, on_shelf text)
RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    t timestamptz := multiboard.check_board(board, known);
BEGIN
    RETURN (SELECT count(*) FROM multiboard.shown(board, on_shelf, t, true));
END $$;

CREATE FUNCTION multiboard.remove(
    board text, known text, keys text[], tokens bigint[], to_trash boolean
) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    t timestamptz := multiboard.enter(board, known);
    its_operation text := CASE WHEN to_trash THEN 'trashed' ELSE 'removed' END;
    old record;
BEGIN
    FOR i IN 1 .. cardinality(keys) LOOP
        SELECT p.token, p.rank, sha256(p.body) AS digest INTO old FROM multiboard.postings p
        WHERE p.namespace = board AND NOT p.entity AND p.key = keys[i] AND p.shelf = 'live' AND p.sound;
        IF old.token = tokens[i] THEN
            IF to_trash THEN
                UPDATE multiboard.postings SET shelf = 'trash', modified_on = t, due_on = t,
                    claim_id = NULL, holder = NULL, token = NULL, ends_on = NULL, session = NULL
                WHERE namespace = board AND NOT entity AND key = keys[i];
            ELSE
                DELETE FROM multiboard.postings
                WHERE namespace = board AND NOT entity AND key = keys[i];
            END IF;
            INSERT INTO multiboard.past
            VALUES (board, keys[i], tokens[i], its_operation, old.rank, old.digest, t);
            PERFORM multiboard.publish(board, its_operation, keys[i], tokens[i], t);
            RETURN NEXT 'done';
        ELSE
            RETURN NEXT multiboard.why_not(board, keys[i], tokens[i], its_operation);
        END IF;
    END LOOP;
END $$;

CREATE FUNCTION multiboard.restore(board text, known text, which text)
RETURNS SETOF multiboard.posting LANGUAGE plpgsql AS $$
DECLARE
    t timestamptz := multiboard.enter(board, known);
BEGIN
    UPDATE multiboard.postings
    SET shelf = 'live', serial = nextval('multiboard.numbers'), due_on = t, modified_on = t
    WHERE namespace = board AND NOT entity AND key = which AND shelf = 'trash' AND sound;
    IF FOUND THEN PERFORM multiboard.publish(board, 'restored', which, NULL, t); END IF;
    RETURN QUERY SELECT * FROM multiboard.shown(board, 'live', t, false) s WHERE s.key = which;
END $$;

CREATE FUNCTION multiboard.purge(board text, known text, keys text[], on_shelf text)
RETURNS SETOF boolean LANGUAGE plpgsql AS $$
DECLARE
    t timestamptz := multiboard.enter(board, known);
    old record;
BEGIN
    FOR i IN 1 .. cardinality(keys) LOOP
        DELETE FROM multiboard.postings
        WHERE namespace = board AND shelf = on_shelf AND key = keys[i] AND sound
        RETURNING entity, rank, sha256(body) AS digest INTO old;
        RETURN NEXT FOUND;
        IF FOUND AND NOT old.entity THEN
            INSERT INTO multiboard.past VALUES (
                board, keys[i], nextval('multiboard.numbers'), 'purged', old.rank, old.digest, t);
        END IF;
    END LOOP;
END $$;

-- The leases.

-- Returns the posting as it is now, whoever holds it.
CREATE FUNCTION multiboard.acquire(
    board text, known text, me text, begun boolean, lasting float8,
    which text, who text, claim text, seconds float8
) RETURNS SETOF multiboard.posting LANGUAGE plpgsql AS $$
DECLARE
    t timestamptz := multiboard.enter(board, known);
BEGIN
    IF seconds IS NULL THEN PERFORM multiboard.check_session(me, begun); END IF;
    IF multiboard.lease(board, which, who, claim, me, seconds, t) AND seconds IS NULL THEN
        PERFORM multiboard.ensure_session(board, me, lasting, t);
    END IF;
    RETURN QUERY SELECT * FROM multiboard.shown(board, 'live', t, false) s WHERE s.key = which;
END $$;

CREATE FUNCTION multiboard.acquire_next(
    board text, known text, me text, begun boolean, lasting float8,
    who text, claims text[], seconds float8
) RETURNS SETOF multiboard.posting LANGUAGE plpgsql AS $$
DECLARE
    t timestamptz := multiboard.enter(board, known);
    held text[];  -- keys that are ours since a reply was lost
    used text[];  -- and their claim ids
    free text[];
    won text[] := '{}';
    candidate text;
BEGIN
    IF seconds IS NULL THEN PERFORM multiboard.check_session(me, begun); END IF;
    SELECT coalesce(array_agg(key), '{}'), coalesce(array_agg(claim_id), '{}') INTO held, used
    FROM multiboard.postings
    WHERE namespace = board AND shelf = 'live' AND sound AND claim_id = ANY (claims)
        AND (session IS NULL OR session = me);
    free := ARRAY(SELECT c FROM unnest(claims) WITH ORDINALITY AS u (c, place)
        WHERE c <> ALL (used) ORDER BY place);
    -- The board is locked, so nobody of ours has a row. SKIP LOCKED is for others: an operator's
    -- open transaction on one row must not stop all workers.
    FOR candidate IN
        SELECT key FROM multiboard.postings
        WHERE namespace = board AND shelf = 'live' AND sound AND claim_id IS NULL AND due_on <= t
        ORDER BY rank, serial LIMIT cardinality(free) FOR UPDATE SKIP LOCKED
    LOOP
        PERFORM multiboard.lease(
            board, candidate, who, free[1 + cardinality(won)], me, seconds, t);
        won := won || candidate;
    END LOOP;
    IF won <> '{}' AND seconds IS NULL THEN PERFORM multiboard.ensure_session(board, me, lasting, t); END IF;
    RETURN QUERY SELECT * FROM multiboard.shown(board, 'live', t, false) s
        WHERE s.key = ANY (held || won) ORDER BY s.key = ANY (won), s.rank, s.serial;
END $$;

CREATE FUNCTION multiboard.renew(board text, known text, which text, proof bigint, seconds float8)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    t timestamptz := multiboard.enter(board, known);
BEGIN
    UPDATE multiboard.postings
    SET ends_on = CASE WHEN session IS NULL THEN t + make_interval(secs => seconds) END
    WHERE namespace = board AND NOT entity AND key = which AND token = proof AND sound;
    IF NOT FOUND THEN RETURN multiboard.why_not(board, which, proof, 'renewed'); END IF;
    -- No event; but waiting readers have to read when the lease ends, if that is sooner now.
    PERFORM pg_notify('multiboard', board);
    RETURN 'done';
END $$;

CREATE FUNCTION multiboard.release(board text, known text, which text, proof bigint, delay float8)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    t timestamptz := multiboard.enter(board, known);
BEGIN
    UPDATE multiboard.postings SET modified_on = t, due_on = t + make_interval(secs => delay),
        claim_id = NULL, holder = NULL, token = NULL, ends_on = NULL, session = NULL
    WHERE namespace = board AND NOT entity AND key = which AND token = proof AND sound;
    IF NOT FOUND THEN RETURN multiboard.why_not(board, which, proof, 'released'); END IF;
    INSERT INTO multiboard.past VALUES (board, which, proof, 'released', NULL, NULL, t);
    PERFORM multiboard.publish(board, 'released', which, proof, t);
    RETURN 'done';
END $$;

-- The feed. "since" is NULL where the caller has no cursor, or one that is not of this board.
-- "rest" is the time until the next lease ends by itself, for who waits.
CREATE FUNCTION multiboard.changes(
    board text, known text, since bigint,
    OUT is_reset boolean, OUT upto bigint, OUT events jsonb, OUT rest float8
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    t timestamptz := multiboard.check_board(board, known);
    oldest bigint := (SELECT trimmed FROM multiboard.boards WHERE namespace = board);
BEGIN
    is_reset := since IS NULL OR since <> oldest AND NOT EXISTS (
        SELECT FROM multiboard.events WHERE namespace = board AND id = since);
    IF is_reset THEN
        upto := coalesce((SELECT max(id) FROM multiboard.events WHERE namespace = board), oldest);
        RETURN;
    END IF;
    SELECT coalesce(max(id), since), jsonb_agg(jsonb_build_array(kind, key, token) ORDER BY id)
    INTO upto, events
    FROM (SELECT * FROM multiboard.events WHERE namespace = board AND id > since
          ORDER BY id LIMIT 1000) AS e;
    SELECT extract(epoch FROM min(coalesce(s.deadline, p.ends_on, t)) - t)::float8 INTO rest
    FROM multiboard.postings p LEFT JOIN multiboard.sessions s ON s.id = p.session
    WHERE p.namespace = board AND p.claim_id IS NOT NULL AND p.sound;
END $$;

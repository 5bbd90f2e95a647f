-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
--
-- The verbs. Each is one function, called by one statement, which is one transaction.
--
-- Why functions: between two statements of a transaction the client may be frozen (SIGSTOP, a swapped
-- machine, a lost network), and would keep the lock of the board for all that time.
--
-- Those that write are VOLATILE: each statement in them sees what was committed before it, which is
-- what is needed after waiting for a lock. Those that read are STABLE: all their statements see
-- one and the same instant, the board's row included.

-- What a shelf shows. A lease that is over is not shown, noticed or not.
CREATE FUNCTION multiboard.shown(board text, on_shelf text, t timestamptz)
RETURNS SETOF multiboard.posting LANGUAGE sql STABLE AS $$
    SELECT NULL::text, p.key, p.rank, p.serial, p.body, p.attempts,
        p.deaths + CASE WHEN ended THEN 1 ELSE 0 END,
        extract(epoch FROM p.created_on)::float8,
        extract(epoch FROM CASE WHEN ended THEN coalesce(s.deadline, p.ends_on, p.modified_on)
                                ELSE p.modified_on END)::float8,
        CASE WHEN ended THEN 0 ELSE greatest(0, extract(epoch FROM p.due_on - t)::float8) END,
        CASE WHEN NOT ended THEN p.holder END,
        CASE WHEN NOT ended THEN p.claim_id END,
        CASE WHEN NOT ended THEN p.token END,
        CASE WHEN NOT ended THEN p.session END,
        CASE WHEN NOT ended THEN extract(epoch FROM p.ends_on - t)::float8 END
    FROM multiboard.postings p
    LEFT JOIN multiboard.sessions s ON s.id = p.session
    CROSS JOIN LATERAL (SELECT (p.claim_id IS NOT NULL OR p.entity)
        AND coalesce(s.deadline, p.ends_on, '-infinity') <= t) AS is_over (ended)
    WHERE p.namespace = board AND p.shelf = on_shelf AND p.sound AND NOT (p.entity AND ended)
$$;

-- Says it to the feed. The notification is sent at commit, and only wakes: the story is in the table.
CREATE FUNCTION multiboard.tell(board text, what text, which text, proof bigint, t timestamptz)
RETURNS void LANGUAGE sql AS $$
    INSERT INTO multiboard.events VALUES (board, nextval('multiboard.numbers'), what, which, proof, t);
    SELECT pg_notify('multiboard', board);
$$;

-- Ends what has ended by itself: sessions, their entities, and leases of either kind.
CREATE FUNCTION multiboard.reap(board text, t timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    dead record;
BEGIN
    FOR dead IN
        SELECT p.key, p.token, coalesce(s.deadline, p.ends_on, t) AS ended_on
        FROM multiboard.postings p LEFT JOIN multiboard.sessions s ON s.id = p.session
        WHERE p.namespace = board AND p.claim_id IS NOT NULL AND p.sound
            AND coalesce(s.deadline, p.ends_on, '-infinity') <= t
        ORDER BY ended_on, p.token
    LOOP
        UPDATE multiboard.postings
        SET deaths = deaths + 1, modified_on = dead.ended_on, due_on = dead.ended_on,
            claim_id = NULL, holder = NULL, token = NULL, ends_on = NULL, session = NULL
        WHERE namespace = board AND NOT entity AND key = dead.key;
        PERFORM multiboard.tell(board, 'expired', dead.key, dead.token, t);
    END LOOP;
    DELETE FROM multiboard.sessions WHERE namespace = board AND deadline <= t;
    DELETE FROM multiboard.postings p
    WHERE p.namespace = board AND p.entity AND p.session IS NOT NULL AND p.sound
        AND NOT EXISTS (SELECT FROM multiboard.sessions s WHERE s.id = p.session);
END $$;

-- Forgets old events and deeds.
CREATE FUNCTION multiboard.sweep(board text, t timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    newest bigint;
BEGIN
    SELECT max(id) INTO newest FROM multiboard.events
    WHERE namespace = board AND told_on <= t - interval '10 minutes';
    UPDATE multiboard.boards SET swept_on = t, trimmed = greatest(trimmed, newest)
    WHERE namespace = board;
    DELETE FROM multiboard.events WHERE namespace = board AND id <= newest;
    DELETE FROM multiboard.past WHERE namespace = board AND done_on <= t - interval '2 minutes';
END $$;

-- How every verb that writes begins: lock the board, be sure that it is the one that was opened, and
-- put an end to what has ended. Returns the instant of the verb, which is one after the lock.
CREATE FUNCTION multiboard.enter(board text, known text)
RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
    t timestamptz;
    swept timestamptz;
BEGIN
    SELECT swept_on INTO swept FROM multiboard.boards
    WHERE namespace = board AND incarnation = known FOR UPDATE;
    IF NOT FOUND THEN RAISE EXCEPTION 'another board, or none' USING ERRCODE = 'MB001'; END IF;
    t := clock_timestamp();
    PERFORM multiboard.reap(board, t);
    IF swept < t - interval '1 minute' THEN PERFORM multiboard.sweep(board, t); END IF;
    RETURN t;
END $$;

CREATE FUNCTION multiboard.open(board text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO multiboard.boards (namespace) VALUES (board) ON CONFLICT DO NOTHING;
    -- A statement of its own: the one above does not see the row for which it has waited.
    RETURN (SELECT incarnation FROM multiboard.boards WHERE namespace = board);
END $$;

-- Sessions. "begun" says that the session was seen in the store: not being there is then a loss.

CREATE FUNCTION multiboard.check_session(me text, begun boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF begun AND NOT EXISTS (SELECT FROM multiboard.sessions WHERE id = me) THEN
        RAISE EXCEPTION 'the session has ended' USING ERRCODE = 'MB002';
    END IF;
END $$;

CREATE FUNCTION multiboard.attend(board text, me text, lasting float8, t timestamptz)
RETURNS void LANGUAGE sql AS $$
    INSERT INTO multiboard.sessions VALUES (me, board, t + make_interval(secs => lasting))
    ON CONFLICT (id) DO UPDATE SET deadline = excluded.deadline
$$;

CREATE FUNCTION multiboard.keepalive(
    board text, known text, me text, begun boolean, lasting float8
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    t timestamptz := multiboard.enter(board, known);
BEGIN
    PERFORM multiboard.check_session(me, begun);
    PERFORM multiboard.attend(board, me, lasting, t);
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
            FROM multiboard.past WHERE namespace = board AND key = keys[i] AND deed = 'removed'
            ORDER BY token DESC LIMIT 1;
            IF NOT FOUND THEN
                INSERT INTO multiboard.postings
                    (namespace, shelf, key, rank, serial, body, created_on, modified_on, due_on)
                VALUES (board, 'live', keys[i], ranks[i], nextval('multiboard.numbers'), bodies[i],
                    t, t, t + make_interval(secs => delays[i]));
                PERFORM multiboard.tell(board, 'posted', keys[i], NULL, t);
            END IF;
        END IF;
        IF answer.flaw IS NULL THEN
            SELECT s.* INTO answer
            FROM multiboard.shown(board, coalesce(old.shelf, 'live'), t) s WHERE s.key = keys[i];
            answer.body := NULL;  -- who asks has it
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
    PERFORM multiboard.attend(board, me, lasting, t);
    FOR i IN 1 .. cardinality(keys) LOOP
        DELETE FROM multiboard.postings WHERE namespace = board AND entity AND key = keys[i];
        INSERT INTO multiboard.postings (namespace, shelf, key, rank, serial, body,
            created_on, modified_on, due_on, session)
        VALUES (board, 'entities', keys[i], ranks[i], nextval('multiboard.numbers'), bodies[i],
            t, t, t + make_interval(secs => delays[i]), me);
        RETURN QUERY SELECT * FROM multiboard.shown(board, 'entities', t) s WHERE s.key = keys[i];
    END LOOP;
END $$;

CREATE FUNCTION multiboard.check_board(board text, known text)
RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM multiboard.boards WHERE namespace = board AND incarnation = known
    ) THEN RAISE EXCEPTION 'another board, or none' USING ERRCODE = 'MB001'; END IF;
    RETURN clock_timestamp();
END $$;

CREATE FUNCTION multiboard.facts(
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
    RETURN QUERY SELECT * FROM multiboard.shown(board, 'live', t) s WHERE s.key = ANY (keys);
END $$;

CREATE FUNCTION multiboard.list(
    board text, known text, on_shelf text, after_rank integer, after_serial bigint, at_most integer
) RETURNS SETOF multiboard.posting LANGUAGE plpgsql STABLE AS $$
DECLARE
    t timestamptz := multiboard.check_board(board, known);
BEGIN
    RETURN QUERY SELECT * FROM multiboard.shown(board, on_shelf, t) s
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
    RETURN (SELECT count(*) FROM multiboard.shown(board, on_shelf, t));
END $$;

CREATE FUNCTION multiboard.remove(
    board text, known text, keys text[], tokens bigint[], to_trash boolean
) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    t timestamptz := multiboard.enter(board, known);
    its_deed text := CASE WHEN to_trash THEN 'trashed' ELSE 'removed' END;
    old record;
BEGIN
    FOR i IN 1 .. cardinality(keys) LOOP
        SELECT p.token, p.rank, sha256(p.body) AS digest INTO old FROM multiboard.postings p
        WHERE p.namespace = board AND NOT p.entity AND p.key = keys[i] AND p.shelf = 'live' AND p.sound;
        IF old.token = tokens[i] THEN
            IF to_trash THEN
                UPDATE multiboard.postings SET shelf = 'trash', modified_on = t,
                    claim_id = NULL, holder = NULL, token = NULL, ends_on = NULL, session = NULL
                WHERE namespace = board AND NOT entity AND key = keys[i];
            ELSE
                DELETE FROM multiboard.postings
                WHERE namespace = board AND NOT entity AND key = keys[i];
            END IF;
            INSERT INTO multiboard.past
            VALUES (board, keys[i], tokens[i], its_deed, old.rank, old.digest, t);
            PERFORM multiboard.tell(board, its_deed, keys[i], tokens[i], t);
            RETURN NEXT 'done';
        ELSE
            RETURN NEXT multiboard.why_not(board, keys[i], tokens[i], its_deed);
        END IF;
    END LOOP;
END $$;

-- Why a lease is not current: this very deed was done, or it was lost, or there is no posting.
CREATE FUNCTION multiboard.why_not(board text, which text, proof bigint, its_deed text)
RETURNS text LANGUAGE sql AS $$
    SELECT CASE
        WHEN EXISTS (SELECT FROM multiboard.past WHERE namespace = board AND key = which
            AND token = proof AND deed = its_deed) THEN 'done'
        WHEN EXISTS (SELECT FROM multiboard.postings WHERE namespace = board AND NOT entity
            AND key = which AND shelf = 'live' AND sound) THEN 'lost'
        ELSE 'gone' END
$$;

CREATE FUNCTION multiboard.restore(board text, known text, which text)
RETURNS SETOF multiboard.posting LANGUAGE plpgsql AS $$
DECLARE
    t timestamptz := multiboard.enter(board, known);
BEGIN
    UPDATE multiboard.postings
    SET shelf = 'live', serial = nextval('multiboard.numbers'), due_on = t, modified_on = t
    WHERE namespace = board AND NOT entity AND key = which AND shelf = 'trash' AND sound;
    IF FOUND THEN PERFORM multiboard.tell(board, 'restored', which, NULL, t); END IF;
    RETURN QUERY SELECT * FROM multiboard.shown(board, 'live', t) s WHERE s.key = which;
END $$;

CREATE FUNCTION multiboard.purge(board text, known text, keys text[], on_shelf text)
RETURNS SETOF boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM multiboard.enter(board, known);
    FOR i IN 1 .. cardinality(keys) LOOP
        DELETE FROM multiboard.postings
        WHERE namespace = board AND shelf = on_shelf AND key = keys[i] AND sound;
        RETURN NEXT FOUND;
    END LOOP;
END $$;

-- The leases.

CREATE FUNCTION multiboard.lease(
    board text, which text, who text, claim text, me text, seconds float8, t timestamptz
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    proof bigint;
BEGIN
    UPDATE multiboard.postings SET attempts = attempts + 1, modified_on = t, due_on = least(due_on, t),
        claim_id = claim, holder = who, token = nextval('multiboard.numbers'),
        session = CASE WHEN seconds IS NULL THEN me END, ends_on = t + make_interval(secs => seconds)
    WHERE namespace = board AND NOT entity AND key = which
        AND shelf = 'live' AND sound AND claim_id IS NULL
    RETURNING token INTO proof;
    IF FOUND THEN PERFORM multiboard.tell(board, 'claimed', which, proof, t); END IF;
    RETURN proof IS NOT NULL;
END $$;

-- Answers with the posting as it is now: whoever has it.
CREATE FUNCTION multiboard.acquire(
    board text, known text, me text, begun boolean, lasting float8,
    which text, who text, claim text, seconds float8
) RETURNS SETOF multiboard.posting LANGUAGE plpgsql AS $$
DECLARE
    t timestamptz := multiboard.enter(board, known);
BEGIN
    IF seconds IS NULL THEN PERFORM multiboard.check_session(me, begun); END IF;
    IF multiboard.lease(board, which, who, claim, me, seconds, t) AND seconds IS NULL THEN
        PERFORM multiboard.attend(board, me, lasting, t);
    END IF;
    RETURN QUERY SELECT * FROM multiboard.shown(board, 'live', t) s WHERE s.key = which;
END $$;

CREATE FUNCTION multiboard.acquire_next(
    board text, known text, me text, begun boolean, lasting float8,
    who text, claims text[], seconds float8
) RETURNS SETOF multiboard.posting LANGUAGE plpgsql AS $$
DECLARE
    t timestamptz := multiboard.enter(board, known);
    held text[];
    free text[];
    n integer := 0;
    candidate text;
BEGIN
    IF seconds IS NULL THEN PERFORM multiboard.check_session(me, begun); END IF;
    held := ARRAY(SELECT claim_id FROM multiboard.postings
        WHERE namespace = board AND shelf = 'live' AND sound AND claim_id = ANY (claims)
            AND (session IS NULL OR session = me));
    free := ARRAY(SELECT c FROM unnest(claims) WITH ORDINALITY AS u (c, place)
        WHERE c <> ALL (held) ORDER BY place);
    -- The board is locked, so nobody of ours has a row. SKIP LOCKED is for others: an operator's
    -- open transaction on one row must not stop all workers.
    FOR candidate IN
        SELECT key FROM multiboard.postings
        WHERE namespace = board AND shelf = 'live' AND sound AND claim_id IS NULL AND due_on <= t
        ORDER BY rank, serial LIMIT cardinality(free) FOR UPDATE SKIP LOCKED
    LOOP
        n := n + 1;
        PERFORM multiboard.lease(board, candidate, who, free[n], me, seconds, t);
    END LOOP;
    IF n > 0 AND seconds IS NULL THEN PERFORM multiboard.attend(board, me, lasting, t); END IF;
    RETURN QUERY SELECT * FROM multiboard.shown(board, 'live', t) s
        WHERE s.claim_id = ANY (claims) AND (s.session IS NULL OR s.session = me)
        ORDER BY s.claim_id = ANY (held) DESC, s.rank, s.serial;
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
    -- No event; but waiting readers have to know when to look for the end, if that is sooner now.
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
    PERFORM multiboard.tell(board, 'released', which, proof, t);
    RETURN 'done';
END $$;

-- The feed. "since" is NULL where the caller knows nothing, or a cursor that is not of this board.
-- "rest" is the time until the next lease ends by itself, for who waits.
CREATE FUNCTION multiboard.changes(
    board text, known text, since bigint,
    OUT is_reset boolean, OUT upto bigint, OUT told jsonb, OUT rest float8
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
    INTO upto, told
    FROM (SELECT * FROM multiboard.events WHERE namespace = board AND id > since
          ORDER BY id LIMIT 1000) AS e;
    SELECT extract(epoch FROM min(coalesce(s.deadline, p.ends_on, t)) - t)::float8 INTO rest
    FROM multiboard.postings p LEFT JOIN multiboard.sessions s ON s.id = p.session
    WHERE p.namespace = board AND p.claim_id IS NOT NULL AND p.sound;
END $$;

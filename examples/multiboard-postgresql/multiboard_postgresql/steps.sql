-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
--
-- The steps of which the verbs are made (see verbs.sql).

-- What a shelf shows. A lease that is over is not shown, noticed or not.
CREATE FUNCTION multiboard.shown(board text, on_shelf text, t timestamptz, whole boolean)
RETURNS SETOF multiboard.posting LANGUAGE sql STABLE AS $$
    SELECT NULL::text, p.key, p.rank, p.serial, CASE WHEN whole THEN p.body END, p.attempts,
        p.deaths + CASE WHEN ended THEN 1 ELSE 0 END,
        extract(epoch FROM p.created_on)::float8,
        extract(epoch FROM CASE WHEN ended THEN coalesce(s.deadline, p.ends_on, p.modified_on)
                                ELSE p.modified_on END)::float8,
        greatest(0, extract(epoch FROM p.due_on - t)::float8),
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

-- Puts a change on the feed. The notification is sent at commit, and only wakes: the events are in the table.
CREATE FUNCTION multiboard.publish(board text, what text, which text, proof bigint, t timestamptz)
RETURNS void LANGUAGE plpgsql AS $$  -- not sql: such a function is planned anew at each call
BEGIN
    INSERT INTO multiboard.events VALUES (board, nextval('multiboard.numbers'), what, which, proof, t);
    PERFORM pg_notify('multiboard', board);
END $$;

-- Ends what has ended by itself: sessions, their entities, and leases of either kind.
CREATE FUNCTION multiboard.reap(board text, t timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    alive text[] := ARRAY(
        SELECT id FROM multiboard.sessions WHERE namespace = board AND deadline > t);
    dead record;
BEGIN
    FOR dead IN
        SELECT p.key, p.token, coalesce(p.ends_on, s.deadline, t) AS ended_on
        FROM multiboard.postings p LEFT JOIN multiboard.sessions s ON s.id = p.session
        WHERE p.namespace = board AND p.claim_id IS NOT NULL AND p.sound
            -- Compared with all of nothing, even NULL differs: a timed lease has no session.
            AND (p.ends_on <= t OR p.session IS NOT NULL AND p.session <> ALL (alive))
        ORDER BY ended_on, p.token
    LOOP
        UPDATE multiboard.postings
        SET deaths = deaths + 1, modified_on = dead.ended_on,
            claim_id = NULL, holder = NULL, token = NULL, ends_on = NULL, session = NULL
        WHERE namespace = board AND NOT entity AND key = dead.key;
        PERFORM multiboard.publish(board, 'expired', dead.key, dead.token, t);
    END LOOP;
    DELETE FROM multiboard.sessions WHERE namespace = board AND deadline <= t;
    DELETE FROM multiboard.postings
    WHERE namespace = board AND entity AND sound AND session <> ALL (alive);
END $$;

-- Forgets old events and operations.
CREATE FUNCTION multiboard.sweep(board text, t timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    newest bigint;
BEGIN
    SELECT max(id) INTO newest FROM multiboard.events
    WHERE namespace = board AND published_on <= t - interval '10 minutes';
    UPDATE multiboard.boards SET swept_on = t, trimmed = greatest(trimmed, newest)
    WHERE namespace = board;
    DELETE FROM multiboard.events WHERE namespace = board AND id <= newest;
    DELETE FROM multiboard.past WHERE namespace = board AND done_on <= t - interval '2 minutes';
    DELETE FROM multiboard.callers WHERE namespace = board AND noted_on <= t - interval '2 minutes';
END $$;

-- How every verb that writes begins: lock the board, be sure that it is the one that was opened, and
-- put an end to what has ended. Returns the instant of the verb, which is one after the lock.
--
-- "known" is the board's incarnation, a name of the calling process, and how many replies it has lost. A
-- request that its caller gave up and repeated may arrive long after: it states a lower number.
CREATE FUNCTION multiboard.enter(board text, known text)
RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
    t timestamptz;
    swept timestamptz;
    caller text := split_part(known, ' ', 2);
    lost bigint := coalesce(nullif(split_part(known, ' ', 3), '')::bigint, 0);
BEGIN
    SELECT swept_on INTO swept FROM multiboard.boards
    WHERE namespace = board AND incarnation = split_part(known, ' ', 1) FOR UPDATE;
    IF NOT FOUND THEN RAISE EXCEPTION 'another board, or none' USING ERRCODE = 'MB001'; END IF;
    t := clock_timestamp();
    IF EXISTS (SELECT FROM multiboard.callers
        WHERE namespace = board AND name = caller AND losses > lost)
    THEN RAISE EXCEPTION 'the caller gave this up and asked again' USING ERRCODE = 'MB003'; END IF;
    IF lost > 0 THEN
        INSERT INTO multiboard.callers VALUES (board, caller, lost, t)
        ON CONFLICT (namespace, name) DO UPDATE SET losses = lost, noted_on = t;
    END IF;
    PERFORM multiboard.reap(board, t);
    IF swept < t - interval '1 minute' THEN PERFORM multiboard.sweep(board, t); END IF;
    RETURN t;
END $$;

-- How every verb that only reads begins.
CREATE FUNCTION multiboard.check_board(board text, known text)
RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM multiboard.boards
        WHERE namespace = board AND incarnation = split_part(known, ' ', 1)
    ) THEN RAISE EXCEPTION 'another board, or none' USING ERRCODE = 'MB001'; END IF;
    RETURN clock_timestamp();
END $$;

-- "begun": the store has confirmed the session, whose absence is then a loss.

CREATE FUNCTION multiboard.check_session(me text, begun boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF begun AND NOT EXISTS (SELECT FROM multiboard.sessions WHERE id = me) THEN
        RAISE EXCEPTION 'the session has ended' USING ERRCODE = 'MB002';
    END IF;
END $$;

CREATE FUNCTION multiboard.ensure_session(board text, me text, lasting float8, t timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO multiboard.sessions VALUES (me, board, t + make_interval(secs => lasting))
    ON CONFLICT (id) DO UPDATE SET deadline = excluded.deadline;
END $$;

-- Leases one posting, if it can be had.
CREATE FUNCTION multiboard.lease(
    board text, which text, who text, claim text, me text, seconds float8, t timestamptz
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    proof bigint;
BEGIN
    UPDATE multiboard.postings SET attempts = attempts + 1, modified_on = t,
        claim_id = claim, holder = who, token = nextval('multiboard.numbers'),
        session = CASE WHEN seconds IS NULL THEN me END, ends_on = t + make_interval(secs => seconds)
    WHERE namespace = board AND NOT entity AND key = which
        AND shelf = 'live' AND sound AND claim_id IS NULL
    RETURNING token INTO proof;
    IF FOUND THEN PERFORM multiboard.publish(board, 'claimed', which, proof, t); END IF;
    RETURN proof IS NOT NULL;
END $$;

-- Why a lease is not current: this very operation was done, or it was lost, or there is no posting.
CREATE FUNCTION multiboard.why_not(board text, which text, proof bigint, its_operation text)
RETURNS text LANGUAGE sql AS $$
    SELECT CASE
        WHEN EXISTS (SELECT FROM multiboard.past WHERE namespace = board AND key = which
            AND token = proof AND operation = its_operation) THEN 'done'
        WHEN EXISTS (SELECT FROM multiboard.postings WHERE namespace = board AND NOT entity
            AND key = which AND shelf = 'live' AND sound) THEN 'lost'
        ELSE 'gone' END
$$;

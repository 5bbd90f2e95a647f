-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- Stands, behind _clock.lua, before every script except open.lua and the fast ones.
--
-- keys: meta feed gone consumed sessions present timed index delayed claims
-- keys: live live:state live:body trash trash:state trash:body
-- keys: entities entities:state entities:body
--
-- A posting's state is text: size, digest, created, attempts, deaths, modified, due, token, ends,
-- session, the claim id's length, and the claim id and the holder run together. An unleased
-- posting has neither end nor session ('0'), a timed lease an end, a session lease a session.
-- A live posting is in one of three sorted sets: DELAYED, by when it is due; TIMED, by when its
-- lease ends; or else INDEX, where it stands with its place while it may be handed out, and with
-- minus its session's number while that session leases it. So a claim moves it with one write.

-- Returns the keys of a shelf: its order, its states, its bodies.
local function shelf(name)
  if name == 'live' then return LIVE, LIVE_STATE, LIVE_BODY end
  if name == 'trash' then return TRASH, TRASH_STATE, TRASH_BODY end
  return ENTITIES, ENTITIES_STATE, ENTITIES_BODY
end
-- A reply goes on growing until it has this many bytes of bodies: one call must not block the
-- server, nor fill its output buffer, however large the bodies are.
local REPLY_BYTES = 4194304

-- Whether the session lives. A session past its deadline is dead, reaped or not.
local function alive(session)
  local deadline = call('ZSCORE', SESSIONS, session)
  return deadline and tonumber(deadline) > now, deadline
end

-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- Stands before every script of the board except open.lua.
--
-- KEYS     every key of the board, in the order of the names below; all share one hash tag
-- ARGV[1]  the incarnation of the board that the caller opened
-- Replies  {'LOST'} where the store holds another board or none; otherwise as the script says
--
-- Times are microseconds since the epoch by this server's clock, read once for the whole script.
-- A place (rank, serial) is kept as one score: rank * 2^46 + serial, exact in a double. Scores
-- cope with whatever foreign members a sorted set holds; ZRANGEBYLEX would not.
-- A posting's state is text: size, digest, created, attempts, deaths, modified, due, token, ends,
-- session, the claim id's length, and the claim id and the holder run together. An unleased
-- posting has neither end nor session ('0'), a timed lease an end, a session lease a session.
-- A live posting is in one of three sorted sets: DELAYED, by when it is due; TIMED, by when its
-- lease ends; or else INDEX, where it stands with its place while it may be handed out, and with
-- minus its session's number while that session leases it. So a claim moves it with one write.

local META, FEED, GONE, CONSUMED, SESSIONS, PRESENT, TIMED, INDEX, DELAYED, CLAIMS,
  LIVE, LIVE_STATE, LIVE_BODY, TRASH, TRASH_STATE, TRASH_BODY,
  ENTITIES, ENTITIES_STATE, ENTITIES_BODY = unpack(KEYS)
-- Returns the keys of a shelf: its order, its states, its bodies.
local function shelf(name)
  if name == 'live' then return LIVE, LIVE_STATE, LIVE_BODY end
  if name == 'trash' then return TRASH, TRASH_STATE, TRASH_BODY end
  return ENTITIES, ENTITIES_STATE, ENTITIES_BODY
end
-- A reply goes on growing until it has this many bytes of bodies: one call must not block the
-- server, nor fill its output buffer, however large the bodies are.
local REPLY_BYTES = 4194304

local call = redis.call
-- The number of the last change told, with the incarnation: a claim pays for each question.
local meta = call('HMGET', META, 'incarnation', 'seq')
if meta[1] ~= ARGV[1] then return {'LOST'} end
local seq = tonumber(meta[2]) or 0

local SERIALS = 70368744177664 -- 2^46: a place is rank * SERIALS + serial
local HISTORY = '50000' -- changes that a slow reader may be behind before it hears a reset

-- As text too: to print a number costs the server as much as to write it into a sorted set.
local clock = call('TIME')
local stamp = clock[1] .. string.sub('00000' .. clock[2], -6)
local now = tonumber(stamp)

-- Lua would print large numbers as 1.7e+15.
local function int(number) return string.format('%.0f', number) end

-- Whether the session lives. A session past its deadline is dead, reaped or not.
local function alive(session)
  local deadline = call('ZSCORE', SESSIONS, session)
  return deadline and tonumber(deadline) > now, deadline
end

-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- Stands, behind _writing.lua, before every script that writes, except those of a claim and of a
-- removal: what is needed when something is new, or over.

local function touch_all()
  call('XLEN', FEED)
  for _, key in ipairs({
    GONE, SESSIONS, PRESENT, TIMED, INDEX, DELAYED, LIVE, TRASH, ENTITIES,
  }) do
    call('ZCARD', key)
  end
  for _, key in ipairs({
    CONSUMED, CLAIMS, LIVE_STATE, LIVE_BODY, TRASH_STATE, TRASH_BODY, ENTITIES_STATE,
    ENTITIES_BODY,
  }) do
    call('HLEN', key)
  end
end

local serial
-- Returns the next place of a rank. Serials come from the clock (tenths of a millisecond), so
-- that they do not go back where a replica that missed writes takes over.
local function place(rank)
  serial = serial or tonumber(call('HGET', META, 'serial')) or 0
  serial = math.max(serial + 1, math.floor(now / 100))
  return tonumber(rank) * SERIALS + serial, serial
end

-- Keep the counter: a script that took a place calls it behind the last change.
local function save()
  if serial then call('HSET', META, 'serial', int(serial)) end
end

-- A foreign member of an index would be met again and again: put it last. It is not deleted.
local function set_aside(index, member) call('ZADD', index, '+inf', member) end

local function end_timed(key)
  local p, score = find(key)
  if not p or p.session ~= '0' then
    set_aside(TIMED, key)
  elseif p.ends == '0' then -- a lease, or its end, that failed in the middle
    offer(key, p, score)
    call('ZREM', TIMED, key)
  elseif tonumber(p.ends) > now then
    call('ZADD', TIMED, p.ends, key)
  else
    expire(key, p, score)
  end
end

-- End what lives by a session, at most so much of it, and then the session. Returns how much is
-- left to be done.
local function end_session(session, left)
  if not string.match(session, '^%d+$') then
    set_aside(SESSIONS, session)
    return left
  end
  local number = '-' .. session
  for _, key in ipairs(call('ZRANGEBYSCORE', INDEX, number, number, 'LIMIT', 0, left)) do
    local p, score = find(key)
    if p and p.session == session then
      expire(key, p, score)
    elseif p and not leased(p) then -- as above
      offer(key, p, score)
    else
      set_aside(INDEX, key)
    end
    left = left - 1
  end
  for _, key in ipairs(call('ZRANGEBYSCORE', PRESENT, session, session, 'LIMIT', 0, left)) do
    call('ZREM', PRESENT, key)
    call('ZREM', ENTITIES, key)
    call('HDEL', ENTITIES_STATE, key)
    call('HDEL', ENTITIES_BODY, key)
    left = left - 1
  end
  if left > 0 then call('ZREM', SESSIONS, session) end
  return left
end

-- End what is over, at most BATCH of it. Returns whether nothing is left that is over.
local function reap()
  touch_all()
  local left = BATCH
  for _, key in ipairs(call('ZRANGEBYSCORE', TIMED, '-inf', stamp, 'LIMIT', 0, left)) do
    end_timed(key)
    left = left - 1
  end
  for _, session in ipairs(call('ZRANGEBYSCORE', SESSIONS, '-inf', stamp, 'LIMIT', 0, BATCH)) do
    if left <= 0 then return false end
    left = end_session(session, left) - 1
  end
  return left > 0
end

-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- Stands, behind _writing.lua, before every script that writes: what is needed when something is
-- over, or new, or odd. unfold() makes these functions; most claims and removals never call it.

local touch_all, place, save, offer, expire, set_aside, end_timed, end_session
function unfold()
  if place then return end

  function touch_all()
    told()
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
  function place(rank)
    serial = serial or tonumber(call('HGET', META, 'serial')) or 0
    serial = math.max(serial + 1, math.floor(now / 100))
    return tonumber(rank) * SERIALS + serial, serial
  end

  -- Keep the counter: whoever asked for a place calls it behind the last change.
  function save()
    if serial then call('HSET', META, 'serial', int(serial)) end
  end

  -- Let an unleased posting be handed out when it is due.
  function offer(key, p, score)
    if tonumber(p.due) > now then
      call('ZADD', DELAYED, p.due, key)
    else
      call('ZADD', INDEX, score, key)
    end
  end

  -- End a lease that is over, as of when it was.
  function expire(key, p, score)
    local fence, ended = p.token, p.ends
    if p.session ~= '0' then
      local _, deadline = alive(p.session)
      ended = int(math.min(tonumber(deadline) or now, now))
    end
    unlease(key, p)
    p.deaths = tonumber(p.deaths) + 1
    p.modified = ended
    write(LIVE_STATE, key, p)
    offer(key, p, score)
    tell('expired', key, fence)
  end

  -- A foreign member of an index would be met again and again: put it last. It is not deleted.
  function set_aside(index, member) call('ZADD', index, '+inf', member) end

  function end_timed(key)
    local p, score = find(key)
    if not p or p.session ~= '0' or p.ends == '0' then
      set_aside(TIMED, key)
    elseif tonumber(p.ends) > now then
      call('ZADD', TIMED, p.ends, key)
    else
      expire(key, p, score)
    end
  end

  -- End what lives by a session, at most so much of it, and then the session. Returns how much is
  -- left to be done.
  function end_session(session, left)
    if not string.match(session, '^%d+$') then
      set_aside(SESSIONS, session)
      return left
    end
    local number = '-' .. session
    for _, key in ipairs(call('ZRANGEBYSCORE', INDEX, number, number, 'LIMIT', 0, left)) do
      local p, score = find(key)
      if p and p.session == session then expire(key, p, score) else set_aside(INDEX, key) end
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

  -- Tell the feed although the next id was refused.
  function tell_anyhow(kind, key, fence)
    -- Somebody deleted the last entries: go on behind them, and readers see a hole.
    local info = call('XINFO', 'STREAM', FEED)
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' then seq = tonumber(string.match(info[i + 1], '^%d+')) + 1 end
    end
    local reply = redis.pcall('XADD', FEED, int(seq) .. '-' .. stamp,
      'k', kind, 'j', key, 't', fence)
    if type(reply) == 'table' and reply.err then
      -- No id is left above a foreign one: a new history, and readers hear a reset.
      call('DEL', FEED)
      seq = 1
      call('XADD', FEED, '1-' .. stamp, 'k', kind, 'j', key, 't', fence)
    end
  end

  -- Forget the oldest of what is remembered.
  function forget()
    local drop = marks >= REPEAT_COUNT
    local oldest = call('ZRANGE', GONE, 0, 31, 'WITHSCORES')
    for i = 1, #oldest, 2 do
      if not drop and tonumber(oldest[i + 1]) >= now - REPEAT_WINDOW then break end
      marks = marks - call('ZREM', GONE, oldest[i])
      local fence, key = string.match(oldest[i], '^removed (%d+) (.*)$')
      local kept = key and call('HGET', CONSUMED, key)
      if kept and string.sub(kept, 1, #fence + 1) == fence .. ' ' then
        call('HDEL', CONSUMED, key)
      end
    end
  end
end

-- End what is over, at most BATCH of it. Returns whether nothing is left that is over. A script
-- that touches its own keys says so with 'light'; where nothing is over, that is all it gets.
local function reap(how)
  local timed = call('ZRANGEBYSCORE', TIMED, '-inf', stamp, 'LIMIT', '0', '100')
  local dead = call('ZRANGEBYSCORE', SESSIONS, '-inf', stamp, 'LIMIT', '0', '100')
  if how == 'light' and #timed == 0 and #dead == 0 then return true end
  unfold()
  touch_all()
  local left = BATCH - #timed
  for _, key in ipairs(timed) do end_timed(key) end
  for _, session in ipairs(dead) do
    if left <= 0 then return false end
    left = end_session(session, left) - 1
  end
  return left > 0
end

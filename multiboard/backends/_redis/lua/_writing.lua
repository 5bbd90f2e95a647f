-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- Stands, behind _common.lua, before every script that writes.
--
-- Every key that a script may write is touched before its first write: a key of the wrong type must
-- fail the script while nothing has changed, since Redis takes nothing back. A read of the key's own
-- type is a touch. reap() touches all; the scripts of a claim and a removal, which are most of what
-- a server has to do, touch their own.

local SERIALS = 70368744177664 -- 2^46: a place is rank * SERIALS + serial
local BATCH = 100 -- reaped or moved in one call: 2 to 3 ms of the server's time
local HISTORY = 50000 -- changes that a slow reader may be behind before it hears a reset
local REPEAT_WINDOW = 300 * 1000000 -- how long a repeat is told from something new ...
local REPEAT_COUNT = 250000 -- ... and how many are remembered: 60 s at 4,000 a second

local function touch(sorted_sets, hashes)
  call('XLEN', FEED)
  for _, key in ipairs(sorted_sets) do call('ZCARD', key) end
  for _, key in ipairs(hashes) do call('HLEN', key) end
end

local function touch_all()
  touch({GONE, SESSIONS, HELD, PRESENT, TIMED, FREE, DELAYED, LIVE, TRASH, ENTITIES}, {
    CONSUMED, CLAIMS, LIVE_STATE, LIVE_BODY, TRASH_STATE, TRASH_BODY, ENTITIES_STATE,
    ENTITIES_BODY,
  })
end

local serial = tonumber(meta[2]) or 0

-- Lua would print large numbers as 1.7e+15.
local function int(number) return string.format('%.0f', number) end

-- Keep the counter. Every script calls it behind its last change; where nothing was counted
-- nothing is written, since each write is work for the log and the replicas too.
local before = serial
local function save()
  if serial ~= before then call('HSET', META, 'serial', int(serial)) end
end

-- Returns the next place of a rank. Serials come from the clock (tenths of a millisecond), so
-- that they do not go back where a replica that missed writes takes over.
local function place(rank)
  serial = math.max(serial + 1, math.floor(now / 100))
  return tonumber(rank) * SERIALS + serial
end

-- Tell the feed. Ids are gap-free in their first part, so that a reader sees every hole; the
-- second part is the time, so that a rewritten history does not look like the one that was read.
local seq
local function tell(kind, key, fence)
  if not seq then
    local last = call('XREVRANGE', FEED, '+', '-', 'COUNT', 1)[1]
    seq = last and tonumber(string.match(last[1], '^%d+')) or 0
  end
  local function append()
    seq = seq + 1
    return redis.pcall('XADD', FEED, 'MAXLEN', '~', HISTORY, int(seq) .. '-' .. int(now),
      'k', kind, 'j', key, 't', fence)
  end
  local reply = append()
  if type(reply) == 'table' and reply.err then
    -- Somebody deleted the last entries: go on behind them, and readers see a hole.
    local info = call('XINFO', 'STREAM', FEED)
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' then seq = tonumber(string.match(info[i + 1], '^%d+')) end
    end
    reply = append()
    if type(reply) == 'table' and reply.err then
      -- No id is left above a foreign one: a new history, and readers hear a reset.
      call('DEL', FEED)
      seq = 0
      append()
    end
  end
end

local STATE = '^(%d+) (%x+)' .. string.rep(' (%d+)', 9) .. ' (.*)$'
local function read(hash, key)
  local packed = call('HGET', hash, key)
  local size, digest, created, attempts, deaths, modified, due, fence, ends, session, width, rest
  if packed then
    size, digest, created, attempts, deaths, modified, due, fence, ends, session, width, rest =
      string.match(packed, STATE)
  end
  if not size then return nil end
  width = tonumber(width)
  return {
    size = size, digest = digest, created = created, attempts = attempts, deaths = deaths,
    modified = modified, due = due, token = fence, ends = ends, session = session,
    claim = string.sub(rest, 1, width), holder = string.sub(rest, width + 1),
  }
end

local function write(hash, key, p)
  local packed = table.concat({
    p.size, p.digest, p.created, p.attempts, p.deaths, p.modified, p.due, p.token, p.ends,
    p.session, #p.claim, p.claim .. p.holder,
  }, ' ')
  call('HSET', hash, key, packed)
  return packed
end

-- Returns a posting of a shelf, live unless said otherwise, and its score; nil where there is none
-- or a damaged one.
local function find(key, shelf)
  local order, states, bodies = unpack(shelf or SHELVES.live)
  local score = call('ZSCORE', order, key)
  local p = score and read(states, key)
  if not p or call('HSTRLEN', bodies, key) ~= tonumber(p.size) then return nil end
  local where = tonumber(score)
  if where < 0 or where >= 100 * SERIALS or where % 1 ~= 0 then return nil end
  if not string.match(key, '^[%w._-]+$') then return nil end
  return p, score
end

local function leased(p) return p.session ~= '0' or p.ends ~= '0' end

local function over(p)
  if p.session == '0' then return tonumber(p.ends) <= now end
  return not alive(p.session)
end

local function current(p, fence) return p.token == fence and leased(p) and not over(p) end

local function unlease(key, p)
  call('ZREM', p.session == '0' and TIMED or HELD, key)
  call('HDEL', CLAIMS, p.claim)
  p.ends, p.session, p.claim, p.holder = '0', '0', '', ''
end

-- Let an unleased posting be handed out when it is due.
local function offer(key, p, score)
  if tonumber(p.due) > now then
    call('ZADD', DELAYED, p.due, key)
  else
    call('ZADD', FREE, score, key)
  end
end

-- End a lease that is over, as of when it was.
local function expire(key, p, score)
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

-- Returns the posting's state as packed. Whoever does not name the posting needs the claim id in
-- the index, to find it again.
local function lease(key, p, session, expires, claim, holder, index)
  call('ZREM', FREE, key)
  if tonumber(p.due) > tonumber(p.modified) then call('ZREM', DELAYED, key) end
  -- From the clock too: over a failover that lost writes it still rises.
  p.token, p.claim, p.holder = int(math.max(tonumber(p.token) + 1, now)), claim, holder
  p.attempts, p.modified = tonumber(p.attempts) + 1, int(now)
  if session == '0' then
    p.ends = int(now + expires)
    call('ZADD', TIMED, p.ends, key)
  else
    p.session = session
    call('ZADD', HELD, session, key)
  end
  if index then call('HSET', CLAIMS, claim, key) end
  local packed = write(LIVE_STATE, key, p)
  tell('claimed', key, p.token)
  return packed
end

-- Remember what a lease ended by, and forget what is old: now and then twice as many as were
-- remembered meanwhile.
local function remember(mark)
  local count = call('ZCARD', GONE)
  if count % 16 == 0 then
    local drop = count >= REPEAT_COUNT
    local oldest = call('ZRANGE', GONE, 0, 31, 'WITHSCORES')
    for i = 1, #oldest, 2 do
      if not drop and tonumber(oldest[i + 1]) >= now - REPEAT_WINDOW then break end
      call('ZREM', GONE, oldest[i])
      local fence, key = string.match(oldest[i], '^removed (%d+) (.*)$')
      local kept = key and call('HGET', CONSUMED, key)
      if kept and string.sub(kept, 1, #fence + 1) == fence .. ' ' then
        call('HDEL', CONSUMED, key)
      end
    end
  end
  call('ZADD', GONE, now, mark)
end

-- Whether something was remembered, and recently. What is forgotten late is not honoured late.
local function remembered(mark)
  local when = call('ZSCORE', GONE, mark)
  return when and tonumber(when) >= now - REPEAT_WINDOW
end

-- A foreign member of an index would be met again and again: put it last. It is not deleted.
local function set_aside(index, member) call('ZADD', index, '+inf', member) end

-- End what is over, at most BATCH of it. Returns whether nothing is left that is over. A script
-- that touches its own keys says so with 'light'.
local function reap(how)
  local left = BATCH
  local timed = call('ZRANGEBYSCORE', TIMED, '-inf', now, 'LIMIT', 0, left)
  local dead = call('ZRANGEBYSCORE', SESSIONS, '-inf', now, 'LIMIT', 0, left)
  if how ~= 'light' or #timed > 0 or #dead > 0 then touch_all() end
  for _, key in ipairs(timed) do
    local p, score = find(key)
    if not p or p.session ~= '0' or p.ends == '0' then
      set_aside(TIMED, key)
    elseif tonumber(p.ends) > now then
      call('ZADD', TIMED, p.ends, key)
    else
      expire(key, p, score)
    end
    left = left - 1
  end
  for _, session in ipairs(dead) do
    if left <= 0 then return false end
    if not string.match(session, '^%d+$') then
      set_aside(SESSIONS, session)
    else
      for _, key in ipairs(call('ZRANGEBYSCORE', HELD, session, session, 'LIMIT', 0, left)) do
        local p, score = find(key)
        if p and p.session == session then
          expire(key, p, score)
        else
          set_aside(HELD, key)
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
    end
    left = left - 1
  end
  return left > 0
end

-- Whether the caller's session lives; begins it where it never was and begin is '1'. What is to
-- live by it gets at least half of its time-out.
local function attend(session, begin, timeout)
  local deadline = call('ZSCORE', SESSIONS, session)
  if deadline then
    local left = tonumber(deadline) - now
    if left > 0 and left < timeout / 2 then call('ZADD', SESSIONS, now + timeout, session) end
    return left > 0
  end
  if begin ~= '1' then
    -- Not even its end is known (somebody deleted it): have what lived by it reaped all the same.
    if call('ZCOUNT', HELD, session, session) + call('ZCOUNT', PRESENT, session, session) > 0 then
      call('ZADD', SESSIONS, now, session)
    end
    return false
  end
  call('ZADD', SESSIONS, now + timeout, session)
  return true
end

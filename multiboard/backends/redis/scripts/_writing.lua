-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- Stands, behind _common.lua, before every script that writes.
--
-- Every key that a script may write is touched before its first write: a key of the wrong type
-- must fail the script while nothing has changed, since Redis takes nothing back. A read of the
-- key's own type is a touch, and the first write itself fails in time. reap() touches all.
--
-- What is added is written before what is removed: should a script fail in the middle all the same,
-- a posting is in two places, and not in none. A posting that is given back gets its state first,
-- one that is leased its place first: a script that finds the two at odds finds an unleased posting
-- where a leased one stands, and offers it.
--
-- The scripts of a claim and a removal are, with their fast cases, most of what a server has to
-- do. They touch their own keys, and do not reap: they check the lease that is named, and the
-- readers of the feed reap. A script is compiled once, but its functions are made anew at every
-- call: those that a claim or a removal needs are here, the others in _reaping.lua.

local BATCH = 100 -- reaped or moved in one call: 2 to 3 ms of the server's time
local REPEAT_WINDOW = 300 * 1000000 -- how long a repeat is recognized as one;
local REPEAT_COUNT = 250000 -- where more than this are remembered, ...
local REPEAT_LEAST = 60 * 1000000 -- ... no longer than was promised

-- A caller that lost a reply counts that in its next request, and what it sent before is late from
-- then on. The caller's field is kept for as long as a repeat is recognized as one.
if losses ~= '000000000' and not (meta[3] and string.sub(meta[3], 1, 9) == losses) then
  call('HSET', META, caller, losses .. stamp)
  if call('HLEN', META) % 16 == 0 then
    local old = int(now - REPEAT_WINDOW)
    for _, name in ipairs(call('HKEYS', META)) do
      local noted = string.match(name, '^w%x+$') and call('HGET', META, name)
      if noted and string.sub(noted, 10) < old then call('HDEL', META, name) end
    end
  end
end

-- Append a change to the feed. Ids are gap-free in their first part, so that a reader detects
-- every hole; the second part is the time, so that a rewritten history differs from the one read.
local function publish(kind, key, fence)
  local before = seq
  seq = seq + 1
  local reply = redis.pcall('XADD', FEED, 'MAXLEN', '~', HISTORY, int(seq) .. '-' .. stamp,
    'k', kind, 'j', key, 't', fence)
  if type(reply) == 'table' and reply.err then
    if not string.find(reply.err, ' ID', 1, true) then error(reply.err) end
    -- The number was lost, or another program wrote here: go on behind that; readers find a hole.
    local info = call('XINFO', 'STREAM', FEED)
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' then
        seq = tonumber(string.match(info[i + 1], '^%d+')) + 1
      end
    end
    reply = redis.pcall('XADD', FEED, int(seq) .. '-' .. stamp, 'k', kind, 'j', key, 't', fence)
    if type(reply) == 'table' and reply.err then
      -- No id is left above a foreign one: a new history, and readers receive a reset. Its numbers
      -- go on: one that fell would look like a backup that was put back.
      call('DEL', FEED)
      seq = before + 1
      call('XADD', FEED, int(seq) .. '-' .. stamp, 'k', kind, 'j', key, 't', fence)
    end
  end
  call('HSET', META, 'seq', int(seq))
end

local STATE =
  '^(%d+) (%x+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (.*)$'
local function read(hash, key)
  local packed = call('HGET', hash, key)
  if not packed then return nil end
  local size, digest, created, attempts, deaths, modified, due, fence, ends, session, width, rest =
    string.match(packed, STATE)
  if not size then return nil end
  width = tonumber(width)
  return {
    size = size, digest = digest, created = created, attempts = attempts, deaths = deaths,
    modified = modified, due = due, token = fence, ends = ends, session = session,
    claim = string.sub(rest, 1, width), holder = string.sub(rest, width + 1),
  }
end

local function write(hash, key, p)
  local packed = p.size .. ' ' .. p.digest .. ' ' .. p.created .. ' ' .. p.attempts .. ' '
    .. p.deaths .. ' ' .. p.modified .. ' ' .. p.due .. ' ' .. p.token .. ' ' .. p.ends .. ' '
    .. p.session .. ' ' .. #p.claim .. ' ' .. p.claim .. p.holder
  call('HSET', hash, key, packed)
  return packed
end

-- Returns a posting of a shelf, live unless said otherwise, and its score; nil where there is none
-- or a damaged one.
local function find(key, name)
  local order, states, bodies = shelf(name or 'live')
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

-- Let an unleased posting be handed out when it is due.
local function offer(key, p, score)
  if tonumber(p.due) > now then
    call('ZADD', DELAYED, p.due, key)
    call('ZREM', INDEX, key)
  else
    call('ZADD', INDEX, score, key)
  end
end

-- Returns the state without its lease, the set where the posting stands for it, and the claim id
-- that has to be forgotten. Most are not kept: only acquire_next does.
local function unlease(p)
  local set, claim = p.session == '0' and TIMED or INDEX, call('HLEN', CLAIMS) > 0 and p.claim
  p.ends, p.session, p.claim, p.holder = '0', '0', '', ''
  return set, claim
end

-- Give a leased posting back.
local function give_back(key, p, score)
  local set, claim = unlease(p)
  write(LIVE_STATE, key, p)
  offer(key, p, score)
  if set == TIMED then call('ZREM', TIMED, key) end
  if claim then call('HDEL', CLAIMS, claim) end
end

-- End a lease that is over, as of when it was, and offer the posting.
local function expire(key, p, score)
  local fence, ended = p.token, p.ends
  if p.session ~= '0' then
    local _, deadline = alive(p.session)
    ended = int(math.min(tonumber(deadline) or now, now))
  end
  p.deaths = tonumber(p.deaths) + 1
  p.modified = ended
  give_back(key, p, score)
  publish('expired', key, fence)
end

-- Returns the posting's state as packed. A caller that does not name the posting needs the claim id
-- in the index, to find the posting again.
local function lease(key, p, session, expires, claim, holder, index)
  local delayed = tonumber(p.due) > tonumber(p.modified)
  if delayed then call('ZCARD', DELAYED) end
  -- From the clock too: over a failover that lost writes it still rises.
  p.token = tonumber(p.token) < now and stamp or int(tonumber(p.token) + 1)
  p.claim, p.holder = claim, holder
  p.attempts, p.modified = tonumber(p.attempts) + 1, stamp
  if session == '0' then
    p.ends = int(now + expires)
    call('ZCARD', INDEX)
    call('ZADD', TIMED, p.ends, key)
  else
    p.session = session
    call('ZADD', INDEX, '-' .. session, key)
  end
  if index then call('HSET', CLAIMS, claim, key) end
  local packed = write(LIVE_STATE, key, p)
  if session == '0' then call('ZREM', INDEX, key) end
  if delayed then call('ZREM', DELAYED, key) end
  publish('claimed', key, p.token)
  return packed
end

-- Remember what else than a removal a lease ended by, and forget what is old: now and then twice as
-- many as were remembered meanwhile.
local function remember(mark)
  local count = call('ZCARD', GONE)
  if count % 16 == 0 then
    local before = int(now - (count < REPEAT_COUNT and REPEAT_WINDOW or REPEAT_LEAST))
    local old = call('ZRANGEBYSCORE', GONE, '-inf', before, 'LIMIT', 0, 32)
    if #old > 0 then call('ZREM', GONE, unpack(old)) end
  end
  call('ZADD', GONE, stamp, mark)
end

-- Whether something was remembered, and recently. What is forgotten late is not honoured late.
local function remembered(mark)
  local when = call('ZSCORE', GONE, mark)
  return when and tonumber(when) >= now - REPEAT_WINDOW
end

-- Returns the token and the digest of a posting that was consumed under a key, if it is remembered.
local function consumed(key)
  local fence, digest, when = string.match(call('HGET', CONSUMED, key) or '', '^(%d+) (%x+) (%d+)$')
  if when and tonumber(when) >= now - REPEAT_WINDOW then return fence, digest end
end

-- Remember that a posting is gone, and which lease removed it ('0': none, it was purged). Returns
-- how many are remembered, of whom there were count. The old ones among some, taken at random, are
-- forgotten, two for each that is remembered: in the long run no more than every other one is old,
-- and no removal has to keep them in order.
local function note_consumed(key, fence, digest, count)
  count = count + call('HSET', CONSUMED, key, fence .. ' ' .. digest .. ' ' .. stamp)
  if count % 64 ~= 0 then return count end
  local before = now - (count < REPEAT_COUNT and REPEAT_WINDOW or REPEAT_LEAST)
  local some = call('HRANDFIELD', CONSUMED, 128, 'WITHVALUES')
  for i = 1, #some, 2 do
    local when = string.match(some[i + 1], '^%d+ %x+ (%d+)$')
    if when and tonumber(when) < before then call('HDEL', CONSUMED, some[i]) end
  end
  return count
end

-- Whether the caller's session lives; begins it where it never was and begin is '1'. What is to
-- live by it gets at least half of its time-out.
local function ensure_session(session, begin, timeout)
  local deadline = call('ZSCORE', SESSIONS, session)
  if deadline then
    local left = tonumber(deadline) - now
    if left > 0 and left < timeout / 2 then
      call('ZCARD', INDEX)
      call('ZADD', SESSIONS, now + timeout, session)
    end
    return left > 0
  end
  if begin ~= '1' then
    -- Not even its end is known (another program deleted it): what lived by it is reaped anyway.
    if call('ZCOUNT', INDEX, '-' .. session, '-' .. session)
      + call('ZCOUNT', PRESENT, session, session) > 0 then
      call('ZADD', SESSIONS, now, session)
    end
    return false
  end
  call('ZCARD', INDEX)
  call('ZADD', SESSIONS, now + timeout, session)
  return true
end

-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- flags: allow-oom
-- A claim of the first postings of the order that are due and unleased.
--
-- ARGV     2 session ('0' for timed leases), 3 begin, 4 session time-out, 5 holder, 6 length of
--          timed leases, then the claim ids
-- Replies  {'OK', now, {key, score, state, body, ...}, more, {...}} or {'SESSION'}. The first list
--          is what the claim ids held already, the last what was leased now. more is 1 where
--          there may be others: call again with the claim ids that are in neither list.

-- Without the first of the order, whatever is leased would be the wrong one.
local settled = reap()
local due = call('ZRANGEBYSCORE', DELAYED, '-inf', now, 'LIMIT', 0, BATCH)
for _, key in ipairs(due) do
  local p, score = find(key)
  if p then
    if not leased(p) then call('ZADD', INDEX, score, key) end
    call('ZREM', DELAYED, key)
  else
    set_aside(DELAYED, key)
  end
end
local session = ARGV[2]
if session ~= '0' and not ensure_session(session, ARGV[3], ARGV[4]) then
  return {seq, 'SESSION'}
end

local bytes = 0
local function show(rows, key, score, packed)
  local n = #rows
  rows[n + 1], rows[n + 2], rows[n + 3] = key, score, packed
  rows[n + 4] = call('HGET', LIVE_BODY, key)
  bytes = bytes + #rows[n + 4]
end

local kept, won, unused = {}, {}, {}
for i = 7, #ARGV do
  local key = call('HGET', CLAIMS, ARGV[i])
  local p, score
  if key then p, score = find(key) end
  if p and p.claim == ARGV[i] and p.session == session and leased(p) and not over(p) then
    if bytes <= REPLY_BYTES then show(kept, key, score, call('HGET', LIVE_STATE, key)) end
  else
    unused[#unused + 1] = ARGV[i]
  end
end
if not settled or #due == BATCH or bytes > REPLY_BYTES then
  return {seq, 'OK', now, kept, 1, won}
end

local first, looked, more = 0, 0, 0
while #unused > 0 and looked < 1000 do
  local count = #unused
  local page = call('ZRANGEBYSCORE', INDEX, '0', '+inf', 'WITHSCORES', 'LIMIT', first, count)
  for i = 1, #page, 2 do
    local key = page[i]
    local p, score = find(key)
    looked = looked + 1
    if p and not leased(p) then
      local packed = lease(key, p, session, tonumber(ARGV[6]), table.remove(unused, 1), ARGV[5],
        true)
      show(won, key, score, packed)
      if bytes > REPLY_BYTES then more = #unused > 0 and 1 or 0; break end
    elseif page[i + 1] == 'inf' then
      unused = {} -- from here on all was set aside
      break
    else
      set_aside(INDEX, key)
    end
  end
  if more == 1 or #page < 2 * count then break end
end
if looked >= 1000 and #unused > 0 then more = 1 end
return {seq, 'OK', now, kept, more, won}

-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- flags: allow-oom
-- A removal of leased postings, each in one step, in order. It frees memory, so it must run while
-- there is none left. remove_fast.lua does the most frequent case.
--
-- ARGV     2 'removed' or 'trashed', then for each lease: key, token
-- Replies  {'OK', {result, ...}} with, for each lease, 'OK' where it removed the posting, now or
--          before, 'LOST' where it is not current, 'GONE' where there is no such posting

local kind = ARGV[2]
call('XLEN', FEED)
call('ZCARD', INDEX)
call('ZCARD', TIMED)
if kind == 'trashed' then
  call('ZCARD', GONE)
  call('ZCARD', TRASH)
  call('HLEN', TRASH_STATE)
  call('HLEN', TRASH_BODY)
end
local count = call('HLEN', CONSUMED)
local results = {}

for i = 3, #ARGV, 2 do
  local key, fence = ARGV[i], ARGV[i + 1]
  local p, score = find(key)
  local result = 'OK'
  if p and current(p, fence) then
    local set, claim = unlease(p)
    if kind == 'trashed' then
      p.modified, p.due = stamp, stamp
      write(TRASH_STATE, key, p)
      call('HSET', TRASH_BODY, key, call('HGET', LIVE_BODY, key))
      call('ZADD', TRASH, score, key)
      remember('trashed ' .. fence .. ' ' .. key)
    else
      count = note_consumed(key, fence, p.digest, count)
    end
    call('ZREM', set, key)
    if claim then call('HDEL', CLAIMS, claim) end
    call('ZREM', LIVE, key)
    call('HDEL', LIVE_STATE, key)
    call('HDEL', LIVE_BODY, key)
    publish(kind, key, fence)
  elseif kind == 'trashed' then
    if not remembered('trashed ' .. fence .. ' ' .. key) then result = p and 'LOST' or 'GONE' end
  elseif p or consumed(key) ~= fence then
    result = p and 'LOST' or 'GONE'
  end
  results[#results + 1] = result
end
return {seq, 'OK', results}

-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- flags: allow-oom
-- keys: meta feed consumed sessions index claims live live:state live:body
-- A removal in its most frequent case: one posting, consumed under the session lease that is
-- current. remove.lua describes what both take and reply; see acquire_fast.lua for {'OTHER'}, and
-- for the order of the writes.

local key, fence = ARGV[3], ARGV[4]
local size, digest, token, session, width, rest = string.match(
  call('HGET', LIVE_STATE, key) or '',
  '^(%d+) (%x+) %d+ %d+ %d+ %d+ %d+ (%d+) 0 (%d+) (%d+) (.*)$')
-- An unleased posting's session is 0, and a score of -0 is none of a session.
if token == fence and session ~= '0'
  and tonumber(call('ZSCORE', SESSIONS, session) or 0) > now
  and tonumber(call('ZSCORE', INDEX, key) or 0) == -tonumber(session)
  and call('HSTRLEN', LIVE_BODY, key) == tonumber(size) and call('ZSCORE', LIVE, key)
  -- Now and then the old ones among the consumed are forgotten.
  and call('HLEN', CONSUMED) % 64 ~= 63 then
  local indexed = call('HLEN', CLAIMS) > 0
  local number = int(seq + 1)
  local id = redis.pcall('XADD', FEED, 'MAXLEN', '~', HISTORY, number .. '-' .. stamp,
    'k', 'removed', 'j', key, 't', fence)
  if type(id) == 'string' then
    call('HSET', META, 'seq', number)
    call('HSET', CONSUMED, key, fence .. ' ' .. digest .. ' ' .. stamp)
    call('ZREM', INDEX, key)
    if indexed then call('HDEL', CLAIMS, string.sub(rest, 1, width)) end
    call('ZREM', LIVE, key)
    call('HDEL', LIVE_STATE, key)
    call('HDEL', LIVE_BODY, key)
    return {seq + 1, 'OK', {'OK'}}
  end
end
return {seq, 'OTHER'}

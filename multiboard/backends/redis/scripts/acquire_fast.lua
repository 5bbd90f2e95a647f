-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- flags: allow-oom
-- keys: meta feed sessions index live:state live:body
-- A claim in its most frequent case: a session that has time, and a posting that stands in INDEX
-- with its place, so that it is due and unleased. acquire.lua describes what both take and reply,
-- and does all cases; but a script pays for the functions and the keys that other cases need.
--
-- Replies  also {'OTHER'} where the case is another one, and nothing was changed
--
-- The feed's entry is the first write, since nothing before it has touched the feed: where that
-- can't be written nothing is.

local session, key, claim = ARGV[2], ARGV[5], ARGV[7]
local deadline = tonumber(call('ZSCORE', SESSIONS, session) or 0)
local score = tonumber(call('ZSCORE', INDEX, key) or -1)
if deadline - now >= ARGV[4] / 2 and score >= 0 and score < 100 * SERIALS then
  local head, size, attempts, deaths, due, token = string.match(
    call('HGET', LIVE_STATE, key) or '',
    '^((%d+) %x+ %d+) (%d+) (%d+) %d+ (%d+) (%d+) 0 0 0 $')
  if head and tonumber(token) < now and call('HSTRLEN', LIVE_BODY, key) == tonumber(size) then
    local number = int(seq + 1)
    local id = redis.pcall('XADD', FEED, 'MAXLEN', '~', HISTORY, number .. '-' .. stamp,
      'k', 'claimed', 'j', key, 't', stamp)
    if type(id) == 'string' then
      call('HSET', META, 'seq', number)
      call('ZADD', INDEX, '-' .. session, key)
      call('HSET', LIVE_STATE, key, head .. ' ' .. int(attempts + 1) .. ' ' .. deaths .. ' '
        .. stamp .. ' ' .. due .. ' ' .. stamp .. ' 0 ' .. session .. ' ' .. #claim .. ' '
        .. claim .. ARGV[6])
      return {seq + 1, 'OK', now, stamp, '0'}
    end
  end
end
return {seq, 'OTHER'}

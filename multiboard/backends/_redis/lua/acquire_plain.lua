-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- The plain case of acquire.lua, which says what both take and reply: a session that has time,
-- and a posting that stands in INDEX with its place, so that it is due and unleased. It stands
-- before the functions, which then need not be made, and leaves all else to what follows them.
--
-- The feed's entry is the first write, since nothing here has touched the feed: where that can't
-- be written nothing is.

if ARGV[2] ~= '0' then
  local session, key, claim = ARGV[2], ARGV[5], ARGV[7]
  local deadline = tonumber(call('ZSCORE', SESSIONS, session) or 0)
  local score = tonumber(call('ZSCORE', INDEX, key) or -1)
  if deadline - now >= ARGV[4] / 2 and score >= 0 and score < 100 * SERIALS then
    local head, size, attempts, deaths, due, token = string.match(
      call('HGET', LIVE_STATE, key) or '',
      '^((%d+) %x+ %d+) (%d+) (%d+) %d+ (%d+) (%d+) 0 0 0 $')
    if head and tonumber(token) < now and call('HSTRLEN', LIVE_BODY, key) == tonumber(size) then
      local told = redis.pcall('XADD', FEED, 'MAXLEN', '~', HISTORY, int(seq + 1) .. '-' .. stamp,
        'k', 'claimed', 'j', key, 't', stamp)
      if type(told) == 'string' then
        call('HSET', META, 'seq', int(seq + 1))
        call('ZADD', INDEX, '-' .. session, key)
        call('HSET', LIVE_STATE, key, head .. ' ' .. int(attempts + 1) .. ' ' .. deaths .. ' '
          .. stamp .. ' ' .. due .. ' ' .. stamp .. ' 0 ' .. session .. ' ' .. #claim .. ' '
          .. claim .. ARGV[6])
        return {'OK', now, stamp, '0'}
      end
    end
  end
end

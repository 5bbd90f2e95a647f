-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- Put a trashed posting back on the live shelf, last of its rank.
--
-- ARGV     2 key
-- Replies  {'OK', now, score, state, body}, or {'GONE'} where it is on neither shelf

reap()
local key = ARGV[2]
local p, score = find(key)
if not p then
  p, score = find(key, 'trash')
  -- A damaged posting on either shelf is left alone.
  if not p or call('ZSCORE', LIVE, key) then
    return {seq, 'GONE'}
  end
  local body = call('HGET', TRASH_BODY, key)
  score = place(math.floor(tonumber(score) / SERIALS))
  p.modified, p.due = int(now), int(now)
  write(LIVE_STATE, key, p)
  call('HSET', LIVE_BODY, key, body)
  call('ZADD', LIVE, score, key)
  offer(key, p, score)
  call('ZREM', TRASH, key)
  call('HDEL', TRASH_STATE, key)
  call('HDEL', TRASH_BODY, key)
  publish('restored', key, '')
  score = int(score)
elseif leased(p) and over(p) then
  expire(key, p, score)
end
save()
return {seq, 'OK', now, score, call('HGET', LIVE_STATE, key), call('HGET', LIVE_BODY, key)}

-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- Add entities, each in one step, in order; they live by the caller's session.
--
-- ARGV     2 session, 3 begin, 4 session time-out, then for each entity: key, rank, body
-- Replies  {'OK', now, {{'OK', score, state}, ...}}, or {'SESSION'} where the session has ended

reap()
if not ensure_session(ARGV[2], ARGV[3], ARGV[4]) then return {seq, 'SESSION'} end
local results = {}
for i = 5, #ARGV, 3 do
  local key, rank, body = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local score = place(rank)
  local packed = write(ENTITIES_STATE, key, {
    size = #body, digest = '0', created = int(now), attempts = 0, deaths = 0,
    modified = int(now), due = int(now), token = '0', ends = '0', session = ARGV[2],
    claim = '', holder = '',
  })
  call('HSET', ENTITIES_BODY, key, body)
  call('ZADD', ENTITIES, score, key)
  call('ZADD', PRESENT, ARGV[2], key)
  results[#results + 1] = {'OK', int(score), packed}
end
save()
return {seq, 'OK', now, results}

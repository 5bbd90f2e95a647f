-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- Add postings to the live shelf, each in one step, in order.
--
-- ARGV     from 2, for each posting: key, rank, delay, digest of rank and body, body
-- Replies  {'OK', now, {result, ...}} with, for each posting,
--          {'OK', score, state} where it was added or found, {'EXISTS'} where the key is taken,
--          {'GONE'} where this posting was consumed or purged

reap()
local results = {}
for i = 2, #ARGV, 5 do
  local key, rank, delay, digest, body = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local result
  for _, name in ipairs({'live', 'trash'}) do
    local order, states = shelf(name)
    if call('ZSCORE', order, key) then
      local p, score = find(key, name)
      if not p or p.digest ~= digest then
        result = {'EXISTS'}
      else
        if leased(p) and over(p) then
          expire(key, p, score)
        end
        result = {'OK', score, call('HGET', states, key)}
      end
      break
    end
  end
  if not result then
    local fence, known = consumed(key)
    if fence then result = {known == digest and 'GONE' or 'EXISTS'} end
  end
  -- What stands in a hash without a place on the shelf was put there by another program.
  if not result and (call('HSTRLEN', LIVE_STATE, key) > 0
    or call('HSETNX', LIVE_BODY, key, body) == 0) then
    result = {'EXISTS'}
  end
  if not result then
    local score, serial = place(rank)
    local p = {
      size = #body, digest = digest, created = int(now), attempts = 0, deaths = 0,
      modified = int(now), due = int(now + delay), ends = '0', session = '0',
      -- Where a purged key is used again, its tokens go on above the earlier ones.
      token = int(serial * 100),
      claim = '', holder = '',
    }
    local packed = write(LIVE_STATE, key, p)
    call('ZADD', LIVE, score, key)
    offer(key, p, score)
    publish('posted', key, '')
    result = {'OK', int(score), packed}
  end
  results[#results + 1] = result
end
save()
return {seq, 'OK', now, results}

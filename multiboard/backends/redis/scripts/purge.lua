-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- flags: allow-oom
-- Delete postings from the trash, or entities, for good.
--
-- ARGV     2 shelf, then the keys
-- Replies  {'OK', {1 where one was deleted, else 0, ...}}

reap()
local order, states, bodies = shelf(ARGV[2])
local results = {}
for i = 3, #ARGV do
  local key = ARGV[i]
  local p = read(states, key)
  local found = call('ZREM', order, key)
  if found == 1 then
    call('HDEL', states, key)
    call('HDEL', bodies, key)
    if ARGV[2] == 'entities' then
      call('ZREM', PRESENT, key)
      -- Its session is dead and not yet reaped: it was not there any more.
      if p and not alive(p.session) then found = 0 end
    elseif p then
      note_consumed(key, '0', p.digest, call('HLEN', CONSUMED))
    end
  end
  results[#results + 1] = found
end
return {seq, 'OK', results}

-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- flags: no-writes
-- Count a shelf.
--
-- ARGV     2 shelf
-- Replies  {'OK', count}

local count = call('ZCARD', (shelf(ARGV[2])))
if ARGV[2] == 'entities' then
  for _, session in ipairs(call('ZRANGEBYSCORE', SESSIONS, '-inf', now)) do
    if string.match(session, '^%d+$') then
      count = count - call('ZCOUNT', PRESENT, session, session)
    end
  end
end
return {seq, 'OK', count}

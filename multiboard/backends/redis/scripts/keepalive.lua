-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- flags: allow-oom
-- Renew the caller's session, or begin it.
--
-- ARGV     2 session, 3 begin, 4 session time-out
-- Replies  {'OK'}, or {'SESSION'} where it has ended

reap()
local result = {'SESSION'}
if ensure_session(ARGV[2], ARGV[3], ARGV[4]) then
  call('ZADD', SESSIONS, now + ARGV[4], ARGV[2])
  result = {'OK'}
end
table.insert(result, 1, seq)
return result

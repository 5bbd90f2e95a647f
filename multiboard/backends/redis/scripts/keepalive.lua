-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- flags: allow-oom
-- Renew the caller's session, or begin it.
--
-- ARGV     2 session, 3 begin, 4 session time-out
-- Replies  {'OK'}, or {'SESSION'} where it has ended

reap()
local answer = {'SESSION'}
if attend(ARGV[2], ARGV[3], ARGV[4]) then
  call('ZADD', SESSIONS, now + ARGV[4], ARGV[2])
  answer = {'OK'}
end
table.insert(answer, 1, seq)
return answer

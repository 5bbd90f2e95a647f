-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- flags: allow-oom
-- End the caller's session. What lived by it is over at once, and readers reap what this call does
-- not: the first change wakes them.
--
-- ARGV     2 session
-- Replies  {'OK'}

if call('ZSCORE', SESSIONS, ARGV[2]) then call('ZADD', SESSIONS, now, ARGV[2]) end
reap()
return {seq, 'OK'}

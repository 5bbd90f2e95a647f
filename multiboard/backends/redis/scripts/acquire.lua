-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- flags: allow-oom
-- A claim: lease the posting of a key. A board that is out of memory must still be worked off.
-- acquire_fast.lua does the most frequent case, acquire_next.lua a claim of the first in order.
--
-- ARGV     2 session ('0' for a timed lease), 3 begin, 4 session time-out, 5 key, 6 holder,
--          7 claim id, 8 length of a timed lease
-- Replies  {'OK', now, token, end}, {'HELD', holder}, {'GONE'} where there is no such posting, or
--          {'SESSION'} where the session has ended

call('XLEN', FEED)
local session, key, claim = ARGV[2], ARGV[5], ARGV[7]
if session ~= '0' and not ensure_session(session, ARGV[3], ARGV[4]) then return {seq, 'SESSION'} end
local p, score = find(key)
if not p then return {seq, 'GONE'} end
if leased(p) then
  if over(p) then
    -- The feed must have EXPIRED before CLAIMED.
    call('ZCARD', INDEX)
    call('ZCARD', DELAYED)
    call('ZCARD', TIMED)
    expire(key, p, score)
  elseif p.claim == claim and p.session == session then
    return {seq, 'OK', now, p.token, p.ends}
  else
    return {seq, 'HELD', p.holder}
  end
end
lease(key, p, session, tonumber(ARGV[8]), claim, ARGV[6])
return {seq, 'OK', now, p.token, p.ends}

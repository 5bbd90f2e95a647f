-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- flags: allow-oom
-- Move the end of a timed lease; check a session lease.
--
-- ARGV     2 key, 3 token, 4 length from now
-- Replies  {'OK', now, end}, {'LEASE'} where it is not current, or {'GONE'} where there is no such
--          posting

reap()
local key = ARGV[2]
local p = find(key)
local result
if not p then
  result = {'GONE'}
elseif not current(p, ARGV[3]) then
  result = {'LEASE'}
else
  if p.session == '0' then
    local before = tonumber(p.ends)
    p.ends = int(now + ARGV[4])
    local shorter = tonumber(p.ends) < before
    -- What is reaped too early is checked again; too late, no worker could have it until then.
    if shorter then call('ZADD', TIMED, p.ends, key) end
    write(LIVE_STATE, key, p)
    if not shorter then call('ZADD', TIMED, p.ends, key) end
    -- A reader that waits for the end that was the first now has an earlier one to wait for.
    if shorter then publish('nudge', '', '') end
  end
  result = {'OK', now, p.ends}
end
table.insert(result, 1, seq)
return result

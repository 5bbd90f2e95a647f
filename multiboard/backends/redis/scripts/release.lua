-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- flags: allow-oom
-- Give a lease back.
--
-- ARGV     2 key, 3 token, 4 delay
-- Replies  {'OK'} where it was released, now or before, {'LEASE'} where it is not current, or
--          {'GONE'} where there is no such posting

reap()
local key, fence = ARGV[2], ARGV[3]
local mark = 'released ' .. fence .. ' ' .. key
local p, score = find(key)
local result = {'OK'}
if not (p and current(p, fence)) then
  if not remembered(mark) then result = {p and 'LEASE' or 'GONE'} end
else
  remember(mark)
  p.modified, p.due = int(now), int(now + ARGV[4])
  give_back(key, p, score)
  publish('released', key, fence)
end
table.insert(result, 1, seq)
return result

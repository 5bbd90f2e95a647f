-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- flags: allow-oom
-- Remove leased postings, each in one step, in order. It is what frees memory: it must run while
-- there is none left.
--
-- ARGV     2 'removed' or 'trashed', then for each lease: key, token
-- Replies  {'OK', {answer, ...}} with, for each lease, 'OK' where it removed the posting, now or
--          before, 'LOST' where it is not current, 'GONE' where there is no such posting

local kind = ARGV[2]
reap(kind == 'removed' and 'light')
told()
call('ZCARD', INDEX)
call('HLEN', CONSUMED)
marks = call('ZCARD', GONE)
local answers = {}
for i = 3, #ARGV, 2 do
  local key, fence = ARGV[i], ARGV[i + 1]
  local mark = kind .. ' ' .. fence .. ' ' .. key
  local p, score = find(key)
  local answer = 'OK'
  if not (p and current(p, fence)) then
    if not remembered(mark) then answer = p and 'LOST' or 'GONE' end
  else
    unlease(key, p)
    call('ZREM', LIVE, key)
    if kind == 'trashed' then
      p.modified = stamp
      write(TRASH_STATE, key, p)
      call('HSET', TRASH_BODY, key, call('HGET', LIVE_BODY, key))
      call('ZADD', TRASH, score, key)
    else
      call('HSET', CONSUMED, key, fence .. ' ' .. p.digest)
    end
    call('HDEL', LIVE_STATE, key)
    call('HDEL', LIVE_BODY, key)
    remember(mark)
    tell(kind, key, fence)
  end
  answers[#answers + 1] = answer
end
return {'OK', answers}

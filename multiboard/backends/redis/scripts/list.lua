-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- flags: no-writes
-- Read a shelf, in order, or some of its postings by key.
--
-- ARGV     2 shelf, 3 'after', 4 a score ('' for the beginning), 5 a limit; or 3 'keys', and they
-- Replies  {'OK', now, {key, score, state, body, ...}, {dead session, its deadline, ...}, next,
--          {foreign name, why, ...}}
--          A body or a state that is missing is false. The dead sessions are those that the rows
--          name. next is how many rows were looked at where the reply was cut short or full, else
--          0. Foreign names are looked for on a shelf's first page.

local order, states, bodies = shelf(ARGV[2])
local keys, scores = {}, {}
if ARGV[3] == 'keys' then
  for i = 4, #ARGV do keys[i - 3] = ARGV[i] end
  scores = call('ZMSCORE', order, unpack(keys))
else
  local from = ARGV[4] == '' and '-inf' or '(' .. ARGV[4]
  local page = call('ZRANGEBYSCORE', order, from, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[5])
  for i = 1, #page, 2 do
    keys[#keys + 1] = page[i]
    scores[#scores + 1] = page[i + 1]
  end
end

local rows, dead, judged = {}, {}, {}
local looked = #keys -- how many rows the reply covers
if looked > 0 then
  local packed = call('HMGET', states, unpack(keys))
  local bytes = 0
  for i = 1, looked do
    local size, session
    if packed[i] then
      size, session = string.match(packed[i], '^(%d+) %x+ %d+ %d+ %d+ %d+ %d+ %d+ %d+ (%d+) ')
    end
    if size then
      if session ~= '0' and not judged[session] then
        judged[session] = true
        local lives, deadline = alive(session)
        if not lives then
          dead[#dead + 1] = session
          dead[#dead + 1] = deadline or ''
        end
      end
      bytes = bytes + tonumber(size)
      if bytes > REPLY_BYTES then looked = i; break end
    end
  end
  local content = call('HMGET', bodies, unpack(keys, 1, looked))
  for i = 1, looked do
    local n = #rows
    rows[n + 1], rows[n + 2], rows[n + 3], rows[n + 4] = keys[i], scores[i], packed[i], content[i]
  end
end

local foreign = {}
local function report(name, why)
  foreign[#foreign + 1] = name
  foreign[#foreign + 1] = why
end
if ARGV[3] == 'after' and ARGV[4] == '' then
  -- More fields than members that have them: some belong to nothing. Members whose fields are
  -- missing would hide that, so those of this page are taken off.
  for offset, hash in ipairs({states, bodies}) do
    local fields, placed = call('HLEN', hash), call('ZCARD', order)
    for i = 1, looked do
      if not rows[4 * i - 2 + offset] then placed = placed - 1 end
    end
    if fields > placed and fields > 5000 then
      report(hash, 'holds fields that belong to no posting')
    elseif fields > placed then
      for _, field in ipairs(call('HKEYS', hash)) do
        if not call('ZSCORE', order, field) and #foreign < 200 then
          report(hash .. ' ' .. field, 'belongs to no posting')
        end
      end
    end
  end
  if ARGV[2] == 'live' then
    for _, index in ipairs({TIMED, DELAYED, INDEX, SESSIONS}) do
      for _, name in ipairs(call('ZRANGEBYSCORE', index, '+inf', '+inf', 'LIMIT', 0, 100)) do
        report(index .. ' ' .. name, 'belongs to no posting')
      end
    end
  end
end
local full = ARGV[3] == 'after' and looked == tonumber(ARGV[5])
return {seq, 'OK', now, rows, dead, (looked < #keys or full) and looked or 0, foreign}

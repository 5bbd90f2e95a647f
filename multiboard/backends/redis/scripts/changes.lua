-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- flags: allow-oom
-- Read the feed, and end what is over.
--
-- ARGV     2 the id of the last change seen ('' for none), 3 how many changes at most
-- Replies  {'OK', 'RESET', id to go on from} or
--          {'OK', 'GO', {{id, {field, value, ...}}, ...}, microseconds until something ends (-1
--          where nothing will; 0 where something has to be ended yet)}

local settled = reap()
local seen = ARGV[2]
local from, result = string.match(seen, '^(%d+)-%d+$'), nil
if from then
  local entries = call('XRANGE', FEED, from .. '-0', '+', 'COUNT', ARGV[3] + 1)
  -- The change last seen must still be there, as it was: else the history was trimmed or is
  -- another one. Behind it each id is the one before plus one, or something is missing.
  local whole = entries[1] and entries[1][1] == seen
  local last = tonumber(from)
  for i = 2, whole and #entries or 0 do
    last = last + 1
    whole = whole and tonumber(string.match(entries[i][1], '^%d+')) == last
  end
  if whole then
    table.remove(entries, 1)
    local wait = -1
    for _, index in ipairs({TIMED, SESSIONS}) do
      local nearest = call('ZRANGE', index, 0, 0, 'WITHSCORES')[2]
      if nearest and nearest ~= 'inf' then
        local left = math.max(0, tonumber(nearest) - now)
        if wait < 0 or left < wait then wait = left end
      end
    end
    result = {'OK', 'GO', entries, settled and wait or 0}
  end
end
if not result then
  local last = call('XREVRANGE', FEED, '+', '-', 'COUNT', 1)
  if not last[1] then
    -- A reader needs an entry to go on from.
    publish('nudge', '', '')
    last = call('XREVRANGE', FEED, '+', '-', 'COUNT', 1)
  end
  result = {'OK', 'RESET', last[1][1]}
end
table.insert(result, 1, seq)
return result

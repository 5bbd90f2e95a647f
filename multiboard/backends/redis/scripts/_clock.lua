-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- Stands before every script of the board except open.lua, behind a line with the keys (those that
-- the script lists by "-- keys:") and the check of the rights (rights.py). All share one hash tag.
--
-- ARGV[1]  16 characters that name the calling process, 9 digits that count the replies it lost,
--          the incarnation of the board that it opened, and the number of the last change that
--          this server has shown to it
-- Replies  {number of the last change, ...}, and behind that: 'LOST' where the store holds another
--          board or none, 'BACK' where it holds an earlier state of it, 'LATE' where the caller
--          gave this request up and has received later replies since, and nothing was changed;
--          otherwise as described in the script
--
-- Times are microseconds since the epoch by this server's clock, read once for the whole script.
-- A place (rank, serial) is kept as one score: rank * 2^46 + serial, exact in a double. Scores
-- cope with whatever foreign members a sorted set holds; ZRANGEBYLEX would not.

local call = redis.call
-- The number of the last change is read with the incarnation: a claim pays for each command.
local caller, losses = string.sub(ARGV[1], 1, 16), string.sub(ARGV[1], 17, 25)
local opened, known = string.match(string.sub(ARGV[1], 26), '^(.*) (%d+)$')
local meta = call('HMGET', META, 'incarnation', 'seq', caller)
if meta[1] ~= opened then return {0, 'LOST'} end
local seq = tonumber(meta[2]) or 0
-- A number that is missing was deleted by another program: that is damage, and proves nothing.
if meta[2] and seq < tonumber(known) then return {seq, 'BACK'} end
if meta[3] and string.sub(meta[3], 1, 9) > losses then return {seq, 'LATE'} end

local SERIALS = 70368744177664 -- 2^46: a place is rank * SERIALS + serial
local HISTORY = '50000' -- changes that a slow reader may be behind before it receives a reset

-- As text too: to print a number costs the server as much as to write it into a sorted set.
local clock = call('TIME')
local stamp = clock[1] .. string.sub('00000' .. clock[2], -6)
local now = tonumber(stamp)

-- Lua would print large numbers as 1.7e+15.
local function int(number) return string.format('%.0f', number) end

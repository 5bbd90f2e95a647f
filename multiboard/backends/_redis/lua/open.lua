-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- Find the board, or make it, and tell what server this is. Stands alone, and runs on every
-- server old enough to have scripts: which one it is is not known before.
--
-- keys: meta feed gone
-- ARGV     1 the incarnation that a new board gets, or '' where none is to be made,
--          2 the format that the caller writes
-- Replies  {'OK', incarnation, version, aof}: version '' and aof '' where INFO is refused
--          {'NONE', ''} where there is no board and none is to be made
--          {'FORMAT', format} where the board is of another format; nothing changed
--          {'OLD', version} where the server is older than 6.2; nothing changed
--          {'DENIED', command} where the user may not do what the other scripts do

local function info(section, field)
  local text = redis.pcall('INFO', section)
  if type(text) ~= 'string' then return '' end
  return string.match(text, field .. ':([^\r\n]*)') or ''
end

local version = redis.REDIS_VERSION or info('server', 'redis_version')
local major, minor = string.match(version, '^(%d+)%.(%d+)')
if major and tonumber(major) * 100 + tonumber(minor) < 602 then return {'OLD', version} end

-- A right that is missing must show here, not half-way through a step.
if redis.acl_check_cmd then
  local s, h, z = KEYS[2], KEYS[1], KEYS[3]
  for _, command in ipairs({
    {'TIME'}, {'HGET', h, 'f'}, {'HMGET', h, 'f'}, {'HSET', h, 'f', 'v'}, {'HSETNX', h, 'f', 'v'},
    {'HDEL', h, 'f'}, {'HLEN', h}, {'HSTRLEN', h, 'f'}, {'HKEYS', h}, {'HRANDFIELD', h},
    {'DEL', s}, {'ZCARD', z},
    {'ZADD', z, '1', 'm'}, {'ZREM', z, 'm'}, {'ZSCORE', z, 'm'}, {'ZMSCORE', z, 'm'},
    {'ZRANGE', z, '0', '1'}, {'ZRANGEBYSCORE', z, '0', '1'}, {'ZCOUNT', z, '0', '1'},
    {'XADD', s, '*', 'f', 'v'}, {'XRANGE', s, '-', '+'}, {'XREVRANGE', s, '+', '-'},
    {'XINFO', 'STREAM', s}, {'XLEN', s}, {'XREAD', 'STREAMS', s, '0'},
  }) do
    if not redis.acl_check_cmd(unpack(command)) then return {'DENIED', command[1]} end
  end
end

local found = redis.call('HMGET', KEYS[1], 'incarnation', 'format')
if found[1] and found[2] ~= ARGV[2] then return {'FORMAT', found[2] or ''} end
if not found[1] and ARGV[1] == '' then return {'NONE', ''} end
if not found[1] then
  redis.call('HSET', KEYS[1], 'incarnation', ARGV[1], 'format', ARGV[2])
end
return {'OK', found[1] or ARGV[1], version, info('persistence', 'aof_enabled')}

-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- Find the board, or make it, and reply which server this is. Only the check of the rights that all
-- scripts together need stands before it, and it names all keys, for the server to check. It runs
-- on every server that has scripts at all: the version is not known before.
--
-- keys: meta feed gone consumed sessions present timed index delayed claims
-- keys: live live:state live:body trash trash:state trash:body
-- keys: entities entities:state entities:body
-- ARGV     1 the incarnation that a new board gets, or '' where none is to be made,
--          2 the format that the caller writes
-- Replies  {number of the last change, ...}, and behind that:
--          'OK', incarnation, version, aof: version '' and aof '' where INFO is refused
--          'NONE', '' where there is no board and none is to be made
--          'FORMAT', format where the board is of another format; nothing changed
--          'OLD', version where the server is older than 6.2; nothing changed
--          'DENIED', command where the user may not do what the other scripts do

local function info(section, field)
  local text = redis.pcall('INFO', section)
  if type(text) ~= 'string' then return '' end
  return string.match(text, field .. ':([^\r\n]*)') or ''
end

local version = redis.REDIS_VERSION or info('server', 'redis_version')
local major, minor = string.match(version, '^(%d+)%.(%d+)')
if major and tonumber(major) * 100 + tonumber(minor) < 602 then return {0, 'OLD', version} end

local found = redis.call('HMGET', META, 'incarnation', 'format', 'seq')
if found[1] and found[2] ~= ARGV[2] then return {0, 'FORMAT', found[2] or ''} end
if not found[1] and ARGV[1] == '' then return {0, 'NONE', ''} end
-- Without acl_check_cmd these two rights are known only now.
if not found[1] or not may then
  local writes = {
    {'HSETNX', META, 'incarnation', found[1] or ARGV[1]}, {'HSET', META, 'format', ARGV[2]},
  }
  -- So that a backup of the board as it is now is recognized as one. A value that is there stays.
  if not found[1] then writes[3] = {'HSETNX', META, 'seq', '0'} end
  for _, write in ipairs(writes) do
    local reply = redis.pcall(unpack(write))
    if type(reply) == 'table' and reply.err then
      local denied = string.find(reply.err, ' run th[ie]s? ') -- as in rights.py
      if not found[1] then redis.call('HDEL', META, 'incarnation') end
      if denied then return {0, 'DENIED', write[1]} end
      if not found[1] then return reply end
    end
  end
end
return {tonumber(found[3]) or 0, 'OK', found[1] or ARGV[1], version,
  info('persistence', 'aof_enabled')}

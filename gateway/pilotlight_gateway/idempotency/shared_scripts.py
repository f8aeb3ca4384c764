"""The records of named requests in Redis, as scripts by its clock. Keys of one tenant share a hash tag:

    pilotlight:once:{tenant}            a sorted set: the ids of its records, by when they were last written
    pilotlight:once:{tenant}:bytes      a hash: bytes by id, and of all of them ('')
    pilotlight:once:{tenant}:<id>       a hash: fingerprint, owner, until (the owner's lease), followed (until somebody
                                        elsewhere reads), head ('' until the answer has begun), finished
    pilotlight:once:{tenant}:<id>:e     a list: its events, or the one body
    pilotlight:once:{tenant}:<id>:r     what it takes to go on with a running stream behind those events: lines of
                                        `answer_record`; the hash has how many bytes passed (`passed`), how it began
                                        (`began`), and how many events there were each time that it was taken over
                                        (`cuts`)

Every script may be sent twice: APPEND says where what it brings begins.
"""

from __future__ import annotations

from pilotlight_gateway.redis_calls import Script

_COMMON = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local index, id = KEYS[1], ARGV[1]
local record, events, told = index .. ':' .. id, index .. ':' .. id .. ':e', index .. ':' .. id .. ':r'
local function forget(old)
  local size = tonumber(redis.call('HGET', index .. ':bytes', old) or '0')
  redis.call('DEL', index .. ':' .. old, index .. ':' .. old .. ':e', index .. ':' .. old .. ':r')
  redis.call('HDEL', index .. ':bytes', old)
  if size ~= 0 then redis.call('HINCRBY', index .. ':bytes', '', -size) end
  redis.call('ZREM', index, old)
end
local function written(kept_s)
  redis.call('ZADD', index, now, id)
  for _, key in ipairs({index, index .. ':bytes', record, events, told}) do redis.call('EXPIRE', key, kept_s) end
end
"""

# Whether somebody has seen more of an answer than was kept when it was cut.
_CUTS = """
local function is_beyond(cuts, number, seen)
  local at = 0
  for cut in string.gmatch(cuts, '%d+') do
    if at >= tonumber(seen) then return tonumber(number) > tonumber(cut) end
    at = at + 1
  end
  return false
end
"""

# ARGV: id, fingerprint, owner, lease_s, kept_s, most records of the tenant, 1 to find one and make none.
# Answers mine, other, gone, or elsewhere: there is something to read.
CLAIM = Script(
    _COMMON
    + """
local fingerprint, owner, lease_s, kept_s = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local known = redis.call('HMGET', record, 'fingerprint', 'owner', 'until', 'head')
if known[1] then
  if known[1] ~= fingerprint then return 'other' end
  if known[4] ~= '' then return 'elsewhere' end
  if tonumber(known[3]) > now and known[2] ~= owner then return 'elsewhere' end
end
if ARGV[7] == '1' then return 'gone' end
for _, old in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', now - kept_s)) do forget(old) end
while redis.call('ZCARD', index) >= tonumber(ARGV[6]) do forget(redis.call('ZRANGE', index, 0, 0)[1]) end
redis.call('HSET', record, 'fingerprint', fingerprint, 'owner', owner, 'until', now + lease_s, 'head', '')
written(kept_s)
return 'mine'
"""
)

# ARGV: id, owner, lease_s, kept_s, most bytes of the tenant, head ('' as it was), finished (1 or 0), began ('' as it
# was), passed, where what is told begins (-1: nobody can go on with it, -2: it is as it was), told, events before, then
# events.
# Answers 1; 0 where the record is not there any more; -1 where it is another's.
APPEND = Script(
    _COMMON
    + """
local owner, lease_s, kept_s, most = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local known = redis.call('HGET', record, 'owner')
if not known then return 0 end
if known ~= owner then return -1 end
local size, before, at = 0, redis.call('LLEN', events), tonumber(ARGV[10])
for i = 13 + before - tonumber(ARGV[12]), #ARGV do
  size = size + #ARGV[i]
  redis.call('RPUSH', events, ARGV[i])
end
redis.call('HSET', record, 'until', now + lease_s)
if ARGV[6] ~= '' then redis.call('HSET', record, 'head', ARGV[6]) end
size = size - redis.call('STRLEN', told)
if ARGV[7] == '1' then redis.call('HSET', record, 'finished', '1') end
if ARGV[7] == '1' or at == -1 then
  redis.call('DEL', told)
  redis.call('HDEL', record, 'passed')
elseif at >= 0 then
  if at == 0 then redis.call('DEL', told) end
  redis.call('SETRANGE', told, at, ARGV[11])
  redis.call('HSET', record, 'passed', ARGV[9])
  if ARGV[8] ~= '' then redis.call('HSET', record, 'began', ARGV[8]) end
end
size = size + redis.call('STRLEN', told)
redis.call('HINCRBY', index .. ':bytes', id, size)
local all = redis.call('HINCRBY', index .. ':bytes', '', size)
written(kept_s)
while all > most do
  local oldest = redis.call('ZRANGE', index, 0, 0)[1]
  forget(oldest)
  if oldest == id then return 0 end
  all = tonumber(redis.call('HGET', index .. ':bytes', '') or '0')
end
return 1
"""
)

# ARGV: id, owner, lease_s, kept_s, fingerprint, last event's number and cuts, how often it may be taken over, 1 to take
# only what its owner left. Whose owner is gone is this one's from now on. Answers {what}: running (it is somebody's),
# gone, lost (nobody can go on), beyond (somebody saw more of it than there is); or {'taken', head, began, passed, told,
# events, cuts}.
TAKE = Script(
    _COMMON
    + _CUTS
    + """
local lease_s, kept_s = tonumber(ARGV[3]), tonumber(ARGV[4])
local known = redis.call('HMGET', record, 'fingerprint', 'owner', 'until', 'head', 'finished', 'began', 'passed')
local cuts, times, there = redis.call('HGET', record, 'cuts') or '', 0, redis.call('LLEN', events)
if not known[1] or known[1] ~= ARGV[5] then return {'gone'} end
if known[2] ~= ARGV[2] then
  if known[5] or tonumber(known[3]) > (ARGV[9] == '1' and 0 or now) then return {'running'} end
  if known[4] == '' or not known[6] or not known[7] then return {'lost'} end
  if tonumber(ARGV[6]) > there or is_beyond(cuts, ARGV[6], ARGV[7]) then return {'beyond'} end
  for _ in string.gmatch(cuts, '%d+') do times = times + 1 end
  if times >= tonumber(ARGV[8]) then return {'lost'} end
  cuts = cuts .. ' ' .. there
  redis.call('HSET', record, 'cuts', cuts)
end
redis.call('HSET', record, 'owner', ARGV[2], 'until', now + lease_s)
written(kept_s)
return {'taken', known[4], known[6], known[7], redis.call('GET', told) or '', there, cuts}
"""
)

# ARGV: id, owner. Its owner ends: whoever comes may go on with it at once.
LEAVE = Script(
    _COMMON
    + """
if redis.call('HGET', record, 'owner') == ARGV[2] then redis.call('HSET', record, 'until', 0) end
return 1
"""
)

# ARGV: id, owner. The answer failed, or nobody wants it any more.
FORGET = Script(
    _COMMON
    + """
if redis.call('HGET', record, 'owner') == ARGV[2] then forget(id) end
return 1
"""
)

# ARGV: id, last event's number and cuts, most events, how long this reading counts, fingerprint.
# Answers {what, head, events...}: what is finished where these are the last ones, running, broken, beyond, gone.
READ = Script(
    _COMMON
    + _CUTS
    + """
local known = redis.call('HMGET', record, 'until', 'head', 'finished', 'fingerprint', 'cuts')
if not known[1] or known[4] ~= ARGV[6] then return {'gone', ''} end
redis.call('HSET', record, 'followed', now + tonumber(ARGV[5]))
local first, most = tonumber(ARGV[2]), tonumber(ARGV[4])
if is_beyond(known[5] or '', ARGV[2], ARGV[3]) then return {'beyond', known[2]} end
local found = redis.call('LRANGE', events, first, first + most - 1)
local what = 'running'
if known[3] then
  if first + #found >= redis.call('LLEN', events) then what = 'finished' end
elseif tonumber(known[1]) <= now and #found == 0 then
  what = 'broken'
end
return {what, known[2], unpack(found)}
"""
)

# ARGV: id. Answers 1 where somebody elsewhere reads it.
FOLLOWED = Script(
    _COMMON
    + """
return tonumber(redis.call('HGET', record, 'followed') or '0') > now and 1 or 0
"""
)

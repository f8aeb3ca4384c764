"""What `tenant_account` does, as scripts that run inside Redis by its clock: all replicas see one account.

Keys of one tenant share a hash tag, so that a cluster keeps them together; a tenant's name is quoted in it:

    pilotlight:limits:{tenant}            a hash: q<second> requests, t<second> tokens, d<day> and m<month> tokens
    pilotlight:limits:{tenant}:running    reservations that hold a place, by when the place expires
    pilotlight:limits:{tenant}:r:<id>     one reservation: "<second>:<tokens>" while it is open, then for a while
                                          "settled", so that what arrives twice or too late changes nothing

Every script may be sent again. Who holds a reservation tells its second and tokens each time, so that a Redis that lost
it (a restart without a log) learns it again.
"""

from __future__ import annotations

from pilotlight_gateway.redis_calls import Script

_ACCOUNT_KEPT_S = 62 * 86_400
"""A month's budget and the month after it."""

_COMMON = f"""
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local today = math.floor(now / 86400)
local function month_of(day)
  -- Days to a civil date (Howard Hinnant, chrono-compatible low-level date algorithms).
  local z = day + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return (year - 1970) * 12 + month - 1
end
local function take(account, second, requests, tokens)
  local day = math.floor(second / 86400)
  if second >= math.floor(now) - 60 then
    if requests ~= 0 then redis.call('HINCRBY', account, 'q' .. second, requests) end
    if tokens ~= 0 then redis.call('HINCRBY', account, 't' .. second, tokens) end
  end
  if tokens ~= 0 then
    redis.call('HINCRBY', account, 'd' .. day, tokens)
    redis.call('HINCRBY', account, 'm' .. month_of(day), tokens)
  end
  redis.call('EXPIRE', account, {_ACCOUNT_KEPT_S})
end
"""

# KEYS: account, running, reservation. ARGV: id, tokens, place_s, keep_s, then the limits in the order of LimitTerms, -1
# for none. Answers {why, retry_ms, requests, tokens, requests_reset_ms, tokens_reset_ms, second}; why is '' where it is
# granted.
RESERVE = Script(
    _COMMON
    + """
local id, asked, place_s, keep_s = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local per_minute = {q = tonumber(ARGV[5]), t = tonumber(ARGV[6])}
local places, per_day, per_month = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local second, month = math.floor(now), month_of(today)
local used, buckets = {q = 0, t = 0}, {q = {}, t = {}}
local budget, stale = {d = 0, m = 0}, {}
local entries = redis.call('HGETALL', KEYS[1])
for i = 1, #entries, 2 do
  local field, amount = entries[i], tonumber(entries[i + 1])
  local kind, number = string.sub(field, 1, 1), tonumber(string.sub(field, 2))
  if kind == 'd' then
    if number == today then budget.d = amount elseif number < today - 1 then stale[#stale + 1] = field end
  elseif kind == 'm' then
    if number == month then budget.m = amount elseif number < month - 1 then stale[#stale + 1] = field end
  elseif number < second - 60 then
    stale[#stale + 1] = field
  else
    used[kind] = used[kind] + amount
    local list = buckets[kind]
    list[#list + 1] = {number, amount}
  end
end
if #stale > 0 then redis.call('HDEL', KEYS[1], unpack(stale)) end
for _, list in pairs(buckets) do table.sort(list, function(a, b) return a[1] < b[1] end) end
local function fits_in(kind, amount)
  local over = used[kind] + amount - per_minute[kind]
  if per_minute[kind] < 0 or over <= 0 then return 0 end
  for _, bucket in ipairs(buckets[kind]) do
    over = over - bucket[2]
    if over <= 0 then return bucket[1] + 61 - now end
  end
  return 60
end
local function empty_in(kind)
  local list = buckets[kind]
  for i = #list, 1, -1 do
    if list[i][2] > 0 then return list[i][1] + 61 - now end
  end
  return 0
end
local function answer(why, retry)
  local reset_q, reset_t = math.ceil(empty_in('q') * 1000), math.ceil(empty_in('t') * 1000)
  return {why, math.ceil(retry * 1000), used.q, used.t, reset_q, reset_t, second}
end
local kept = redis.call('GET', KEYS[3])
if kept then
  second = tonumber(string.match(kept, '^(%d+):')) or second
  return answer('', 0)
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
if places >= 0 and redis.call('ZCARD', KEYS[2]) >= places then return answer('concurrency', 1) end
local wait = fits_in('q', 1)
if wait > 0 then return answer('requests_per_minute', wait) end
wait = fits_in('t', asked)
if wait > 0 then return answer('tokens_per_minute', wait) end
if per_day >= 0 and budget.d + asked > per_day then return answer('tokens_per_day', (today + 1) * 86400 - now) end
if per_month >= 0 and budget.m + asked > per_month then
  local following = today + 1
  while month_of(following) == month do following = following + 1 end
  return answer('tokens_per_month', following * 86400 - now)
end
take(KEYS[1], second, 1, asked)
redis.call('ZADD', KEYS[2], now + place_s, id)
redis.call('EXPIRE', KEYS[2], keep_s)
redis.call('SET', KEYS[3], second .. ':' .. asked, 'EX', keep_s)
for kind, amount in pairs({q = 1, t = asked}) do
  used[kind] = used[kind] + amount
  if amount > 0 then
    local list = buckets[kind]
    list[#list + 1] = {second, amount}
  end
end
return answer('', 0)
"""
)

# KEYS: account, running, reservation. ARGV: id, tokens, or -1 to give all of it back, remember_s, second as the holder
# knows it. Answers 1 the first time, else 0.
SETTLE = Script(
    _COMMON
    + """
local kept, tokens = redis.call('GET', KEYS[3]), tonumber(ARGV[2])
if kept == 'settled' then return 0 end
redis.call('SET', KEYS[3], 'settled', 'EX', tonumber(ARGV[3]))
redis.call('ZREM', KEYS[2], ARGV[1])
if not kept then
  if tokens >= 0 then take(KEYS[1], tonumber(ARGV[4]), 1, tokens) end
  return 1
end
local second, reserved = string.match(kept, '^(%d+):(%d+)$')
if tokens < 0 then
  take(KEYS[1], tonumber(second), -1, -tonumber(reserved))
else
  take(KEYS[1], tonumber(second), 0, tokens - tonumber(reserved))
end
return 1
"""
)

# KEYS: account, running, then reservations. ARGV: place_s, keep_s, then id, second and tokens of each.
RENEW = Script(
    _COMMON
    + """
local place_s, keep_s = tonumber(ARGV[1]), tonumber(ARGV[2])
for i = 3, #KEYS do
  local id, second, tokens = ARGV[3 * i - 6], tonumber(ARGV[3 * i - 5]), tonumber(ARGV[3 * i - 4])
  local kept = redis.call('GET', KEYS[i])
  if kept ~= 'settled' then
    if kept then
      redis.call('EXPIRE', KEYS[i], keep_s)
    else
      redis.call('SET', KEYS[i], second .. ':' .. tokens, 'EX', keep_s)
      take(KEYS[1], second, 1, tokens)
    end
    redis.call('ZADD', KEYS[2], now + place_s, id)
  end
end
redis.call('EXPIRE', KEYS[2], keep_s)
return 1
"""
)

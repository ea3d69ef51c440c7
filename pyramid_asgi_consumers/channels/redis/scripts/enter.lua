-- Enters members, or shows that they are still there.
--
-- KEYS[1]  the channel's members, by the second at which they expire
-- ARGV[1]  for how many seconds they are kept
-- ARGV[2]  and all behind it: the members
--
-- Whose time is up goes, which are those of processes that were killed.

local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[i]) end
redis.call('EXPIRE', KEYS[1], ARGV[1])

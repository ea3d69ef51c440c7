-- Takes a member out.
--
-- KEYS[1]  the channel's members
-- ARGV[1]  the member

redis.call('ZREM', KEYS[1], ARGV[1])

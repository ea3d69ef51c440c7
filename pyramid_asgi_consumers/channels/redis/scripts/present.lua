-- Answers the members whose time is not up.
--
-- KEYS[1]  the channel's members

return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. redis.call('TIME')[1], '+inf')

-- Answers the server's role, master or slave, and which of its lives this is.
--
-- KEYS[1]  any key: all scripts have one

local life = string.sub(string.match(redis.call('INFO', 'server'), 'run_id:(%w+)'), 1, 8)
return {string.match(redis.call('INFO', 'replication'), 'role:(%w+)'), life}

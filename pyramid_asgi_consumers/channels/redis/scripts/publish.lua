-- Counts, stores and publishes one event; answers its id, "<epoch>-<number>".
--
-- KEYS[1]  the channel's stream
-- ARGV[1]  the Redis channel
-- ARGV[2]  the event, encoded
-- ARGV[3]  how many events are kept: without a history one entry, which is empty
-- ARGV[4]  for how many seconds they are kept after the last one
--
-- A server that was restarted may have lost events whose numbers it would give out again, so each
-- of its lives has an epoch of its own, later than all before. An entry names the id before it
-- ("before"): by that a subscriber sees that nothing is missing between them.
--
-- No entry up to this one is longer than its "longest", by which read.lua knows how many it may
-- read at once. Behind an entry that is not ours nobody knows how long they are.
--
-- After XADD an error no longer says that nothing was done: it is marked STORED.

local life = string.sub(string.match(redis.call('INFO', 'server'), 'run_id:(%w+)'), 1, 8)
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local before, epoch, number, longest = '0-0', nil, 0, 0
if newest then
    before = newest[1]
    longest = newest[2][5] == 'longest' and tonumber(newest[2][6]) or 2 ^ 31
    epoch, number = string.match(before, '(%d+)-(%d+)')
end
if not newest or newest[2][2] ~= life then
    local now = redis.call('TIME')
    local fresh = now[1] .. string.format('%06d', now[2])
    if epoch and tonumber(fresh) <= tonumber(epoch) then
        fresh = string.format('%.0f', tonumber(epoch) + 1)
    end
    epoch, number = fresh, 0
end
local id = epoch .. '-' .. string.format('%.0f', tonumber(number) + 1)
local history = tonumber(ARGV[3])
local data = history > 0 and ARGV[2] or ''
redis.call('XADD', KEYS[1], 'MAXLEN', math.max(history, 1), id, 'life', life, 'before', before,
    'longest', string.format('%.0f', math.max(longest, #data)), 'data', data)
local kept = redis.pcall('EXPIRE', KEYS[1], ARGV[4])
local sent = redis.pcall('PUBLISH', ARGV[1], id .. ' ' .. ARGV[2])
local failed = type(kept) == 'table' and kept or type(sent) == 'table' and sent
if failed then return redis.error_reply('STORED ' .. failed['err']) end
return id

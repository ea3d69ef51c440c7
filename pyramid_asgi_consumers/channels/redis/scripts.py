"""The Lua scripts that Redis runs: what is done in one step, and what it answers."""

import hashlib
from collections.abc import Iterable
from typing import Any

# Count, store and publish one event. A server that was restarted may have lost events whose numbers
# it would give out again, so each of its lives has an epoch of its own; the entry names the one
# before, by which a subscriber sees that nothing was lost. Without a history the entry is empty.
# ``longest`` is a length that no entry up to this one exceeds, by which READ knows how many it may
# read at once; behind a foreign entry nobody knows. Once the event is stored, an error no longer
# says that nothing was done, and is marked.
PUBLISH = """
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
"""
# One page of what is stored: which life of the server answers, the newest id, and from ARGV[1] on
# (none if that is empty) up to ARGV[2] entries and ARGV[3] bytes, but for one entry: an index of
# ids, of those before them and of lengths, and all payloads in one. A foreign entry has no id
# before it. What is read at once has room whatever the entries' lengths are.
READ = """
local life = string.sub(string.match(redis.call('INFO', 'server'), 'run_id:(%w+)'), 1, 8)
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local start, count, room = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local longest = newest and newest[2][5] == 'longest' and tonumber(newest[2][6]) or 2 ^ 31
local index, payloads = {}, {}
while newest and start ~= '' and count > 0 and room > 0 do
    local step = math.min(64, count, math.max(1, math.floor(room / math.max(1, longest))))
    local entries = redis.call('XRANGE', KEYS[1], start, '+', 'COUNT', step)
    for _, entry in ipairs(entries) do
        local fields, before, payload = entry[2], '?', ''
        if fields[3] == 'before' and fields[7] == 'data' then
            before, payload = string.match(fields[4], '^%d+%-%d+$') or '?', fields[8]
        end
        index[#index + 1] = entry[1] .. ' ' .. before .. ' ' .. #payload
        payloads[#payloads + 1] = payload
        room = room - #payload
    end
    if #entries < step then break end
    count = count - #entries
    local epoch, number = string.match(entries[#entries][1], '(%d+)-(%d+)')
    start = epoch .. '-' .. string.format('%.0f', tonumber(number) + 1)
end
return {life, newest and newest[1] or '', table.concat(index, ' '), table.concat(payloads)}
"""
# Whether the server is a master, and which of its lives this is.
ROLE = """
local life = string.sub(string.match(redis.call('INFO', 'server'), 'run_id:(%w+)'), 1, 8)
return {string.match(redis.call('INFO', 'replication'), 'role:(%w+)'), life}
"""
# Members by the time at which they expire; ARGV[1] is for how long they are kept.
ENTER = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[i]) end
redis.call('EXPIRE', KEYS[1], ARGV[1])
"""
LEAVE = "redis.call('ZREM', KEYS[1], ARGV[1])"
PRESENT = """
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. redis.call('TIME')[1], '+inf')
"""


def evaluations(calls: Iterable[tuple[str, tuple[Any, ...]]]) -> list[tuple[Any, ...]]:
    # The first time in a batch a script is sent whole, so that Redis has it without a second
    # round trip.
    known: dict[str, str] = {}
    commands: list[tuple[Any, ...]] = []
    for script, (key, *arguments) in calls:
        if script in known:
            commands.append(("EVALSHA", known[script], 1, key, *arguments))
        else:
            known[script] = hashlib.sha1(script.encode()).hexdigest()
            commands.append(("EVAL", script, 1, key, *arguments))
    return commands

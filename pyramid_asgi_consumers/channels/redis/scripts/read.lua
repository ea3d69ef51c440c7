-- Answers one page of what is stored: {life, newest, index, payloads, beginning}.
--
-- KEYS[1]  the channel's stream
-- ARGV[1]  the id of the first entry of the page; empty for none, where the newest id is enough
-- ARGV[2]  how many entries a page has at most
-- ARGV[3]  how many bytes a page has at most, but for one entry that is longer
--
-- life      which of the server's lives answers
-- newest    the id of the newest entry, empty where there is none
-- index     three words for each entry: its id, the id before it, and the length of its payload
-- payloads  all payloads in one
-- beginning when nothing was stored, in microseconds, and in which of the server's lives that was:
--           now, or just before the first event of the channel where that is in the page; else empty
--
-- An entry that is not ours has "?" for the id before it, and no payload. Redis does nothing else
-- meanwhile, so what is read at once has room in the page whatever the entries' lengths are.

local life = string.sub(string.match(redis.call('INFO', 'server'), 'run_id:(%w+)'), 1, 8)
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local start, count, room = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local longest = newest and newest[2][5] == 'longest' and tonumber(newest[2][6]) or 2 ^ 31
local index, payloads, beginning = {}, {}, ''
if not newest then
    local now = redis.call('TIME')
    beginning = now[1] .. string.format('%06d', now[2]) .. ' ' .. life
end
while newest and start ~= '' and count > 0 and room > 0 do
    local step = math.min(64, count, math.max(1, math.floor(room / math.max(1, longest))))
    local entries = redis.call('XRANGE', KEYS[1], start, '+', 'COUNT', step)
    for _, entry in ipairs(entries) do
        local fields, before, payload = entry[2], '?', ''
        if fields[3] == 'before' and fields[7] == 'data' then
            before, payload = string.match(fields[4], '^%d+%-%d+$') or '?', fields[8]
        end
        if before == '0-0' then
            beginning = string.match(entry[1], '%d+') .. ' ' .. fields[2]
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
return {life, newest and newest[1] or '', table.concat(index, ' '), table.concat(payloads),
    beginning}

-- What a call is: KEYS[1] is the prefix of all keys, ARGV the verb, what is asked, the part of the events' bodies that
-- is the same for all of them, and the span that causes them. Time is the server's, so that workers whose clocks differ agree on rest.
local root, verb, ask, envelope, cause = KEYS[1], ARGV[1], cjson.decode(ARGV[2]), ARGV[3], ARGV[4] or ''
local call = redis.call
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local verbs = {}

local function get(hash, field)
  local found = call('HGET', root .. hash, field)
  return found and cjson.decode(found) or nil
end

local function starts(text, head)
  return text:sub(1, #head) == head
end

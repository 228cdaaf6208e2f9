-- Events: each goes to the outbox with the change that it tells of.
local emitted = 0

local function emit(what, pool_id, object)
  emitted = emitted + 1
  local id = redis.sha1hex(ask.seed .. ':' .. emitted):sub(1, 32)
  local subject = 'cnm.v1.event.' .. what .. '.' .. pool_id:gsub('[^%w_-]', '_')
  local body = '{"id":"' .. id .. '",' .. envelope .. ',"object":' .. object .. '}'
  call('XADD', root .. 'outbox', '*', 'id', id, 'subject', subject, 'body', body, 'traceparent', cause)
end

-- `more` is JSON that follows what `get` shows.
local function emit_pool(what, set, pool, more)
  local used = in_use(set, pool)
  local counts = ',"in_use":' .. used .. ',"available":' .. count_text(minus(pool.usable, used))
  emit('pool.' .. what, pool.id, pool.shown .. counts .. (more or '') .. '}')
end

local function emit_address(what, set, hex, pool_id, owner)
  local shown = owner:sub(1, 2)
  emit('address.' .. what, pool_id, '{"pool_id":' .. cjson.encode(pool_id)
    .. ',"address":"' .. address_text(hex) .. '/' .. set.length .. '","owner":'
    .. ((shown == 'o:' or shown == 'c:') and cjson.encode(owner:sub(3)) or 'null') .. '}')
end

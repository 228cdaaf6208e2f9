"""The Lua script that every change of pools and addresses is: one call, atomic, with its events.

``KEYS[1]`` is the prefix of all keys, which carries their hash tag; ``ARGV`` are the verb, what is asked as JSON,
and the part of the events' bodies that is the same for all of them. The reply is JSON. The keys and what stands in
them are told in the README. Time is the server's, so that workers whose clocks differ agree on rest.

Rules for editors: Lua numbers are exact to 2^53 only, so IPv6 addresses stay hexadecimal text and a bitmap covers
the low 16 bits; cjson writes an empty table as an object; whatever can fail comes before the first write, or is
undone by ``undo``, since Redis does not roll a script back.
"""

SCRIPT = r"""
local root, verb, ask, envelope = KEYS[1], ARGV[1], cjson.decode(ARGV[2]), ARGV[3]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local sweep_limit, former_limit = 4096, 65536

local function get(hash, field)
  local found = redis.call('HGET', root .. hash, field)
  return found and cjson.decode(found) or nil
end

-- The addresses of a whole pool, shared by its sub-pools.
local function address_set(pool_id)
  local space, network, length = pool_id:match('^([^/]+)/([^/]+)/(%d+)')
  local id = space .. '/' .. network .. '/' .. length
  local host_bits = (network:find(':', 1, true) and 128 or 32) - length
  local set = {id = id, space = space, length = length, many = host_bits > 16, span = 2 ^ math.min(host_bits, 16)}
  for _, part in ipairs({'bits', 'chunks', 'holders', 'owners', 'rest', 'former', 'last', 'serial', 'users'}) do
    set[part] = root .. part .. ':' .. id
  end
  return set
end

-- A bitmap holds 2^16 addresses (fewer in a small pool); its number is what stands before an address's last 16 bits.
local function bitmap(set, chunk)
  return set.many and set.bits .. ':' .. chunk or set.bits
end

local function place(set, hex)
  return hex:sub(1, -5), tonumber(hex:sub(-4), 16) % set.span
end

local function set_bit(set, hex, value)
  local chunk, bit = place(set, hex)
  if set.many and value == 1 then redis.call('ZADD', set.chunks, 0, chunk) end
  return redis.call('SETBIT', bitmap(set, chunk), bit, value)
end

local function free_in(key, first, last)
  local length = redis.call('STRLEN', key) * 8
  if length <= first then return first end
  local found = redis.call('BITPOS', key, 0, first, last, 'BIT')
  if found >= 0 then return found end
  return length <= last and length or nil
end

-- Every bitmap that is passed over is full, so that this takes a step for each 65,536 addresses that are held.
-- A range is aligned: within one walk only the low 48 bits of a bitmap's number change.
local function lowest_free(set, first, last)
  if first > last then return nil end
  local head, tail = first:sub(1, -5), last:sub(1, -5)
  local low = tonumber(first:sub(-4), 16)
  local base, high, digits = low - low % set.span, head:sub(1, -13), math.min(#head, 12)
  local from = tonumber(head:sub(-12), 16)
  local to = tail:sub(1, -13) == high and tonumber(tail:sub(-12), 16) or 2 ^ 48 - 1
  for number = from, to do
    local chunk = high .. string.format('%0' .. digits .. 'x', number)
    local lowest = number == from and low % set.span or 0
    local highest = chunk == tail and tonumber(last:sub(-4), 16) % set.span or set.span - 1
    local bit = free_in(bitmap(set, chunk), lowest, highest)
    if bit then return chunk .. string.format('%04x', base + bit) end
  end
end

local function following(hex)
  local low = tonumber(hex:sub(-4), 16)
  if low < 65535 then return hex:sub(1, -5) .. string.format('%04x', low + 1) end
  local digits = math.min(#hex - 4, 12)
  local number = string.format('%0' .. digits .. 'x', tonumber(hex:sub(1, -5):sub(-12), 16) + 1)
  return #number == digits and hex:sub(1, -5):sub(1, -13) .. number .. '0000' or nil
end

-- Text of addresses, as RFC 5952 wants it.
local function address_text(hex)
  local words = {}
  if #hex == 8 then
    for i = 1, 8, 2 do words[#words + 1] = tonumber(hex:sub(i, i + 1), 16) end
    return table.concat(words, '.')
  end
  for i = 1, 32, 4 do words[#words + 1] = string.format('%x', tonumber(hex:sub(i, i + 3), 16)) end
  local start, length, run = 0, 1, 0
  for i = 1, 8 do
    run = words[i] == '0' and run + 1 or 0
    if run > length then start, length = i - run + 1, run end
  end
  if start == 0 then return table.concat(words, ':') end
  return table.concat(words, ':', 1, start - 1) .. '::' .. table.concat(words, ':', start + length)
end

-- Counts are decimal text, since a Lua number is not exact above 2^53.
local function minus(text, n)
  if #text < 16 then return string.format('%.0f', text - n) end
  local digits, borrow = {}, 0
  for i = #text, 1, -1 do
    local digit = text:byte(i) - 48 - n % 10 - borrow
    n, borrow = math.floor(n / 10), digit < 0 and 1 or 0
    digits[i] = string.format('%d', digit + borrow * 10)
  end
  return (table.concat(digits):gsub('^0+', ''))
end

local function count_text(text)
  local small = #text < 16 or (#text == 16 and text <= '9007199254740992')
  return small and text or '"' .. text .. '"'
end

-- Addresses: chosen first (their bit set, so that the next choice sees it), then held or undone.
local chosen = {}

local function choose(set, hex)
  chosen[#chosen + 1] = {set = set, hex = hex, fresh = set_bit(set, hex, 1) == 0}
  chosen[set.id .. ' ' .. hex] = true
  return hex
end

local function sweep(set)
  local over = redis.call('ZRANGEBYSCORE', set.rest, '-inf', now - ask.rest_ms, 'LIMIT', 0, sweep_limit)
  for _, hex in ipairs(over) do
    if not chosen[set.id .. ' ' .. hex] then
      set_bit(set, hex, 0)
      redis.call('ZREM', set.rest, hex)
    end
  end
end

local function in_use(set, pool)
  if pool.whole then return redis.call('HLEN', set.holders) end
  if pool.first > pool.last then return 0 end
  sweep(set)
  local head, tail = pool.first:sub(1, -5), pool.last:sub(1, -5)
  local chunks = set.many and redis.call('ZRANGEBYLEX', set.chunks, '[' .. head, '[' .. tail) or {head}
  local count = 0
  for _, chunk in ipairs(chunks) do
    local lowest = chunk == head and tonumber(pool.first:sub(-4), 16) % set.span or 0
    local highest = chunk == tail and tonumber(pool.last:sub(-4), 16) % set.span or set.span - 1
    count = count + redis.call('BITCOUNT', bitmap(set, chunk), lowest, highest, 'BIT')
  end
  for _, hex in ipairs(redis.call('ZRANGE', set.rest, 0, -1)) do
    if hex >= pool.first and hex <= pool.last then count = count - 1 end
  end
  return count
end

-- Events
local emitted = 0

local function emit(what, pool_id, object)
  emitted = emitted + 1
  local id = redis.sha1hex(ask.seed .. ':' .. emitted):sub(1, 32)
  local subject = 'cnm.v1.event.' .. what .. '.' .. pool_id:gsub('[^%w_-]', '_')
  local body = '{"id":"' .. id .. '",' .. envelope .. ',"object":' .. object .. '}'
  redis.call('XADD', root .. 'outbox', '*', 'id', id, 'subject', subject, 'body', body)
end

local function emit_pool(what, set, pool)
  local used = in_use(set, pool)
  local counts = ',"in_use":' .. used .. ',"available":' .. count_text(minus(pool.usable, used)) .. '}'
  emit('pool.' .. what, pool.id, pool.shown .. counts)
end

local function emit_address(what, set, hex, pool_id, owner)
  local shown = owner:sub(1, 2)
  emit('address.' .. what, pool_id, '{"pool_id":' .. cjson.encode(pool_id)
    .. ',"address":"' .. address_text(hex) .. '/' .. set.length .. '","owner":'
    .. ((shown == 'o:' or shown == 'c:') and cjson.encode(owner:sub(3)) or 'null') .. '}')
end

local function longest_resting(set, pool, is_free)
  local from, batch = 0, 128
  repeat
    local resting = redis.call('ZRANGE', set.rest, from, from + batch - 1)
    for _, hex in ipairs(resting) do
      if hex >= pool.first and hex <= pool.last and is_free(hex) then return hex end
    end
    from = from + batch
  until #resting < batch
end

local function pick(set, pool, wanted, owner, serial)
  local function is_free(hex)
    return not chosen[set.id .. ' ' .. hex] and redis.call('HEXISTS', set.holders, hex) == 0
  end
  if wanted then
    local holder = redis.call('HGET', set.holders, wanted)
    if not holder and chosen[set.id .. ' ' .. wanted] then holder = cjson.encode({owner, pool.id, ask.label}) end
    if holder then return nil, {error = 'taken', address = wanted, holder = cjson.decode(holder)} end
    return choose(set, wanted)
  end
  local mine = redis.call('HGET', set.last, owner)
  if mine and mine >= pool.first and mine <= pool.last and is_free(mine) then return choose(set, mine) end
  sweep(set)
  local found
  if serial then
    local before = redis.call('HGET', set.serial, pool.id)
    local start = before and following(before)
    found = start and lowest_free(set, start, pool.last)
  end
  found = found or lowest_free(set, pool.first, pool.last)
  found = found or longest_resting(set, pool, is_free)
  if not found then return nil, {error = 'full', pool_id = pool.id} end
  choose(set, found)
  chosen[#chosen].in_turn_of = serial and pool.id
  return found
end

local function settle_turns()
  for _, choice in ipairs(chosen) do
    if choice.in_turn_of then redis.call('HSET', choice.set.serial, choice.in_turn_of, choice.hex) end
  end
end

local function hold(set, hex, pool_id, owner, label)
  redis.call('HSET', set.holders, hex, cjson.encode({owner, pool_id, label}))
  redis.call('ZREM', set.rest, hex)
  local former = redis.call('HGET', set.former, hex)
  if former then
    redis.call('HDEL', set.former, hex)
    redis.call('HDEL', set.last, former)
  end
end

local function owned_field(pool_id, owner)
  return pool_id .. ' ' .. owner
end

local function give_back(set, hex, holder)
  local owner, pool_id = holder[1], holder[2]
  redis.call('HDEL', set.holders, hex)
  if ask.rest_ms > 0 then redis.call('ZADD', set.rest, now, hex) else set_bit(set, hex, 0) end
  local field, others = owned_field(pool_id, owner), {}
  for other in (redis.call('HGET', set.owners, field) or ''):gmatch('%S+') do
    if other ~= hex then others[#others + 1] = other end
  end
  if #others > 0 then redis.call('HSET', set.owners, field, table.concat(others, ' '))
  else redis.call('HDEL', set.owners, field) end
  if owner:sub(1, 2) == 'r:' then return end
  local last = redis.call('HGET', set.last, owner)
  if last then redis.call('HDEL', set.former, last) end
  redis.call('HSET', set.last, owner, hex)
  redis.call('HSET', set.former, hex, owner)
  if redis.call('HLEN', set.former) > former_limit then
    local forgotten = redis.call('HRANDFIELD', set.former)
    redis.call('HDEL', set.last, redis.call('HGET', set.former, forgotten))
    redis.call('HDEL', set.former, forgotten)
  end
end

local function drop(set)
  local keys = {set.bits, set.chunks, set.holders, set.owners, set.rest, set.former, set.last, set.serial, set.users}
  for _, chunk in ipairs(redis.call('ZRANGE', set.chunks, 0, -1)) do
    redis.call('UNLINK', bitmap(set, chunk))
  end
  redis.call('UNLINK', unpack(keys))
end

local function undo()
  for i = #chosen, 1, -1 do
    if chosen[i].fresh then set_bit(chosen[i].set, chosen[i].hex, 0) end
  end
end

-- Pools
local function overlapping(space, bits)
  local tree = root .. 'prefixes:' .. space
  local inside = redis.call('ZRANGEBYLEX', tree, '[' .. bits, '[' .. bits .. '\255', 'LIMIT', 0, 1)
  if inside[1] then return inside[1] end
  local above = {}
  for length = 1, #bits - 1 do above[length] = bits:sub(1, length) end
  for length, score in ipairs(redis.call('ZMSCORE', tree, unpack(above))) do
    if score then return above[length] end
  end
end

local function holder_of(space, bits)
  local users = redis.call('SMEMBERS', root .. 'users:' .. redis.call('HGET', root .. 'masters:' .. space, bits))
  table.sort(users)
  local pool = get('pools', users[1])
  return {pool_id = pool.id, label = pool.label}
end

local function remove_pool(pool)
  local set = address_set(pool.id)
  emit_pool('released', set, pool)
  redis.call('HDEL', root .. 'pools', pool.id)
  redis.call('HDEL', root .. 'owned', pool.claim)
  redis.call('SREM', set.users, pool.id)
  if redis.call('SCARD', set.users) == 0 then
    redis.call('ZREM', root .. 'prefixes:' .. set.space, pool.bits)
    redis.call('HDEL', root .. 'masters:' .. set.space, pool.bits)
    return drop(set)
  end
  redis.call('HDEL', set.serial, pool.id)
  local held = redis.call('HGETALL', set.holders)
  for i = 1, #held, 2 do
    local holder = cjson.decode(held[i + 1])
    if holder[2] == pool.id then give_back(set, held[i], holder) end
  end
end

local function repeated(claim)
  local owned = get('owned', claim)
  if not owned then return nil end
  if owned.digest ~= ask.digest then return {error = 'differs'} end
  return owned
end

local verbs = {}

function verbs.reserve()
  local before = repeated(ask.claim)
  if before then return before end
  local granted, pending = {}, {}
  for index, want in ipairs(ask.pools) do
    local pool, clash
    for _, candidate in ipairs(want.candidates) do
      local space = candidate.id:match('^[^/]+')
      clash = nil
      if pending[candidate.id] then clash = {pool_id = candidate.id, label = ask.label}
      elseif redis.call('HEXISTS', root .. 'pools', candidate.id) == 1 then
        clash = {pool_id = candidate.id, label = get('pools', candidate.id).label}
      elseif not want.part then
        local bits = overlapping(space, candidate.bits)
        clash = bits and holder_of(space, bits)
        for _, other in ipairs(granted) do
          local shorter = math.min(#other.bits, #candidate.bits)
          if other.bits:sub(1, shorter) == candidate.bits:sub(1, shorter) then
            clash = {pool_id = other.id, label = ask.label}
          end
        end
      end
      if not clash then pool = candidate break end
    end
    if not pool then
      if #want.candidates == 0 then return {error = 'no_pool', index = index} end
      return want.named and {error = 'overlap', index = index, clash = clash} or {error = 'lost'}
    end
    granted[index], pending[pool.id] = pool, true
  end
  local reply, failed, fresh = {}, nil, {}
  for index, pool in ipairs(granted) do
    local set = address_set(pool.id)
    reply[index] = {pool_id = pool.id, addresses = {}}
    if redis.call('EXISTS', set.users) == 0 then fresh[#fresh + 1] = set end
    for position, wanted in ipairs(ask.pools[index].addresses) do
      local hex
      hex, failed = pick(set, pool, wanted ~= '' and wanted or nil, ask.owner, false)
      if failed then break end
      reply[index].addresses[position] = hex
    end
    if failed then break end
  end
  if failed then
    undo()
    for _, set in ipairs(fresh) do drop(set) end
    return failed
  end
  for index, pool in ipairs(granted) do
    local set = address_set(pool.id)
    pool.number = redis.call('INCR', root .. 'number')
    pool.label, pool.owner, pool.claim = ask.label, ask.owner, ask.claim
    redis.call('HSET', root .. 'pools', pool.id, cjson.encode(pool))
    redis.call('ZADD', root .. 'prefixes:' .. set.space, 0, pool.bits)
    redis.call('HSET', root .. 'masters:' .. set.space, pool.bits, set.id)
    redis.call('SADD', set.users, pool.id)
    for _, hex in ipairs(reply[index].addresses) do hold(set, hex, pool.id, ask.owner, ask.label) end
    local turn = ask.pools[index].turn
    if turn then redis.call('HSET', root .. 'turns', turn, pool.bits) end
  end
  for _, pool in ipairs(granted) do emit_pool('requested', address_set(pool.id), pool) end
  local reserved = {digest = ask.digest, pools = reply}
  redis.call('HSET', root .. 'owned', ask.claim, cjson.encode(reserved))
  return reserved
end

function verbs.release_pool()
  local pool = get('pools', ask.pool_id)
  if not pool then return {error = 'absent', pool_id = ask.pool_id} end
  if pool.owner:sub(1, 2) == 'o:' then return {error = 'owned', label = pool.label} end
  remove_pool(pool)
  return {}
end

function verbs.request()
  local pool = get('pools', ask.pool_id)
  if not pool then return {error = 'absent', pool_id = ask.pool_id} end
  local set = address_set(pool.id)
  local field = owned_field(pool.id, ask.owner)
  local mine = redis.call('HGET', set.owners, field)
  if mine and not ask.wanted then return {addresses = {mine:match('%S+')}} end
  for hex in (mine or ''):gmatch('%S+') do
    if hex == ask.wanted then return {addresses = {hex}} end
  end
  local serial = ask.serial
  if serial == nil then serial = pool.serial end
  local hex, failed = pick(set, pool, ask.wanted, ask.owner, serial)
  if failed then return failed end
  settle_turns()
  hold(set, hex, pool.id, ask.owner, ask.label)
  redis.call('HSET', set.owners, field, mine and mine .. ' ' .. hex or hex)
  emit_address('requested', set, hex, pool.id, ask.owner)
  return {addresses = {hex}}
end

function verbs.release_address()
  if not get('pools', ask.pool_id) then return {error = 'absent', pool_id = ask.pool_id} end
  local set = address_set(ask.pool_id)
  local held = redis.call('HGET', set.holders, ask.address)
  local holder = held and cjson.decode(held)
  if not holder or holder[2] ~= ask.pool_id then return {error = 'free'} end
  if holder[1]:sub(1, 2) == 'o:' then return {error = 'owned', label = holder[3]} end
  give_back(set, ask.address, holder)
  emit_address('released', set, ask.address, ask.pool_id, holder[1])
  return {}
end

local function holder_in(set, pool_id, hex)
  local held = redis.call('HGET', set.holders, hex)
  local holder = held and cjson.decode(held)
  return holder and holder[1] == ask.owner and holder[2] == pool_id and holder or nil
end

-- An endpoint's addresses go when their pool goes, even if one of the same name comes again.
local function all_held(allocated)
  for index, hex in ipairs(allocated.addresses) do
    local pool_id = allocated.pool_ids[index]
    if not holder_in(address_set(pool_id), pool_id, hex) then return false end
  end
  return true
end

local function release_addresses(allocated)
  for index, hex in ipairs(allocated and allocated.addresses or {}) do
    local pool_id = allocated.pool_ids[index]
    local set = address_set(pool_id)
    local holder = holder_in(set, pool_id, hex)
    if holder then
      give_back(set, hex, holder)
      emit_address('released', set, hex, pool_id, holder[1])
    end
  end
end

function verbs.allocate()
  local before = repeated(ask.claim)
  if before and (before.error or all_held(before)) then return before end
  release_addresses(before)
  local pools, addresses = {}, {}
  for index, want in ipairs(ask.wants) do
    pools[index] = get('pools', want.pool_id)
    if not pools[index] then return {error = 'absent', pool_id = want.pool_id} end
  end
  for index, pool in ipairs(pools) do
    local serial = ask.serial
    if serial == nil then serial = pool.serial end
    local hex, failed = pick(address_set(pool.id), pool, ask.wants[index].address, ask.owner, serial)
    if failed then
      undo()
      return failed
    end
    addresses[index] = hex
  end
  settle_turns()
  local wants = {}
  for index, pool in ipairs(pools) do
    local set = address_set(pool.id)
    hold(set, addresses[index], pool.id, ask.owner, ask.label)
    emit_address('requested', set, addresses[index], pool.id, ask.owner)
    wants[index] = pool.id
  end
  local allocated = {digest = ask.digest, addresses = addresses, pool_ids = wants}
  redis.call('HSET', root .. 'owned', ask.claim, cjson.encode(allocated))
  return allocated
end

function verbs.release_owned()
  release_addresses(get('owned', ask.endpoint))
  redis.call('HDEL', root .. 'owned', ask.endpoint)
  local network = get('owned', ask.network)
  for _, reserved in ipairs(network and network.pools or {}) do
    local pool = get('pools', reserved.pool_id)
    if pool and pool.claim == ask.network then
      remove_pool(pool)
    end
  end
  redis.call('HDEL', root .. 'owned', ask.network)
  return {}
end

function verbs.show()
  local shown = {}
  local function add(pool)
    shown[#shown + 1] = {
      shown = pool.shown, usable = pool.usable, number = pool.number, in_use = in_use(address_set(pool.id), pool),
    }
  end
  if ask.pool_ids then
    for _, pool_id in ipairs(ask.pool_ids) do
      local pool = get('pools', pool_id)
      if pool then add(pool) end
    end
  else
    for _, pool in ipairs(redis.call('HVALS', root .. 'pools')) do add(cjson.decode(pool)) end
  end
  return #shown > 0 and {shown = shown} or {}
end

return cjson.encode(verbs[verb]())
"""

-- The addresses of a whole pool, shared by its sub-pools: who holds which, which rest, and which is free.
local sweep_limit, former_limit = 4096, 65536

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
  if set.many and value == 1 then call('ZADD', set.chunks, 0, chunk) end
  return call('SETBIT', bitmap(set, chunk), bit, value)
end

local function free_in(key, first, last)
  local length = call('STRLEN', key) * 8
  if length <= first then return first end
  local found = call('BITPOS', key, 0, first, last, 'BIT')
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

-- Calls `visit` with each address whose bit is set, in order, from the one after `after`, until it returns true.
local function each_set(set, pool, after, visit)
  local whole_first = bits_hex(pool.bits, '0')
  local low = tonumber(whole_first:sub(-4), 16)
  local base = low - low % set.span
  local head = after and after:sub(1, -5) or ''
  local chunks = set.many and call('ZRANGEBYLEX', set.chunks, '[' .. head, '+') or {whole_first:sub(1, -5)}
  for _, chunk in ipairs(chunks) do
    local from = after and chunk == head and tonumber(after:sub(-4), 16) % set.span + 1 or 0
    while from < set.span do
      local bit = call('BITPOS', bitmap(set, chunk), 1, from, set.span - 1, 'BIT')
      if bit < 0 then break end
      if visit(chunk .. string.format('%04x', base + bit)) then return end
      from = bit + 1
    end
  end
end

-- Addresses are chosen first (their bit set, so that the next choice sees it), then held or undone.
local chosen = {}

local function choose(set, hex)
  chosen[#chosen + 1] = {set = set, hex = hex, fresh = set_bit(set, hex, 1) == 0}
  chosen[set.id .. ' ' .. hex] = true
  return hex
end

local function undo()
  for i = #chosen, 1, -1 do
    if chosen[i].fresh then set_bit(chosen[i].set, chosen[i].hex, 0) end
  end
end

local function sweep(set)
  local over = call('ZRANGEBYSCORE', set.rest, '-inf', now - ask.rest_ms, 'LIMIT', 0, sweep_limit)
  for _, hex in ipairs(over) do
    if not chosen[set.id .. ' ' .. hex] then
      set_bit(set, hex, 0)
      call('ZREM', set.rest, hex)
    end
  end
end

local function in_use(set, pool)
  if pool.whole then return call('HLEN', set.holders) end
  if pool.first > pool.last then return 0 end
  sweep(set)
  local head, tail = pool.first:sub(1, -5), pool.last:sub(1, -5)
  local chunks = set.many and call('ZRANGEBYLEX', set.chunks, '[' .. head, '[' .. tail) or {head}
  local count = 0
  for _, chunk in ipairs(chunks) do
    local lowest = chunk == head and tonumber(pool.first:sub(-4), 16) % set.span or 0
    local highest = chunk == tail and tonumber(pool.last:sub(-4), 16) % set.span or set.span - 1
    count = count + call('BITCOUNT', bitmap(set, chunk), lowest, highest, 'BIT')
  end
  for _, hex in ipairs(call('ZRANGE', set.rest, 0, -1)) do
    if hex >= pool.first and hex <= pool.last then count = count - 1 end
  end
  return count
end

-- Who holds an address: {owner, pool id, label, who is remembered for it, what it is used as}.
local function holder_of_address(set, hex)
  local held = call('HGET', set.holders, hex)
  return held and cjson.decode(held) or nil
end

local function longest_resting(set, pool, is_free)
  local from, batch = 0, 128
  repeat
    local resting = call('ZRANGE', set.rest, from, from + batch - 1)
    for _, hex in ipairs(resting) do
      if hex >= pool.first and hex <= pool.last and is_free(hex) then return hex end
    end
    from = from + batch
  until #resting < batch
end

-- Chooses an address: the wanted one, else the one that `recall` had last, else the next. Returns it, or nil and why not.
local function pick(set, pool, wanted, recall, serial)
  local function is_free(hex)
    return not chosen[set.id .. ' ' .. hex] and call('HEXISTS', set.holders, hex) == 0
  end
  if wanted then
    local holder = holder_of_address(set, wanted)
    if not holder and chosen[set.id .. ' ' .. wanted] then holder = {ask.owner, pool.id, ask.label} end
    if holder then return nil, {error = 'taken', address = wanted, holder = holder} end
    return choose(set, wanted)
  end
  local mine = recall and call('HGET', set.last, recall)
  if mine and mine >= pool.first and mine <= pool.last and is_free(mine) then return choose(set, mine) end
  sweep(set)
  local found
  if serial then
    local before = call('HGET', set.serial, pool.id)
    local start = before and following_hex(before)
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
    if choice.in_turn_of then call('HSET', choice.set.serial, choice.in_turn_of, choice.hex) end
  end
end

local function hold(set, hex, pool_id, recall, use)
  call('HSET', set.holders, hex, cjson.encode({ask.owner, pool_id, ask.label, recall or '', use or ''}))
  call('ZREM', set.rest, hex)
  local former = call('HGET', set.former, hex)
  if former then
    call('HDEL', set.former, hex)
    call('HDEL', set.last, former)
  end
end

local function remember(set, hex, recall)
  local last = call('HGET', set.last, recall)
  if last then call('HDEL', set.former, last) end
  call('HSET', set.last, recall, hex)
  call('HSET', set.former, hex, recall)
  if call('HLEN', set.former) > former_limit then
    local forgotten = call('HRANDFIELD', set.former)
    call('HDEL', set.last, call('HGET', set.former, forgotten))
    call('HDEL', set.former, forgotten)
  end
end

local function owned_field(pool_id, owner)
  return pool_id .. ' ' .. owner
end

-- What was never used (`ask.unused`) neither rests nor is remembered.
local function give_back(set, hex, holder)
  local owner, pool_id, recall = holder[1], holder[2], holder[4]
  call('HDEL', set.holders, hex)
  if ask.rest_ms > 0 and not ask.unused then call('ZADD', set.rest, now, hex) else set_bit(set, hex, 0) end
  local field, others = owned_field(pool_id, owner), {}
  for other in (call('HGET', set.owners, field) or ''):gmatch('%S+') do
    if other ~= hex then others[#others + 1] = other end
  end
  if #others > 0 then call('HSET', set.owners, field, table.concat(others, ' '))
  else call('HDEL', set.owners, field) end
  if recall and recall ~= '' and not ask.unused then remember(set, hex, recall) end
end

local function drop(set)
  for _, chunk in ipairs(call('ZRANGE', set.chunks, 0, -1)) do call('UNLINK', bitmap(set, chunk)) end
  call('UNLINK', set.bits, set.chunks, set.holders, set.owners, set.rest, set.former, set.last, set.serial, set.users)
end

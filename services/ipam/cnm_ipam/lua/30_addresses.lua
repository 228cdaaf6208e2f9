-- The addresses of a whole pool, shared by its sub-pools: who holds which, which rest, and which is free.
local sweep_limit, sweep_rounds, former_limit = 4096, 16, 65536

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

local function set_bit(set, hex)
  local chunk, bit = place(set, hex)
  if set.many then call('ZADD', set.chunks, 0, chunk) end
  return call('SETBIT', bitmap(set, chunk), bit, 1)
end

-- An empty bitmap goes, or the addresses that were ever held of a large pool would fill the memory.
local function clear_bit(set, hex)
  local chunk, bit = place(set, hex)
  local key = bitmap(set, chunk)
  call('SETBIT', key, bit, 0)
  if call('BITPOS', key, 1) < 0 then
    call('UNLINK', key)
    call('ZREM', set.chunks, chunk)
  end
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

-- Calls `visit` with the addresses whose bits are set, in order, from the one after `after`, until it returns true or has
-- seen so many. Returns the last one it saw, or nothing when it saw all.
local function walk(set, bits, after, most, visit)
  local first = bits_hex(bits, '0')
  local low = tonumber(first:sub(-4), 16)
  local base, head, seen = low - low % set.span, after and after:sub(1, -5) or '', 0
  local chunks = set.many and call('ZRANGEBYLEX', set.chunks, '[' .. head, '+') or {first:sub(1, -5)}
  for _, chunk in ipairs(chunks) do
    local from = after and chunk == head and tonumber(after:sub(-4), 16) % set.span + 1 or 0
    while from < set.span do
      local bit = call('BITPOS', bitmap(set, chunk), 1, from, set.span - 1, 'BIT')
      if bit < 0 then break end
      local hex = chunk .. string.format('%04x', base + bit)
      seen = seen + 1
      if visit(hex) or seen >= most then return hex end
      from = bit + 1
    end
  end
end

-- Addresses are chosen first (their bit set, so that the next choice sees it), then held or undone.
local chosen = {}

local function choose(set, hex)
  chosen[#chosen + 1] = {set = set, hex = hex, fresh = set_bit(set, hex) == 0}
  chosen[set.id .. ' ' .. hex] = true
  return hex
end

local function undo()
  for i = #chosen, 1, -1 do
    if chosen[i].fresh then clear_bit(chosen[i].set, chosen[i].hex) end
  end
end

-- What rests, sorted, is read once for all sub-pools that are counted.
local resting = {}

local function sweep(set)
  for _ = 1, sweep_rounds do
    local over = call('ZRANGEBYSCORE', set.rest, '-inf', now - ask.rest_ms, 'LIMIT', 0, sweep_limit)
    for _, hex in ipairs(over) do
      if not chosen[set.id .. ' ' .. hex] then  -- such a one is held soon, or rests on if the choice is undone
        call('ZREM', set.rest, hex)
        clear_bit(set, hex)
      end
    end
    if #over > 0 then resting[set.id] = nil end
    if #over < sweep_limit then return end
  end
end

local function count_below(sorted, hex)
  local low, high = 1, #sorted
  while low <= high do
    local middle = math.floor((low + high) / 2)
    if sorted[middle] < hex then low = middle + 1 else high = middle - 1 end
  end
  return high
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
  if not resting[set.id] then
    resting[set.id] = call('ZRANGE', set.rest, 0, -1)
    table.sort(resting[set.id])
  end
  return count - (count_below(resting[set.id], pool.last .. '~') - count_below(resting[set.id], pool.first))
end

-- Who holds an address: {owner, pool id, label, who is remembered for it, what it is used as, and what the holding ended:
-- since when the address rested, and who was remembered for it}.
local function holder_of_address(set, hex)
  local held = call('HGET', set.holders, hex)
  return held and cjson.decode(held) or nil
end

local function is_free(set, hex)
  return not chosen[set.id .. ' ' .. hex] and call('HEXISTS', set.holders, hex) == 0
end

local function pick_recalled(candidate, recall)
  local set, pool = candidate.set, candidate.pool
  local last = call('HGET', set.last, recall)
  if last and last >= pool.first and last <= pool.last and is_free(set, last) then return choose(set, last) end
end

local function pick_next(candidate)
  local set, pool = candidate.set, candidate.pool
  sweep(set)
  local found
  if candidate.serial then
    local before = call('HGET', set.serial, pool.id)
    local start = before and following_hex(before)
    found = start and lowest_free(set, start, pool.last)
  end
  found = found or lowest_free(set, pool.first, pool.last)
  return found and choose(set, found)
end

local function pick_longest_resting(candidate)
  local set, pool, from, batch = candidate.set, candidate.pool, 0, 128
  repeat
    local resting_now = call('ZRANGE', set.rest, from, from + batch - 1)
    for _, hex in ipairs(resting_now) do
      if hex >= pool.first and hex <= pool.last and is_free(set, hex) then return choose(set, hex) end
    end
    from = from + batch
  until #resting_now < batch
end

-- Chooses an address of some pools, {set, pool, serial} each: the wanted one, which lies in all of them; else the one that
-- `recall` had last; else the next of the first that has one; else the one that has rested longest. Returns it and its
-- pool, or nil and why not.
local function pick(candidates, wanted, recall)
  if wanted then
    local set, pool = candidates[1].set, candidates[1].pool
    local holder = holder_of_address(set, wanted)
    if not holder and chosen[set.id .. ' ' .. wanted] then holder = {ask.owner, pool.id, ask.label} end
    if holder then return nil, {error = 'taken', address = wanted, holder = holder} end
    return choose(set, wanted), pool
  end
  for _, candidate in ipairs(recall and candidates or {}) do
    local found = pick_recalled(candidate, recall)
    if found then return found, candidate.pool end
  end
  for _, way in ipairs({pick_next, pick_longest_resting}) do
    for _, candidate in ipairs(candidates) do
      local found = way(candidate)
      if found then
        chosen[#chosen].in_turn_of = candidate.serial and candidate.pool.id
        return found, candidate.pool
      end
    end
  end
  return nil, {error = 'full', pool_id = candidates[#candidates].pool.id}
end

local function settle_turns()
  for _, choice in ipairs(chosen) do
    if choice.in_turn_of then call('HSET', choice.set.serial, choice.in_turn_of, choice.hex) end
  end
end

-- The addresses of a sub-pool are listed by themselves, those of a whole pool by their bits.
local function part_key(pool_id)
  local _, slashes = pool_id:gsub('/', '')
  return slashes > 2 and root .. 'held:' .. pool_id or nil
end

local function hold(set, hex, pool_id, recall, use)
  local rested, former = call('ZSCORE', set.rest, hex), call('HGET', set.former, hex)
  call('HSET', set.holders, hex,
    cjson.encode({ask.owner, pool_id, ask.label, recall or '', use or '', rested or '', former or ''}))
  local part = part_key(pool_id)
  if part then call('ZADD', part, 0, hex) end
  if rested then
    call('ZREM', set.rest, hex)
    resting[set.id] = nil
  end
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

local function rest(set, hex, since)
  call('ZADD', set.rest, since, hex)
  resting[set.id] = nil
end

-- What was never used (`ask.unused`) is as it was before: it rests on, and is remembered for whom it was.
local function give_back(set, hex, holder)
  local owner, pool_id, recall, rested, former = holder[1], holder[2], holder[4], holder[6], holder[7]
  call('HDEL', set.holders, hex)
  local part = part_key(pool_id)
  if part then call('ZREM', part, hex) end
  if ask.unused and rested and rested ~= '' then rest(set, hex, rested)
  elseif ask.unused or ask.rest_ms == 0 then clear_bit(set, hex)
  else rest(set, hex, now) end
  local field, others = owned_field(pool_id, owner), {}
  for other in (call('HGET', set.owners, field) or ''):gmatch('%S+') do
    if other ~= hex then others[#others + 1] = other end
  end
  if #others > 0 then call('HSET', set.owners, field, table.concat(others, ' '))
  else call('HDEL', set.owners, field) end
  local whose = ask.unused and former or recall
  if whose and whose ~= '' and not (ask.unused and call('HEXISTS', set.last, whose) == 1) then
    remember(set, hex, whose)
  end
end

local function drop(set)
  for _, chunk in ipairs(call('ZRANGE', set.chunks, 0, -1)) do call('UNLINK', bitmap(set, chunk)) end
  call('UNLINK', set.bits, set.chunks, set.holders, set.owners, set.rest, set.former, set.last, set.serial, set.users)
end

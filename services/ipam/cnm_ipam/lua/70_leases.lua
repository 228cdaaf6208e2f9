-- Addresses of clients and endpoints: requested, released, listed.
local remembered_addresses, visits = 16, 20000

-- A pool that an address may come from, in turn if the request says so, else if the pool does.
local function candidate_of(pool)
  local serial = ask.serial
  if serial == nil then serial = pool.serial end
  return {set = address_set(pool.id), pool = pool, serial = serial}
end

function verbs.request()
  local pool = get('pools', ask.pool_id)
  if not pool then return {error = 'absent', pool_id = ask.pool_id} end
  local set = address_set(pool.id)
  local field = owned_field(pool.id, ask.owner)
  local mine = call('HGET', set.owners, field)
  if mine and not ask.wanted then return {addresses = {mine:match('%S+')}} end
  local holder = ask.wanted and holder_of_address(set, ask.wanted)
  if holder and holder[1] == ask.owner and holder[2] == pool.id then return {addresses = {ask.wanted}} end
  local recall = ask.owner:sub(1, 2) == 'c:' and ask.owner or nil
  local hex, failed = pick({candidate_of(pool)}, ask.wanted, recall)
  if not hex then return failed end
  settle_turns()
  hold(set, hex, pool.id, recall)
  local _, count = (mine or ''):gsub('%S+', '')
  if count < remembered_addresses then call('HSET', set.owners, field, mine and mine .. ' ' .. hex or hex) end
  emit_address('requested', set, hex, pool.id, ask.owner)
  return {addresses = {hex}, fresh = true}
end

function verbs.release_address()
  if not get('pools', ask.pool_id) then return {error = 'absent', pool_id = ask.pool_id} end
  local set = address_set(ask.pool_id)
  local holder = holder_of_address(set, ask.address)
  if not holder or holder[2] ~= ask.pool_id then return {error = 'free'} end
  if holder[1]:sub(1, 2) == 'o:' then return {error = 'owned', label = holder[3]} end
  give_back(set, ask.address, holder)
  emit_address('released', set, ask.address, ask.pool_id, holder[1])
  return {}
end

local function holds_in(set, pool_id, hex)
  local holder = holder_of_address(set, hex)
  return holder and holder[1] == ask.owner and holder[2] == pool_id and holder or nil
end

-- An endpoint's addresses go when their pool goes, even if one of the same name comes again.
local function all_held(allocated)
  for index, hex in ipairs(allocated.addresses) do
    local pool_id = allocated.pool_ids[index]
    if not holds_in(address_set(pool_id), pool_id, hex) then return false end
  end
  return true
end

local function release_one(pool_id, hex)
  local set = address_set(pool_id)
  local holder = holds_in(set, pool_id, hex)
  if holder then
    give_back(set, hex, holder)
    emit_address('released', set, hex, pool_id, holder[1])
  end
  return holder ~= nil
end

local function release_addresses(allocated)
  for index, hex in ipairs(allocated and allocated.addresses or {}) do release_one(allocated.pool_ids[index], hex) end
end

function verbs.allocate()
  local before = repeated(ask.claim)
  if before and (before.error or all_held(before)) then return before end
  release_addresses(before)
  local addresses, pool_ids = {}, {}
  local recall = ask.recall and 'n:' .. ask.recall or ask.owner
  for index, want in ipairs(ask.wants) do
    local candidates, hex, found = {}, nil, nil
    for place, pool_id in ipairs(want.pool_ids) do
      local pool = get('pools', pool_id)
      if not pool then
        undo()
        return {error = 'absent', pool_id = pool_id}
      end
      candidates[place] = candidate_of(pool)
    end
    hex, found = pick(candidates, want.address, recall)
    if not hex then
      undo()
      return found
    end
    addresses[index], pool_ids[index] = hex, found.id
  end
  settle_turns()
  for index, pool_id in ipairs(pool_ids) do
    local set = address_set(pool_id)
    hold(set, addresses[index], pool_id, recall)
    emit_address('requested', set, addresses[index], pool_id, ask.owner)
  end
  local allocated = {digest = ask.digest, addresses = addresses, pool_ids = pool_ids}
  call('HSET', root .. 'owned', ask.claim, cjson.encode(allocated))
  return allocated
end

function verbs.release_owned()
  release_addresses(get('owned', ask.endpoint))
  call('HDEL', root .. 'owned', ask.endpoint)
  local network = get('owned', ask.network)
  for _, reserved in ipairs(network and network.pools or {}) do
    local pool = get('pools', reserved.pool_id)
    if pool and pool.claim == ask.network then remove_pool(pool) end
  end
  call('HDEL', root .. 'owned', ask.network)
  return {}
end

-- Lists who holds what, from after a place; where the list goes on is told, since no call looks at more than so many.
function verbs.leases()
  local found, holds = {}, nil
  local function list(set, bits, after)
    return walk(set, bits, after, visits, function(hex)
      local holder = holder_of_address(set, hex)
      if holder and holds(holder) then found[#found + 1] = {hex = hex, holder = holder} end
      return #found == ask.limit
    end)
  end
  local function reply(place, number)
    return {leases = #found > 0 and found or nil, place = place, number = number}
  end
  if ask.pool_id then
    local pool = get('pools', ask.pool_id)
    if not pool then return {error = 'absent', pool_id = ask.pool_id} end
    local set, part = address_set(pool.id), part_key(pool.id)
    holds = function(holder) return holder[2] == pool.id end
    if not part then return reply(list(set, pool.bits, ask.after)) end
    local from = ask.after and '(' .. ask.after or '-'
    for _, hex in ipairs(call('ZRANGEBYLEX', part, from, '+', 'LIMIT', 0, ask.limit)) do
      found[#found + 1] = {hex = hex, holder = holder_of_address(set, hex)}
    end
    return reply(#found == ask.limit and found[#found].hex or nil)
  end
  holds = function(holder) return starts(holder[1], 'o:') end
  local sets = call('ZRANGEBYSCORE', root .. 'sets', ask.number or '-inf', '+inf', 'WITHSCORES')
  for i = 1, #sets, 2 do
    local bits, id = sets[i]:match('^(%d+) (.+)$')
    local number = tonumber(sets[i + 1])
    local place = list(address_set(id), bits, number == ask.number and ask.after or nil)
    if place then return reply(place, number) end
  end
  return reply()
end

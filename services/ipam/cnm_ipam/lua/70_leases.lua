-- Addresses of clients and endpoints: requested, released, listed.
function verbs.request()
  local pool = get('pools', ask.pool_id)
  if not pool then return {error = 'absent', pool_id = ask.pool_id} end
  local set = address_set(pool.id)
  local field = owned_field(pool.id, ask.owner)
  local mine = call('HGET', set.owners, field)
  if mine and not ask.wanted then return {addresses = {mine:match('%S+')}} end
  for hex in (mine or ''):gmatch('%S+') do
    if hex == ask.wanted then return {addresses = {hex}} end
  end
  local serial = ask.serial
  if serial == nil then serial = pool.serial end
  local recall = ask.owner:sub(1, 2) == 'c:' and ask.owner or nil
  local hex, failed = pick(set, pool, ask.wanted, recall, serial)
  if failed then return failed end
  settle_turns()
  hold(set, hex, pool.id, recall)
  call('HSET', set.owners, field, mine and mine .. ' ' .. hex or hex)
  emit_address('requested', set, hex, pool.id, ask.owner)
  return {addresses = {hex}}
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

-- An address of the first pool that has one; a wanted one lies in each pool that is tried.
local function pick_of(want, recall)
  local failed
  for _, pool_id in ipairs(want.pool_ids) do
    local pool = get('pools', pool_id)
    if not pool then return nil, {error = 'absent', pool_id = pool_id} end
    local serial = ask.serial
    if serial == nil then serial = pool.serial end
    local hex
    hex, failed = pick(address_set(pool_id), pool, want.address, recall, serial)
    if hex then return hex, nil, pool_id end
    if failed.error ~= 'full' then break end
  end
  return nil, failed
end

function verbs.allocate()
  local before = repeated(ask.claim)
  if before and (before.error or all_held(before)) then return before end
  release_addresses(before)
  local addresses, pool_ids = {}, {}
  local recall = ask.recall and 'n:' .. ask.recall or ask.owner
  for index, want in ipairs(ask.wants) do
    local hex, failed, pool_id = pick_of(want, recall)
    if failed then
      undo()
      return failed
    end
    addresses[index], pool_ids[index] = hex, pool_id
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

-- Lists who holds what, in the order of pools and addresses, from after a place.
function verbs.leases()
  local pool_ids = {ask.pool_id}
  if not ask.pool_id then pool_ids = call('ZRANGEBYSCORE', root .. 'order', ask.number or '-inf', '+inf') end
  local found, next_number = {}, nil
  for _, pool_id in ipairs(pool_ids) do
    local pool = get('pools', pool_id)
    if not pool then return {error = 'absent', pool_id = pool_id} end
    local set = address_set(pool_id)
    local after = ask.after and (ask.pool_id or pool.number == ask.number) and ask.after or nil
    each_set(set, pool, after, function(hex)
      local holder = holder_of_address(set, hex)
      local listed = holder and holder[2] == pool_id and (not ask.owned or starts(holder[1], 'o:'))
      if listed then found[#found + 1] = {hex = hex, holder = holder} end
      return #found == ask.limit
    end)
    next_number = pool.number
    if #found == ask.limit then break end
  end
  return #found > 0 and {leases = found, number = next_number} or {}
end

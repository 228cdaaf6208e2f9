-- Makes what an owner holds what its document says: reserves again what is lost, gives back what is more.

-- What an owner holds and should not; given back unless it is only looked for.
local function give_surplus()
  local given = {}
  for _, lease in ipairs(ask.surplus) do
    local held = holds_in(address_set(lease.pool_id), lease.pool_id, lease.address)
    if held then given[#given + 1] = lease.address end
    if held and not ask.dry_run then release_one(lease.pool_id, lease.address) end
  end
  for _, pool_id in ipairs(ask.surplus_pools) do
    local pool = get('pools', pool_id)
    local held = pool and pool.owner == ask.owner
    if held then given[#given + 1] = pool_id end
    if held and not ask.dry_run then remove_pool(pool) end
  end
  return given
end

-- Writes down what an owner holds now, so that it can be released: what it held before and holds still is kept.
local function keep_owned(claim, before, digest, pools, addresses)
  local owned, known = {digest = before.digest or digest}, {}
  local function add(pool_id, hex)
    local key = pool_id .. ' ' .. (hex or '')
    if known[key] then return end
    known[key] = true
    if not hex then
      owned.pools = owned.pools or {}
      table.insert(owned.pools, {pool_id = pool_id, addresses = {}})
    else
      owned.addresses, owned.pool_ids = owned.addresses or {}, owned.pool_ids or {}
      table.insert(owned.addresses, hex)
      table.insert(owned.pool_ids, pool_id)
    end
  end
  for index, pool_id in ipairs(pools) do
    add(pool_id)
    owned.pools[index].addresses = addresses[index]
  end
  for _, lease in ipairs(#pools == 0 and addresses or {}) do add(lease.pool_id, lease.hex) end
  for _, reserved in ipairs(before.pools or {}) do
    local pool = get('pools', reserved.pool_id)
    if pool and pool.owner == ask.owner then add(reserved.pool_id) end
  end
  for index, hex in ipairs(before.addresses or {}) do
    local pool_id = before.pool_ids[index]
    if holds_in(address_set(pool_id), pool_id, hex) then add(pool_id, hex) end
  end
  if owned.pools or owned.addresses then call('HSET', root .. 'owned', claim, cjson.encode(owned))
  else call('HDEL', root .. 'owned', claim) end
end

function verbs.reconcile()
  local missing, lost, surplus = {}, {}, {}
  for _, pool_id in ipairs(ask.surplus_pools) do
    local pool = get('pools', pool_id)
    if pool and pool.owner == ask.owner then surplus[pool_id] = true end
  end
  for index, want in ipairs(ask.pools) do
    local there = get('pools', want.named.id)
    local clash = there and there.owner ~= ask.owner and clash_with(there.id)
      or not there and clash_of(want, want.named, {}, surplus)
    if clash then return {error = 'overlap', index = index, clash = clash} end
    missing[index] = not there
  end
  local function take(pool_id, hex, recall, use)
    local set = address_set(pool_id)
    local holder = holder_of_address(set, hex)
    if holder and holder[1] == ask.owner then return nil, holder[2] end
    local found, failed = pick({{set = set, pool = {id = pool_id}}}, hex)
    if not found then return failed end
    lost[#lost + 1] = {set = set, hex = hex, pool_id = pool_id, recall = recall, use = use}
    return nil, pool_id
  end
  local pool_ids, addresses, leases, failed = {}, {}, {}, nil
  for index, want in ipairs(ask.pools) do
    pool_ids[index], addresses[index] = want.named.id, {}
    for position, wanted in ipairs(want.addresses) do
      failed = failed or take(want.named.id, wanted.hex, nil, wanted.use)
      addresses[index][position] = wanted.hex
    end
  end
  local recall = ask.recall and 'n:' .. ask.recall or ask.owner
  for index, want in ipairs(ask.wants) do
    local pool_id = want.pool_ids[1]
    if not failed and not get('pools', pool_id) then failed = {error = 'absent', pool_id = pool_id} end
    if not failed then
      failed, pool_id = take(pool_id, want.address, recall)
      leases[index] = {pool_id = pool_id, hex = want.address}
    end
  end
  local function leave()
    undo()
    for index, want in ipairs(ask.pools) do
      local set = address_set(want.named.id)
      if missing[index] and call('EXISTS', set.users) == 0 then drop(set) end
    end
  end
  if failed then
    leave()
    return failed
  end
  local restored = {}
  for index, want in ipairs(ask.pools) do
    if missing[index] then restored[#restored + 1] = want.named.id end
  end
  for _, each in ipairs(lost) do restored[#restored + 1] = each.hex end
  if ask.dry_run then
    leave()
    return {restored = restored, given = give_surplus()}
  end
  local network, endpoint = get('owned', ask.network) or {}, get('owned', ask.endpoint) or {}
  for index, want in ipairs(ask.pools) do  -- before surplus ones go, which may share its addresses
    if missing[index] then keep_pool(want, want.named, ask.network) end
  end
  for _, each in ipairs(lost) do
    hold(each.set, each.hex, each.pool_id, each.recall, each.use)
    if each.recall then emit_address('requested', each.set, each.hex, each.pool_id, ask.owner) end
  end
  local given = give_surplus()
  for index, want in ipairs(ask.pools) do
    if missing[index] then emit_pool('requested', address_set(want.named.id), want.named) end
  end
  if #restored + #given > 0 then
    keep_owned(ask.network, network, ask.digest, pool_ids, addresses)
    keep_owned(ask.endpoint, endpoint, ask.digest, {}, leases)
  end
  return {restored = restored, given = given}
end

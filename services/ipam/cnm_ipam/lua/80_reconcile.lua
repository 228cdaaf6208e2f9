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

-- What is owned is written down anew: what was asked for first is not known any more.
local function keep_owned(claim, wanted, surplus, owned)
  if #wanted > 0 then call('HSET', root .. 'owned', claim, cjson.encode(owned))
  elseif #surplus > 0 then call('HDEL', root .. 'owned', claim) end
end

function verbs.reconcile()
  local missing, lost = {}, {}
  for index, want in ipairs(ask.pools) do
    local there = get('pools', want.named.id)
    local clash = there and there.owner ~= ask.owner and clash_with(there.id)
      or not there and clash_of(want, want.named, {})
    if clash then return {error = 'overlap', index = index, clash = clash} end
    missing[index] = not there
  end
  local function take(pool_id, hex, recall, use)
    local set = address_set(pool_id)
    local holder = holder_of_address(set, hex)
    if holder and holder[1] == ask.owner then return nil end
    local _, failed = pick(set, {id = pool_id}, hex)
    lost[#lost + 1] = {set = set, hex = hex, pool_id = pool_id, recall = recall, use = use}
    return failed
  end
  local reserved, allocated, failed = {}, {addresses = {}, pool_ids = {}}, nil
  for index, want in ipairs(ask.pools) do
    reserved[index] = {pool_id = want.named.id, addresses = {}}
    for position, wanted in ipairs(want.addresses) do
      failed = failed or take(want.named.id, wanted.hex, nil, wanted.use)
      reserved[index].addresses[position] = wanted.hex
    end
  end
  local recall = ask.recall and 'n:' .. ask.recall or ask.owner
  for index, want in ipairs(ask.wants) do
    local pool_id = want.pool_ids[1]
    if not failed and not get('pools', pool_id) then failed = {error = 'absent', pool_id = pool_id} end
    failed = failed or take(pool_id, want.address, recall)
    allocated.addresses[index], allocated.pool_ids[index] = want.address, pool_id
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
  local given, restored = give_surplus(), {}
  for index, want in ipairs(ask.pools) do
    if missing[index] then restored[#restored + 1] = want.named.id end
  end
  for _, each in ipairs(lost) do restored[#restored + 1] = each.hex end
  if ask.dry_run then
    leave()
    return {restored = restored, given = given}
  end
  for index, want in ipairs(ask.pools) do
    if missing[index] then keep_pool(want, want.named, ask.network) end
  end
  for _, each in ipairs(lost) do
    hold(each.set, each.hex, each.pool_id, each.recall, each.use)
    if each.recall then emit_address('requested', each.set, each.hex, each.pool_id, ask.owner) end
  end
  for index, want in ipairs(ask.pools) do
    if missing[index] then emit_pool('requested', address_set(want.named.id), want.named) end
  end
  keep_owned(ask.network, ask.pools, ask.surplus_pools, {digest = ask.digest, pools = reserved})
  allocated.digest = ask.digest
  keep_owned(ask.endpoint, ask.wants, ask.surplus, allocated)
  return {restored = restored, given = given}
end

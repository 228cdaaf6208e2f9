-- Pools: granted, shown, removed.
local told_routes = 20

-- The record of a predefined pool; a named one comes complete.
local function predefined_record(want, bits, base)
  local first, last, length = bits_hex(bits, '0'), bits_hex(bits, '1'), #bits - 1
  local host_bits = #first * 4 - length
  if host_bits >= 2 then first = following_hex(first) end
  if #first == 8 and length < 31 then last = last:sub(1, -2) .. string.format('%x', tonumber(last:sub(-1), 16) - 1) end
  return {
    id = want.space .. '/' .. prefix_text(bits), bits = bits, first = first, last = last, usable = base.usable,
    whole = true, text = prefix_text(bits),
  }
end

local function users_of(space, bits)
  local users = call('SMEMBERS', root .. 'users:' .. call('HGET', root .. 'masters:' .. space, bits))
  table.sort(users)
  return users
end

local function clash_with(pool_id)
  local pool = get('pools', pool_id)
  return {pool_id = pool_id, label = pool and pool.label or ''}
end

-- The first user of some masters that is not to be passed over, and stands alone if only such are looked for.
local function first_user(space, masters, passed, alone)
  for _, bits in ipairs(masters) do
    for _, user in ipairs(users_of(space, bits)) do
      if not passed[user] and (not alone or get('pools', user).exclusive) then return user end
    end
  end
end

-- Who keeps a named pool from being granted; some pools are passed over. Masters that come with a sub-pool are not tested
-- for overlapping, as in libnetwork, unless one of them has to stand alone.
local function clash_of(want, pool, granted, passed)
  if call('HEXISTS', root .. 'pools', pool.id) == 1 then return clash_with(pool.id) end
  for _, other in ipairs(granted) do
    local touch = starts(other.bits, pool.bits) or starts(pool.bits, other.bits)
    local apart = want.part and (not want.exclusive or other.bits == pool.bits)
    if other.id == pool.id or (touch and not apart) then return {pool_id = other.id, label = ask.label} end
  end
  local tree, user = tree_of(want.space), nil
  if want.part and not want.exclusive then
    local others = {}
    for _, bits in ipairs(all_overlapping(tree, pool.bits)) do
      if bits ~= pool.bits then others[#others + 1] = bits end
    end
    user = first_user(want.space, others, passed, true)
  elseif next(passed) then
    user = first_user(want.space, all_overlapping(tree, pool.bits), passed)
  else
    user = first_user(want.space, {overlapping(tree, pool.bits)}, passed)
  end
  return user and clash_with(user)
end

local function keep_pool(want, pool, claim)
  local set = address_set(pool.id)
  pool.number = call('INCR', root .. 'number')
  pool.label, pool.owner, pool.claim = ask.label, ask.owner, claim
  pool.serial, pool.exclusive, pool.device = want.serial, want.exclusive, want.device
  pool.shown = '{"pool_id":"' .. pool.id .. '","space":"' .. want.space .. '","pool":"' .. pool.text .. '",' .. want.tail
  pool.text = nil
  call('HSET', root .. 'pools', pool.id, cjson.encode(pool))
  call('ZADD', root .. 'order', pool.number, pool.id)
  call('HINCRBY', root .. 'spaces', want.space, 1)
  call('ZADD', tree_of(want.space), 0, pool.bits)
  call('HSET', root .. 'masters:' .. want.space, pool.bits, set.id)
  if call('SCARD', set.users) == 0 then call('ZADD', root .. 'sets', pool.number, pool.bits .. ' ' .. set.id) end
  call('SADD', set.users, pool.id)
end

local function remove_pool(pool)
  local set = address_set(pool.id)
  emit_pool('released', set, pool)
  call('HDEL', root .. 'pools', pool.id)
  call('HDEL', root .. 'owned', pool.claim)
  call('ZREM', root .. 'order', pool.id)
  if call('HINCRBY', root .. 'spaces', set.space, -1) <= 0 then call('HDEL', root .. 'spaces', set.space) end
  call('SREM', set.users, pool.id)
  if call('SCARD', set.users) == 0 then
    call('ZREM', tree_of(set.space), pool.bits)
    call('HDEL', root .. 'masters:' .. set.space, pool.bits)
    call('ZREM', root .. 'sets', pool.bits .. ' ' .. set.id)
    drop(set)
  else
    call('HDEL', set.serial, pool.id)
    local part = part_key(pool.id)
    for _, hex in ipairs(part and call('ZRANGE', part, 0, -1) or call('HKEYS', set.holders)) do
      local holder = holder_of_address(set, hex)
      if holder[2] == pool.id then give_back(set, hex, holder) end
    end
  end
  call('UNLINK', root .. 'held:' .. pool.id)
end

local function repeated(claim)
  local owned = get('owned', claim)
  if not owned then return nil end
  if owned.digest ~= ask.digest then return {error = 'differs'} end
  return owned
end

function verbs.reserve()
  local before = not ask.dry_run and repeated(ask.claim)
  if before then return before end
  call('SETNX', root .. 'installation', ask.installation)
  local granted = {}
  for index, want in ipairs(ask.pools) do
    if want.named then
      local clash = clash_of(want, want.named, granted, {})
      if clash then return {error = 'overlap', index = index, clash = clash} end
      granted[index] = want.named
    end
  end
  local all = {}
  for _, pool in pairs(granted) do all[#all + 1] = pool end
  for index, want in ipairs(ask.pools) do
    if not want.named then
      local bits, base = next_predefined(want, all)
      if not bits then
        local bases = {}
        for _, each in ipairs(want.bases) do bases[#bases + 1] = each.bits end
        return {error = 'no_pool', index = index, routes = routes_over(bases, nil, told_routes)}
      end
      granted[index] = predefined_record(want, bits, base)
      all[#all + 1] = granted[index]
    end
  end
  local reply, failed, fresh = {}, nil, {}
  for index, pool in ipairs(granted) do
    local set = address_set(pool.id)
    reply[index] = {pool_id = pool.id, addresses = {}}
    if call('EXISTS', set.users) == 0 then fresh[#fresh + 1] = set end
  end
  for _, named in ipairs({true, false}) do  -- addresses that are named come before such as may be any
    for index, pool in ipairs(granted) do
      for position, wanted in ipairs(ask.pools[index].addresses) do
        if not failed and (wanted.hex ~= nil) == named then
          local hex, why = pick({{set = address_set(pool.id), pool = pool}}, wanted.hex)
          reply[index].addresses[position] = hex
          failed = not hex and why
        end
      end
    end
  end
  for index, pool in ipairs(granted) do
    local want = ask.pools[index]
    if want.named then reply[index].routes = routes_over({pool.bits}, want.device, told_routes) end
  end
  if failed or ask.dry_run then
    undo()
    for _, set in ipairs(fresh) do drop(set) end
    return failed or {pools = reply}
  end
  for index, pool in ipairs(granted) do
    local want, set = ask.pools[index], address_set(pool.id)
    keep_pool(want, pool, ask.claim)
    for position, wanted in ipairs(want.addresses) do
      hold(set, reply[index].addresses[position], pool.id, nil, wanted.use)
    end
    if not want.named then call('HSET', root .. 'turns', want.turn, pool.bits) end
  end
  for _, pool in ipairs(granted) do emit_pool('requested', address_set(pool.id), pool) end
  local reserved = {digest = ask.digest, pools = reply}
  call('HSET', root .. 'owned', ask.claim, cjson.encode(reserved))
  reserved.fresh = true
  return reserved
end

function verbs.release_pool()
  local pool = get('pools', ask.pool_id)
  if not pool then return {error = 'absent', pool_id = ask.pool_id} end
  if pool.owner:sub(1, 2) == 'o:' then return {error = 'owned', label = pool.label} end
  remove_pool(pool)
  return {}
end

local function shown(pool)
  return {shown = pool.shown, usable = pool.usable, in_use = in_use(address_set(pool.id), pool)}
end

function verbs.show()
  local found = {}
  for _, pool_id in ipairs(ask.pool_ids) do
    local pool = get('pools', pool_id)
    if pool then found[#found + 1] = shown(pool) end
  end
  return #found > 0 and {shown = found} or {}
end

function verbs.list()
  local from = '-inf'
  if ask.after then
    local pool = get('pools', ask.after)
    if not pool then return {error = 'absent', pool_id = ask.after} end
    from = '(' .. pool.number
  end
  local found = {}
  for _, pool_id in ipairs(call('ZRANGEBYSCORE', root .. 'order', from, '+inf')) do
    if not ask.space or starts(pool_id, ask.space .. '/') then
      found[#found + 1] = shown(get('pools', pool_id))
      if #found == ask.limit then break end
    end
  end
  return #found > 0 and {shown = found} or {}
end

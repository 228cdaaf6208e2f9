-- The routes of the nodes: predefined pools keep clear of them, and a pool that one begins to overlap is told of. A node's
-- are kept as {prefix: its ways, {by, device} each}.
local function note_route(node, bits, by)
  local member = bits .. ' ' .. node
  if by > 0 then
    call('ZADD', routes, 0, bits)  -- equal scores: the order is that of the bits
    call('ZADD', root .. 'route-nodes', 0, member)
    return
  end
  call('ZREM', root .. 'route-nodes', member)
  local others = call('ZRANGEBYLEX', root .. 'route-nodes', '[' .. bits .. ' ', '[' .. bits .. ' \255', 'LIMIT', 0, 1)
  if #others == 0 then call('ZREM', routes, bits) end
end

local function forget_stale()
  local times = call('HGETALL', root .. 'node-times')
  for i = 1, #times, 2 do
    if times[i] ~= ask.node and times[i + 1] + 0 < now - ask.stale_ms then
      for bits in pairs(get('nodes', times[i]) or {}) do note_route(times[i], bits, -1) end
      call('HDEL', root .. 'nodes', times[i])
      call('HDEL', root .. 'node-times', times[i])
    end
  end
end

-- The ways of a route that were not known before.
local function new_ways(known, ways)
  local before, new = {}, {}
  for _, way in ipairs(known or {}) do before[way.device or ''] = true end
  for _, way in ipairs(ways) do
    if not before[way.device or ''] then new[#new + 1] = way end
  end
  return new
end

-- Calls `visit` with each master that one of some routes overlaps; looked for from whichever side is shorter.
local function each_overlap(new, visit)
  local spaces = call('HKEYS', root .. 'spaces')
  if #new * #spaces <= 2 * call('ZCARD', root .. 'sets') then
    for _, bits in ipairs(new) do
      for _, space in ipairs(spaces) do
        for _, over in ipairs(all_overlapping(tree_of(space), bits)) do visit(bits, space, over) end
      end
    end
    return
  end
  local is_new = {}
  for _, bits in ipairs(new) do is_new[bits] = true end
  for _, member in ipairs(call('ZRANGE', root .. 'sets', 0, -1)) do
    local bits, space = member:match('^(%d+) ([^/]+)')
    for digits = 2, #bits do
      if is_new[bits:sub(1, digits)] then visit(bits:sub(1, digits), space, bits) end
    end
    local index = last_not_after(new, bits) + 1
    while new[index] and starts(new[index], bits) do
      visit(new[index], space, bits)
      index = index + 1
    end
  end
end

function verbs.report()
  forget_stale()
  local known, new, ways = get('nodes', ask.node) or {}, {}, {}
  for bits, all in pairs(ask.routes) do
    ways[bits] = new_ways(known[bits], all)
    if #ways[bits] > 0 then new[#new + 1] = bits end
    if not known[bits] then note_route(ask.node, bits, 1) end
  end
  for bits in pairs(known) do
    if not ask.routes[bits] then note_route(ask.node, bits, -1) end
  end
  call('HSET', root .. 'nodes', ask.node, cjson.encode(ask.routes))
  call('HSET', root .. 'node-times', ask.node, now)
  table.sort(new)
  local touched, pools = {}, {}
  each_overlap(new, function(bits, space, over)
    for _, pool_id in ipairs(users_of(space, over)) do
      local pool = get('pools', pool_id)
      for _, way in ipairs(ways[bits]) do
        if not (pool.device and pool.device == way.device) then
          if not touched[pool_id] then pools[#pools + 1], touched[pool_id] = pool, {} end
          table.insert(touched[pool_id], {bits = bits, way = way})
        end
      end
    end
  end)
  table.sort(pools, function(a, b) return a.number < b.number end)
  for _, pool in ipairs(pools) do
    local conflicts = {}
    table.sort(touched[pool.id], function(a, b) return a.bits < b.bits end)
    for _, each in ipairs(touched[pool.id]) do
      conflicts[#conflicts + 1] = '{"node":' .. cjson.encode(ask.node) .. ',"prefix":"' .. prefix_text(each.bits)
        .. '","by":' .. cjson.encode(each.way.by) .. ',"device":'
        .. (each.way.device and cjson.encode(each.way.device) or 'null') .. '}'
    end
    emit_pool('conflict', address_set(pool.id), pool, ',"conflicts":[' .. table.concat(conflicts, ',') .. ']')
  end
  return {}
end

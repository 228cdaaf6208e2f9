-- The routes of the nodes: predefined pools keep clear of them, and a pool that one begins to overlap is told of.
local function count_route(bits, by)
  local count = call('HINCRBY', root .. 'route-counts', bits, by)
  if count > 0 then return call('ZADD', routes, 0, bits) end  -- equal scores: the order is that of the bits
  call('HDEL', root .. 'route-counts', bits)
  call('ZREM', routes, bits)
end

local function forget_node(node, known)
  for bits in pairs(known) do count_route(bits, -1) end
  call('HDEL', root .. 'nodes', node)
end

function verbs.report()
  local all = call('HGETALL', root .. 'nodes')
  local known = {}
  for i = 1, #all, 2 do
    local node = cjson.decode(all[i + 1])
    if all[i] == ask.node then known = node.routes
    elseif node.time < now - ask.stale_ms then forget_node(all[i], node.routes) end
  end
  local touched, pools = {}, {}
  for bits, route in pairs(ask.routes) do
    if not known[bits] then
      count_route(bits, 1)
      for _, space in ipairs(call('HKEYS', root .. 'spaces')) do
        for _, over in ipairs(all_overlapping(tree_of(space), bits)) do
          for _, pool_id in ipairs(users_of(space, over)) do
            local pool = get('pools', pool_id)
            if not (pool.device and pool.device == route.device) then
              if not touched[pool_id] then pools[#pools + 1], touched[pool_id] = pool, {} end
              table.insert(touched[pool_id], bits)
            end
          end
        end
      end
    end
  end
  for bits in pairs(known) do
    if not ask.routes[bits] then count_route(bits, -1) end
  end
  call('HSET', root .. 'nodes', ask.node, cjson.encode({time = now, routes = ask.routes}))
  table.sort(pools, function(a, b) return a.number < b.number end)
  for _, pool in ipairs(pools) do
    local conflicts = {}
    table.sort(touched[pool.id])
    for _, bits in ipairs(touched[pool.id]) do
      local route = ask.routes[bits]
      conflicts[#conflicts + 1] = '{"node":' .. cjson.encode(ask.node) .. ',"prefix":"' .. prefix_text(bits) .. '","by":'
        .. cjson.encode(route.by) .. ',"device":' .. (route.device and cjson.encode(route.device) or 'null') .. '}'
    end
    emit_pool('conflict', address_set(pool.id), pool, ',"conflicts":[' .. table.concat(conflicts, ',') .. ']')
  end
  return {}
end

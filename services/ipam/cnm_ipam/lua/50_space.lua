-- The pools of a space and the routes of the nodes: what overlaps what, and which predefined pool comes next.
local first_run, longest_run = 4, 256

-- The shortest prefix of a tree that a prefix lies in, itself not counted.
local function around(tree, bits)
  local above = {}
  for digits = 2, #bits - 1 do above[#above + 1] = bits:sub(1, digits) end
  if #above == 0 then return nil end
  for index, score in ipairs(call('ZMSCORE', tree, unpack(above))) do
    if score then return above[index] end
  end
end

local function all_around(tree, bits)
  local above, found = {}, {}
  for digits = 2, #bits - 1 do above[#above + 1] = bits:sub(1, digits) end
  for index, score in ipairs(#above > 0 and call('ZMSCORE', tree, unpack(above)) or {}) do
    if score then found[#found + 1] = above[index] end
  end
  return found
end

local function inside(tree, bits, limit)
  return call('ZRANGEBYLEX', tree, '[' .. bits, '[' .. bits .. '\255', 'LIMIT', 0, limit)
end

local function overlapping(tree, bits)
  return inside(tree, bits, 1)[1] or around(tree, bits)
end

local function all_overlapping(tree, bits)
  local found = all_around(tree, bits)
  for _, within in ipairs(inside(tree, bits, -1)) do found[#found + 1] = within end
  return found
end

local function tree_of(space)
  return root .. 'prefixes:' .. space
end

local routes = root .. 'routes'

-- The last of some prefixes, sorted and apart, that does not come after this one.
local function last_not_after(sorted, bits)
  local low, high = 1, #sorted
  while low <= high do
    local middle = math.floor((low + high) / 2)
    if sorted[middle] <= bits then low = middle + 1 else high = middle - 1 end
  end
  return high
end

-- What keeps a pool from being chosen: the prefix, and the tree when it lies inside the pool.
local function blocking(bits, space, granted)
  for _, other in ipairs(granted) do
    if starts(other.bits, bits) or starts(bits, other.bits) then return other.bits end
  end
  local index = last_not_after(ask.exclude, bits)
  local before, after = ask.exclude[index], ask.exclude[index + 1]
  if before and starts(bits, before) then return before end
  if after and starts(after, bits) then return after end
  for _, tree in ipairs({tree_of(space), routes}) do
    local within = inside(tree, bits, 1)[1]
    if within then return within, tree end
    local over = around(tree, bits)
    if over then return over end
  end
end

-- Goes on from a pool that is taken, past all that stand close behind it; nil at the end of the base.
local function past_run(tree, bits, base)
  local length = first_run
  repeat
    local run = call('ZRANGEBYLEX', tree, '[' .. bits, '[' .. base.bits .. '\255', 'LIMIT', 0, length)
    for _, within in ipairs(run) do
      if starts(within, bits) then
        bits = following_bits(bits)
        if not bits or not starts(bits, base.bits) then return nil end
      elseif within > bits then
        return bits
      end
    end
    local whole = #run == length
    length = math.min(length * 2, longest_run)
  until not whole
  return bits
end

-- The first free pool of a base from `bits` on, before `before` if that is given.
local function next_free(space, base, bits, before, granted)
  local digits = base.size + 1
  while bits and starts(bits, base.bits) and not (before and bits >= before) do
    local block, tree = blocking(bits, space, granted)
    if not block then return bits end
    if tree then
      bits = past_run(tree, bits, base)
    else
      local following = following_bits(#block < #bits and block or bits)
      bits = following and aligned_bits(following, digits)
    end
  end
end

-- The predefined pool that comes next: after the last one handed out at this turn, and once round the bases.
local function next_predefined(want, granted)
  local bases, last, start = want.bases, call('HGET', root .. 'turns', want.turn), nil
  for index, base in ipairs(bases) do
    if last and starts(last, base.bits) then start = index break end
  end
  local function first_of(base, before)
    return next_free(want.space, base, aligned_bits(base.bits, base.size + 1), before, granted)
  end
  if not start then
    for _, base in ipairs(bases) do
      local found = first_of(base)
      if found then return found, base end
    end
    return nil
  end
  local turned, following = bases[start], following_bits(last)
  local split = following and aligned_bits(following, turned.size + 1)
  local found = next_free(want.space, turned, split, nil, granted)
  if found then return found, turned end
  for step = 1, #bases - 1 do
    local base = bases[(start - 1 + step) % #bases + 1]
    found = first_of(base)
    if found then return found, base end
  end
  return first_of(turned, split), turned
end

-- Which routes of which nodes overlap some prefixes, those on a network's own device not counted.
local function routes_over(prefixes, device, limit)
  local found, seen, nodes = {}, {}, {}
  for _, bits in ipairs(prefixes) do
    for _, route in ipairs(all_overlapping(routes, bits)) do
      local users = not seen[route] and call('ZRANGEBYLEX', root .. 'route-nodes', '[' .. route .. ' ', '[' .. route .. ' \255')
      seen[route] = true
      for _, user in ipairs(users or {}) do
        local node = user:sub(#route + 2)
        nodes[node] = nodes[node] or get('nodes', node)
        for _, way in ipairs(nodes[node][route]) do
          if not (device and way.device == device) then
            found[#found + 1] = {node = node, bits = route, by = way.by, device = way.device}
            if #found == limit then return found end
          end
        end
      end
    end
  end
  table.sort(found, function(a, b)
    if a.bits ~= b.bits then return a.bits < b.bits end
    return a.node < b.node
  end)
  return found
end

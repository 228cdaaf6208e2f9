-- How numbers are written. An address is hexadecimal digits of full width, a prefix its family and leading bits
-- ('400001010' is 10.0.0.0/8); both compare as text the way the numbers do, and a prefix lies inside another when it
-- begins with it. A Lua number is exact to 2^53 only.
local function nibble(bits)
  return string.format('%x', tonumber(bits, 2))
end

-- The address that a prefix begins with when the bits it leaves open are '0', ends with when they are '1'.
local function bits_hex(bits, open)
  local width = bits:sub(1, 1) == '4' and 32 or 128
  return ((bits:sub(2) .. open:rep(width + 1 - #bits)):gsub('%d%d%d%d', nibble))
end

-- The prefix of the same length that comes next; none after the last one.
local function following_bits(bits)
  local head, ones = bits:match('^(.*)0(1*)$')
  return head and head .. '1' .. ('0'):rep(#ones)
end

-- The first prefix of so many digits that begins with this one or after it.
local function aligned_bits(bits, digits)
  if #bits <= digits then return bits .. ('0'):rep(digits - #bits) end
  local cut = bits:sub(1, digits)
  return bits:find('1', digits + 1, true) and following_bits(cut) or cut
end

local function following_hex(hex)
  local low = tonumber(hex:sub(-4), 16)
  if low < 65535 then return hex:sub(1, -5) .. string.format('%04x', low + 1) end
  local digits = math.min(#hex - 4, 12)
  local number = string.format('%0' .. digits .. 'x', tonumber(hex:sub(1, -5):sub(-12), 16) + 1)
  return #number == digits and hex:sub(1, -5):sub(1, -13) .. number .. '0000' or nil
end

-- Text of addresses, as RFC 5952 wants it.
local function address_text(hex)
  local words = {}
  if #hex == 8 then
    for i = 1, 8, 2 do words[#words + 1] = tonumber(hex:sub(i, i + 1), 16) end
    return table.concat(words, '.')
  end
  for i = 1, 32, 4 do words[#words + 1] = string.format('%x', tonumber(hex:sub(i, i + 3), 16)) end
  local start, length, run = 0, 1, 0
  for i = 1, 8 do
    run = words[i] == '0' and run + 1 or 0
    if run > length then start, length = i - run + 1, run end
  end
  if start == 0 then return table.concat(words, ':') end
  return table.concat(words, ':', 1, start - 1) .. '::' .. table.concat(words, ':', start + length)
end

local function prefix_text(bits)
  return address_text(bits_hex(bits, '0')) .. '/' .. #bits - 1
end

-- Counts are decimal text, since a Lua number is not exact above 2^53.
local function minus(text, n)
  if #text < 16 then return string.format('%.0f', text - n) end
  local digits, borrow = {}, 0
  for i = #text, 1, -1 do
    local digit = text:byte(i) - 48 - n % 10 - borrow
    n, borrow = math.floor(n / 10), digit < 0 and 1 or 0
    digits[i] = string.format('%d', digit + borrow * 10)
  end
  return (table.concat(digits):gsub('^0+', ''))
end

local function count_text(text)
  local small = #text < 16 or (#text == 16 and text <= '9007199254740992')
  return small and text or '"' .. text .. '"'
end

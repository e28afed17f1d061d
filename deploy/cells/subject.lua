-- The converter `lua.subject`: the claim `sub` of a token's payload, as UTF-8. HAProxy's own json_query does not read \u
-- escapes beyond ASCII, which many issuers write.
--
-- It reads JSON as the services do, and checks nothing: they refuse what is no JSON, and a member that is given twice.

local ESCAPED = {b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", ['"'] = '"', ["\\"] = "\\", ["/"] = "/"}

-- Returns the text of the string that begins at `from` with a quote, and the place after it; nil if it does not end.
local function read_string(json, from)
  local parts, place = {}, from + 1
  while true do
    local stop = json:find('["\\]', place)
    if not stop then return nil end
    parts[#parts + 1] = json:sub(place, stop - 1)
    if json:sub(stop, stop) == '"' then return table.concat(parts), stop + 1 end
    local letter = json:sub(stop + 1, stop + 1)
    if letter == "u" then
      local code = json:match("^%x%x%x%x", stop + 2)
      if not code then return nil end
      code, place = tonumber(code, 16), stop + 6
      local low = json:match("^\\u(%x%x%x%x)", place)
      if code >= 0xD800 and code < 0xDC00 and low then
        low = tonumber(low, 16)
        if low >= 0xDC00 and low < 0xE000 then
          code, place = 0x10000 + (code - 0xD800) * 0x400 + low - 0xDC00, place + 6
        end
      end
      parts[#parts + 1] = utf8.char(code)
    else
      if not ESCAPED[letter] then return nil end
      parts[#parts + 1], place = ESCAPED[letter], stop + 2
    end
  end
end

-- Returns the member `sub` of the outermost object. `name` is the member that is read, also while its value has members.
local function subject(json)
  local depth, place, name = 0, 1, nil
  while true do
    place = json:find('["{}%[%]:,]', place)
    if not place then return nil end
    local mark = json:sub(place, place)
    if mark == '"' then
      local text, after = read_string(json, place)
      if not text then return nil end
      if name == "sub" then return text end
      name = name or text
      place = after
    else
      if mark == "{" or mark == "[" then depth = depth + 1 end
      if mark == "}" or mark == "]" then depth = depth - 1 end
      if mark == "," and depth == 1 then name = nil end
      place = place + 1
    end
  end
end

core.register_converters("subject", subject)

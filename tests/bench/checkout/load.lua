-- What wrk's connections ask for: `wrk ... -- SCENARIO SEED FIRST_COUPON PRODUCTS USERS NUMBER OF keyed|plain [TOKENS]`.
-- NUMBER is this wrk's among OF at work on the same coupons. TOKENS is a file with a line for each user: their token.
-- A request is a string put together here and nothing more, so that the load costs little beside what it measures.

local scenario, first_coupon, coupon_step, products, users, keyed
local tokens = nil
-- Global, so that `done` can ask each thread for them.
coupons, placed, paid, refused, other = 0, 0, 0, 0, 0
local count, run = 0, ""
local to_pay, to_pay_first, to_pay_last = {}, 1, 0
local threads = {}

local STEP = 1000 -- the next line's product lies up to this far above the one before: ids in a request ascend
local HEAD = "POST %s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s"

function setup(thread)
   table.insert(threads, thread)
end

function init(args)
   scenario, first_coupon, coupon_step = args[1], tonumber(args[3]) + tonumber(args[6]), tonumber(args[7])
   products, users, keyed = tonumber(args[4]), tonumber(args[5]), args[8] == "keyed"
   run = args[2]
   if args[9] then
      tokens = {}
      local number = 0
      for line in io.lines(args[9]) do
         tokens["u-" .. number] = "Authorization: Bearer " .. line .. "\r\n"
         number = number + 1
      end
   end
   math.randomseed(tonumber(args[2]))
   if scenario == "later" or scenario == "refusals" then
      response = answered
   end
end

local function post(path, body, user)
   local more = ""
   if keyed then
      count = count + 1
      more = string.format("Idempotency-Key: bench-%s-%d\r\n", run, count)
   end
   if tokens and user then
      more = more .. tokens[user]
   end
   return string.format(HEAD, path, more, #body, body)
end

local function lines()
   if scenario == "hot" then
      return '{"product_id":"hot","quantity":1}'
   end
   local product = math.random(1, products - 2 * STEP)
   local text = string.format('{"product_id":"p-%d","quantity":1}', product)
   for _ = 2, math.random(1, 3) do
      product = product + math.random(1, STEP)
      text = text .. string.format(',{"product_id":"p-%d","quantity":1}', product)
   end
   return text
end

local function order(user, ordered, coupon)
   local later = scenario == "later" and ',"payment":"later"' or ""
   local with = coupon and string.format(',"coupon_id":"%s"', coupon) or ""
   return post("/v1/orders", string.format('{"user_id":"%s","lines":[%s]%s%s}', user, ordered, with, later), user)
end

-- One checkout in five is refused: half of those for want of money, when stock and coupon have to be given back.
local function refused_order()
   local kind = math.random(1, 4)
   local user = "u-" .. math.random(0, users - 1)
   if kind == 1 then
      return order(user, '{"product_id":"sold-out","quantity":1}')
   elseif kind == 2 then
      return order(user, lines(), "expired-" .. string.sub(user, 3))
   end
   return order("poor-" .. math.random(0, 999), lines())
end

function request()
   if to_pay_first <= to_pay_last then
      local order_id = to_pay[to_pay_first]
      to_pay[to_pay_first] = nil
      to_pay_first = to_pay_first + 1
      return post("/v1/orders/" .. order_id .. "/payment", "")
   end
   if scenario == "refusals" and math.random(1, 5) == 1 then
      return refused_order()
   end
   if math.random(1, 10) <= 3 then
      local number = first_coupon + coupons * coupon_step
      coupons = coupons + 1
      return order("u-" .. number % users, lines(), "c-" .. number)
   end
   return order("u-" .. math.random(0, users - 1), lines())
end

-- Costs wrk more than all else, so only the scenarios that need it have it as their `response`.
function answered(status, headers, body)
   if status == 201 then
      placed = placed + 1
      if scenario == "later" then
         to_pay_last = to_pay_last + 1
         to_pay[to_pay_last] = string.match(body, '"order_id":"([^"]+)"')
      end
   elseif status == 200 then
      paid = paid + 1
   elseif status == 400 then
      refused = refused + 1
   else
      other = other + 1
   end
end

function done(summary, latency, requests)
   local sums = {coupons = 0, placed = 0, paid = 0, refused = 0, other = 0}
   for _, thread in ipairs(threads) do
      for name in pairs(sums) do
         sums[name] = sums[name] + thread:get(name)
      end
   end
   local errors = summary.errors
   io.write(string.format('\n{"requests":%d,"seconds":%.6f,"broken":%d,"error_statuses":%d',
      summary.requests, summary.duration / 1e6, errors.connect + errors.read + errors.write + errors.timeout,
      errors.status))
   io.write(string.format(',"mean_us":%.1f,"max_us":%d', latency.mean, latency.max))
   for name, sum in pairs(sums) do
      io.write(string.format(',"%s":%d', name, sum))
   end
   for _, percentile in ipairs({50, 90, 99, 99.9}) do
      io.write(string.format(',"p%s_us":%d', percentile, latency:percentile(percentile)))
   end
   io.write("}\n")
end

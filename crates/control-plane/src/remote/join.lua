-- A join, an update or a leave: what array.rs and array/swarm.rs do, with a bounded number of steps of O(log n).
-- Answers what happened, the peer's token, a scope for each peer that was drawn, and their records.
local swarm, new, token = swarm_of(ARGV[3]), ARGV[4], ARGV[5]
local leaves, wanted, plan = ARGV[6] == 'leave', tonumber(ARGV[7]), ARGV[9]
local entries_max, address_max, network_max, swarms_max =
  tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local open_max, vain_max = tonumber(ARGV[14]), tonumber(ARGV[15])
local LAST = rep('\255', 20)
local id = id_of(new)
local known = call('HGET', swarm.records, id)

if leaves then
  if known and token == token_of(known) then
    take(swarm, known)
    return { 'left', '', '', {} }
  end
  return { 'unknown', '', '', {} }
end

local function has_open_place(r)
  local place = open_place(r)
  return call('ZLEXCOUNT', swarm.order, '[' .. place, '[' .. place .. LAST) < open_max
end
local function may_be_open(r) return scope_of(r) == 3 and not has(r, TAKES_ONLY) end

local function gate_admits(r)
  local site = site_of(r)
  local counts = call('HMGET', GATE, 'all', 'a' .. site, 'n' .. network_of(site))
  local function below(at, max) return tonumber(counts[at] or 0) < max end
  return below(1, entries_max) and below(2, address_max) and below(3, network_max)
end

local function add(r)
  if call('EXISTS', swarm.records) == 0 and call('ZCARD', SIZES) >= swarms_max or not gate_admits(r) then
    return 'full', ''
  end
  r = with(r, OPEN, may_be_open(r) and has_open_place(r))
  call('HSET', swarm.records, id, r)
  call('ZADD', swarm.due, expires_of(r), id)
  call('ZADD', DUE, 'NX', expires_of(r), swarm.content)
  for _, member in ipairs(members(r)) do call('ZADD', swarm.order, 0, member) end
  account(swarm, r, 1)
  return 'listed', token_of(r)
end

-- The peer says something new of itself. Most say nothing new, and then nothing moves. When it is due is not written
-- again: the sweep looks at the record.
local function replace(r)
  r = sub(r, 1, 80) .. token .. sub(r, 89)
  r = with(r, OPEN, may_be_open(r) and (has(known, OPEN) or has_open_place(r)))
  local stays = sub(known, 21, 36) == sub(r, 21, 36) and group_of(known) == group_of(r)
  if stays and table.concat(members(known)) == table.concat(members(r)) then
    call('HSET', swarm.records, id, r)
    if has(known, SEED) ~= has(r, SEED) then tally(swarm.counts, 'seed', has(r, SEED) and 1 or -1) end
    return 'listed', token
  end
  take(swarm, known)
  return add(r)
end

local function same_addresses()
  return sub(known, 21, 52) == sub(new, 21, 52) and sub(known, 69, 80) == sub(new, 69, 80)
    and sub(known, 89, 92) == sub(new, 89, 92) and sub(known, 95, 96) == sub(new, 95, 96)
end

local status, given
if not known then
  status, given = add(new)
elseif expires_of(known) <= now then
  take(swarm, known)
  status, given = add(new)
elseif token == token_of(known) then
  status, given = replace(new)
elseif token == '' and same_addresses() then
  local r = with(known, SEED, has(new, SEED))
  call('HSET', swarm.records, id, sub(r, 1, 97) .. sub(new, 98))
  if has(known, SEED) ~= has(r, SEED) then tally(swarm.counts, 'seed', has(r, SEED) and 1 or -1) end
  status, given = 'renewed', ''
else
  status, given = 'foreign', ''
end

-- Who is told of: the classes of the plan (array/plan.rs), one after the other.
local scopes, drawn, ranks = {}, {}, {}
math.randomseed(tonumber(ARGV[8]))

-- How many stand before a bound.
local function before(bound)
  local rank = ranks[bound]
  if not rank then
    rank = call('ZLEXCOUNT', swarm.order, '-', bound)
    ranks[bound] = rank
  end
  return rank
end

-- The ranks from the first to before the last.
local function stretch(at)
  return before('(' .. sub(plan, at, at + 32)), before('[' .. sub(plan, at + 33, at + 65) .. LAST)
end

local my_group, my_site = group_of(new), site_of(new)
local function fits(r, strangers)
  if not r or expires_of(r) <= now or id_of(r) == id or has(new, SEED) and has(r, SEED) then return false end
  return not strangers or site_of(r) ~= my_site and (my_group == ZEROS or group_of(r) ~= my_group)
end

local function deal(scope, strangers, ranges)
  local total, taken, vain, swapped, all = 0, 0, 0, {}, nil
  for _, range in ipairs(ranges) do total = total + range[2] - range[1] end
  -- Few are read at once, and of many only those that are drawn.
  if total <= 4 * (wanted - #drawn) then
    all = {}
    for _, range in ipairs(ranges) do
      if range[2] > range[1] then
        for _, member in ipairs(call('ZRANGE', swarm.order, range[1], range[2] - 1)) do all[#all + 1] = member end
      end
    end
  end
  local function member(nth)
    if all then return all[nth] end
    for _, range in ipairs(ranges) do
      local length = range[2] - range[1]
      if nth <= length then
        local rank = range[1] + nth - 1
        return call('ZRANGE', swarm.order, rank, rank)[1]
      end
      nth = nth - length
    end
  end
  while #drawn < wanted and taken < total and vain < vain_max do
    local ids = {}
    for n = 1, math.min(wanted - #drawn, total - taken) do
      -- A shuffle that writes down only what it has moved.
      local at = taken + math.random(total - taken)
      taken = taken + 1
      ids[n] = sub(member(swapped[at] or at), 34)
      swapped[at] = swapped[taken] or taken
    end
    for _, r in ipairs(call('HMGET', swarm.records, unpack(ids))) do
      if fits(r, strangers) then
        drawn[#drawn + 1], scopes[#scopes + 1] = r, scope
      else
        vain = vain + 1
      end
    end
  end
end

local at = 1
while at <= #plan and #drawn < wanted do
  local scope, strangers, parts = sub(plan, at, at), sub(plan, at + 1, at + 1) == '\1', string.byte(plan, at + 2)
  at = at + 3
  local ranges = {}
  for _ = 1, parts do
    local first, last = stretch(at)
    if sub(plan, at + 66, at + 66) == '\1' then
      local from, to = stretch(at + 67)
      if from < to then
        ranges[#ranges + 1] = { first, from }
        first = to
      end
    end
    ranges[#ranges + 1] = { first, last }
    at = at + 133
  end
  deal(scope, strangers, ranges)
end
return { status, given, table.concat(scopes), drawn }

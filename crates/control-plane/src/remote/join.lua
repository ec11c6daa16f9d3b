-- A join, an update or a leave: what array.rs and array/swarm.rs do, with a bounded number of steps of O(log n).
-- Answers what happened, the peer's token, a scope for each peer that was drawn, and their records.
local swarm, new, token = swarm_of(ARGV[3]), ARGV[4], ARGV[5]
local leaves, wanted, plan = ARGV[6] == 'leave', tonumber(ARGV[7]), ARGV[9]
local entries_max, address_max, network_max, swarms_max =
  tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local open_max, vain_max = tonumber(ARGV[14]), tonumber(ARGV[15])
local LAST = rep('\255', 20)
-- Pieces that an answer is drawn in.
local RUNS = 8
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
  local place, open = open_place(r), 0
  for _, list in ipairs({ '\6', '\7' }) do
    open = open + call('ZLEXCOUNT', swarm.order, '[' .. list .. place, '[' .. list .. place .. LAST)
  end
  return open < open_max
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
  r = with(r, OPEN, may_be_open(r) and (has(known, OPEN) or has_open_place(r)))
  if sub(known, 1, 97) == sub(r, 1, 97) then
    call('HSET', swarm.records, id, r)
    return 'listed', token_of(r)
  end
  local stays = sub(known, 21, 36) == sub(r, 21, 36) and group_of(known) == group_of(r)
  if stays and table.concat(members(known)) == table.concat(members(r)) then
    call('HSET', swarm.records, id, r)
    if has(known, SEED) ~= has(r, SEED) then tally(swarm.counts, 'seed', has(r, SEED) and 1 or -1) end
    return 'listed', token_of(r)
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
  status, given = replace(sub(new, 1, 80) .. token .. sub(new, 89))
elseif token == '' and same_addresses() then
  status = replace(sub(with(known, SEED, has(new, SEED)), 1, 97) .. sub(new, 98))
  if status == 'listed' then status = 'renewed' end
  given = ''
else
  status, given = 'foreign', ''
end

-- Who is told of: the classes of the plan (array/plan.rs), one after the other.
local scopes, drawn = {}, {}
math.randomseed(tonumber(ARGV[8]))

-- How many stand before a bound.
local all, ranks = call('ZCARD', swarm.order), {}
local function before(bound)
  local rank = ranks[bound]
  if not rank then
    rank = call('ZLEXCOUNT', swarm.order, '-', bound)
    ranks[bound] = rank
  end
  return rank
end

-- The ranks from the first to before the last.
local STRETCH = 88
local function stretch(at)
  local first = before(sub(plan, at, at + 33))
  return first, first == all and all or before(sub(plan, at + 34, at + STRETCH - 1))
end

local my_group, my_site = group_of(new), site_of(new)
local function is_near(r) return site_of(r) == my_site or my_group ~= ZEROS and group_of(r) == my_group end

-- Draws from a class as from a ring of runs: neighbours in the order are read with one call. Where the first run begins is
-- drawn too, so that nobody is drawn less often, or always with the same others.
local function deal(scope, strangers, ranges)
  local total, vain = 0, 0
  for _, range in ipairs(ranges) do total = total + range[2] - range[1] end
  if total == 0 then return end
  local function read(ids, first, last)
    for _, range in ipairs(ranges) do
      local length = range[2] - range[1]
      if last >= 0 and first < length then
        local from, to = range[1] + math.max(first, 0), range[1] + math.min(last, length - 1)
        for _, member in ipairs(call('ZRANGE', swarm.order, from, to)) do ids[#ids + 1] = sub(member, 34) end
      end
      first, last = first - length, last - length
    end
  end
  local run = total <= wanted and total or math.ceil(wanted / RUNS)
  local runs, taken, swapped, begins = math.ceil(total / run), 0, {}, math.random(total) - 1
  while #drawn < wanted and taken < runs and vain < vain_max do
    local ids = {}
    repeat
      -- A shuffle that writes down only what it has moved.
      local at = taken + math.random(runs - taken)
      taken = taken + 1
      local nth = swapped[at] or at
      swapped[at] = swapped[taken] or taken
      local first, last = begins + (nth - 1) * run, begins + math.min(nth * run, total) - 1
      read(ids, first, math.min(last, total - 1))
      if last >= total then read(ids, math.max(first - total, 0), last - total) end
    until taken == runs or #ids >= wanted - #drawn
    for n, r in ipairs(call('HMGET', swarm.records, unpack(ids))) do
      if #drawn == wanted then break end
      if r and ids[n] ~= id and expires_of(r) > now and not (strangers and is_near(r)) then
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
  -- An empty range would reach to the end of the order if it were read.
  local function put(from, to)
    if from < to then ranges[#ranges + 1] = { from, to } end
  end
  for _ = 1, parts do
    local first, last = stretch(at)
    at = at + STRETCH + 1
    if sub(plan, at - 1, at - 1) == '\1' then
      local from, to = stretch(at)
      at = at + STRETCH
      if from < to then
        put(first, from)
        first = to
      end
    end
    put(first, last)
  end
  deal(scope, strangers, ranges)
end
return { status, given, table.concat(scopes), drawn }

-- What both scripts know of swarms. A record is what array/record.rs writes; a member of a swarm's order is a Key there:
-- list and whether it has everything (1), major (16), site (16), peer id (20), all of the same score, so that Redis keeps them in the order of their bytes.
local call, sub, rep = redis.call, string.sub, string.rep
local prefix, now = ARGV[1], tonumber(ARGV[2])
-- Contents, by when somebody in them may have expired; by the number of their peers. Counts by address and network.
local DUE, SIZES, GATE = prefix .. 'due', prefix .. 'sizes', prefix .. 'gate'
-- Groups by the number of their entries, and how many swarms they are in.
local GROUPS, GROUP_SWARMS = prefix .. 'groups', prefix .. 'groupswarms'
local ZEROS, MAPPED = rep('\0', 16), rep('\0', 10) .. '\255\255'
local SEED, TAKES_ONLY, OPEN = 4, 8, 16

local function swarm_of(content)
  local function key(kind) return prefix .. kind .. ':' .. content end
  return { content = content, records = key('record'), order = key('order'), due = key('due'), counts = key('count') }
end

local function id_of(r) return sub(r, 1, 20) end
local function group_of(r) return sub(r, 53, 68) end
local function token_of(r) return sub(r, 81, 88) end
local function has(r, flag) return bit.band(string.byte(r, 97), flag) ~= 0 end
local function scope_of(r) return bit.band(string.byte(r, 97), 3) end
local function expires_of(r) return (struct.unpack('<I4', r, 98)) end
local function with(r, flag, on)
  local flags = bit.band(string.byte(r, 97), bit.bnot(flag))
  return sub(r, 1, 96) .. string.char(on and flags + flag or flags) .. sub(r, 98)
end

local function is_mapped(address) return sub(address, 1, 12) == MAPPED end
local function site_of(r)
  local external = sub(r, 21, 36)
  return is_mapped(external) and external or sub(external, 1, 8) .. sub(ZEROS, 1, 8)
end
local function network_of(site)
  return is_mapped(site) and sub(site, 1, 15) .. '\0' or sub(site, 1, 6) .. sub(ZEROS, 1, 10)
end

-- A list's number, for those who lack something or for those who have everything.
local function list_of(r, number) return string.char(2 * number + (has(r, SEED) and 1 or 0)) end

local function open_place(r) return sub(ZEROS, 1, 14) .. sub(r, 93, 94) .. site_of(r) end

-- Where a record stands in the order: Record::lists and Record::key.
local function members(r)
  local out, scope, group = {}, scope_of(r), group_of(r)
  if has(r, TAKES_ONLY) then return out end
  if scope ~= 2 then
    local place = scope ~= 1 and has(r, OPEN) and list_of(r, 3) .. open_place(r) or list_of(r, 0) .. ZEROS .. site_of(r)
    out[1] = place .. id_of(r)
  end
  if group ~= ZEROS and scope ~= 1 then
    out[#out + 1] = list_of(r, scope == 2 and 1 or 2) .. group .. site_of(r) .. id_of(r)
  end
  return out
end

-- Counts in a hash, which forgets what is zero.
local function tally(key, field, by)
  local count = call('HINCRBY', key, field, by)
  if count == 0 then call('HDEL', key, field) end
  return count
end

-- The same, and how many different ones there are.
local function tally_kind(swarm, kind, field, by)
  local count = tally(swarm.counts, kind .. field, by)
  local changed = count == (by > 0 and 1 or 0)
  if changed then tally(swarm.counts, kind, by) end
  return changed
end

local function rank_among(key, member, by)
  if tonumber(call('ZINCRBY', key, by, member)) <= 0 then call('ZREM', key, member) end
end

local function account(swarm, r, by)
  local site, group = site_of(r), group_of(r)
  tally(GATE, 'all', by)
  tally(GATE, 'a' .. site, by)
  tally(GATE, 'n' .. network_of(site), by)
  rank_among(SIZES, swarm.content, by)
  tally_kind(swarm, 'site', site, by)
  if group ~= ZEROS then
    rank_among(GROUPS, group, by)
    if tally_kind(swarm, 'group', group, by) then tally(GROUP_SWARMS, group, by) end
  end
  if has(r, SEED) then tally(swarm.counts, 'seed', by) end
end

local function take(swarm, r)
  call('HDEL', swarm.records, id_of(r))
  call('ZREM', swarm.due, id_of(r))
  local from = members(r)
  if #from > 0 then call('ZREM', swarm.order, unpack(from)) end
  account(swarm, r, -1)
  if call('EXISTS', swarm.records) == 0 then call('ZREM', DUE, swarm.content) end
end

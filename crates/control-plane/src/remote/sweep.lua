-- Removes what nobody has renewed, so many entries at most; answers how many those were, and whether there is more to do.
-- A swarm is looked at when somebody in it may have expired: who was renewed meanwhile is due later.
local budget, gone = tonumber(ARGV[3]), 0
for _, content in ipairs(call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, budget)) do
  if budget <= 0 then return { gone, 1 } end
  local swarm = swarm_of(content)
  local ids = call('ZRANGEBYSCORE', swarm.due, '-inf', now, 'LIMIT', 0, budget)
  budget = budget - #ids - 1
  for _, id in ipairs(ids) do
    local r = call('HGET', swarm.records, id)
    if not r then
      call('ZREM', swarm.due, id)
    elseif expires_of(r) <= now then
      take(swarm, r)
      gone = gone + 1
    else
      call('ZADD', swarm.due, expires_of(r), id)
    end
  end
  local first = call('ZRANGE', swarm.due, 0, 0, 'WITHSCORES')
  if first[1] then
    call('ZADD', DUE, first[2], content)
  else
    call('ZREM', DUE, content)
  end
end
local due = call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, 1)
return { gone, #due }

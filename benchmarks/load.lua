-- What wrk sends. Arguments: the task, a file with a token on each line, the first of the rows to delete, a seed.
-- The first users read and the last ones write, so that nobody's list grows while it is measured.

local READERS, WRITERS, USERS, ITEMS = 190, 10, 200, 100000
local MIX = { "one", "create", "one", "list100", "me", "one", "change", "list100", "one", "create",
              "delete", "one", "list100", "one", "me", "change", "one", "list100", "create", "one" }
local BODY = '{"title": "Order the paint", "description": "Two tins, white."}'
local CHANGE = '{"title": "Order more paint"}'
local task, doomed, changed = nil, 0, 0
local readers, writers = {}, {}

local function head(token, body)
  local text = " HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " .. token .. "\r\n"
  if body then
    text = text .. "Content-Type: application/json\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body
  else
    text = text .. "\r\n"
  end
  return text
end

-- Only the first line's middle is made for each request: the rest lies ready for each user.
local make = {}

function make.me() return "GET /api/v1/users/me" .. readers[math.random(READERS)] end

function make.list100() return "GET /api/v1/items?limit=100" .. readers[math.random(READERS)] end

function make.one()
  local user = math.random(READERS)
  local row = math.random(0, ITEMS / USERS - 1)
  return "GET /api/v1/items/" .. row * USERS + user .. readers[user]
end

function make.create() return "POST /api/v1/items" .. writers[math.random(READERS + 1, USERS)].create end

-- In turn: two that change one row at the same time would be another test.
function make.change()
  changed = changed % (WRITERS * ITEMS / USERS) + 1
  local user = READERS + 1 + changed % WRITERS
  local row = math.floor((changed - 1) / WRITERS)
  return "PATCH /api/v1/items/" .. row * USERS + user .. writers[user].change
end

-- Each row once. All of them belong to the last user.
function make.delete()
  doomed = doomed + 1
  return "DELETE /api/v1/items/" .. (doomed - 1) .. writers[USERS].delete
end

function init(arguments)
  local tokens, seed
  task, tokens, doomed, seed = arguments[1], arguments[2], tonumber(arguments[3]), tonumber(arguments[4])
  math.randomseed(seed)
  local user = 0
  for token in io.lines(tokens) do
    user = user + 1
    readers[user] = head(token)
    writers[user] = { create = head(token, BODY), change = head(token, CHANGE), delete = head(token) }
  end
end

local turn = 0

function request()
  if task ~= "mix" then return make[task]() end
  turn = turn % #MIX + 1
  return make[MIX[turn]]()
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\nSUMMARY {"requests": %d, "seconds": %.6f, "p50": %.3f, "p99": %.3f, "errors": {"connect": %d, "read": %d, '
      .. '"write": %d, "timeout": %d, "status": %d}}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end

-- A session of a real Neovim: prints one line for each thing that an editor does with a language server. $SESSION has its questions.
local plan = vim.json.decode(table.concat(vim.fn.readfile(vim.env.SESSION), "\n"))
local patience = plan.patience * 1000
local function wait(name, ready)
  if not vim.wait(patience, ready, 100) then
    print("MISSING " .. name)
    vim.cmd("cquit")
  end
end
local function ask(method, line, column)
  local params = { textDocument = vim.lsp.util.make_text_document_params(), position = { line = line, character = column } }
  for _, one in pairs(vim.lsp.buf_request_sync(0, method, params, patience) or {}) do
    return one.result
  end
end
-- A server that still reads the project has no answer.
local function answer(name, method, at, useful)
  local found
  wait(name, function()
    local result = ask(method, at[1], at[2])
    found = type(result) == "table" and useful(result)
    return found
  end)
  return found
end
vim.o.swapfile = false
vim.cmd.edit(plan.open)
local buffer = vim.api.nvim_get_current_buf()
wait("server", function() return #vim.lsp.get_clients({ bufnr = buffer }) == 1 end)
local function one_line(text) return (text:gsub("%s+", " ")) end
local hover = answer("hover", "textDocument/hover", plan.hover, function(result)
  local text = one_line(vim.inspect(result.contents))
  return text:find(plan.hover[3], 1, true) and text
end)
wait("diagnostics", function() return #vim.diagnostic.get(buffer) > 0 end)
local function messages()
  local all = {}
  for _, one in ipairs(vim.diagnostic.get(buffer)) do table.insert(all, one_line(one.message)) end
  return table.concat(all, " | ")
end
-- The first may be those of the syntax alone.
vim.wait(patience, function() return messages():find(plan.diagnostic, 1, true) ~= nil end, 100)
print("\nDIAGNOSTIC " .. messages())
print("\nHOVER " .. hover)
print("\nCOMPLETION " .. answer("completion", "textDocument/completion", plan.completion, function(result)
  for _, item in ipairs(result.items or result) do
    if item.label:find(plan.completion[3], 1, true) then return one_line(item.label) end
  end
end))
local function go(name, at)
  local found = answer(name, "textDocument/definition", at, function(result)
    if result.uri or result.targetUri then return result end
    -- The last one: a stub's comes before the source's.
    return result[#result]
  end)
  vim.lsp.util.show_document(found, "utf-16", { focus = true })
  return vim.api.nvim_buf_get_name(0)
end
print("\nOWN " .. go("definition", plan.own))
vim.cmd.buffer(buffer)
print("\nLIBRARY " .. go("library", plan.library))
local library = vim.api.nvim_get_current_buf()
wait("server of the library", function() return #vim.lsp.get_clients({ bufnr = library }) == 1 end)
print("\nREADONLY " .. tostring(vim.bo.readonly))
print("\nLENGTH " .. vim.api.nvim_buf_line_count(library))
print("\nSERVERS " .. #vim.lsp.get_clients())
-- Longer than a server waits before it looks for the editor's process.
vim.wait(6000, function() return #vim.lsp.get_clients() == 0 end)
print("\nLATER " .. #vim.lsp.get_clients())
vim.cmd("qall!")

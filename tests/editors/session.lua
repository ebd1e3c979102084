-- A session of a real Neovim: prints one line for each thing that an editor does with a language server.
local function wait(name, ready)
  if not vim.wait(120000, ready, 100) then
    print("MISSING " .. name)
    vim.cmd("cquit")
  end
end
local function ask(method, line, column)
  local params = { textDocument = vim.lsp.util.make_text_document_params(), position = { line = line, character = column } }
  local answer = vim.lsp.buf_request_sync(0, method, params, 120000)
  for _, one in pairs(answer or {}) do
    return one.result
  end
end
vim.o.swapfile = false
vim.cmd.edit("x.py")
local buffer = vim.api.nvim_get_current_buf()
wait("server", function() return #vim.lsp.get_clients({ bufnr = buffer }) == 1 end)
wait("diagnostics", function() return #vim.diagnostic.get(buffer) > 0 end)
print("DIAGNOSTIC " .. vim.diagnostic.get(buffer)[1].message:gsub("\n.*", ""))
print("HOVER " .. tostring(vim.inspect(ask("textDocument/hover", 4, 6)):match("def dumps")))
local items = ask("textDocument/completion", 5, 5)
for _, item in ipairs(items.items or items) do
  if item.label == "load" then print("COMPLETION load") end
end
local function go(line, column)
  local found = ask("textDocument/definition", line, column)
  found = found[1] or found
  if not found then return "nothing" end
  vim.lsp.util.show_document(found, "utf-16", { focus = true })
  return vim.api.nvim_buf_get_name(0)
end
print("OWN " .. go(3, 5))
vim.cmd.buffer(buffer)
print("LIBRARY " .. go(4, 6))
local library = vim.api.nvim_get_current_buf()
wait("server of the library", function() return #vim.lsp.get_clients({ bufnr = library }) == 1 end)
print("READONLY " .. tostring(vim.bo.readonly))
local text = vim.api.nvim_buf_get_lines(library, 0, -1, false)
for at, line in ipairs(text) do
  local column = line:find("JSONEncoder", 1, true)
  if line:match("^from .encoder import") or (line:match("encoder") and line:match("^from") and column) then
    print("FURTHER " .. go(at - 1, column - 1))
    break
  end
end
print("SERVERS " .. #vim.lsp.get_clients())
-- Longer than a server waits before it looks for the editor's process.
vim.wait(6000, function() return #vim.lsp.get_clients() == 0 end)
print("LATER " .. #vim.lsp.get_clients())
vim.cmd("qall!")

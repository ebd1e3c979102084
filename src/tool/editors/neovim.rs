//! `.nvim.lua`, which Neovim runs in a project if `exrc` is set and the user trusts the file: one block between two comments.
//!
//! `vim.lsp.start` is there since Neovim 0.8; `vim.lsp.config` since 0.11.

use super::languages::{Direction, Error, Languages};

const BEGIN: &str = "-- silo ide: begin\n";
const END: &str = "-- silo ide: end\n";

pub fn change(file: &'static str, known: &[&Languages], direction: Direction, before: &str) -> Result<String, Error> {
    let mut text = before.to_owned();
    let mut at = text.len();
    if let Some(start) = text.find(BEGIN) {
        let missing = || Error::Invalid { file, reason: format!("`{}` has no end", BEGIN.trim_end()) };
        let end = text[start..].find(END).ok_or_else(missing)?;
        text.replace_range(start..start + end + END.len(), "");
        at = start;
    }
    if direction == Direction::Remove || known.is_empty() {
        return Ok(text);
    }
    if at > 0 && !text[..at].ends_with('\n') {
        text.insert(at, '\n');
        at += 1;
    }
    text.insert_str(at, &block(known));
    Ok(text)
}

fn block(known: &[&Languages]) -> String {
    let mut text = format!("{BEGIN}do\n  local root = vim.fn.getcwd()\n  local servers = {{\n");
    for languages in known {
        let names: Vec<String> = languages.names.iter().map(|name| format!("\"{name}\"")).collect();
        text += &format!("    {{ tool = \"{}\", filetypes = {{ {} }} }},\n", languages.tool, names.join(", "));
    }
    text += r#"  }
  for _, server in ipairs(servers) do
    vim.api.nvim_create_autocmd("FileType", {
      pattern = server.filetypes,
      callback = function(event)
        if vim.bo[event.buf].buftype == "" then
          vim.lsp.start({ name = "silo-" .. server.tool, cmd = { "silo", "lsp", server.tool }, cmd_cwd = root, root_dir = root }, { bufnr = event.buf })
        end
      end,
    })
  end
end
"#;
    text + END
}

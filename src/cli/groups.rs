//! Groups the commands in `silo --help`.

/// The commands of each group, in the order a newcomer needs them. A test checks that none is missing.
const GROUPS: &[(&str, &[&str])] = &[
    ("Tools", &["install", "run", "exec", "x", "shell", "list", "search", "show", "upgrade", "outdated", "uninstall", "lsp", "ide"]),
    ("Projects", &["init", "use", "unuse", "add", "build", "sync", "lock", "current", "projects", "clean"]),
    ("Review", &["review", "apply", "discard"]),
    ("Settings and safety", &["config", "trust", "doctor", "verify"]),
    ("Commands on PATH", &["shellenv", "pin", "unpin", "shim", "which"]),
    ("Look inside", &["why", "graph", "diff", "log", "debug", "sbom", "export"]),
    ("Share", &["push", "pull", "inspect", "tag", "key", "vendor", "challenge"]),
    ("Disk", &["gc", "cache", "prune", "reset"]),
    ("For shells and editors", &["completions", "man", "schema"]),
];

/// Returns clap's help template for `silo --help`.
pub fn template(command: &clap::Command) -> String {
    let width = GROUPS.iter().flat_map(|(_, names)| *names).map(|name| name.len()).max().unwrap_or(0);
    let mut text = "{about-with-newline}\n{usage-heading} {usage}\n".to_owned();
    for (title, names) in GROUPS {
        text += &format!("\n{title}:\n");
        for name in *names {
            let about = command.find_subcommand(name).and_then(|command| command.get_about()).map(ToString::to_string).unwrap_or_default();
            text += &format!("  {name:width$}  {about}\n");
        }
    }
    text + "\nOptions:\n{options}{after-help}\n"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_command_is_in_one_group() {
        let definition = crate::cli::command();
        let commands = definition.get_subcommands().filter(|command| !command.is_hide_set()).map(clap::Command::get_name);
        let grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| *names).copied().collect();
        assert_eq!(grouped.iter().copied().collect::<BTreeSet<_>>(), commands.collect());
        assert_eq!(grouped.len(), grouped.iter().collect::<BTreeSet<_>>().len());
    }
}

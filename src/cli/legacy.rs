//! Commands of older versions and of other programs: each is translated, or the error suggests Silo's command.

use std::ffi::OsString;

use silo_model::document;

use super::{definition, ui};

/// A renamed command.
struct RenamedCommand {
    /// Old name.
    was: &'static [&'static str],
    /// Current name.
    is: &'static [&'static str],
}

/// All renamed commands. The arguments after the name stay unchanged.
const OLDER: &[RenamedCommand] = &[
    RenamedCommand { was: &["setup"], is: &["build"] },
    RenamedCommand { was: &["rebuild"], is: &["build", "--rerun"] },
    RenamedCommand { was: &["pull"], is: &["sync"] },
    RenamedCommand { was: &["status"], is: &["doctor"] },
    RenamedCommand { was: &["config", "add-port"], is: &["config", "ports", "add"] },
    RenamedCommand { was: &["config", "remove-port"], is: &["config", "ports", "remove"] },
];

/// Commands of other programs, with Silo's equivalent.
const CUSTOMARY: &[(&str, &str)] = &[
    ("audit", "verify"),
    ("check", "doctor"),
    ("cleanup", "clean"),
    ("config-show", "config show"),
    ("delete", "uninstall"),
    ("env", "shellenv"),
    ("find", "search"),
    ("freeze", "lock"),
    ("info", "show"),
    ("ls", "list"),
    ("new", "init"),
    ("purge", "gc"),
    ("remove", "uninstall"),
    ("repair", "doctor"),
    ("rm", "uninstall"),
    ("start", "run"),
    ("tools", "list"),
    ("up", "sync"),
    ("update", "upgrade"),
    ("versions", "list --available"),
    ("where", "which"),
];

/// Suggests a command for a word that is no tool: by custom, or by spelling.
pub fn meant(word: &str) -> Option<String> {
    if let Some((_, command)) = CUSTOMARY.iter().find(|(customary, _)| *customary == word) {
        return Some((*command).to_owned());
    }
    let definition = definition::command();
    let commands: Vec<&str> = definition.get_subcommands().filter(|command| !command.is_hide_set()).map(clap::Command::get_name).collect();
    document::nearest(word, &commands).filter(|near| near.len() > 2).map(str::to_owned)
}

/// Returns the first words of old commands; no tool can have these names.
pub fn words() -> impl Iterator<Item = &'static str> {
    OLDER.iter().map(|older| older.was[0])
}

/// Returns the names that no tool can have, because they are commands.
pub fn reserved() -> Vec<String> {
    let definition = definition::command();
    let names = definition.get_subcommands().flat_map(|command| command.get_name_and_visible_aliases());
    let names: Vec<String> = names.map(str::to_owned).collect();
    names.into_iter().chain(words().chain(["help", "version"]).map(str::to_owned)).collect()
}

/// Translates an old command line, and notes the new spelling.
pub fn translated(args: Vec<OsString>) -> Vec<OsString> {
    let at = first_word(&args);
    let args = as_options(args, at);
    let is_called = |older: &&RenamedCommand| args[at..].iter().zip(older.was).filter(|(arg, was)| arg == was).count() == older.was.len();
    let Some(older) = OLDER.iter().find(is_called).filter(|_| !names_an_image(&args[at..])) else {
        return build_order(shim_order(args, at), at);
    };
    ui::note(&format!("`silo {}` is now `silo {}`", older.was.join(" "), older.is.join(" ")));
    let is = older.is.iter().map(OsString::from);
    let args = args[..at].iter().cloned().chain(is).chain(args[at + older.was.len()..].iter().cloned()).collect();
    build_order(args, at)
}

/// Returns true for `pull` with an image, or with a request for help: without one it was the older word for `sync`.
fn names_an_image(args: &[OsString]) -> bool {
    let is_option = |arg: &OsString| arg.as_encoded_bytes().starts_with(b"-");
    let is_help = |arg: &OsString| arg == "--help" || arg == "-h";
    args.first().is_some_and(|word| word == "pull") && args[1..].iter().any(|arg| !is_option(arg) || is_help(arg))
}

/// Turns the words `help` and `version`, which most programs have as commands, into options.
fn as_options(args: Vec<OsString>, at: usize) -> Vec<OsString> {
    let (before, after) = args.split_at(at);
    match after.split_first() {
        Some((word, rest)) if word == "help" => before.iter().chain(rest).cloned().chain(["--help".into()]).collect(),
        Some((word, [])) if word == "version" => before.iter().cloned().chain(["--version".into()]).collect(),
        _ => args,
    }
}

/// Moves the options of `build` between the tool and the command before the tool. No program name starts with a dash, so they can only be
/// Silo's. Also joins `--remove 2` to `--remove=2`, so that the number cannot be taken for the tool.
fn build_order(args: Vec<OsString>, at: usize) -> Vec<OsString> {
    if args.get(at).is_none_or(|word| word != "build") {
        return args;
    }
    let mut words = args[at + 1..].iter().cloned().peekable();
    let mut options = Vec::new();
    let mut tool = None;
    while let Some(word) = words.peek() {
        let text = word.to_string_lossy().into_owned();
        match option(&text) {
            Some(takes) => {
                let mut option = words.next().unwrap_or_default();
                let number = words.peek().is_some_and(|next| !next.is_empty() && next.as_encoded_bytes().iter().all(u8::is_ascii_digit));
                if text == "--remove" && number {
                    option.push("=");
                    option.push(words.next().unwrap_or_default());
                }
                options.push(option);
                options.extend(takes.then(|| words.next()).flatten());
            }
            None if tool.is_none() && !text.starts_with('-') => tool = words.next(),
            None => break,
        }
    }
    args[..=at].iter().cloned().chain(options).chain(tool).chain(words).collect()
}

/// Returns `None` if the word is no option of `build`, else true if the next word is its value.
fn option(word: &str) -> Option<bool> {
    let definition = definition::command();
    let build = definition.find_subcommand("build")?;
    let name = word.strip_prefix("--")?;
    let (name, has_value) = name.split_once('=').map_or((name, false), |(name, _)| (name, true));
    let names = |arg: &clap::Arg| {
        arg.get_long_and_visible_aliases().is_some_and(|names| names.contains(&name))
            || arg.get_all_aliases().is_some_and(|names| names.contains(&name))
    };
    let arg = build.get_opts().chain(definition.get_opts()).find(|arg| names(arg))?;
    Some(arg.get_action().takes_values() && !arg.is_require_equals_set() && !has_value)
}

/// Turns `shim <tool> add …` into `shim add <tool> …`: both are accepted.
fn shim_order(mut args: Vec<OsString>, at: usize) -> Vec<OsString> {
    const ACTIONS: [&str; 3] = ["add", "remove", "list"];
    let is_action = |at: usize| args.get(at).is_some_and(|word| ACTIONS.iter().any(|action| word == action));
    if args.get(at).is_some_and(|word| word == "shim") && !is_action(at + 1) && is_action(at + 2) {
        args.swap(at + 1, at + 2);
    }
    args
}

/// Returns the index of the first word that is no option. The value of `--platform`, if it is a word of its own, counts as that word.
pub fn first_word(args: &[OsString]) -> usize {
    let is_option = |arg: &&OsString| arg.as_encoded_bytes().starts_with(b"-");
    let options = args.iter().skip(1).take_while(is_option).count();
    (1 + options).min(args.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_words_become_todays() {
        definition::register(crate::cli::command);
        for (args, expect) in [
            ("silo setup node npm install", "silo build node npm install"),
            ("silo rebuild node", "silo build --rerun node"),
            ("silo --quiet pull --dry-run", "silo --quiet sync --dry-run"),
            ("silo pull", "silo sync"),
            ("silo pull --json registry.example.com/x:1", "silo pull --json registry.example.com/x:1"),
            ("silo pull --help", "silo pull --help"),
            ("silo config add-port web 1:2", "silo config ports add web 1:2"),
            ("silo config show", "silo config show"),
            ("silo build node npm i --global typescript", "silo build node npm i --global typescript"),
            ("silo build node --global npm i", "silo build --global node npm i"),
            ("silo build node --network a.example npm i", "silo build --network a.example node npm i"),
            ("silo build --network=a.example node npm", "silo build --network=a.example node npm"),
            ("silo build node --remove", "silo build --remove node"),
            ("silo build --remove 2 node", "silo build --remove=2 node"),
            ("silo build --remove node", "silo build --remove node"),
            ("silo build --all --rerun", "silo build --all --rerun"),
            ("silo build node -- npm i", "silo build node -- npm i"),
            ("silo build sh -c x", "silo build sh -c x"),
            ("silo run setup x", "silo run setup x"),
            ("silo shim python add x", "silo shim add python x"),
            ("silo shim add python x", "silo shim add python x"),
            ("silo shim python list", "silo shim list python"),
            ("silo shim list", "silo shim list"),
            ("silo help", "silo --help"),
            ("silo -q help config ports", "silo -q config ports --help"),
            ("silo version", "silo --version"),
            ("silo run help", "silo run help"),
            ("silo --quiet", "silo --quiet"),
            ("silo", "silo"),
        ] {
            let args: Vec<OsString> = args.split(' ').map(OsString::from).collect();
            let expect: Vec<OsString> = expect.split(' ').map(OsString::from).collect();
            assert_eq!(translated(args), expect);
        }
        assert!(translated(Vec::new()).is_empty());
    }

    #[test]
    fn customary_and_mistyped_words_lead_to_commands() {
        definition::register(crate::cli::command);
        for (word, expect) in [
            ("ls", Some("list")),
            ("update", Some("upgrade")),
            ("remove", Some("uninstall")),
            ("instal", Some("install")),
            ("unistall", Some("uninstall")),
            ("shel", Some("shell")),
            ("confg", Some("config")),
            ("ab", None),
            ("elephant", None),
        ] {
            assert_eq!(meant(word).as_deref(), expect, "{word}");
        }
        let definition = crate::cli::command();
        for (_, command) in CUSTOMARY {
            let first = command.split(' ').next().unwrap_or_default();
            assert!(definition.find_subcommand(first).is_some(), "{command}");
        }
        assert!(CUSTOMARY.iter().all(|(word, _)| definition.find_subcommand(word).is_none()));
    }
}

//! Interprets the words of a run: the tool, its program, the arguments. Pure.
//!
//! The first word is a tool, or a command of exactly one tool. Everything after it goes to the program unchanged, with three exceptions
//! that users rely on. A `--` right after the tool is dropped, as in older versions. A first argument that is another command of the same
//! tool selects it (`node npm run dev`). Silo's own options between the tool and a `--`, as older scripts have them, belong to silo
//! ([`older_options`]).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

/// Commands of one tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commands {
    /// The tool's own command.
    pub command: Vec<String>,
    /// Default arguments, if none are typed.
    pub arguments: Vec<String>,
    /// True if the command is only a default, like CMD of an image without an ENTRYPOINT: a named program replaces it.
    pub is_default: bool,
    /// Other commands, by their typed name.
    pub shims: BTreeMap<String, Vec<String>>,
    /// Commands of the tools that this tool is built on. They are in its image, but they are no names of this tool.
    pub inherited: BTreeMap<String, Vec<String>>,
}

/// The candidate tools with their commands, by name.
pub type Known = BTreeMap<String, Commands>;

/// The typed words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypedWords<'a> {
    /// A tool, or a command of one.
    pub word: &'a str,
    /// Value of `--shim`.
    pub program: Option<OsString>,
    /// Everything after the first word.
    pub rest: Vec<OsString>,
}

/// The interpretation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedCommand {
    /// Tool.
    pub tool: String,
    /// Program and arguments; empty for the image's own command.
    pub argv: Vec<OsString>,
    /// Another tool that has the first argument as a command.
    pub other: Option<String>,
}

/// Reason why the words have no meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// No tool or command has this name.
    Unknown,
    /// Several tools have this command.
    Several(Vec<String>),
}

/// Interprets the typed words.
pub fn meaning(mut typed: TypedWords<'_>, known: &Known) -> Result<ParsedCommand, ParseError> {
    let (tool, commands, by_shim) = find(typed.word, known)?;
    // Older versions needed a `--` after the tool; it never belonged to the program.
    if typed.rest.first().is_some_and(|first| first == "--") {
        typed.rest.remove(0);
    }
    let mut other = None;
    let argv = match (typed.program, by_shim) {
        (Some(program), _) => named(tool, commands, &program, &typed.rest),
        (None, true) => owned(&commands.shims[typed.word]),
        (None, false) => match sibling(tool, commands, typed.rest.first()) {
            Some(words) => {
                typed.rest.remove(0);
                owned(words)
            }
            None => {
                other = elsewhere(tool, commands, known, typed.rest.first());
                own(commands, &typed.rest)
            }
        },
    };
    Ok(ParsedCommand { tool: tool.to_owned(), argv: argv.into_iter().chain(typed.rest).collect(), other })
}

/// The tool's own command, with its default arguments if none are typed.
fn own(commands: &Commands, typed: &[OsString]) -> Vec<OsString> {
    let usual = if typed.is_empty() { &commands.arguments[..] } else { &[] };
    commands.command.iter().chain(usual).map(OsString::from).collect()
}

/// Returns the command line of a program named by the user, before the typed arguments: a command of the tool, or the words themselves.
pub fn named(tool: &str, commands: &Commands, program: &OsStr, typed: &[OsString]) -> Vec<OsString> {
    let Some(text) = program.to_str() else { return vec![program.to_owned()] };
    match commands.shims.get(text) {
        Some(words) => owned(words),
        None if text == tool => own(commands, typed),
        None => text.split_whitespace().map(OsString::from).collect(),
    }
}

fn find<'a>(word: &str, known: &'a Known) -> Result<(&'a str, &'a Commands, bool), ParseError> {
    if let Some((tool, commands)) = known.get_key_value(word) {
        return Ok((tool, commands, false));
    }
    let owners: Vec<(&String, &Commands)> = known.iter().filter(|(_, commands)| commands.shims.contains_key(word)).collect();
    match owners.as_slice() {
        [] => Err(ParseError::Unknown),
        [(tool, commands)] => Ok((tool, commands, true)),
        several => Err(ParseError::Several(several.iter().map(|(tool, _)| (*tool).clone()).collect())),
    }
}

/// Returns the command of the same tool that the first argument names, unless it is the one that runs anyway.
fn sibling<'a>(tool: &str, commands: &'a Commands, first: Option<&OsString>) -> Option<&'a [String]> {
    let runs_anyway = |first: &str| first == tool || commands.command.first().is_some_and(|own| own == first);
    let first = first?.to_str().filter(|first| commands.is_default || !runs_anyway(first))?;
    commands.shims.get(first).or_else(|| commands.inherited.get(first)).map(Vec::as_slice)
}

/// Returns another tool that has the first argument as a command, if this tool does not have it.
fn elsewhere(tool: &str, commands: &Commands, known: &Known, first: Option<&OsString>) -> Option<String> {
    let has_it = |first: &str| commands.shims.contains_key(first) || commands.inherited.contains_key(first);
    let first = first?.to_str().filter(|first| *first != tool && !has_it(first))?;
    let has = |commands: &Commands| commands.shims.contains_key(first);
    known.iter().find(|(name, commands)| name.as_str() == first || has(commands)).map(|(name, _)| name.clone())
}

fn owned(words: &[String]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// Silo's options between the tool and a `--`, as in older scripts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LegacyOptions {
    /// `--timing`.
    pub timing: bool,
    /// `--ssh-agent`.
    pub ssh_agent: bool,
    /// `--shim`.
    pub program: Option<OsString>,
}

/// Parses silo's options between the tool and the first `--`. Returns `None` if there is anything else.
pub fn older_options(rest: &[OsString]) -> Option<(LegacyOptions, &[OsString])> {
    let mut older = LegacyOptions::default();
    let mut words = rest.iter().enumerate();
    while let Some((at, word)) = words.next() {
        match word.to_str()? {
            "--" => return (at > 0).then(|| (older, &rest[at + 1..])),
            "--timing" => older.timing = true,
            "--ssh-agent" => older.ssh_agent = true,
            "--shim" => older.program = Some(words.next()?.1.clone()),
            word => older.program = Some(word.strip_prefix("--shim=")?.into()),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        let commands = |command: &str, shims: &[&str]| Commands {
            command: vec![command.to_owned()],
            shims: shims.iter().map(|name| ((*name).to_owned(), vec![(*name).to_owned()])).collect(),
            ..Commands::default()
        };
        let mut known = Known::from([
            ("python".to_owned(), commands("python3", &["python", "python3", "pip", "py"])),
            ("python2".to_owned(), commands("python2", &["py"])),
            ("node".to_owned(), commands("node", &["node", "npm"])),
            ("claude-code".to_owned(), commands("claude", &["claude"])),
        ]);
        let words = ["python", "-m", "IPython"].map(str::to_owned).to_vec();
        known.get_mut("python").expect("there").shims.insert("ipython".to_owned(), words);
        known.insert("server".to_owned(), Commands { arguments: vec!["--port".to_owned(), "80".to_owned()], ..commands("serve", &[]) });
        let inherited = commands("", &["node", "npm", "browser"]).shims;
        known.insert("browser".to_owned(), Commands { inherited, ..commands("browser", &["browser"]) });
        known.insert("image".to_owned(), Commands { is_default: true, ..commands("sh", &["sh", "ls"]) });
        known
    }

    fn describe(words: &[&str]) -> String {
        let typed = TypedWords { word: words[0], program: None, rest: words[1..].iter().map(OsString::from).collect() };
        match meaning(typed, &known()) {
            Ok(meant) => {
                let argv: Vec<String> = meant.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
                format!("{}: {}{}", meant.tool, argv.join(" "), meant.other.map_or_else(String::new, |other| format!(" ({other}?)")))
            }
            Err(unclear) => format!("{unclear:?}"),
        }
    }

    #[test]
    fn words_mean_a_tool_one_of_its_commands_and_arguments() {
        for (words, expect) in [
            (&["python", "-c", "x"][..], "python: python3 -c x"),
            (&["pip", "install", "--", "x"], "python: pip install -- x"),
            (&["ipython", "x"], "python: python -m IPython x"),
            (&["node", "npm", "run", "dev", "--", "--port", "3"], "node: npm run dev -- --port 3"),
            (&["node", "--", "npm", "ci"], "node: npm ci"),
            (&["node", "node", "x"], "node: node node x"),
            (&["npm", "node"], "node: npm node"),
            (&["python", "ipython"], "python: python -m IPython"),
            (&["node", "python", "a.py"], "node: node python a.py (python?)"),
            (&["node", "claude"], "node: node claude (claude-code?)"),
            (&["node", ""], "node: node "),
            (&["claude-code", "-p"], "claude-code: claude -p"),
            (&["server"], "server: serve --port 80"),
            (&["server", "-v"], "server: serve -v"),
            (&["image"], "image: sh"),
            (&["image", "-c", "x"], "image: sh -c x"),
            (&["image", "ls", "/"], "image: ls /"),
            (&["image", "sh", "-c", "x"], "image: sh -c x"),
            (&["browser", "node", "s.js"], "browser: node s.js"),
            (&["browser", "npm", "ci"], "browser: npm ci"),
            (&["browser", "browser"], "browser: browser browser"),
            (&["py"], "Several([\"python\", \"python2\"])"),
            (&["ruby"], "Unknown"),
        ] {
            assert_eq!(describe(words), expect, "{words:?}");
        }
    }

    #[test]
    fn older_options_stand_alone_before_a_double_dash() {
        let words = |text: &str| text.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        let some = |timing, program: Option<&str>| Some(LegacyOptions { timing, ssh_agent: false, program: program.map(OsString::from) });
        for (rest, expect, left) in [
            ("--timing -- --version", some(true, None), "--version"),
            ("--shim pip -- x", some(false, Some("pip")), "x"),
            ("--shim=pip --timing --", some(true, Some("pip")), ""),
            ("-- --timing -- x", None, ""),
            ("x --timing -- y", None, ""),
            ("--timing x -- y", None, ""),
            ("--timing", None, ""),
            ("--shim", None, ""),
            ("", None, ""),
        ] {
            let rest = words(rest);
            let found = older_options(&rest);
            assert_eq!(found.as_ref().map(|(older, _)| older.clone()), expect, "{rest:?}");
            assert_eq!(found.map_or(Vec::new(), |(_, left)| left.to_vec()), words(left), "{rest:?}");
        }
    }
}

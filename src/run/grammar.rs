//! What the words of a run mean: which tool, which of its programs, with which arguments. Pure.
//!
//! The first word is a tool, or a command of just one tool. Everything after it is the program's, byte for byte, with
//! three exceptions that users rely on: a `--` right after the tool is dropped, as older habits put one there; a first
//! argument that is another command of the same tool is that command (`node npm run dev`); and silo's own options
//! between the tool and a `--`, where older scripts have them ([`older_options`]), are silo's.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

/// The commands of one tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commands {
    /// The tool's own.
    pub command: Vec<String>,
    /// Its arguments where none are typed.
    pub arguments: Vec<String>,
    /// Whether it is no more than a default, as CMD of an image without an ENTRYPOINT: a program that is named replaces it.
    pub is_default: bool,
    /// The others, by the name that is typed.
    pub shims: BTreeMap<String, Vec<String>>,
}

/// Tools with their commands, by name: all that could be meant.
pub type Known = BTreeMap<String, Commands>;

/// What was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Typed<'a> {
    /// The tool, or a command of one.
    pub word: &'a str,
    /// The program that was asked for by an option.
    pub program: Option<OsString>,
    /// Everything after the word.
    pub rest: Vec<OsString>,
}

/// What it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meant {
    /// The tool.
    pub tool: String,
    /// The program and its arguments; without a program, the image's own.
    pub argv: Vec<OsString>,
    /// The tool that the first argument is a command of, where that is another.
    pub other: Option<String>,
}

/// Why it means nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unclear {
    /// No tool is called so, nor any command of one.
    Unknown,
    /// Several tools have such a command.
    Several(Vec<String>),
}

/// Finds out what was meant.
pub fn meaning(mut typed: Typed<'_>, known: &Known) -> Result<Meant, Unclear> {
    let (tool, commands, by_shim) = find(typed.word, known)?;
    // Older habits put a `--` after the tool; it was never meant for the program.
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
    Ok(Meant { tool: tool.to_owned(), argv: argv.into_iter().chain(typed.rest).collect(), other })
}

/// The tool's own command, with its usual arguments where none are typed.
fn own(commands: &Commands, typed: &[OsString]) -> Vec<OsString> {
    let usual = if typed.is_empty() { &commands.arguments[..] } else { &[] };
    commands.command.iter().chain(usual).map(OsString::from).collect()
}

/// Returns what a program that is asked for by name is, before the arguments that are typed: a command of the tool, or these very
/// words.
pub fn named(tool: &str, commands: &Commands, program: &OsStr, typed: &[OsString]) -> Vec<OsString> {
    let Some(text) = program.to_str() else { return vec![program.to_owned()] };
    match commands.shims.get(text) {
        Some(words) => owned(words),
        None if text == tool => own(commands, typed),
        None => text.split_whitespace().map(OsString::from).collect(),
    }
}

fn find<'a>(word: &str, known: &'a Known) -> Result<(&'a str, &'a Commands, bool), Unclear> {
    if let Some((tool, commands)) = known.get_key_value(word) {
        return Ok((tool, commands, false));
    }
    let owners: Vec<(&String, &Commands)> = known.iter().filter(|(_, commands)| commands.shims.contains_key(word)).collect();
    match owners.as_slice() {
        [] => Err(Unclear::Unknown),
        [(tool, commands)] => Ok((tool, commands, true)),
        several => Err(Unclear::Several(several.iter().map(|(tool, _)| (*tool).clone()).collect())),
    }
}

/// The command that the first argument is, where it is one of the same tool's and not what runs anyway.
fn sibling<'a>(tool: &str, commands: &'a Commands, first: Option<&OsString>) -> Option<&'a [String]> {
    let runs_anyway = |first: &str| first == tool || commands.command.first().is_some_and(|own| own == first);
    let first = first?.to_str().filter(|first| commands.is_default || !runs_anyway(first))?;
    commands.shims.get(first).map(Vec::as_slice)
}

/// The tool that the first argument is a command of, where that is only others.
fn elsewhere(tool: &str, commands: &Commands, known: &Known, first: Option<&OsString>) -> Option<String> {
    let first = first?.to_str().filter(|first| *first != tool && !commands.shims.contains_key(*first))?;
    let has = |commands: &Commands| commands.shims.contains_key(first);
    known.iter().find(|(name, commands)| name.as_str() == first || has(commands)).map(|(name, _)| name.clone())
}

fn owned(words: &[String]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// Options of silo's that older scripts have between the tool and a `--`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Older {
    /// `--timing`.
    pub timing: bool,
    /// `--ssh-agent`.
    pub ssh_agent: bool,
    /// `--shim`.
    pub program: Option<OsString>,
}

/// Takes silo's options from between the tool and the first `--`, where nothing else stands there.
pub fn older_options(rest: &[OsString]) -> Option<(Older, &[OsString])> {
    let mut older = Older::default();
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
        known.insert("image".to_owned(), Commands { is_default: true, ..commands("sh", &["sh", "ls"]) });
        known
    }

    fn told(words: &[&str]) -> String {
        let typed = Typed { word: words[0], program: None, rest: words[1..].iter().map(OsString::from).collect() };
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
            (&["py"], "Several([\"python\", \"python2\"])"),
            (&["ruby"], "Unknown"),
        ] {
            assert_eq!(told(words), expect, "{words:?}");
        }
    }

    #[test]
    fn older_options_stand_alone_before_a_double_dash() {
        let words = |text: &str| text.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        let some = |timing, program: Option<&str>| Some(Older { timing, ssh_agent: false, program: program.map(OsString::from) });
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

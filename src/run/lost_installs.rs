//! Notes installs that disappear with the sandbox: `pip install` without an environment, `npm install -g` and others.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use silo_launch::spec::Spec;

/// A command that installs outside of the project.
struct Rule {
    /// Programs with this command.
    programs: &'static [&'static str],
    /// Words of the command in order; each entry lists alternatives.
    words: &'static [&'static [&'static str]],
    /// Options, of which one must be given; empty if none is needed.
    wanted: &'static [&'static str],
    /// Options that install elsewhere or not at all.
    elsewhere: &'static [&'static str],
    /// A variable that selects a place in the project.
    variable: Option<&'static str>,
    /// Target directory in the home directory, if it has one.
    place: Option<&'static str>,
    /// Alternative to a build.
    way: &'static str,
}

/// Options that only print.
const TALK: &[&str] = &["--help", "-h", "--dry-run"];

const RULES: &[Rule] = &[
    Rule {
        programs: &["pip", "pip3"],
        words: &[&["install"]],
        wanted: &[],
        elsewhere: &["-t", "--target", "--prefix", "--root", "--python"],
        variable: Some("VIRTUAL_ENV"),
        place: None,
        way: "`silo python -m venv .venv` makes an environment for it in the project",
    },
    Rule {
        programs: &["npm", "pnpm"],
        words: &[&["install", "i", "add", "in", "update", "link"]],
        wanted: &["-g", "--global", "--location=global"],
        elsewhere: &["--prefix", "--dir"],
        variable: None,
        place: None,
        way: "without --global it goes into the project's node_modules",
    },
    Rule {
        programs: &["yarn"],
        words: &[&["global"], &["add", "upgrade"]],
        wanted: &[],
        elsewhere: &["--prefix"],
        variable: None,
        place: None,
        way: "`yarn add` puts it into the project's node_modules",
    },
    Rule {
        programs: &["gem"],
        words: &[&["install", "i", "update"]],
        wanted: &[],
        elsewhere: &["-i", "--install-dir"],
        variable: Some("GEM_HOME"),
        place: None,
        way: "a Gemfile with `bundle install --path vendor` keeps it in the project",
    },
    Rule {
        programs: &["cargo"],
        words: &[&["install"]],
        wanted: &[],
        elsewhere: &["--root", "--list"],
        variable: Some("CARGO_INSTALL_ROOT"),
        place: Some(".cargo/bin"),
        way: "`cargo install --root .cargo-root` keeps it in the project",
    },
    Rule {
        programs: &["go"],
        words: &[&["install"]],
        wanted: &[],
        elsewhere: &["-n"],
        variable: Some("GOBIN"),
        place: Some("go/bin"),
        way: "`go get -tool` keeps it in the project's go.mod",
    },
    Rule {
        programs: &["pipx"],
        words: &[&["install", "inject", "upgrade"]],
        wanted: &[],
        elsewhere: &[],
        variable: Some("PIPX_HOME"),
        place: Some(".local/share/pipx"),
        way: "`silo python -m venv .venv` and `pip install` keep it in the project",
    },
    Rule {
        programs: &["uv"],
        words: &[&["tool"], &["install", "upgrade"]],
        wanted: &[],
        elsewhere: &[],
        variable: Some("UV_TOOL_DIR"),
        place: Some(".local/share/uv"),
        way: "`uv add` keeps it in the project",
    },
];

/// Describes an install that disappears with its sandbox, and names two ways to keep it.
pub fn lost(spec: &Spec, tool: &str) -> Option<String> {
    let (program, args) = called(&spec.argv)?;
    let rule = RULES.iter().find(|rule| rule.programs.contains(&program.as_str()) && applies(rule, spec, &args))?;
    let words: Vec<String> = std::iter::once(program).chain(args.into_iter().map(|word| quoted(&word))).collect();
    Some(format!("this install is gone with the sandbox; to keep it, `silo build {tool} {}` bakes it in, or {}", words.join(" "), rule.way))
}

/// Returns the program by its bare name, with its arguments: `pip` for `/usr/bin/pip3.13` and for `python3 -m pip`.
fn called(argv: &[OsString]) -> Option<(String, Vec<String>)> {
    let words: Option<Vec<&str>> = argv.iter().map(|word| word.to_str()).collect();
    let words = words?;
    let program = Path::new(words.first()?).file_name().and_then(OsStr::to_str)?;
    let bare = program.trim_end_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    match (bare, words.get(1..)) {
        ("python", Some(["-m", module, rest @ ..])) => Some(((*module).to_owned(), owned(rest))),
        (_, Some(rest)) => Some((bare.to_owned(), owned(rest))),
        (_, None) => None,
    }
}

fn applies(rule: &Rule, spec: &Spec, args: &[String]) -> bool {
    let has =
        |options: &[&str]| args.iter().any(|arg| options.iter().any(|option| arg == option || arg.starts_with(&format!("{option}="))));
    let mut words = args.iter().filter(|arg| !arg.starts_with('-'));
    let commands = rule.words.iter().all(|any| words.next().is_some_and(|word| any.contains(&word.as_str())));
    let is_kept = |place: &str| {
        let home = spec.env.get(OsStr::new("HOME")).map_or_else(|| Path::new("/"), Path::new);
        let place = home.join(place);
        spec.mounts.iter().any(|mount| place.starts_with(&mount.guest))
    };
    let named = rule.variable.is_some_and(|variable| spec.env.contains_key(OsStr::new(variable)));
    let wanted = rule.wanted.is_empty() || has(rule.wanted);
    commands && wanted && !has(rule.elsewhere) && !has(TALK) && !named && !rule.place.is_some_and(is_kept)
}

/// Quotes a word for a shell.
pub fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:=@,+%".contains(letter);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::spec::{Parts, assemble};
    use crate::run::user::{Accounts, User};
    use silo_launch::spec::{Access, Mount};

    #[test]
    fn installs_outside_of_the_project_are_lost() {
        let user = User { uid: 1, gid: 1, name: "me".to_owned(), home: "/home/me".into() };
        let check = |words: &str, variable: Option<&str>, kept: Option<&str>, expect: Option<&str>| {
            let mut env = std::collections::BTreeMap::from([(OsString::from("HOME"), OsString::from("/home/me"))]);
            env.extend(variable.map(|name| (name.into(), "/p/x".into())));
            let mount = |guest: &str| Mount { host: Path::new("/h").into(), guest: guest.into(), access: Access::ReadWrite };
            let spec = assemble(Parts {
                root: "/root".into(),
                argv: words.split(' ').map(OsString::from).collect(),
                env,
                mounts: kept.into_iter().map(mount).collect(),
                read_only: Vec::new(),
                overlays: Vec::new(),
                hidden: Vec::new(),
                removable: Vec::new(),
                cwd: "/p".into(),
                user: &user,
                accounts: Accounts::default(),
                budget: crate::run::spec::Budget::default(),
                network: None,
                files: Vec::new(),
                alias: None,
                machine: None,
                abi: silo_launch::spec::Abi::Native,
            });
            let said = lost(&spec, "tool");
            let baked = said.as_deref().and_then(|said| said.split("`silo build tool ").nth(1)?.split('`').next());
            assert_eq!(baked, expect, "{words}");
        };
        check("pip install six", None, None, Some("pip install six"));
        check("/usr/bin/pip3 -q install six>=1 -r r.txt", None, None, Some("pip -q install 'six>=1' -r r.txt"));
        check("python3 -m pip install six", None, None, Some("pip install six"));
        check("pip install six", Some("VIRTUAL_ENV"), None, None);
        check("pip install --target=lib six", None, None, None);
        check("pip download six", None, None, None);
        check("pip", None, None, None);
        check("npm install -g typescript", None, None, Some("npm install -g typescript"));
        check("npm --global i typescript", None, None, Some("npm --global i typescript"));
        check("npm install typescript", None, None, None);
        check("yarn global add x", None, None, Some("yarn global add x"));
        check("cargo install ripgrep", None, None, Some("cargo install ripgrep"));
        check("cargo install ripgrep", None, Some("/home/me/.cargo"), None);
        check("go install example.com/x@latest", None, None, Some("go install example.com/x@latest"));
        check("python script.py install", None, None, None);
    }
}

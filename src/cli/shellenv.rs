//! `silo shellenv`.

use std::path::Path;
use std::process::ExitCode;

use silo_base::home::Home;
use silo_base::sanitize;

use super::error::Failure;
use super::{env, ui};

/// Print the code that puts silo's commands first on PATH, for a shell's start-up file
///
/// bash, zsh, sh: eval "$(silo shellenv)" · fish: silo shellenv fish | source · nushell: silo shellenv nushell | save -f silo.nu, then
/// source silo.nu. It can be evaluated twice.
#[derive(clap::Args)]
pub struct Args {
    /// The shell; by default that of $SHELL
    shell: Option<String>,
}

/// A shell's code that puts a directory first on PATH, unless it is there already.
struct Shell {
    names: &'static [&'static str],
    /// Printed code.
    text: &'static str,
    /// The default directory in that code.
    default: &'static str,
    /// Quotes around another directory in its place.
    quote: &'static str,
    /// Line for a start-up file or prompt.
    advice: &'static str,
}

/// The default directory, inside double quotes.
const DEFAULT: &str = "$HOME/.silo/bin";

/// Known shells. The shell expands `$HOME`, so the text is the same on all machines without `SILO_HOME`.
const SHELLS: &[Shell] = &[
    Shell {
        names: &["sh", "bash", "zsh", "dash", "ksh", "mksh", "ash"],
        text: "case \":${PATH}:\" in\n  *:\"$HOME/.silo/bin\":*) ;;\n  *) export PATH=\"$HOME/.silo/bin${PATH:+:$PATH}\" ;;\nesac\n",
        default: DEFAULT,
        quote: "",
        advice: "eval \"$(silo shellenv)\"",
    },
    Shell {
        names: &["fish"],
        text: "contains -- \"$HOME/.silo/bin\" $PATH; or set --global --export --prepend PATH \"$HOME/.silo/bin\"\n",
        default: DEFAULT,
        quote: "",
        advice: "silo shellenv fish | source",
    },
    Shell {
        names: &["csh", "tcsh"],
        text: "if ( \":${PATH}:\" !~ \"*:$HOME/.silo/bin:*\" ) setenv PATH \"$HOME/.silo/bin:${PATH}\"\n",
        default: DEFAULT,
        quote: "",
        advice: "eval `silo shellenv tcsh`",
    },
    Shell {
        names: &["pwsh", "powershell"],
        text: "if (($env:PATH -split [IO.Path]::PathSeparator) -notcontains \"$HOME/.silo/bin\") { $env:PATH = \"$HOME/.silo/bin\" + [IO.Path]::PathSeparator + $env:PATH }\n",
        default: DEFAULT,
        quote: "",
        advice: "silo shellenv pwsh | Out-String | Invoke-Expression",
    },
    Shell {
        names: &["nu", "nushell"],
        text: "$env.PATH = ($env.PATH | split row (char esep) | prepend ($env.HOME | path join '.silo' 'bin') | uniq)\n",
        default: "($env.HOME | path join '.silo' 'bin')",
        quote: "'",
        advice: "silo shellenv nushell | save -f silo.nu, then source silo.nu",
    },
    Shell {
        names: &["elvish"],
        text: "if (not (has-value $paths $E:HOME'/.silo/bin')) { set paths = [$E:HOME'/.silo/bin' $@paths] }\n",
        default: "$E:HOME'/.silo/bin'",
        quote: "'",
        advice: "eval (silo shellenv elvish | slurp)",
    },
];

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let shell = match &args.shell {
        Some(shell) => {
            let names: Vec<&str> = SHELLS.iter().flat_map(|shell| shell.names).copied().collect();
            let unknown =
                || Failure::usage(format!("\"{shell}\" is not a shell that silo knows"), format!("name one of {}", names.join(", ")));
            find_shell(shell).ok_or_else(unknown)?
        }
        // An unknown shell most likely understands the code for sh.
        None => env::var("SHELL").and_then(|shell| find_shell(Path::new(&shell).file_name()?.to_str()?)).unwrap_or(&SHELLS[0]),
    };
    match env::var("SILO_HOME") {
        None => ui::data(shell.text)?,
        Some(_) => ui::data(&shell.text.replace(shell.default, &literal(shell, &env::silo_home()?)?))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the directory of the commands below a home that `SILO_HOME` names, as a shell's code.
fn literal(shell: &Shell, home: &Home) -> Result<String, Failure> {
    let dir = home.bin();
    // Every shell reads these characters as they are, in quotes of both kinds.
    let is_plain = |text: &&str| text.chars().all(|letter| letter.is_alphanumeric() || "/._-+@, ".contains(letter));
    let text = dir.to_str().filter(is_plain).ok_or_else(|| {
        let what = format!("SILO_HOME is {}, which shells would not read as it is", sanitize::path(&dir));
        Failure::usage(what, "set SILO_HOME to a path of letters, digits, spaces and /._-+@, or add its `bin` to PATH yourself")
    })?;
    Ok(format!("{quote}{text}{quote}", quote = shell.quote))
}

/// Returns the line for a start-up file.
pub fn advice(shell: &str) -> &'static str {
    find_shell(shell).unwrap_or(&SHELLS[0]).advice
}

fn find_shell(name: &str) -> Option<&'static Shell> {
    SHELLS.iter().find(|shell| shell.names.contains(&name))
}

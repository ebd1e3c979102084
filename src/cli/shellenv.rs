//! `silo shellenv`.

use std::path::Path;
use std::process::ExitCode;

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
    /// Line for a start-up file or prompt.
    advice: &'static str,
}

/// Known shells. The shell expands `$HOME`, so the text is the same on all machines.
const SHELLS: &[Shell] = &[
    Shell {
        names: &["sh", "bash", "zsh", "dash", "ksh", "mksh", "ash"],
        text: "case \":${PATH}:\" in\n  *:\"$HOME/.silo/bin\":*) ;;\n  *) export PATH=\"$HOME/.silo/bin${PATH:+:$PATH}\" ;;\nesac\n",
        advice: "eval \"$(silo shellenv)\"",
    },
    Shell {
        names: &["fish"],
        text: "contains -- \"$HOME/.silo/bin\" $PATH; or set --global --export --prepend PATH \"$HOME/.silo/bin\"\n",
        advice: "silo shellenv fish | source",
    },
    Shell {
        names: &["csh", "tcsh"],
        text: "if ( \":${PATH}:\" !~ \"*:$HOME/.silo/bin:*\" ) setenv PATH \"$HOME/.silo/bin:${PATH}\"\n",
        advice: "eval `silo shellenv tcsh`",
    },
    Shell {
        names: &["pwsh", "powershell"],
        text: "if (($env:PATH -split [IO.Path]::PathSeparator) -notcontains \"$HOME/.silo/bin\") { $env:PATH = \"$HOME/.silo/bin\" + [IO.Path]::PathSeparator + $env:PATH }\n",
        advice: "silo shellenv pwsh | Out-String | Invoke-Expression",
    },
    Shell {
        names: &["nu", "nushell"],
        text: "$env.PATH = ($env.PATH | split row (char esep) | prepend ($env.HOME | path join '.silo' 'bin') | uniq)\n",
        advice: "silo shellenv nushell | save -f silo.nu, then source silo.nu",
    },
    Shell {
        names: &["elvish"],
        text: "if (not (has-value $paths $E:HOME'/.silo/bin')) { set paths = [$E:HOME'/.silo/bin' $@paths] }\n",
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
    ui::data(shell.text)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the line for a start-up file.
pub fn advice(shell: &str) -> &'static str {
    find_shell(shell).unwrap_or(&SHELLS[0]).advice
}

fn find_shell(name: &str) -> Option<&'static Shell> {
    SHELLS.iter().find(|shell| shell.names.contains(&name))
}

//! Flags of the command line as types, for functions behind the arguments.

/// The form of a result on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text for a person.
    Text,
    /// JSON for a program.
    Json,
}

impl Format {
    /// Converts the flag `--json`.
    pub fn of_flag(json: bool) -> Format {
        if json { Format::Json } else { Format::Text }
    }
}

/// Whether a command makes its changes or only lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make the changes.
    Change,
    /// List them only.
    DryRun,
}

impl Effect {
    /// Converts the flag `--dry-run`.
    pub fn of_flag(dry_run: bool) -> Effect {
        if dry_run { Effect::DryRun } else { Effect::Change }
    }
}

/// Whether hints and progress are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Show them.
    Normal,
    /// Show errors and warnings only.
    Quiet,
}

impl Verbosity {
    /// Converts the flag `--quiet`.
    pub fn of_flag(quiet: bool) -> Verbosity {
        if quiet { Verbosity::Quiet } else { Verbosity::Normal }
    }
}

//! The definition of the whole command line, for commands that print or search it.

use std::sync::OnceLock;

static DEFINITION: OnceLock<fn() -> clap::Command> = OnceLock::new();

/// Registers the definition. It refers to all commands, so it is above them; they get it from here.
pub fn register(make: fn() -> clap::Command) {
    DEFINITION.get_or_init(|| make);
}

/// Returns the definition; without commands before it is registered.
pub fn command() -> clap::Command {
    DEFINITION.get().map_or_else(|| clap::Command::new("silo"), |make| make())
}

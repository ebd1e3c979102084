//! Reads the values of secrets. Only the broker's process calls this, after the sandbox was forked from silo and before the broker is
//! confined. So no process of the sandbox has a copy of a value.
#![allow(
    clippy::disallowed_methods,
    reason = "a variable must be read here: silo's own copy would be in the memory of the sandbox's PID 1"
)]

use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::{Command, Stdio};

use silo_base::secret::Source;

use super::system;
use crate::broker::value::{self, MAX_VALUE_BYTES, Value};

/// Reasons why a secret has no value. None contains a part of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The variable is not set.
    #[error("the variable {0} is not set")]
    Unset(String),
    /// The file cannot be read.
    #[error("cannot read {0}: {1}")]
    File(String, io::Error),
    /// The command cannot be started.
    #[error("cannot start {0}: {1}")]
    Start(&'static str, io::Error),
    /// The command failed.
    #[error("{0} failed ({1})")]
    Failed(&'static str, std::process::ExitStatus),
    /// The value cannot be used.
    #[error(transparent)]
    Value(#[from] value::Error),
}

/// Reads a value.
pub fn read(source: &Source) -> Result<Value, Error> {
    let bytes = match source {
        Source::Env(name) => std::env::var_os(name).ok_or_else(|| Error::Unset(name.clone()))?.into_vec(),
        Source::File(path) => file(path)?,
        Source::Command(line) => output("the command", Command::new("/bin/sh").args(["-c", line]))?,
        Source::Keyring { service, account } => output("the keyring's program", &mut system::keyring(service, account))?,
    };
    Ok(Value::parse(bytes)?)
}

fn file(path: &Path) -> Result<Vec<u8>, Error> {
    let most = MAX_VALUE_BYTES as u64 + 2;
    silo_store::read_limited::read(path, most).map_err(|error| Error::File(silo_base::sanitize::path(path), error))
}

fn output(what: &'static str, command: &mut Command) -> Result<Vec<u8>, Error> {
    let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = started.map_err(|error| Error::Start(what, error))?;
    let mut bytes = Vec::new();
    let read = child.stdout.take().map(|output| output.take(MAX_VALUE_BYTES as u64 + 2).read_to_end(&mut bytes));
    // More output than that is an error; the closed pipe ends the command.
    let status = child.wait().map_err(|error| Error::Start(what, error))?;
    read.transpose().map_err(|error| Error::Start(what, error))?;
    if bytes.len() > MAX_VALUE_BYTES + 1 {
        return Err(value::Error::Long.into());
    }
    if status.success() { Ok(bytes) } else { Err(Error::Failed(what, status)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_without_their_line_end_and_errors_contain_none() {
        let read = |text: &str| read(&Source::parse(text).expect("a source"));
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("token");
        std::fs::write(&path, "s3cr3t\r\n").expect("written");
        let file = format!("file:{}", path.display());
        assert_eq!(read(&file).expect("a value").bytes(), b"s3cr3t");
        assert_eq!(read("command:printf 's3cr3t\\n'; echo >&2 noise").expect("a value").bytes(), b"s3cr3t");
        for (source, expect) in [
            ("env:SILO_NO_SUCH_VARIABLE", "not set"),
            ("command:echo s3cr3t; exit 3", "failed"),
            ("command:yes s3cr3t", "more than"),
            ("command:printf abc", "less than"),
            ("command:printf 's3c\\nr3t'", "printable"),
            ("file:/no/such/file", "cannot read"),
            ("file:/dev/zero", "cannot read"),
        ] {
            let error = read(source).expect_err(source);
            let text = format!("{error} {error:?}");
            assert!(text.contains(expect) && !text.contains("s3c"), "{source}: {text}");
        }
        assert!(!format!("{:?}", read(&file)).contains("s3c"));
    }
}

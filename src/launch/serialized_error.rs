//! Launch errors as data, so that an error of a server process keeps its kind, exit code and cause.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::{Deserialize, Serialize};

use super::error::Error;

/// A launch error that can be sent to another process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Carried {
    Threads {
        count: u64,
    },
    Spec {
        reason: String,
    },
    Port {
        port: u16,
        source: Source,
    },
    Host {
        step: String,
        source: Source,
    },
    Setup {
        step: String,
        source: Source,
    },
    /// The program's name as bytes.
    NotFound {
        program: Vec<u8>,
    },
    NotExecutable {
        program: Vec<u8>,
        source: Source,
    },
    Lost,
    Machine {
        what: String,
    },
    Interrupted {
        signal: i32,
    },
    NoTier,
    /// An error of which only the text is known.
    Other {
        message: String,
    },
}

/// The cause of an error: an error number of this system, or its text.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    Number(i32),
    Text(String),
}

impl Source {
    fn of(error: &io::Error) -> Source {
        error.raw_os_error().map_or_else(|| Source::Text(error.to_string()), Source::Number)
    }

    fn into_error(self) -> io::Error {
        match self {
            Source::Number(number) => io::Error::from_raw_os_error(number),
            Source::Text(text) => io::Error::other(text),
        }
    }
}

impl Carried {
    /// Converts an error into data.
    pub fn of(error: &Error) -> Carried {
        match error {
            Error::Threads { count } => Carried::Threads { count: *count },
            Error::Spec { reason } => Carried::Spec { reason: reason.clone() },
            Error::Json(source) => Carried::Other { message: format!("{error}: {source}") },
            Error::Port { port, source } => Carried::Port { port: *port, source: Source::of(source) },
            Error::Host { step, source } => Carried::Host { step: step.clone(), source: Source::of(source) },
            Error::Setup { step, source } => Carried::Setup { step: step.clone(), source: Source::of(source) },
            Error::NotFound { program } => Carried::NotFound { program: program.as_os_str().as_bytes().to_vec() },
            Error::NotExecutable { program, source } => {
                Carried::NotExecutable { program: program.as_os_str().as_bytes().to_vec(), source: Source::of(source) }
            }
            Error::Lost => Carried::Lost,
            Error::Machine { what } => Carried::Machine { what: what.clone() },
            Error::Interrupted { signal } => Carried::Interrupted { signal: *signal },
            Error::Elsewhere { message } => Carried::Other { message: message.clone() },
            Error::NoTier => Carried::NoTier,
        }
    }

    /// Converts the data into an error of the same kind.
    pub fn into_error(self) -> Error {
        let program = |bytes: Vec<u8>| OsString::from_vec(bytes).into();
        match self {
            Carried::Threads { count } => Error::Threads { count },
            Carried::Spec { reason } => Error::Spec { reason },
            Carried::Port { port, source } => Error::Port { port, source: source.into_error() },
            Carried::Host { step, source } => Error::Host { step, source: source.into_error() },
            Carried::Setup { step, source } => Error::Setup { step, source: source.into_error() },
            Carried::NotFound { program: name } => Error::NotFound { program: program(name) },
            Carried::NotExecutable { program: name, source } => {
                Error::NotExecutable { program: program(name), source: source.into_error() }
            }
            Carried::Lost => Error::Lost,
            Carried::Machine { what } => Error::Machine { what },
            Carried::Interrupted { signal } => Error::Interrupted { signal },
            Carried::NoTier => Error::NoTier,
            Carried::Other { message } => Error::Elsewhere { message },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_kind_code_and_text_on_its_way() {
        let denied = || io::Error::from_raw_os_error(libc::EACCES);
        let odd = OsString::from_vec(b"odd\xff".to_vec());
        for error in [
            Error::Threads { count: 2 },
            Error::Spec { reason: "no program".to_owned() },
            Error::Port { port: 80, source: denied() },
            Error::Host { step: "a step".to_owned(), source: io::Error::other("no number") },
            Error::Setup { step: "a step".to_owned(), source: denied() },
            Error::NotFound { program: odd.clone().into() },
            Error::NotExecutable { program: odd.into(), source: denied() },
            Error::Lost,
            Error::Machine { what: "ended".to_owned() },
            Error::Interrupted { signal: 2 },
            Error::Elsewhere { message: "a message".to_owned() },
            Error::NoTier,
        ] {
            let json = serde_json::to_vec(&Carried::of(&error)).expect("it is data");
            let carried = serde_json::from_slice::<Carried>(&json).expect("it was written here").into_error();
            assert_eq!(std::mem::discriminant(&carried), std::mem::discriminant(&error), "{error}");
            assert_eq!((carried.code(), carried.to_string()), (error.code(), error.to_string()));
        }
    }
}

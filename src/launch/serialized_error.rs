//! Launch errors as data, so that an error of a server process keeps its kind, exit code and cause.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::{Deserialize, Serialize};

use super::error::{Error, Limit};

/// A launch error that can be sent to another process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SerializedError {
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
    Limit(Limit),
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

impl SerializedError {
    /// Converts an error into data.
    pub fn of(error: &Error) -> SerializedError {
        match error {
            Error::Threads { count } => SerializedError::Threads { count: *count },
            Error::Spec { reason } => SerializedError::Spec { reason: reason.clone() },
            Error::Json(source) => SerializedError::Other { message: format!("{error}: {source}") },
            Error::Port { port, source } => SerializedError::Port { port: *port, source: Source::of(source) },
            Error::Host { step, source } => SerializedError::Host { step: step.clone(), source: Source::of(source) },
            Error::Setup { step, source } => SerializedError::Setup { step: step.clone(), source: Source::of(source) },
            Error::NotFound { program } => SerializedError::NotFound { program: program.as_os_str().as_bytes().to_vec() },
            Error::NotExecutable { program, source } => {
                SerializedError::NotExecutable { program: program.as_os_str().as_bytes().to_vec(), source: Source::of(source) }
            }
            Error::Lost => SerializedError::Lost,
            Error::Machine { what } => SerializedError::Machine { what: what.clone() },
            Error::Interrupted { signal } => SerializedError::Interrupted { signal: *signal },
            Error::Elsewhere { message } => SerializedError::Other { message: message.clone() },
            Error::Limit(limit) => SerializedError::Limit(*limit),
            Error::NoTier => SerializedError::NoTier,
        }
    }

    /// Converts the data into an error of the same kind.
    pub fn into_error(self) -> Error {
        let program = |bytes: Vec<u8>| OsString::from_vec(bytes).into();
        match self {
            SerializedError::Threads { count } => Error::Threads { count },
            SerializedError::Spec { reason } => Error::Spec { reason },
            SerializedError::Port { port, source } => Error::Port { port, source: source.into_error() },
            SerializedError::Host { step, source } => Error::Host { step, source: source.into_error() },
            SerializedError::Setup { step, source } => Error::Setup { step, source: source.into_error() },
            SerializedError::NotFound { program: name } => Error::NotFound { program: program(name) },
            SerializedError::NotExecutable { program: name, source } => {
                Error::NotExecutable { program: program(name), source: source.into_error() }
            }
            SerializedError::Lost => Error::Lost,
            SerializedError::Machine { what } => Error::Machine { what },
            SerializedError::Interrupted { signal } => Error::Interrupted { signal },
            SerializedError::Limit(limit) => Error::Limit(limit),
            SerializedError::NoTier => Error::NoTier,
            SerializedError::Other { message } => Error::Elsewhere { message },
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
            Error::Limit(Limit::Time { seconds: 1 }),
            Error::Machine { what: "ended".to_owned() },
            Error::Interrupted { signal: 2 },
            Error::Elsewhere { message: "a message".to_owned() },
            Error::NoTier,
        ] {
            let json = serde_json::to_vec(&SerializedError::of(&error)).expect("it is data");
            let carried = serde_json::from_slice::<SerializedError>(&json).expect("it was written here").into_error();
            assert_eq!(std::mem::discriminant(&carried), std::mem::discriminant(&error), "{error}");
            assert_eq!((carried.code(), carried.to_string()), (error.code(), error.to_string()));
        }
    }
}

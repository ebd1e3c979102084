//! The directories of the decisions of a review, by number.

use std::fs;
use std::io;
use std::path::PathBuf;

use silo_store::private;

use crate::error::{Error, at};
use crate::session::Session;

/// Makes the directory of a decision.
pub fn begin(session: &Session) -> Result<(u64, PathBuf), Error> {
    let number = numbers(session)?.last().map_or(1, |last| last + 1);
    let dir = decision(session, number);
    private::make_dir(&dir.join("old"))?;
    Ok((number, dir))
}

/// Returns the directory of a decision.
pub fn decision(session: &Session, number: u64) -> PathBuf {
    session.dir().join("done").join(number.to_string())
}

/// Returns the numbers of all decisions.
pub fn numbers(session: &Session) -> Result<Vec<u64>, Error> {
    let dir = session.dir().join("done");
    let listing = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.map_err(at("list", &dir))?,
    };
    let mut numbers: Vec<u64> = listing.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

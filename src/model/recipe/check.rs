//! Checks of values that several tables of a recipe have.

use silo_base::grant::Grant;

use super::error::Error;
use super::package_spec;

/// Checks allowed hosts: valid, and able to match a connection.
pub fn check_grants(key: &'static str, grants: &[String]) -> Result<(), Error> {
    check_denials(key, grants)?;
    let flawed = grants.iter().find_map(|text| Some((text, Grant::parse(text)?.flaw()?)));
    flawed.map_or(Ok(()), |(text, why)| Err(Error::DeadGrant { key, value: text.clone(), why }))
}

/// Checks denied hosts: valid.
pub fn check_denials(key: &'static str, grants: &[String]) -> Result<(), Error> {
    match grants.iter().find(|grant| !is_grant(grant)) {
        Some(wrong) => Err(Error::Grant { key, value: wrong.clone() }),
        None => Ok(()),
    }
}

fn is_grant(text: &str) -> bool {
    match text.strip_prefix('@') {
        Some(ecosystem) => check_name(ecosystem).is_ok(),
        None => Grant::parse(text).is_some(),
    }
}

/// Checks a tool name: it becomes a file name and a word on the command line.
pub fn check_name(name: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.len() <= 64 && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(plain) {
        Ok(())
    } else {
        Err(Error::Name(name.to_owned()))
    }
}

/// Checks the names of environment variables.
pub fn check_variables<'a>(key: &'static str, names: impl Iterator<Item = &'a String>) -> Result<(), Error> {
    for name in names {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(Error::Variable { key, value: name.clone() });
        }
    }
    Ok(())
}

/// Checks Debian packages, with or without a version.
pub fn check_packages(key: &'static str, packages: &[String]) -> Result<(), Error> {
    if let Some(wrong) = packages.iter().find(|package| !package_spec::is_package(package)) {
        return Err(Error::Package { key, value: wrong.clone() });
    }
    match packages.iter().find(|package| package_spec::parse(package).is_some_and(|wanted| wanted.of.is_some())) {
        Some(foreign) => Err(Error::Foreign { key, value: foreign.clone() }),
        None => Ok(()),
    }
}

/// Checks `name`, or `name:program and arguments`.
pub fn check_shim(text: &str) -> Result<(String, Vec<String>), Error> {
    let (host, command) = text.split_once(':').unwrap_or((text, text));
    let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    if command.is_empty() || !host.starts_with(|c: char| c.is_ascii_alphanumeric()) || !host.chars().all(plain) {
        return Err(Error::Shim(text.to_owned()));
    }
    Ok((host.to_owned(), command))
}

/// Sorts a list without significant order, and removes duplicates.
pub fn sorted(mut list: Vec<String>) -> Vec<String> {
    list.sort();
    list.dedup();
    list
}

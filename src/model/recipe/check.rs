//! Checks of values that several tables of a recipe have.

use silo_base::grant::Grant;
use silo_base::grant::ecosystem::is_name;
use silo_base::system::Arch;

use super::error::Error;
use super::package_spec;

/// Parses allowed hosts, each able to match a connection.
pub fn check_grants(key: &'static str, texts: &[String]) -> Result<Vec<Grant>, Error> {
    let grants = check_denials(key, texts)?;
    check_flaws(key, &grants)?;
    Ok(grants)
}

/// Parses denied hosts.
pub fn check_denials(key: &'static str, texts: &[String]) -> Result<Vec<Grant>, Error> {
    texts.iter().map(|text| Grant::parse(text).map_err(|wrong| Error::Grant { key, wrong })).collect()
}

/// Checks that each grant can match a connection.
pub fn check_flaws(key: &'static str, grants: &[Grant]) -> Result<(), Error> {
    let flaw = |grant: &Grant| match grant {
        Grant::Hosts(hosts) => hosts.flaw(),
        Grant::Ecosystem(_) => None,
    };
    let flawed = grants.iter().find_map(|grant| Some((grant, flaw(grant)?)));
    flawed.map_or(Ok(()), |(grant, why)| Err(Error::DeadGrant { key, value: grant.to_string(), why }))
}

/// Checks a tool name: it becomes a file name and a word on the command line.
pub fn check_name(name: &str) -> Result<(), Error> {
    if is_name(name) { Ok(()) } else { Err(Error::Name(name.to_owned())) }
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
    let is_for_none = |wanted: package_spec::PackageSpec<'_>| !Arch::ALL.into_iter().any(|arch| wanted.is_for(arch));
    match packages.iter().find(|package| package_spec::parse(package).is_some_and(is_for_none)) {
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
pub fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort();
    list.dedup();
    list
}

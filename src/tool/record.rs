//! The record of an installed tool: `~/.silo/tools/<name>.toml`, written by one rename.
//!
//! A tool is installed if its record exists. Without it, everything else that an install makes has no effect and is collected in time.

use std::fs;
use std::io;

use silo_store::path_error::PathError;

use serde::{Deserialize, Serialize};

use silo_base::home::Home;
use silo_base::system::Arch;
use silo_build::image::ImageId;
use silo_model::document;

/// The version of the format.
const VERSION: u32 = 1;

/// An installed tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The tool's name.
    pub name: String,
    /// The tool's version.
    pub version: String,
    /// Its image.
    pub image: ImageId,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    version: String,
    image: String,
}

/// Error of reading or writing a record.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The record is invalid.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] PathError),
}

/// Reads the record of a tool; `None` if it is not installed.
pub fn get(home: &Home, name: &str) -> Result<Option<Installed>, Error> {
    let path = home.tool(name);
    let Some(written) = document::read::<Written>(&path)? else { return Ok(None) };
    let wrong = |message: String| document::Error::Meaning { path: path.clone(), message };
    let next = format!("run `silo uninstall {name}` and `silo install {name}`");
    document::check_format(&path, written.format, VERSION, &next)?;
    let image = ImageId::parse(&written.image).ok_or_else(|| wrong(format!("image \"{}\" is not a digest", written.image)))?;
    Ok(Some(Installed { name: name.to_owned(), version: written.version, image }))
}

/// Says that a tool is not installed for the platform of a home.
pub fn not_installed(home: &Home, tool: &str) -> String {
    let arch = home.arch();
    if arch == Arch::host() { format!("{tool} is not installed") } else { format!("{tool} is not installed for {}", arch.platform()) }
}

/// Returns the command that installs a tool for the platform of a home.
pub fn install_command(home: &Home, tool: &str) -> String {
    let arch = home.arch();
    if arch == Arch::host() { format!("silo install {tool}") } else { format!("silo install --platform {} {tool}", arch.platform()) }
}

/// Writes the record of a tool.
pub fn put(home: &Home, tool: &Installed) -> Result<(), Error> {
    let written = Written { format: VERSION, version: tool.version.clone(), image: tool.image.to_string() };
    let text = toml::to_string(&written).expect("strings and numbers are TOML");
    let path = home.tool(&tool.name);
    document::write(&path, &text).map_err(|source| Error::File(PathError { doing: "write", path, source }))
}

/// Removes the record of a tool; returns true if there was one.
pub fn remove(home: &Home, name: &str) -> Result<bool, Error> {
    let path = home.tool(name);
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::File(PathError { doing: "remove", path, source })),
    }
}

/// Lists the installed tools by name.
pub fn list(home: &Home) -> Result<Vec<Installed>, Error> {
    let dir = home.tools();
    let listing = match fs::read_dir(&dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::File(PathError { doing: "list", path: dir, source })),
    };
    let mut tools = Vec::new();
    for entry in listing {
        let name = entry.map_err(|source| Error::File(PathError { doing: "list", path: dir.clone(), source }))?.file_name();
        if let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".toml")) {
            tools.extend(get(home, name)?);
        }
    }
    tools.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tools)
}

//! Reads the tools claimed in a directory, by its project's files and by the user's settings.

use std::path::Path;

use crate::config::discover;
use crate::config::legacy::Whose;
use crate::config::project::ProjectFiles;
use crate::config::read;
use crate::document;
use crate::home::{Home, PROJECT_LOCK};
use crate::lock;

use super::choice::Claims;

/// Reads the claims that hold in `dir`. An unreadable file is an error, because it may claim the tool.
pub fn read(home: &Home, dir: &Path) -> Result<Claims, document::Error> {
    of(home, &ProjectFiles::read(&discover::project(dir).root)?)
}

/// Returns the claims of project files that are already read, and of the user's settings.
pub fn of(home: &Home, files: &ProjectFiles) -> Result<Claims, document::Error> {
    let mut project = read::of_project(files)?.0.claims();
    if let Some(text) = files.text(PROJECT_LOCK)? {
        project.extend(lock::names(text).map(str::to_owned));
    }
    let user = read::read_any(&home.config(), &home.legacy_config(), Whose::User)?.0.claims();
    Ok(Claims { project, user, root: files.root().to_owned() })
}

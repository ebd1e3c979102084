//! Which tools are claimed around a directory: by its project's files, and by the user's settings.

use std::path::Path;

use crate::config;
use crate::document;
use crate::home::{Home, PROJECT_CONFIG, PROJECT_LOCK};
use crate::lock;

use super::choice::Claims;

/// Reads what is claimed in `dir`. What cannot be read is an error: it might claim the tool.
pub fn read(home: &Home, dir: &Path) -> Result<Claims, document::Error> {
    let root = config::project_root(dir);
    let mut project = config::read(&root.join(PROJECT_CONFIG))?.claims();
    if let Some(text) = document::text_of(&root.join(PROJECT_LOCK))? {
        project.extend(lock::names(&text).map(str::to_owned));
    }
    Ok(Claims { project, user: config::read(&home.config())?.claims(), root })
}

//! Which tools are claimed around a directory: by its project's files, and by the user's settings.

use std::path::Path;

use crate::config;
use crate::config::legacy::Whose;
use crate::config::read::read_any;
use crate::document;
use crate::home::{Home, LEGACY_CONFIG, PROJECT_CONFIG, PROJECT_LOCK};
use crate::lock;

use super::choice::Claims;

/// Reads what is claimed in `dir`. What cannot be read is an error: it might claim the tool.
pub fn read(home: &Home, dir: &Path) -> Result<Claims, document::Error> {
    let root = config::project_root(dir);
    let mut project = read_any(&root.join(PROJECT_CONFIG), &root.join(LEGACY_CONFIG), Whose::Project)?.0.claims();
    if let Some(text) = document::text_of(&root.join(PROJECT_LOCK))? {
        project.extend(lock::names(&text).map(str::to_owned));
    }
    let user = read_any(&home.config(), &home.legacy_config(), Whose::User)?.0.claims();
    Ok(Claims { project, user, root })
}

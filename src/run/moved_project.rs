//! Moves caches and state along with a moved project. Approvals are found by directory and need no move.

use std::path::Path;

use silo_store::flock;
use silo_store::layout::Store;

use silo_base::home::Home;
use silo_base::sanitize;
use silo_tool::{kept_dirs, projects};

use super::error::Error;

/// Gives a moved project the data stored under its old path. Describes the move, if there was one.
pub fn move_data(home: &Home, store: &Store, project: &Path) -> Result<Option<String>, Error> {
    let Some(old) = kept_dirs::moved_from(home, project)? else { return Ok(None) };
    let shared = flock::share(store)?;
    projects::moved(home, store, &shared, &old.path, project)?;
    kept_dirs::adopt(home, &old, project)?;
    Ok(Some(format!("{} was moved to {}; its caches and state moved along", sanitize::path(&old.path), sanitize::path(project))))
}

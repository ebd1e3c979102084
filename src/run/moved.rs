//! A project that was moved takes what is kept for it along; approvals are by its directory anyway.

use std::path::Path;

use silo_store::layout::Store;
use silo_store::lock;

use crate::home::Home;
use crate::plain;
use crate::tool::{kept, projects};

use super::error::Error;

/// Gives a project what was kept under the path that it had before; describes the move, if there was one.
pub fn settle(home: &Home, store: &Store, project: &Path) -> Result<Option<String>, Error> {
    let Some(old) = kept::moved_from(home, project)? else { return Ok(None) };
    let shared = lock::share(store)?;
    projects::moved(home, store, &shared, &old.path, project)?;
    kept::adopt(home, &old, project)?;
    Ok(Some(format!("{} was moved to {}; what was kept for it came along", plain::path(&old.path), plain::path(project))))
}

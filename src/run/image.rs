//! Locks the image of a run, and restores it if it is compressed.

use std::path::Path;
use std::process::{Command, Stdio};

use silo_store::flock::{self, ImageLock};
use silo_store::layout::Store;

use silo_base::event::{Event, Sink};
use silo_base::home::Home;
use silo_build::image::{self, Image, compressed};
use silo_tool::record::{self, Installed};

use super::error::Error;

/// Hidden command that restores a compressed image.
pub const RESTORE: [&str; 2] = ["cache", "restore"];

/// Access to images, and the program that restores compressed ones.
#[derive(Clone, Copy)]
pub struct Images<'a> {
    /// Silo's home directory.
    pub home: &'a Home,
    /// Layer store of the home.
    pub store: &'a Store,
    /// This program. It restores an image in a separate process, because a process that launches must have one thread.
    pub program: &'a Path,
    /// Receives progress.
    pub sink: Sink<'a>,
}

impl Images<'_> {
    /// Locks an image, so that it is not collected, and restores it if it is compressed.
    pub fn lock(&self, tool: &Installed) -> Result<ImageLock, Error> {
        let lock = {
            let shared = flock::share(self.store)?;
            flock::lock_image(self.store, &shared, &tool.image.digest())?
        };
        if image::is_there(self.home, tool.image) && compressed::is_cold(self.home, tool.image) {
            self.restore(tool)?;
        }
        Ok(lock)
    }

    /// Reads an image's configuration.
    pub fn read(&self, tool: &Installed) -> Result<Image, Error> {
        let found = image::get(self.home, tool.image).map_err(|source| Error::Image { tool: tool.name.clone(), source })?;
        found.ok_or_else(|| Error::missing(format!("the image of {} is gone", tool.name), record::install_command(self.home, &tool.name)))
    }

    fn restore(&self, tool: &Installed) -> Result<(), Error> {
        (self.sink)(Event::Note { text: format!("{} is compressed; restoring it", tool.name) });
        let mut command = Command::new(self.program);
        command.args(RESTORE).arg(tool.image.to_string()).arg("--quiet").stdin(Stdio::null()).stdout(Stdio::null());
        let hint = || {
            format!(
                "`silo verify {}` shows the damage; `silo uninstall {0}`, `silo gc --all`, `silo install {0}` build it again",
                tool.name
            )
        };
        let status = command.status().map_err(|error| Error::missing(format!("cannot start silo itself: {error}"), hint()))?;
        if status.success() { Ok(()) } else { Err(Error::missing(format!("the image of {} could not be restored", tool.name), hint())) }
    }
}

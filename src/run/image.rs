//! Makes sure that the image of a run stays and can be used.

use std::path::Path;
use std::process::{Command, Stdio};

use silo_store::layout::Store;
use silo_store::lock::{self, Pin};

use crate::event::{Event, Sink};
use crate::home::Home;
use crate::image::{self, Image, cold};
use crate::tool::record::Installed;

use super::error::Error;

/// The words of the command line that restore a compressed image.
pub const RESTORE: [&str; 2] = ["cache", "restore"];

/// Where images are, and who restores one that is compressed.
#[derive(Clone, Copy)]
pub struct Images<'a> {
    /// The home.
    pub home: &'a Home,
    /// Its layer store.
    pub store: &'a Store,
    /// This program, which restores an image in a process of its own: a process that launches must have one thread.
    pub program: &'a Path,
    /// Receives progress.
    pub sink: Sink<'a>,
}

impl Images<'_> {
    /// Keeps an image from being collected while the pin lives, and restores it where it is compressed.
    pub fn pin(&self, tool: &Installed) -> Result<Pin, Error> {
        let pin = {
            let shared = lock::share(self.store)?;
            lock::pin(self.store, &shared, &tool.image.digest())?
        };
        if image::is_there(self.home, tool.image) && cold::is_cold(self.home, tool.image) {
            self.restore(tool)?;
        }
        Ok(pin)
    }

    /// Reads an image's configuration.
    pub fn read(&self, tool: &Installed) -> Result<Image, Error> {
        let found = image::get(self.home, tool.image).map_err(|source| Error::Image { tool: tool.name.clone(), source })?;
        found.ok_or_else(|| Error::missing(format!("the image of {} is gone", tool.name), format!("silo install {}", tool.name)))
    }

    fn restore(&self, tool: &Installed) -> Result<(), Error> {
        (self.sink)(Event::Note { text: format!("{} is compressed; making it ready", tool.name) });
        let mut command = Command::new(self.program);
        command.args(RESTORE).arg(tool.image.to_string()).arg("--quiet").stdin(Stdio::null()).stdout(Stdio::null());
        let hint = || {
            format!(
                "`silo verify {}` says what is wrong; `silo uninstall {0}`, `silo gc --all`, `silo install {0}` make it anew",
                tool.name
            )
        };
        let status = command.status().map_err(|error| Error::missing(format!("cannot start silo itself: {error}"), hint()))?;
        if status.success() { Ok(()) } else { Err(Error::missing(format!("the image of {} could not be made ready", tool.name), hint())) }
    }
}

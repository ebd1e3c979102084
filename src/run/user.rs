//! The calling user, and their account in a sandbox.

use std::ffi::OsStr;
use std::path::PathBuf;

use silo_launch::spec::{Bytes, File};

/// The calling user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// User name.
    pub name: String,
    /// Home directory, which exists inside but is empty.
    pub home: PathBuf,
}

/// Account files of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// `/etc/passwd`.
    pub passwd: Vec<u8>,
    /// `/etc/group`.
    pub group: Vec<u8>,
}

impl User {
    /// Adds the caller to the image's accounts; root is there already.
    pub fn account_files(&self, mut accounts: Accounts) -> Vec<File> {
        if self.uid == 0 {
            return Vec::new();
        }
        let home = self.home.to_string_lossy().replace([':', '\n'], "_");
        accounts.passwd.extend(format!("{}:x:{}:{}::{home}:/bin/sh\n", self.name, self.uid, self.gid).bytes());
        accounts.group.extend(format!("{}:x:{}:\n", self.name, self.gid).bytes());
        let file = |guest: &str, bytes| File { guest: guest.into(), bytes: Bytes(bytes), mode: 0o644 };
        vec![file("/etc/passwd", accounts.passwd), file("/etc/group", accounts.group)]
    }
}

/// Returns a valid name for `/etc/passwd`: the given one if it is plain, else `user`.
pub fn account_name(name: Option<&OsStr>, uid: u32) -> String {
    if uid == 0 {
        return "root".to_owned();
    }
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    let name = name
        .and_then(OsStr::to_str)
        .filter(|name| name.len() <= 32 && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_') && name.chars().all(plain));
    name.unwrap_or("user").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_names_are_plain() {
        for (name, uid, expect) in [
            (Some("me"), 1000, "me"),
            (Some("a:b"), 1000, "user"),
            (Some("Me"), 1000, "user"),
            (None, 1000, "user"),
            (Some("me"), 0, "root"),
        ] {
            assert_eq!(account_name(name.map(OsStr::new), uid), expect);
        }
    }
}

//! Unpacks one .deb into one layer: its files, and dpkg's files about it in `var/lib/dpkg/info`.
//!
//! In addition to dpkg's own files, the layer has the package's control stanza (`info/<package>.control`), so that the database of any set
//! of packages can be made from their layers alone.

use std::io::Read;

use silo_store::digest::Digest;
use silo_store::entry::{MAX_ENTRIES, Meta};
use silo_store::path::LayerPath;
use silo_store::stage::Stage;

use super::compressed::LimitedReader;
use super::deb::{self, Error, read_error};
use super::entries::{self, Entry, Kind, plain, shown};
use super::{record, usr_merge};

/// Limit of a package's unpacked size: Debian's largest have some gigabytes.
const MAX_PACKAGE_BYTES: u64 = 16 << 30;
/// Limit of a control file. A sparse file may claim any size; the largest in Debian are symbol files of a few megabytes.
const MAX_MEMBER_BYTES: u64 = 64 << 20;
/// Limit of a package's file list, against archives that contain nothing but names.
const MAX_LIST_BYTES: usize = 256 << 20;

/// Unpacks the .deb `name`, read from `from`, into `stage`.
pub fn unpack(name: &str, from: impl Read, expected: Digest, stage: &mut Stage) -> Result<(), Error> {
    let mut unpacking = Unpacking { deb: name, stage, members: Vec::new(), list: Vec::new(), limit: 0, count: 0 };
    deb::read(name, from, expected, &mut unpacking)?;
    unpacking.note()
}

/// Reads the control stanza of the .deb `name`, without unpacking it.
pub fn control(name: &str, from: impl Read, expected: Digest) -> Result<Vec<u8>, Error> {
    let mut stanza = Control { deb: name, bytes: None };
    deb::read(name, from, expected, &mut stanza)?;
    stanza.bytes.ok_or_else(|| Error::Container { deb: name.to_owned(), what: "no control file".to_owned() })
}

struct Control<'a> {
    deb: &'a str,
    bytes: Option<Vec<u8>>,
}

impl deb::Members for Control<'_> {
    fn control(&mut self, tar: &mut dyn Read) -> Result<(), Error> {
        let deb = self.deb;
        let failed = |source| read_error(deb, "the control archive", source);
        entries::each(tar, failed, |entry| {
            let is_stanza = plain(&entry.path).is_ok_and(|path| path.as_deref() == Some(b"control"));
            if is_stanza && entry.kind == Kind::File {
                let mut bytes = Vec::new();
                entry.take(MAX_MEMBER_BYTES).read_to_end(&mut bytes).map_err(failed)?;
                self.bytes = Some(bytes);
            }
            Ok(())
        })
    }

    fn data(&mut self, _: &mut LimitedReader<'_>) -> Result<(), Error> {
        Ok(())
    }
}

struct Unpacking<'a> {
    deb: &'a str,
    stage: &'a mut Stage,
    members: Vec<(String, Meta, Vec<u8>)>,
    list: Vec<u8>,
    /// Limit of the sum of its file sizes.
    limit: u64,
    /// Number of entries so far.
    count: usize,
}

impl deb::Members for Unpacking<'_> {
    fn control(&mut self, tar: &mut dyn Read) -> Result<(), Error> {
        self.each(tar, "the control archive", |unpacking, entry| unpacking.member(entry))
    }

    fn data(&mut self, tar: &mut LimitedReader<'_>) -> Result<(), Error> {
        self.limit = tar.limit().min(MAX_PACKAGE_BYTES);
        self.each(tar, "the data archive", |unpacking, entry| unpacking.entry(entry))
    }
}

impl Unpacking<'_> {
    /// Passes each entry of an archive to `act`.
    fn each(
        &mut self,
        tar: &mut dyn Read,
        archive: &str,
        act: impl Fn(&mut Self, &mut Entry<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let deb = self.deb;
        let failed = |source| read_error(deb, archive, source);
        entries::each(tar, failed, |entry| act(self, entry))?;
        // Only padding is left; reading it makes the decompressor verify its checksum.
        entries::padding(tar).map_err(failed)
    }

    /// Stores a member of the control archive.
    fn member(&mut self, entry: &mut Entry<'_>) -> Result<(), Error> {
        if entry.kind != Kind::File {
            return Ok(());
        }
        let meta = meta(entry);
        let member = self.member_name(&entry.path)?;
        if entry.size > MAX_MEMBER_BYTES {
            return Err(self.wrong(&entry.path, &format!("it is longer than {MAX_MEMBER_BYTES} bytes")));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(|source| read_error(self.deb, &member, source))?;
        self.members.push((member, meta, bytes));
        Ok(())
    }

    fn member_name(&self, path: &[u8]) -> Result<String, Error> {
        let name = path.strip_prefix(b"./").unwrap_or(path);
        let plain = |c: &u8| c.is_ascii_alphanumeric() || b"-_.+".contains(c);
        if name.is_empty() || name.starts_with(b".") || !name.iter().all(plain) {
            return Err(self.wrong(path, "not a name that dpkg gives to control files"));
        }
        Ok(String::from_utf8_lossy(name).into_owned())
    }

    fn entry(&mut self, entry: &mut Entry<'_>) -> Result<(), Error> {
        let spelled = entry.path.clone();
        self.count += 1;
        if self.count > MAX_ENTRIES {
            return Err(self.wrong(&spelled, &format!("the package has more than {MAX_ENTRIES} entries")));
        }
        let Some(path) = self.path(&spelled)? else {
            self.listed(b"/.")?;
            return Ok(());
        };
        let meta = meta(entry);
        let place = if entry.kind == Kind::Dir { usr_merge::place_of_dir(&path) } else { usr_merge::place(&path) };
        let place = LayerPath::parse(&place).map_err(|error| self.wrong(&spelled, &error.to_string()))?;
        match entry.kind {
            Kind::Dir => self.stage.add_dir(&place, &meta).map_err(|error| self.staged(error))?,
            Kind::File => {
                let left = self.limit.saturating_sub(self.stage.bytes());
                // A sparse file may claim any size without data.
                if entry.size > left {
                    return Err(self.wrong(&spelled, &format!("the package unpacks to more than {} bytes", self.limit)));
                }
                self.stage.add_file(&place, &meta, entry, left).map_err(|error| self.staged(error))?;
            }
            Kind::Symlink if usr_merge::is_own_place(place.as_bytes(), &entry.link) => {}
            Kind::Symlink => self.stage.add_symlink(&place, &meta, &entry.link).map_err(|error| self.staged(error))?,
            Kind::Link => {
                let target = self.path(&entry.link)?.ok_or_else(|| self.wrong(&spelled, "a hard link to the root"))?;
                let target = LayerPath::parse(&usr_merge::place(&target)).map_err(|error| self.wrong(&spelled, &error.to_string()))?;
                // In a merged /usr, two hard links may be the same path.
                if target != place || self.stage.holds(&place).is_none() {
                    self.stage.add_hardlink(&place, &target).map_err(|error| self.staged(error))?;
                }
            }
            Kind::Char | Kind::Block | Kind::Pipe => return Err(self.wrong(&spelled, "a device node or pipe, which layers cannot hold")),
        }
        self.listed(&[b"/", path.as_slice()].concat())
    }

    /// Returns the normalised path, or `None` for the root itself.
    fn path(&self, spelled: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let Some(path) = plain(spelled).map_err(|what| self.wrong(spelled, what))? else { return Ok(None) };
        if path.contains(&b'\n') {
            return Err(self.wrong(spelled, "a line break in a name, which dpkg's lists cannot hold"));
        }
        Ok(Some(path))
    }

    fn listed(&mut self, path: &[u8]) -> Result<(), Error> {
        if self.list.len() + path.len() > MAX_LIST_BYTES {
            return Err(self.wrong(path, "too many names in one package"));
        }
        self.list.extend(path);
        self.list.push(b'\n');
        Ok(())
    }

    /// Writes dpkg's files about the package.
    fn note(mut self) -> Result<(), Error> {
        let control = self.members.iter().find(|(member, ..)| member == "control");
        let (_, meta, stanza) = control.ok_or_else(|| self.container("no control file"))?;
        let parsed = record::parse_stanza(stanza).map_err(|what| self.container(&what))?;
        let list_meta = Meta { mode: 0o644, ..meta.clone() };
        let mut members = std::mem::take(&mut self.members);
        members.push(("list".to_owned(), list_meta, std::mem::take(&mut self.list)));
        let base = parsed.info_base();
        for (member, meta, bytes) in members {
            let path = format!("{}/{base}.{member}", record::INFO);
            let path = LayerPath::parse(path.as_bytes()).map_err(|error| self.container(&error.to_string()))?;
            self.stage.add_file(&path, &meta, &mut bytes.as_slice(), u64::MAX).map_err(|error| self.staged(error))?;
        }
        Ok(())
    }

    fn container(&self, what: &str) -> Error {
        Error::Container { deb: self.deb.to_owned(), what: what.to_owned() }
    }

    fn wrong(&self, path: &[u8], what: &str) -> Error {
        Error::Entry { deb: self.deb.to_owned(), path: shown(path), what: what.to_owned() }
    }

    fn staged(&self, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::Stage { deb: self.deb.to_owned(), source: Box::new(source) }
    }
}

fn meta(entry: &Entry<'_>) -> Meta {
    Meta { mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime, xattrs: Default::default() }
}

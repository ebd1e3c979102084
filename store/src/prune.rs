//! Removes entries from a stage: files of packages that images do not need.

use crate::draft::{Draft, DraftNode};
use crate::entry::{MAX_ENTRIES, Meta};
use crate::path::LayerPath;
use crate::path_error::at;
use crate::stage::{Stage, StageError};
use rustix::fs::{self, AtFlags};

impl Stage {
    /// Removes an entry, and for a directory everything below it. A missing path is not an error.
    pub fn remove(&mut self, path: &LayerPath) -> Result<(), StageError> {
        let below = self.drafts.range(path..).map(|(found, _)| found);
        let mut doomed: Vec<LayerPath> = below.take_while(|p| *p == path || p.is_below(path)).cloned().collect();
        doomed.extend(self.unrecorded.range(path..).take_while(|p| *p == path || p.is_below(path)).cloned());
        doomed.sort();
        for path in doomed.iter().rev() {
            self.unrecorded.remove(path);
            let flags = match self.drafts.remove(path).map(|draft| (draft.meta, draft.node)) {
                Some((_, DraftNode::Whiteout)) => continue,
                Some((meta, DraftNode::File { size })) => {
                    self.rename_file(path, &meta, size)?;
                    AtFlags::empty()
                }
                Some((_, DraftNode::Symlink { .. } | DraftNode::Hardlink { .. })) => AtFlags::empty(),
                Some((_, DraftNode::Dir { .. })) | None => AtFlags::REMOVEDIR,
            };
            let removed = self.beneath.parent(path).and_then(|dir| fs::unlinkat(dir, path.name(), flags));
            removed.map_err(at("remove", &self.beneath.host(path)))?;
        }
        self.beneath.forget();
        Ok(())
    }

    /// Makes the next hard link of a removed file its main name, if there is one.
    fn rename_file(&mut self, gone: &LayerPath, meta: &Meta, size: u64) -> Result<(), StageError> {
        let names = self.names.remove(gone).unwrap_or_default();
        // A file with many hard links could lose one name after the other, and each time all remaining links are moved: limit the sum.
        self.moved = self.moved.saturating_add(names.len());
        if self.moved > MAX_ENTRIES {
            return Err(StageError::TooMany);
        }
        let mut heir: Option<LayerPath> = None;
        for path in names {
            let Some(draft) = self.drafts.get_mut(&path) else { continue };
            match &mut draft.node {
                DraftNode::Hardlink { to } if to == gone => match &heir {
                    Some(heir) => {
                        *to = heir.clone();
                        self.names.entry(heir.clone()).or_default().push(path);
                    }
                    None => {
                        heir = Some(path.clone());
                        *draft = Draft { meta: meta.clone(), node: DraftNode::File { size } };
                    }
                },
                _ => {}
            }
        }
        if heir.is_none() {
            self.bytes -= size.min(self.bytes);
        }
        Ok(())
    }
}

//! Fixed outputs: layers of steps with network or project files, which a lock pins because the derivation does not determine them.

use silo_store::difference::differences;
use silo_store::digest::{Digest, LayerId};

use silo_model::derivation::DrvId;

use super::context::{BuildContext, Target, project_key, read_index};
use super::error::Error;

/// Most differences that an error lists.
const SHOWN: usize = 20;

/// Returns the key of the record that a step made this layer. `project` is empty for a step without project files.
pub(super) fn key(step: DrvId, layer: LayerId, project: &str) -> Digest {
    of_step(step.digest(), layer, project)
}

/// Returns the keys of the record that a step made this layer: for a step without project files, and for one with those of this tool.
pub fn output_keys(target: &Target<'_>, step: Digest, layer: LayerId) -> Vec<Digest> {
    let project = target.project.and_then(project_key);
    [String::new()].into_iter().chain(project).map(|project| of_step(step, layer, &project)).collect()
}

fn of_step(drv: Digest, layer: LayerId, project: &str) -> Digest {
    Digest::of(format!("silo fixed output 1\n{drv}\n{layer}\n{project}\n").as_bytes())
}

/// Describes how the output differs from the lock.
pub(super) fn mismatch(ctx: &BuildContext<'_>, command: String, pinned: LayerId, made: LayerId) -> Error {
    let indexes = read_index(ctx, pinned).and_then(|old| Ok((old, read_index(ctx, made)?)));
    let told = match indexes {
        Ok((old, new)) => {
            let all = differences(&old, &new);
            let more = all.len().saturating_sub(SHOWN);
            let mut lines: Vec<String> = all.iter().take(SHOWN).map(|difference| format!("  {difference}")).collect();
            if more > 0 {
                lines.push(format!("  and {more} more"));
            }
            lines.join("\n")
        }
        Err(_) => format!("  the differing paths are unknown, because the pinned layer is not on this machine; the new layer is {made}"),
    };
    Error::OtherOutput { command, pinned, made, told }
}

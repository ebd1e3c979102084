//! An action: a command with the files that it reads, and the files that it must write.

use std::collections::BTreeMap;

use crate::blobs::{BlobId, Blobs};
use crate::execution::Limits;
use crate::messages as m;

/// A file of an action's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputFile {
    /// Its contents.
    pub blob: BlobId,
    /// True if it can be executed.
    pub is_executable: bool,
}

/// An action to run.
pub struct Action<'a> {
    /// The command, relative to the directory.
    pub arguments: Vec<String>,
    /// The files, by path: `name` or `directory/name`.
    pub files: BTreeMap<String, InputFile>,
    /// The blobs of these files.
    pub blobs: Blobs<'a>,
    /// Paths of the files that the command writes.
    pub outputs: Vec<String>,
    /// The properties that a worker must have.
    pub platform: Vec<(String, String)>,
    /// Distinguishes actions of different versions.
    pub salt: Vec<u8>,
    /// The time limits.
    pub limits: Limits,
}

/// Adds the messages of an action to its blobs, and returns the action's name.
pub(crate) fn encode(action: &mut Action<'_>) -> BlobId {
    let mut root = m::Directory::default();
    let mut below: BTreeMap<&str, m::Directory> = BTreeMap::new();
    for (path, file) in &action.files {
        let (into, name) = match path.split_once('/') {
            Some((dir, name)) => (below.entry(dir).or_default(), name),
            None => (&mut root, path.as_str()),
        };
        into.files.push(m::FileNode { name: name.to_owned(), digest: Some(file.blob.to_message()), is_executable: file.is_executable });
    }
    // Names must be sorted; the map is.
    for (name, directory) in below {
        root.directories.push(m::DirectoryNode { name: name.to_owned(), digest: Some(action.blobs.add_message(&directory)) });
    }
    let mut properties: Vec<m::Property> =
        action.platform.iter().map(|(name, value)| m::Property { name: name.clone(), value: value.clone() }).collect();
    properties.sort_by(|a, b| (&a.name, &a.value).cmp(&(&b.name, &b.value)));
    let platform = Some(m::Platform { properties });
    let mut outputs = action.outputs.clone();
    outputs.sort();
    // Servers of the API's versions before 2.1 read the older list.
    let command = m::Command {
        arguments: action.arguments.clone(),
        output_files: outputs.clone(),
        output_paths: outputs,
        platform: platform.clone(),
        ..m::Command::default()
    };
    let seconds = i64::try_from(action.limits.run.as_secs()).unwrap_or(i64::MAX);
    let message = m::Action {
        command_digest: Some(action.blobs.add_message(&command)),
        input_root_digest: Some(action.blobs.add_message(&root)),
        timeout: Some(m::Duration { seconds, nanos: 0 }),
        do_not_cache: true,
        salt: action.salt.clone(),
        platform,
    };
    let digest = action.blobs.add_message(&message);
    BlobId::of_message(&digest).expect("a digest of our own")
}

//! Manifests of data about an image, such as a signature, and the lists that name them; for reading and writing.
//!
//! A registry lists the manifests with a `subject` by its referrers interface. For registries without it, a tag `sha256-<hex>` holds an
//! index of them. The input is hostile: numbers are bounded, and missing fields are errors.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use silo_store::digest::Digest;

use silo_base::system::Arch;

use super::manifest::{Pointer, digest};
use super::{Blob, INDEX, MANIFEST};

/// The media type of an empty configuration, and its bytes.
pub const EMPTY: (&str, &[u8]) = ("application/vnd.oci.empty.v1+json", b"{}");
/// The most blobs of a manifest that is read. The inputs of a large image are a few hundred.
pub const MAX_BLOBS: usize = 8192;
/// The most entries of an index that is read.
pub(super) const MAX_ENTRIES: usize = 1000;
/// The most bytes of a blob; an arbitrary limit, far above real ones.
const MAX_BLOB_BYTES: u64 = 32 << 30;

/// A blob in a manifest or an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The media type.
    pub media_type: String,
    /// The digest and size.
    pub pointer: Pointer,
    /// The type of an artifact, if it is given.
    pub artifact_type: Option<String>,
    /// The architecture, if the platform is one that Silo knows.
    pub arch: Option<Arch>,
    /// The annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A manifest or an index, as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The type of an artifact, if it is given.
    pub artifact_type: Option<String>,
    /// The configuration, if it is a manifest.
    pub config: Option<Entry>,
    /// The blobs of a manifest.
    pub layers: Vec<Entry>,
    /// The entries of an index.
    pub manifests: Vec<Entry>,
    /// The manifest that this one is about.
    pub subject: Option<Digest>,
    /// The annotations.
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenEntry {
    media_type: String,
    digest: String,
    size: u64,
    artifact_type: Option<String>,
    platform: Option<WrittenPlatform>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct WrittenPlatform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    schema_version: u64,
    artifact_type: Option<String>,
    config: Option<WrittenEntry>,
    layers: Option<Vec<WrittenEntry>>,
    manifests: Option<Vec<WrittenEntry>>,
    subject: Option<WrittenEntry>,
    annotations: Option<BTreeMap<String, String>>,
}

/// Parses a manifest or an index.
pub fn read(bytes: &[u8]) -> Result<Document, String> {
    let written: Written = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if written.schema_version != 2 {
        return Err(format!("its schemaVersion is {}; 2 is known", written.schema_version));
    }
    let all = |list: Option<Vec<WrittenEntry>>, most: usize| match list {
        Some(list) if list.len() > most => Err(format!("it names {} blobs; at most {most} are taken", list.len())),
        list => list.into_iter().flatten().map(entry).collect::<Result<Vec<Entry>, String>>(),
    };
    Ok(Document {
        artifact_type: written.artifact_type,
        config: written.config.map(entry).transpose()?,
        layers: all(written.layers, MAX_BLOBS)?,
        manifests: all(written.manifests, MAX_ENTRIES)?,
        subject: written.subject.map(entry).transpose()?.map(|subject| subject.pointer.digest),
        annotations: written.annotations.unwrap_or_default(),
    })
}

#[derive(Deserialize)]
struct TagList {
    tags: Option<Vec<String>>,
}

/// Parses a registry's list of tags.
pub fn tags(bytes: &[u8]) -> Result<Vec<String>, String> {
    let listed: TagList = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let tags = listed.tags.unwrap_or_default();
    match tags.iter().find(|tag| !is_tag(tag)) {
        Some(tag) => Err(format!("\"{}\" is not a tag", tag.escape_debug())),
        None => Ok(tags),
    }
}

/// Returns true for a tag as the OCI distribution specification defines it.
fn is_tag(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    (1..=128).contains(&text.len()) && text.chars().all(is_plain) && !text.starts_with(['.', '-'])
}

/// Returns the media type of a manifest or an index.
pub fn media_type(bytes: &[u8]) -> Result<&'static str, String> {
    let document = read(bytes)?;
    Ok(if document.config.is_some() { MANIFEST } else { INDEX })
}

fn entry(written: WrittenEntry) -> Result<Entry, String> {
    let digest = digest(&written.digest)?;
    if written.size > MAX_BLOB_BYTES {
        return Err(format!("sha256:{digest} is said to be {} bytes; {MAX_BLOB_BYTES} are taken", written.size));
    }
    let platform = written.platform.filter(|platform| platform.os == "linux");
    Ok(Entry {
        media_type: written.media_type,
        pointer: Pointer { digest, size: written.size },
        artifact_type: written.artifact_type,
        arch: platform.and_then(|platform| platform.architecture.parse().ok()),
        annotations: written.annotations.unwrap_or_default(),
    })
}

impl Entry {
    /// Returns the entry of an artifact.
    pub fn of_artifact(artifact_type: &str, manifest: &[u8]) -> Entry {
        let pointer = Pointer { digest: Digest::of(manifest), size: manifest.len() as u64 };
        let (media_type, artifact_type) = (MANIFEST.to_owned(), Some(artifact_type.to_owned()));
        Entry { media_type, pointer, artifact_type, arch: None, annotations: BTreeMap::new() }
    }

    pub(super) fn value(&self) -> Value {
        let mut value =
            json!({ "mediaType": self.media_type, "digest": format!("sha256:{}", self.pointer.digest), "size": self.pointer.size });
        if let Some(kind) = &self.artifact_type {
            value["artifactType"] = json!(kind);
        }
        if let Some(arch) = self.arch {
            value["platform"] = json!({ "architecture": arch.name(), "os": "linux" });
        }
        if !self.annotations.is_empty() {
            value["annotations"] = json!(self.annotations);
        }
        value
    }
}

/// Returns the manifest of an artifact about another manifest.
pub fn artifact(kind: &str, config: &Blob, layers: &[Blob], subject: &Blob, annotations: &BTreeMap<String, String>) -> Vec<u8> {
    let layers: Vec<Value> = layers.iter().map(Blob::descriptor).collect();
    let mut value = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind,
        "config": config.descriptor(), "layers": layers, "subject": subject.descriptor(),
    });
    if !annotations.is_empty() {
        value["annotations"] = json!(annotations);
    }
    value.to_string().into_bytes()
}

/// Returns the manifest of an artifact that is about nothing else.
pub fn alone(kind: &str, config: &Blob, layers: &[Blob]) -> Vec<u8> {
    let layers: Vec<Value> = layers.iter().map(Blob::descriptor).collect();
    let value = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind, "config": config.descriptor(), "layers": layers });
    value.to_string().into_bytes()
}

/// Returns the manifest of an image with annotations; the layers are lowest first.
pub fn image(config: &Blob, layers: &[Blob], annotations: &BTreeMap<String, String>) -> Vec<u8> {
    let layers: Vec<Value> = layers.iter().map(Blob::descriptor).collect();
    let fixed = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config.descriptor(), "layers": layers });
    let mut value = fixed;
    value["annotations"] = json!(annotations);
    value.to_string().into_bytes()
}

/// Returns an index.
pub fn index(entries: &[Entry]) -> Vec<u8> {
    let entries: Vec<Value> = entries.iter().map(Entry::value).collect();
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::CONFIG;

    #[test]
    fn only_tags_are_listed() {
        assert_eq!(tags(br#"{"name":"x","tags":["1.0","drv-a","_b"]}"#), Ok(vec!["1.0".to_owned(), "drv-a".to_owned(), "_b".to_owned()]));
        assert_eq!(tags(br#"{"name":"x","tags":null}"#), Ok(Vec::new()));
        for wrong in [r#"{"tags":["a/b"]}"#, r#"{"tags":["-a"]}"#, r#"{"tags":[""]}"#, r#"{"tags":1}"#, "", r#"{"tags":["a\u001b"]}"#] {
            assert!(tags(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn documents_are_read_back_and_wrong_ones_refused() {
        let config = Blob::of(CONFIG, b"{}");
        let about = Blob::of(MANIFEST, b"about");
        let notes = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let text = artifact("x/y", &config, &[Blob::of("l/m", b"x")], &about, &notes);
        let read_back = read(&text).expect("an artifact");
        assert_eq!((read_back.artifact_type.as_deref(), read_back.subject), (Some("x/y"), Some(about.digest)));
        assert_eq!((read_back.layers[0].pointer.size, &read_back.annotations), (1, &notes));
        let entry = Entry { arch: Some(Arch::Arm64), ..Entry::of_artifact("x/y", &text) };
        let list = read(&index(std::slice::from_ref(&entry))).expect("an index");
        assert_eq!(list.manifests, [entry]);
        let text = String::from_utf8(text).expect("JSON");
        for wrong in [
            String::new(),
            "[]".to_owned(),
            text.replace("\"schemaVersion\":2", "\"schemaVersion\":1"),
            text.replace("sha256:", "md5:"),
            text.replace("\"size\":1", "\"size\":-1"),
            text.replace("\"size\":1", "\"size\":99999999999999"),
            text[..text.len() - 1].to_owned(),
        ] {
            assert!(read(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let one = r#"{"mediaType":"a","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","size":1}"#;
        let many = format!("{{\"schemaVersion\":2,\"manifests\":[{}]}}", vec![one; MAX_ENTRIES + 1].join(","));
        assert!(read(many.as_bytes()).expect_err("too many").contains("1001 blobs"));
    }
}

//! The contents of a pushed image: its layers one by one, and the derivations that it is the result of. `docs/pushed-images.md` describes it.
//!
//! The image's manifest names this document by digest, so a signature of the manifest covers every byte of it. The input is hostile: numbers
//! are bounded, and unknown fields are errors.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value, json};
use silo_store::digest::{Digest, LayerId};
use silo_store::manifest::Manifest;

use silo_base::system::Arch;

use crate::derivation;

use super::manifest::{MAX_LAYERS, Pointer, digest};

/// The media type of the document, and the type of the manifest that names the document and all its blobs.
pub const CONTENTS: &str = "application/vnd.silo.image.v1+json";
/// The annotation of an image's manifest with the digest of this document.
pub const ANNOTATION: &str = "vnd.silo.image.contents";
/// The version that is written, and the only one that is read.
const VERSION: u64 = 1;
/// The most bytes of a document. An image of 512 layers has half a megabyte.
pub const MAX_BYTES: u64 = 16 << 20;
/// The most derivations of an image. Each lock that gives the same image adds one.
const MAX_DERIVATIONS: usize = 64;
/// The most bytes of a compressed layer; an arbitrary limit, far above real layers.
pub const MAX_LAYER_BYTES: u64 = 32 << 30;
/// The most bytes of a tool's name or version.
const MAX_NAME_BYTES: usize = 128;

/// Compression of a layer's blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// zstd.
    Zstd,
    /// gzip, for programs that do not know zstd.
    Gzip,
}

impl Form {
    /// Returns its name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Form::Zstd => "zstd",
            Form::Gzip => "gzip",
        }
    }

    /// Returns the media type of a layer.
    pub fn media_type(self) -> &'static str {
        match self {
            Form::Zstd => super::LAYER_ZSTD,
            Form::Gzip => super::LAYER_GZIP,
        }
    }

    /// Parses a name.
    pub fn parse(name: &str) -> Option<Form> {
        [Form::Zstd, Form::Gzip].into_iter().find(|form| form.name() == name)
    }
}

/// One layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its id and origin.
    pub manifest: Manifest,
    /// Its compressed archive.
    pub blob: Pointer,
    /// The compression.
    pub form: Form,
}

/// The contents of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The architecture.
    pub arch: Arch,
    /// The image's configuration; its digest is the image's id.
    pub config: Pointer,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
    /// The derivations of which the image is the result.
    pub derivations: BTreeSet<Digest>,
    /// The name and version of the tool, for people.
    pub tool: Option<(String, String)>,
    /// The lock that the image was built from, as text.
    pub lock: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u64,
    arch: String,
    config: WrittenBlob,
    derivations: Vec<String>,
    layers: Vec<WrittenLayer>,
    lock: Option<String>,
    rules: Vec<u64>,
    tool: Option<WrittenTool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenTool {
    name: String,
    version: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenBlob {
    digest: String,
    size: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenLayer {
    digest: String,
    form: String,
    layer: String,
    manifest: String,
    size: u64,
}

/// Encodes the document; equal contents give equal bytes, since keys are sorted.
pub fn write(contents: &Contents) -> Vec<u8> {
    let layers: Vec<Value> = contents.layers.iter().map(layer_value).collect();
    let mut value = json!({
        "version": VERSION,
        "arch": contents.arch.name(),
        "config": { "digest": format!("sha256:{}", contents.config.digest), "size": contents.config.size },
        "derivations": contents.derivations.iter().map(Digest::to_string).collect::<Vec<_>>(),
        "layers": layers,
        "rules": derivation::rules(),
    });
    put_origin(&mut value, contents.tool.as_ref(), contents.lock.as_deref());
    value.to_string().into_bytes()
}

/// Adds the tool and its lock, if there are any.
pub(super) fn put_origin(value: &mut Value, tool: Option<&(String, String)>, lock: Option<&str>) {
    if let Some((name, version)) = tool {
        value["tool"] = json!({ "name": name, "version": version });
    }
    if let Some(lock) = lock {
        value["lock"] = json!(lock);
    }
}

pub(super) fn layer_value(layer: &Layer) -> Value {
    json!({
        "digest": format!("sha256:{}", layer.blob.digest),
        "form": layer.form.name(),
        "layer": layer.manifest.layer.oci(),
        "manifest": layer.manifest.to_text(),
        "size": layer.blob.size,
    })
}

/// Decodes the document; the error says what is wrong with it.
pub fn read(bytes: &[u8]) -> Result<Contents, String> {
    let written: Written = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if written.version != VERSION {
        return Err(format!("its version is {}; this silo reads version {VERSION}", written.version));
    }
    // The rules are part of each derivation, and of the layers' ids. They are there for people and for this check.
    if written.rules != derivation::rules() {
        return Err("another version of silo built it, by other rules".to_owned());
    }
    if written.layers.is_empty() || written.layers.len() > MAX_LAYERS {
        return Err(format!("it has {} layers; 1 to {MAX_LAYERS} are taken", written.layers.len()));
    }
    if written.derivations.len() > MAX_DERIVATIONS {
        return Err(format!("it has {} derivations; at most {MAX_DERIVATIONS} are taken", written.derivations.len()));
    }
    let tool = tool(written.tool)?;
    Ok(Contents {
        arch: written.arch.parse().map_err(|error: silo_base::system::UnknownArch| error.to_string())?,
        config: pointer(&written.config.digest, written.config.size, super::manifest::MAX_DOCUMENT_BYTES)?,
        layers: written.layers.into_iter().map(layer).collect::<Result<_, _>>()?,
        derivations: written
            .derivations
            .iter()
            .map(|id| Digest::parse(id).map_err(|_| format!("\"{}\" is not a derivation", id.escape_debug())))
            .collect::<Result<_, _>>()?,
        tool,
        lock: written.lock,
    })
}

pub(super) fn tool(written: Option<WrittenTool>) -> Result<Option<(String, String)>, String> {
    let is_plain = |text: &str| !text.is_empty() && text.len() <= MAX_NAME_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic());
    match written {
        Some(tool) if !is_plain(&tool.name) || !is_plain(&tool.version) => Err("the tool's name or version is malformed".to_owned()),
        tool => Ok(tool.map(|tool| (tool.name, tool.version))),
    }
}

pub(super) fn layer(written: WrittenLayer) -> Result<Layer, String> {
    let id = LayerId::new(digest(&written.layer)?);
    let manifest = Manifest::parse(&written.manifest).map_err(|error| error.to_string())?;
    if manifest.layer != id {
        return Err(format!("the manifest of layer {id} is that of {}", manifest.layer));
    }
    let form = Form::parse(&written.form).ok_or_else(|| format!("the form \"{}\" is unknown", written.form.escape_debug()))?;
    Ok(Layer { manifest, blob: pointer(&written.digest, written.size, MAX_LAYER_BYTES)?, form })
}

pub(super) fn pointer(text: &str, size: u64, most: u64) -> Result<Pointer, String> {
    let digest = digest(text)?;
    if size > most {
        return Err(format!("sha256:{digest} is said to be {size} bytes; {most} are taken"));
    }
    Ok(Pointer { digest, size })
}

#[cfg(test)]
mod tests {
    use silo_store::manifest::Record;

    use super::*;

    fn contents() -> Contents {
        let layer = |text: &[u8], form| {
            let blob = Pointer { digest: Digest::of(text), size: text.len() as u64 };
            let record = Record { name: "a \"b\"".into(), inputs: vec!["x".into()], ..Record::default() };
            Layer { manifest: Manifest { layer: LayerId::new(Digest::of(text)), entries: 1, bytes: 2, record }, blob, form }
        };
        Contents {
            arch: Arch::Amd64,
            config: Pointer { digest: Digest::of(b"config"), size: 6 },
            layers: vec![layer(b"a", Form::Zstd), layer(b"b", Form::Gzip)],
            derivations: [Digest::of(b"drv")].into(),
            tool: Some(("python".into(), "3.13.5-1".into())),
            lock: Some("# a lock\n".into()),
        }
    }

    #[test]
    fn documents_are_read_back_and_wrong_ones_refused() {
        let text = write(&contents());
        assert_eq!(read(&text), Ok(contents()));
        let none = Contents { tool: None, lock: None, ..contents() };
        assert_eq!(read(&write(&none)), Ok(none));
        let text = String::from_utf8(text).expect("JSON");
        let layer = Digest::of(b"a").to_string();
        for wrong in [
            String::new(),
            text.replace("\"version\":1", "\"version\":2"),
            text.replace("\"arch\":\"amd64\"", "\"arch\":\"mips\""),
            text.replace("\"rules\":[", "\"rules\":[0,"),
            text.replace("\"form\":\"gzip\"", "\"form\":\"rar\""),
            text.replace("\"size\":6", "\"size\":99999999999"),
            text.replacen(&format!("sha256:{layer}"), "sha256:0", 1),
            text.replace(&format!("layer = \\\"{layer}"), &format!("layer = \\\"{}", Digest::of(b"c"))),
            text.replace("\"name\":\"python\"", "\"name\":\"\\u001b[31m\""),
            text.replacen('{', "{\"more\":1,", 1),
        ] {
            assert_ne!(wrong, text);
            assert!(read(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let many = Contents { layers: vec![contents().layers[0].clone(); MAX_LAYERS + 1], ..contents() };
        assert!(read(&write(&many)).expect_err("too many").contains("513 layers"));
    }
}

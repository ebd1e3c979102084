//! The inputs of an image's build: package files, layers of the base image, and the outputs of steps with a network.
//! `docs/pushed-images.md` describes the document.
//!
//! Files are only addresses: a build takes each by the digest in its lock. Outputs of steps need a signature. The input is hostile: numbers
//! are bounded, and unknown fields are errors.

use serde::Deserialize;
use serde_json::{Value, json};
use silo_store::digest::Digest;

use silo_base::system::Arch;

use super::artifact::MAX_BLOBS;
use super::contents::{self, Layer, MAX_LAYER_BYTES, WrittenLayer, WrittenTool};
use super::manifest::Pointer;

/// The media type of the document, and the type of the manifest that names it and all its blobs.
pub const INPUTS: &str = "application/vnd.silo.inputs.v1+json";
/// The media type of an input file.
pub const FILE: &str = "application/vnd.silo.input";
/// The version that is written, and the only one that is read.
const VERSION: u64 = 1;
/// The most bytes of a document. The inputs of an image with 2,000 packages have half a megabyte.
pub const MAX_BYTES: u64 = 16 << 20;
/// The most bytes of a file's name; Debian's longest file names have about 150.
const MAX_NAME_BYTES: usize = 512;

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its name, for people.
    pub name: String,
    /// Its digest and size.
    pub pointer: Pointer,
}

/// The output of a step with a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The derivation of the step.
    pub step: Digest,
    /// The layer.
    pub layer: Layer,
}

/// The inputs of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// The architecture.
    pub arch: Arch,
    /// The files.
    pub files: Vec<File>,
    /// The outputs of steps.
    pub outputs: Vec<Output>,
    /// The name and version of the tool, for people.
    pub tool: Option<(String, String)>,
    /// The lock that names the inputs, as text.
    pub lock: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u64,
    arch: String,
    files: Vec<WrittenFile>,
    outputs: Vec<WrittenOutput>,
    lock: Option<String>,
    tool: Option<WrittenTool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenFile {
    digest: String,
    name: String,
    size: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenOutput {
    layer: WrittenLayer,
    step: String,
}

/// Encodes the document; equal inputs give equal bytes, since keys are sorted.
pub fn write(inputs: &Inputs) -> Vec<u8> {
    let file = |file: &File| json!({ "digest": format!("sha256:{}", file.pointer.digest), "name": file.name, "size": file.pointer.size });
    let output = |output: &Output| json!({ "layer": contents::layer_value(&output.layer), "step": output.step.to_string() });
    let mut value = json!({
        "version": VERSION,
        "arch": inputs.arch.name(),
        "files": inputs.files.iter().map(file).collect::<Vec<Value>>(),
        "outputs": inputs.outputs.iter().map(output).collect::<Vec<Value>>(),
    });
    contents::put_origin(&mut value, inputs.tool.as_ref(), inputs.lock.as_deref());
    value.to_string().into_bytes()
}

/// Decodes the document; the error says what is wrong with it.
pub fn read(bytes: &[u8]) -> Result<Inputs, String> {
    let written: Written = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if written.version != VERSION {
        return Err(format!("its version is {}; this silo reads version {VERSION}", written.version));
    }
    let count = written.files.len() + written.outputs.len();
    if count > MAX_BLOBS {
        return Err(format!("it has {count} inputs; at most {MAX_BLOBS} are taken"));
    }
    Ok(Inputs {
        arch: written.arch.parse().map_err(|error: silo_base::system::UnknownArch| error.to_string())?,
        files: written.files.into_iter().map(file).collect::<Result<_, _>>()?,
        outputs: written.outputs.into_iter().map(output).collect::<Result<_, _>>()?,
        tool: contents::tool(written.tool)?,
        lock: written.lock,
    })
}

fn file(written: WrittenFile) -> Result<File, String> {
    let is_plain = |text: &str| !text.is_empty() && text.len() <= MAX_NAME_BYTES && !text.chars().any(char::is_control);
    if !is_plain(&written.name) {
        return Err("the name of a file is malformed".to_owned());
    }
    Ok(File { pointer: contents::pointer(&written.digest, written.size, MAX_LAYER_BYTES)?, name: written.name })
}

fn output(written: WrittenOutput) -> Result<Output, String> {
    let step = Digest::parse(&written.step).map_err(|_| format!("\"{}\" is not a derivation", written.step.escape_debug()))?;
    Ok(Output { step, layer: contents::layer(written.layer)? })
}

#[cfg(test)]
mod tests {
    use silo_store::digest::LayerId;
    use silo_store::manifest::{Manifest, Record};

    use super::*;
    use crate::oci::contents::Form;

    #[test]
    fn documents_are_read_back_and_wrong_ones_refused() {
        let pointer = |text: &[u8]| Pointer { digest: Digest::of(text), size: text.len() as u64 };
        let manifest = Manifest { layer: LayerId::new(Digest::of(b"a")), entries: 1, bytes: 2, record: Record::default() };
        let layer = Layer { manifest, blob: pointer(b"blob"), form: Form::Zstd };
        let inputs = Inputs {
            arch: Arch::Amd64,
            files: vec![File { name: "dash_1_amd64.deb".to_owned(), pointer: pointer(b"deb") }],
            outputs: vec![Output { step: Digest::of(b"step"), layer }],
            tool: Some(("sh".to_owned(), "1".to_owned())),
            lock: Some("# a lock\n".to_owned()),
        };
        let text = write(&inputs);
        assert_eq!(read(&text), Ok(inputs.clone()));
        let none = Inputs { files: Vec::new(), outputs: Vec::new(), tool: None, lock: None, ..inputs.clone() };
        assert_eq!(read(&write(&none)), Ok(none));
        let text = String::from_utf8(text).expect("JSON");
        for wrong in [
            String::new(),
            text.replace("\"version\":1", "\"version\":2"),
            text.replace("\"arch\":\"amd64\"", "\"arch\":\"mips\""),
            text.replace("dash_1", "dash\\u001b1"),
            text.replace("\"size\":3", "\"size\":99999999999"),
            text.replace("\"step\":\"", "\"step\":\"x"),
            text.replacen('{', "{\"more\":1,", 1),
        ] {
            assert_ne!(wrong, text);
            assert!(read(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let many = Inputs { files: vec![inputs.files[0].clone(); MAX_BLOBS], ..inputs };
        assert!(read(&write(&many)).expect_err("too many").contains("8193 inputs"));
    }
}

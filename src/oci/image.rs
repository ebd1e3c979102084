//! Reading what others say of an image: indexes, manifests and configurations, of OCI and of Docker.
//!
//! Everything here was written by somebody else: numbers are bounded, digests are of one kind, and what is missing is told.

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use silo_store::digest::Digest;

use crate::moment;
use crate::system::Arch;

/// Most bytes of an index, a manifest or a configuration; registries take no larger ones.
pub const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// Most layers of an image; builders stop at 127.
pub const MAX_LAYERS: usize = 512;
/// Most entries of an index. The largest in use have about 40.
const MAX_ENTRIES: usize = 1000;
/// Most bytes of one layer as it is fetched: this is arbitrary, and far above any that is used.
const MAX_LAYER_BYTES: u64 = 32 << 30;

/// What manifests are asked for as.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// A digest and a size: what must come when it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// The digest.
    pub digest: Digest,
    /// The size in bytes.
    pub size: u64,
}

/// What a registry answers with when asked for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// Images for several platforms: those of the architectures that silo knows, and those of none that is named.
    Index(Vec<(Option<Arch>, Pointer)>),
    /// One image.
    Manifest {
        /// Its configuration.
        config: Pointer,
        /// Its layers, lowest first.
        layers: Vec<Pointer>,
    },
}

/// How an image is run, and what its layers are when decompressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The architecture.
    pub arch: Arch,
    /// Seconds since 1970 that it says it was made at; 0 where it does not.
    pub created: i64,
    /// The environment, as `NAME=value`.
    pub env: Vec<String>,
    /// The program and its first arguments: the entry point, or else the command.
    pub command: Vec<String>,
    /// The digests of the decompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
}

/// Parses an index or a manifest.
pub fn document(bytes: &[u8]) -> Result<Document, String> {
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if value.get("manifests").is_some() {
        let index: ImageIndex = serde_json::from_value(value).map_err(|error| error.to_string())?;
        if index.manifests().len() > MAX_ENTRIES {
            return Err(format!("it names {} images; {MAX_ENTRIES} are taken", index.manifests().len()));
        }
        return Ok(Document::Index(index.manifests().iter().filter_map(of_platform).collect::<Result<_, _>>()?));
    }
    if value.get("layers").is_none() {
        return Err("it is neither an index nor a manifest with layers; images of the first schema are not read".to_owned());
    }
    let manifest: ImageManifest = serde_json::from_value(value).map_err(|error| error.to_string())?;
    if manifest.layers().is_empty() || manifest.layers().len() > MAX_LAYERS {
        return Err(format!("it has {} layers; 1 to {MAX_LAYERS} are taken", manifest.layers().len()));
    }
    let config = pointer(manifest.config(), MAX_DOCUMENT_BYTES)?;
    let layers = manifest.layers().iter().map(layer).collect::<Result<_, _>>()?;
    Ok(Document::Manifest { config, layers })
}

/// The manifest of a platform that silo knows; others, and what goes with images without being one, are passed over.
fn of_platform(entry: &Descriptor) -> Option<Result<(Option<Arch>, Pointer), String>> {
    let arch = match entry.platform() {
        Some(platform) if platform.os().to_string() == "linux" => Some(platform.architecture().to_string().parse().ok()?),
        Some(_) => return None,
        // A layout's index need not say it; the configuration does.
        None => None,
    };
    Some(pointer(entry, MAX_DOCUMENT_BYTES).map(|pointer| (arch, pointer)))
}

fn layer(entry: &Descriptor) -> Result<Pointer, String> {
    let kind = entry.media_type().to_string();
    if kind.contains("foreign") || kind.contains("nondistributable") {
        return Err(format!("a layer is {kind}, which registries do not hand out"));
    }
    if !kind.contains(".tar") && !kind.contains("layer.v1") {
        return Err(format!("a layer is {kind}, which is no tar"));
    }
    pointer(entry, MAX_LAYER_BYTES)
}

fn pointer(entry: &Descriptor, max: u64) -> Result<Pointer, String> {
    let digest = digest(entry.digest().as_ref())?;
    match entry.size() {
        size if size <= max => Ok(Pointer { digest, size }),
        size => Err(format!("sha256:{digest} is said to be {size} bytes; {max} are taken")),
    }
}

/// Parses a digest as documents have it: `sha256:` and 64 hexadecimal digits.
pub fn digest(text: &str) -> Result<Digest, String> {
    let hex = text.strip_prefix("sha256:").ok_or_else(|| format!("\"{text}\" is no sha256 digest"))?;
    Digest::parse(hex).map_err(|_| format!("\"{text}\" is no sha256 digest"))
}

/// Parses a configuration.
pub fn configuration(bytes: &[u8]) -> Result<Configuration, String> {
    let parsed: ImageConfiguration = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let arch: Arch = parsed.architecture().to_string().parse().map_err(|error: crate::system::UnknownArch| error.to_string())?;
    let diff_ids = parsed.rootfs().diff_ids().iter().map(|id| digest(id)).collect::<Result<_, _>>()?;
    let run = parsed.config().as_ref();
    let list = |list: Option<&Option<Vec<String>>>| list.cloned().flatten().unwrap_or_default();
    let (entry, command) = (list(run.map(|run| run.entrypoint())), list(run.map(|run| run.cmd())));
    let env = list(run.map(|run| run.env())).into_iter().filter(|pair| pair.contains('=') && !pair.contains('\0'));
    Ok(Configuration {
        arch,
        created: parsed.created().as_deref().and_then(created).unwrap_or(0),
        env: env.collect(),
        command: if entry.is_empty() { command } else { entry },
        diff_ids,
    })
}

/// Reads a date to the second; parts of seconds, and offsets, do not matter here.
fn created(text: &str) -> Option<i64> {
    let (day, rest) = text.split_once('T')?;
    moment::parse_rfc3339(&format!("{day}T{}Z", rest.get(..8)?)).filter(|secs| *secs >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(layers: &str) -> String {
        let config = format!("{{\"mediaType\":\"x\",\"digest\":\"sha256:{}\",\"size\":2}}", "0".repeat(64));
        format!("{{\"schemaVersion\":2,\"config\":{config},\"layers\":[{layers}]}}")
    }

    fn entry(kind: &str, digest: &str, size: &str) -> String {
        format!("{{\"mediaType\":\"{kind}\",\"digest\":\"{digest}\",\"size\":{size}}}")
    }

    #[test]
    fn documents_of_others_are_read_with_care() {
        let (docker, good) = ("application/vnd.docker.image.rootfs.diff.tar.gzip", format!("sha256:{}", "a".repeat(64)));
        let read = document(manifest(&entry(docker, &good, "7")).as_bytes()).expect("a manifest of Docker's");
        assert!(matches!(read, Document::Manifest { layers, .. } if layers.len() == 1 && layers[0].size == 7));
        for (layers, expect) in [
            (String::new(), "0 layers"),
            (entry("text/plain", &good, "7"), "no tar"),
            (entry("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", &good, "7"), "do not hand out"),
            (entry(docker, &good, "99999999999999"), "are taken"),
            (entry(docker, "sha256:../../x", "7"), ""),
            (entry(docker, &good, "-1"), ""),
        ] {
            let error = document(manifest(&layers).as_bytes()).expect_err(&layers);
            assert!(error.contains(expect), "{error}");
        }
        let entry = entry("application/vnd.oci.image.manifest.v1+json", &good, "7");
        let index = |count| format!("{{\"schemaVersion\":2,\"manifests\":[{}]}}", vec![entry.as_str(); count].join(","));
        assert_eq!(document(index(1).as_bytes()).map(|read| matches!(read, Document::Index(list) if list[0].0.is_none())), Ok(true));
        assert!(document(index(MAX_ENTRIES + 1).as_bytes()).expect_err("too many").contains("are taken"));
        for wrong in ["", "[]", "{}", "{\"schemaVersion\":1,\"fsLayers\":[]}", "{\"manifests\":3}"] {
            document(wrong.as_bytes()).expect_err(wrong);
        }
    }

    #[test]
    fn configurations_say_how_an_image_is_run() {
        let text = format!(
            "{{\"created\":\"2026-01-02T03:04:05.678901Z\",\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{{\"Env\":[\"A=1\",\"odd\"],\"Entrypoint\":null,\"Cmd\":[\"x\"]}},\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"sha256:{}\"]}}}}",
            "b".repeat(64)
        );
        let read = configuration(text.as_bytes()).expect("a configuration");
        assert_eq!((read.arch, read.created, read.diff_ids.len()), (Arch::Amd64, 1_767_323_045, 1));
        assert_eq!((read.env, read.command), (vec!["A=1".to_owned()], vec!["x".to_owned()]));
        configuration(b"{\"architecture\":\"riscv64\",\"os\":\"linux\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}")
            .expect_err("another machine");
    }
}

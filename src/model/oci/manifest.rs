//! Parses indexes, manifests and configurations of images, in the formats of OCI and Docker.
//!
//! The input is hostile: numbers are bounded, only sha256 digests are accepted, and missing fields are errors.

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::{Deserialize, Deserializer};
use silo_store::digest::Digest;

use silo_base::system::Arch;
use silo_base::timestamp;

/// The most bytes of an index, manifest or configuration; registries have the same limit.
pub const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// The most layers of an image; builders stop at 127.
pub const MAX_LAYERS: usize = 512;
/// The most entries of an index. The largest in use have about 40.
const MAX_ENTRIES: usize = 1000;
/// The most bytes of a compressed layer; an arbitrary limit, far above real layers.
const MAX_LAYER_BYTES: u64 = 32 << 30;

/// The `Accept` header of a manifest request.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// The digest and size of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// The digest.
    pub digest: Digest,
    /// The size in bytes.
    pub size: u64,
}

/// A registry's answer to a request for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// Images for several platforms: those for known architectures, and those without a platform. For each architecture, the image with the
    /// lowest CPU requirements comes first.
    Index(Vec<(Option<Arch>, Pointer)>),
    /// Not an image, but data about one, such as a signature or a provenance statement.
    Artifact(String),
    /// One image.
    Manifest {
        /// Its configuration.
        config: Pointer,
        /// Its layers, lowest first.
        layers: Vec<Pointer>,
    },
}

/// The configuration of an image: its environment and commands, and the digests of its unpacked layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The architecture.
    pub arch: Arch,
    /// Creation time in seconds since 1970; 0 if unknown.
    pub created: i64,
    /// The environment, as `NAME=value`.
    pub env: Vec<String>,
    /// The entry point: the program and its first arguments; arguments of a run follow them.
    pub entrypoint: Vec<String>,
    /// The default arguments of the entry point, or the default program with its arguments.
    pub cmd: Vec<String>,
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
        return index_of(index.manifests()).map(Document::Index);
    }
    if let Some(what) = artifact(&value) {
        return Ok(Document::Artifact(what));
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

/// Selects the manifests for known platforms; skips other platforms and attached artifacts.
fn index_of(entries: &[Descriptor]) -> Result<Vec<(Option<Arch>, Pointer)>, String> {
    let mut found = Vec::new();
    for entry in entries {
        let (arch, demand) = match entry.platform() {
            Some(platform) if platform.os().to_string() == "linux" => match arch(&platform.architecture().to_string()) {
                Some(arch) => (Some(arch), demand(arch, platform.variant().as_deref().unwrap_or_default())),
                None => continue,
            },
            Some(_) => continue,
            // A layout's index may omit the platform; the configuration has it.
            None => (None, 0),
        };
        found.push((demand, arch, pointer(entry, MAX_DOCUMENT_BYTES)?));
    }
    // A stable sort: equal entries keep their order.
    found.sort_by_key(|(demand, ..)| *demand);
    Ok(found.into_iter().map(|(_, arch, pointer)| (arch, pointer)).collect())
}

/// Parses the name of an architecture, also in the spelling of other programs than Docker.
fn arch(name: &str) -> Option<Arch> {
    match name {
        "x86_64" | "x86-64" => Some(Arch::Amd64),
        "aarch64" => Some(Arch::Arm64),
        name => name.parse().ok(),
    }
}

/// Returns the CPU level that a variant requires; a lock is for every machine of an architecture.
fn demand(arch: Arch, variant: &str) -> u32 {
    let least = match arch {
        Arch::Amd64 => 10,
        Arch::Arm64 => 80,
    };
    let Some(version) = variant.strip_prefix('v') else { return if variant.is_empty() { 0 } else { u32::MAX } };
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    match (major.parse::<u32>(), minor.parse::<u32>()) {
        (Ok(major), Ok(minor)) => major.saturating_mul(10).saturating_add(minor).saturating_sub(least),
        _ => u32::MAX,
    }
}

/// Describes a manifest that is not an image.
fn artifact(manifest: &serde_json::Value) -> Option<String> {
    let kind = manifest["config"]["mediaType"].as_str().unwrap_or_default();
    let is_image = kind.contains(".image.config.") || kind.contains(".container.image.") || kind == "application/octet-stream";
    let empty = kind.starts_with("application/vnd.oci.empty.");
    let own = manifest["artifactType"].as_str().filter(|_| !is_image);
    let layers = manifest["layers"].as_array().into_iter().flatten().filter_map(|layer| layer["mediaType"].as_str());
    let other = layers.clone().find(|kind| !is_layer(kind)).filter(|_| !layers.clone().any(is_layer));
    let what = own.or_else(|| Some(kind).filter(|_| empty)).or(other)?;
    Some(format!("it holds {what}, which is not an image"))
}

fn is_layer(kind: &str) -> bool {
    kind.contains(".tar") || kind.contains("layer.v1")
}

fn layer(entry: &Descriptor) -> Result<Pointer, String> {
    let kind = entry.media_type().to_string();
    if kind.contains("foreign") || kind.contains("nondistributable") {
        return Err(format!("a layer is {kind}, which registries do not hand out"));
    }
    if !is_layer(&kind) {
        return Err(format!("a layer is {kind}, which is not a tar"));
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

/// Parses a digest as in documents: `sha256:` and 64 hexadecimal digits.
pub fn digest(text: &str) -> Result<Digest, String> {
    let hex = text.strip_prefix("sha256:").ok_or_else(|| format!("\"{text}\" is not a sha256 digest"))?;
    Digest::parse(hex).map_err(|_| format!("\"{text}\" is not a sha256 digest"))
}

/// The used fields of a configuration. Programs omit some of them, or write a string instead of a list.
#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    config: Option<Run>,
    rootfs: RootFs,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Run {
    env: Option<Vec<String>>,
    #[serde(deserialize_with = "words")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "words")]
    cmd: Vec<String>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

/// Parses a list of strings, one string, or null.
fn words<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Option::<Words>::deserialize(from)? {
        None => Vec::new(),
        Some(Words::One(word)) if word.is_empty() => Vec::new(),
        Some(Words::One(word)) => vec![word],
        Some(Words::Many(words)) => words,
    })
}

/// Parses a configuration; without an architecture it is for `default`.
pub fn configuration(bytes: &[u8], default: Arch) -> Result<Configuration, String> {
    let parsed: Written = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let arch = match parsed.architecture.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => arch(name).ok_or_else(|| format!("it is for {name}; taken are amd64 and arm64"))?,
        None => default,
    };
    if let Some(os) = parsed.os.filter(|os| !os.is_empty() && os != "linux") {
        return Err(format!("it is for {os}, not for linux"));
    }
    let diff_ids = parsed.rootfs.diff_ids.unwrap_or_default().iter().map(|id| digest(id)).collect::<Result<_, _>>()?;
    let Run { env, entrypoint, cmd } = parsed.config.unwrap_or_default();
    if entrypoint.iter().chain(&cmd).any(|word| word.contains('\0')) {
        return Err("a word of its command has a zero byte".to_owned());
    }
    // Some Windows shells create variables with an empty name; they have no use inside.
    let is_named = |pair: &String| pair.find('=').is_some_and(|at| at > 0) && !pair.contains('\0');
    let env = env.unwrap_or_default().into_iter().filter(is_named).collect();
    Ok(Configuration { arch, created: parsed.created.as_deref().and_then(created).unwrap_or(0), env, entrypoint, cmd, diff_ids })
}

/// Parses a date to the second; fractions and offsets are ignored.
fn created(text: &str) -> Option<i64> {
    let (day, rest) = text.split_once('T')?;
    timestamp::parse_rfc3339(&format!("{day}T{}Z", rest.get(..8)?)).filter(|secs| *secs >= 0)
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
            (format!("{},{}", entry(docker, &good, "7"), entry("text/plain", &good, "7")), "which is not a tar"),
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
        let read = configuration(text.as_bytes(), Arch::Arm64).expect("a configuration");
        assert_eq!((read.arch, read.created, read.diff_ids.len()), (Arch::Amd64, 1_767_323_045, 1));
        assert_eq!((read.env, read.entrypoint, read.cmd), (vec!["A=1".to_owned()], vec![], vec!["x".to_owned()]));
        let short = |fields: &str| configuration(format!("{{{fields}\"rootfs\":{{}}}}").as_bytes(), Arch::Arm64);
        assert_eq!(short("").expect("it says little").arch, Arch::Arm64);
        assert_eq!(short("\"architecture\":\"x86_64\",\"config\":null,").expect("another spelling").arch, Arch::Amd64);
        let read = short("\"config\":{\"Entrypoint\":\"a\",\"Cmd\":null,\"Env\":[\"=C:=x\",\"B=\"]},").expect("words");
        assert_eq!((read.entrypoint, read.cmd, read.env), (vec!["a".to_owned()], vec![], vec!["B=".to_owned()]));
        for wrong in
            ["\"architecture\":\"riscv64\",", "\"os\":\"windows\",", "\"config\":{\"Cmd\":3},", "\"config\":{\"Cmd\":[\"a\\u0000\"]},"]
        {
            short(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn of_several_images_the_one_that_asks_least_comes_first() {
        let entry = |variant: &str, size: u32| {
            let variant = if variant.is_empty() { String::new() } else { format!(",\"variant\":\"{variant}\"") };
            let platform = format!("{{\"architecture\":\"amd64\",\"os\":\"linux\"{variant}}}");
            format!("{{\"mediaType\":\"x\",\"digest\":\"sha256:{}\",\"size\":{size},\"platform\":{platform}}}", "a".repeat(64))
        };
        for (variants, expect) in [
            (&["v3", "v2", ""][..], [3, 2, 1]),
            (&["v3", "v1", "v2"], [2, 3, 1]),
            (&["", "v1", "v2"], [1, 2, 3]),
            (&["odd", "v4", "v10"], [2, 3, 1]),
        ] {
            let entries: Vec<String> = variants.iter().zip(1..).map(|(variant, size)| entry(variant, size)).collect();
            let text = format!("{{\"schemaVersion\":2,\"manifests\":[{}]}}", entries.join(","));
            let Ok(Document::Index(found)) = document(text.as_bytes()) else { panic!("{text}") };
            assert_eq!(found.iter().map(|(_, pointer)| pointer.size).collect::<Vec<_>>(), expect, "{variants:?}");
        }
        assert_eq!((demand(Arch::Arm64, "v8"), demand(Arch::Arm64, "v8.2"), demand(Arch::Arm64, "v9")), (0, 2, 10));
    }

    #[test]
    fn attached_artifacts_are_recognised() {
        let manifest = |fields: &str, config: &str, layer: &str| {
            let digest = "a".repeat(64);
            document(format!("{{\"schemaVersion\":2,{fields}\"config\":{{\"mediaType\":\"{config}\",\"digest\":\"sha256:{digest}\",\"size\":2}},\"layers\":[{{\"mediaType\":\"{layer}\",\"digest\":\"sha256:{digest}\",\"size\":2}}]}}").as_bytes())
        };
        let (image, tar) = ("application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar");
        for (fields, config, layer, is_image) in [
            ("", image, tar, true),
            ("\"artifactType\":\"x/y\",", image, tar, true),
            ("\"artifactType\":\"x/y\",", "x/z", tar, false),
            ("", "application/vnd.oci.empty.v1+json", tar, false),
            ("", image, "application/vnd.dev.cosign.simplesigning.v1+json", false),
        ] {
            let read = manifest(fields, config, layer).expect("a manifest");
            assert_eq!(matches!(read, Document::Manifest { .. }), is_image, "{fields} {config} {layer}");
        }
    }
}

//! The documents around the layers of an image, for reading and writing: OCI layouts and Docker archives.
//!
//! Equal images give equal bytes: keys are sorted, and documents contain no time and no host.

pub mod docker;
pub mod manifest;
pub mod reference;

pub mod artifact;
pub mod contents;
pub mod kept_index;
pub mod location;

pub mod inputs;

use serde_json::{Value, json};
use silo_store::digest::Digest;

use silo_base::system::Arch;

/// The media type of an image's configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The media type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of an index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The media type of a gzip-compressed layer.
pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The media type of a zstd-compressed layer.
pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// The marker file of an OCI layout: its name and contents.
pub const LAYOUT: (&str, &str) = ("oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}");

/// The descriptor of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// The media type.
    pub media_type: &'static str,
    /// The digest.
    pub digest: Digest,
    /// The size in bytes.
    pub size: u64,
}

impl Blob {
    /// Describes some bytes.
    pub fn of(media_type: &'static str, bytes: &[u8]) -> Blob {
        Blob { media_type, digest: Digest::of(bytes), size: bytes.len() as u64 }
    }

    pub(super) fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": format!("sha256:{}", self.digest), "size": self.size })
    }
}

/// Returns an image's manifest; the layers are lowest first.
pub fn manifest(config: &Blob, layers: &[Blob]) -> Vec<u8> {
    let layers: Vec<Value> = layers.iter().map(Blob::descriptor).collect();
    json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config.descriptor(), "layers": layers }).to_string().into_bytes()
}

/// Returns the index of a layout with one named image.
pub fn index(manifest: &Blob, arch: Arch, name: &str) -> Vec<u8> {
    let mut entry = manifest.descriptor();
    entry["platform"] = json!({ "architecture": arch.name(), "os": "linux" });
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] }).to_string().into_bytes()
}

/// Returns the manifest of a Docker archive with one image, named with a tag.
pub fn docker_manifest(config: &str, name: &str, layer: &str) -> Vec<u8> {
    json!([{ "Config": config, "RepoTags": [name], "Layers": [layer] }]).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_what_the_specification_says() {
        let config = Blob::of(CONFIG, b"{}");
        let layer = Blob::of(LAYER_GZIP, b"x");
        let text = manifest(&config, &[layer]);
        let read: oci_spec::image::ImageManifest = serde_json::from_slice(&text).expect("a manifest");
        assert_eq!((read.config().size(), read.layers().len()), (2, 1));
        assert_eq!(read.layers()[0].digest().to_string(), format!("sha256:{}", layer.digest));
        let text = index(&Blob::of(MANIFEST, &text), Arch::Arm64, "1.0");
        let read: oci_spec::image::ImageIndex = serde_json::from_slice(&text).expect("an index");
        assert_eq!(read.manifests()[0].platform().as_ref().expect("a platform").architecture().to_string(), "arm64");
    }
}

//! What lies around the layers of an image, ours when others read it and others' when we do: the documents of an OCI layout and of Docker's archive.
//!
//! Equal images give equal bytes: keys are sorted, and nothing says when or where.

pub mod docker;
pub mod image;
pub mod reference;

use serde_json::{Value, json};
use silo_store::digest::Digest;

use silo_base::system::Arch;

/// The media type of an image's configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The media type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of an index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The media type of a layer that gzip compressed.
pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The file that says that a directory is an OCI layout, and what it says.
pub const LAYOUT: (&str, &str) = ("oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}");

/// Some bytes and what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Their media type.
    pub media_type: &'static str,
    /// Their digest.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
}

impl Blob {
    /// Describes some bytes.
    pub fn of(media_type: &'static str, bytes: &[u8]) -> Blob {
        Blob { media_type, digest: Digest::of(bytes), size: bytes.len() as u64 }
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": format!("sha256:{}", self.digest), "size": self.size })
    }
}

/// Writes an image's manifest; the layers stand lowest first.
pub fn manifest(config: &Blob, layers: &[Blob]) -> Vec<u8> {
    let layers: Vec<Value> = layers.iter().map(Blob::descriptor).collect();
    json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config.descriptor(), "layers": layers }).to_string().into_bytes()
}

/// Writes the index of a layout that holds one image under a name.
pub fn index(manifest: &Blob, arch: Arch, name: &str) -> Vec<u8> {
    let mut entry = manifest.descriptor();
    entry["platform"] = json!({ "architecture": arch.name(), "os": "linux" });
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] }).to_string().into_bytes()
}

/// Writes the list of what a Docker archive holds: one image under a name with a tag.
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

//! Images in the formats of other programs, made byte by byte.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::json;
use silo_base::system::Arch;
use silo_store::digest::Digest;
use tar::EntryType::{Directory, Link, Regular, Symlink};

use super::{As, Silo};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layer: its compressed bytes, and the digest of its contents.
pub struct Layer {
    /// The bytes to download.
    pub bytes: Vec<u8>,
    /// The digest of the decompressed bytes.
    pub diff: Digest,
}

impl Layer {
    pub fn plain(tar: Vec<u8>) -> Layer {
        Layer { diff: Digest::of(&tar), bytes: tar }
    }

    pub fn gzip(tar: &[u8]) -> Layer {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(tar).expect("memory");
        Layer { diff: Digest::of(tar), bytes: gzip.finish().expect("memory") }
    }

    pub fn zstd(tar: &[u8]) -> Layer {
        Layer { diff: Digest::of(tar), bytes: zstd::encode_all(tar, 1).expect("memory") }
    }
}

/// The documents of an image.
pub struct Documents {
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
}

pub fn documents(layers: &[Layer]) -> Documents {
    documents_for(Arch::host(), layers)
}

/// The documents of an image for an architecture.
fn documents_for(arch: Arch, layers: &[Layer]) -> Documents {
    let diffs: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", layer.diff)).collect();
    let config = json!({
        "architecture": arch.name(),
        "os": "linux",
        "created": "2026-01-02T03:04:05.6Z",
        "config": { "Env": ["GREETING=hello", "PATH=/opt/bin:/usr/bin:/bin"], "Cmd": ["sh"], "WorkingDir": "/opt", "User": "nobody" },
        "rootfs": { "type": "layers", "diff_ids": diffs },
    });
    let config = config.to_string().into_bytes();
    let pointer =
        |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": format!("sha256:{}", Digest::of(bytes)), "size": bytes.len() });
    let layers: Vec<_> = layers.iter().map(|layer| pointer(TAR, &layer.bytes)).collect();
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": pointer(CONFIG, &config), "layers": layers });
    Documents { config, manifest: manifest.to_string().into_bytes() }
}

/// Writes an image as a layout.
pub fn layout(dir: &Path, layers: &[Layer]) {
    let documents = documents(layers);
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a directory of ours");
    let all = layers.iter().map(|layer| &layer.bytes).chain([&documents.config, &documents.manifest]);
    for bytes in all {
        fs::write(blobs.join(Digest::of(bytes).to_string()), bytes).expect("a file of ours");
    }
    let entry = json!({
        "mediaType": MANIFEST,
        "digest": format!("sha256:{}", Digest::of(&documents.manifest)),
        "size": documents.manifest.len(),
        "annotations": { "org.opencontainers.image.ref.name": "v1" },
    });
    fs::write(dir.join("index.json"), json!({ "schemaVersion": 2, "manifests": [entry] }).to_string()).expect("a file of ours");
    fs::write(dir.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").expect("a file of ours");
}

/// Writes images of several platforms as a layout, under one name.
pub fn platforms(dir: &Path, images: &[(Arch, &[Layer])]) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a directory of ours");
    let put = |bytes: &[u8]| fs::write(blobs.join(Digest::of(bytes).to_string()), bytes).expect("a file of ours");
    let entry =
        |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": format!("sha256:{}", Digest::of(bytes)), "size": bytes.len() });
    let mut entries = Vec::new();
    for (arch, layers) in images {
        let documents = documents_for(*arch, layers);
        layers.iter().map(|layer| &layer.bytes).chain([&documents.config, &documents.manifest]).for_each(|bytes| put(bytes));
        let mut entry = entry(MANIFEST, &documents.manifest);
        entry["platform"] = json!({ "architecture": arch.name(), "os": "linux" });
        entries.push(entry);
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }).to_string().into_bytes();
    put(&index);
    let mut entry = entry(INDEX, &index);
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "v1" });
    fs::write(dir.join("index.json"), json!({ "schemaVersion": 2, "manifests": [entry] }).to_string()).expect("a file of ours");
    fs::write(dir.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").expect("a file of ours");
}

/// A tar of entries: kind, path, mode, and the contents or the target.
pub fn tar(entries: &[(::tar::EntryType, &str, u32, &str)]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (kind, path, mode, text) in entries {
        let mut header = ::tar::Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(if *kind == ::tar::EntryType::Regular { text.len() as u64 } else { 0 });
        // Bypasses the library's checks, which would refuse the tested names.
        let name = &mut header.as_mut_bytes()[..100];
        name[..path.len()].copy_from_slice(path.as_bytes());
        if matches!(kind, ::tar::EntryType::Symlink | ::tar::EntryType::Link) {
            header.as_mut_bytes()[157..157 + text.len()].copy_from_slice(text.as_bytes());
        }
        header.set_cksum();
        builder.append(&header, if *kind == ::tar::EntryType::Regular { text.as_bytes() } else { &[] }).expect("memory");
    }
    builder.into_inner().expect("memory")
}

/// The layer over the root of `sh`: programs, whiteouts, an opaque directory, a directory with its own mode.
pub fn upper() -> Vec<u8> {
    tar(&[
        (Directory, "opt/bin/", 0o755, ""),
        (Regular, "opt/bin/greet", 0o755, "#!/bin/sh\necho \"$GREETING from an image\"\n"),
        (Link, "opt/bin/salute", 0o755, "opt/bin/greet"),
        (Symlink, "opt/bin/hail", 0o777, "greet"),
        (Regular, "etc/.wh.debian_version", 0o644, ""),
        (Directory, "usr/share/doc/", 0o755, ""),
        (Regular, "usr/share/doc/.wh..wh..opq", 0o644, ""),
        (Regular, "usr/share/doc/only", 0o644, "this\n"),
        (Regular, "usr/local/bin/x-tool", 0o755, "#!/bin/sh\necho x\n"),
    ])
}

/// The root of `sh`, as one tar.
pub fn base() -> Vec<u8> {
    let silo = Silo::shared(As::Me);
    let _ = silo.ok(["export", "sh", "--rootfs", "root.tar"]);
    fs::read(silo.project().join("root.tar")).expect("an export")
}

/// The options of a podman with a storage of its own, below its working directory, and no daemon, network or cgroup, as a
/// container of CI needs it.
pub fn podman_words<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let own = "--root storage --runroot run --storage-driver vfs --cgroup-manager cgroupfs --events-backend none";
    own.split(' ').chain(words.iter().copied()).collect()
}

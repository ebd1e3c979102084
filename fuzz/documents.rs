//! Properties of all readers of pushed images, for any bytes: fuzz targets try new inputs, tests replay the saved ones (`corpus/`).

use silo_fetch::registry::challenge;
use silo_model::derivation;
use silo_model::oci::artifact;
use silo_model::oci::contents::{self, Form};
use silo_model::oci::inputs;
use silo_model::oci::location::{self, Location};
use silo_model::oci::manifest::{MAX_LAYERS, document as image_document};
use silo_model::oci::reference::{self, Place};
use silo_ship::blob;
use silo_sign::key::{Public, Secret};
use silo_sign::{bundle as signed_bundle, statement};
use silo_store::digest::Digest;

/// The place of the build rules' versions in a saved document, so that it stays readable with the next versions.
const RULES: &str = "\"RULES\"";

/// The contents of an image: a document that is read has bounded numbers, and is written so that it is read the same.
pub fn contents(data: &[u8]) {
    let text = String::from_utf8_lossy(data).replace(RULES, &serde_json::json!(derivation::rules()).to_string());
    let Ok(read) = contents::read(text.as_bytes()) else { return };
    assert!((1..=MAX_LAYERS).contains(&read.layers.len()));
    assert_eq!(contents::read(&contents::write(&read)).as_ref(), Ok(&read));
}

/// The inputs of a build, and a list of tags: a document that is read is written so that it is read the same, and tags are plain.
pub fn inputs(data: &[u8]) {
    if let Ok(read) = inputs::read(data) {
        assert!(read.files.len() + read.outputs.len() <= artifact::MAX_BLOBS);
        assert_eq!(inputs::read(&inputs::write(&read)).as_ref(), Ok(&read));
    }
    for tag in artifact::tags(data).into_iter().flatten() {
        assert!((1..=128).contains(&tag.len()) && tag.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b'?'), "{tag}");
    }
}

/// Manifests and indexes: an accepted document has bounded numbers, and an index is written so that it is read the same.
pub fn document(data: &[u8]) {
    let _ = image_document(data);
    let Ok(read) = artifact::read(data) else {
        assert!(artifact::media_type(data).is_err());
        return;
    };
    assert!(read.layers.len() <= artifact::MAX_BLOBS);
    let again = artifact::read(&artifact::index(&read.manifests)).expect("our own");
    assert_eq!(again.manifests, read.manifests);
}

/// References and locations: their parts are plain, and written again they are read the same.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(read) = reference::parse(text) {
        let tag = read.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = read.digest.map(|digest| format!("@sha256:{digest}")).unwrap_or_default();
        let written = match &read.place {
            Place::Registry { host, repository } => {
                assert!(!host.contains(['/', '@', '?', '#']) && host.is_ascii(), "{host}");
                assert!(repository.split('/').all(|part| !part.is_empty() && !part.starts_with('.')), "{repository}");
                format!("{host}/{repository}{tag}{digest}")
            }
            Place::Layout(path) => format!("oci:{}{tag}{digest}", path.display()),
            Place::Archive { path, form: reference::Form::Oci } => format!("oci-archive:{}{tag}{digest}", path.display()),
            Place::Archive { path, form: reference::Form::Docker } => format!("docker-archive:{}{tag}{digest}", path.display()),
        };
        assert_eq!(reference::parse(&written).as_ref(), Ok(&read), "{text}: {written}");
        assert!(!read.wanted().is_empty() && !read.version().is_empty(), "{text}");
    }
    if let Ok(read) = location::parse(text) {
        // The name of a directory in a message may look like one with a tag.
        let is_plain = !matches!(&read, Location::Directory(path) if path.to_string_lossy().contains([':', '@']));
        assert!(!is_plain || location::parse(&read.to_string()).as_ref() == Ok(&read), "{text}: {read}");
    }
}

/// The key of the saved bundles. Nobody has the secret half.
const KEY: &str = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEJQ5k4OL2K6HH6a25aNIydP/yIhDW\nCBm3oekA9xF9DGzAxLYasD39kVwMayEEU/AcE/+8fHWZ25OmHUXH0R84oQ==\n-----END PUBLIC KEY-----\n";
/// The only object that this key signed.
const SUBJECT: &str = "e0d79e713466602d63d1ccc72e54b7f29f05821228fac3492e1dbf3fc6c23f4c";

/// Bundles and statements: no change of a bundle makes its key sign another statement.
pub fn bundle(data: &[u8]) {
    let key = Public::parse(KEY).expect("a key");
    if let Ok(read) = signed_bundle::read(data)
        && read.signed_by([&key]).is_some()
    {
        let subject = Digest::parse(SUBJECT).expect("a digest");
        assert_eq!((read.statement.subjects.as_slice(), read.statement.predicate_type.as_str()), (&[subject][..], statement::SIGNED));
    }
    let Ok(read) = statement::read(data) else { return };
    if let [subject] = read.subjects[..] {
        let written = statement::write(subject, &read.predicate_type, &read.predicate);
        assert_eq!(statement::read(&written).as_ref(), Ok(&read));
    }
}

/// Keys in PEM: an accepted key is written so that it is read the same, and a secret key signs for its public one.
pub fn key(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(read) = Public::parse(text) {
        assert!(!read.verifies(b"message", data));
        assert_eq!(Public::parse(&read.to_pem()), Ok(read));
    }
    if let Ok(read) = Secret::parse(text) {
        let public = read.public();
        assert_eq!(Secret::parse(&read.to_pem()).map(|again| again.public()).as_ref(), Ok(&public));
        let signature = read.sign(b"message").expect("a signature");
        assert!(public.verifies(b"message", &signature) && !public.verifies(b"massage", &signature));
    }
}

/// Remembered blobs of layers: one text for each.
pub fn memory(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for form in [Form::Zstd, Form::Gzip] {
        if let Some(read) = blob::parse(text, form) {
            assert_eq!(read.form, form);
            assert_eq!(blob::to_text(&read), text);
        }
    }
}

/// A registry's demand for a login: written with quotes it is read the same.
pub fn login(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(read) = challenge::parse(text) else { return };
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"");
    let one = |challenge: &challenge::Challenge| {
        let parameters = challenge.parameters.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
        format!("{} {}", challenge.scheme, parameters.collect::<Vec<_>>().join(", "))
    };
    let written = read.iter().map(one).collect::<Vec<_>>().join(", ");
    if written.len() <= challenge::MAX_BYTES {
        assert_eq!(challenge::parse(&written), Some(read), "{text}: {written}");
    }
}

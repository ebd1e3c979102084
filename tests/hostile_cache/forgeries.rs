//! Caches whose answers fit together: documents with the right digests, and wrong contents or signatures.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use serde_json::{Value, json};
use silo_model::oci::artifact::{self, Entry};
use silo_model::oci::contents::{self, ANNOTATION, Contents};
use silo_model::oci::manifest::Pointer;
use silo_model::oci::{self, Blob as Named};
use silo_sign::bundle;
use silo_sign::external::Signer;
use silo_sign::statement::{self, SIGNED};
use silo_store::digest::{Digest, LayerId};
use tar::EntryType::{Char, Directory, Link, Regular, Symlink};

use super::faults::Honest;
use crate::support::images::tar;

/// The required result of a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The image, bit by bit.
    Same,
    /// An error.
    Refused,
}

/// The name of the cache with many statements.
pub const MANY_STATEMENTS: &str = "the signature follows those of many strangers";

/// Takes a forged cache: its name, the required result, and its answers by target.
pub type Take<'a> = dyn FnMut(&str, Expect, BTreeMap<String, Honest>) + 'a;

/// The honest parts that forgeries are made of.
pub struct Parts<'a> {
    /// The honest answers.
    pub answers: &'a BTreeMap<String, Honest>,
    /// The path of the repository.
    pub base: &'a str,
    /// The tag of the derivation.
    pub tag: &'a str,
    /// The honest contents.
    pub contents: &'a Contents,
    /// The honest manifest.
    pub manifest: &'a [u8],
    /// The configuration for other programs.
    pub stacked: Named,
    /// The key that the user trusts.
    pub trusted: &'a Signer,
    /// Another key.
    pub stranger: &'a Signer,
}

/// One cache in the making.
struct Making<'a> {
    parts: &'a Parts<'a>,
    answers: BTreeMap<String, Honest>,
}

impl Making<'_> {
    fn put(&mut self, place: &str, kind: &str, body: &[u8]) {
        let answer = Honest { status: 200, kind: kind.to_owned(), body: body.to_vec() };
        self.answers.insert(format!("{}/{place}", self.parts.base), answer);
    }

    fn blob(&mut self, bytes: &[u8]) -> Pointer {
        self.put(&format!("blobs/sha256:{}", Digest::of(bytes)), "application/octet-stream", bytes);
        Pointer { digest: Digest::of(bytes), size: bytes.len() as u64 }
    }

    fn manifest(&mut self, kind: &str, bytes: &[u8]) -> Digest {
        self.put(&format!("manifests/sha256:{}", Digest::of(bytes)), kind, bytes);
        Digest::of(bytes)
    }

    /// Lets the tag name this document.
    fn tag(&mut self, kind: &str, bytes: &[u8]) -> Digest {
        let tag = self.parts.tag.to_owned();
        self.put(&format!("manifests/{tag}"), kind, bytes);
        self.manifest(kind, bytes)
    }

    /// Lets the tag name an image with these contents; returns its digest.
    fn image(&mut self, contents: &[u8]) -> Digest {
        let named = self.blob(contents).digest;
        let notes = BTreeMap::from([(ANNOTATION.to_owned(), format!("sha256:{named}"))]);
        let manifest = artifact::image(&self.parts.stacked, &[], &notes);
        self.tag(oci::MANIFEST, &manifest)
    }

    /// Lists bundles about a document, four in a manifest.
    fn bundles(&mut self, about: Digest, bundles: &[Vec<u8>]) {
        let subject = Named { media_type: oci::MANIFEST, digest: about, size: 1 };
        let mut entries = Vec::new();
        for few in bundles.chunks(4) {
            let layers: Vec<Named> = few.iter().map(|bundle| Named::of(bundle::MEDIA_TYPE, bundle)).collect();
            for bundle in few {
                let _ = self.blob(bundle);
            }
            let (kind, empty) = artifact::EMPTY;
            let bytes = artifact::artifact(bundle::MEDIA_TYPE, &Named::of(kind, empty), &layers, &subject, &BTreeMap::new());
            let _ = self.manifest(oci::MANIFEST, &bytes);
            entries.push(Entry::of_artifact(bundle::MEDIA_TYPE, &bytes));
        }
        self.put(&format!("referrers/sha256:{about}"), oci::INDEX, &artifact::index(&entries));
    }

    fn signed(&mut self, about: Digest, signer: &Signer) {
        let bundle = sign(signer, about, SIGNED);
        self.bundles(about, &[bundle]);
    }
}

fn sign(signer: &Signer, about: Digest, kind: &str) -> Vec<u8> {
    bundle::sign(signer, about, kind, &json!({})).expect("a signature")
}

/// Wraps any payload as a bundle, with a signature that is none.
fn unsigned(payload: &[u8]) -> Vec<u8> {
    use base64::Engine;
    let coded = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let envelope = json!({ "payload": coded(payload), "payloadType": statement::MEDIA_TYPE, "signatures": [{ "sig": coded(b"none") }] });
    json!({ "mediaType": bundle::MEDIA_TYPE, "dsseEnvelope": envelope }).to_string().into_bytes()
}

/// Makes all forgeries, one after another.
pub fn each(parts: &Parts<'_>, take: &mut Take<'_>) {
    let mut add = |name: &str, expect: Expect, make: &dyn Fn(&mut Making<'_>)| {
        let mut making = Making { parts, answers: parts.answers.clone() };
        make(&mut making);
        take(name, expect, making.answers);
    };
    let honest = Digest::of(parts.manifest);
    let (own, other) = (parts.trusted, parts.stranger);
    let text = contents::write(parts.contents);
    let changed = |change: &dyn Fn(&mut Contents)| {
        let mut contents = parts.contents.clone();
        change(&mut contents);
        contents::write(&contents)
    };
    let edited = |change: &dyn Fn(&mut Value)| {
        let mut value: Value = serde_json::from_slice(&text).expect("our own");
        change(&mut value);
        value.to_string().into_bytes()
    };

    add("nothing is wrong", Expect::Same, &|making| {
        let image = making.image(&text);
        making.signed(image, own);
    });
    add("nobody signed", Expect::Refused, &|making| making.bundles(honest, &[]));
    add("a stranger signed", Expect::Refused, &|making| making.signed(honest, other));
    add("the signature is about another image", Expect::Refused, &|making| {
        making.bundles(honest, &[sign(own, Digest::of(b"other"), SIGNED)]);
    });
    add("the key signed a statement about the image, not the image", Expect::Refused, &|making| {
        making.bundles(honest, &[sign(own, honest, "https://slsa.dev/provenance/v1")]);
    });
    add(MANY_STATEMENTS, Expect::Same, &|making| {
        let mut bundles: Vec<Vec<u8>> = (0..100).map(|at| sign(other, honest, &format!("{SIGNED}?{at}"))).collect();
        bundles.push(sign(own, honest, SIGNED));
        making.bundles(honest, &bundles);
    });
    add("the signature covers the index", Expect::Same, &|making| {
        let entry = Entry { arch: Some(parts.contents.arch), ..Entry::of_artifact("", parts.manifest) };
        let mut lying = Entry { pointer: Pointer { digest: honest, size: 7 }, media_type: "text/html".into(), ..entry.clone() };
        lying.annotations.insert("a".repeat(1000), "\u{1b}[2J".into());
        let index = artifact::index(&[lying, entry]);
        let about = making.tag(oci::INDEX, &index);
        making.bundles(honest, &[]);
        making.signed(about, own);
    });
    add("the index names itself", Expect::Refused, &|making| {
        let entry = Entry { arch: Some(parts.contents.arch), ..Entry::of_artifact("", parts.manifest) };
        let inner = artifact::index(std::slice::from_ref(&entry));
        let _ = making.manifest(oci::INDEX, &inner);
        let outer = artifact::index(&[Entry { arch: Some(parts.contents.arch), ..Entry::of_artifact("", &inner) }]);
        let about = making.tag(oci::INDEX, &outer);
        making.signed(about, own);
    });
    // Contents that a trusted key signed.
    let mut signed = |name: &str, expect: Expect, contents: Vec<u8>| {
        add(name, expect, &|making| {
            let image = making.image(&contents);
            making.signed(image, own);
        });
    };
    signed("another derivation", Expect::Refused, changed(&|contents| contents.derivations = [Digest::of(b"other")].into()));
    signed("no derivation", Expect::Refused, changed(&|contents| contents.derivations.clear()));
    signed(
        "another architecture",
        Expect::Refused,
        edited(&|value| value["arch"] = json!(if value["arch"] == "amd64" { "arm64" } else { "amd64" })),
    );
    signed("other rules", Expect::Refused, edited(&|value| value["rules"] = json!([0])));
    signed("a long lock", Expect::Same, changed(&|contents| contents.lock = Some("# \u{1b}[2J\n".repeat(100_000))));
    signed("a layer twice", Expect::Refused, changed(&|contents| contents.layers.push(contents.layers[0].clone())));
    signed("a layer less", Expect::Refused, changed(&|contents| drop(contents.layers.pop())));
    signed("layers in another order", Expect::Refused, changed(&|contents| contents.layers.reverse()));
    signed("a blob is longer", Expect::Refused, changed(&|contents| contents.layers[0].blob.size += 1));
    signed("a blob is shorter", Expect::Refused, changed(&|contents| contents.layers[0].blob.size -= 1));
    signed("a blob is endless", Expect::Refused, changed(&|contents| contents.layers[0].blob.size = 32 << 30));
    signed("a blob is that of another layer", Expect::Refused, changed(&|contents| contents.layers[0].blob = contents.layers[1].blob));
    signed("a blob is the configuration", Expect::Refused, changed(&|contents| contents.layers[0].blob = contents.config));
    signed("a layer has no bytes", Expect::Refused, changed(&|contents| contents.layers[0].manifest.bytes = 0));
    signed("a layer has all bytes", Expect::Same, changed(&|contents| contents.layers[0].manifest.bytes = u64::MAX));
    signed("a layer is of another form", Expect::Same, changed(&|contents| contents.layers[0].form = contents::Form::Gzip));
    signed("the configuration is missing", Expect::Refused, changed(&|contents| contents.config.digest = Digest::of(b"none")));
    signed("the configuration is a layer", Expect::Refused, changed(&|contents| contents.config = contents.layers[1].blob));
    signed(
        "the origin of a layer is odd",
        Expect::Same,
        changed(&|contents| {
            let record = &mut contents.layers[0].manifest.record;
            (record.name, record.derivation) = ("\u{1b}[2J\n\u{202e}".repeat(1000), "../../x".into());
            record.inputs = vec!["x".into(); 10_000];
        }),
    );
    signed("spaces follow", Expect::Same, [&text[..], b" \n\t "].concat());
    signed("another document follows", Expect::Refused, [&text[..], b"{}"].concat());
    signed("unknown keys", Expect::Refused, edited(&|value| value["x".repeat(100_000)] = json!(1)));
    // Bombs, which nobody needs to sign.
    let fill =
        |start: &str, piece: &str, end: &str| format!("{start}{}{end}", vec![piece; (15 << 20) / (piece.len() + 1)].join(",")).into_bytes();
    signed("endless derivations", Expect::Refused, fill("{\"version\":1,\"derivations\":[", "\"\"", "]}"));
    signed(
        "endless layers",
        Expect::Refused,
        fill("{\"version\":1,\"layers\":[", "{\"digest\":\"\",\"form\":\"\",\"layer\":\"\",\"manifest\":\"\",\"size\":0}", "]}"),
    );
    signed("endless rules", Expect::Refused, fill("{\"version\":1,\"rules\":[", "0", "]}"));
    signed("an endless name", Expect::Refused, edited(&|value| value["tool"] = json!({ "name": "a".repeat(14 << 20), "version": "1" })));
    signed("depth", Expect::Refused, b"{\"version\":".iter().copied().chain(b"[".repeat(15 << 20)).collect());

    // Blobs of a signed image in other forms, and bombs.
    let first = &parts.contents.layers[0];
    let packed = &parts.answers[&format!("{}/blobs/sha256:{}", parts.base, first.blob.digest)].body;
    let plain = zstd::decode_all(&packed[..]).expect("our own");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).expect("memory");
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&plain).expect("memory");
    let zeros = zstd::encode_all(std::io::repeat(0).take(1 << 30), 1).expect("memory");
    let zeros_in_gzip = {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::copy(&mut std::io::repeat(0).take(256 << 20), &mut gzip).expect("memory");
        gzip.finish().expect("memory")
    };
    // A frame that demands a window of 2 GiB: magic bytes, no single segment, the exponent of the window.
    let window = [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8][..], &[0x01, 0x00, 0x00]].concat();
    let two_frames = [
        &zstd::encode_all(&plain[..plain.len() / 2], 1).expect("memory")[..],
        &zstd::encode_all(&plain[plain.len() / 2..], 1).expect("memory"),
    ]
    .concat();
    for (name, expect, blob) in [
        ("plain", Expect::Same, plain.clone()),
        ("gzip", Expect::Same, gzip.finish().expect("memory")),
        ("xz", Expect::Same, xz.finish().expect("memory")),
        ("two frames", Expect::Same, two_frames),
        ("a frame too many", Expect::Refused, [&packed[..], &zstd::encode_all(&b"more"[..], 1).expect("memory")].concat()),
        ("bytes follow", Expect::Refused, [&packed[..], b"more"].concat()),
        ("half a frame", Expect::Refused, packed[..packed.len() / 2].to_vec()),
        ("a gigabyte of zeros", Expect::Refused, zeros.clone()),
        ("a gigabyte of zeros after the layer", Expect::Refused, [&packed[..], &zeros[..]].concat()),
        ("zeros in gzip", Expect::Refused, zeros_in_gzip),
        ("a bomb in a bomb", Expect::Refused, zstd::encode_all(&zeros[..], 1).expect("memory")),
        ("a huge window", Expect::Refused, window),
        ("nothing", Expect::Refused, Vec::new()),
    ] {
        add(&format!("the blob of a layer: {name}"), expect, &|making| {
            let pointer = making.blob(&blob);
            let contents = changed(&|contents| {
                contents.layers[0].blob = pointer;
                contents.layers[0].manifest.bytes = u64::MAX;
            });
            let image = making.image(&contents);
            making.signed(image, own);
        });
    }

    // Archives that no store writes, in an image that the key signed.
    let mut huge = tar(&[(Regular, "x", 0o644, "")]);
    huge[124..136].copy_from_slice(b"77777777777\0");
    for (name, archive) in [
        ("a path that goes up", tar(&[(Regular, "../../../x", 0o644, "x")])),
        ("an absolute path", tar(&[(Regular, "/tmp/x", 0o644, "x")])),
        ("a path through a symlink", tar(&[(Symlink, "a", 0o777, "/tmp"), (Regular, "a/x", 0o644, "x")])),
        ("a hard link to outside", tar(&[(Link, "a", 0o644, "../../etc/passwd")])),
        ("a device", tar(&[(Char, "a", 0o666, "")])),
        ("entries in no order", tar(&[(Directory, "b/", 0o755, ""), (Directory, "a/", 0o755, "")])),
        ("a size without bytes", huge),
        ("no archive", b"x".repeat(2000)),
    ] {
        add(&format!("a signed archive with {name}"), Expect::Refused, &|making| {
            let blob = making.blob(&zstd::encode_all(&archive[..], 1).expect("memory"));
            let id = LayerId::new(Digest::of(&archive));
            let config = &parts.answers[&format!("{}/blobs/sha256:{}", parts.base, parts.contents.config.digest)].body;
            let config = String::from_utf8(config.clone()).expect("JSON").replace(&first.manifest.layer.to_string(), &id.to_string());
            let config = making.blob(config.as_bytes());
            let contents = changed(&|contents| {
                contents.config = config;
                contents.layers[0].blob = blob;
                (contents.layers[0].manifest.layer, contents.layers[0].manifest.bytes) = (id, u64::MAX);
            });
            let image = making.image(&contents);
            making.signed(image, own);
        });
    }

    // Lists of statements.
    let long = json!({ "_type": "https://in-toto.io/Statement/v1", "subject": [{ "digest": { "sha256": honest.to_string() } }],
        "predicateType": "x".repeat(2_900_000), "predicate": {} });
    let long = unsigned(long.to_string().as_bytes());
    add("long kinds of statements", Expect::Refused, &|making| {
        making.bundles(honest, &[]);
        let subject = Named { media_type: oci::MANIFEST, digest: honest, size: 1 };
        let layers = vec![Named::of(bundle::MEDIA_TYPE, &long); 4];
        let _ = making.blob(&long);
        let (kind, empty) = artifact::EMPTY;
        // Different manifests with the same bundles, so that the server stays small.
        let entries: Vec<Entry> = (0..16)
            .map(|at| {
                let note = BTreeMap::from([("at".to_owned(), at.to_string())]);
                let bytes = artifact::artifact(bundle::MEDIA_TYPE, &Named::of(kind, empty), &layers, &subject, &note);
                let _ = making.manifest(oci::MANIFEST, &bytes);
                Entry::of_artifact(bundle::MEDIA_TYPE, &bytes)
            })
            .collect();
        making.put(&format!("referrers/sha256:{honest}"), oci::INDEX, &artifact::index(&entries));
    });
    let statement = |fields: &str| {
        let text = format!("{{\"_type\":\"https://in-toto.io/Statement/v1\",\"predicateType\":\"{SIGNED}\",{fields}}}");
        unsigned(text.as_bytes())
    };
    let subject = format!("{{\"digest\":{{\"sha256\":\"{honest}\"}}}}");
    for (name, bundle) in [
        ("many subjects", statement(&format!("\"subject\":[{}]", vec![subject.as_str(); 25_000].join(",")))),
        ("many empty subjects", statement(&format!("\"subject\":[{}]", vec!["{\"digest\":{}}"; 200_000].join(",")))),
        ("a wide claim", statement(&format!("\"subject\":[{subject}],\"predicate\":[{}]", vec!["[]"; 950_000].join(",")))),
        ("a deep claim", statement(&format!("\"subject\":[{subject}],\"predicate\":{}", "[".repeat(2_000_000)))),
        ("no text", unsigned(&[0xff; 1000])),
        ("no bundle", b"{}".to_vec()),
        ("many signatures", {
            let mut value: Value = serde_json::from_slice(&sign(own, honest, SIGNED)).expect("our own");
            let one = value["dsseEnvelope"]["signatures"][0].clone();
            value["dsseEnvelope"]["signatures"] = json!(vec![one; 20_000]);
            value.to_string().into_bytes()
        }),
    ] {
        add(&format!("a statement with {name}"), Expect::Refused, &|making| making.bundles(honest, std::slice::from_ref(&bundle)));
    }
}

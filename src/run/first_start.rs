//! Secrets and identities that an image lacks because its users must not share them: new ones for each sandbox, as files of its own layer.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DnType, KeyPair};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use silo_build::known_secrets::{self, Form, KnownSecret};
use silo_launch::spec::{Bytes, File};
use silo_store::resolve_in_root;

use super::error::Error;

/// Characters of a line in a PEM file, as OpenSSH and others write it.
const LINE: usize = 70;
/// Limit on the size of a template.
const MAX_TEMPLATE_BYTES: u64 = 256 << 10;
/// Names in a certificate.
const NAMES: [&str; 2] = ["silo", "localhost"];

/// The 2048-bit group of RFC 7919 (ffdhe2048), as `openssl genpkey -genparam -algorithm DH -pkeyopt group:ffdhe2048` writes it.
const KEY_EXCHANGE: &str = "-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
";

/// Returns the files that the image at `root` lacks.
pub fn files(root: &Path) -> Result<Vec<File>, Error> {
    let opened = resolve_in_root::Root::open(root).ok();
    let has = |path: &str| opened.as_ref().is_some_and(|root| root.has(Path::new(path)));
    let mut files: Vec<File> = Vec::new();
    for known in known_secrets::ALL.iter().filter(|known| has(known.marker) && !has(known.path)) {
        let guest = Path::new("/").join(known.path);
        if !files.iter().any(|file| file.guest == guest) {
            files.extend(make(known, root)?);
        }
    }
    Ok(files)
}

/// Makes the files of a secret or identity.
fn make(known: &KnownSecret, root: &Path) -> Result<Vec<File>, Error> {
    let file = |path: &str, bytes: Vec<u8>, mode| File { guest: Path::new("/").join(path), bytes: Bytes(bytes), mode };
    let one = |text: String, mode| Ok(vec![file(known.path, text.into_bytes(), mode)]);
    match known.form {
        Form::Never { .. } => Ok(Vec::new()),
        Form::Bytes { count } => Ok(vec![file(known.path, random(count)?, 0o400)]),
        Form::Cookie => one(random(20)?.iter().map(|byte| char::from(b'A' + byte % 26)).collect(), 0o400),
        Form::Filled { template, word } => {
            let text = resolve_in_root::read(root, Path::new(template), MAX_TEMPLATE_BYTES).ok();
            match text.and_then(|text| String::from_utf8(text).ok()).filter(|text| text.contains(word)) {
                Some(text) => one(text.replace(word, &STANDARD.encode(random(18)?)), 0o640),
                None => Ok(Vec::new()),
            }
        }
        Form::KeyExchange => one(KEY_EXCHANGE.to_owned(), 0o644),
        Form::MachineId => one(format!("{}\n", uuid()?.replace('-', "")), 0o444),
        Form::Uuid => one(format!("{}\n", uuid()?), 0o644),
        Form::NvmeName => one(format!("nqn.2014-08.org.nvmexpress:uuid:{}\n", uuid()?), 0o644),
        Form::InitiatorName => {
            let id: String = uuid()?.chars().filter(char::is_ascii_hexdigit).take(12).collect();
            one(format!("InitiatorName=iqn.1993-08.org.debian:01:{id}\n"), 0o600)
        }
        Form::ControlKey => {
            let secret = STANDARD.encode(random(32)?);
            one(format!("key \"rndc-key\" {{\n\talgorithm hmac-sha256;\n\tsecret \"{secret}\";\n}};\n"), 0o640)
        }
        Form::TlsKey { certificate } => {
            let (key, text) = certified().map_err(|source| Error::Key { path: known.path, source: Box::new(source) })?;
            Ok(vec![file(known.path, key.into_bytes(), 0o640), file(certificate, text.into_bytes(), 0o644)])
        }
        Form::TlsBundle => {
            let (key, text) = certified().map_err(|source| Error::Key { path: known.path, source: Box::new(source) })?;
            one(key + &text, 0o640)
        }
        Form::SshHostKey => {
            let (private, public) = ssh_key(&random(32)?, &random(4)?).ok_or(Error::Random)?;
            let public_path = format!("{}.pub", known.path);
            Ok(vec![file(known.path, private.into_bytes(), 0o600), file(&public_path, public.into_bytes(), 0o644)])
        }
    }
}

fn random(count: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; count];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(bytes)
}

/// Returns a random UUID (version 4).
fn uuid() -> Result<String, Error> {
    let mut bytes = random(16)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

/// Returns a private key and a certificate that it signed, in PEM.
fn certified() -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(NAMES.map(str::to_owned).to_vec())?;
    params.distinguished_name.push(DnType::CommonName, NAMES[0]);
    let certificate = params.self_signed(&key)?;
    Ok((pem("PRIVATE KEY", &key.serialize_der()), pem("CERTIFICATE", certificate.der())))
}

fn pem(name: &str, bytes: &[u8]) -> String {
    let text = STANDARD.encode(bytes);
    let lines: Vec<String> = text.as_bytes().chunks(LINE).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    format!("-----BEGIN {name}-----\n{}\n-----END {name}-----\n", lines.join("\n"))
}

/// Returns the private and the public key of a seed in OpenSSH's formats (its PROTOCOL.key); `check` is a random number that the format has
/// twice.
fn ssh_key(seed: &[u8], check: &[u8]) -> Option<(String, String)> {
    const KIND: &[u8] = b"ssh-ed25519";
    const BLOCK: usize = 8;
    const COMMENT: &[u8] = b"root@silo";
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
    let string = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes()[..], bytes].concat();
    let own = pair.public_key().as_ref();
    let public = [string(KIND), string(own)].concat();
    let mut private = [check.to_vec(), check.to_vec(), public.clone(), string(&[seed, own].concat()), string(COMMENT)].concat();
    private.extend((1..=BLOCK as u8).take(private.len().next_multiple_of(BLOCK) - private.len()));
    let none = string(b"none");
    let whole =
        [b"openssh-key-v1\0".to_vec(), none.clone(), none, string(b""), 1_u32.to_be_bytes().to_vec(), string(&public), string(&private)]
            .concat();
    let line = format!("ssh-ed25519 {} {}\n", STANDARD.encode(&public), String::from_utf8_lossy(COMMENT));
    Some((pem("OPENSSH PRIVATE KEY", &whole), line))
}

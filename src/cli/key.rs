//! `silo key`.

use std::path::PathBuf;
use std::process::ExitCode;

use silo_base::sanitize;
use silo_sign::key::Algorithm;
use silo_store::read_limited;
use silo_tool::keys::{self, Named};
use silo_tool::signed_files;

use super::context::{Globals, setting};
use super::error::Failure;
use super::push::SignArgs;
use super::ui;

/// The most bytes of a file with a public key.
const MAX_BYTES: u64 = 64 << 10;

/// Manage the keys that sign images, and those whose signatures count
///
/// Keys are yours alone: a project cannot add one.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Make a key, and trust it
    New {
        /// Its name
        name: String,
        /// Make an Ed25519 key instead of one on P-256
        #[arg(long)]
        ed25519: bool,
    },
    /// List the keys
    List {
        /// Print the keys as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a public key, for other machines and for cosign
    Export {
        /// Its name, or the beginning of its fingerprint
        key: String,
    },
    /// Trust a public key: images that it signed count as built here
    Trust {
        /// A file with the public key in PEM, such as cosign.pub
        file: PathBuf,
        /// Its name; by default the name of the file
        #[arg(long)]
        name: Option<String>,
    },
    /// Sign files, such as those of a release: writes FILE.sigstore.json beside each
    ///
    /// `cosign verify-blob-attestation --type https://sigstore.dev/cosign/sign/v1 --bundle FILE.sigstore.json` accepts these signatures.
    Sign {
        /// The files
        #[arg(required = true)]
        files: Vec<PathBuf>,
        #[command(flatten)]
        sign: SignArgs,
    },
    /// Verify files by FILE.sigstore.json beside each: a key that you trust must have signed them
    Verify {
        /// The files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Trust a key no more
    Revoke {
        /// Its name, or the beginning of its fingerprint
        key: String,
    },
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let home = &setting.home;
    match &args.action {
        Action::New { name, ed25519 } => {
            let key = keys::new(home, name, if *ed25519 { Algorithm::Ed25519 } else { Algorithm::P256 })?;
            ui::data(&format!("{}\n`silo key export {name}` prints its public half for others\n", line(&key)))?;
        }
        Action::List { json: false } => ui::data(&keys::list(home)?.iter().map(|key| line(key) + "\n").collect::<String>())?,
        Action::List { json: true } => ui::json(&keys::list(home)?.iter().map(json).collect())?,
        Action::Export { key } => {
            let all = keys::list(home)?;
            let found = keys::find(&all, key)?;
            ui::data(&found.public.to_pem())?;
        }
        Action::Trust { file, name } => {
            let text = read_limited::read(file, MAX_BYTES).map_err(|source| Failure::other(named(file, source)))?;
            let usual = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let place = file.display().to_string();
            let key = keys::trust(home, name.as_deref().unwrap_or(usual), &String::from_utf8_lossy(&text), &place)?;
            ui::data(&format!("{}\n", line(&key)))?;
        }
        Action::Sign { files, sign } => {
            let none = || Failure::usage("there is no key to sign with", "name one with --sign, or set SILO_SIGNING_KEY");
            let signer = sign.signer(home)?.ok_or_else(none)?;
            for file in files {
                ui::data(&format!("{}\n", sanitize::line(&signed_files::sign(&signer, file)?.display().to_string())))?;
            }
        }
        Action::Verify { files } => {
            let trusted = keys::trusted(home)?;
            for file in files {
                let key = signed_files::verify(&trusted, file)?;
                ui::data(&format!("{}: signed by {}\n", sanitize::line(&file.display().to_string()), sanitize::line(&key.name)))?;
            }
        }
        Action::Revoke { key } => {
            let key = keys::revoke(home, key)?;
            ui::data(&format!("{}\nimages that came with its signature stay until they are removed\n", line(&key)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl From<signed_files::Error> for Failure {
    fn from(error: signed_files::Error) -> Failure {
        use signed_files::Error as E;
        let hint = match &error {
            E::Untrusted { .. } => Some("`silo key trust FILE` trusts the key of the publisher".to_owned()),
            E::OtherBytes { .. } => Some("do not use the file; fetch it again with its bundle".to_owned()),
            E::File(_) | E::Sign { .. } | E::Bundle { .. } => None,
        };
        Failure::hinted(&error, hint)
    }
}

fn named(path: &std::path::Path, source: std::io::Error) -> silo_store::path_error::PathError {
    silo_store::path_error::PathError { doing: "read", path: path.to_owned(), source }
}

fn line(key: &Named) -> String {
    let fingerprint = keys::fingerprint(key).to_string();
    format!("{:<8} {:<16} {:<8} {fingerprint}", key.state.name(), sanitize::line(&key.name), key.public.algorithm().name())
}

fn json(key: &Named) -> serde_json::Value {
    serde_json::json!({
        "name": key.name, "state": key.state.name(), "algorithm": key.public.algorithm().name(),
        "fingerprint": keys::fingerprint(key).to_string(),
    })
}

//! `silo push`, `silo tag`.

use std::path::PathBuf;
use std::process::ExitCode;

use silo_base::home::Home;
use silo_base::units;
use silo_build::image::{self, ImageId};
use silo_insight::image_view::{self, Subject};
use silo_insight::provenance;
use silo_ship::push::Options;
use silo_sign::external::Signer;
use silo_sign::statement::Claim;
use silo_tool::keys::{self, Choice};
use silo_tool::record::Installed;
use silo_tool::share;

use super::context::{Globals, Setting, open_for_reading, setting};
use super::env;
use super::error::Failure;
use super::ui;

/// Push an image to a registry, or into a directory
///
/// Each layer is a blob of its own, and only missing blobs are sent. podman, docker and skopeo read the image, and `silo pull` gives the same
/// image on another machine.
#[derive(clap::Args)]
pub struct Args {
    /// A tool, or a prefix of an image id
    #[arg(value_name = "TOOL|IMAGE")]
    what: String,
    /// The name of the image: registry.example.com/team/python:3.13, or oci:/path:tag for a directory
    #[arg(value_name = "REF")]
    to: String,
    /// Compress the layers with gzip, for programs that do not know zstd
    #[arg(long)]
    gzip: bool,
    /// Let the registry take blobs from another of its repositories
    #[arg(long, value_name = "REPOSITORY")]
    mount: Option<String>,
    #[command(flatten)]
    sign: SignArgs,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Options of signing.
#[derive(Default, clap::Args)]
pub struct SignArgs {
    /// The key that signs the image: its name, or a file with a slash in its path; by default your only key, or that of SILO_SIGNING_KEY
    #[arg(long, value_name = "KEY")]
    sign: Option<String>,
    /// Do not sign
    #[arg(long, conflicts_with = "sign")]
    no_sign: bool,
    /// Sign with a program that reads a message and prints its signature; --sign names the public key
    #[arg(long, value_name = "PROGRAM", requires = "sign")]
    sign_program: Option<PathBuf>,
}

impl SignArgs {
    /// Returns the signer; `None` if nothing is to be signed.
    pub fn signer(&self, home: &Home) -> Result<Option<Signer>, Failure> {
        const VARIABLE: &str = "SILO_SIGNING_KEY";
        if self.no_sign {
            return Ok(None);
        }
        let choice = match (&self.sign, &self.sign_program) {
            (Some(key), Some(program)) => Choice::Program(program.clone(), key.clone()),
            (Some(key), None) => Choice::Named(key.clone()),
            (None, _) => match env::var(VARIABLE).and_then(|text| text.into_string().ok()) {
                Some(text) => Choice::Text(VARIABLE.to_owned(), text),
                None => Choice::Usual,
            },
        };
        Ok(keys::signer(home, &choice)?)
    }
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let to = share::target(&args.to)?;
    if to.digest.is_some() {
        return Err(Failure::usage(format!("\"{}\" has a digest, which only a pull can know", args.to), "name a tag"));
    }
    let (id, tool) = subject(&setting, &args.what)?;
    let claims = claims(&setting, id, tool.as_ref())?;
    let signer = args.sign.signer(&setting.home)?;
    let options = Options { tag: Some(to.tag.clone()), gzip: args.gzip, mount: args.mount.clone(), steps: false };
    let pushed = setting.with(|context| {
        Ok(share::push(context, share::Source { id, tool: tool.as_ref(), claims: &claims }, &to, &options, signer.as_ref())?)
    })?;
    if args.json {
        ui::json(&serde_json::json!({
            "image": id.to_string(), "digest": format!("sha256:{}", pushed.digest), "manifest": format!("sha256:{}", pushed.manifest),
            "layers": pushed.layers, "sent": pushed.sent, "bytes": pushed.bytes, "mounted": pushed.mounted,
        }))?;
    } else {
        let mounted = if pushed.mounted > 0 { format!(", {} mounted", pushed.mounted) } else { String::new() };
        let signed = signer
            .as_ref()
            .map_or_else(|| "not signed".to_owned(), |signer| format!("signed by {:.12}", signer.public().fingerprint().to_string()));
        ui::data(&format!(
            "{}:{}: {} layers, {} blobs sent ({}){mounted}, {signed}\nsha256:{}\n",
            to.location,
            to.tag,
            pushed.layers,
            pushed.sent,
            units::size(pushed.bytes),
            pushed.digest
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the claims about an image, which are pushed with it.
pub fn claims(setting: &Setting, id: ImageId, tool: Option<&Installed>) -> Result<Vec<Claim>, Failure> {
    let lock = tool.map(|tool| share::lock_of(setting.view(), tool)).transpose()?.flatten();
    let derivations = image::derivations(&setting.home, id).map_err(Failure::other)?;
    Ok(provenance::claims(&image_view::open(&open_for_reading(setting)?, id)?, lock.as_deref(), &derivations)?)
}

/// Returns the image that an argument names, and its tool.
fn subject(setting: &Setting, word: &str) -> Result<(ImageId, Option<Installed>), Failure> {
    match image_view::subject(&open_for_reading(setting)?, word)? {
        Subject::Image(inside) => {
            let named = inside.tools.iter().find(|tool| tool.name == word).or_else(|| inside.tools.first()).cloned();
            Ok((inside.id, named))
        }
        Subject::Layer(_) => {
            Err(Failure::usage(format!("\"{word}\" is a layer; an image is pushed"), "name a tool, or a prefix of an image id"))
        }
    }
}

/// Give an image of a registry another tag
///
/// No blob is sent. Signatures stay, since the image has the same digest.
#[derive(clap::Args)]
pub struct TagArgs {
    /// The image: registry.example.com/team/python:3.13
    #[arg(value_name = "REF")]
    from: String,
    /// The new tag
    tag: String,
}

pub fn tag(globals: &Globals, args: &TagArgs) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let from = share::target(&args.from)?;
    // The same rules as for the tag of a reference.
    share::target(&format!("localhost/x:{}", args.tag)).map_err(|_| {
        Failure::usage(format!("{:?} is not a tag", args.tag), "a tag has letters, digits, \"_\", \".\" and \"-\", and at most 128 of them")
    })?;
    let digest = setting.with(|context| Ok(share::tag(context, &from, &args.tag)?))?;
    ui::data(&format!("{}:{}: sha256:{digest}\n", from.location, args.tag))?;
    Ok(ExitCode::SUCCESS)
}

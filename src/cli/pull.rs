//! `silo pull`, `silo inspect`.

use std::process::ExitCode;

use silo_base::sanitize;
use silo_base::units;
use silo_model::oci::contents::Layer;
use silo_ship::find::Found;
use silo_ship::signatures::Signature;
use silo_sign::key::Public;
use silo_sign::statement::SIGNED;
use silo_tool::share::NeedOfSignature;
use silo_tool::{keys, share};

use super::context::{Globals, Setting, setting};
use super::error::Failure;
use super::ui;

/// Pull an image that `silo push` wrote
///
/// Only missing layers are fetched. The image has the same id as where it was built, and counts as built: an install or a sync with the same
/// lock builds nothing.
#[derive(clap::Args)]
pub struct Args {
    /// The image: registry.example.com/team/python:3.13, or oci:/path:tag for a directory
    #[arg(value_name = "REF")]
    from: String,
    /// Take the image although no key that you trust signed it
    #[arg(long)]
    unsigned: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let from = share::target(&args.from)?;
    let (arch, need) = (setting.home.arch(), NeedOfSignature::of_flag(args.unsigned));
    let (found, pulled, signers) = setting.with(|context| Ok(share::pull(context, &from, arch, need)?))?;
    if args.json {
        ui::json(&serde_json::json!({
            "image": pulled.image.to_string(), "tool": found.contents.tool.as_ref().map(|(name, _)| name), "layers": pulled.layers,
            "fetched": pulled.fetched, "bytes": pulled.bytes, "fresh": pulled.fresh, "signedBy": signers,
        }))?;
    } else {
        let signed = if signers.is_empty() { "not signed".to_owned() } else { format!("signed by {}", signers.join(", ")) };
        let state = if pulled.fresh { "pulled" } else { "was here already" };
        ui::data(&format!(
            "{}: image {:.12} {state}, {} of {} layers fetched ({}), {signed}\n",
            title(&found),
            pulled.image.to_string(),
            pulled.fetched,
            pulled.layers,
            units::size(pulled.bytes)
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn title(found: &Found) -> String {
    match &found.contents.tool {
        Some((name, version)) => format!("{name} {version}"),
        None => found.place.clone(),
    }
}

/// Show an image in a registry, without pulling it
#[derive(clap::Args)]
pub struct InspectArgs {
    /// The image: registry.example.com/team/python:3.13, or oci:/path:tag for a directory
    #[arg(value_name = "REF")]
    from: String,
    /// Also list the layers
    #[arg(long)]
    layers: bool,
    /// Print the lock that the image was built from
    #[arg(long, conflicts_with = "layers")]
    lock: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub fn inspect(globals: &Globals, args: &InspectArgs) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let from = share::target(&args.from)?;
    let (found, signatures) = setting.with(|context| Ok(share::inspect(context, &from, setting.home.arch())?))?;
    if args.lock {
        let none = || Failure::found(format!("{} has no lock", found.place), "only the images of tools have one");
        ui::data(&found.contents.lock.as_deref().map(sanitize::text).ok_or_else(none)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let signed = signed(&setting, &signatures)?;
    if args.json {
        ui::json(&json(&found, &signed))?;
    } else {
        let layers = if args.layers { layer_lines(&found) } else { String::new() };
        ui::data(&format!("{}{layers}", summary(&found, &signed)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Describes signatures: the kind of the claim, and the key.
pub fn signed(setting: &Setting, signatures: &[Signature]) -> Result<Vec<(String, Option<String>)>, Failure> {
    let keys = keys::trusted(&setting.home)?;
    let name = |key: &Public| keys::title(&keys, key);
    let mut all: Vec<(String, Option<String>)> =
        signatures.iter().map(|signature| (signature.predicate_type.clone(), signature.signer.as_ref().map(name))).collect();
    all.sort();
    all.dedup();
    Ok(all)
}

/// Describes the claim of a signature.
pub fn claim(predicate_type: &str) -> String {
    if predicate_type == SIGNED { "signed".to_owned() } else { sanitize::line(predicate_type) }
}

fn summary(found: &Found, signed: &[(String, Option<String>)]) -> String {
    let contents = &found.contents;
    let total: u64 = contents.layers.iter().map(|layer| layer.blob.size).sum();
    let unpacked: u64 = contents.layers.iter().map(|layer| layer.manifest.bytes).sum();
    let list = |items: Vec<String>| if items.is_empty() { "none".to_owned() } else { items.join(" ") };
    let mut text = format!("image       {}\n", contents.config.digest);
    if let Some((name, version)) = &contents.tool {
        text += &format!("tool        {} {}\n", sanitize::line(name), sanitize::line(version));
    }
    text += &format!("platform    linux/{}\n", contents.arch.name());
    if found.platforms.len() > 1 {
        text += &format!("platforms   {}\n", list(found.platforms.iter().map(|arch| format!("linux/{}", arch.name())).collect()));
    }
    text += &format!("manifest    sha256:{}\n", found.manifest);
    if let Some(index) = found.index {
        text += &format!("index       sha256:{index}\n");
    }
    text += &format!("layers      {} ({} compressed, {} unpacked)\n", contents.layers.len(), units::size(total), units::size(unpacked));
    if found.stacked != contents.layers.len() {
        text += &format!("for others  {} layers\n", found.stacked);
    }
    text += &format!("derivation  {}\n", list(contents.derivations.iter().map(ToString::to_string).collect()));
    for (predicate_type, signer) in signed {
        let by = signer.as_ref().map_or_else(|| "a key that you do not trust".to_owned(), |name| sanitize::line(name));
        text += &format!("signature   {} by {by}\n", claim(predicate_type));
    }
    if signed.is_empty() {
        text += "signature   none\n";
    }
    text += &format!("lock        {}\n", if contents.lock.is_some() { "yes; --lock prints it" } else { "none" });
    text
}

fn layer_lines(found: &Found) -> String {
    let line = |layer: &Layer| {
        let name = sanitize::line(&layer.manifest.record.name);
        format!("  {:.12}  {:>10}  {name}\n", layer.manifest.layer.digest().to_string(), units::size(layer.blob.size))
    };
    found.contents.layers.iter().map(line).collect()
}

fn json(found: &Found, signed: &[(String, Option<String>)]) -> serde_json::Value {
    let contents = &found.contents;
    let layers: Vec<serde_json::Value> = contents
        .layers
        .iter()
        .map(|layer| {
            serde_json::json!({
                "layer": layer.manifest.layer.oci(), "name": layer.manifest.record.name, "packages": layer.manifest.record.packages,
                "blob": format!("sha256:{}", layer.blob.digest), "size": layer.blob.size, "bytes": layer.manifest.bytes,
            })
        })
        .collect();
    serde_json::json!({
        "image": contents.config.digest.to_string(), "arch": contents.arch.name(),
        "tool": contents.tool.as_ref().map(|(name, _)| name), "version": contents.tool.as_ref().map(|(_, version)| version),
        "manifest": format!("sha256:{}", found.manifest), "index": found.index.map(|index| format!("sha256:{index}")),
        "platforms": found.platforms.iter().map(|arch| arch.name()).collect::<Vec<_>>(), "layersForOthers": found.stacked,
        "derivations": contents.derivations.iter().map(ToString::to_string).collect::<Vec<_>>(), "layers": layers,
        "signatures": signed.iter().map(|(kind, by)| serde_json::json!({ "predicateType": kind, "by": by })).collect::<Vec<_>>(),
    })
}

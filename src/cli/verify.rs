//! `silo verify`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use silo_store::digest::Digest;

use silo_base::sanitize;
use silo_insight::provenance;
use silo_ship::find::Found;
use silo_ship::signatures::Signature;
use silo_sign::statement::{PROVENANCE, SIGNED};
use silo_tool::share;
use silo_tool::verify::{self, VerifyScope};

use super::context::{Globals, Setting, setting_of_home};
use super::error::Failure;
use super::pull;
use super::ui;

/// Hash all images and layers in use, and report changed files
#[derive(clap::Args)]
pub struct Args {
    /// Only these tools; or one image of a registry, whose signatures are verified
    #[arg(value_name = "TOOL|REF")]
    tools: Vec<String>,
    /// Every image and layer, also unneeded ones
    #[arg(long, conflicts_with = "tools")]
    all: bool,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting_of_home(globals)?;
    if let [name] = args.tools.as_slice()
        && name.contains('/')
    {
        return of_repository(&setting, args, name);
    }
    let wish = match (args.all, args.tools.as_slice()) {
        (true, _) => VerifyScope::All,
        (false, []) => VerifyScope::Used,
        (false, tools) => VerifyScope::Tools(tools.to_vec()),
    };
    let findings = setting.with(|context| verify::verify(context, &wish).map_err(Failure::other))?;
    if args.json {
        ui::json(&serde_json::json!({ "layers": findings.layers, "bytes": findings.bytes, "faults": findings.faults }))?;
    } else {
        let faults: String = findings.faults.iter().map(|fault| sanitize::line(fault) + "\n").collect();
        ui::data(&format!(
            "{faults}{} layers, {} MB hashed, {} faults\n",
            findings.layers,
            findings.bytes / 1_000_000,
            findings.faults.len()
        ))?;
    }
    if findings.faults.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::found(
        "files in the store were changed",
        "`silo uninstall` and `silo gc --all` remove the tool; `silo install` builds it again",
    ))
}

/// Verifies the signatures of an image in a repository; the exit code is 1 if no trusted key signed it.
fn of_repository(setting: &Setting, args: &Args, name: &str) -> Result<ExitCode, Failure> {
    let from = share::target(name)?;
    let (found, signatures) = setting.with(|context| Ok(share::inspect(context, &from, setting.home.arch())?))?;
    let signed = pull::signed(setting, &signatures)?;
    let by: Vec<&str> = signed.iter().filter(|(kind, _)| kind == SIGNED).filter_map(|(_, by)| by.as_deref()).collect();
    if args.json {
        let all: Vec<serde_json::Value> = signed.iter().map(|(kind, by)| serde_json::json!({ "predicateType": kind, "by": by })).collect();
        ui::json(&serde_json::json!({ "manifest": format!("sha256:{}", found.manifest), "signedBy": by, "signatures": all }))?;
    } else {
        let mut text = format!("{}: sha256:{}\n", sanitize::line(&found.place), found.manifest);
        for (kind, by) in &signed {
            text += &match by {
                Some(name) => format!("  proved      {} by {}\n", pull::claim(kind), sanitize::line(name)),
                None => format!("  not proved  {} by a key that you do not trust\n", pull::claim(kind)),
            };
        }
        if signed.is_empty() {
            text += "  not proved  nobody signed it\n";
        }
        let by_trusted = signatures.iter().filter(|signature| signature.signer.is_some());
        // The index and the manifest have the same provenance.
        let lines: BTreeSet<String> = by_trusted.filter_map(|signature| provenance_line(&found, signature)).collect();
        text += &lines.into_iter().collect::<String>();
        let layers = found.contents.layers.len();
        text += &format!("  proved      the manifest names the configuration and {layers} layers by digest; `silo pull` verifies each\n");
        text += "  not proved  that a build from the lock gives these layers; `silo challenge` builds them again\n";
        ui::data(&text)?;
    }
    Ok(if by.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Compares a provenance by a trusted key with the image's contents; returns a line about it.
fn provenance_line(found: &Found, signature: &Signature) -> Option<String> {
    if signature.predicate_type != PROVENANCE {
        return None;
    }
    let Some(stated) = provenance::read(&signature.predicate) else {
        return Some("  not proved  the provenance is not of a build by silo\n".to_owned());
    };
    let lock = found.contents.lock.as_ref().map(|lock| Digest::of(lock.as_bytes()));
    // A tag's index has the provenance of the platform that was pushed last.
    if stated.lock != lock || stated.derivations.is_disjoint(&found.contents.derivations) {
        return (signature.over == found.manifest).then(|| "  not proved  the provenance is of another lock\n".to_owned());
    }
    let lock = lock.map_or_else(|| "no lock".to_owned(), |lock| format!("the lock sha256:{lock}"));
    Some(format!("  proved      the signer states a build from {lock} with {} inputs\n", stated.inputs))
}

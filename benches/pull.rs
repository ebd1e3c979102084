//! A large image from a local registry, fetched and unpacked, compared with other tools.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::registry::Registry;
use crate::support::{Silo, has};
use crate::table::{Promise, Table, timed};

/// Layers of the image.
const LAYERS: usize = 6;
/// Files of each layer, and the bytes of each.
const FILES: usize = 500;
const BYTES: usize = 100_000;
/// The most time, as a multiple of each neighbour's.
const TIMES: f64 = 1.0;

pub fn run(rounds: usize) -> bool {
    let mut table = Table::new("an image of 300 MB in 6 layers, out of a registry on this machine");
    let ours = table.row("silo install --image");
    if ["docker-registry", "skopeo", "umoci"].iter().any(|program| !has(program)) {
        table.absent("everything", "docker-registry, skopeo or umoci is not installed");
        return table.print(ours, &[]);
    }
    let others = table.row("skopeo copy, umoci unpack");
    let podman = has("podman").then(|| table.row("podman pull, storage driver vfs"));
    let (place, registry) = (Silo::new(), Registry::start());
    let reference = format!("{}/team/big:v1", registry.host);
    push(&place.project(), &reference);
    // All that is made stays until the end: for each new inode ext4 searches past those that were freed a moment ago.
    let mut made = Vec::new();
    for round in 0..rounds {
        let silo = Silo::new();
        table.add(ours, timed(&mut silo.command(["install", "--quiet", "big", "--image", &reference])));
        let dir = silo.project().join(format!("others-{round}"));
        fs::create_dir(&dir).expect("our own project");
        let script = format!(
            "skopeo copy --quiet --insecure-policy --src-tls-verify=false docker://{reference} oci:layout:v1 && umoci unpack --rootless --image layout:v1 bundle"
        );
        table.add(others, timed(shell(&script).current_dir(&dir)));
        if let Some(row) = podman {
            let script = format!(
                "podman --root $PWD/storage --runroot $PWD/run --storage-driver vfs --cgroup-manager cgroupfs --events-backend none pull --quiet --tls-verify=false {reference}"
            );
            table.add(row, timed(shell(&script).current_dir(&dir)));
        }
        made.push(silo);
    }
    let promise = |of| Promise::AtMost { row: ours, times: TIMES, of };
    let promises: Vec<Promise> = [Some(others), podman].into_iter().flatten().map(promise).collect();
    table.print(others, &promises)
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-ec", script]).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Makes the image by umoci and pushes it by skopeo, which compresses it.
fn push(dir: &Path, reference: &str) {
    let mut script = "umoci init --layout big; umoci new --image big:v1".to_owned();
    let mut state = 1_u64;
    for layer in 0..LAYERS {
        let files = dir.join(format!("files-{layer}"));
        fs::create_dir(&files).expect("our own project");
        for file in 0..FILES {
            let mut out = Vec::with_capacity(BYTES + 20);
            while out.len() < BYTES {
                // xorshift: digits that gzip halves, as it does programs.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                write!(out, "{state:016x}").expect("memory takes it");
            }
            fs::write(files.join(format!("file-{file}")), out).expect("our own project");
        }
        script += &format!("; umoci insert --rootless --image big:v1 files-{layer} /opt/files-{layer}");
    }
    script += "; printf '#!/bin/sh\n' > big-tool; chmod 755 big-tool; umoci insert --rootless --image big:v1 big-tool /usr/bin/big-tool";
    script += &format!("; skopeo copy --quiet --insecure-policy --dest-tls-verify=false oci:big:v1 docker://{reference}");
    let done = shell(&script).current_dir(dir).env("REGISTRY_AUTH_FILE", dir.join("logins.json")).status().expect("sh starts");
    assert!(done.success(), "the image was not made");
}

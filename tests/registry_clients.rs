//! Pushed images in other programs: skopeo, umoci and podman of this machine; cosign, oras and crane in a sandbox, as Debian's next suite
//! has them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tar::EntryType::{Regular, Symlink};

use crate::support::images::{Layer, layout, podman_words, tar};
use crate::support::registry::Registry;
use crate::support::{Done, Silo, done, has, skip};

/// The recipe of the programs in the sandbox.
const RECIPE: &str = "command = [\"sh\"]\n[debian]\nsuite = \"forky\"\npackages = [\"dash\", \"cosign\", \"crane\", \"oras\"]\n";

/// Programs in a sandbox, which may connect to the registry only.
struct Clients {
    silo: Silo,
    registry: String,
}

impl Clients {
    /// Installs them; says why they cannot be had here.
    fn new(registry: &Registry) -> Option<Clients> {
        let silo = Silo::seeded();
        silo.write(".silo/recipes/clients.toml", RECIPE);
        // The index of a suite in development expires within days, and a mirror may be older.
        silo.write(".silo/silo.toml", "[mirrors]\nallowStale = true\n");
        let installed = silo.run(["install", "--quiet", "clients"]);
        if installed.code != 0 && installed.err.contains("cannot lock clients") {
            skip(&format!("the mirror has no cosign, crane and oras: {}", installed.err.lines().next().unwrap_or_default()));
            return None;
        }
        assert_eq!(installed.code, 0, "{installed:?}");
        silo.offer_downloads();
        let port = registry.host.rsplit_once(':').expect("a port").1;
        Some(Clients { silo, registry: format!("localhost:{port}") })
    }

    /// Runs a script in the sandbox, with `$R` as the registry; it must succeed.
    fn ok(&self, script: &str) -> String {
        let script = format!("set -e; R={}; export COSIGN_PASSWORD=; {script}", self.registry);
        self.silo.ok(["run", "--quiet", "--allow", &self.registry, "clients", "--", "-c", &script])
    }
}

/// A silo with a tool that is made of layers.
fn tool(layers: &[Layer]) -> Silo {
    let silo = Silo::new();
    let place = silo.project().join("layout");
    layout(&place, layers);
    drop(silo.ok(["install", "--quiet", "greeter", "--image", &format!("oci:{}:v1", place.display()), "--shim", "greet"]));
    silo
}

fn few() -> Vec<Layer> {
    let script = "#!/bin/sh\necho hello\n";
    vec![
        Layer::plain(tar(&[
            (Regular, "usr/bin/greet", 0o755, script),
            (Regular, "etc/gone", 0o644, "gone\n"),
            (Regular, "etc/a", 0o644, "1\n"),
        ])),
        Layer::zstd(&tar(&[(Regular, "etc/.wh.gone", 0o644, ""), (Regular, "etc/a", 0o600, "2\n"), (Symlink, "etc/b", 0o777, "a")])),
    ]
}

fn many() -> Vec<Layer> {
    let one = |at: usize| {
        let name = format!("opt/files/{at}");
        Layer::plain(tar(&[(Regular, &name, 0o644, &"x".repeat(at + 1)), (Symlink, "opt/last", 0o777, &at.to_string())]))
    };
    few().into_iter().chain((0..177).map(one)).collect()
}

/// Compares a directory with the root of the tool's image.
fn assert_same_files(silo: &Silo, dir: &Path, what: &str) {
    let mut diff = Command::new("diff");
    let compared = done(diff.args(["-r", "--no-dereference"]).arg(dir).arg(silo.image_root("greeter")));
    assert_eq!((compared.code, compared.out.as_str()), (0, ""), "{what}: {compared:?}");
}

fn run(program: &str, words: &[&str], dir: &Path) -> Done {
    done(Command::new(program).args(words).current_dir(dir))
}

/// Copies an image into a layout with skopeo, and unpacks it with umoci.
fn unpacked(reference: &str, dir: &Path, name: &str) -> Option<PathBuf> {
    let to = format!("oci:{name}:v1");
    let copied =
        run("skopeo", &["copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", &format!("docker://{reference}"), &to], dir);
    assert_eq!(copied.code, 0, "{copied:?}");
    if !has("umoci") {
        skip("there is no umoci");
        return None;
    }
    let bundle = format!("{name}-bundle");
    let unpacked = run("umoci", &["unpack", "--rootless", "--image", &format!("{name}:v1"), &bundle], dir);
    assert_eq!(unpacked.code, 0, "{unpacked:?}");
    Some(dir.join(bundle).join("rootfs"))
}

/// Programs of other projects read an image of few layers, and one of 179, in both compressions.
#[test]
fn programs_of_this_machine_read_pushed_images() {
    if !has("docker-registry") {
        return skip("there is no docker-registry");
    }
    let registry = Registry::start();
    for (name, silo) in [("few", tool(&few())), ("many", tool(&many()))] {
        let (plain, gzip) = (format!("{}/{name}:v1", registry.host), format!("{}/{name}:gzip", registry.host));
        drop(silo.ok(["push", "--quiet", "greeter", &plain]));
        drop(silo.ok(["push", "--quiet", "--gzip", "greeter", &gzip]));
        let dir = silo.project();
        if has("skopeo") {
            // Umoci refuses zstd.
            if let Some(root) = unpacked(&gzip, &dir, "copy") {
                assert_same_files(&silo, &root, name);
            }
        } else {
            skip("there is no skopeo");
        }
        if !has("podman") {
            skip("there is no podman");
            continue;
        }
        let podman = |words: &[&str]| run("podman", &podman_words(words), &dir);
        for reference in [&plain, &gzip] {
            let pulled = podman(&["pull", "--quiet", "--tls-verify=false", reference]);
            assert_eq!(pulled.code, 0, "{pulled:?}");
            // The id of an image of at most 100 layers is silo's.
            assert!(name == "many" || pulled.out.trim() == silo.image_id("greeter").to_string(), "{pulled:?}");
            let mounted = podman(&["image", "mount", reference]);
            if mounted.code == 0 {
                assert_same_files(&silo, Path::new(mounted.out.trim()), reference);
            } else {
                skip(&format!("podman pulls the image, and cannot mount any here: {}", mounted.err.lines().last().unwrap_or_default()));
            }
            drop(podman(&["image", "umount", "--all"]));
        }
        drop(podman(&["rmi", "--all", "--force"]));
    }
}

/// cosign, crane and oras, which silo itself supplies, read an image of few layers and one of 179. cosign and silo accept each other's
/// signatures and keys.
#[test]
fn programs_in_a_sandbox_read_and_verify_pushed_images() {
    if !has("docker-registry") {
        return skip("there is no docker-registry");
    }
    let registry = Registry::start();
    let Some(clients) = Clients::new(&registry) else { return };
    let inside = clients.silo.project();
    for (name, silo) in [("few", tool(&few())), ("many", tool(&many()))] {
        let (plain, gzip) = (format!("{}/{name}:v1", registry.host), format!("{}/{name}:gzip", registry.host));
        drop(silo.ok(["key", "new", "laptop"]));
        fs::write(inside.join("laptop.pub"), silo.ok(["key", "export", "laptop"])).expect("our own");
        let pushed: serde_json::Value = serde_json::from_str(&silo.ok(["push", "--json", "greeter", &plain])).expect("JSON");
        drop(silo.ok(["push", "--quiet", "--gzip", "greeter", &gzip]));

        let http = "--allow-insecure-registry --allow-http-registry";
        let verified = clients.ok(&format!("cosign verify --key laptop.pub --insecure-ignore-tlog=true {http} $R/{name}:v1 2>&1"));
        let digest = pushed["digest"].as_str().expect("a digest");
        assert!(verified.contains("verified against the specified public key") && verified.contains(digest), "{verified}");
        // The index has the provenance, and the manifest of a platform the bills of materials too.
        let manifest = pushed["manifest"].as_str().expect("a digest");
        for (kind, digest) in [("slsaprovenance1", digest), ("slsaprovenance1", manifest), ("spdxjson", manifest), ("cyclonedx", manifest)]
        {
            let attested = format!("cosign verify-attestation --type {kind} --key laptop.pub --insecure-ignore-tlog=true {http}");
            let attested = clients.ok(&format!("{attested} $R/{name}@{digest} 2>&1"));
            assert!(attested.contains("verified against the specified public key"), "{kind}: {attested}");
        }
        let sign = "cosign sign --key cosign.key --tlog-upload=false --use-signing-config=false -y";
        let _ = clients.ok(&format!("test -e cosign.key || cosign generate-key-pair; {sign} {http} $R/{name}@{digest}"));
        let there = Silo::new();
        drop(there.ok(["key", "trust", &inside.join("cosign.pub").display().to_string()]));
        let proved = there.ok(["verify", &plain]);
        assert!(proved.contains("proved      signed by cosign"), "{proved}");
        // Another key's signature is none.
        let stranger = Silo::new();
        drop(stranger.ok(["key", "new", "stranger"]));
        assert_eq!(stranger.fails(["verify", &plain]).code, 1);

        let _ = clients.ok(&format!("crane validate --insecure --remote $R/{name}:gzip"));
        for tag in ["v1", "gzip"] {
            let root = inside.join(format!("{name}-{tag}"));
            fs::create_dir(&root).expect("our own");
            let _ = clients.ok(&format!("crane export --insecure $R/{name}:{tag} - | tar x -C {name}-{tag}"));
            assert_same_files(&silo, &root, tag);
        }

        // oras copies an image with all that is about it; the copy is a repository for silo.
        let referrers = "--from-plain-http --from-distribution-spec v1.1-referrers-tag";
        let _ = clients.ok(&format!("oras copy --no-tty --recursive {referrers} $R/{name}:v1 --to-oci-layout {name}-copy:v1"));
        let copy = format!("oci:{}:v1", inside.join(format!("{name}-copy")).display());
        assert!(there.ok(["verify", &copy]).contains("proved      signed by cosign"));
        let pulled: serde_json::Value = serde_json::from_str(&there.ok(["pull", "--json", &copy])).expect("JSON");
        assert_eq!(pulled["image"], silo.image_id("greeter").to_string());
    }
    // cosign takes silo's secret key, and signs with it.
    let silo = tool(&few());
    drop(silo.ok(["key", "new", "laptop"]));
    fs::copy(silo.path("keys/own/laptop.pem"), inside.join("own.pem")).expect("our own");
    let _ = clients.ok("cosign import-key-pair --key own.pem --output-key-prefix own");
    let imported = fs::read_to_string(inside.join("own.pub")).expect("cosign wrote it");
    assert_eq!(imported.trim(), silo.ok(["key", "export", "laptop"]).trim());
}

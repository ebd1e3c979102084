//! The python image to and from a registry on this machine, compared with podman, and with skopeo and umoci.
//!
//! With the storage driver overlay, podman has the same layers as silo, and sends and fetches the same ones. Where that driver does not
//! work, it has the image as one layer, since the driver vfs copies the whole tree for each layer.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::registry::Registry;
use crate::support::{As, Silo, has};
use crate::table::{Promise, Table, timed};

/// The most time of a push and of a pull, as multiples of podman's.
const PUSH_TIMES: f64 = 0.5;
const PULL_TIMES: f64 = 0.3;
/// The most time of an install from a cache, as a multiple of a build from .debs that are here.
const CACHED_TIMES: f64 = 0.25;
/// A package that the image has, and that a copy of its recipe leaves out.
const LEFT_OUT: &str = "python-is-python3";

pub fn run(rounds: usize) -> bool {
    let warm = Silo::shared(As::Me);
    let needed = [
        ("docker-registry", "docker-registry is not installed"),
        ("skopeo", "skopeo is not installed"),
        ("umoci", "umoci is not installed"),
        ("podman", "podman is not installed"),
    ];
    if let Some((_, lacking)) = needed.into_iter().find(|(program, _)| !has(program)) {
        let mut table = Table::new("the python image to and from a registry on this machine");
        let row = table.row("silo push, silo pull");
        table.absent("everything", lacking);
        return table.print(row, &[]);
    }
    let smaller = smaller(&warm);
    let moved = moves(&warm, &smaller, rounds);
    cached(&warm, rounds) && moved
}

/// A silo with a python of one package less.
fn smaller(warm: &Silo) -> Silo {
    let silo = Silo::seeded();
    silo.write(".silo/silo.toml", "[ecosystems]\npypi = [\"registry.example.com\"]\n");
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    let recipe = fs::read_to_string(recipes.join("python.toml")).expect("a recipe");
    let without = recipe.replace(&format!("\"{LEFT_OUT}\", "), "").replace(&format!(", \"{LEFT_OUT}\""), "");
    assert_ne!(recipe, without, "the recipe has {LEFT_OUT}");
    silo.write(".silo/recipes/python.toml", &without);
    drop(silo.ok(["install", "--quiet", "python"]));
    drop(warm.ok(["list"]));
    silo
}

/// The rows of one table: silo, podman, skopeo with umoci.
struct Rows {
    table: Table,
    ours: usize,
    podman: usize,
    others: usize,
}

impl Rows {
    fn new(title: &'static str, ours: &str, podman: &str, others: &str) -> Rows {
        let mut table = Table::new(title);
        let (ours, podman, others) = (table.row(ours), table.row(podman), table.row(others));
        Rows { table, ours, podman, others }
    }

    fn print(self, times: f64) -> bool {
        self.table.print(self.podman, &[Promise::AtMost { row: self.ours, times, of: self.podman }])
    }
}

fn moves(warm: &Silo, smaller: &Silo, rounds: usize) -> bool {
    let known = Silo::new();
    let driver = if has_overlay(&known) { "overlay" } else { "vfs" };
    let layers = if driver == "overlay" { "the same layers" } else { "one layer" };
    let (pushes, pulls) = (format!("podman push, {layers} ({driver})"), format!("podman pull, {layers} ({driver})"));
    let mut push = Rows::new("push of the python image, cold", "silo push", &pushes, "skopeo copy from a layout, one layer");
    let mut push_more = Rows::new("push with one package changed", "silo push", &pushes, "umoci insert, skopeo copy, one layer");
    let mut pull = Rows::new("pull of the python image, cold", "silo pull", &pulls, "skopeo copy, umoci unpack, one layer");
    let mut pull_more = Rows::new("pull with one package changed", "silo pull", &pulls, "skopeo copy, umoci unpack, one layer");
    // Podman gets the layers from a registry of its own: of the one that it pushes to, it would know the blobs.
    let origin = Registry::start();
    for (silo, tag) in [(smaller, "v1"), (warm, "v2")] {
        drop(silo.ok(["push", "--quiet", "--no-sign", "python", &format!("{}/origin:{tag}", origin.host)]));
    }
    // Each first push compresses.
    let forget = |silo: &Silo| fs::remove_dir_all(silo.path("blobs")).expect("blobs that were pushed");
    forget(smaller);
    forget(warm);
    // A changed image comes from a home that knows the blobs of the other layers.
    drop(warm.ok(["push", "--quiet", "--no-sign", "python", &format!("oci:{}:v1", known.project().join("known").display())]));
    // All that is made stays until the end: for each new inode ext4 searches past those that were freed a moment ago.
    let mut made = Vec::new();
    for _ in 0..rounds {
        let registry = Registry::start();
        let (ours, theirs) = (format!("{}/ours", registry.host), format!("{}/theirs", registry.host));
        let there = Silo::new();
        let dir = there.project();
        let silo = |silo: &Silo, tag: &str| timed(&mut silo.command(["push", "--quiet", "--no-sign", "python", &format!("{ours}:{tag}")]));
        push.table.add(push.ours, silo(smaller, "v1"));
        forget(smaller);
        push_more.table.add(push_more.ours, silo(warm, "v2"));
        let take = |tag: &str| timed(&mut there.command(["pull", "--quiet", "--unsigned", &format!("{ours}:{tag}")]));
        pull.table.add(pull.ours, take("v1"));
        pull_more.table.add(pull_more.ours, take("v2"));

        // The others get the image as one layer, and change it by a small one.
        let exported = dir.join("layout").display().to_string();
        drop(smaller.ok(["export", "python", "--oci", &exported, "--name", "v1"]));
        let import = |tag: &str| {
            let from = match driver {
                "overlay" => format!("--tls-verify=false {}/origin:{tag}", origin.host),
                _ => format!("oci:layout:{tag}"),
            };
            prepared(&dir, &podman(driver, "from", &format!("tag $(podman_ pull --quiet {from}) localhost/python:{tag}")));
        };
        import("v1");
        let send = |tag: &str| format!("push --quiet --tls-verify=false localhost/python:{tag} {theirs}-podman:{tag}");
        push.table.add(push.podman, timed(shell(&podman(driver, "from", &send("v1"))).current_dir(&dir)));
        let copy = |tag: &str| {
            format!("skopeo copy --quiet --insecure-policy --dest-tls-verify=false oci:layout:{tag} docker://{theirs}-skopeo:{tag}")
        };
        push.table.add(push.others, timed(shell(&copy("v1")).current_dir(&dir)));
        fs::write(dir.join("change"), "x").expect("our own");
        let insert = "umoci insert --rootless --image layout:v1 --tag v2 change /opt/change";
        push_more.table.add(push_more.others, timed(shell(&format!("{insert} && {}", copy("v2"))).current_dir(&dir)));
        import("v2");
        push_more.table.add(push_more.podman, timed(shell(&podman(driver, "from", &send("v2"))).current_dir(&dir)));
        for (rows, tag) in [(&mut pull, "v1"), (&mut pull_more, "v2")] {
            let script = podman(driver, "to", &format!("pull --quiet --tls-verify=false {theirs}-podman:{tag}"));
            rows.table.add(rows.podman, timed(shell(&script).current_dir(&dir)));
            let script = format!(
                "skopeo copy --quiet --insecure-policy --src-tls-verify=false docker://{theirs}-skopeo:{tag} oci:back:{tag} && umoci unpack --rootless --image back:{tag} bundle-{tag}"
            );
            rows.table.add(rows.others, timed(shell(&script).current_dir(&dir)));
        }
        made.push(there);
    }
    let all = [push.print(PUSH_TIMES), push_more.print(PUSH_TIMES), pull.print(PULL_TIMES), pull_more.print(PULL_TIMES)];
    all.into_iter().all(|is_kept| is_kept)
}

/// An install from a cache, beside a build.
fn cached(warm: &Silo, rounds: usize) -> bool {
    let mut table = Table::new("silo install python on a machine with nothing");
    let (ours, cold) = (table.row("from a cache on this machine"), table.row("built from .debs that are here"));
    let registry = Registry::start();
    let location = format!("{}/team/silo", registry.host);
    let maker = Silo::new();
    drop(maker.ok(["key", "new", "maker"]));
    let secret = maker.path("keys/own/maker.pem").display().to_string();
    drop(warm.ok(["cache", "push", "--to", &location, "--sign", &secret, "python"]));
    let key = maker.project().join("maker.pub");
    fs::write(&key, maker.ok(["key", "export", "maker"])).expect("our own");
    // The network request that learns pip's registry is part of neither.
    let learned = "[ecosystems]\npypi = [\"registry.example.com\"]\n";
    let mut made = Vec::new();
    for _ in 0..rounds {
        let silo = Silo::new();
        silo.seed_locks();
        silo.write(".silo/silo.toml", &format!("{learned}[[caches]]\nlocation = \"{location}\"\n"));
        drop(silo.ok(["key", "trust", &key.display().to_string()]));
        table.add(ours, timed(&mut silo.command(["install", "--quiet", "python"])));
        made.push(silo);
        let silo = Silo::seeded();
        silo.write(".silo/silo.toml", learned);
        table.add(cold, timed(&mut silo.command(["install", "--quiet", "python"])));
        made.push(silo);
    }
    table.print(cold, &[Promise::AtMost { row: ours, times: CACHED_TIMES, of: cold }])
}

/// A script with podman, which keeps its images in a directory of that name; `podman_` is the same podman.
fn podman(driver: &str, storage: &str, words: &str) -> String {
    let own = format!("--root $PWD/{storage} --runroot $PWD/{storage}-run --storage-driver {driver}");
    format!("podman_() {{ podman {own} --cgroup-manager cgroupfs --events-backend none \"$@\"; }}; podman_ {words}")
}

/// True if podman's storage driver overlay works here.
fn has_overlay(silo: &Silo) -> bool {
    shell(&podman("overlay", "probe", "info")).current_dir(silo.project()).status().is_ok_and(|status| status.success())
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-ec", script]).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Runs a script that is not measured.
fn prepared(dir: &Path, script: &str) {
    let done = shell(script).stderr(Stdio::inherit()).current_dir(dir).status().expect("sh starts");
    assert!(done.success(), "{script}");
}

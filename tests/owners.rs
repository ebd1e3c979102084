//! Build steps as a real root sees them: owners, users and capabilities are true in a step and in its layer, in each way to run it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use silo_store::index::Index;
use silo_store::path::LayerPath;

use crate::support::sandbox::until;
use crate::support::{As, Silo, has, is_root, skip};

/// A recipe whose steps look at owners, become other users and set capabilities.
const RECIPE: &str = r#"
command = ["sh"]
steps = ["""
set -e
cd /opt
stat -c '%n %u:%g %a' /etc/shadow /var/mail > seen
for file in a d; do echo y > $file; chown 33:34 $file; done
stat -c %u:%g a >> seen
cp -p a copied; sed -i s/y/z/ d; tar -cf - a | tar -C /srv -xpf -
mkdir dir; chown 0:34 dir; chmod 2775 dir; touch dir/inherits
cp /bin/true set-id; chown 33:33 set-id; chmod 6755 set-id
ln a linked; chown 35:35 linked
chown 77:77 /dev/stdout
cp /bin/true t; setcap cap_net_raw+ep t; cp /bin/true u; setcap cap_net_raw+ep u
""", """
useradd -m app
su app -c 'touch ~/made; mkdir -m 700 ~/closed; touch ~/closed/inside; id -u > ~/said; rm -rf /etc/shadow 2> /dev/null || echo refused >> ~/said'
setpriv --reuid 33 --regid 33 --clear-groups sh -c 'id -u; id -g' > /opt/setpriv
""", """
set -e
cd /opt; getcap t u >> seen; stat -c '%n %u:%g' copied dir >> seen; setcap -r u; mv t v; chmod 700 v
"""]
[debian]
packages = ["passwd", "libcap2-bin"]
"#;

/// The entries as index lines without contents and times: kind, mode, owner, path and attributes.
const EXPECTED: [&str; 16] = [
    "0640 0:42 etc/shadow",
    "0664 1000:1000 home/app/closed/inside",
    "0700 1000:1000 home/app/closed",
    "0664 1000:1000 home/app/made",
    "0700 1000:1000 home/app",
    "0644 33:34 opt/copied",
    "0644 33:34 opt/d",
    "0644 0:34 opt/dir/inherits",
    "2775 0:34 opt/dir",
    "0644 35:35 opt/a",
    "0644 35:35 opt/linked",
    "6755 33:33 opt/set-id",
    "0644 33:34 srv/a",
    "0700 0:0 opt/v cap",
    "0755 0:0 opt/u",
    "0644 0:0 opt/setpriv",
];

#[test]
fn owners_users_and_capabilities_are_true_in_steps() {
    let mut ids = Vec::new();
    for who in [As::Me, As::Ranged] {
        if who == As::Ranged && !(is_root() && has("newuidmap") && has("unshare") && Path::new("/etc/subuid").exists()) {
            skip("an ordinary user with a range of ids needs root and newuidmap");
            continue;
        }
        if who == As::Me && !is_root() {
            skip("the caller may have no range of ids");
            continue;
        }
        let silo = Silo::of(who);
        silo.seed_downloads();
        silo.write(".silo/recipes/owners.toml", RECIPE);
        silo.ok(["install", "--quiet", "owners"]);
        let installed = silo.installed("owners");
        check(&installed.index, &installed.root);
        // All files on disk belong to the caller, also the logs.
        assert_eq!(others(&silo.path("")), Vec::<String>::new());
        ids.push(silo.image_id("owners"));
        silo.offer_downloads();
    }
    assert!(ids.windows(2).all(|two| two[0] == two[1]), "{ids:?}");
}

fn check(index: &Index, root: &Path) {
    let shown = |path: &str| {
        let path = LayerPath::parse(path.as_bytes()).expect("plain");
        let entry = index.resolve(&path).or_else(|| index.get(&path)).unwrap_or_else(|| panic!("{path} is missing"));
        let capability = if entry.meta.xattrs.contains_key(&b"security.capability"[..]) { " cap" } else { "" };
        format!("{:04o} {}:{} {path}{capability}", entry.meta.mode, entry.meta.uid, entry.meta.gid)
    };
    let found: Vec<String> = EXPECTED.iter().map(|line| shown(line.split(' ').nth(2).expect("a path"))).collect();
    assert_eq!(found, EXPECTED);
    let text = |path: &str| fs::read_to_string(root.join(path)).expect("a text");
    assert_eq!(
        text("opt/seen"),
        "/etc/shadow 0:42 640\n/var/mail 0:8 2775\n33:34\nt cap_net_raw=ep\nu cap_net_raw=ep\ncopied 33:34\ndir 0:34\n"
    );
    assert_eq!(text("home/app/said"), "1000\nrefused\n");
    assert_eq!(text("opt/setpriv"), "33\n33\n");
}

/// Lists the files below a directory that belong to another user than the directory, or that cannot be read.
fn others(dir: &Path) -> Vec<String> {
    let own = fs::symlink_metadata(dir).expect("there").uid();
    let (mut found, mut waiting) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(&path).expect("there");
        if meta.uid() != own {
            found.push(path.display().to_string());
        }
        if meta.is_dir() {
            waiting.extend(fs::read_dir(&path).expect("listed").flatten().map(|entry| entry.path()));
        }
    }
    found
}

#[test]
fn files_of_a_killed_step_are_swept() {
    if !(is_root() && has("newuidmap") && has("unshare") && Path::new("/etc/subuid").exists()) {
        return skip("an ordinary user with a range of ids needs root and newuidmap");
    }
    let silo = Silo::of(As::Ranged);
    silo.seed_downloads();
    let step =
        "install -d -o 33 -m 700 /opt/closed && install -d -o 34 -m 700 /opt/closed/deep && touch /opt/closed/deep/file && sleep 1000";
    let recipe = format!("command = [\"sh\"]\nsteps = [\"{step}\"]\n[debian]\npackages = [\"coreutils\"]\n");
    silo.write(".silo/recipes/killed.toml", &recipe);
    let mut child = silo.command(["install", "--quiet", "killed"]).spawn().expect("silo starts");
    let work = silo.path("work");
    let is_there = || others_exist(&work);
    until("the step has made its files", is_there);
    // The namespace's processes end with silo.
    child.kill().expect("it runs");
    child.wait().expect("it was killed");
    silo.offer_downloads();
    let is_swept = || silo.run(["gc"]).code == 0 && fs::read_dir(&work).expect("there").next().is_none();
    until("the working directory is swept", is_swept);
    assert_eq!(others(&silo.path("")), Vec::<String>::new());
}

fn others_exist(work: &Path) -> bool {
    let named = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    named(work).iter().any(|step| step.join("upper/opt/closed/deep/file").exists())
}

/// A lock has the layers of steps with real owners. A build that can only record owners gives the same layer, or fails.
#[test]
fn recorded_owners_are_compared_with_the_lock() {
    if !is_root() {
        return skip("only root can be another user, who has no range of ids");
    }
    let recipe =
        |step: &str| format!("command = [\"sh\"]\nsteps = [\"{step}\"]\n[debian]\npackages = [\"dash\", \"coreutils\", \"passwd\"]\n");
    let equal = recipe("touch /opt/a && chown 33:34 /opt/a");
    let different = recipe("touch /opt/a && chown 33:34 /opt/a && stat -c %u:%g /etc/shadow > /opt/seen");
    let real = Silo::of(As::Me);
    real.seed_downloads();
    for (name, text) in [("equal", &equal), ("different", &different)] {
        real.write(&format!(".silo/recipes/{name}.toml"), text);
        real.ok(["install", "--quiet", name]);
        let lock = fs::read_to_string(real.path(&format!("recipes/{name}.lock"))).expect("a lock");
        let pins = lock.split(".layers.").nth(1).unwrap_or_else(|| panic!("no layers: {lock}"));
        assert!(pins.lines().filter(|line| line.contains("\" = \"")).count() >= 3, "{pins}");
    }
    real.offer_downloads();
    let recorded = Silo::of(As::Nobody);
    recorded.seed_downloads();
    for (name, text) in [("equal", &equal), ("different", &different)] {
        recorded.write(&format!(".silo/recipes/{name}.toml"), text);
        let lock = fs::read_to_string(real.path(&format!("recipes/{name}.lock"))).expect("a lock");
        recorded.write(&format!(".silo/recipes/{name}.lock"), &lock);
    }
    recorded.ok(["install", "--quiet", "--frozen", "equal"]);
    assert_eq!(recorded.image_id("equal"), real.image_id("equal"));
    let refused = recorded.fails(["install", "--quiet", "--frozen", "different"]);
    assert!(refused.err.contains("without real owners the step made layer") && refused.err.contains("uidmap"), "{refused:?}");
    // Without a lock of another system nothing can be compared, and nothing is pinned.
    recorded.write(".silo/recipes/alone.toml", &different);
    recorded.ok(["install", "--quiet", "alone"]);
    let lock = fs::read_to_string(recorded.path("recipes/alone.lock")).expect("a lock");
    assert!(!lock.contains(".layers."), "{lock}");
    // That layer does not count as the locked one.
    let again = recorded.fails(["install", "--quiet", "--frozen", "different"]);
    assert!(again.err.contains("without real owners the step made layer"), "{again:?}");
}

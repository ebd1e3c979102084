//! Roots of more than one Debian suite: other apt archives with their keys, files beside the recipe, answers, backports.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::{self, Silo};

/// An apt archive of one package, signed by a key of its own.
struct Own {
    dir: tempfile::TempDir,
}

impl Own {
    /// Makes it, or says why that cannot be.
    fn new() -> Option<Own> {
        if let Some(lacking) = ["gpg", "dpkg-deb"].into_iter().find(|program| !support::has(program)) {
            support::skip(&format!("{lacking} is not installed"));
            return None;
        }
        let own = Own { dir: tempfile::tempdir().expect("a directory") };
        fs::create_dir(own.path("gnupg")).expect("our own directory");
        own.gpg(&["--quick-generate-key", "test@example.com", "ed25519", "sign", "never"]);
        Some(own)
    }

    fn path(&self, below: &str) -> std::path::PathBuf {
        self.dir.path().join(below)
    }

    fn gpg(&self, words: &[&str]) -> Vec<u8> {
        let mut command = Command::new("gpg");
        command.args(["--batch", "--passphrase", "", "--homedir"]).arg(self.path("gnupg")).args(words);
        let done = command.output().expect("gpg runs");
        assert!(done.status.success(), "{done:?}");
        done.stdout
    }

    fn key(&self) -> String {
        String::from_utf8(self.gpg(&["--armor", "--export", "test@example.com"])).expect("armour")
    }

    /// Makes a .deb that has one file, and a script that prints debconf's answer.
    fn deb(&self, to: &Path, name: &str, version: &str) {
        let control = format!("Package: {name}\nVersion: {version}\nArchitecture: all\nDepends: debconf\n");
        let templates = format!("Template: {name}/word\nType: string\nDefault: none\nDescription: a word\n");
        let script = format!("#!/bin/sh\nset -e\n. /usr/share/debconf/confmodule\ndb_get {name}/word\necho \"$RET\" > /etc/{name}.word\n");
        // A file of the old place, in a package that knows nothing of a merged /usr.
        let (program, text) = (format!("bin/{name}"), format!("#!/bin/sh\necho {name} {version}\n"));
        self.deb_of(to, &control, &[("DEBIAN/templates", &templates), ("DEBIAN/postinst", &script), (&program, &text)]);
    }

    /// Makes a .deb of these files. Files that begin with `#!` are executable.
    fn deb_of(&self, to: &Path, control: &str, files: &[(&str, &str)]) {
        let tree = tempfile::tempdir_in(self.dir.path()).expect("a directory");
        let control = format!("{control}Maintainer: a <a@example.com>\nDescription: a test\n");
        for (path, text) in [("DEBIAN/control", control.as_str())].iter().chain(files) {
            let path = tree.path().join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("our own directory");
            fs::write(&path, text).expect("our own file");
            let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("our own file");
        }
        fs::set_permissions(tree.path(), fs::Permissions::from_mode(0o755)).expect("our own directory");
        let mut command = Command::new("dpkg-deb");
        command.args(["--root-owner-group", "--build"]).arg(tree.path()).arg(to).env("SOURCE_DATE_EPOCH", "1700000000");
        let done = command.output().expect("dpkg-deb runs");
        assert!(done.status.success(), "{done:?}");
    }

    /// Publishes versions of a package as a suite.
    fn publish(&self, suite: &str, more: &str, name: &str, versions: &[&str]) {
        fs::create_dir_all(self.path("apt/pool")).expect("our own directory");
        let mut index = String::new();
        for version in versions {
            let file = format!("pool/{name}_{version}_all.deb");
            self.deb(&self.path("apt").join(&file), name, version);
            let bytes = fs::read(self.path("apt").join(&file)).expect("our own file");
            let digest = silo_store::digest::Digest::of(&bytes);
            index.push_str(&format!("Package: {name}\nVersion: {version}\nArchitecture: all\nDepends: debconf\n"));
            index.push_str(&format!("Filename: {file}\nSize: {}\nSHA256: {digest}\n\n", bytes.len()));
        }
        let dists = self.path(&format!("apt/dists/{suite}"));
        let mut release = format!(
            "Origin: test\nCodename: {suite}\nDate: Tue, 14 Nov 2023 22:13:20 UTC\nArchitectures: amd64 arm64\nComponents: main\n{more}SHA256:\n"
        );
        for arch in ["amd64", "arm64"] {
            let path = format!("main/binary-{arch}/Packages");
            fs::create_dir_all(dists.join(&path).parent().expect("a directory")).expect("our own directory");
            fs::write(dists.join(&path), &index).expect("our own file");
            release.push_str(&format!(" {} {} {path}\n", silo_store::digest::Digest::of(index.as_bytes()), index.len()));
        }
        fs::write(self.path("Release"), release).expect("our own file");
        let _ = fs::remove_file(dists.join("InRelease"));
        let (to, from) = (dists.join("InRelease"), self.path("Release"));
        self.gpg(&["--digest-algo", "SHA512", "--clearsign", "--output", &to.to_string_lossy(), &from.to_string_lossy()]);
    }

    fn source(&self, suite: &str, key: &str) -> String {
        format!("[[debian.sources]]\nuri = \"file:{}\"\nsuite = \"{suite}\"\n{key}\n", self.path("apt").display())
    }
}

#[test]
fn another_archive_a_file_and_answers_are_pinned_and_rebuilt() {
    let Some(own) = Own::new() else { return };
    own.publish("stable", "", "greeting", &["1.0", "1.5", "2.0"]);
    own.publish("extra", "NotAutomatic: yes\n", "extra", &["3.0"]);
    let recipe = |sources: &str| {
        format!(
            "command = [\"sh\"]\n[debian]\npackages = [\"dash\", \"greeting (<< 2)\", \"extra/extra\", \"greeting >= 1.1\"]\n\
             debs = [\"debs/beside.deb\"]\ndebconf = [\"greeting greeting/word string hello\"]\n{sources}"
        )
    };
    let inline = format!("key = '''\n{}'''", own.key());
    let with = |key: &str| recipe(&(own.source("stable", key) + &own.source("extra", key)));
    let silo = Silo::seeded();
    fs::create_dir_all(silo.path("recipes/debs")).expect("our own directory");
    own.deb(&silo.path("recipes/debs/beside.deb"), "beside", "7");
    silo.write(".silo/recipes/own.toml", &with(&inline));
    let _ = silo.ok(["install", "--quiet", "own"]);
    let said = silo.ok(["own", "-c", "greeting; extra; beside; cat /etc/greeting.word /etc/beside.word; dpkg --verify"]);
    assert_eq!(said, "greeting 1.5\nextra 3.0\nbeside 7\nhello\nnone\n");

    // The lock says all of it, and another home makes the same image of it.
    let lock = fs::read_to_string(silo.path("recipes/own.lock")).expect("a lock");
    for part in
        ["archive = \"local\", path = \"debs/beside.deb\"", "pool/greeting_1.5_all.deb", "greeting/word string hello", "archive = \"file:"]
    {
        assert!(lock.contains(part), "{part} is not in\n{lock}");
    }
    let other = Silo::seeded();
    fs::create_dir_all(other.path("recipes/debs")).expect("our own directory");
    fs::copy(silo.path("recipes/debs/beside.deb"), other.path("recipes/debs/beside.deb")).expect("our own file");
    fs::copy(silo.path("recipes/own.lock"), other.path("recipes/own.lock")).expect("our own file");
    // The key in a file is the same key.
    fs::write(other.path("recipes/own.asc"), format!("\n{}", own.key()).trim_start()).expect("our own file");
    other.write(".silo/recipes/own.toml", &with("keyFile = \"own.asc\""));
    let _ = other.ok(["install", "--quiet", "--frozen", "own"]);
    assert_eq!(silo.image_id("own"), other.image_id("own"));

    // A changed file does not match the lock.
    let third = Silo::seeded();
    fs::create_dir_all(third.path("recipes/debs")).expect("our own directory");
    own.deb(&third.path("recipes/debs/beside.deb"), "beside", "8");
    fs::copy(silo.path("recipes/own.lock"), third.path("recipes/own.lock")).expect("our own file");
    third.write(".silo/recipes/own.toml", &with(&inline));
    let refused = third.fails(["install", "--quiet", "--frozen", "own"]);
    assert!(refused.err.contains("beside"), "{refused:?}");
}

#[test]
fn an_archive_without_its_key_and_missing_packages_are_refused() {
    let Some(own) = Own::new() else { return };
    own.publish("stable", "", "greeting", &["1.0"]);
    let inline = format!("key = '''\n{}'''", own.key());
    let recipe = |packages: &str, more: &str, key: &str| {
        format!("command = [\"sh\"]\n[debian]\npackages = [{packages}]\n{more}\n{}", own.source("stable", key))
    };
    let silo = Silo::seeded();
    for (text, expect) in [
        (recipe("\"greeting\"", "", ""), "InRelease of stable"),
        (recipe("\"greeting >= 2\"", "", &inline), "the indexes have 1.0"),
        (recipe("\"dash/stable\"", "", &inline), "stable has no package dash"),
        (recipe("\"greeting\"", "debconf = [\"nobody nobody/x string y\"]", &inline), "no package of the recipe needs nobody"),
        (recipe("\"greeting\"", "debs = [\"none.deb\"]", &inline), "none.deb"),
        (recipe("\"greeting\"", "", "keyFile = \"../x.asc\""), "no file in the recipe's directory"),
        (recipe("\"greeting\", \"linux-image-amd64\"", "", &inline), "linux-image-amd64 [amd64]"),
    ] {
        silo.write(".silo/recipes/own.toml", &text);
        let refused = silo.fails(["lock", "own"]);
        assert!(refused.err.contains(expect), "{expect}: {refused:?}");
    }
}

/// Firmware is in a component of its own since bookworm; its packages are offered only if the component is named.
#[test]
fn packages_of_non_free_firmware_come_with_their_component() {
    let silo = Silo::seeded();
    let recipe = |components: &str| {
        format!(
            "command = [\"sh\"]\n[debian]\nsuite = \"trixie\"\ncomponents = [{components}]\npackages = [\"dash\", \"firmware-ath9k-htc\", \"amd64-microcode [amd64]\"]\n"
        )
    };
    silo.write(".silo/recipes/firmware.toml", &recipe("\"main\""));
    let refused = silo.fails(["lock", "firmware"]);
    assert!(refused.err.contains("amd64-microcode"), "{refused:?}");
    silo.write(".silo/recipes/firmware.toml", &recipe("\"main\", \"non-free-firmware\""));
    let _ = silo.ok(["install", "--quiet", "firmware"]);
    let lock = fs::read_to_string(silo.path("recipes/firmware.lock")).expect("a lock");
    assert!(lock.contains("pool/non-free-firmware/"), "{lock}");
    let said = silo.ok(["firmware", "-c", "dpkg --audit; dpkg --verify; ls -d /usr/lib/firmware/ath9k_htc"]);
    assert_eq!(said, "/usr/lib/firmware/ath9k_htc\n");
    silo.offer_downloads();
}

/// Returns the lines of a lock about secrets that the image lacks.
fn secrets_of(silo: &Silo) -> String {
    let lock = fs::read_to_string(silo.path("recipes/keys.lock")).expect("a lock");
    let (_, secrets) = lock.split_once("\n[tool.keys.secrets.").unwrap_or_else(|| panic!("no secrets in\n{lock}"));
    secrets.split("\n[").next().unwrap_or_default().to_owned()
}

/// Keys, cookies and identities that scripts make up, and two homes that still make one image.
#[test]
fn no_image_contains_generated_secrets() {
    let recipe = "command = [\"sh\"]\n[debian]\npackages = [\"dash\", \"munge\", \"ssl-cert\", \"nvme-cli\", \"popularity-contest\"]\n";
    let one = Silo::seeded();
    one.write(".silo/recipes/keys.toml", recipe);
    let done = one.run(["install", "keys"]);
    assert_eq!(done.code, 0, "{done:?}");
    let paths = ["/etc/munge/munge.key", "/etc/ssl/private/ssl-cert-snakeoil.key", "/etc/nvme/hostid", "/etc/popularity-contest.conf"];
    let root = one.image_root("keys");
    let left: Vec<&str> = paths.into_iter().filter(|path| root.join(path.trim_start_matches('/')).exists()).collect();
    assert_eq!(left, [""; 0], "none of them is in the image");
    assert!(done.err.contains("not kept in the image") && done.err.contains("/etc/munge/munge.key"), "{done:?}");
    assert!(!done.err.contains("aux-cache"), "what is dropped from every image is not told: {done:?}");
    let certificates = fs::read_dir(root.join("etc/ssl/certs")).expect("a directory").flatten();
    assert!(!certificates.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().contains("snakeoil")));
    assert_eq!(one.ok(["keys", "-c", "dpkg --audit; true"]), "");
    // The lock names them, also in a home that finds the layer in its store.
    let locked = secrets_of(&one);
    for path in paths {
        assert!(locked.contains(&format!("\"{path}\" = {{ package = ")), "{path} is not in\n{locked}");
    }
    for (line, made) in [("/etc/munge/munge.key", true), ("/etc/popularity-contest.conf", false)] {
        assert!(locked.lines().any(|known| known.contains(line) && known.contains(&format!("madeAtStart = {made}"))), "{locked}");
    }
    fs::remove_file(one.path("recipes/keys.lock")).expect("a lock");
    let _ = one.ok(["install", "--quiet", "keys"]);
    assert_eq!(secrets_of(&one), locked);
    one.offer_downloads();
    let two = Silo::seeded();
    two.write(".silo/recipes/keys.toml", recipe);
    fs::copy(one.path("recipes/keys.lock"), two.path("recipes/keys.lock")).expect("our own file");
    let _ = two.ok(["install", "--quiet", "--frozen", "keys"]);
    assert_eq!(one.image_id("keys"), two.image_id("keys"));
}

/// dpkg puts a configuration file in its place only when it configures the package, so hooks of unconfigured packages do not run.
#[test]
fn configuration_files_appear_when_their_packages_are_configured() {
    let Some(own) = Own::new() else { return };
    let silo = Silo::seeded();
    fs::create_dir_all(silo.path("recipes/debs")).expect("our own directory");
    let deb = |name: &str, more: &str, files: &[(&str, &str)]| {
        let control = format!("Package: {name}\nVersion: 1\nArchitecture: all\n{more}");
        own.deb_of(&silo.path(&format!("recipes/debs/{name}.deb")), &control, files);
    };
    let runner = "#!/bin/sh\nset -e\nrun-parts --exit-on-error /etc/hooks.d\ncat /etc/hostname /etc/resolv.conf > /etc/runner.name\n";
    deb("runner", "", &[("DEBIAN/postinst", runner)]);
    // Its hook fails before its script has run.
    deb(
        "hooked",
        "Depends: runner\n",
        &[
            ("DEBIAN/conffiles", "/etc/hooks.d/hooked\n/etc/hooked.conf\n/etc/replaced.conf\n"),
            ("DEBIAN/postinst", "#!/bin/sh\nset -e\ntest -f /etc/hooks.d/hooked\ntouch /etc/hooked.ready\n/etc/hooks.d/hooked\n"),
            ("etc/hooks.d/hooked", "#!/bin/sh\ntest -e /etc/hooked.ready\n"),
            ("etc/hooked.conf", "hooked\n"),
            ("etc/replaced.conf", "of hooked\n"),
        ],
    );
    let divert = "#!/bin/sh\nset -e\ndpkg-divert --package diverting --add --rename --divert /etc/hooked.conf.own /etc/hooked.conf\n";
    deb("diverting", "", &[("DEBIAN/preinst", divert), ("DEBIAN/postinst", "#!/bin/sh\n")]);
    deb(
        "replacing",
        "Replaces: hooked\nDepends: hooked\n",
        &[("DEBIAN/conffiles", "/etc/replaced.conf\n"), ("DEBIAN/postinst", "#!/bin/sh\n"), ("etc/replaced.conf", "of replacing\n")],
    );
    // A step may remove the files with the host's name.
    let step = "[[steps]]\nrun = [\"sh\", \"-c\", \"cat /etc/hostname /etc/resolv.conf > /root/step.name; hostname >> /root/step.name; rm /etc/hostname /etc/resolv.conf\"]\n";
    let debs = ["runner", "hooked", "diverting", "replacing"].map(|name| format!("\"debs/{name}.deb\"")).join(", ");
    let recipe = format!("command = [\"sh\"]\n[debian]\npackages = [\"dash\"]\ndebs = [{debs}]\n{step}");
    silo.write(".silo/recipes/hooks.toml", &recipe);
    let _ = silo.ok(["install", "--quiet", "hooks"]);
    let script = "find /etc -name '*.dpkg-*'; cat /etc/hooked.conf.own /etc/replaced.conf; ls /etc/hooked.conf /etc/hooks.d 2> /dev/null; \
                  dpkg --verify; grep -c newconffile /var/lib/dpkg/status; cat /etc/runner.name /root/step.name; true";
    let said = silo.ok(["hooks", "-c", script]);
    assert_eq!(said, "hooked\nof replacing\n/etc/hooks.d:\nhooked\n0\nsilo\nsearch localdomain\nsilo\nsearch localdomain\nsilo\n");
    // Files equal to those of the package's layer are in no other layer, and the step's own files are in none.
    let why = silo.ok(["why", "hooks", "/etc/hooks.d/hooked"]);
    assert!(why.contains("hooked") && !why.contains("configure"), "{why}");
    for name in ["etc/hosts", "etc/hostname", "etc/resolv.conf"] {
        assert!(!silo.image_root("hooks").join(name).exists(), "{name} is in the image");
    }
}

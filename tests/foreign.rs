//! Foreign architectures: images with i386 packages on amd64, and what their programs may do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use silo_launch::spec::{Abi, Identity, Seed, Spec, Upper};

use crate::support::sandbox::{Bench, bench};
use crate::support::{As, NOBODY, PROGRAM, Silo, is_root, skip};

/// A library of both architectures, and programs of either.
const PACKAGES: &str = r#"["hello:i386", "zlib1g", "zlib1g:i386", "bsdutils"]"#;

/// Writes the recipe `tool` and installs it. Mirrors that carry only some architectures answer with other files than the signed index lists,
/// so this tries the suites until one of them has i386; returns false if none has.
pub fn install_i386(silo: &Silo, tool: &str, suites: &[&str], packages: &str, more: &str) -> bool {
    // sid is signed for a week only, and a frozen mirror may be older.
    silo.write(".silo/silo.toml", "mirrors.allowStale = true\n");
    for suite in suites {
        let recipe = format!("command = [\"sh\"]\n[debian]\nsuite = \"{suite}\"\npackages = {packages}\n{more}");
        silo.write(&format!(".silo/recipes/{tool}.toml"), &recipe);
        let done = silo.run(["install", "--quiet", tool]);
        if done.code == 0 {
            silo.offer_downloads();
            return true;
        }
        let lacks = done.err.contains("for i386: ") && (done.err.contains("gone from") || done.err.contains("404"));
        assert!(lacks || done.err.contains("_i386.deb"), "{done:?}");
    }
    skip(&format!("the mirrors have no i386 in {suites:?}"));
    false
}

/// The suites to try.
const SUITES: [&str; 2] = ["trixie", "sid"];

/// The probes' program, compiled for i386; or the reason is printed.
fn probes(bench: &Bench) -> Option<PathBuf> {
    if !cfg!(target_arch = "x86_64") {
        skip("32-bit programs of this processor are not compiled here");
        return None;
    }
    let program = bench.project().join("probes");
    let (source, mut compiler) = (bench.path("probes.c"), Command::new("cc"));
    fs::write(&source, include_str!("compat_probes.c")).expect("our own file");
    compiler.args(["-m32", "-O1", "-nostdlib", "-static", "-ffreestanding", "-fno-pie", "-no-pie", "-fno-stack-protector", "-o"]);
    let Ok(done) = compiler.arg(&program).arg(&source).output() else {
        skip("there is no C compiler");
        return None;
    };
    assert!(done.status.success(), "{done:?}");
    Some(program)
}

/// Runs the probes, whose every line must end in `closed`.
fn try_probes(bench: &Bench, spec: &Spec) {
    let output = bench.run(spec, b"");
    let report = String::from_utf8_lossy(&output.stdout);
    let open: Vec<&str> = report.lines().filter(|line| line.contains(": ") && !line.ends_with(": closed")).collect();
    assert!(open.is_empty() && report.ends_with("end of the probes\n"), "{open:#?}\n{output:?}");
    assert!(report.lines().filter(|line| line.ends_with(": closed")).count() > 60, "{report}");
}

#[test]
fn programs_of_32_bits_find_every_door_closed() {
    let bench = bench();
    let Some(program) = probes(&bench) else { return };
    let spec = Spec { abi: Abi::WithCompat, ..bench.spec(&[&program]) };
    try_probes(&bench, &spec);
    // With excluded directories, more calls go to PID 1.
    let kept = bench.project().join("kept");
    fs::create_dir(&kept).expect("our own directory");
    for made in ["file", "dir"] {
        let path = bench.project().join(made);
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
    }
    let host = bench.path("kept");
    fs::create_dir(&host).expect("our own directory");
    let mut spec = spec;
    spec.mounts.push(silo_launch::spec::Mount { host: host.into(), guest: kept.clone(), access: silo_launch::spec::Access::ReadWrite });
    spec.removable = vec![kept];
    try_probes(&bench, &spec);
}

#[test]
fn programs_of_32_bits_find_every_door_closed_in_a_build_step() {
    let bench = bench();
    let Some(program) = probes(&bench) else { return };
    let mut spec = bench.spec(&[program.as_os_str(), "step".as_ref()]);
    (spec.abi, spec.identity) = (Abi::WithCompat, Identity::Root);
    let (upper, work) = (bench.path("upper"), bench.path("work"));
    for dir in [&upper, &work] {
        fs::create_dir(dir).expect("our own directory");
    }
    spec.root.upper = Upper::Kept { upper: upper.clone(), work };
    try_probes(&bench, &spec);
    let owner = |path: &str| {
        let mut value = [0; 64];
        let length = rustix::fs::getxattr(upper.join(path), "user.silo.owner", &mut value[..]).expect("an owner is recorded");
        String::from_utf8_lossy(&value[..length]).into_owned()
    };
    assert_eq!((owner("root/file"), owner("root/file16")), ("33:34".to_owned(), "35:0".to_owned()));
}

#[test]
fn random_numbers_of_programs_of_32_bits_follow_from_the_seed() {
    let bench = bench();
    let Some(program) = probes(&bench) else { return };
    let run = |name: &str, seed: u8| {
        let mut spec = bench.spec(&[program.as_os_str(), "random".as_ref()]);
        (spec.abi, spec.identity, spec.seed) = (Abi::WithCompat, Identity::Root, Some(Seed([seed; 32])));
        let (upper, work) = (bench.path(&format!("{name}-upper")), bench.path(&format!("{name}-work")));
        for dir in [&upper, &work] {
            fs::create_dir(dir).expect("our own directory");
        }
        spec.root.upper = Upper::Kept { upper, work };
        String::from_utf8(bench.run(&spec, b"").stdout).expect("text")
    };
    let first = run("first", 1);
    assert_eq!(first.lines().filter(|line| line.ends_with(": closed")).count(), 4, "{first}");
    assert_eq!(first, run("again", 1));
    let other = run("other", 2);
    let differing: Vec<_> = first.lines().zip(other.lines()).filter(|(one, other)| one != other).map(|(one, _)| one).collect();
    assert!(matches!(differing[..], [only] if only.starts_with("random: ")), "{first}\n{other}");
}

#[test]
fn programs_of_32_bits_die_in_other_sandboxes() {
    let bench = bench();
    let Some(program) = probes(&bench) else { return };
    let output = bench.run(&bench.spec(&[&program]), b"");
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    // A 64-bit program must not use their calls either: tests/escape_probes.py, `use_another_calling_convention`.
}

#[test]
fn programs_of_32_bits_find_every_door_closed_in_a_machine() {
    if std::env::var_os(PROGRAM).is_some() {
        return skip("a machine's probes run once, as whoever runs the tests");
    }
    let bench = bench();
    let Some(program) = probes(&bench) else { return };
    let mut spec = Spec { abi: Abi::WithCompat, ..bench.spec(&[&program]) };
    spec.machine = Some(crate::vm::machine());
    try_probes(&bench, &spec);
}

#[test]
fn an_image_with_i386_packages_runs_their_programs() {
    if !cfg!(target_arch = "x86_64") {
        return skip("i386 packages are for amd64 only");
    }
    let silo = Silo::seeded();
    if !install_i386(&silo, "both", &SUITES, PACKAGES, "") {
        return;
    }
    let recipe = fs::read_to_string(silo.path("recipes/both.toml")).expect("a recipe");
    let lock = fs::read_to_string(silo.path("recipes/both.lock")).expect("a lock");
    let (amd64, arm64) = lock.split_once("[tool.both.arm64]").expect("packages of both");
    for name in ["\"hello:i386\"", "\"libc6:i386\"", "libc6", "\"zlib1g:i386\"", "zlib1g"] {
        assert!(amd64.contains(&format!("\n{name} = ")) || amd64.contains(&format!("\n\"{name}\" = ")), "{name} is not in\n{lock}");
    }
    assert!(!arm64.contains("i386"), "{arm64}");
    assert_eq!(runs_both(&silo), WORKING);
    // Another home makes the same image from the lock.
    let other = Silo::seeded();
    other.write(".silo/recipes/both.toml", &recipe);
    other.write(".silo/recipes/both.lock", &lock);
    let _ = other.ok(["install", "--quiet", "--frozen", "both"]);
    assert_eq!(silo.image_id("both"), other.image_id("both"));
    if is_root() {
        let nobody = Silo::of(As::Nobody);
        nobody.write(".silo/recipes/both.toml", &recipe);
        nobody.write(".silo/silo.toml", "mirrors.allowStale = true\n");
        nobody.write(".silo/recipes/both.lock", &lock);
        copy_downloads(&silo, &nobody);
        let _ = nobody.ok(["install", "--quiet", "--frozen", "both"]);
        assert_eq!(silo.image_id("both"), nobody.image_id("both"));
        assert_eq!(runs_both(&nobody), WORKING);
    }
}

/// The result of [`runs_both`].
const WORKING: &str =
    "Hello, world!\namd64\ni386\n--\n--\nlibc6:amd64\nlibc6:i386\n/usr/share/doc/zlib1g/copyright\nzlib1g:amd64\nzlib1g:i386\n";

/// Runs an i386 program, and dpkg over the whole image.
fn runs_both(silo: &Silo) -> String {
    let script = "hello; cat /var/lib/dpkg/arch; echo --; dpkg --audit; dpkg --verify; echo --; \
                  dpkg-query -W -f '${binary:Package}\\n' libc6; \
                  dpkg -S /usr/share/doc/zlib1g/copyright | tr -d ' ' | tr ':' '\\n' | tail -1; \
                  dpkg-query -W -f '${binary:Package}\\n' zlib1g";
    silo.ok(["both", "-c", script])
}

fn copy_downloads(from: &Silo, to: &Silo) {
    let dir = to.path("downloads");
    fs::create_dir_all(&dir).expect("our own directory");
    for file in fs::read_dir(from.path("downloads")).expect("downloads").flatten().filter(|file| file.path().is_file()) {
        let copy = dir.join(file.file_name());
        fs::copy(file.path(), &copy).expect("our own file");
        std::os::unix::fs::chown(&copy, Some(NOBODY), Some(NOBODY)).expect("root may give a file away");
    }
    std::os::unix::fs::chown(&dir, Some(NOBODY), Some(NOBODY)).expect("root may give a directory away");
}

#[test]
fn steps_run_i386_programs_if_the_image_has_them() {
    if !cfg!(target_arch = "x86_64") {
        return skip("i386 packages are for amd64 only");
    }
    let silo = Silo::seeded();
    let step = "[[steps]]\nrun = [\"sh\", \"-c\", \"hello > /root/said\"]\n";
    if !install_i386(&silo, "both", &SUITES, PACKAGES, step) {
        return;
    }
    assert_eq!(silo.ok(["both", "-c", "cat /root/said"]), "Hello, world!\n");
    assert!(Path::new(&silo.image_root("both")).join("var/lib/dpkg/arch").exists());
}

#[test]
fn impossible_architectures_are_refused() {
    let silo = Silo::seeded();
    for (package, expect) in [
        ("hello:s390x", "is for no root: foreign packages are i386 or arm64 on amd64, and armhf, armel or amd64 on arm64"),
        ("hello:amd64", "write \"name [amd64]\""),
        ("hello:i386 [arm64]", "is for no root"),
        ("hello:vax", "is not a package name"),
    ] {
        silo.write(".silo/recipes/odd.toml", &format!("[debian]\npackages = [\"{package}\"]\n"));
        let refused = silo.fails(["install", "--quiet", "odd"]);
        assert!(refused.err.contains(expect), "{package}: {refused:?}");
    }
    // What the solver refuses needs the indexes of a suite that has i386.
    silo.write(".silo/silo.toml", "mirrors.allowStale = true\n");
    for (packages, expect) in [
        (r#"["no-such-package:i386"]"#, "package no-such-package does not exist for i386"),
        (r#"["base-files", "base-files:i386"]"#, "the same package of another architecture"),
    ] {
        silo.write(".silo/recipes/odd.toml", &format!("[debian]\nsuite = \"sid\"\npackages = {packages}\n"));
        let refused = silo.fails(["install", "--quiet", "odd"]);
        assert!(refused.err.contains(expect), "{refused:?}");
    }
}

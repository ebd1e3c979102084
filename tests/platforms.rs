//! Images for another platform than this machine's: kept apart and shared without programs that run, and run in emulated machines.

use std::fs;
use std::path::Path;

use silo_base::system::Arch;
use tar::EntryType::{Directory, Regular};

use crate::support::images::{self, Layer, tar};
use crate::support::{As, Done, Silo, program, skip};

/// The architecture that this machine does not have.
fn other() -> Arch {
    Arch::ALL.into_iter().find(|arch| *arch != Arch::host()).expect("there are two")
}

/// The options that select a platform.
fn on(arch: Arch) -> [String; 2] {
    ["--platform".to_owned(), arch.platform()]
}

/// Runs a command for a platform.
fn run(silo: &Silo, arch: Arch, words: &[&str]) -> Done {
    let (command, rest) = words.split_first().expect("a command");
    let options = on(arch);
    let words: Vec<&str> = [*command].into_iter().chain(options.iter().map(String::as_str)).chain(rest.iter().copied()).collect();
    silo.run(words)
}

fn ok(silo: &Silo, arch: Arch, words: &[&str]) -> String {
    let done = run(silo, arch, words);
    assert_eq!(done.code, 0, "{words:?}: {done:?}");
    done.out
}

/// The rows of `silo list`: tool, platform and image.
fn listed(silo: &Silo) -> Vec<(String, String, String)> {
    let rows: serde_json::Value = serde_json::from_str(&silo.ok(["list", "--json"])).expect("a list");
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().expect("a text").to_owned();
    rows.as_array().expect("a list").iter().map(|row| (text(row, "tool"), text(row, "platform"), text(row, "image"))).collect()
}

/// A silo with the tool `boxed` for both platforms, made of an image of a layout; each image has a file that names its platform.
fn with_both() -> Silo {
    let silo = Silo::new();
    let layer = |arch: Arch| {
        Layer::plain(tar(&[
            (Directory, "usr/bin/", 0o755, ""),
            (Regular, "usr/bin/x-tool", 0o755, "#!/bin/sh\n"),
            (Regular, "platform", 0o644, &arch.platform()),
        ]))
    };
    let (own, foreign) = ([layer(Arch::host())], [layer(other())]);
    images::platforms(&silo.project().join("layout"), &[(Arch::host(), &own), (other(), &foreign)]);
    let reference = format!("oci:{}:v1", silo.project().join("layout").display());
    let said = ok(&silo, other(), &["install", "--quiet", "boxed", "--image", &reference]);
    assert!(said.contains(&format!("for {} installed", other().platform())), "{said}");
    assert!(!silo.path("bin/x-tool").exists(), "a shim would start a program that does not run here");
    assert_eq!(
        listed(&silo).iter().map(|(tool, platform, _)| (tool.as_str(), platform.clone())).collect::<Vec<_>>(),
        [("boxed", other().platform())]
    );
    let missing = silo.fails(["run", "--no-project", "boxed"]);
    assert!(missing.err.contains("boxed is not installed"), "{missing:?}");
    drop(silo.ok(["install", "--quiet", "boxed", "--image", &reference]));
    assert!(silo.path("bin/x-tool").exists());
    silo
}

#[test]
fn images_of_two_platforms_are_kept_apart() {
    let silo = with_both();
    let rows = listed(&silo);
    let platforms: Vec<&str> = rows.iter().map(|(_, platform, _)| platform.as_str()).collect();
    assert_eq!(platforms, [Arch::host().platform(), other().platform()], "this machine's first");
    assert_ne!(rows[0].2, rows[1].2);
    // Each is the image of its platform, for every command that reads it.
    for arch in Arch::ALL {
        let file = format!("{arch}.tar");
        let _ = ok(&silo, arch, &["export", "boxed", "--rootfs", &file]);
        let mut archive = tar::Archive::new(fs::File::open(silo.project().join(file)).expect("an export"));
        let mut entries = archive.entries().expect("a tar").flatten();
        let mut entry = entries.find(|entry| entry.path().is_ok_and(|path| path.ends_with("platform"))).expect("the file");
        assert_eq!(std::io::read_to_string(&mut entry).expect("a text"), arch.platform());
        let only: serde_json::Value = serde_json::from_str(&ok(&silo, arch, &["list", "--json"])).expect("a list");
        assert_eq!(only.as_array().map(Vec::len), Some(1), "{only}");
    }
    assert!(silo.ok(["list"]).contains(&other().platform()));
    // Neither is collected while it is installed, and one goes without the other.
    drop(silo.ok(["gc", "--all"]));
    assert_eq!(listed(&silo).len(), 2);
    let _ = ok(&silo, other(), &["export", "boxed", "--rootfs", "kept.tar"]);
    let _ = ok(&silo, other(), &["uninstall", "boxed"]);
    drop(silo.ok(["gc", "--all"]));
    assert_eq!(listed(&silo), rows[..1]);
    assert!(silo.path("bin/x-tool").exists());
    let gone = run(&silo, other(), &["export", "boxed", "--rootfs", "gone.tar"]);
    let next = format!("silo install --platform {} boxed", other().platform());
    assert!(gone.code != 0 && gone.err.contains(&next), "{gone:?}");
}

#[test]
fn images_of_two_platforms_are_pushed_under_one_tag_and_pulled_by_platform() {
    let silo = with_both();
    let to = format!("oci:{}:v1", silo.project().join("repository").display());
    for arch in Arch::ALL {
        let _ = ok(&silo, arch, &["push", "--no-sign", "boxed", &to]);
    }
    let away = Silo::new();
    for (_, platform, image) in listed(&silo) {
        let arch = Arch::of_platform(&platform).expect("a platform");
        let seen = ok(&away, arch, &["inspect", &to]);
        assert!(seen.contains(&format!("platform    {platform}\n")), "{seen}");
        let pulled: serde_json::Value = serde_json::from_str(&ok(&away, arch, &["pull", "--unsigned", "--json", &to])).expect("an object");
        assert_eq!(pulled["image"], image.as_str());
    }
}

#[test]
fn a_program_of_another_platform_needs_a_machine_and_the_error_names_it() {
    let silo = with_both();
    let refused = run(&silo, other(), &["run", "--no-project", "boxed"]);
    assert!(refused.code == 125 && refused.err.contains("silo install emulator"), "{refused:?}");
    let refused = run(&silo, other(), &["run", "--no-project", "--tier", "native", "boxed"]);
    let expect = format!("runs programs for {}, and none for {}", Arch::host().platform(), other().platform());
    assert!(refused.code == 125 && refused.err.contains(&expect), "{refused:?}");
    // A step is refused when it is to run, and the tool stays as it was.
    let before = listed(&silo);
    silo.write(
        ".silo/recipes/stepped.toml",
        &format!("image = \"oci:{}:v1\"\ncommand = [\"x-tool\"]\n[[steps]]\nrun = [\"x-tool\"]\n", silo.project().join("layout").display()),
    );
    let refused = run(&silo, other(), &["install", "--quiet", "stepped"]);
    let expect = format!("build steps for {} run in a virtual machine", other().platform());
    assert!(refused.err.contains(&expect) && refused.err.contains("silo install emulator"), "{refused:?}");
    assert_eq!(listed(&silo), before);
    let refused = run(&silo, other(), &["install", "--quiet", "--tier", "native", "stepped"]);
    assert!(refused.err.contains("and none for"), "{refused:?}");
}

#[test]
fn unknown_platforms_are_refused_with_the_known_ones() {
    let silo = Silo::new();
    for wrong in ["linux/arm", "darwin/arm64", "linux/", "", "aarch64", "linux/arm64/v8"] {
        let refused = silo.fails(["list", "--platform", wrong]);
        assert!(refused.code == 2 && refused.err.contains("linux/amd64 and linux/arm64"), "{wrong}: {refused:?}");
    }
    assert!(!Path::new(&silo.path("platforms")).exists(), "nothing is made for a name");
}

/// A program for arm64 that prints the machine's name: the fifth text of uname(2), of 65 bytes each.
fn prints_its_machine() -> Vec<u8> {
    const START: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let code: [u32; 12] = [
        0xd106_43ff, // sub sp, sp, #400
        0x9100_03e0, // mov x0, sp
        0xd280_1408, // mov x8, #160: uname
        0xd400_0001, // svc #0
        0x9104_13e1, // add x1, sp, #260
        0xd280_0020, // mov x0, #1
        0xd280_00e2, // mov x2, #7
        0xd280_0808, // mov x8, #64: write
        0xd400_0001, // svc #0
        0xd280_0000, // mov x0, #0
        0xd280_0ba8, // mov x8, #93: exit
        0xd400_0001, // svc #0
    ];
    let code: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
    let size = HEADERS + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // An executable of aarch64, with its entry after one program header and without sections.
    elf.extend([2u16, 183].iter().flat_map(|number| number.to_le_bytes()));
    elf.extend(1u32.to_le_bytes());
    elf.extend([START + HEADERS, 64, 0].iter().flat_map(|number| number.to_le_bytes()));
    elf.extend(0u32.to_le_bytes());
    elf.extend([64u16, 56, 1, 64, 0, 0].iter().flat_map(|number| number.to_le_bytes()));
    // One segment: all of the file, to read and to execute.
    elf.extend([1u32, 5].iter().flat_map(|number| number.to_le_bytes()));
    elf.extend([0, START, START, size, size, 0x1000].iter().flat_map(|number| number.to_le_bytes()));
    elf.extend(code);
    elf
}

/// A tar with one program, and the directories that a sandbox mounts over.
fn with_program(path: &str, bytes: &[u8]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut header = ::tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_mtime(1_700_000_000);
    header.set_size(bytes.len() as u64);
    builder.append_data(&mut header, path, bytes).expect("memory");
    builder.into_inner().expect("memory")
}

/// One boot of an emulated machine, without a compiler, a network or a build in it.
#[test]
fn a_program_of_another_platform_runs_in_an_emulated_machine() {
    let beside = program().with_file_name("silo-linux-aarch64");
    if Arch::host() != Arch::Amd64 {
        return skip("the program of this test is for arm64, emulated on x86-64");
    }
    if !beside.is_file() {
        return skip("silo-linux-aarch64 is not beside the program; `.ci/guest aarch64` builds it");
    }
    let silo = Silo::shared(As::Me);
    let layout = silo.project().join("layout");
    images::platforms(&layout, &[(Arch::Arm64, &[Layer::plain(with_program("usr/bin/x-tool", &prints_its_machine()))])]);
    let reference = format!("oci:{}:v1", layout.display());
    {
        let _held = Silo::hold_store();
        drop(silo.ok(["install", "--quiet", "emulator"]));
        let _ = ok(&silo, Arch::Arm64, &["install", "--quiet", "machine-name", "--image", &reference, "--shim", "machine-name:x-tool"]);
    }
    silo.offer_downloads();
    let ran = run(&silo, Arch::Arm64, &["run", "--cold", "--quiet", "--no-project", "machine-name"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "aarch64"), "{ran:?}");
}

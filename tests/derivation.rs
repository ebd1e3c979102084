//! The encoding of derivations, held still by golden files: a changed hash is a visible change.

use std::collections::BTreeMap;
use std::fmt::Write;

use silo_base::grant::Grant;
use silo_base::system::Arch;
use silo_model::derivation::{Blob, Configure, Database, Derivation, Image, Package, Repeats, Step};
use silo_store::digest::{Digest, LayerId};

use crate::support::golden;

fn digest(byte: u8) -> Digest {
    Digest::from_bytes([byte; 32])
}

fn layer(byte: u8) -> LayerId {
    LayerId::new(digest(byte))
}

/// Shows the bytes of an encoding, printable ones as they are.
fn shown(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            b'\n' => text.push_str("\\n\n"),
            0x20..=0x7e => text.push(char::from(*byte)),
            _ => write!(text, "\\x{byte:02x}").expect("writing to a string cannot fail"),
        }
    }
    text
}

/// The layers of configure steps depend on this code, and stores and caches have layers by the number of the rules.
#[test]
fn the_code_of_configure_steps_changes_with_the_number_of_its_rules() {
    let mut code = String::new();
    for file in ["scrub", "script", "conffiles", "configure", "select_packages", "split"] {
        let path = format!("{}/src/builder/{file}.rs", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).expect("our own source");
        let own = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
        code.extend(own.map(str::trim).filter(|line| !line.starts_with("//")).map(|line| format!("{line}\n")));
    }
    let rules = silo_model::derivation::rules()[1];
    // If layers change by the change of the code, raise CONFIGURE_RULES in src/model/derivation/encode.rs; then bless.
    golden("derivation/configure.rules", &format!("{rules} {}\n", Digest::of(code.as_bytes())));
}

#[test]
fn encodings_are_golden() {
    let cases = [
        ("package", Derivation::Package(Package { deb: digest(1) })),
        ("blob", Derivation::Blob(Blob { blob: digest(1), diff: digest(2), over: Vec::new() })),
        (
            "configure",
            Derivation::Configure(Configure {
                arch: Arch::Amd64,
                epoch: 1_700_000_000,
                layers: vec![layer(1), layer(2)],
                debs: vec![digest(3)],
                answers: vec![],
            }),
        ),
        (
            "configure-with-answers",
            Derivation::Configure(Configure {
                arch: Arch::Amd64,
                epoch: 1_700_000_000,
                layers: vec![layer(1)],
                debs: vec![],
                answers: vec!["tzdata tzdata/Areas select Europe".into()],
            }),
        ),
        (
            "database",
            Derivation::Database(Database {
                configured: vec![layer(4)],
                epoch: 1_700_000_000,
                layers: vec![layer(5)],
                triggers: vec![layer(6)],
            }),
        ),
        (
            "image",
            Derivation::Image(Image {
                arch: Arch::Arm64,
                epoch: -1,
                debs: vec![digest(6)],
                command: vec!["python3".into()],
                arguments: None,
                env: BTreeMap::from([("A".into(), "b c".into()), ("D".into(), "é".into())]),
                tiers: vec!["base".into()],
                steps: vec![Derivation::Package(Package { deb: digest(7) }).id()],
                outputs: BTreeMap::from([(digest(8), layer(9).digest())]),
                project: None,
                answers: vec![],
            }),
        ),
        (
            "step",
            Derivation::Step(Step {
                arch: Arch::Amd64,
                argv: vec!["pip".into(), "install".into(), "a>=2".into()],
                env: BTreeMap::from([("HOME".into(), "/root".into())]),
                epoch: 1_700_000_000,
                layers: vec![layer(1)],
                network: vec![Grant::parse("@pypi").expect("a grant")],
                project: true,
                repeats: Repeats::Nothing,
            }),
        ),
    ];
    let Some((_, Derivation::Step(step))) = cases.last() else { panic!("the last case is a step") };
    let repeating = |repeats| Derivation::Step(Step { network: Vec::new(), project: false, repeats, ..step.clone() });
    let repeating = [("step-random", repeating(Repeats::Random)), ("step-deterministic", repeating(Repeats::Machine))];
    for (name, derivation) in cases.into_iter().chain(repeating) {
        golden(&format!("derivation/{name}.drv"), &format!("{}\n", shown(&derivation.encode())));
        golden(&format!("derivation/{name}.id"), &format!("{}\n", derivation.id()));
    }
}

#[test]
fn every_field_counts() {
    let base = Configure { arch: Arch::Amd64, epoch: 0, layers: vec![layer(1), layer(2)], debs: vec![], answers: vec![] };
    let changed = [
        Configure { arch: Arch::Arm64, ..base.clone() },
        Configure { epoch: 1, ..base.clone() },
        Configure { layers: vec![layer(2), layer(1)], ..base.clone() },
        Configure { layers: vec![layer(1)], ..base.clone() },
        Configure { debs: vec![digest(1)], ..base.clone() },
    ];
    for other in changed {
        assert_ne!(Derivation::Configure(other.clone()).id(), Derivation::Configure(base.clone()).id(), "{other:?}");
    }
}

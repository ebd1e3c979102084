//! Reports about images: the pure parts with golden files, the others with installed tools.

use std::collections::BTreeSet;
use std::process::Command;

use silo_insight::change::{Aspect, PathChange};
use silo_insight::diff::render::Part;
use silo_insight::diff::{self, Side};
use silo_insight::graph::{self, Graph, Head, svg, text_formats};
use silo_insight::sbom::copyright::License;
use silo_insight::sbom::{Bill, Distribution, Item, Maintainer, Origin as SbomOrigin, cyclonedx, spdx};
use silo_insight::why::{self, Answer, Package, PathEntry, PathHistory, Subject};
use silo_insight::why_installed::{NamedPackage, Origin, Step};
use silo_store::manifest::{Manifest, Record};
use silo_store::{Digest, Index, Kind, LayerId, LayerPath};

use crate::support::{As, Silo, golden, skip};

fn id(text: &str) -> LayerId {
    LayerId::new(Digest::of(text.as_bytes()))
}

/// Builds layers from a name, a version for a package, and the names of their inputs.
fn layers(lines: &[(&str, &str, &[&str])]) -> Vec<Manifest> {
    let make = |(number, (name, version, inputs)): (usize, &(&str, &str, &[&str]))| Manifest {
        layer: id(name),
        entries: 10 + number as u64,
        bytes: 1_500_000 * (number as u64 + 1),
        record: Record {
            name: (*name).to_owned(),
            derivation: Digest::of(format!("make {name}").as_bytes()).to_string(),
            created: 0,
            duration_ms: 700 * number as u64,
            inputs: inputs.iter().map(|input| id(input).to_string()).collect(),
            packages: if version.is_empty() { Vec::new() } else { vec![format!("{name} {version}")] },
            removed: Vec::new(),
            place: String::new(),
        },
    };
    lines.iter().enumerate().map(make).collect()
}

/// Several tiers and a command on top.
fn tiers() -> Graph {
    let layers = layers(&[
        ("libc6", "2.41-12", &[]),
        ("dash", "0.5", &[]),
        ("configure base", "", &["libc6", "dash"]),
        ("python3", "3.13.5-1", &[]),
        ("configure recipe", "", &["libc6", "dash", "python3", "configure base"]),
        ("hello", "2.10-5", &[]),
        ("npm install -g <\"prettier\"> & friends", "", &["libc6", "dash", "python3", "configure recipe"]),
        ("dpkg database", "", &["configure recipe", "hello"]),
        // Made of an early layer and used by none: its arrow passes two rows.
        ("fetch certificates", "", &["configure base"]),
    ]);
    let head = Head {
        title: "tool 1.0".to_owned(),
        image: Digest::of(b"image").to_string(),
        arch: "amd64".to_owned(),
        command: "tool --quiet".to_owned(),
    };
    graph::graph(&head, &layers)
}

#[test]
fn layers_are_grouped_and_arrows_reduced() {
    let graph = tiers();
    let titles: Vec<&str> = graph.parts.iter().map(|part| part.title.as_str()).collect();
    assert_eq!(titles[..5], ["2 packages", "1 package", "1 package", "configure base", "configure recipe"]);
    // The base's packages point to its configure step only, although later steps saw them too.
    assert_eq!(graph.arrows, [(0, 3), (1, 4), (2, 6), (3, 4), (3, 7), (4, 5), (4, 6), (5, 8), (6, 8), (7, 8)]);
    golden("graph/tiers.svg", &svg::write(&graph));
    golden("graph/tiers.dot", &text_formats::dot(&graph));
    golden("graph/tiers.mmd", &text_formats::mermaid(&graph));
}

#[test]
fn bills_are_golden() {
    let item = |name: &str, version: &str, depends: Vec<usize>| Item {
        name: name.to_owned(),
        version: version.to_owned(),
        architecture: Some("amd64".to_owned()),
        origin: SbomOrigin::Distribution,
        source: Some((name.trim_end_matches('6').to_owned(), version.to_owned())),
        summary: Some("a \"summary\"".to_owned()),
        homepage: None,
        license: None,
        sha256: Some(Digest::of(name.as_bytes()).to_string()),
        depends,
    };
    let mut libc = item("libc6", "1:2.41-12+deb13u1", vec![]);
    let references = BTreeSet::from([("LicenseRef-Debian-public-domain".to_owned(), "public-domain".to_owned())]);
    libc.license = Some(License { expression: "LGPL-2.1-or-later AND LicenseRef-Debian-public-domain".to_owned(), references });
    let mut step = item("prettier", "3.0.0", vec![]);
    (step.architecture, step.source, step.sha256, step.summary) = (None, None, None, None);
    step.origin = SbomOrigin::Elsewhere(None);
    let mut local = item("ours", "1", vec![0]);
    let by = Maintainer { name: "A B".to_owned(), mail: Some("a@example.com".to_owned()) };
    (local.architecture, local.sha256, local.origin) = (Some("all".to_owned()), None, SbomOrigin::Elsewhere(Some(by)));
    let bill = Bill {
        name: "tool".to_owned(),
        version: Some("1.0".to_owned()),
        image: Digest::of(b"image"),
        arch: "amd64".to_owned(),
        date: "2026-01-01T00:00:00Z".to_owned(),
        distribution: Distribution { id: "debian".to_owned(), name: "Debian GNU/Linux".to_owned(), codename: "trixie".to_owned() },
        packages: vec![libc, item("libstdc++6", "14.2~rc1-1", vec![0]), local, step],
    };
    golden("sbom/tool.spdx.json", &format!("{:#}\n", spdx::write(&bill)));
    golden("sbom/tool.cdx.json", &format!("{:#}\n", cyclonedx::write(&bill)));
}

fn path(text: &str) -> LayerPath {
    LayerPath::parse(text.as_bytes()).expect("a path")
}

/// A file that a step changed, one that it removed, and a link.
#[test]
fn answers_are_golden() {
    let [config, command] = &layers(&[("pam", "1.7-5", &[]), ("npm install -g\n  prettier", "", &["pam"])])[..] else { unreachable!() };
    let wish = NamedPackage { package: "pam".to_owned(), file: "recipes/tool.toml".into(), line: 4, text: "pam=1.7-5".to_owned() };
    let step = Step { from: "login".to_owned(), to: "pam".to_owned(), field: "Depends", relation: "pam (>= 1.7)".to_owned() };
    let package = Package {
        name: "pam".to_owned(),
        version: "1.7-5".to_owned(),
        essential: false,
        origin: Origin { wished: Some((wish, vec![])), essential: Some(("login".to_owned(), vec![step])) },
        layer: Some(config.clone()),
    };
    let below = why::Layer { manifest: config.clone(), package: Some(package.clone()) };
    let above = why::Layer { manifest: command.clone(), package: None };
    let file = PathEntry { kind: Kind::File, mode: 0o644, size: 1_234_567, target: None };
    let link = PathEntry { kind: Kind::Symlink, mode: 0o777, size: 0, target: Some("usr/etc".to_owned()) };
    let thing = |at: &str, stands: Option<PathEntry>, deeds: Vec<(why::Layer, PathChange)>| PathHistory {
        path: path(at),
        on_the_way: at == "etc",
        stands,
        deeds,
        package: Some(package.clone()),
    };
    let changed = PathChange::Changed(vec![Aspect::Content, Aspect::Mode]);
    let things = vec![
        thing("etc", Some(link), vec![(below.clone(), PathChange::Made)]),
        thing("etc/pam.conf", Some(file), vec![(below.clone(), PathChange::Made), (above.clone(), changed)]),
        thing("etc/pam.d", None, vec![(below.clone(), PathChange::Made), (above.clone(), PathChange::Removed)]),
    ];
    let answers = [Subject::Path(things), Subject::Package(Box::new(package)), Subject::Layer(Box::new(above))];
    let answers: Vec<Answer> = answers.into_iter().map(|about| Answer { place: "tool 1.0".to_owned(), about }).collect();
    let texts: Vec<String> = answers.iter().map(why::render::text).collect();
    golden("insight/why.txt", &texts.join("\n"));
    let json: Vec<String> = answers.iter().map(|answer| format!("{:#}\n", why::render::json(answer))).collect();
    golden("insight/why.json", &json.concat());
}

#[test]
fn differences_are_golden() {
    let index = |lines: &str| Index::parse(format!("silo-index 1\n{lines}").as_bytes()).expect("an index");
    let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
    let side = |title: &str, command: &str, packages: &[(&str, &str)], lines: &str| Side {
        title: title.to_owned(),
        settings: [("command", command.to_owned()), ("architecture", "amd64".to_owned())].into(),
        packages: packages.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect(),
        index: index(lines),
    };
    let a = side(
        "tool 1.0 (image aaaaaaaaaaaa)",
        "tool",
        &[("libc6", "2.41-12"), ("old", "1")],
        &format!(
            "d 0755 0 0 etc\nf 0644 0 0 1 10 {one} etc/a\nf 0644 0 0 1 1 {one} etc/b\nl 0 0 lib usr/lib\nd 0755 0 0 old\nf 0644 0 0 1 5000 {one} old/x\n"
        ),
    );
    let b = side(
        "tool 1.1 (image bbbbbbbbbbbb)",
        "tool --new",
        &[("libc6", "2.41-13"), ("new", "1")],
        &format!(
            "d 0755 0 0 etc\nf 0600 0 5 2 20 {two} etc/a\nd 0755 0 0 etc/b\nl 0 0 lib usr/lib64\nl 0 0 new a%20b\nf 0644 0 0 1 7000 {one} old\n"
        ),
    );
    let difference = diff::diff(&a, &b);
    let texts = [Part::Outline, Part::Packages, Part::Paths].map(|part| diff::render::text(&a, &b, &difference, part));
    golden("insight/diff.txt", &texts.join("\n---\n"));
    golden("insight/diff.json", &format!("{:#}\n", diff::render::json(&a, &b, &difference, Part::Outline)));
    assert!(diff::diff(&a, &a).is_empty());
    assert!(Part::Packages.of(diff::diff(&a, &b)).paths.is_empty());
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).expect("--json prints JSON")
}

#[test]
fn a_path_is_explained_down_to_the_line_of_the_recipe() {
    let silo = Silo::shared(As::Me);
    let said = silo.ok(["why", "/usr/bin/python3"]);
    let recipe = include_str!("../recipes/python.toml");
    let line = recipe.lines().position(|line| line.starts_with("packages = ")).expect("it has packages") + 1;
    let wanted = format!("wanted by   recipes/python.toml:{line}: \"python3\"\n");
    for part in [
        "/usr/bin/python3 is a symbolic link to python3.13\n",
        "(package python3-minimal 3.13.",
        &wanted,
        "python3 -> python3-minimal  (Pre-Depends: python3-minimal (= 3.13.",
        "\n/usr/bin/python3.13 is a file of ",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(silo.ok(["why", "python", "/usr/bin/python3"]), said);
    assert_eq!(silo.ok(["why", "/usr/bin/python3", "--tool", "python"]), said);
    let answer = json(&silo.ok(["why", "python", "/etc/passwd", "--json"]));
    assert_eq!(answer["path"][0]["layers"][0]["name"], "configure base", "{answer}");
    assert_eq!(answer["path"][0]["package"], serde_json::Value::Null, "{answer}");
}

#[test]
fn packages_and_layers_are_explained() {
    let silo = Silo::shared(As::Me);
    let package = json(&silo.ok(["why", "sh", "libc6", "--json"]));
    assert_eq!(package["package"]["essential"]["chain"][0]["to"], "libc6", "{package}");
    let id = package["package"]["layer"].as_str().expect("libc6 is a layer");
    assert!(silo.ok(["why", "sh", &id[..12]]).contains("package     libc6 "));
    assert!(silo.ok(["why", "sh", "awk"]).contains("awk is provided by mawk"));
    let done = silo.fails(["why", "dash"]);
    assert!(done.err.contains("hint: silo why dash --tool python"), "{done:?}");
    let done = silo.fails(["why", "python", "/opt/pip3"]);
    assert!(done.err.contains("/opt/pip3 is not in python 3.13.") && done.err.contains("there is /usr/bin/pip3"), "{done:?}");
    let done = silo.fails(["why", "python", "pyton3"]);
    assert!(done.err.contains("did you mean \"python3\"?"), "{done:?}");
    let done = silo.fails(["why", "pyton", "/bin/sh"]);
    assert!(done.err.contains("did you mean \"python\"?"), "{done:?}");
}

#[test]
fn images_and_layers_are_compared() {
    let silo = Silo::shared(As::Me);
    assert_eq!(silo.ok(["diff", "python", "python"]), "");
    let done = silo.run(["diff", "python", "sh"]);
    assert_eq!(done.code, 1, "{done:?}");
    for part in ["  ~ command python3 -> sh\n", "  - python3-minimal 3.13.", "/usr/lib/python3.13/  1", "--paths lists every path"] {
        assert!(done.out.contains(part), "{part}: {done:?}");
    }
    let packages = json(&silo.run(["diff", "sh", "python", "--packages", "--json"]).out);
    assert!(packages["paths"].is_null() && packages["packages"].as_array().is_some_and(|list| list.len() > 10), "{packages}");
    let paths = silo.run(["diff", "sh", "python", "--paths"]);
    assert!(paths.out.contains("\n  + /usr/bin/python3  -> python3.13\n"), "{paths:?}");
    let layer = json(&silo.ok(["why", "sh", "dash", "--json"]))["package"]["layer"].as_str().expect("a layer").to_owned();
    assert_eq!(silo.ok(["diff", &layer, &layer[..20]]), "");
    assert_eq!(silo.run(["diff", "sh", "nothing"]).code, 2);
}

#[test]
fn the_ending_of_a_file_names_the_format_of_a_graph() {
    let silo = Silo::shared(As::Me);
    for (name, beginning) in [("g.svg", "<svg"), ("g.DOT", "digraph"), ("g.mmd", "flowchart"), ("g.json", "{"), ("g", "<svg")] {
        let path = silo.project().join(name);
        let _ = silo.ok(["graph", "sh", "-o", &path.to_string_lossy()]);
        let text = std::fs::read_to_string(&path).expect("written");
        assert!(text.trim_start().starts_with(beginning), "{name}: {}", &text[..60.min(text.len())]);
    }
    let path = silo.project().join("g.png");
    let refused = silo.run(["graph", "sh", "-o", &path.to_string_lossy()]);
    assert!(refused.code == 2 && refused.err.contains(".png") && refused.err.contains("--format") && !path.exists(), "{refused:?}");
    let _ = silo.ok(["graph", "sh", "--format", "dot", "-o", &path.to_string_lossy()]);
    let tool = silo.run(["why", "python"]);
    assert!(tool.code != 0 && tool.err.contains("the name of a tool"), "{tool:?}");
}

#[test]
fn logs_are_listed_and_shown() {
    let silo = Silo::shared(As::Me);
    assert!(silo.ok(["log"]).contains("configure recipe, last  of python\n"));
    assert!(silo.ok(["log", "python"]).contains("postinst of base-files") || silo.ok(["log", "python"]).contains("preinst of base-files"));
    // First the paths: a test beside may add a log.
    let paths = silo.ok(["log", "python", "--path"]);
    let logs = silo.ok(["log", "python"]);
    for path in paths.lines() {
        assert!(logs.contains(&std::fs::read_to_string(path).expect("a log")), "{path}");
    }
    let done = silo.fails(["log", "cafe"]);
    assert!(done.err.contains("`silo log` lists the logs"), "{done:?}");
    assert_eq!(Silo::new().ok(["log"]), "");
}

/// A public validator finds the NTIA's minimum elements in the SBOM of an image with a distribution package and an unpackaged file.
#[test]
fn bills_have_the_minimum_elements() {
    let silo = Silo::seeded();
    let dir = silo.project();
    let venv = dir.join("venv");
    let made = Command::new("python3").args(["-m", "venv"]).arg(&venv).output();
    if !made.is_ok_and(|made| made.status.success()) {
        return skip("python3 makes no virtual environment here");
    }
    // With the caller's own configuration of pip.
    let fetched =
        Command::new(venv.join("bin/pip")).args(["install", "--quiet", "ntia-conformance-checker"]).output().expect("it is there");
    if !fetched.status.success() {
        return skip("ntia-conformance-checker of @pypi cannot be had");
    }
    let script = "cd /tmp && mkdir -p p/DEBIAN p/opt && echo x > p/opt/f && printf 'Package: ours\\nVersion: 1\\nArchitecture: all\\nMaintainer: A B <x@example.com>\\nDescription: d\\n' > p/DEBIAN/control && dpkg-deb -b p && dpkg -i p.deb";
    silo.write(".silo/recipes/ours.toml", &format!("command = [\"sh\"]\nsteps = [\"{script}\"]\n[debian]\npackages = [\"mawk\"]\n"));
    let _ = silo.ok(["install", "--quiet", "ours"]);
    let _ = silo.ok(["sbom", "ours", "-o", "bill.json"]);
    let checked =
        Command::new(venv.join("bin/ntia-checker")).args(["--comply", "ntia"]).arg(dir.join("bill.json")).output().expect("it runs");
    let said = String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success() && said.contains("True") && !said.contains("False"), "{said}");
    let bill = std::fs::read_to_string(dir.join("bill.json")).expect("a bill");
    assert!(bill.contains("pkg:generic/ours@1?arch=all") && bill.contains("Person: A B (x@example.com)"), "{bill}");
    assert!(bill.contains("pkg:deb/debian/mawk@") && !bill.contains("pkg:deb/debian/ours"), "{bill}");
}

#[test]
fn images_are_drawn_and_listed_alike_each_time() {
    let silo = Silo::shared(As::Me);
    let picture = silo.ok(["graph", "python"]);
    assert!(picture.contains("How python 3.13.") && picture.contains(">python3-pip<"), "{picture}");
    for format in ["svg", "dot", "mermaid", "json"] {
        assert_eq!(silo.ok(["graph", "python", "--format", format]), silo.ok(["graph", "python", "--format", format]));
    }
    let _ = silo.ok(["graph", "sh", "--format", "dot", "-o", "sh.dot"]);
    assert!(std::fs::read_to_string(silo.project().join("sh.dot")).expect("a drawing").starts_with("digraph"));
    let installed = silo.installed("python").image.layers.len();
    for (format, list) in [("spdx", "packages"), ("cyclonedx", "components")] {
        let bill = silo.ok(["sbom", "python", "--format", format]);
        assert_eq!(bill, silo.ok(["sbom", "python", "--format", format]));
        let packages = json(&bill)[list].as_array().expect("a list").len();
        // All layers but those of the five configure steps, the recipe's step and dpkg's database are packages; SPDX lists the image too.
        assert!(packages + 7 >= installed, "{packages} of {installed}");
        assert!(bill.contains("pkg:deb/debian/python3-minimal@3.13.") && bill.contains("&distro=trixie"), "{format}");
    }
    let done = silo.fails(["sbom", "pyton"]);
    assert!(done.err.contains("did you mean \"python\"?"), "{done:?}");
}

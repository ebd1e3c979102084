//! Roots of many packages on several suites equal mmdebstrap's: paths, owners, modes, capabilities and contents.
//!
//! The test compares one set. `.ci/oracle` compares all of them on all suites.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use crate::oracle;
use crate::support::mmdebstrap::Order;
use crate::support::{self, As, Silo};

/// Packages with accounts, owners, set-id programs, capabilities, caches, alternatives and generated secrets.
const SETS: [&str; 40] = [
    "nginx",
    "apache2",
    "redis-server",
    "postgresql",
    "mariadb-server",
    "bind9",
    "unbound",
    "dnsmasq",
    "haproxy",
    "squid",
    "memcached",
    "rabbitmq-server",
    "munge",
    "prosody",
    "dovecot-imapd",
    "postfix",
    "exim4-daemon-light",
    "freeradius",
    "ssl-cert",
    "open-iscsi",
    "nvme-cli",
    "popularity-contest",
    "nslcd",
    "iputils-ping fping mtr-tiny libcap2-bin",
    "systemd-sysv",
    "dbus",
    "sudo at plocate screen",
    "cron logrotate rsyslog",
    "openssh-server",
    "slapd",
    "fontconfig fonts-dejavu-core",
    "man-db",
    "tcpdump openvpn",
    "xrdp",
    "gnupg",
    "vim-tiny nano less",
    "php-cli",
    "ruby",
    "git perl python3",
    "dictionaries-common wamerican",
];

const SUITES: [&str; 3] = ["bookworm", "trixie", "forky"];

/// The set that the test compares without a selection, each with its suite.
const USUAL: [(&str, &str); 1] = [("trixie", "iputils-ping fping mtr-tiny libcap2-bin")];

/// A selection from the environment: `all`, or the beginnings of `SUITE/PACKAGES`, separated by commas.
fn selected() -> Vec<(&'static str, &'static str)> {
    let Some(wanted) = std::env::var("SILO_ORACLE").ok().filter(|wanted| !wanted.is_empty()) else { return USUAL.to_vec() };
    let all = SUITES.iter().flat_map(|suite| SETS.iter().map(move |set| (*suite, *set)));
    let is_wanted = |(suite, set): &(&str, &str)| {
        let name = format!("{suite}/{set}");
        wanted == "all" || wanted.split(',').any(|wanted| name.starts_with(wanted))
    };
    all.filter(is_wanted).collect()
}

/// The result of a comparison.
enum Verdict {
    Same,
    /// All differences are those of rules about this set alone, with these reasons.
    Explained(String),
    Different(String),
    /// The suite has no such package.
    Absent(String),
}

#[test]
fn mmdebstrap_makes_the_same_roots_of_package_sets() {
    if !oracle::can_compare() {
        return;
    }
    let chosen = selected();
    assert!(!chosen.is_empty(), "SILO_ORACLE selects no set");
    // One line a set; a set with a line is not compared again.
    let results = std::env::var_os("SILO_ORACLE_RESULTS").map(PathBuf::from);
    let silo = Silo::of(As::Me);
    silo.seed_downloads();
    // A mirror may hold an old index of a suite that is not released yet.
    silo.write(".silo/silo.toml", "[mirrors]\nallowStale = true\n");
    let mut wrong = String::new();
    for (suite, set) in chosen {
        let known = results.as_ref().and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        if known.lines().any(|line| line.starts_with(&format!("{suite}\t{set}\t"))) {
            continue;
        }
        let began = Instant::now();
        let verdict = compare(&silo, suite, set);
        let seconds = began.elapsed().as_secs();
        let (word, why) = match &verdict {
            Verdict::Same => ("same", ""),
            Verdict::Explained(why) => ("explained", why.as_str()),
            Verdict::Different(why) => ("DIFFERENT", why.as_str()),
            Verdict::Absent(why) => ("absent", why.as_str()),
        };
        support::report(&format!("{word:<9} {suite}/{set} {seconds} s"));
        if let Some(path) = &results {
            let line = format!("{suite}\t{set}\t{word}\t{seconds}\t{}\n", why.trim_end().replace('\n', "; ").replace('\t', " "));
            let mut file = OpenOptions::new().create(true).append(true).open(path).expect("a file for results");
            file.write_all(line.as_bytes()).expect("a file for results");
        }
        if let Verdict::Different(why) = verdict {
            wrong.push_str(&format!("{suite}/{set}:\n{why}\n"));
        }
    }
    assert!(wrong.is_empty(), "silo's roots differ from mmdebstrap's:\n{wrong}");
}

fn compare(silo: &Silo, suite: &str, set: &str) -> Verdict {
    let first = set.split(' ').next().expect("a set has a package");
    let (tool, name) = (format!("{suite}-{first}"), format!("{suite}/{first}"));
    let packages = set.replace(' ', "\", \"");
    silo.write(
        &format!(".silo/recipes/{tool}.toml"),
        &format!("command = [\"sh\"]\n[debian]\nsuite = \"{suite}\"\npackages = [\"dash\", \"{packages}\"]\n"),
    );
    let done = silo.run(["install", "--quiet", &tool]);
    if done.code != 0 {
        let why = done.err.lines().next().unwrap_or_default();
        return match why.split_once(": package ").filter(|(_, why)| why.contains("does not exist")) {
            Some((_, why)) => Verdict::Absent(why.to_owned()),
            None => Verdict::Different(format!("it cannot be installed: {}", done.err)),
        };
    }
    silo.offer_downloads();
    let links = if suite == "bookworm" { &oracle::MERGED[..] } else { &[] };
    let (used, mut left) = oracle::compared(silo, &tool, &["sets", &name], Order::EssentialFirst, links);
    let (needed, unneeded) = oracle::reasons_of(&name, &used);
    for reason in unneeded {
        left.push_str(&format!("a difference that is no more: {reason}\n"));
    }
    match () {
        () if !left.is_empty() => Verdict::Different(left),
        () if !needed.is_empty() => Verdict::Explained(needed.join(" ")),
        () => Verdict::Same,
    }
}

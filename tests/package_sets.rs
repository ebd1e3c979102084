//! Roots of many packages on several suites equal mmdebstrap's: paths, owners, modes, capabilities and contents.
//!
//! The test compares one set. `.ci/oracle` compares all of them on all suites.

use crate::oracle;
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

#[test]
fn mmdebstrap_makes_the_same_roots_of_package_sets() {
    if !oracle::can_compare() {
        return;
    }
    let mut wrong = String::new();
    let chosen = selected();
    assert!(!chosen.is_empty(), "SILO_ORACLE selects no set");
    for (suite, set) in chosen {
        let silo = Silo::of(As::Me);
        silo.seed_downloads();
        // A mirror may hold an old index of a suite that is not released yet.
        silo.write(".silo/silo.toml", "[mirrors]\nallowStale = true\n");
        let packages = set.replace(' ', "\", \"");
        silo.write(
            ".silo/recipes/set.toml",
            &format!("command = [\"sh\"]\n[debian]\nsuite = \"{suite}\"\npackages = [\"dash\", \"{packages}\"]\n"),
        );
        let done = silo.run(["install", "--quiet", "set"]);
        let left = if done.code == 0 {
            let links = if suite == "bookworm" { &oracle::MERGED[..] } else { &[] };
            oracle::compared(&silo, "set", "sets", links).1
        } else {
            format!("it cannot be installed: {}", done.err)
        };
        silo.offer_downloads();
        support::report(&format!("{} {suite}/{set}", if left.is_empty() { "same     " } else { "DIFFERENT" }));
        if !left.is_empty() {
            wrong.push_str(&format!("{suite}/{set}:\n{left}\n"));
        }
    }
    assert!(wrong.is_empty(), "silo's roots differ from mmdebstrap's:\n{wrong}");
}

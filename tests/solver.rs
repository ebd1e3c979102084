//! The resolver against apt itself: random package sets on real indexes, `apt-get install` as the oracle.
//!
//! Both sides start from an empty system and are given the same list: the essential packages by name, then the random
//! ones. Both must give the same set of name=version, or both must refuse. The indexes are those of this machine's own
//! mirror, verified with our keyring by apt *and* by us.
//!
//! Variables: `SILO_SOLVER_SETS` (how many sets an architecture, 30), `SILO_SOLVER_SEED` (the first seed, 1),
//! `SILO_SOLVER_ARCH` (one architecture only), `SILO_SOLVER_UPDATE` (fetch the lists again).

#![allow(clippy::print_stderr, reason = "a skipped test says so aloud, and the counts are wanted in the log")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest, Sha256};
use silo_resolve::keyring::Keyring;
use silo_resolve::packages::{self, Index};
use silo_resolve::solve::{Request, solve, wanted};
use silo_resolve::{release, signature};

const SUITES: [&str; 3] = ["trixie", "trixie-updates", "trixie-security"];

/// Sets an architecture in the gate. apt-get takes a second for each.
const DEFAULT_SETS: u64 = 30;

/// Popular packages; half of the random names come from here, a third from the whole archive.
const EVERYDAY: &str = "python3 python3-pip python3-venv python3-dev python3-numpy python3-requests nodejs npm git git-lfs curl wget \
    ca-certificates build-essential gcc g++ clang llvm cmake ninja-build meson make autoconf automake libtool pkg-config gdb strace ltrace \
    valgrind rustc cargo golang-go openjdk-21-jdk default-jre maven gradle ruby ruby-dev perl php php-cli lua5.4 r-base ghc erlang elixir sqlite3 \
    postgresql mariadb-server redis-server nginx apache2 openssh-client openssh-server rsync tmux screen vim neovim emacs-nox nano less \
    jq ripgrep fd-find fzf bat htop procps iproute2 iputils-ping dnsutils net-tools tcpdump nmap socat netcat-openbsd unzip zip xz-utils \
    zstd p7zip-full file tree man-db locales tzdata sudo systemd systemd-sysv dbus cron logrotate rsyslog docker.io podman buildah \
    skopeo qemu-system-x86 qemu-utils ffmpeg imagemagick ghostscript graphviz gnuplot pandoc texlive-latex-base texlive-xetex \
    libreoffice-writer firefox-esr chromium xvfb xauth mutt exim4 postfix mailutils bash-completion zsh fish shellcheck gnupg \
    libssl-dev libcurl4-openssl-dev zlib1g-dev libffi-dev libxml2-dev libpq-dev libsqlite3-dev libgl1-mesa-dri libgtk-3-dev qt6-base-dev \
    openmpi-bin libopenblas-dev gfortran octave julia wine fonts-dejavu fontconfig hunspell aspell wamerican mate-desktop xfce4 task-ssh-server";

/// Packages that exclude each other, conflict through provided names or provide the same; every sixth name is of these.
const RIVALS: &str = "sysvinit-core systemd-sysv openrc runit-init init postfix exim4-daemon-light exim4-daemon-heavy sendmail-bin nullmailer \
    msmtp-mta opensmtpd ssmtp default-mta resolvconf openresolv systemd-resolved libcurl4-gnutls-dev libcurl4-openssl-dev gawk mawk original-awk \
    netcat-traditional netcat-openbsd inetutils-inetd openbsd-inetd xinetd chrony ntpsec systemd-timesyncd busybox busybox-static lightdm gdm3 \
    sddm xdm pulseaudio pipewire-pulse pipewire-alsa mariadb-server percona-server-server libjack0 libjack-jackd2-0 libmariadb-dev-compat \
    default-libmysqlclient-dev apache2-bin elogind libpam-elogind libpam-systemd dbus-user-session dbus-x11 vim-tiny vim-gtk3 vim-nox emacs-gtk \
    emacs-nox libblas3 libopenblas0-openmp libopenblas0-pthread libatlas3-base libpmix-dev mpich libopenmpi-dev unbound bind9 dnsmasq \
    network-manager connman ifupdown ifupdown2 ifupdown-ng isc-dhcp-client dhcpcd-base udhcpc klogd inetutils-syslogd busybox-syslogd \
    syslog-ng-core rsyslog cron cronie bcron systemd-cron anacron gnupg2 gpgv-sq gpgv sqv coreutils rust-coreutils sudo sudo-ldap php-fpm \
    libapache2-mod-php php-cgi python3-pil python3-pycryptodome python3-crypto tk tcl tcl-dev libpng-dev libjpeg62-turbo-dev libjpeg-dev \
    libtiff-dev liblua5.4-dev guile-3.0-dev libgc-dev manpages-dev libelf-dev libunwind-dev libc++-19-dev libc++-18-dev libclc-19 clang-19 \
    libnode-dev nodejs grub-pc grub-efi-amd64 grub-efi-arm64 lilo initramfs-tools dracut tiny-initramfs linux-image-amd64 linux-image-arm64 \
    samba winbind heimdal-kdc krb5-kdc libkrb5-dev heimdal-dev ldap-utils libgdal-dev libhdf5-dev libhdf5-openmpi-dev libhdf5-mpich-dev \
    libfftw3-dev tomcat10 jetty12 default-jre-headless ca-certificates-java rustup cargo rustc golang-go gccgo-go ruby-full npm yarnpkg";

/// Of this many sets at most one may differ for a reason that [`explain`] knows, so that no new fault hides behind it.
const EXPLAINED_AT_MOST_ONE_IN: usize = 20;

#[test]
fn agrees_with_apt() {
    let architectures = match variable("SILO_SOLVER_ARCH") {
        Some(one) => vec![one],
        None => vec!["amd64".to_owned(), "arm64".to_owned()],
    };
    for architecture in architectures {
        let Some(apt) = Apt::new(&architecture) else { return };
        compare(&apt, &architecture);
    }
}

/// Runs all sets of one architecture and fails with the list of unexplained differences.
fn compare(apt: &Apt, architecture: &str) {
    apt.verify_lists();
    let texts = apt.lists();
    let indexes: Vec<Index<'_>> = texts.iter().map(|text| packages::parse(text).expect("real index")).collect();
    let names: Vec<&str> = indexes[0].packages.iter().map(|package| package.name).collect();
    let known = |list: &'static str| -> Vec<&'static str> { list.split_whitespace().filter(|name| names.contains(name)).collect() };
    let (everyday, rivals) = (known(EVERYDAY), known(RIVALS));
    let essential: BTreeSet<&str> = indexes[0].packages.iter().filter(|p| p.essential).map(|p| p.name).collect();
    let first = variable("SILO_SOLVER_SEED").and_then(|text| text.parse().ok()).unwrap_or(1);
    let count: u64 = variable("SILO_SOLVER_SETS").and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_SETS);

    let (next, agreed, refused) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let differences = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = first + next.fetch_add(1, Ordering::Relaxed) as u64;
                    if seed >= first + count {
                        return;
                    }
                    let set = Random(seed).set(&[&everyday, &everyday, &everyday, &rivals, &names, &names]);
                    let list: Vec<&str> = essential.iter().chain(&set).copied().collect();
                    let theirs = apt.install(&list);
                    if seed.is_multiple_of(10) {
                        assert_eq!(apt.simulate(&list).ok(), theirs.clone().ok(), "apt-get -s against --print-uris");
                    }
                    let request = Request {
                        architectures: vec![architecture],
                        packages: set.iter().map(|name| wanted(name).expect("a name")).collect(),
                        added: Vec::new(),
                        build: Vec::new(),
                        recommends: false,
                        include_essential: true,
                    };
                    let ours: Result<BTreeSet<String>, String> = match solve(&indexes, &request) {
                        Ok(solution) => Ok(solution.packages.iter().map(|(p, _)| format!("{}={}", p.name, p.version)).collect()),
                        Err(error) => Err(error.to_string()),
                    };
                    match difference(&ours, &theirs) {
                        None if ours.is_err() => refused.fetch_add(1, Ordering::Relaxed),
                        None => agreed.fetch_add(1, Ordering::Relaxed),
                        Some(text) => {
                            let why = explain(apt, &ours, &theirs);
                            let mut differences = differences.lock().expect("no panic holds it");
                            differences.push((why, format!("seed {seed}: {}\n{text}", set.join(" "))));
                            0
                        }
                    };
                }
            });
        }
    });
    let differences = differences.into_inner().expect("no panic holds it");
    let unexplained: Vec<&str> = differences.iter().filter(|(why, _)| why.is_none()).map(|(_, text)| text.as_str()).collect();
    eprintln!(
        "{architecture}: {count} sets from seed {first}: {} agree, {} refused by both, {} explained, {} unexplained",
        agreed.into_inner(),
        refused.into_inner(),
        differences.len() - unexplained.len(),
        unexplained.len()
    );
    for (why, text) in differences.iter().filter_map(|(why, text)| why.map(|why| (why, text))) {
        eprintln!("explained ({why}): {text}");
    }
    assert!(unexplained.is_empty(), "{architecture}: {}", unexplained.join("\n"));
    assert!(differences.len() <= 1 + count as usize / EXPLAINED_AT_MOST_ONE_IN, "{architecture}: too many explained differences");
}

fn difference(ours: &Result<BTreeSet<String>, String>, theirs: &Result<BTreeSet<String>, String>) -> Option<String> {
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) if ours == theirs => None,
        (Err(_), Err(_)) => None,
        (Ok(ours), Ok(theirs)) => {
            let list = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect::<Vec<_>>().join(" ");
            Some(format!("  ours only: {}\n  apt only: {}", list(ours, theirs), list(theirs, ours)))
        }
        (Ok(ours), Err(theirs)) => Some(format!("  ours: {} packages\n  apt refuses: {theirs}", ours.len())),
        (Err(ours), Ok(theirs)) => Some(format!("  ours refuses: {ours}\n  apt: {} packages", theirs.len())),
    }
}

/// Explains a correct difference. In each case apt itself is the judge: if given our set package by package, it
/// must install exactly that.
fn explain(apt: &Apt, ours: &Result<BTreeSet<String>, String>, theirs: &Result<BTreeSet<String>, String>) -> Option<&'static str> {
    let ours = ours.as_ref().ok()?;
    let why = match theirs {
        // Its second stage (the scored one) does not try all combinations; a solver does.
        Err(_) => "apt gives up where there is a solution",
        // Packages that the walk marked for a failed alternative stay, if anything in the set happens to suggest them.
        Ok(theirs) if ours.is_subset(theirs) => "apt keeps leftovers of an abandoned alternative",
        Ok(_) => return None,
    };
    let list: Vec<&str> = ours.iter().map(String::as_str).collect();
    (apt.install(&list).as_ref() == Ok(ours)).then_some(why)
}

/// An apt of its own: own sources, own lists, nothing installed.
struct Apt {
    home: PathBuf,
    config: PathBuf,
}

impl Apt {
    /// Makes the state directory and fetches the lists, once; says why it cannot.
    fn new(architecture: &str) -> Option<Apt> {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("apt-{architecture}"));
        let apt = Apt { config: home.join("apt.conf"), home };
        for directory in ["lists/partial", "cache/archives/partial", "sources", "none"] {
            fs::create_dir_all(apt.home.join(directory)).expect("target directory is ours");
        }
        let Some(sources) = sources(architecture) else {
            crate::support::skip("no apt-get here, or it has no Debian mirror");
            return None;
        };
        let home = apt.home.display();
        let config = format!(
            "Dir::State \"{home}\"; Dir::State::status \"{home}/status\"; Dir::State::Lists \"{home}/lists\"; Dir::Cache \"{home}/cache\";\n\
             Dir::Cache::pkgcache \"pkgcache.bin\"; Dir::Cache::srcpkgcache \"srcpkgcache.bin\"; Dir::Etc::SourceList \"/dev/null\";\n\
             Dir::Etc::SourceParts \"{home}/sources\"; Dir::Etc::Main \"/dev/null\"; Dir::Etc::Parts \"{home}/none\"; Dir::Etc::Preferences \"/dev/null\";\n\
             Dir::Etc::PreferencesParts \"{home}/none\"; APT::Architecture \"{architecture}\"; APT::Architectures {{ \"{architecture}\"; }};\n\
             Acquire::Languages \"none\"; Acquire::GzipIndexes \"false\"; APT::Solver \"internal\";\n"
        );
        fs::write(&apt.config, &config).expect("target directory is ours");
        fs::write(apt.home.join("status"), "").expect("target directory is ours");
        fs::write(apt.home.join("sources/silo.sources"), sources).expect("target directory is ours");
        if (variable("SILO_SOLVER_UPDATE").is_some() || apt.list_files().len() < SUITES.len()) && !apt.update(&config) {
            crate::support::skip("apt-get update does not work here");
            return None;
        }
        if apt.list_files().len() < SUITES.len() {
            crate::support::skip("apt-get update brought no lists");
            return None;
        }
        Some(apt)
    }

    /// Fetches the lists. Here the machine's own settings count too (proxy, clock), so ours come on the command line.
    fn update(&self, config: &str) -> bool {
        let mut command = Command::new("apt-get");
        for setting in config.replace("{ ", "").replace("; }", "").split([';']).map(str::trim).filter(|setting| !setting.is_empty()) {
            let (key, value) = setting.split_once(' ').expect("every setting has a value");
            if !["Dir::Etc::Main", "Dir::Etc::Parts", "APT::Architectures"].contains(&key) {
                command.arg("-o").arg(format!("{key}={}", value.trim_matches('"')));
            }
        }
        // The download itself drops to an account that may not enter the target directory.
        command.args(["-o", "APT::Sandbox::User=root", "-qq", "update"]);
        command.stdin(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    /// Finds the fetched lists in the order of the suites.
    fn list_files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for suite in SUITES {
            let marker = format!("_dists_{suite}_main_binary-");
            let entries = fs::read_dir(self.home.join("lists")).expect("just made");
            let mut paths = entries.map(|entry| entry.expect("readable").path());
            files.extend(paths.find(|path| path.to_string_lossy().contains(&marker) && path.to_string_lossy().ends_with("_Packages")));
        }
        files
    }

    fn lists(&self) -> Vec<Vec<u8>> {
        self.list_files().iter().map(|path| fs::read(path).expect("apt has written it")).collect()
    }

    /// Verifies the fetched lists as the fetcher will: signature, table, digest.
    fn verify_lists(&self) {
        let keyring = Keyring::parse(&fs::read(keyring_path()).expect("in the tree")).expect("our own keyring");
        for (suite, list) in SUITES.iter().zip(self.list_files()) {
            let (stem, index) = list.to_str().and_then(|path| path.split_once("_main_")).expect("found by this name");
            let inrelease = fs::read(format!("{stem}_InRelease")).expect("apt keeps it beside the list");
            let verified = signature::verify(&inrelease, &keyring, 0).expect("a Debian key has signed it");
            let release = release::parse(&verified.text).expect("real Release file");
            assert_eq!(release.codename, *suite);
            let file = release.files[&format!("main/{}", index.replace('_', "/"))];
            let text = fs::read(&list).expect("apt has written it");
            assert_eq!((text.len() as u64, <[u8; 32]>::from(Sha256::digest(&text))), (file.size, file.sha256), "{suite}");

            let tampered = String::from_utf8(inrelease).expect("text").replacen("Codename: ", "Codename: x", 1);
            let error = signature::verify(tampered.as_bytes(), &keyring, 0).expect_err("tampered");
            assert!(matches!(error, signature::Error::BadSignature { .. }), "{error}");
        }
    }

    /// Asks apt for its selection. It lists the downloads, which is the same set as that of `-s` and four times
    /// quicker, as apt need not work out the order of unpacking.
    fn install(&self, names: &[&str]) -> Result<BTreeSet<String>, String> {
        let output = self.run("--print-uris", names)?;
        let files = output.lines().filter_map(|line| line.split_whitespace().nth(1)?.strip_suffix(".deb"));
        Ok(files.map(|file| file.split('_').take(2).collect::<Vec<_>>().join("=").replace("%3a", ":")).collect())
    }

    /// Asks apt for the simulated installation itself.
    fn simulate(&self, names: &[&str]) -> Result<BTreeSet<String>, String> {
        let output = self.run("-s", names)?;
        let installed = output.lines().filter_map(|line| line.strip_prefix("Inst "));
        Ok(installed.map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join("=").replace("(", "")).collect())
    }

    fn run(&self, mode: &str, names: &[&str]) -> Result<String, String> {
        let mut command = Command::new("apt-get");
        command.env("APT_CONFIG", &self.config).env("LC_ALL", "C").stdin(Stdio::null());
        command.args([mode, "-qq", "--no-install-recommends", "install", "--"]).args(names);
        let Output { status, stdout, stderr } = command.output().expect("it ran before");
        let stdout = String::from_utf8_lossy(&stdout);
        if status.success() {
            Ok(stdout.into_owned())
        } else {
            Err(format!("{}{}", stdout.trim_end(), String::from_utf8_lossy(&stderr).trim_end()))
        }
    }
}

/// Makes the sources of the three suites from the mirrors this machine uses for any Debian suite.
fn sources(architecture: &str) -> Option<String> {
    let output =
        Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mirror = |security: bool| {
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(uri, release)| release.ends_with("-security") == security && uri.contains("debian")).map(|(uri, _)| uri.to_owned())
    };
    let (base, security) = (mirror(false)?, mirror(true)?);
    let entry = |uri: &str, suites: &str| {
        format!(
            "Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nArchitectures: {architecture}\nSigned-By: {}\n\n",
            keyring_path().display()
        )
    };
    Some(entry(&base, "trixie trixie-updates") + &entry(&security, "trixie-security"))
}

fn keyring_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/keyrings/debian.asc")
}

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Makes one to eight names, each from a list that is itself drawn.
    fn set<'n>(&mut self, lists: &[&[&'n str]]) -> Vec<&'n str> {
        let size = 1 + self.below(8);
        let mut draw = |_| {
            let list = lists[self.below(lists.len())];
            list[self.below(list.len())]
        };
        (0..size).map(&mut draw).collect()
    }
}

#[allow(clippy::disallowed_methods, reason = "a test has no arguments of its own")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

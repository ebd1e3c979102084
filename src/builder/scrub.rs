//! Drops whole files that depend on the time and place of a step.
//!
//! Metadata (owners, times, attributes) is normalised by the store. Each rule has its reason. `docs/reproducible.md` compares the rules
//! with other builders of Debian roots.

/// Decision about a path that a step wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Keep it in the image.
    Keep,
    /// Drop it.
    Drop,
}

/// A pattern and its verdict. A pattern that ends in `/` matches a directory's content; `*` matches any part of a name, `**` any number of
/// names.
struct Rule {
    pattern: &'static str,
    verdict: Verdict,
}

const fn dropped(pattern: &'static str) -> Rule {
    Rule { pattern, verdict: Verdict::Drop }
}

const RULES: &[Rule] = &[
    // Logs contain times.
    dropped("var/log/dpkg.log"),
    dropped("var/log/alternatives.log"),
    dropped("var/log/bootstrap.log"),
    dropped("var/log/apt/"),
    dropped("var/log/fontconfig.log"),
    dropped("var/lib/texmf/web2c/updmap.log"),
    // Contains inode numbers and change times; ldconfig rebuilds it.
    dropped("var/cache/ldconfig/aux-cache"),
    // Backups, locks, and apt's own caches: of no use in an image.
    dropped("var/lib/dpkg/*-old"),
    dropped("var/lib/dpkg/lock"),
    dropped("var/lib/dpkg/lock-frontend"),
    dropped("var/lib/dpkg/triggers/Lock"),
    dropped("var/lib/dpkg/updates/"),
    dropped("var/cache/debconf/*-old"),
    dropped("var/lib/apt/lists/"),
    dropped("var/lib/apt/extended_states"),
    dropped("var/cache/apt/"),
    dropped("etc/.pwd.lock"),
    // Random numbers and host names, generated again when needed.
    dropped("etc/machine-id"),
    dropped("var/lib/dbus/machine-id"),
    dropped("var/lib/systemd/random-seed"),
    dropped("var/lib/systemd/credential.secret"),
    dropped("etc/ssh/ssh_host_*"),
    // Random names that fontconfig before 2.14 gives to directories, and the caches with these names.
    dropped("usr/share/fonts/**/.uuid"),
    dropped("usr/local/share/fonts/**/.uuid"),
    dropped("var/cache/fontconfig/*-*-*-*-*-le64.cache-7"),
    // Database clusters have a random system id, keys and times. Their configuration names them, so it goes with them.
    dropped("var/lib/postgresql/"),
    dropped("etc/postgresql/"),
    dropped("var/lib/mysql/"),
    // An LDAP server's database and configuration have random ids, times and a password.
    dropped("var/lib/ldap/"),
    dropped("etc/ldap/slapd.d/"),
    // Random numbers of a Diffie-Hellman exchange.
    dropped("etc/freeradius/3.0/certs/dh"),
    // Its minute and hour are random.
    dropped("etc/cron.d/popularity-contest"),
    // The initramfs of a kernel package contains inode numbers and times. Silo makes its own for a VM.
    dropped("boot/initrd.img-*"),
    // Set by the launcher or by the build.
    dropped("etc/hostname"),
    dropped("etc/resolv.conf"),
    dropped("usr/sbin/policy-rc.d"),
    // Runtime directories.
    dropped("run/"),
    dropped("tmp/"),
    dropped("var/tmp/"),
    dropped("dev/"),
    dropped("proc/"),
    dropped("sys/"),
];

/// Returns the verdict on a path; the path is relative to the root.
pub fn judge(path: &[u8]) -> Verdict {
    let rule = RULES.iter().find(|rule| matches(rule.pattern.as_bytes(), path));
    rule.map_or(Verdict::Keep, |rule| rule.verdict)
}

/// A file that a step must leave empty or absent.
pub struct Secret {
    /// The path relative to the root.
    pub path: &'static str,
    /// The reason.
    pub why: &'static str,
}

/// Files that must not be shared with an image.
pub const SECRETS: [Secret; 2] = [
    Secret { path: "etc/ssl/private/ssl-cert-snakeoil.key", why: "a private key that all users of the image would share" },
    Secret { path: "var/cache/debconf/passwords.dat", why: "passwords given to debconf" },
];

/// Matches a pattern of names: `*` matches any part of a name, `**` any number of names.
fn matches(pattern: &[u8], path: &[u8]) -> bool {
    if pattern.ends_with(b"/") {
        return path.len() > pattern.len() && path.starts_with(pattern);
    }
    names_match(&pattern.split(|byte| *byte == b'/').collect::<Vec<_>>(), &path.split(|byte| *byte == b'/').collect::<Vec<_>>())
}

fn names_match(pattern: &[&[u8]], path: &[&[u8]]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((&b"**", rest)), _) => (0..=path.len()).any(|skipped| names_match(rest, &path[skipped..])),
        (Some((first, pattern)), Some((name, path))) => name_matches(first, name) && names_match(pattern, path),
        _ => false,
    }
}

fn name_matches(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.iter().position(|byte| *byte == b'*') {
        None => pattern == name,
        Some(star) => {
            let (head, rest) = (&pattern[..star], &pattern[star + 1..]);
            name.starts_with(head) && (head.len()..=name.len()).any(|from| name_matches(rest, &name[from..]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        for (path, expect) in [
            ("var/log/dpkg.log", Verdict::Drop),
            ("var/log/apt", Verdict::Keep),
            ("var/lib/texmf/web2c/updmap.log", Verdict::Drop),
            ("boot/initrd.img-6.12.1+deb13-amd64", Verdict::Drop),
            ("boot/vmlinuz-6.12.1+deb13-amd64", Verdict::Keep),
            ("var/log/apt/history.log", Verdict::Drop),
            ("var/lib/dpkg/status-old", Verdict::Drop),
            ("var/lib/dpkg/info/x-old", Verdict::Keep),
            ("var/lib/dpkg/status", Verdict::Keep),
            ("etc/ssh/ssh_host_rsa_key", Verdict::Drop),
            ("etc/ssh/sshd_config", Verdict::Keep),
            ("usr/share/fonts/.uuid", Verdict::Drop),
            ("usr/share/fonts/truetype/dejavu/.uuid", Verdict::Drop),
            ("usr/share/fonts/x.uuid", Verdict::Keep),
            ("var/cache/fontconfig/3e01595b-8a07-4469-bd26-81171c121a1d-le64.cache-7", Verdict::Drop),
            ("var/cache/fontconfig/3830d5c3ddfd5cd38a049b759396e72e-le64.cache-8", Verdict::Keep),
            ("run", Verdict::Keep),
            ("run/x", Verdict::Drop),
            ("var/lib/postgresql", Verdict::Keep),
            ("var/lib/ldap/data.mdb", Verdict::Drop),
            ("etc/ldap/slapd.d/cn=config.ldif", Verdict::Drop),
            ("etc/ldap/ldap.conf", Verdict::Keep),
            ("var/lib/postgresql/17/main/PG_VERSION", Verdict::Drop),
        ] {
            assert_eq!(judge(path.as_bytes()), expect, "{path}");
        }
    }
}

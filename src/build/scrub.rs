//! What a step leaves behind that says when and where it ran, and is therefore not kept.
//!
//! Metadata (owners, times, attributes) is the store's to normalise; this is about whole files. Each rule
//! says why. `docs/reproducible.md` lists them beside what other builders of Debian roots do.

/// What to do with a path that a step wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It belongs to the image.
    Keep,
    /// It does not.
    Drop,
}

/// A pattern and its verdict. A pattern ending in `/` is a directory's content; a `*` stands for any part
/// of one name.
struct Rule {
    pattern: &'static str,
    verdict: Verdict,
}

const fn dropped(pattern: &'static str) -> Rule {
    Rule { pattern, verdict: Verdict::Drop }
}

const RULES: &[Rule] = &[
    // Logs hold times.
    dropped("var/log/dpkg.log"),
    dropped("var/log/alternatives.log"),
    dropped("var/log/bootstrap.log"),
    dropped("var/log/apt/"),
    dropped("var/log/fontconfig.log"),
    // Holds inode numbers and change times; ldconfig makes it again.
    dropped("var/cache/ldconfig/aux-cache"),
    // Copies of what stood before the last change, locks, and apt's own caches: of no use in an image.
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
    // Random numbers and names of the machine; made anew where they are needed.
    dropped("etc/machine-id"),
    dropped("var/lib/dbus/machine-id"),
    dropped("var/lib/systemd/random-seed"),
    dropped("var/lib/systemd/credential.secret"),
    dropped("etc/ssh/ssh_host_*"),
    // What a kernel's package makes to boot by: inode numbers and times. A machine's own is made by Silo.
    dropped("boot/initrd.img-*"),
    // The launcher's own, or the builder's.
    dropped("etc/hostname"),
    dropped("etc/resolv.conf"),
    dropped("usr/sbin/policy-rc.d"),
    // Not part of a root at rest.
    dropped("run/"),
    dropped("tmp/"),
    dropped("var/tmp/"),
    dropped("dev/"),
    dropped("proc/"),
    dropped("sys/"),
];

/// Judges a path below the root, without a slash before it.
pub fn judge(path: &[u8]) -> Verdict {
    let rule = RULES.iter().find(|rule| matches(rule.pattern.as_bytes(), path));
    rule.map_or(Verdict::Keep, |rule| rule.verdict)
}

/// A file that a step must leave empty, or not make at all.
pub struct Secret {
    /// Its path below the root.
    pub path: &'static str,
    /// Why an image must not hold it.
    pub why: &'static str,
}

/// Files that would be secrets in an image that others share.
pub const SECRETS: [Secret; 2] = [
    Secret { path: "etc/ssl/private/ssl-cert-snakeoil.key", why: "a private key that everybody with the image would share" },
    Secret { path: "var/cache/debconf/passwords.dat", why: "passwords given to debconf" },
];

fn matches(pattern: &[u8], path: &[u8]) -> bool {
    if pattern.ends_with(b"/") {
        return path.len() > pattern.len() && path.starts_with(pattern);
    }
    match pattern.iter().position(|byte| *byte == b'*') {
        None => path == pattern,
        Some(star) => {
            let (head, tail) = (&pattern[..star], &pattern[star + 1..]);
            path.len() >= head.len() + tail.len()
                && path.starts_with(head)
                && path.ends_with(tail)
                && !path[head.len()..path.len() - tail.len()].contains(&b'/')
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
            ("boot/initrd.img-6.12.1+deb13-amd64", Verdict::Drop),
            ("boot/vmlinuz-6.12.1+deb13-amd64", Verdict::Keep),
            ("var/log/apt/history.log", Verdict::Drop),
            ("var/lib/dpkg/status-old", Verdict::Drop),
            ("var/lib/dpkg/info/x-old", Verdict::Keep),
            ("var/lib/dpkg/status", Verdict::Keep),
            ("etc/ssh/ssh_host_rsa_key", Verdict::Drop),
            ("etc/ssh/sshd_config", Verdict::Keep),
            ("run", Verdict::Keep),
            ("run/x", Verdict::Drop),
        ] {
            assert_eq!(judge(path.as_bytes()), expect, "{path}");
        }
    }
}

//! Secrets and identities that known packages generate when they are configured, as data. An image has none of them; the launcher makes new
//! ones for each sandbox.

/// A secret or identity of a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownSecret {
    /// The package whose script generates it.
    pub package: &'static str,
    /// A file that exists in each image with the package.
    pub marker: &'static str,
    /// Its path. Below it, if it is a directory.
    pub path: &'static str,
    /// Its content.
    pub form: Form,
}

/// The content of a secret or identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// An Ed25519 key in OpenSSH's format, with the public key beside it.
    SshHostKey,
    /// A private key for TLS in PEM, with a certificate at this path.
    TlsKey {
        /// The path of the certificate.
        certificate: &'static str,
    },
    /// A private key for TLS and its certificate, in one PEM file.
    TlsBundle,
    /// A file of the image, in which 24 random characters replace a word.
    Filled {
        /// The path of the file.
        template: &'static str,
        /// The word.
        word: &'static str,
    },
    /// Random bytes.
    Bytes {
        /// Their number.
        count: usize,
    },
    /// A key for BIND's control channel.
    ControlKey,
    /// Twenty capital letters.
    Cookie,
    /// 32 hexadecimal digits.
    MachineId,
    /// A UUID.
    Uuid,
    /// The NVMe name of a host.
    NvmeName,
    /// The name of an iSCSI initiator.
    InitiatorName,
    /// The public numbers of a Diffie-Hellman exchange. They are no secret, but differ in each build.
    KeyExchange,
    /// Not made at a start.
    Never {
        /// The command that makes it, or the reason why none does.
        instead: &'static str,
    },
}

impl Form {
    /// Describes the content.
    pub fn text(self) -> &'static str {
        match self {
            Form::SshHostKey => "an ssh host key (Ed25519)",
            Form::TlsKey { .. } => "a TLS key with a certificate for `silo` and `localhost`",
            Form::TlsBundle => "a TLS key and its certificate for `silo` and `localhost` in one file",
            Form::Filled { .. } => "its template with a random key",
            Form::Bytes { .. } => "random bytes",
            Form::ControlKey => "a key of BIND's control channel",
            Form::Cookie => "an Erlang cookie",
            Form::MachineId => "a machine id",
            Form::Uuid => "a UUID",
            Form::NvmeName => "an NVMe host name",
            Form::InitiatorName => "an iSCSI initiator name",
            Form::KeyExchange => "the Diffie-Hellman numbers of RFC 7919, which are public",
            Form::Never { .. } => "not made at a start",
        }
    }
}

const fn known(package: &'static str, marker: &'static str, path: &'static str, form: Form) -> KnownSecret {
    KnownSecret { package, marker, path, form }
}

/// All known secrets and identities.
pub const ALL: [KnownSecret; 21] = [
    known("openssh-server", "usr/sbin/sshd", "etc/ssh/ssh_host_ed25519_key", Form::SshHostKey),
    known(
        "ssl-cert",
        "usr/sbin/make-ssl-cert",
        "etc/ssl/private/ssl-cert-snakeoil.key",
        Form::TlsKey { certificate: "etc/ssl/certs/ssl-cert-snakeoil.pem" },
    ),
    known(
        "dovecot-core",
        "usr/sbin/dovecot",
        "etc/dovecot/private/dovecot.key",
        Form::TlsKey { certificate: "etc/dovecot/private/dovecot.pem" },
    ),
    known("munge", "usr/sbin/munged", "etc/munge/munge.key", Form::Bytes { count: 128 }),
    known("bind9", "usr/sbin/named", "etc/bind/rndc.key", Form::ControlKey),
    known("rabbitmq-server", "usr/sbin/rabbitmq-server", "var/lib/rabbitmq/.erlang.cookie", Form::Cookie),
    known("systemd", "usr/bin/systemd-machine-id-setup", "etc/machine-id", Form::MachineId),
    known("dbus-bin", "usr/bin/dbus-uuidgen", "etc/machine-id", Form::MachineId),
    known("nvme-cli", "usr/sbin/nvme", "etc/nvme/hostid", Form::Uuid),
    known("nvme-cli", "usr/sbin/nvme", "etc/nvme/hostnqn", Form::NvmeName),
    known("open-iscsi", "usr/sbin/iscsid", "etc/iscsi/initiatorname.iscsi", Form::InitiatorName),
    known(
        "popularity-contest",
        "usr/sbin/popularity-contest",
        "etc/popularity-contest.conf",
        Form::Never { instead: "a sandbox sends no reports" },
    ),
    known(
        "postgresql-common",
        "usr/bin/pg_createcluster",
        "var/lib/postgresql",
        Form::Never { instead: "`initdb` makes a cluster, as an ordinary user" },
    ),
    known("freeradius-config", "etc/freeradius/3.0/certs", "etc/freeradius/3.0/certs/dh", Form::KeyExchange),
    known(
        "xrdp",
        "usr/sbin/xrdp",
        "etc/xrdp/rsakeys.ini",
        Form::Never { instead: "`xrdp-keygen xrdp FILE` makes one; connections with TLS need none" },
    ),
    known("slapd", "usr/sbin/slapd", "var/lib/ldap", Form::Never { instead: "`slapadd` makes a database" }),
    known("slapd", "usr/sbin/slapd", "etc/ldap/slapd.d", Form::Never { instead: "`slapadd -n 0` makes a configuration" }),
    known("ejabberd", "usr/sbin/ejabberdctl", "etc/ejabberd/ejabberd.pem", Form::TlsBundle),
    known(
        "roundcube-core",
        "usr/share/roundcube/index.php",
        "etc/roundcube/config.inc.php",
        Form::Filled { template: "usr/share/roundcube/config.inc.php.sample", word: "rcmail-!24ByteDESkey*Str" },
    ),
    known(
        "roundcube-core",
        "usr/share/roundcube/index.php",
        "var/lib/dbconfig-common/sqlite3/roundcube",
        Form::Never { instead: "`/usr/share/roundcube/bin/initdb.sh` makes the database" },
    ),
    known("mariadb-server", "usr/sbin/mariadbd", "var/lib/mysql", Form::Never { instead: "`mariadb-install-db` makes the databases" }),
];

/// Finds the secret at a path, in an image in which `has` finds files.
pub fn at(path: &str, has: impl Fn(&str) -> bool) -> Option<&'static KnownSecret> {
    let is_it = |known: &&KnownSecret| {
        let beside = match known.form {
            Form::SshHostKey => path.strip_prefix("etc/ssh/ssh_host_").is_some_and(|rest| !rest.contains('/')),
            Form::TlsKey { certificate } => path == certificate,
            Form::Never { .. } => path.strip_prefix(known.path).is_some_and(|rest| rest.starts_with('/')),
            Form::MachineId => path == "var/lib/dbus/machine-id",
            _ => false,
        };
        (path == known.path || beside) && has(known.marker)
    };
    ALL.iter().find(is_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_by_its_path_if_its_package_is_there() {
        let package = |path: &str| at(path, |marker| marker != "usr/sbin/munged").map(|known| known.package);
        assert_eq!(package("etc/ssh/ssh_host_rsa_key.pub"), Some("openssh-server"));
        assert_eq!(package("etc/ssh/ssh_host_rsa/key"), None);
        assert_eq!(package("etc/ssl/certs/ssl-cert-snakeoil.pem"), Some("ssl-cert"));
        assert_eq!(package("var/lib/postgresql/17/main/PG_VERSION"), Some("postgresql-common"));
        assert_eq!(package("var/lib/postgresqlx"), None);
        assert_eq!(package("etc/munge/munge.key"), None, "its package is not there");
    }
}

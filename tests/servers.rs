//! Servers of Debian packages answer inside a sandbox, with the keys and identities that it got at its start.
//!
//! The test installs a few of them; `.ci/servers` installs all. `first_start.rs` has postgresql, sshd, munge, BIND and others.

use silo_build::known_secrets::{ALL, KnownSecret};

use crate::first_start::{self, installed, is_of};

/// A server with its client.
struct Server {
    name: &'static str,
    /// The packages, and those of the client.
    packages: &'static str,
    /// Starts the server as an ordinary user, and asks it.
    script: &'static str,
    answer: &'static str,
    /// True if it is installed without a selection.
    is_usual: bool,
}

/// Functions of the scripts.
const PRELUDE: &str = r#"
exec 2>&1
cd /tmp; export HOME=/tmp
wait_for() { for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do "$@" > /tmp/client 2>&1 && return; sleep 0.5; done; echo "$1 fails"; cat /tmp/client /tmp/log; }
tls() { echo | openssl s_client -connect "127.0.0.1:$1" -CAfile "$2" -verify_hostname localhost -verify_return_error $3 $4 $5 $6; }
verified() { grep 'Verify return code: 0' client | head -1 | sed 's/^ *//'; }
"#;

const SERVERS: [Server; 8] = [
    Server {
        name: "slapd",
        packages: "slapd ldap-utils",
        script: r#"
mkdir ldap
cat > slapd.conf <<'END'
include /etc/ldap/schema/core.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile /tmp/slapd.pid
database mdb
suffix "dc=example,dc=com"
rootdn "cn=admin,dc=example,dc=com"
rootpw secret
directory /tmp/ldap
END
/usr/sbin/slapd -f slapd.conf -h ldap://127.0.0.1:3890 -d 0 > log 2>&1 &
printf 'dn: dc=example,dc=com\nobjectClass: dcObject\nobjectClass: organization\ndc: example\no: ldap answers\n' > entry
wait_for ldapadd -x -H ldap://127.0.0.1:3890 -D cn=admin,dc=example,dc=com -w secret -f entry
ldapsearch -x -LLL -H ldap://127.0.0.1:3890 -b dc=example,dc=com o | sed -n 's/^o: //p'
"#,
        answer: "ldap answers\n",
        is_usual: true,
    },
    Server {
        name: "prosody",
        packages: "prosody openssl",
        script: r#"
cat > prosody.lua <<'END'
daemonize = false
pidfile = "/tmp/prosody.pid"
data_path = "/tmp/prosody"
interfaces = { "127.0.0.1" }
modules_enabled = { "tls"; "saslauth"; "disco" }
modules_disabled = { "s2s" }
log = { info = "/tmp/prosody.log" }
VirtualHost "localhost"
  ssl = { key = "/etc/ssl/private/ssl-cert-snakeoil.key", certificate = "/etc/ssl/certs/ssl-cert-snakeoil.pem" }
END
mkdir prosody
/usr/bin/prosody --config /tmp/prosody.lua > log 2>&1 &
wait_for tls 5222 /etc/ssl/certs/ssl-cert-snakeoil.pem -starttls xmpp -xmpphost localhost
verified
"#,
        answer: "Verify return code: 0 (ok)\n",
        is_usual: true,
    },
    // Its daemon answers the C library at a fixed path, as its own user.
    Server {
        name: "nslcd",
        packages: "nslcd",
        script: "nslcd --version | head -1 | cut -d' ' -f1\nls /etc/nslcd.conf\n",
        answer: "nss-pam-ldapd\n/etc/nslcd.conf\n",
        is_usual: true,
    },
    Server {
        name: "freeradius",
        packages: "freeradius freeradius-config freeradius-utils",
        script: r#"
cp -r /etc/freeradius/3.0 raddb
sed -i 's/^\t*user = .*//; s/^\t*group = .*//; s,^run_dir = .*,run_dir = /tmp,; s,^logdir = .*,logdir = /tmp,' raddb/radiusd.conf
sed -i '1i bob Cleartext-Password := "hello"' raddb/mods-config/files/authorize
# It reads the key, the certificate and the numbers of the key exchange at its start.
sed -i 's/^\t*#\t*dh_file = /\t\tdh_file = /' raddb/mods-available/eap
/usr/sbin/freeradius -f -l stdout -d raddb > log 2>&1 &
wait_for radtest bob hello 127.0.0.1 0 testing123
grep -o 'Access-Accept' client | head -1
"#,
        answer: "Access-Accept\n",
        is_usual: false,
    },
    Server {
        name: "dovecot",
        packages: "dovecot-core dovecot-imapd openssl",
        script: r#"
cat > dovecot.conf <<END
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
base_dir = /tmp/dovecot
state_dir = /tmp/dovecot
log_path = /tmp/log
protocols = imap
listen = 127.0.0.1
default_login_user = $(id -un)
default_internal_user = $(id -un)
default_internal_group = $(id -gn)
mail_driver = maildir
mail_path = /tmp/mail
ssl = required
ssl_server_cert_file = /etc/dovecot/private/dovecot.pem
ssl_server_key_file = /etc/dovecot/private/dovecot.key
passdb static {
  password = pass
}
service anvil {
  chroot =
}
service imap-login {
  chroot =
  inet_listener imap {
    port = 0
  }
  inet_listener imaps {
    port = 9930
  }
}
END
/usr/sbin/dovecot -F -c /tmp/dovecot.conf > log 2>&1 &
wait_for tls 9930 /etc/dovecot/private/dovecot.pem
verified
"#,
        answer: "Verify return code: 0 (ok)\n",
        is_usual: false,
    },
    Server {
        name: "xrdp",
        packages: "xrdp",
        script: r#"
cat > xrdp.ini <<'END'
[Globals]
port=tcp://127.0.0.1:3389
security_layer=tls
certificate=/etc/xrdp/cert.pem
key_file=/etc/xrdp/key.pem
[Logging]
LogFile=/tmp/log
LogLevel=INFO
END
/usr/sbin/xrdp --nodaemon --config /tmp/xrdp.ini > log 2>&1 &
cat > rdp.pl <<'END'
use IO::Socket::INET;
my $s = IO::Socket::INET->new(PeerAddr => "127.0.0.1:3389", Timeout => 5) or exit 1;
print $s pack("H*", "030000130ee000000000000100080001000000"); $s->flush;
my $got = ""; sysread $s, $got, 19;
printf "xrdp answers %s\n", unpack("H*", substr $got, 5, 1); exit(length $got < 6);
END
wait_for perl rdp.pl
cat client
"#,
        answer: "xrdp answers d0\n",
        is_usual: false,
    },
    Server {
        name: "ejabberd",
        packages: "ejabberd openssl",
        script: r#"
mkdir ejabberd
sed 's/ip: "::"/ip: "127.0.0.1"/' /etc/ejabberd/ejabberd.yml > ejabberd/ejabberd.yml
export $(grep ^ERL_LIBS= /usr/sbin/ejabberdctl | tr -d "'")
erl -noinput -sname ej@localhost -mnesia dir '"/tmp/ejabberd"' -ejabberd config '"/tmp/ejabberd/ejabberd.yml"' log_path '"/tmp/ejabberd/log"' -s ejabberd > log 2>&1 &
wait_for tls 5223 /etc/ejabberd/ejabberd.pem
verified
"#,
        answer: "Verify return code: 0 (ok)\n",
        is_usual: false,
    },
    // A mail program of the web; its database is made by hand, and PHP loads its configuration.
    Server {
        name: "roundcube",
        packages: "roundcube-core roundcube-sqlite3",
        script: r#"
cat > load.php <<'END'
<?php
define("INSTALL_PATH", "/var/lib/roundcube/");
chdir("/usr/share/roundcube");
require "/usr/share/roundcube/program/include/clisetup.php";
$config = rcube::get_instance()->config;
echo "roundcube ", strlen($config->get("des_key")), " ", $config->get("des_key") == "rcmail-!24ByteDESkey*Str" ? "known" : "own", "\n";
END
php load.php
"#,
        answer: "roundcube 24 own\n",
        is_usual: false,
    },
];

/// The servers of the test: `SILO_SERVERS` has `all`, or names with spaces.
fn selected() -> Vec<&'static Server> {
    let wanted = std::env::var("SILO_SERVERS").unwrap_or_default();
    let is_wanted = |server: &&Server| match wanted.as_str() {
        "" => server.is_usual,
        "all" => true,
        names => names.split_whitespace().any(|name| name == server.name),
    };
    SERVERS.iter().filter(is_wanted).collect()
}

#[test]
fn servers_answer_and_two_seeds_differ_in_nothing() {
    let chosen = selected();
    let packages: Vec<&str> = ["dash"].into_iter().chain(chosen.iter().flat_map(|server| server.packages.split_whitespace())).collect();
    let (silo, runs_servers) = installed("servers", &packages.join(" "));
    for server in chosen {
        if runs_servers {
            let script = format!("{PRELUDE}{}kill $(jobs -p) 2> /dev/null; true", server.script);
            assert_eq!(silo.ok(["servers", "-c", &script]), server.answer, "{}", server.name);
        }
    }
    // The second run has other random numbers.
    let checked = silo.ok(["build", "--quiet", "--global", "--check", "servers"]);
    assert!(checked.contains("same      configuring the packages (recipe") && !checked.contains("DIFFERENT"), "{checked}");
}

#[test]
fn the_packages_of_all_known_secrets_are_installed() {
    let all: Vec<&str> =
        SERVERS.iter().map(|server| server.packages).chain([first_start::PACKAGES]).flat_map(str::split_whitespace).collect();
    let missing: Vec<&KnownSecret> = ALL.iter().filter(|known| !all.iter().any(|package| is_of(known, package))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

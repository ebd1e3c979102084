//! Secrets and identities of packages: no image has them, each sandbox gets its own, and servers work with them.

use std::fs;
use std::path::Path;

use silo_build::known_secrets::{ALL, Form, KnownSecret};

use crate::support::{As, Silo, has, is_root};

/// The packages of known secrets, and programs that use them.
pub const PACKAGES: &str = "dash openssh-server openssh-client ssl-cert dovecot-core munge bind9 rabbitmq-server systemd dbus-bin nvme-cli open-iscsi \
    popularity-contest postgresql mariadb-server openssl bind9-utils";

/// Servers that start as an ordinary user with the keys of their sandbox, and a client of each.
const SERVERS: &str = r#"
exec 2>&1
cd /tmp
/usr/lib/postgresql/*/bin/initdb -D /tmp/cluster -A trust -U me > /dev/null
/usr/lib/postgresql/*/bin/pg_ctl -D /tmp/cluster -o '-k /tmp -c listen_addresses=127.0.0.1' -w -l /tmp/cluster.log start > /dev/null || cat /tmp/cluster.log
psql -h 127.0.0.1 -U me -d postgres -Atc "select 'postgresql answers'"
ssh-keygen -q -t ed25519 -N '' -f /tmp/own
echo "[127.0.0.1]:2222 $(cat /etc/ssh/ssh_host_ed25519_key.pub)" > /tmp/known
/usr/sbin/sshd -p 2222 -o ListenAddress=127.0.0.1 -o UsePAM=no -o StrictModes=no -o AuthorizedKeysFile=/tmp/own.pub -o PidFile=none -E /tmp/sshd.log
for try in $(seq 120); do
  ssh -p 2222 -i /tmp/own -o UserKnownHostsFile=/tmp/known -o StrictHostKeyChecking=yes 127.0.0.1 echo ssh answers > /tmp/ssh 2>&1 && break
  sleep 0.3
done
cat /tmp/ssh
for place in /etc/ssl/private/ssl-cert-snakeoil.key:/etc/ssl/certs/ssl-cert-snakeoil.pem:4433 /etc/dovecot/private/dovecot.key:/etc/dovecot/private/dovecot.pem:4434; do
  IFS=: read key certificate port <<END
$place
END
  openssl s_server -quiet -accept 127.0.0.1:$port -key $key -cert $certificate -www 2> /dev/null &
  for try in $(seq 120); do
    echo | openssl s_client -connect 127.0.0.1:$port -CAfile $certificate -verify_hostname localhost -verify_return_error > /tmp/client 2> /dev/null && break
    sleep 0.3
  done
  grep 'Verify return code: 0' /tmp/client | head -1
done
/usr/sbin/munged --force -S /tmp/munge.socket --pid-file=/tmp/munge.pid --log-file=/tmp/munge.log --seed-file=/tmp/munge.seed || cat /tmp/munge.log
munge -S /tmp/munge.socket -n | unmunge -S /tmp/munge.socket | grep -o 'Success'
cat > /tmp/named.conf <<'END'
include "/etc/bind/rndc.key";
controls { inet 127.0.0.1 port 9953 allow { 127.0.0.1; } keys { "rndc-key"; }; };
options { directory "/tmp"; listen-on port 5300 { 127.0.0.1; }; listen-on-v6 { none; }; pid-file "/tmp/named.pid"; session-keyfile "/tmp/session.key"; recursion no; };
END
/usr/sbin/named -g -c /tmp/named.conf > /tmp/named.log 2>&1 &
for try in $(seq 120); do
  /usr/sbin/rndc -k /etc/bind/rndc.key -s 127.0.0.1 -p 9953 status > /tmp/status 2>&1 && break
  sleep 0.5
done
grep 'server is up' /tmp/status || cat /tmp/status /tmp/named.log
dbus-uuidgen --get=/etc/machine-id | wc -c
kill $(jobs -p) 2> /dev/null
/usr/lib/postgresql/*/bin/pg_ctl -D /tmp/cluster -m immediate stop > /dev/null
"#;

const ANSWERS: &str =
    "postgresql answers\nssh answers\nVerify return code: 0 (ok)\nVerify return code: 0 (ok)\nSuccess\nserver is up and running\n33\n";

/// Installs packages, and checks that each sandbox gets its own secrets of those that are known. Returns the silo, and true if servers run.
pub fn installed(tool: &str, packages: &str) -> (Silo, bool) {
    // Servers such as postgresql refuse to run as root.
    let is_ranged = is_root() && has("newuidmap") && has("unshare") && Path::new("/etc/subuid").exists();
    let silo = Silo::of(if is_ranged { As::Ranged } else { As::Me });
    silo.seed_downloads();
    let list = packages.split_whitespace().collect::<Vec<_>>().join("\", \"");
    silo.write(&format!(".silo/recipes/{tool}.toml"), &format!("command = [\"sh\"]\n[debian]\npackages = [\"{list}\"]\n"));
    silo.ok(["install", "--quiet", tool]);
    silo.offer_downloads();
    let known: Vec<&KnownSecret> = ALL.iter().filter(|known| packages.split_whitespace().any(|package| is_of(known, package))).collect();
    let root = silo.image_root(tool);
    let there = |path: &str| root.join(path).symlink_metadata().is_ok();
    let show: String = known.iter().map(|known| format!("od -An -tx1 '/{}' 2> /dev/null | tr -d ' \\n'; echo; ", known.path)).collect();
    let shown = [(); 2].map(|()| silo.ok([tool, "-c", &show]));
    let lines = shown.each_ref().map(|shown| shown.lines().collect::<Vec<_>>());
    assert_eq!(lines[0].len(), known.len(), "{shown:?}");
    let lock = fs::read_to_string(silo.path(&format!("recipes/{tool}.lock"))).expect("a lock");
    for (number, known) in known.into_iter().enumerate() {
        assert!(there(known.marker), "{known:?}");
        let is_made = !matches!(known.form, Form::Never { .. });
        // A symlink may point to another secret.
        let is_absent = !root.join(known.path).exists();
        let is_empty = root.join(known.path).read_dir().is_ok_and(|mut entries| entries.next().is_none());
        assert!(is_absent || is_empty, "{known:?} is in the image");
        assert_eq!(!lines[0][number].is_empty(), is_made, "{known:?}: {}", lines[0][number]);
        let is_own = is_made && known.form != Form::KeyExchange;
        assert_eq!(lines[0][number] != lines[1][number], is_own, "{known:?} is another one in each sandbox");
        let why = silo.ok(["why", tool, &format!("/{}", known.path)]);
        assert!(is_empty || why.contains("is not in ") && why.contains("generated"), "{known:?}: {why}");
        let line = format!("\"/{}\" = {{ package = \"{}\", madeAtStart = {is_made} }}\n", known.path, known.package);
        // One path has two packages.
        assert!(lock.contains(&line) || known.package == "dbus-bin", "{line} is not in\n{lock}");
    }
    assert_eq!(silo.ok([tool, "-c", "dpkg --audit"]), "");
    (silo, is_ranged || !is_root())
}

pub fn is_of(known: &KnownSecret, package: &str) -> bool {
    // Packages that others need.
    let needed = [("postgresql", "postgresql-common"), ("prosody", "ssl-cert"), ("xrdp", "ssl-cert")];
    known.package == package || needed.contains(&(package, known.package))
}

#[test]
fn each_sandbox_has_its_own_secrets_and_servers_answer() {
    let (silo, runs_servers) = installed("secrets", PACKAGES);
    let why = silo.ok(["why", "secrets", "/etc/ssh/ssh_host_rsa_key"]);
    assert!(why.contains("by the scripts of openssh-server") && why.contains("/etc/ssh/ssh_host_ed25519_key"), "{why}");
    let why = silo.ok(["why", "secrets", "/var/lib/postgresql/17/main/PG_VERSION", "--json"]);
    assert!(why.contains("\"madeAtStart\": false"), "{why}");
    assert_eq!(silo.ok(["secrets", "-c", "stat -c %a /etc/ssh/ssh_host_ed25519_key /etc/munge/munge.key"]), "600\n400\n");
    if runs_servers {
        assert_eq!(silo.ok(["secrets", "-c", SERVERS]), ANSWERS);
    }
}

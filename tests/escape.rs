//! Escape attempts of a guest: the probes of `escape_probes.py` run inside, then the host is checked for their effects.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::sandbox::{Bench, FILES, MEMORY_BYTES, SIZE_BYTES, TASKS, bench, hosts, runs, text, until};
use crate::support::{PROGRAM, has, is_root, skip};
use silo_launch::spec::{Access, File, GrantOrigin, Mount, Network, Spec, Upper, VmFiles};

/// A file of the image that a probe tries to spoil.
const LAYER_FILE: &str = "/usr/share/perl5/Debconf/Db.pm";

const GUARDED: [&str; 6] = [".git/hooks", ".git/config", ".vscode/tasks.json", ".envrc", "silo.toml", "silo.lock"];

/// The probes' program, as a file of the sandbox.
fn probing(bench: &Bench, bait: &serde_json::Value) -> Spec {
    let mut spec = bench.spec(&["python3", "/probes/escape_probes.py", &bait.to_string()]);
    spec.files.push(File {
        guest: "/probes/escape_probes.py".into(),
        bytes: silo_launch::spec::Bytes(include_bytes!("escape_probes.py").to_vec()),
        mode: 0o644,
    });
    spec
}

#[test]
fn every_probe_finds_its_door_closed() {
    probe_everything(None, None);
}

#[test]
fn every_probe_finds_its_door_closed_in_a_machine_too() {
    if std::env::var_os(PROGRAM).is_some() {
        return skip("a machine's probes run once, as whoever runs the tests; tests/vm.rs starts one as an ordinary user");
    }
    probe_everything(None, Some(crate::vm::machine()));
}

#[test]
fn a_network_opens_no_other_door() {
    let allow = hosts(&["host.silo.internal:9", "*.example", "192.0.2.9:80"]);
    probe_everything(Some(Network { allow, asker: GrantOrigin::Run, ..Network::default() }), None);
}

fn probe_everything(network: Option<Network>, machine: Option<VmFiles>) {
    let bench = bench();
    let project = bench.project();
    // Bait: secrets, sockets, listeners, symlinks out of the project, files to poison.
    let secret = bench.path(".ssh/canary");
    fs::create_dir(bench.path(".ssh")).expect("made");
    fs::write(&secret, "canary").expect("written");
    symlink(&secret, project.join("absolute")).expect("made");
    symlink("../.ssh/canary", project.join("relative")).expect("made");
    symlink("/proc/1/root", project.join("magic")).expect("made");
    for path in GUARDED {
        let path = project.join(path);
        fs::create_dir_all(path.parent().expect("it has one")).expect("made");
        if path.ends_with("hooks") {
            fs::create_dir(&path).expect("made");
        } else {
            fs::write(&path, "safe").expect("written");
        }
    }
    let shared = bench.path("shared");
    fs::create_dir(&shared).expect("made");
    let tcp = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let port = tcp.local_addr().expect("it is bound").port();
    let udp = UdpSocket::bind(("0.0.0.0", port)).expect("the same port");
    let path_socket = bench.path("socket");
    let _path = UnixListener::bind(&path_socket).expect("bound");
    let name = format!("silo-escape-{}-{}", std::process::id(), u8::from(network.is_some()) + 2 * u8::from(machine.is_some()));
    let address = SocketAddr::from_abstract_name(&name).expect("a short name");
    let _abstract = UnixListener::bind_addr(&address).expect("bound");
    let layer_file = bench.root().join(LAYER_FILE.trim_start_matches('/'));
    // Other tests may make and remove links to the same file, which changes the number of links and the time of the change.
    let facts = |path: &Path| {
        let data = fs::metadata(path).expect("the root has it");
        (fs::read(path).expect("the root has it"), data.mode(), data.uid(), data.mtime(), data.mtime_nsec())
    };
    let layer_before = facts(&layer_file);

    let bait = serde_json::json!({
        "project": project, "secrets": [secret, "/root/.bashrc.canary", "/home/none/.aws/credentials"],
        "links": ["absolute", "relative", "magic/etc/shadow"], "guarded": GUARDED,
        "mounts": [&project, &shared, "/workspace"], "read_only": [&shared],
        "pids": [std::process::id(), std::os::unix::process::parent_id()],
        "port": port, "ips": own_addresses(), "abstract": name, "sockets": [path_socket],
        "variables": ["PATH", "HOME", "LC_ALL"], "agents": u8::from(network.is_some()), "stdin_is_a_file": machine.is_none(), "hostname": "silo",
        "layer_file": LAYER_FILE, "tasks": TASKS, "memory": MEMORY_BYTES, "files": FILES, "size": SIZE_BYTES,
        "machine_id": fs::read_to_string("/etc/machine-id").unwrap_or_default(),
    });
    let mut spec = probing(&bench, &bait);
    spec.files.extend(network.iter().map(Network::file));
    spec.network = network;
    spec.machine = machine;
    spec.mounts.push(Mount { host: shared.clone().into(), guest: shared.clone(), access: Access::ReadOnly });
    spec.mounts.push(Mount { host: project.clone().into(), guest: "/workspace".into(), access: Access::ReadWrite });
    for top in [project.as_path(), Path::new("/workspace")] {
        spec.read_only.extend(GUARDED.iter().map(|path| top.join(path)));
        spec.read_only.push(top.join("does/not/exist"));
    }

    let input = bench.path("input");
    fs::write(&input, "input").expect("written");
    let output = bench.command(&spec).stdin(fs::File::open(&input).expect("it is there")).output().expect("silo starts");
    let report = text(&output);
    let open: Vec<&str> = report.lines().filter(|line| line.contains(": ") && !line.ends_with(": closed")).collect();
    assert!(open.is_empty(), "{open:#?}\n{}", String::from_utf8_lossy(&output.stderr));
    let count = report.lines().filter(|line| line.ends_with(": closed")).count();
    assert!(report.ends_with(&format!("{count} probes\n")) && count > 30, "{report}");

    // Nothing reached the host.
    assert_eq!(fs::read_to_string(&secret).expect("there"), "canary");
    assert_eq!(fs::read_to_string(&input).expect("there"), "input");
    for path in GUARDED.iter().filter(|path| !path.ends_with("hooks")) {
        assert_eq!(fs::read_to_string(project.join(path)).expect("there"), "safe", "{path}");
    }
    assert_eq!(fs::read_dir(project.join(".git/hooks")).expect("there").count(), 0);
    tcp.set_nonblocking(true).expect("set");
    udp.set_nonblocking(true).expect("set");
    assert!(tcp.accept().is_err(), "somebody connected");
    assert!(udp.recv(&mut [0; 1]).is_err(), "somebody sent");
    assert_eq!(facts(&layer_file), layer_before, "the layer was changed");
}

/// The probes of the network once more, as root inside: a build's step that was granted something.
#[test]
fn a_step_with_a_network_has_no_other_door() {
    let only = [
        "take_over_the_agent",
        "ask_for_names_that_carry_words",
        "connect_anywhere",
        "send_pings",
        "find_an_interface",
        "open_raw_sockets",
        "reach_abstract_sockets",
        "open_odd_sockets",
        "make_namespaces",
    ];
    let bench = bench();
    let tcp = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let port = tcp.local_addr().expect("it is bound").port();
    let udp = UdpSocket::bind(("0.0.0.0", port)).expect("the same port");
    let name = format!("silo-step-{}", std::process::id());
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).expect("a short name")).expect("bound");
    let bait = serde_json::json!({ "only": only, "port": port, "ips": own_addresses(), "abstract": name, "agents": 1 });
    let mut spec = probing(&bench, &bait);
    let network = Network { allow: hosts(&["host.silo.internal:9", "*.example:*", "198.51.100.0/24:*"]), ..Network::default() };
    spec.files.push(network.file());
    spec.network = Some(network);
    spec.identity = silo_launch::spec::Identity::Root;
    let (upper, work) = (bench.path("upper"), bench.path("work"));
    for dir in [&upper, &work] {
        fs::create_dir(dir).expect("made");
    }
    spec.root.upper = Upper::Kept { upper, work };
    let report = text(&bench.run(&spec, b""));
    let expect: String = only.iter().map(|name| format!("{name}: closed\n")).collect();
    let mut lines: Vec<&str> = report.lines().filter(|line| !line.ends_with(" probes")).collect();
    lines.sort_unstable();
    let mut expected: Vec<&str> = expect.lines().collect();
    expected.sort_unstable();
    assert_eq!(lines, expected, "{report}");
    tcp.set_nonblocking(true).expect("set");
    udp.set_nonblocking(true).expect("set");
    assert!(tcp.accept().is_err() && udp.recv(&mut [0; 1]).is_err(), "somebody was reached");
}

/// This machine's addresses, so that the probes can try them.
fn own_addresses() -> Vec<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a free port");
    // Connecting a datagram socket sends nothing; it only picks a source address.
    match socket.connect("203.0.113.1:9") {
        Ok(()) => vec![socket.local_addr().expect("it is bound").ip().to_string()],
        Err(_) => Vec::new(),
    }
}

#[test]
fn descriptors_and_variables_of_the_host_stay_outside() {
    let bench = bench();
    let list = "import os; print(sorted(os.listdir('/proc/self/fd')), sorted(os.environ))";
    let spec = bench.python(list);
    let silo = bench.command(&spec);
    // The shell leaks descriptor 77, as careless programs do.
    let mut shell = std::process::Command::new("bash");
    shell.args(["-c", "exec 77</etc/passwd; exec \"$0\" \"$@\""]).arg(silo.get_program());
    shell.args(silo.get_args()).env("SECRET_OF_THE_HOST", "canary");
    let said = text(&shell.output().expect("it starts"));
    assert!(said.starts_with("['0', '1', '2', '3']"), "{said}");
    assert!(!said.contains("SECRET"), "{said}");
}

#[test]
fn a_directory_is_no_stream() {
    let bench = bench();
    let spec = bench.sh("true");
    let door = fs::File::open(bench.path(".")).expect("it is there");
    let output = bench.command(&spec).stdin(door).output().expect("silo starts");
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("standard input is a directory"));
}

#[test]
fn nothing_outlives_the_sandbox() {
    let bench = bench();
    let marker = format!("outlives-{}", std::process::id());
    let daemon = format!(
        "import os, sys, time\nif os.fork() == 0:\n os.setsid()\n if os.fork() == 0:\n  open('up', 'w').close()\n  time.sleep(1000)\n os._exit(0)\nwhile not os.path.exists('up'): time.sleep(.01)\n# {marker}"
    );
    let _ = text(&bench.run(&bench.python(&daemon), b""));
    assert!(!runs(&marker), "the daemon outlived its sandbox");

    fs::remove_file(bench.project().join("up")).expect("it was made");
    let spec = bench.python(&format!("{daemon}\ntime.sleep(1000)"));
    let mut silo = bench.start(&spec);
    until("the daemon runs", || bench.project().join("up").exists());
    silo.kill().expect("it runs");
    silo.wait().expect("it was killed");
    until("everything is dead after SIGKILL of silo", || !runs(&marker));
}

#[test]
fn links_of_the_project_lead_no_mount_outside() {
    let bench = bench();
    let outside = bench.path("outside");
    fs::create_dir(&outside).expect("made");
    symlink(&outside, bench.project().join("link")).expect("made");
    let mut spec = bench.sh("echo x > link/file || true");
    spec.mounts.push(Mount { host: bench.path(".").into(), guest: bench.project().join("link/inner"), access: Access::ReadOnly });
    let _ = bench.run(&spec, b"");
    assert_eq!(fs::read_dir(&outside).expect("there").count(), 0);
}

/// Without a range of ids: in a user namespace with one id no other can be mapped.
#[test]
fn a_step_with_one_id_records_owners_and_touches_nothing_else() {
    if !has("unshare") {
        return skip("unshare is not installed");
    }
    let bench = bench();
    let (upper, work) = (bench.path("upper"), bench.path("work"));
    for dir in [&upper, &work] {
        fs::create_dir(dir).expect("made");
    }
    let step = r#"
import ctypes, errno, os
def owner(path):
    try: return os.getxattr(path, "user.silo.owner").decode()
    except OSError as error: return errno.errorcode[error.errno]
libc = ctypes.CDLL(None, use_errno=True)
open("/etc/a", "w").close()
os.chmod("/etc/a", 0o4755); os.chown("/etc/a", 33, 44)
print(owner("/etc/a"), oct(os.stat("/etc/a").st_mode))
os.chown("/etc/a", -1, 8); print(owner("/etc/a"))
os.chmod("/etc/a", 0); os.chown("/etc/a", 0, 0); print(owner("/etc/a"))
os.symlink("a", "/etc/l"); os.lchown("/etc/l", 5, 5); print(owner("/etc/a"))
os.chown("/etc/l", 5, 6); print(owner("/etc/a"))
os.mkdir("/etc/d"); os.chdir("/etc/d"); os.mkdir("e"); os.chown("e", 7, 7); print(owner("e"))
fd = os.open("/etc/d", os.O_RDONLY); os.chown("e", 9, 9, dir_fd=fd); os.fchown(fd, 1, 2); print(owner("e"), owner("."))
os.chmod("/usr/bin/true", 0o555); os.chown("/usr/bin/true", 3, 3); print(owner("/usr/bin/true"))
# chown, fchown and fchownat; arm64 has only the last two.
HERE = -100
calls = {
    "x86_64": ((92, (b"/etc/none", 1, 1)), (92, (8, 1, 1)), (93, (99, 1, 1)), (260, (0, b"", 1, 1, 0xffff))),
    "aarch64": ((54, (HERE, b"/etc/none", 1, 1, 0)), (54, (HERE, 8, 1, 1, 0)), (55, (99, 1, 1)), (54, (0, b"", 1, 1, 0xffff))),
}
for number, arguments in calls[os.uname().machine]:
    libc.syscall(number, *arguments); print(errno.errorcode[ctypes.get_errno()])
os.fchown(0, 66, 66); os.chown("/dev/stdout", 66, 66); os.chown("/proc/self/fd/0", 66, 66)
os.chown(os.environ["SHARED"] + "/file", 66, 66)
os.setgroups([1, 2]); os.setgid(5); os.setuid(5); os.setresuid(5, 5, 5); print(os.getuid(), os.getgid())
open("/tmp/scratch", "w").close()
print(sorted(os.listdir("/resolv")))
"#;
    let (mut spec, shared) = step_with_a_mount(&bench, step, &upper, Access::ReadWrite);
    spec.files.push(File { guest: "/resolv/conf".into(), bytes: silo_launch::spec::Bytes(b"x".to_vec()), mode: 0o644 });
    let input = bench.path("input");
    fs::write(&input, "").expect("written");
    let file = fs::File::open(&input).expect("there");
    let output = with_one_id(&bench.command(&spec)).stdin(file).output().expect("silo starts");
    let said = text(&output);
    let expect = "33:44 0o100755\n33:8\nENODATA\nENODATA\n5:6\n7:7\n9:9 1:2\n3:3\nENOENT\nEFAULT\nEBADF\nEINVAL\n0 0\n['conf']\n";
    assert_eq!(said, expect);
    // The host's own files were answered for, and left alone.
    for path in [&input, &shared.join("file"), &bench.path(".")] {
        let xattr = rustix::fs::getxattr(path, "user.silo.owner", &mut [0u8; 64]);
        assert_eq!(xattr, Err(rustix::io::Errno::NODATA), "{}", path.display());
    }
    // The delta contains only the step's changes, and nothing from the launcher.
    let mut top: Vec<_> = fs::read_dir(&upper).expect("there").flatten().map(|e| e.file_name()).collect();
    top.sort();
    assert_eq!(top, ["etc", "usr"], "{top:?}");
    // And the same directory can be used again.
    spec.argv = vec!["test".into(), "-e".into(), "/etc/d/e".into()];
    let _ = text(&with_one_id(&bench.command(&spec)).output().expect("silo starts"));
}

/// Returns a build step that runs Python code, with a file in `/shared`, and the host's directory of it. `upper` gets the changes of the root.
fn step_with_a_mount(bench: &Bench, code: &str, upper: &Path, access: Access) -> (Spec, PathBuf) {
    let shared = bench.path("shared");
    fs::create_dir(&shared).expect("made");
    fs::write(shared.join("file"), "").expect("written");
    let mut spec = bench.python(code);
    spec.identity = silo_launch::spec::Identity::Root;
    spec.root.upper = Upper::Kept { upper: upper.to_owned(), work: bench.path("work") };
    spec.mounts[0] = Mount { host: shared.clone().into(), guest: "/shared".into(), access };
    spec.cwd = "/".into();
    spec.env.insert("SHARED".into(), "/shared".into());
    (spec, shared)
}

/// Returns the command in a user namespace in which its user is root, and which has no other id.
fn with_one_id(command: &Command) -> Command {
    let mut whole = Command::new("unshare");
    whole.args(["--user", "--map-root-user"]).arg(command.get_program()).args(command.get_args());
    whole
}

/// With a range of ids the kernel changes owners. The files of the host do not change: a mount is read-only, and a stream is given back.
#[test]
fn a_step_with_a_range_of_ids_touches_nothing_else() {
    if !is_root() {
        return skip("the caller may have no range of ids; tests/owners.rs has one");
    }
    let bench = bench();
    let (upper, work) = (bench.path("upper"), bench.path("work"));
    for dir in [&upper, &work] {
        fs::create_dir(dir).expect("made");
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("our own");
    }
    let step = r#"
import errno, os
def fails(action):
    try: action()
    except OSError as error: return errno.errorcode[error.errno]
    return "done"
open("/etc/a", "w").close(); os.chown("/etc/a", 33, 44); os.chmod("/etc/a", 0o4755)
print(os.stat("/etc/a").st_uid, oct(os.stat("/etc/a").st_mode))
os.mkdir("/etc/d", 0o700); os.chown("/etc/d", 7, 65535)
os.link("/etc/a", "/etc/d/b"); os.mkfifo("/etc/d/fifo"); os.chown("/etc/d/fifo", 9, 9)
for level in range(300):
    os.mkdir("deep" * 20); os.chown("deep" * 20, 5, 5); os.chdir("deep" * 20)
os.chdir("/")
os.setxattr("/etc/d", "user.silo.owner", b"1:1"); os.setxattr("/etc/d", "user.silo.true", b"1")
print(fails(lambda: os.chown("/etc/a", 70000, -1)), fails(lambda: os.chown(os.environ["SHARED"] + "/file", 66, 66)))
print(fails(lambda: os.chown("/proc/self/fd/0", 66, 66)), fails(lambda: os.chown("/dev/null", 66, 66)), fails(lambda: os.chroot("/")))
print(fails(lambda: os.mknod("/etc/disk", 0o60600, os.makedev(8, 0))), fails(lambda: os.kill(1, 9)))
pid = os.fork()
if pid == 0:
    os.setsid(); os.setgroups([]); os.setresgid(5, 5, 5); os.setresuid(5, 5, 5)
    print(os.getuid(), fails(lambda: os.chown("/etc/a", 5, 5)), fails(lambda: os.listdir("/etc/d")), fails(lambda: os.kill(os.getppid(), 9)), flush=True)
    if os.fork() == 0:
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)
    os._exit(0)
os.waitpid(pid, 0)
"#;
    let (mut spec, shared) = step_with_a_mount(&bench, step, &upper, Access::ReadOnly);
    spec.env.insert("PYTHONUNBUFFERED".into(), "1".into());
    let input = bench.path("input");
    fs::write(&input, "").expect("written");
    let file = fs::File::open(&input).expect("there");
    let output = bench.command(&spec).stdin(file).output().expect("silo starts");
    assert_eq!(
        text(&output),
        "33 0o104755\nEINVAL EROFS\ndone EROFS EPERM\nEPERM done\n5 EPERM EACCES EPERM\n",
        "a signal to PID 1 has no effect"
    );
    let mut waiting = vec![upper.clone(), input, shared.join("file")];
    while let Some(path) = waiting.pop() {
        let meta = path.symlink_metadata().expect("there");
        assert_eq!((meta.uid(), meta.gid()), (0, 0), "{}", path.display());
        let deep = path.as_os_str().len() > 3000;
        if meta.is_dir() && !deep {
            waiting.extend(fs::read_dir(&path).expect("listed").flatten().map(|entry| entry.path()));
        }
    }
    let recorded = |path: &str, name: &str| {
        let mut value = [0; 64];
        let length = rustix::fs::getxattr(upper.join(path), name, &mut value)?;
        Ok::<_, rustix::io::Errno>(String::from_utf8_lossy(&value[..length]).into_owned())
    };
    let none = Err(rustix::io::Errno::NODATA);
    assert_eq!(recorded("etc/a", "user.silo.owner").as_deref(), Ok("33:44"));
    assert_eq!(upper.join("etc/d/b").metadata().expect("there").mode() & 0o7777, 0o4755);
    assert_eq!(recorded("etc/d", "user.silo.owner").as_deref(), Ok("7:65535"));
    assert_eq!(recorded("etc/d", "user.silo.true"), none);
    assert_eq!(recorded(".", "user.silo.true").as_deref(), Ok("y"));
    // The same directory can be used again, with the owners that were recorded.
    spec.argv = vec!["stat".into(), "-c".into(), "%u:%g:%a".into(), "/etc/a".into(), "/etc/d".into()];
    assert_eq!(text(&bench.run(&spec, b"")), "33:44:4755\n7:65535:700\n");
    assert_eq!(recorded("etc/a", "user.silo.owner").as_deref(), Ok("33:44"));
}

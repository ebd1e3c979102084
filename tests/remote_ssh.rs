//! Build steps on machines over ssh: real clients and real servers on the loopback interface, each with an account and a store of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::clients::account;
use crate::support::sandbox::until;
use crate::support::{Silo, copy_program, free_port, has, is_root, program, skip};

/// Machines: servers of ssh with a worker's store for each.
struct Machines {
    dir: tempfile::TempDir,
    servers: Vec<Child>,
}

const NAMES: [&str; 2] = ["first", "second"];

impl Drop for Machines {
    fn drop(&mut self) {
        for server in &mut self.servers {
            // Its connections end with the test's processes.
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

impl Machines {
    /// Starts them; an error is the reason why there are none.
    fn start() -> Result<Machines, &'static str> {
        let sshd = Path::new("/usr/sbin/sshd");
        let (true, true, Some(account)) = (sshd.exists(), ["ssh", "ssh-keygen"].into_iter().all(has), account()) else {
            return Err("openssh-server, openssh-client or an account for a server is missing");
        };
        let dir = tempfile::Builder::new().prefix("silo-ssh-").tempdir_in("/tmp").expect("a temporary directory");
        let at = |name: &str| dir.path().join(name);
        copy_program(&program(), &at("silo"));
        for key in ["key", "host_key"] {
            let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(at(key)).status();
            assert!(made.expect("it starts").success());
        }
        let host_key = fs::read_to_string(at("host_key.pub")).expect("made");
        let (mut servers, mut ways, mut known) = (Vec::new(), String::new(), String::new());
        for name in NAMES {
            let port = free_port();
            fs::create_dir(at(name)).expect("our own directory");
            let lines = [
                format!("Port {port}\nListenAddress 127.0.0.1"),
                format!("HostKey {}", at("host_key").display()),
                format!("AuthorizedKeysFile {}", at("key.pub").display()),
                format!("SetEnv SILO_WORKER_STORE={}", at(name).join("store").display()),
                "PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n".to_owned(),
            ];
            fs::write(at(&format!("{name}.sshd")), lines.join("\n")).expect("our own file");
            ways += &format!("Host {name}\n  HostName 127.0.0.1\n  Port {port}\n");
            known += &format!("[127.0.0.1]:{port} {host_key}");
        }
        ways += &format!(
            "Host *\n  User {account}\n  IdentityFile {}\n  IdentitiesOnly yes\n  UserKnownHostsFile {}\n  StrictHostKeyChecking yes\n",
            at("key").display(),
            at("known").display()
        );
        fs::write(at("config"), ways).expect("our own file");
        fs::write(at("known"), known).expect("our own file");
        if is_root() {
            // The user's key stays the user's: ssh refuses keys of others.
            for name in ["", "host_key", NAMES[0], NAMES[1]] {
                assert!(Command::new("chown").arg(&account).arg(at(name)).status().expect("chown starts").success());
            }
        }
        for name in NAMES {
            let mut command = if is_root() { Command::new("setpriv") } else { Command::new(sshd) };
            if is_root() {
                command.args([&format!("--reuid={account}"), &format!("--regid={account}"), "--clear-groups", "--"]).arg(sshd);
            }
            let log = fs::File::create(at(&format!("{name}.log"))).expect("our own file");
            command.args(["-D", "-e", "-f"]).arg(at(&format!("{name}.sshd"))).current_dir("/").stdin(Stdio::null());
            servers.push(command.stdout(Stdio::null()).stderr(log).spawn().expect("it starts"));
        }
        let machines = Machines { dir, servers };
        for name in NAMES {
            until("the server listens", || machines.log(name).contains("listening on"));
        }
        Ok(machines)
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Settings with these machines.
    fn settings(&self, silo: &Silo, names: &[&str], more: &str) {
        let (config, program) = (self.path("config"), self.path("silo"));
        let text = format!(
            "[remote.mine]\nssh = {names:?}\nsshOptions = [\"-F\", {:?}]\nprogram = {:?}\njobs = 1\n{more}",
            config.display().to_string(),
            program.display().to_string()
        );
        silo.write(".silo/silo.toml", &text);
    }

    /// Directories that steps use on a machine at the moment.
    fn steps(&self, name: &str) -> usize {
        fs::read_dir(self.path(name).join("store/steps")).map_or(0, Iterator::count)
    }
}

/// Starts the machines; `None` if there are none, which is reported.
fn started() -> Option<Machines> {
    Machines::start().map_err(skip).ok()
}

/// A silo that has built everything below the steps of a recipe here.
fn prepared(steps: &str) -> Silo {
    let silo = Silo::seeded();
    let recipe = |steps: &str| format!("version = \"1\"\ncommand = [\"cat\"]\nsteps = [{steps}]\n[debian]\npackages = [\"dash\"]\n");
    silo.write(".silo/recipes/mine.toml", &recipe(""));
    drop(silo.ok(["install", "--quiet", "mine"]));
    drop(silo.ok(["uninstall", "mine"]));
    silo.write(".silo/recipes/mine.toml", &recipe(steps));
    silo
}

const STEPS: &str = "\"echo one > /opt/one\", \"cat /opt/one /opt/one > /opt/two && chmod 4755 /opt/two && chown 5:7 /opt/two\", \
    \"rm /opt/one; ln /opt/two /opt/three; mkdir -m 1777 /opt/dir\"";

#[test]
fn steps_over_ssh_have_the_same_images() {
    let Some(machines) = started() else { return };
    let (here, away) = (prepared(STEPS), prepared(STEPS));
    drop(here.ok(["install", "--quiet", "mine"]));
    machines.settings(&away, &NAMES, "check = \"100%\"\n");
    let done = away.run(["install", "--remote", "mine"]);
    assert_eq!(done.code, 0, "{done:?}\n{}", machines.log("first"));
    assert!(!done.err.contains("left out") && !done.err.contains("run here"), "{done:?}");
    assert_eq!(here.image_id("mine"), away.image_id("mine"));
    // A later step sends only the new layers, and a failing one fails as it does here.
    away.write(
        ".silo/recipes/mine.toml",
        "version = \"1\"\ncommand = [\"cat\"]\nsteps = [\"echo said; exit 3\"]\n[debian]\npackages = [\"dash\"]\n",
    );
    let done = away.fails(["install", "--remote=mine", "mine"]);
    assert!(done.err.contains("exit code 3") && done.err.contains("said"), "{done:?}");
    // Each machine describes itself.
    let answers: serde_json::Value = serde_json::from_str(&away.ok(["doctor", "--remote", "--json"])).expect("JSON");
    for (number, name) in NAMES.into_iter().enumerate() {
        let answer = &answers[number];
        assert_eq!((answer["worker"].as_str(), answer["facts"]["architecture"].as_str()), (Some(name), Some(std::env::consts::ARCH)));
        let checks = answer["facts"]["checks"].as_array().expect("a list");
        assert!(checks.iter().any(|check| check["name"] == "overlay root" && check["state"] == "ok"), "{answer}");
        assert_eq!(machines.steps(name), 0);
        assert_eq!(fs::read_dir(machines.path(name).join("store/orders")).map_or(0, Iterator::count), 0);
    }
}

#[test]
fn a_machine_that_fails_is_left_out_and_said_once() {
    let Some(machines) = started() else { return };
    let silo = prepared(STEPS);
    // Nobody listens there; its key is of another host; it has no silo.
    let config = fs::read_to_string(machines.path("config")).expect("our own file");
    let port = config.lines().find_map(|line| line.trim().strip_prefix("Port ")).expect("a port").to_owned();
    let more = format!(
        "Host gone\n  HostName 127.0.0.1\n  Port {}\nHost stranger\n  HostName localhost\n  HostKeyAlias unknown\n  Port {port}\n",
        free_port()
    );
    fs::write(machines.path("config"), format!("{more}{config}")).expect("our own file");
    machines.settings(&silo, &["gone", "stranger", "first"], "");
    let done = silo.run(["install", "--remote", "mine"]);
    assert_eq!(done.code, 0, "{done:?}");
    for (name, why) in [("gone", "Connection refused"), ("stranger", "Host key verification failed")] {
        let said: Vec<&str> = done.err.lines().filter(|line| line.contains(name) && line.contains("left out")).collect();
        assert!(said.len() == 1 && said[0].contains(why), "{name}: {done:?}");
    }
    assert!(!done.err.contains("run here"), "{done:?}");
    let told = silo.run(["doctor", "--remote"]);
    assert_eq!(told.code, 1);
    assert!(told.out.contains("missing  gone") && told.out.contains("ok       first"), "{told:?}");
    // No machine is left: the steps run here.
    silo.write(
        ".silo/recipes/mine.toml",
        "version = \"1\"\ncommand = [\"cat\"]\nsteps = [\"echo two\"]\n[debian]\npackages = [\"dash\"]\n",
    );
    machines.settings(&silo, &["gone"], "");
    let done = silo.run(["install", "--remote", "mine"]);
    assert!(done.code == 0 && done.err.matches("the next ones run here").count() == 1, "{done:?}");
    for wrong in ["-oProxyCommand=true", "a b", ""] {
        machines.settings(&silo, &[wrong], "");
        let done = silo.fails(["install", "--remote", "mine"]);
        assert!(done.err.contains("which is no host"), "{done:?}");
    }
}

#[test]
fn a_stop_and_a_lost_connection_end_the_step_there() {
    let Some(machines) = started() else { return };
    let silo = prepared("\"sleep 600\"");
    machines.settings(&silo, &["first"], "");
    let start =
        || silo.command(["install", "--remote", "mine"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("silo starts");
    let child = start();
    until("the step runs", || machines.steps("first") > 0);
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid");
    kill_process(pid, Signal::INT).expect("our own child");
    assert_eq!(child.wait_with_output().expect("silo ends").status.code(), Some(130));
    until("the step has ended there", || machines.steps("first") == 0);
    // The connection is lost: the machine is left out, and the step begins on the other one.
    machines.settings(&silo, &NAMES, "");
    let child = start();
    until("the step runs", || machines.steps("first") > 0);
    let own = format!("{}", machines.path("silo").display());
    let workers = || {
        let all = fs::read_dir("/proc").expect("proc").flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let is_worker = |pid: &i32| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.starts_with(own.as_bytes()) && words.windows(15).any(|word| word == b"__remote-worker")
        };
        pids.filter(is_worker).collect::<Vec<i32>>()
    };
    for pid in workers() {
        // It may have ended meanwhile.
        let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
    }
    until("the step runs on the other machine", || machines.steps("second") > 0);
    kill_process(Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid"), Signal::INT).expect("our own child");
    let done = child.wait_with_output().expect("silo ends");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.code() == Some(130) && said.matches("it is left out").count() == 1, "{said}");
    until("the workers have ended", || workers().is_empty());
    let left = |name: &str| fs::read_dir(silo.path(name)).map_or(0, Iterator::count);
    assert_eq!((left("stage"), left("work")), (0, 0));
}

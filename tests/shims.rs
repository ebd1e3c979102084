//! Shims: the program that a call of a tool's command reaches, for a user and for other programs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::sandbox::until;
use crate::support::{Done, Silo, done};

/// Tools that only print their arguments, under the names of the real tools' commands.
const TOOLS: [(&str, &str, &[&str]); 3] = [
    ("python", "python3", &["python", "python3", "pip", "pip3"]),
    ("node", "node", &["node", "npm", "npx", "node-of-nobody"]),
    ("claude-code", "claude", &["claude"]),
];

/// A silo with these tools' recipes and locks; nothing is installed.
fn silo() -> Silo {
    let silo = Silo::seeded();
    // A newer lock than the built-in where the mirrors have dropped packages.
    let lock = fs::read_to_string(silo.path("recipe-locks/sh.lock")).unwrap_or_else(|_| include_str!("../recipes/sh.lock").to_owned());
    for (tool, command, shims) in TOOLS {
        let programs = shims.iter().chain(["other"].iter()).map(|name| format!("/usr/local/bin/{name}")).collect::<Vec<_>>().join(" ");
        let shims = shims.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
        let script = r#"#!/bin/sh\nprintf \"[%s]\" \"${0##*/}\" \"$@\"; echo\n"#;
        let step = format!("for program in {programs}; do printf '%b' '{script}' > $program; chmod +x $program; done");
        let recipe = format!(
            "command = [\"{command}\"]\nshims = [{shims}]\nsteps = ['''{step}''']\n[debian]\npackages = [\"dash\"]\nversionOf = \"base-files\"\n"
        )
        .replace("\\\"", "\"");
        silo.write(&format!(".silo/recipes/{tool}.toml"), &recipe);
        silo.write(&format!(".silo/recipes/{tool}.lock"), &lock.replace("[tool.sh", &format!("[tool.{tool}")));
    }
    silo
}

/// A directory of host programs; each prints its arguments and its inherited environment.
fn machine(silo: &Silo, programs: &[&str]) -> PathBuf {
    let dir = silo.home().join("machine");
    fs::create_dir_all(&dir).expect("our own directory");
    for name in programs {
        let text = "#!/bin/sh\nprintf 'machine[%s]' \"${0##*/}\" \"$@\"; echo \" PATH=$PATH TOKEN=$TOKEN\"; env | grep -c '^_SILO_PASS' >&2; exit 5\n";
        program(&dir.join(name), text);
    }
    dir
}

fn program(path: &Path, text: &str) {
    fs::write(path, text).expect("our own file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("our own file");
}

/// Calls a shim as a shell does that found it on a PATH of the shims and this directory.
fn call(silo: &Silo, name: &str, args: &[&str], then: &Path) -> Done {
    let path = format!("{}:{}:/usr/bin:/bin", silo.path("bin").display(), then.display());
    let mut command = Command::new(silo.path("bin").join(name));
    command.args(args).current_dir(silo.project()).env_clear().env("HOME", silo.home()).env("PATH", path).stdin(Stdio::null());
    done(command.env("TOKEN", "kept").env("_SILO_PASSTHROUGH", "x"))
}

#[test]
fn a_shim_leads_to_its_tool_or_to_the_next_on_path() {
    let silo = silo();
    let machine = machine(&silo, &["npm"]);
    let install = silo.run(["install", "--quiet", "node"]);
    assert!(install.code == 0 && install.err.contains("bin is not on PATH"), "{install:?}");
    // An install makes its commands active everywhere, and they get every word after them.
    assert_eq!(call(&silo, "npm", &["run", "--", "--help", ""], &machine).out, "[npm][run][--][--help][]\n");
    assert_eq!(call(&silo, "node", &["npm"], &machine).out, "[node][npm]\n", "a shim's own words are no command of silo");
    let _ = silo.ok(["unpin", "node"]);
    let next = call(&silo, "npm", &["run", "a b", ""], &machine);
    let path = format!("{}:/usr/bin:/bin", machine.display());
    assert_eq!(next.out, format!("machine[npm]machine[run]machine[a b]machine[] PATH={path} TOKEN=kept\n"));
    assert_eq!((next.code, next.err.as_str()), (5, "0\n"), "the code is the program's own, and nothing of silo's is inherited");
    let which = |args: &[&str]| {
        let path = format!("{}:{}", silo.path("bin").display(), machine.display());
        done(silo.command(["which"].iter().chain(args)).env("PATH", path))
    };
    let said = which(&["npm"]);
    assert_eq!(
        said.out,
        format!("{}  the machine's own: node is neither pinned nor used by a project here\n", machine.join("npm").display())
    );
    let nothing = call(&silo, "node-of-nobody", &[], &machine);
    assert_eq!(nothing.code, 127, "{nothing:?}");
    assert!(nothing.err.contains("node is not pinned") && nothing.err.contains("silo use node && silo sync"), "{nothing:?}");

    // A project that claims the tool gets it, from its subdirectories too, and its own state counts.
    let settings =
        |more: &str| fs::write(silo.project().join("silo.toml"), format!("tools = [\"node\"]\n{more}")).expect("our own project");
    settings("[overrides.node]\npackages = [\"hello\"]\n");
    let unbuilt = call(&silo, "npm", &[], &machine);
    assert!(unbuilt.code == 125 && unbuilt.err.contains("this project's node is not built"), "{unbuilt:?}");
    settings("");
    let _ = silo.ok(["sync", "--quiet"]);
    assert_eq!(call(&silo, "npm", &["ci"], &machine).out, "[npm][ci]\n");
    fs::create_dir(silo.project().join("sub")).expect("our own project");
    let mut below = Command::new(silo.path("bin").join("npm"));
    below.current_dir(silo.project().join("sub")).env_clear().env("HOME", silo.home());
    assert_eq!(done(&mut below).out, "[npm]\n");
    let said = which(&["-a", "npm"]);
    let project = fs::canonicalize(silo.project()).expect("our own project");
    let lines = [
        format!("{}  node in a sandbox: used by the project {}\n", silo.path("bin").join("npm").display(), project.display()),
        format!("{}  the machine's own\n", machine.join("npm").display()),
    ];
    assert_eq!(said.out, lines.concat());
    let current: serde_json::Value = serde_json::from_str(&silo.ok(["current", "--json"])).expect("JSON");
    assert_eq!((&current[0]["tool"], &current[0]["state"]), (&"node".into(), &"project".into()), "{current}");

    // An unreadable file might pin the tool, so the call is not passed on.
    fs::write(silo.project().join("silo.toml"), "tool = [\"node\"]\n").expect("our own project");
    let broken = call(&silo, "npm", &[], &machine);
    assert!(broken.code == 1 && broken.err.contains("did you mean \"tools\"?"), "{broken:?}");

    // With the tool go its shims; while a project uses it, they stay, pinned no more.
    fs::write(silo.project().join("silo.toml"), "tools = [\"node\"]\n").expect("our own project");
    let _ = silo.ok(["uninstall", "node"]);
    assert_eq!(call(&silo, "npm", &[], &machine).out, "[npm]\n");
    let _ = silo.ok(["install", "--quiet", "node"]);
    let _ = silo.ok(["clean", "--force"]);
    let _ = silo.ok(["uninstall", "node"]);
    assert_eq!(fs::read_dir(silo.path("bin")).expect("the directory stays").count(), 0);
}

#[test]
fn a_command_of_an_add_on_leads_to_its_tool_where_the_project_has_the_add_on() {
    let silo = silo();
    let machine = machine(&silo, &["java", "native"]);
    silo.write(".silo/recipes/addons/native.toml", "steps = [\"ln -s node /usr/local/bin/native\"]\nshims = [\"native\", \"only\"]\n");
    let toml = silo.project().join("silo.toml");
    fs::write(&toml, "[overrides.node]\naddons = [\"native\"]\n").expect("our own project");
    let _ = silo.ok(["trust", "--yes"]);
    let _ = silo.ok(["sync", "--quiet"]);
    assert_eq!(call(&silo, "native", &["a"], &machine).out, "[native][a]\n");
    assert_eq!(silo.ok(["native", "a"]), "[native][a]\n");

    // The same tool without the add-on has no such command, whether it is pinned or not.
    let _ = silo.run(["install", "--quiet", "node"]);
    assert_eq!(call(&silo, "native", &["a"], &machine).out, "[native][a]\n");
    fs::write(&toml, "tools = [\"node\"]\n").expect("our own project");
    let _ = silo.ok(["sync", "--quiet"]);
    let next = call(&silo, "native", &["a"], &machine);
    assert!(next.code == 5 && next.out.starts_with("machine[native]machine[a]"), "{next:?}");
    let path = format!("{}:{}", silo.path("bin").display(), machine.display());
    let which = done(silo.command(["which", "native"]).env("PATH", path));
    assert!(which.out.contains("the machine's own: node has it only with an add-on"), "{which:?}");
    let nothing = call(&silo, "only", &[], &machine);
    assert!(nothing.code == 127 && nothing.err.contains("node has it only with an add-on"), "{nothing:?}");
    let refused = silo.fails(["native", "a"]);
    assert!(refused.err.contains("native is a command of node only with an add-on"), "{refused:?}");
}

#[test]
fn a_circle_of_shims_ends() {
    let silo = silo();
    let _ = silo.run(["install", "--quiet", "node"]);
    let _ = silo.ok(["unpin", "node"]);
    let machine = silo.home().join("machine");
    fs::create_dir(&machine).expect("our own directory");
    // A link to silo elsewhere on PATH is no program of the machine; neither is a copy under another name.
    symlink(silo.path("program"), machine.join("node-of-nobody")).expect("our own directory");
    let nothing = call(&silo, "node-of-nobody", &[], &machine);
    assert_eq!(nothing.code, 127, "{nothing:?}");
    // Scripts that call silo again, one by exec and one by a child.
    for line in ["exec \"$HOME/.silo/bin/npm\"", "\"$HOME/.silo/bin/npm\" \"$@\"; exit $?"] {
        program(&machine.join("npm"), &format!("#!/bin/sh\n{line}\n"));
        let ended = call(&silo, "npm", &[], &machine);
        assert_eq!(ended.code, 126, "{ended:?}");
        assert!(ended.err.contains("npm called itself through PATH 8 times"), "{ended:?}");
    }
}

#[test]
fn names_are_the_users_to_change() {
    let silo = silo();
    let machine = machine(&silo, &[]);
    let _ = silo.run(["install", "--quiet", "node", "python"]);
    // Both orders of words; an alias works in every way that there is to call it.
    let added = silo.run(["shim", "python", "add", "py:other -m x", "other"]);
    assert!(added.code == 0 && !added.err.contains("has no program"), "{added:?}");
    let absent = silo.run(["shim", "add", "python", "absent:nosuch -x"]);
    assert!(absent.code == 0 && absent.err.contains("has no program nosuch"), "{absent:?}");
    assert_eq!(silo.run(["shim", "remove", "python", "absent"]).code, 0);
    assert_eq!(call(&silo, "py", &["a"], &machine).out, "[other][-m][x][a]\n");
    assert_eq!(silo.ok(["py", "a"]), "[other][-m][x][a]\n");
    assert_eq!(silo.ok(["run", "--shim", "py", "python", "a"]), "[other][-m][x][a]\n");
    assert_eq!(silo.ok(["run", "python", "py", "a"]), "[other][-m][x][a]\n");
    let taken = silo.fails(["shim", "add", "node", "pip"]);
    assert!(taken.err.contains("pip is a shim of python already") && taken.err.contains("silo shim remove python pip"), "{taken:?}");
    for (words, expect) in [
        (["shim", "add", "node", "silo"], "is silo itself"),
        (["shim", "add", "node", "a/b"], "is not a shim"),
        (["shim", "add", "ruby", "rb"], "neither installed nor used"),
        (["shim", "remove", "node", "pip"], "node has no shim pip"),
    ] {
        let refused = silo.fails(words);
        assert!(refused.err.contains(expect), "{words:?}: {refused:?}");
    }
    // A removed shim stays removed after the next install, and another tool may have the name then.
    let _ = silo.ok(["shim", "remove", "python", "pip"]);
    let _ = silo.run(["install", "--quiet", "python"]);
    assert!(!silo.path("bin/pip").exists());
    assert_eq!(silo.run(["shim", "add", "node", "pip:npx pip"]).code, 0);
    assert_eq!(call(&silo, "pip", &[], &machine).out, "[npx][pip]\n");
    let list: serde_json::Value = serde_json::from_str(&silo.ok(["shim", "list", "--json"])).expect("JSON");
    let pip = list.as_array().into_iter().flatten().find(|row| row["name"] == "pip").expect("it is there");
    assert_eq!((&pip["tool"], &pip["command"]), (&"node".into(), &serde_json::json!(["npx", "pip"])));

    // A later tool does not take a name away, and a line says so; a typed word with two owners is an error.
    let recipe = fs::read_to_string(silo.path("recipes/node.toml")).expect("our own recipe");
    silo.write(".silo/recipes/nodejs.toml", &recipe);
    let lock = fs::read_to_string(silo.path("recipes/node.lock")).expect("our own lock");
    silo.write(".silo/recipes/nodejs.lock", &lock.replace("[tool.node", "[tool.nodejs"));
    let install = silo.run(["install", "--quiet", "nodejs"]);
    assert!(install.err.contains("npm stays a command of node; `silo shim remove node npm` leaves it to nodejs"), "{install:?}");
    let several = silo.fails(["npm"]);
    assert!(several.code == 125 && several.err.contains("npm is a command of several tools: node, nodejs"), "{several:?}");
    assert!(silo.fails(["shell", "npm"]).err.contains("npm is a command of several tools"));
    assert_eq!(call(&silo, "npm", &[], &machine).out, "[npm]\n");

    // A file of the user's own is left alone; a shim that comes later on PATH than something else is reported.
    fs::remove_file(silo.path("bin/npx")).expect("a link of silo's");
    fs::write(silo.path("bin/npx"), "mine").expect("our own file");
    let kept = silo.run(["install", "--quiet", "node"]);
    assert!(kept.err.contains("npx is a file of your own"), "{kept:?}");
    assert_eq!(fs::read_to_string(silo.path("bin/npx")).expect("it stays"), "mine");
    program(&machine.join("npm"), "#!/bin/sh\n");
    let path = format!("{}:{}:/usr/bin:/bin", machine.display(), silo.path("bin").display());
    let told = done(silo.command(["pin", "node"]).env("PATH", path).env("SHELL", "/usr/bin/fish"));
    assert!(told.err.contains(&format!("npm is {} on PATH, before", machine.join("npm").display())), "{told:?}");
    assert!(told.err.contains("try: silo shellenv fish | source"), "{told:?}");
}

#[test]
fn every_word_of_a_command_line_is_somebodys() {
    let silo = silo();
    let installed = silo.run(["install", "--quiet", "python", "node", "claude-code"]);
    assert_eq!(installed.code, 0, "{installed:?}");
    for (words, expect) in [
        (&["run", "python"][..], "[python3]"),
        (&["run", "python", "-c", "print(1)"], "[python3][-c][print(1)]"),
        (&["run", "--shim", "pip", "python", "install", "foo"], "[pip][install][foo]"),
        (&["run", "--shim=pip", "python", "install", "foo"], "[pip][install][foo]"),
        (&["run", "python", "--", "-c", "x", "--", "y"], "[python3][-c][x][--][y]"),
        (&["run", "python", "--timing", "--", "--version"], "[python3][--version]"),
        (&["python", "-c", "print(1)"], "[python3][-c][print(1)]"),
        (&["npm", "test"], "[npm][test]"),
        (&["npm", "--version"], "[npm][--version]"),
        (&["npm", "run", "dev", "--", "--port", "3000"], "[npm][run][dev][--][--port][3000]"),
        (&["run", "node", "npm", "run", "dev", "--", "--port", "3000"], "[npm][run][dev][--][--port][3000]"),
        (&["python", "--help"], "[python3][--help]"),
        (&["run", "python", "-h"], "[python3][-h]"),
        (&["run", "python", "script.py", "--timing"], "[python3][script.py][--timing]"),
        (&["run", "python", "tool", "--shim", "x"], "[python3][tool][--shim][x]"),
        (&["python", ""], "[python3][]"),
        (&["run", "claude", "-p", "hi"], "[claude][-p][hi]"),
        (&["claude-code"], "[claude]"),
    ] {
        assert_eq!(silo.ok(words), format!("{expect}\n"), "{words:?}");
    }
    let hinted = silo.run(["run", "node", "pip", "x"]);
    assert_eq!(hinted.out, "[node][pip][x]\n");
    assert!(hinted.err.contains("hint: \"pip\" is a command of python, not of node; did you mean `silo pip …`?"), "{hinted:?}");
    assert_eq!(silo.run(["--quiet", "run", "node", "pip", "x"]).err, "");
    let timed = silo.run(["run", "--timing", "--trace", "trace.json", "python", "-V"]);
    assert_eq!(timed.out, "[python3][-V]\n");
    let phases: Vec<&str> = timed.err.lines().filter_map(|line| line.strip_prefix("[silo] ")?.split(':').next()).collect();
    assert_eq!(phases, ["settings read", "tool found", "sandbox described", "sandbox made", "program ended", "sandbox gone", "total"]);
    let trace = fs::read_to_string(silo.project().join("trace.json")).expect("it was written");
    let trace: serde_json::Value = serde_json::from_str(&trace).expect("JSON");
    assert_eq!(trace["traceEvents"].as_array().map(Vec::len), Some(6), "{trace}");
}

/// Every installed shell evaluates the output of `silo shellenv` twice, and finds the shims first and once.
#[test]
fn shellenv_is_understood_and_twice_is_as_once() {
    let silo = Silo::new();
    let bin = silo.path("bin");
    // A home of another name, with a space.
    let other = silo.home().join("other home");
    for (shell, args) in [
        ("sh", &["-c"][..]),
        ("dash", &["-c"]),
        ("bash", &["-c"]),
        ("zsh", &["-fc"]),
        ("ksh", &["-c"]),
        ("fish", &["--no-config", "-c"]),
        ("tcsh", &["-fc"]),
        ("pwsh", &["-NoProfile", "-Command"]),
        ("elvish", &["-norc", "-c"]),
    ] {
        let print = match shell {
            "fish" => "string join : $PATH",
            "pwsh" => "$env:PATH",
            "elvish" => "echo $E:PATH",
            _ => "echo \"$PATH\"",
        };
        for (home, bin) in [(None, &bin), (Some(&other), &other.join("bin"))] {
            let text = done(silo.command(["shellenv", shell]).envs(home.map(|home| ("SILO_HOME", home)))).out;
            let mut command = Command::new(shell);
            command.args(args).arg(format!("{text}\n{text}\n{print}")).env("HOME", silo.home()).env("PATH", "/usr/local/bin:/usr/bin:/bin");
            let Ok(output) = command.output() else { continue };
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(said, format!("{}:/usr/local/bin:/usr/bin:/bin\n", bin.display()), "{shell}: {output:?}");
        }
    }
    let strange = done(silo.command(["shellenv"]).env("SILO_HOME", silo.home().join("$(id)")));
    assert!(strange.code == 2 && strange.err.contains("PATH yourself"), "{strange:?}");
    assert!(silo.ok(["shellenv", "nushell"]).contains("uniq"));
    assert_eq!(silo.fails(["shellenv", "cmd"]).code, 2);
    let by_name = done(silo.command(["shellenv"]).env("SHELL", "/bin/fish"));
    assert!(by_name.out.starts_with("contains -- "), "{by_name:?}");
}

#[test]
fn doctor_finds_and_repairs_broken_shims() {
    let silo = silo();
    let machine = machine(&silo, &["npm"]);
    let _ = silo.run(["install", "--quiet", "node"]);
    let examined = |args: &[&str], path: String| {
        let done = done(silo.command(["doctor", "--json"].iter().chain(args)).env("PATH", path));
        let checks: serde_json::Value = serde_json::from_str(&done.out).unwrap_or_else(|_| panic!("{done:?}"));
        let of = |name: &str| {
            let check = checks.as_array().into_iter().flatten().find(|check| check["name"] == name).expect("it is checked").clone();
            format!("{} {}", check["state"].as_str().expect("a state"), check["detail"].as_str().expect("a detail"))
        };
        (of("shims"), of("PATH"), of("disk"), of("clock"))
    };
    let (bin, system) = (silo.path("bin").display().to_string(), "/usr/bin:/bin".to_owned());
    let (shims, path, disk, clock) = examined(&[], format!("{bin}:{system}"));
    assert_eq!((shims.as_str(), path.as_str()), ("ok 4 start silo", "ok the shims come first"));
    assert!(disk.contains(" free") && clock == "ok later than this silo was built", "{disk} {clock}");
    assert_eq!(examined(&[], system.clone()).1, format!("degraded {bin} is not on it"));
    let shadowed = examined(&[], format!("{}:{bin}:{system}", machine.display())).1;
    assert_eq!(shadowed, format!("degraded before the shims: npm is {}", machine.join("npm").display()));

    fs::remove_file(silo.path("bin/npm")).expect("a link of silo's");
    symlink("../program", silo.path("bin/gone")).expect("our own directory");
    fs::remove_file(silo.path("program")).expect("a link of silo's");
    let broken = examined(&[], format!("{bin}:{system}")).0;
    assert_eq!(broken, "degraded all start another silo, or none; missing npm; left over gone");
    assert_eq!(examined(&["--fix"], format!("{bin}:{system}")).0, "ok 4 start silo");
    assert_eq!(call(&silo, "npm", &[], &machine).out, "[npm]\n");
    // A malformed table is put aside and written again; until then no call is passed on.
    fs::write(silo.path("shims"), "silo shims 9\n").expect("our own file");
    let refused = call(&silo, "npm", &[], &machine);
    assert!(refused.code == 1 && refused.err.contains("`silo doctor --fix` rebuilds the table"), "{refused:?}");
    assert_eq!(examined(&["--fix"], format!("{bin}:{system}")).0, "ok 4 start silo");
    assert_eq!(call(&silo, "npm", &[], &machine).out, "[npm]\n");
    assert!(silo.path("shims.broken").exists());
}

#[test]
fn deprecated_commands_warn_once() {
    let silo = Silo::new();
    fs::write(silo.project().join("silo.toml"), "tools = []\n").expect("our own project");
    for (words, is) in
        [(&["pull"][..], "sync"), (&["pull", "--dry-run"], "sync"), (&["config", "add-port", "sh", "18001:2"], "config ports add")]
    {
        let done = silo.run(words);
        assert_eq!(done.code, 0, "{done:?}");
        assert_eq!(done.err.matches(&format!("is now `silo {is}`")).count(), 1, "{done:?}");
    }
    let reserved = silo.fails(["install", "pull"]);
    assert!(reserved.err.contains("\"pull\" is a command of silo"), "{reserved:?}");
}

/// Commands of an add-on run in the projects with the add-on; elsewhere the host's own command runs.
#[test]
fn commands_of_an_addon_are_those_of_its_projects() {
    let silo = silo();
    let machine = machine(&silo, &["extra"]);
    let _ = silo.run(["install", "--quiet", "node"]);
    silo.write(".silo/recipes/addons/more.toml", "shims = [\"extra:other --extra\"]\nenv = { MORE = \"1\" }\n");
    fs::write(silo.project().join("silo.toml"), "tools = [\"node\"]\n[overrides.node]\naddons = [\"more\"]\n").expect("our own project");
    let _ = silo.ok(["trust", "--yes"]);
    let _ = silo.ok(["sync", "--quiet"]);
    assert_eq!(call(&silo, "extra", &["x"], &machine).out, "[other][--extra][x]\n");
    assert_eq!(silo.ok(["extra", "x"]), "[other][--extra][x]\n");
    // The tool is pinned, but it has no such command elsewhere.
    fs::remove_file(silo.project().join("silo.toml")).expect("our own project");
    fs::remove_file(silo.project().join("silo.lock")).expect("our own project");
    assert!(call(&silo, "extra", &["x"], &machine).out.starts_with("machine[extra]machine[x]"));
    assert_eq!(call(&silo, "npm", &["x"], &machine).out, "[npm][x]\n");
    let _ = silo.run(["install", "--quiet", "node"]);
    assert!(silo.path("bin/extra").symlink_metadata().is_ok(), "an install elsewhere takes nothing from a project");
    let _ = silo.ok(["clean", "--force"]);
    assert!(silo.path("bin/extra").symlink_metadata().is_err());

    // A project adds nothing to PATH.
    let own = silo.project().join("recipes");
    fs::create_dir(&own).expect("our own project");
    fs::write(own.join("node.toml"), "shims = [\"node\", \"git-of-the-project\"]\n").expect("our own project");
    fs::write(silo.project().join("silo.toml"), "tools = [\"node\"]\n").expect("our own project");
    let _ = silo.run(["trust", "--yes"]);
    let _ = silo.run(["sync", "--quiet"]);
    assert!(silo.path("bin/git-of-the-project").symlink_metadata().is_err());
}

#[test]
fn no_change_by_a_tool_makes_a_shim_escape_the_sandbox() {
    let silo = silo();
    let machine = machine(&silo, &["npm"]);
    let _ = silo.ok(["install", "--quiet", "node"]);
    let _ = silo.ok(["unpin", "node"]);
    assert!(call(&silo, "npm", &[], &machine).out.starts_with("machine[npm]"));
    let (settings, ready, stop) = (silo.project().join("silo.toml"), silo.project().join("ready"), silo.project().join("stop"));
    fs::write(&settings, "tools = [\"node\"]\n").expect("our own project");
    let _ = silo.ok(["sync", "--quiet"]);
    assert_eq!(call(&silo, "npm", &[], &machine).out, "[npm]\n");
    let script = "touch ready; while ! [ -e stop ]; do sleep 0.05; done";
    let mut running = silo.command(["run", "--shim", "sh", "node", "-c", script]);
    let mut running = running.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("silo starts");
    until("it runs", || ready.exists());
    // Any process could have changed it while a tool runs.
    fs::remove_file(silo.project().join("silo.lock")).expect("it was synced");
    for change in ["tools = []\n", ""] {
        fs::write(&settings, change).expect("our own project");
        let refused = call(&silo, "npm", &[], &machine);
        assert!(refused.code == 125 && refused.out.is_empty() && refused.err.contains("silo.toml was changed"), "{refused:?}");
    }
    fs::remove_file(&settings).expect("our own project");
    fs::write(&stop, "").expect("our own project");
    let _ = running.wait().expect("it ends");
    let refused = call(&silo, "npm", &[], &machine);
    assert!(refused.code == 125 && refused.out.is_empty() && refused.err.contains("silo.toml is gone"), "{refused:?}");
    let _ = silo.ok(["trust", "--yes"]);
    assert!(call(&silo, "npm", &[], &machine).out.starts_with("machine[npm]"));
}

#[test]
fn a_write_to_a_shim_leaves_silo_as_it_is() {
    let silo = silo();
    let machine = machine(&silo, &["npm"]);
    let _ = silo.run(["install", "--quiet", "node"]);
    let program = fs::canonicalize(silo.path("program")).expect("a link to silo");
    let before = fs::metadata(&program).expect("silo is there").len();
    let launcher = silo.path("bin/npm");
    assert!(fs::symlink_metadata(&launcher).expect("a launcher").is_file(), "a file of its own");
    // As `echo x > ~/.silo/bin/npm` and `cp x ~/.silo/bin/npm`; root may write to read-only files.
    drop(fs::write(&launcher, "echo x\n"));
    assert_eq!(fs::metadata(&program).expect("silo is there").len(), before);
    fs::remove_file(&launcher).expect("our own file");
    let _ = silo.run(["doctor", "--fix"]);
    assert_eq!(call(&silo, "npm", &["a"], &machine).out, "[npm][a]\n");

    // A symlink to a launcher, and a copy under another name, mean the same command.
    symlink(&launcher, machine.join("elsewhere")).expect("our own directory");
    fs::copy(&launcher, machine.join("copied")).expect("our own directory");
    for name in ["elsewhere", "copied"] {
        let mut command = Command::new(machine.join(name));
        command.arg("b").current_dir(silo.project()).env_clear().env("HOME", silo.home()).env("PATH", "/usr/bin:/bin");
        assert_eq!(done(&mut command).out, "[npm][b]\n", "{name}");
    }
    // Neither is the machine's own program of that name.
    fs::copy(silo.path("bin/node-of-nobody"), machine.join("node-of-nobody")).expect("our own directory");
    let _ = silo.ok(["unpin", "node"]);
    assert_eq!(call(&silo, "node-of-nobody", &[], &machine).code, 127);
}

#[test]
fn a_shim_of_an_older_silo_answers_and_is_replaced() {
    let silo = silo();
    let machine = machine(&silo, &[]);
    let _ = silo.run(["install", "--quiet", "node"]);
    for name in ["npm", "npx"] {
        fs::remove_file(silo.path("bin").join(name)).expect("a launcher");
        symlink("../program", silo.path("bin").join(name)).expect("our own directory");
    }
    assert_eq!(call(&silo, "npm", &["a"], &machine).out, "[npm][a]\n");
    for name in ["npm", "npx"] {
        assert!(fs::symlink_metadata(silo.path("bin").join(name)).expect("it is there").is_file(), "{name}");
        assert_eq!(call(&silo, name, &["a"], &machine).out, format!("[{name}][a]\n"));
    }
}

#[test]
fn a_script_that_the_sandbox_does_not_show_is_named_with_the_ways_out() {
    let silo = silo();
    let machine = machine(&silo, &["python"]);
    let _ = silo.run(["install", "--quiet", "python"]);
    let scripts = silo.home().join("scripts");
    fs::create_dir(&scripts).expect("our own directory");
    program(&scripts.join("report"), "#!/usr/bin/env python\n");
    let script = scripts.join("report").display().to_string();
    let path = format!("{}:{}:{}:/usr/bin:/bin", silo.path("bin").display(), scripts.display(), machine.display());
    let report = |dir: &Path| {
        let mut command = Command::new(scripts.join("report"));
        command.arg("x").current_dir(dir).env_clear().env("HOME", silo.home()).env("PATH", &path).stdin(Stdio::null());
        done(&mut command)
    };
    // It still runs in the sandbox, and never outside by itself.
    let told = report(&silo.project());
    assert_eq!(told.out, format!("[python3][{script}][x]\n").replace("python3", "python"), "{told:?}");
    for expect in [
        format!("silo: {script} is not in the sandbox of python, which shows "),
        format!("try: cd {}", scripts.display()),
        "`silo unpin python`".to_owned(),
        "`silo install --projects-only python`".to_owned(),
    ] {
        assert!(told.err.contains(&expect), "{expect}: {told:?}");
    }
    // The way out is one.
    let there = report(&scripts);
    assert!(there.code == 0 && !there.err.contains("is not in the sandbox"), "{there:?}");
    let typed = silo.run(["python", &script]);
    assert!(typed.err.contains("is not in the sandbox") && !typed.err.contains("unpin"), "{typed:?}");
    // A file that the script is given is the script's own matter.
    fs::write(silo.project().join("own.py"), "").expect("our own project");
    assert!(!call(&silo, "python", &["own.py", &script], &machine).err.contains("is not in the sandbox"));

    let checked = done(silo.command(["doctor"]).env("PATH", &path));
    assert!(checked.out.contains(&format!("{script} (python)")) && checked.out.contains("cure: `silo unpin python`"), "{checked:?}");
    let again = silo.run(["install", "--projects-only", "python"]);
    assert_eq!(again.code, 0, "{again:?}");
    let own = report(&silo.project());
    assert!(own.out.starts_with("machine[python]") && own.code == 5, "{own:?}");
    assert!(!done(silo.command(["doctor"]).env("PATH", &path)).out.contains("(python)"));
}

#[test]
fn the_home_directory_becomes_no_project_by_chance() {
    let silo = silo();
    let _ = silo.run(["install", "--quiet", "python"]);
    fs::create_dir_all(silo.home().join(".config/thing")).expect("our own directory");
    for dir in [silo.home().to_owned(), silo.home().join(".config/thing")] {
        for words in [
            &["use", "python"][..],
            &["use", "python@13"],
            &["add", "jq", "--for", "python"],
            &["build", "python", "true"],
            &["config", "network", "allow", "example.com"],
            &["config", "network", "deny", "example.com"],
            &["config", "ports", "add", "python", "3000"],
            &["init"],
        ] {
            let refused = done(silo.command(words).current_dir(&dir).stdin(Stdio::null()));
            assert_eq!(refused.code, 2, "{words:?}: {refused:?}");
            assert!(refused.err.contains(&format!("silo: {}", fs::canonicalize(&dir).expect("there").display())), "{words:?}: {refused:?}");
            assert!(!dir.join("silo.toml").exists() && !dir.join("silo.lock").exists(), "{words:?}");
        }
        let everywhere = done(silo.command(["config", "network", "allow", "--global", "example.com"]).current_dir(&dir));
        assert_eq!(everywhere.code, 0, "{everywhere:?}");
    }
}

#[test]
fn an_environment_of_another_python_is_not_activated() {
    let silo = silo();
    let recipe = fs::read_to_string(silo.path("recipes/python.toml")).expect("our own recipe");
    // The built-in recipe's rules count below this one.
    silo.write(".silo/recipes/python.toml", &recipe.replace("for program in", "mkdir -p /usr/lib/python3.13; for program in"));
    let installed = silo.run(["install", "--quiet", "python"]);
    assert_eq!(installed.code, 0, "{installed:?}");
    let environment = silo.project().join(".venv");
    fs::create_dir_all(environment.join("bin")).expect("our own project");
    symlink("/usr/local/bin/python", environment.join("bin/python")).expect("our own project");
    for (version, expect) in [("python3.11", "it was made by python3.11, and this image has python3.13"), ("python3.13", "")] {
        fs::create_dir_all(environment.join("lib").join(version)).expect("our own project");
        let ran = silo.run(["run", "--shim", "sh", "python", "-c", "echo \"[$VIRTUAL_ENV]\""]);
        assert_eq!(ran.out == "[]\n", !expect.is_empty(), "{version}: {ran:?}");
        assert_eq!(ran.err.lines().filter(|line| line.contains("is not activated")).count(), usize::from(!expect.is_empty()), "{ran:?}");
        assert!(ran.err.contains(expect), "{version}: {ran:?}");
    }
}

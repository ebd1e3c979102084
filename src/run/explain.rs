//! Explains error messages of a program that are caused by the sandbox but do not name it.
//!
//! Pure: turns the program's last lines and facts about the run into at most a few lines for the user.

use std::path::{Path, PathBuf};

use super::absent;
use super::lost_installs::quoted;
use silo_launch::spec::Abi;

/// Facts about the run that the explanations use.
pub struct Facts<'a> {
    /// The tool.
    pub tool: &'a str,
    /// True if the image or the project has a program of this name.
    pub has: &'a dyn Fn(&str) -> bool,
    /// The Debian suite of the tool's image; `None` if it is somebody's image, to which no package can be added.
    pub suite: Option<&'a str>,
    /// True if the image has this Debian package.
    pub has_package: &'a dyn Fn(&str) -> bool,
    /// True if a host such as `localhost` is granted.
    pub grants: &'a dyn Fn(&str) -> bool,
    /// Excluded directories of the project, which the sandbox replaces by its own.
    pub excluded: &'a [PathBuf],
    /// True in review mode.
    pub is_reviewed: bool,
    /// The programs that may run.
    pub abi: Abi,
    /// True on the vm tier.
    pub is_in_vm: bool,
    /// Proxy variables of the program, with their values.
    pub proxies: Vec<(String, String)>,
}

/// Maximum number of explanations.
const MOST: usize = 2;

/// Explains the last lines of a failed program.
pub fn explain(said: &str, facts: &Facts<'_>) -> Vec<String> {
    let lines: Vec<&str> = said.lines().map(str::trim).collect();
    let mut all = Vec::new();
    if let Some(suite) = facts.suite {
        all.extend(missing(&lines, facts));
        all.extend(libraries(&lines, suite, facts));
    }
    all.extend(refused(&lines, facts));
    all.extend(author(&lines));
    all.extend(unreachable(&lines, facts));
    all.extend(replaced(&lines, facts).or_else(|| renamed(&lines, facts)));
    all.extend(narrow(&lines, facts));
    all.truncate(MOST);
    all
}

/// Suggests the package of a missing program.
fn missing(lines: &[&str], facts: &Facts<'_>) -> Option<String> {
    let header = lines.iter().any(|line| line.contains("Python.h: No such file"));
    let name = lines.iter().filter_map(|line| program(line)).map(bare).find(|name| !(facts.has)(name));
    let (what, packages) = match name {
        Some(name) => (format!("{name} is not in the image of {}", facts.tool), packages(name, facts.tool)),
        None if header => (format!("the headers of Python are not in the image of {}", facts.tool), "python3-dev".to_owned()),
        None => return None,
    };
    Some(format!("{what}\n  try: silo add {packages} --for {}", facts.tool))
}

/// Suggests the packages of missing libraries and headers.
fn libraries(lines: &[&str], suite: &str, facts: &Facts<'_>) -> Option<String> {
    let found = absent::absent(lines, suite, facts.has_package);
    let (names, packages): (Vec<String>, Vec<String>) = found.into_iter().unzip();
    let verb = if names.len() == 1 { "is" } else { "are" };
    (!names.is_empty()).then(|| {
        format!(
            "{} {verb} not in the image of {}\n  try: silo add {} --for {}",
            names.join(", "),
            facts.tool,
            packages.join(" "),
            facts.tool
        )
    })
}

/// Messages of a missing program that name it in other words, or not at all.
const MESSAGES: &[(&str, &str)] = &[
    ("no acceptable C compiler found", "gcc"),
    ("No CMAKE_C_COMPILER could be found", "gcc"),
    ("No CMAKE_CXX_COMPILER could be found", "g++"),
    ("Unable to detect compiler type", "gcc"),
    ("Unknown compiler(s): [[", "gcc"),
    // Without a C compiler, Go leaves out all files that need one.
    ("build constraints exclude all Go files", "gcc"),
    ("requires cgo", "gcc"),
    ("CMake executable is not found", "cmake"),
    ("Could not find CMake", "cmake"),
    ("build program corresponding to \"Ninja\"", "ninja"),
    ("build program corresponding to \"Unix Makefiles\"", "make"),
    ("pkg-config command could not be", "pkg-config"),
    ("requires the `pkg-config` utility", "pkg-config"),
    ("Did not find pkg-config", "pkg-config"),
    ("can't find Rust compiler", "cargo"),
    ("Cargo, the Rust package manager, is not installed", "cargo"),
    ("Could not find any Python installation to use", "python3"),
];

/// Returns the program that a line reports as missing.
fn program<'a>(line: &'a str) -> Option<&'a str> {
    let between = |start: &str, end: &str| -> Option<&'a str> {
        let rest = &line[line.find(start)? + start.len()..];
        rest.find(end).map(|at| &rest[..at])
    };
    let found = if let Some(before) = line.strip_suffix(": command not found") {
        before.rsplit(": ").next()
    } else if let Some(after) = line.split("command not found: ").nth(1) {
        Some(after)
    } else if let Some(before) = line.strip_suffix(": not found") {
        // dash: `sh: 1: gcc: not found`, make: `/bin/sh: 1: gcc: not found`.
        let mut parts = before.rsplit(": ");
        let name = parts.next();
        name.filter(|_| parts.next().is_some_and(|number| number.chars().all(|digit| digit.is_ascii_digit()) && !number.is_empty()))
    } else if let Some((_, program)) = MESSAGES.iter().find(|(words, _)| line.contains(words)) {
        Some(*program)
    } else if line.contains("executable file not found in $PATH") {
        between("exec: \"", "\"")
    } else if line.contains("linker `") && line.contains("not found") {
        between("linker `", "`")
    } else if let Some(name) =
        between("failed to find tool \"", "\"").or_else(|| between("s `", "` installed?")).or_else(|| between("is `", "` not installed?"))
    {
        // The crates cc and cmake.
        Some(name)
    } else if let Some(name) = made(line).or_else(|| sought_by_gyp(line)) {
        Some(name)
    } else if line.contains("No such file or directory") || line.contains("No such file") {
        between("command '", "'")
            .or_else(|| between("unable to execute '", "'"))
            .or_else(|| between("env: ‘", "’"))
            .or_else(|| between("env: '", "'"))
            .or_else(|| line.contains("[Errno 2]").then(|| between("directory: '", "'")).flatten())
    } else if line.ends_with("ENOENT") {
        between("spawn ", " ENOENT").or_else(|| line.strip_suffix(" ENOENT").and_then(|before| before.split("spawn ").nth(1)))
    } else {
        line.split("Error: not found: ").nth(1)
    };
    found.map(str::trim).filter(|name| is_program(bare(name)))
}

/// Returns the program that make does not find: `make[1]: g++: No such file or directory`.
fn made(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("make")?;
    let rest = rest.strip_prefix('[').map_or(Some(rest), |rest| rest.split_once(']').map(|(_, rest)| rest))?;
    let (name, reason) = rest.strip_prefix(": ")?.split_once(": ")?;
    ["No such file or directory", "Command not found"].contains(&reason).then_some(name)
}

/// Returns the program that a module's build looks for: `gyp: Call to 'which pg_config || …' returned exit status 1 while in binding.gyp.`
fn sought_by_gyp(line: &str) -> Option<&str> {
    let command = line.split_once("gyp: Call to 'which ").filter(|(_, command)| command.contains("returned exit status"))?.1;
    command.split([' ', '\'']).next()
}

/// Returns a compiler's name without the target prefix.
fn bare(name: &str) -> &str {
    ["x86_64-linux-gnu-", "aarch64-linux-gnu-"].iter().find_map(|machine| name.strip_prefix(machine)).unwrap_or(name)
}

fn is_program(name: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_+.".contains(letter);
    // Data files have an extension; programs seldom have one.
    let has_extension = Path::new(name)
        .extension()
        .is_some_and(|end| end.len() <= 4 && end.to_str().is_some_and(|end| !end.chars().all(|c| c.is_ascii_digit())));
    !name.is_empty()
        && name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(plain)
        && !has_extension
}

/// Programs whose package or add-on has another name.
const PACKAGES: &[(&str, &str)] = &[
    ("7z", "7zip"),
    ("Xvfb", "xvfb"),
    ("aclocal", "automake"),
    ("ar", "binutils"),
    ("autoreconf", "autoconf"),
    ("cargo", "cargo"),
    ("column", "bsdextrautils"),
    ("convert", "imagemagick"),
    ("dbus-launch", "dbus-x11"),
    ("dig", "bind9-dnsutils"),
    ("dot", "graphviz"),
    ("dpkg-buildpackage", "dpkg-dev"),
    ("envsubst", "gettext-base"),
    ("fd", "fd-find"),
    ("ffprobe", "ffmpeg"),
    ("free", "procps"),
    ("fuser", "psmisc"),
    ("go", "golang-go"),
    ("gpg", "gnupg"),
    ("gs", "ghostscript"),
    ("hexdump", "bsdextrautils"),
    ("host", "bind9-host"),
    ("identify", "imagemagick"),
    ("ifconfig", "net-tools"),
    ("ip", "iproute2"),
    ("java", "java"),
    ("javac", "java"),
    ("killall", "psmisc"),
    ("kotlin", "kotlin"),
    ("kotlinc", "kotlin"),
    ("ld", "binutils"),
    ("libtoolize", "libtool"),
    ("lsb_release", "lsb-release"),
    ("lspci", "pciutils"),
    ("lsusb", "usbutils"),
    ("man", "man-db"),
    ("msgfmt", "gettext"),
    ("mvn", "java"),
    ("mysql", "default-mysql-client"),
    ("nc", "netcat-openbsd"),
    ("netstat", "net-tools"),
    ("ninja", "ninja-build"),
    ("nm", "binutils"),
    ("node", "nodejs"),
    ("npx", "npm"),
    ("nslookup", "bind9-dnsutils"),
    ("objdump", "binutils"),
    ("pdflatex", "texlive-latex-base"),
    ("pdftotext", "poppler-utils"),
    ("pg_config", "libpq-dev"),
    ("pgrep", "procps"),
    ("php", "php-cli"),
    ("ping", "iputils-ping"),
    ("pip", "python3-pip"),
    ("pip3", "python3-pip"),
    ("pkg-config", "pkgconf"),
    ("pkill", "procps"),
    ("protoc", "protobuf-compiler"),
    ("ps", "procps"),
    ("psql", "postgresql-client"),
    ("pstree", "psmisc"),
    ("python", "python-is-python3"),
    ("readelf", "binutils"),
    ("redis-cli", "redis-tools"),
    ("rg", "ripgrep"),
    ("rsvg-convert", "librsvg2-bin"),
    ("ss", "iproute2"),
    ("ssh", "openssh-client"),
    ("strip", "binutils"),
    ("tclsh", "tcl"),
    ("telnet", "inetutils-telnet"),
    ("top", "procps"),
    ("udevadm", "udev"),
    ("uuidgen", "uuid-runtime"),
    ("vi", "vim-tiny"),
    ("watch", "procps"),
    ("which", "debianutils"),
    ("xmllint", "libxml2-utils"),
    ("xvfb-run", "xvfb"),
    ("xz", "xz-utils"),
];

/// Returns the packages of a program, with the headers that a compiler needs.
fn packages(name: &str, tool: &str) -> String {
    let with_headers = |compiler: &str| match tool {
        "python" | "jupyter" => format!("{compiler} libc6-dev python3-dev"),
        "node" => "g++ make python3".to_owned(),
        _ => format!("{compiler} libc6-dev"),
    };
    match name {
        "cc" | "gcc" | "c99" => with_headers("gcc"),
        "c++" | "g++" => with_headers("g++"),
        "make" if tool == "node" => with_headers("g++"),
        "make" => format!("make {}", with_headers("gcc")),
        _ => PACKAGES.iter().find(|(program, _)| *program == name).map_or_else(|| quoted(name), |(_, package)| (*package).to_owned()),
    }
}

/// Explains a refused connection: `localhost` is the sandbox itself.
fn refused(lines: &[&str], facts: &Facts<'_>) -> Option<String> {
    const REFUSED: [&str; 4] = ["Connection refused", "connection refused", "ECONNREFUSED", "Couldn't connect to server"];
    let line = lines.iter().rev().find(|line| REFUSED.iter().any(|word| line.contains(word)))?;
    let local =
        |text: &str| ["localhost", "127.0.0.1", "::1", "0.0.0.0"].into_iter().find_map(|name| Some((name, port_after(text, name)?)));
    let named = local(line).or_else(|| lines.iter().rev().find_map(|line| local(line).filter(|(_, port)| *port != 0)));
    if named.is_none() && has_address(line) || (facts.grants)("localhost") {
        return None;
    }
    let port = match named {
        Some((_, port)) if port != 0 => port.to_string(),
        _ => "PORT".to_owned(),
    };
    Some(format!(
        "if you meant a service on this machine: inside, localhost is the sandbox itself\n  try: silo run --allow localhost:{port} …, or `silo config network allow localhost:{port}` for every run"
    ))
}

/// Returns the port after a host name, or 0 if there is none.
fn port_after(text: &str, name: &str) -> Option<u16> {
    let rest = &text[text.find(name)? + name.len()..];
    let rest = rest.trim_start_matches(['"', '\'', ']']);
    let rest = rest.strip_prefix(':').or_else(|| rest.strip_prefix(',').map(str::trim_start)).or_else(|| rest.split("port ").nth(1));
    let rest = rest.unwrap_or_default();
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some(digits.parse().unwrap_or(0))
}

/// True if a line contains a host or an address with a port.
fn has_address(line: &str) -> bool {
    line.split(|letter: char| !(letter.is_ascii_alphanumeric() || ".:-[]".contains(letter))).any(|word| {
        let Some((host, port)) = word.trim_end_matches([':', '.']).rsplit_once(':') else { return false };
        host.contains('.') && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

/// Explains a missing git identity: the user's git configuration is not in the sandbox.
fn author(lines: &[&str]) -> Option<String> {
    const UNKNOWN: [&str; 3] = ["Author identity unknown", "Please tell me who you are", "unable to auto-detect email address"];
    lines.iter().any(|line| UNKNOWN.iter().any(|word| line.contains(word))).then(|| {
        "your ~/.gitconfig is not in the sandbox\n  try: passFiles = [\"~/.gitconfig\"] in silo.toml; or, outside of the sandbox, `git config user.name NAME` and `git config user.email ADDRESS` in the project".to_owned()
    })
}

/// Explains why a 32-bit program did not run.
fn narrow(lines: &[&str], facts: &Facts<'_>) -> Option<String> {
    let has = |word: &str| lines.iter().any(|line| line.contains(word));
    match facts.abi {
        Abi::Native if has("Bad system call") => Some(format!(
            "32-bit programs run only in an image with packages of their architecture\n  try: silo add libc6:i386 --for {}",
            facts.tool
        )),
        Abi::WithCompat if has("Exec format error") && facts.is_in_vm => Some(
            "the kernel of the virtual machine may run no 32-bit programs, as the small one of `silo install kernel`\n  try: silo run --tier native …, or `silo uninstall kernel`"
                .to_owned(),
        ),
        Abi::WithCompat if has("Exec format error") => Some(
            "this machine's kernel may run no 32-bit programs\n  try: a kernel with CONFIG_IA32_EMULATION (arm64: CONFIG_COMPAT), or silo run --tier vm …"
                .to_owned(),
        ),
        _ => None,
    }
}

/// Explains unreachable addresses and proxies.
fn unreachable(lines: &[&str], facts: &Facts<'_>) -> Option<String> {
    const NO_WAY: [&str; 5] = ["No route to host", "EHOSTUNREACH", "Network is unreachable", "ENETUNREACH", "no route to host"];
    const PROXY: [&str; 4] =
        ["Cannot connect to proxy", "Could not resolve proxy", "ProxyError", "tunneling socket could not be established"];
    let has = |words: &[&str]| lines.iter().any(|line| words.iter().any(|word| line.contains(word)));
    match facts.proxies.first() {
        Some((name, value)) if has(&NO_WAY) || has(&PROXY) => Some(format!(
            "the program used the proxy of {name} ({value}), which the sandbox cannot reach; silo already uses this machine's proxies\n  try: silo run --env {name}= …, and remove {name} from passEnv"
        )),
        None if has(&NO_WAY) => Some(
            "a sandbox can connect only to granted hosts; an IP address needs its own grant\n  try: silo run --allow ADDRESS:PORT …, or `silo config network allow ADDRESS:PORT` for every run".to_owned(),
        ),
        _ => None,
    }
}

/// Explains that an excluded directory cannot be replaced, and is on a separate file system.
fn replaced(lines: &[&str], facts: &Facts<'_>) -> Option<String> {
    const REFUSED: [&str; 12] = [
        "File exists",
        "file already exists",
        "EEXIST",
        "Is a directory",
        "is a directory",
        "EISDIR",
        "cross-device link",
        "EXDEV",
        "Device or resource busy",
        "EBUSY",
        "Not a directory",
        "non-directory",
    ];
    let names = |line: &str, dir: &Path| {
        let name = dir.to_string_lossy();
        let is_of_name = |letter: char| letter.is_alphanumeric() || "-_.".contains(letter);
        line.match_indices(name.as_ref()).any(|(at, found)| {
            let (before, after) = (line[..at].chars().next_back(), line[at + found.len()..].chars().next());
            // Neither a file in it nor another name that contains this one.
            !before.is_some_and(is_of_name) && !after.is_some_and(|letter| is_of_name(letter) || letter == '/')
        })
    };
    let refused = lines.iter().filter(|line| REFUSED.iter().any(|word| line.contains(word)));
    let dir = refused.flat_map(|line| facts.excluded.iter().find(|dir| names(line, dir))).next()?;
    Some(format!(
        "{0} is in mount.exclude, so the sandbox mounts its own directory there. It can be removed and created again, but not replaced by a file or symlink, and it is on a separate file system\n  try: remove {0} from mount.exclude in silo.toml",
        dir.display()
    ))
}

/// Explains that some directories of the project cannot be renamed in review mode.
fn renamed(lines: &[&str], facts: &Facts<'_>) -> Option<String> {
    let is_refused = |line: &&str| ["cross-device link", "EXDEV"].iter().any(|word| line.contains(word));
    (facts.is_reviewed && lines.iter().any(is_refused)).then(|| {
        "in review mode a directory with files of another user, or with a mount in it, cannot be renamed\n  try: mv OLD NEW, which copies it; with git, `git add -A` after it".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_programs_are_explained() {
        for (said, abi, is_in_vm, expect) in [
            ("sh: 1: hello: Bad system call", Abi::Native, false, "silo add libc6:i386 --for x"),
            ("sh: 1: hello: Bad system call", Abi::WithCompat, false, ""),
            ("sh: 1: hello: Exec format error", Abi::WithCompat, false, "CONFIG_IA32_EMULATION"),
            ("sh: 1: hello: Exec format error", Abi::WithCompat, true, "--tier native"),
            ("sh: 1: hello: Exec format error", Abi::Native, false, ""),
        ] {
            let facts = Facts {
                tool: "x",
                has: &|_| true,
                suite: Some("trixie"),
                has_package: &|_| false,
                grants: &|_| true,
                excluded: &[],
                is_reviewed: false,
                abi,
                is_in_vm,
                proxies: Vec::new(),
            };
            let lines = explain(said, &facts);
            assert_eq!(lines.is_empty(), expect.is_empty(), "{lines:?}");
            assert!(lines.iter().all(|line| line.contains(expect)), "{lines:?}");
        }
    }

    fn explanation(said: &str, tool: &str, proxies: &[(&str, &str)]) -> String {
        let proxies = proxies.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let has = |name: &str| name == "there";
        let excluded = [PathBuf::from("web/target")];
        let facts = Facts {
            tool,
            has: &has,
            suite: (tool != "image").then_some("trixie"),
            has_package: &|_| false,
            grants: &|_| false,
            excluded: &excluded,
            is_reviewed: false,
            abi: Abi::Native,
            is_in_vm: false,
            proxies,
        };
        explain(said, &facts).join("\n")
    }

    #[test]
    fn programs_that_are_not_there_are_named_with_their_packages() {
        for (said, tool, expect) in [
            ("bash: line 1: jq: command not found", "sh", "jq is not in the image of sh\n  try: silo add jq --for sh"),
            ("sh: 1: gcc: not found", "rust", "silo add gcc libc6-dev --for rust"),
            ("/bin/sh: 1: rg: not found", "sh", "silo add ripgrep --for sh"),
            ("Error: spawn udevadm ENOENT", "node", "silo add udev --for node"),
            (
                "gyp: Call to 'which pg_config || find /opt -name pg_config' returned exit status 1 while in binding.gyp.",
                "node",
                "silo add libpq-dev --for node",
            ),
            ("gyp: Call to 'which gs' returned exit status 1 while in binding.gyp.", "node", "silo add ghostscript --for node"),
            ("zsh: command not found: psql", "sh", "silo add postgresql-client"),
            (
                "error: command 'x86_64-linux-gnu-gcc' failed: No such file or directory",
                "python",
                "silo add gcc libc6-dev python3-dev --for python",
            ),
            ("error: command 'gcc' failed: No such file or directory", "python", "gcc is not in the image of python"),
            ("unable to execute 'g++': No such file or directory", "python", "silo add g++ libc6-dev python3-dev"),
            ("gyp ERR! stack Error: not found: make", "node", "silo add g++ make python3 --for node"),
            (
                "cgo: C compiler \"gcc\" not found: exec: \"gcc\": executable file not found in $PATH",
                "go",
                "silo add gcc libc6-dev --for go",
            ),
            ("error: linker `cc` not found", "rust", "silo add gcc libc6-dev --for rust"),
            ("configure: error: no acceptable C compiler found in $PATH", "sh", "silo add gcc libc6-dev --for sh"),
            ("/usr/bin/env: ‘perl’: No such file or directory", "node", "silo add perl --for node"),
            ("FileNotFoundError: [Errno 2] No such file or directory: 'git'", "python", "silo add git --for python"),
            ("Error: spawn ffmpeg ENOENT", "node", "silo add ffmpeg --for node"),
            ("module.c:1:10: fatal error: Python.h: No such file or directory", "python", "silo add python3-dev --for python"),
            ("sh: 1: mvn: not found", "claude-code", "silo add java --for claude-code"),
            ("package example.com/x: build constraints exclude all Go files in /p", "go", "silo add gcc libc6-dev --for go"),
            (
                "Binary was compiled with 'CGO_ENABLED=0', go-sqlite3 requires cgo to work. This is a stub",
                "go",
                "silo add gcc libc6-dev --for go",
            ),
            ("make: g++: No such file or directory", "node", "silo add g++ make python3 --for node"),
            ("make[1]: cc: Command not found", "ruby", "silo add gcc libc6-dev --for ruby"),
            ("Error: Unable to detect compiler type", "node", "silo add g++ make python3 --for node"),
            (
                "error occurred in cc-rs: failed to find tool \"c++\": No such file or directory (os error 2)",
                "rust",
                "silo add g++ libc6-dev --for rust",
            ),
            ("Failed to find tool. Is `cc` installed?", "rust", "silo add gcc libc6-dev --for rust"),
            ("is `cmake` not installed?", "rust", "silo add cmake --for rust"),
            ("The pkg-config command could not be found.", "rust", "silo add pkgconf --for rust"),
            (
                "../meson.build:1:0: ERROR: Unknown compiler(s): [['icc'], ['cc'], ['gcc']]",
                "python",
                "silo add gcc libc6-dev python3-dev --for python",
            ),
            ("error: can't find Rust compiler", "python", "silo add cargo --for python"),
            (
                "ImportError: libGL.so.1: cannot open shared object file: No such file or directory",
                "python",
                "libGL.so.1 is not in the image of python\n  try: silo add libgl1 --for python",
            ),
        ] {
            let told = explanation(said, tool, &[]);
            assert!(told.contains(expect), "{said}: {told}");
        }
        for said in [
            "bash: line 1: there: command not found",
            "FileNotFoundError: [Errno 2] No such file or directory: 'data.csv'",
            "FileNotFoundError: [Errno 2] No such file or directory: '/etc/thing'",
            "ls: cannot access 'x': No such file or directory",
            "module x: not found",
            "404: not found",
            "make: *** No rule to make target 'x'.",
            "make[1: x: No such file or directory",
            "",
        ] {
            assert_eq!(explanation(said, "python", &[]), "", "{said}");
        }
        for said in ["bash: line 1: jq: command not found", "libGL.so.1: cannot open shared object file: No such file or directory"] {
            assert_eq!(explanation(said, "image", &[]), "", "{said}");
        }
    }

    #[test]
    fn excluded_directories_are_named_as_such() {
        for said in [
            "ln: failed to create symbolic link 'web/target': File exists",
            "Error: EXDEV: cross-device link not permitted, rename '/p/web/target' -> '/p/old'",
            "OSError: [Errno 16] Device or resource busy: 'web/target'",
        ] {
            assert!(explanation(said, "sh", &[]).contains("remove web/target from mount.exclude"), "{said}");
        }
        for said in ["mkdir: cannot create directory 'web/targets': File exists", "EEXIST: web/target/x", "web/target: No such file"] {
            assert_eq!(explanation(said, "sh", &[]), "", "{said}");
        }
    }

    #[test]
    fn a_refused_rename_is_explained_in_review_mode_alone() {
        let said = "fatal: renaming 'lib' failed: Invalid cross-device link";
        let excluded = [PathBuf::from("web/target")];
        for (is_reviewed, said, expect) in
            [(true, said, true), (false, said, false), (true, "OSError: [Errno 18] EXDEV", true), (true, "No such file", false)]
        {
            let facts = Facts {
                tool: "sh",
                has: &|_| true,
                suite: None,
                has_package: &|_| true,
                grants: &|_| true,
                excluded: &excluded,
                is_reviewed,
                abi: Abi::Native,
                is_in_vm: false,
                proxies: Vec::new(),
            };
            let lines = explain(said, &facts);
            assert_eq!(lines.iter().any(|line| line.contains("mv OLD NEW")), expect, "{said}: {lines:?}");
        }
    }

    #[test]
    fn messages_of_the_network_are_explained() {
        for (said, expect) in [
            ("ConnectionRefusedError: [Errno 111] Connection refused", "allow localhost:PORT"),
            ("Error: connect ECONNREFUSED 127.0.0.1:5432", "allow localhost:5432"),
            ("connection to server at \"localhost\" (127.0.0.1), port 5432 failed: Connection refused", "allow localhost:5432"),
            ("curl: (7) Failed to connect to localhost port 8080 after 0 ms: Couldn't connect to server", "allow localhost:8080"),
            ("dial tcp [::1]:6379: connect: connection refused", "allow localhost:6379"),
            ("connect((\"localhost\", 18765))\nConnectionRefusedError: [Errno 111] Connection refused", "allow localhost:18765"),
        ] {
            let told = explanation(said, "python", &[]);
            assert!(told.contains(expect), "{said}: {told}");
        }
        assert_eq!(explanation("Error: connect ECONNREFUSED 192.0.2.7:5432", "node", &[]), "");
        assert_eq!(explanation("dial tcp db.example.com:5432: connect: connection refused", "go", &[]), "");
        let no_way = "OSError: [Errno 113] No route to host";
        assert!(explanation(no_way, "python", &[]).contains("--allow ADDRESS:PORT"));
        assert!(explanation(no_way, "python", &[("HTTPS_PROXY", "http://192.0.2.1:3128")]).contains("silo run --env HTTPS_PROXY= …"));
        assert!(explanation("Author identity unknown\n\n*** Please tell me who you are.", "sh", &[]).contains("~/.gitconfig"));
    }
}

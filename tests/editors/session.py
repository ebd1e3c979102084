"""One session of a real editor with the language server of one tool, as a user has it; fails if an answer is missing.

    session.py EDITOR TOOL SILO ROOT PROJECT

EDITOR is neovim, helix or emacs; ROOT is the root directory of an image with it. The editor runs on this machine with the
libraries of that directory, so it starts `silo lsp` here. PROJECT is an empty directory. The environment is silo's own.

A `^` in a text of a session is the cursor's place, and is not written.
"""

import json
import os
import pathlib
import platform
import subprocess
import sys
import time

# Seconds that one answer may take: a busy machine, or one that translates a server's code.
PATIENCE = int(os.environ.get("SILO_EDITOR_PATIENCE", "300"))
HERE = pathlib.Path(__file__).resolve().parent
OWN_GO = "package main\n\nfunc double(x int) int {\n\treturn 2 * x\n}\n"
OWN_TS = "export function double(x: number): number {\n  return 2 * x;\n}\n"

# Helix's answers are read from a screen that also has the file, so they are words that the file does not have.
# Of each tool: the files, the one that is opened, and the answers: words of a diagnostic, of a hover text, a completion, the
# text at the definition in the project and the end of the path of the one in the library.
SESSIONS = {
    "python": {
        "files": {"own.py": "def double(x: int) -> int:\n    return 2 * x\n", "x.py": "import json\nimport own\nnumber: int = json.dumps(1)\nown.double(1)\njson.dumps(2)\njson.loa\n"},
        "open": "x.py", "diagnostic": '"str" is not assignable', "hover": ["json.^dumps(2)", "def dumps"], "completion": ["json.loa^", "loads"],
        "own": ["own.^double", "own.py", "return 2 * x"], "library": ["json.^dumps(2)", "json/__init__.py"],
    },
    "node": {
        "files": {"package.json": "{}\n", "own.ts": OWN_TS, "x.ts": 'import { double } from "./own";\nconst wrong: number = "text";\ndouble(wrong);\nMath.max(1, 2);\nMath.sq\n'},
        "open": "x.ts", "diagnostic": "'string' is not assignable", "hover": ["Math.^max(1", "max(...values"], "completion": ["Math.sq^", "sqrt"],
        "own": ["^double(wrong)", "own.ts", "return 2 * x;"], "library": ["Math.^max(1", "/lib.es5.d.ts"],
    },
    "rust": {
        "files": {
            "Cargo.toml": '[package]\nname = "x"\nversion = "0.1.0"\nedition = "2021"\n', "src/own.rs": "pub fn double(x: u32) -> u32 {\n    2 * x\n}\n",
            "src/main.rs": 'mod own;\n\nfn main() {\n    let wrong: u32 = "text";\n    own::double(wrong);\n    let text = String::from("a");\n    text.trim_end();\n    text.trim_sta;\n}\n',
        },
        "open": "src/main.rs", "diagnostic": "no field `trim_sta`", "hover": ["text.^trim_end", "fn trim_end"], "completion": ["text.trim_sta^", "trim_start"],
        "own": ["own::^double", "src/own.rs", "2 * x"], "library": ["text.^trim_end", "/str/mod.rs"],
    },
    "go": {
        "files": {"go.mod": "module example.com/x\n\ngo 1.24\n", "own.go": OWN_GO, "main.go": "package main\n\nimport \"fmt\"\n\nfunc main() {\n\tvar number int = fmt.Sprint(1)\n\tdouble(number)\n\tfmt.Println(number)\n\tfmt.Fprintl\n}\n"},
        "open": "main.go", "diagnostic": "cannot use fmt.Sprint", "hover": ["fmt.^Println", "func fmt.Println"], "completion": ["fmt.Fprintl^", "Fprintln"],
        "own": ["^double(number)", "own.go", "return 2 * x"], "library": ["fmt.^Println", "/fmt/print.go"],
    },
    "deno": {
        "files": {"deno.json": "{}\n", "own.ts": OWN_TS, "x.ts": 'import { double } from "./own.ts";\nconst wrong: number = "text";\ndouble(wrong);\nDeno.readTextFile("a");\nDeno.writeTextFi\n'},
        "open": "x.ts", "diagnostic": "'string' is not assignable", "hover": ["Deno.^readTextFile", "readTextFile(path"], "completion": ["Deno.writeTextFi^", "writeTextFileSync"],
        "own": ["^double(wrong)", "own.ts", "return 2 * x;"], "library": ["Deno.^readTextFile", "lib.deno.ns.d.ts"],
    },
    "clangd": {
        "files": {"own.c": '#include "own.h"\n\nint doubled(int x) { return 2 * x; }\n', "own.h": "int doubled(int x);\n", "x.c": '#include <stdio.h>\n#include "own.h"\n\nint main(void) {\n  int *wrong = doubled(1);\n  printf("%p", wrong);\n  fpu\n}\n'},
        "open": "x.c", "diagnostic": "undeclared identifier 'fpu'", "hover": ['^printf("', "const char"], "completion": ["  fpu^", "fputs"],
        "own": ["^doubled(1)", "own.h", "int doubled(int x);"], "library": ['^printf("', "/stdio.h"],
    },
}


def place(text, marked):
    """The line and the column, from 0, of a text with a mark."""
    at = text.index(marked.replace("^", "")) + marked.index("^")
    return text.count("\n", 0, at), at - (text.rfind("\n", 0, at) + 1)


def in_library(editor, session):
    """Whether the editor can open a definition in the library: Deno gives files to Neovim only, and an address of its own to others."""
    return editor == "neovim" or "deno.json" not in session["files"]


def started(root, program):
    """The words that start a program of the root here: by its own loader, with its own libraries."""
    machine = platform.machine()
    loader = {"x86_64": "lib64/ld-linux-x86-64.so.2", "aarch64": "lib/ld-linux-aarch64.so.1"}[machine]
    return [f"{root}/{loader}", "--library-path", f"{root}/usr/lib/{machine}-linux-gnu", f"{root}/usr/bin/{program}"]


def expect(name, found, words):
    assert words in found, f"{name}: no {words!r} in {found!r}"


def scripted(editor, words, session, project, env):
    """Neovim and Emacs: a script of the editor's own language prints a line for each answer."""
    done = subprocess.run(words, cwd=project, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    said = (done.stdout + "\n" + done.stderr).replace("\r", "")

    def line(word):
        found = [line[len(word) + 1:].strip() for line in said.splitlines() if line.startswith(word + " ")]
        assert found, f"no {word} in {said}"
        return found[0]

    expect("diagnostics", line("DIAGNOSTIC"), session["diagnostic"])
    expect("hover", line("HOVER"), session["hover"][1])
    expect("completion", line("COMPLETION"), session["completion"][1])
    assert line("OWN") == str(project / session["own"][1]), said
    if in_library(editor, session):
        # A copy cannot be written, and the same server answers in it.
        library = line("LIBRARY")
        assert library.startswith(os.path.realpath(os.environ["HOME"]) + "/.silo/sources/") and library.endswith(session["library"][1]), said
        assert line("READONLY") == "true" and int(line("LENGTH")) > 10, said
    # One server has both, and it does not end because it cannot see the editor's process.
    assert line("SERVERS") == "1" and line("LATER") == "1", said


def neovim(root, session, project, env):
    env["VIMRUNTIME"] = f"{root}/usr/share/nvim/runtime"
    words = [*started(root, "nvim"), "--headless", "--clean", "-c", "luafile .nvim.lua", "-c", f"luafile {HERE}/session.lua", "-c", "cquit"]
    scripted("neovim", words, session, project, env)


def emacs(root, session, project, env):
    version = os.path.basename(next(pathlib.Path(root, "usr/share/emacs").glob("[0-9]*")))
    share = f"{root}/usr/share/emacs/{version}"
    dump = next(pathlib.Path(root, "usr/libexec/emacs", version).glob("*/*.pdmp"))
    env["EMACSLOADPATH"] = os.pathsep.join([f"{share}/lisp", *(str(dir) for dir in sorted(pathlib.Path(share, "lisp").iterdir()) if dir.is_dir())])
    env["EMACSDATA"] = env["EMACSDOC"] = f"{share}/etc"
    env["EMACSPATH"] = str(dump.parent)
    words = [*started(root, "emacs-nox"), f"--dump-file={dump}", "--batch", "--quick", "--load", f"{HERE}/session.el"]
    scripted("emacs", words, session, project, env)


def helix(root, session, project, env):
    """Helix has no script: keys are typed into its terminal, and its screen is read."""
    beside = pathlib.Path(env["SESSION"]).parent
    socket = str(beside / "tmux")
    tmux = lambda *words: subprocess.run(["tmux", "-u", "-S", socket, *words], env=env, capture_output=True, text=True, errors="replace")
    screen = lambda: tmux("capture-pane", "-p").stdout

    def wait(name, ready):
        end = time.monotonic() + PATIENCE
        while not ready(screen()):
            assert time.monotonic() < end, f"{name}: not on the screen:\n{screen()}"
            time.sleep(0.2)

    def keys(text, *special):
        for key in special:
            tmux("send-keys", key)
        if text:
            tmux("send-keys", "-l", text)

    # Escape and a key soon after it are another key to a terminal's program.
    leave = "C-c"
    config = beside / "helix.toml"
    config.write_text('[keys.normal]\nC-c = "no_op"\n[keys.insert]\nC-c = "normal_mode"\n')

    def opened(marked):
        """Opens the file at the place of a mark, from normal mode."""
        line, column = place(session["text"], marked)
        keys("", *[leave] * 3)
        keys(f":open {session['open']}:{line + 1}:{column + 1}")
        keys("", "Enter")
        wait("the place", lambda text: f" {line + 1}:{column + 1}" in text and os.path.basename(session["open"]) in text)

    def asked(name, question, ready):
        """Types keys until there is an answer: a server that still reads the project has none."""
        end, span = time.monotonic() + PATIENCE, 2
        while True:
            question()
            soon = time.monotonic() + span
            while time.monotonic() < soon:
                if ready(screen()):
                    return
                time.sleep(0.2)
            span *= 2
            assert time.monotonic() < end, f"{name}: not on the screen:\n{screen()}"

    names = ["PATH", "HOME", "LC_ALL"]
    words = ["env", *(f"{name}={env[name]}" for name in names), *started(root, "hx"), "--config", str(config), session["open"]]
    assert tmux("-f", "/dev/null", "new-session", "-d", "-x", "200", "-y", "50", "-c", str(project), "--", *words).returncode == 0
    try:
        wait("the file", lambda text: "NOR" in text)
        # The list of diagnostics shows their beginning.
        start = session["diagnostic"][:20]
        asked("diagnostics", lambda: keys(" d", leave, leave), lambda text: "severity" in text and start in text)
        asked("hover", lambda: (opened(session["hover"][0]), keys(" k")), lambda text: session["hover"][1] in text)

        def complete():
            # After the last letter of the word.
            before, after = session["completion"][0].split("^")
            opened(f"{before[:-1]}^{before[-1]}{after}")
            keys("a")
            keys("", "C-x")
        asked("completion", complete, lambda text: session["completion"][1] in text)
        own = os.path.basename(session["own"][1])
        status = lambda text: text.splitlines()[-2] if len(text.splitlines()) > 1 else ""
        asked("definition", lambda: (opened(session["own"][0]), keys("gd")), lambda text: own in status(text) and session["own"][2] in text)

        # Of several definitions, the list shows the ends of their paths.
        if in_library("helix", session):
            asked("library", lambda: (opened(session["library"][0]), keys("gd")), lambda text: session["library"][1] in text)
    finally:
        tmux("kill-server")


def main():
    editor, tool, silo, root, project = sys.argv[1:]
    project = pathlib.Path(project).resolve()
    session = SESSIONS[tool]
    for name, text in session["files"].items():
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(text)
    session["text"] = session["files"][session["open"]]
    beside = project.with_name(f"{project.name}-{editor}")
    beside.mkdir()
    (beside / "silo").symlink_to(os.path.realpath(silo))
    plan = beside / "session.json"
    asked = {name: [*place(session["text"], session[name][0]), session[name][1]] for name in ["hover", "completion", "own", "library"]}
    plan.write_text(json.dumps({"open": session["open"], "diagnostic": session["diagnostic"], "patience": PATIENCE, **asked}))
    env = {**os.environ, "PATH": f"{beside}:{os.environ['PATH']}", "SESSION": str(plan), "LC_ALL": "C.UTF-8"}
    subprocess.run(["silo", "ide", "--quiet", editor, "--tool", tool], cwd=project, env=env, check=True, stdout=subprocess.DEVNULL)
    begin = time.monotonic()
    {"neovim": neovim, "helix": helix, "emacs": emacs}[editor](root, session, project, env)
    library = "and in the library" if in_library(editor, session) else "(not in the library)"
    print(f"{editor} with {tool}: diagnostics, hover, completion, definitions in the project {library}, {time.monotonic() - begin:.0f} s")


main()

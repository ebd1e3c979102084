//! Compiled packages in the images of languages: they load, and a missing library or compiler is named with a command that helps.

use std::fs;

use crate::support::{As, Done, NOBODY, Silo, is_root, skip};

/// Says whether something failed because a registry cannot be reached from this machine.
fn is_cut_off(done: &Done) -> bool {
    done.code != 0
        && ["cannot be resolved", "did not answer", "has no known hosts yet", "no index"].iter().any(|why| done.err.contains(why))
}

/// Each user of the tests, with a project in the shared home.
fn everybody() -> Vec<Silo> {
    let all = if is_root() { vec![As::Me, As::Nobody] } else { vec![As::Me] };
    all.into_iter()
        .map(|who| {
            let silo = Silo::shared(who);
            let file = silo.project().join("silo.toml");
            fs::write(&file, "").expect("our own project");
            if who == As::Nobody {
                std::os::unix::fs::chown(&file, Some(NOBODY), Some(NOBODY)).expect("root may give a file away");
            }
            silo
        })
        .collect()
}

#[test]
fn a_missing_library_is_named_with_the_command_that_adds_it() {
    for silo in everybody() {
        let load = ["python", "-c", "import ctypes; print(ctypes.CDLL(\"libyaml-0.so.2\").yaml_get_version_string is not None)"];
        let missing = silo.run(load);
        assert!(missing.code == 1 && missing.err.contains("libyaml-0.so.2: cannot open shared object file"), "{missing:?}");
        let hint = "silo: libyaml-0.so.2 is not in the image of python\n  try: silo add libyaml-0-2 --for python\n";
        assert!(missing.err.ends_with(hint), "{missing:?}");
        let alone = Silo::hold_store();
        let added = silo.run(["add", "libyaml-0-2", "--for", "python"]);
        drop(alone);
        if is_cut_off(&added) {
            return skip(&format!("Debian's archive cannot be reached from here: {}", added.err.trim()));
        }
        assert_eq!(added.code, 0, "{added:?}");
        assert_eq!(silo.ok(load), "True\n");
        // A library of the project, or of nobody, is in no package.
        for other in ["./libyaml-0.so.2", "libof-nobody.so.7"] {
            let missing = silo.run(["python", "-c", &format!("import ctypes; ctypes.CDLL(\"{other}\")")]);
            assert!(missing.code == 1 && missing.err.contains("cannot open shared object file"), "{missing:?}");
            assert!(!missing.err.contains("silo: "), "{missing:?}");
        }
    }
}

#[test]
fn wheels_with_compiled_code_load_and_pip_replaces_debians_packages() {
    for silo in everybody() {
        assert_eq!(silo.run(["python", "-m", "venv", ".venv"]).code, 0);
        // greenlet links to libstdc++.
        let got = silo.run(["pip", "install", "--quiet", "--disable-pip-version-check", "greenlet", "markupsafe"]);
        if is_cut_off(&got) {
            return skip(&format!("the package index cannot be reached from here: {}", got.err.trim()));
        }
        assert_eq!(got.code, 0, "{got:?}");
        let used = "import greenlet, markupsafe._speedups; print(greenlet.greenlet(lambda n: n + 1).switch(2))";
        assert_eq!(silo.ok(["python", "-c", used]), "3\n");
        let version = "import pip, setuptools, wheel; print(pip.__file__.startswith(\"/usr/lib/python3/\"))";
        let newer = ["pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", "pip", "setuptools", "wheel"];
        let replaced = silo.run(newer);
        assert_eq!(replaced.code, 0, "{replaced:?}");
        assert_eq!(silo.ok(["python", "-c", version]), "False\n");
        // Without an environment, pip replaces Debian's own in the sandbox's root, as in a bake.
        let outside =
            silo.run(["run", "--no-project", "--shim", "sh", "python", "-c", &format!("{} && python3 -c '{version}'", newer.join(" "))]);
        assert!(outside.code == 0 && outside.out == "False\n", "{outside:?}");
    }
}

#[test]
fn a_native_module_of_npm_loads_and_one_without_a_compiler_names_it() {
    let silo = Silo::seeded();
    let made = silo.run(["install", "--quiet", "node"]);
    if is_cut_off(&made) {
        return skip(&format!("Debian's archive cannot be reached from here: {}", made.err.trim()));
    }
    assert_eq!(made.code, 0, "{made:?}");
    silo.offer_downloads();
    fs::write(silo.project().join("silo.toml"), "").expect("our own project");
    fs::write(silo.project().join("package.json"), r#"{ "private": true }"#).expect("our own project");
    let got = silo.run(["npm", "install", "--no-audit", "--no-fund", "bufferutil", "@node-rs/crc32"]);
    if is_cut_off(&got) {
        return skip(&format!("the registry of @npm cannot be reached from here: {}", got.err.trim()));
    }
    assert_eq!(got.code, 0, "{got:?}");
    let native =
        "require('node-gyp-build')('node_modules/bufferutil'); console.log(require('@node-rs/crc32').crc32('123456789').toString(16))";
    assert_eq!(silo.ok(["node", "-e", native]), "cbf43926\n");
    // A module from source, with the headers of the image and without a compiler.
    let addon = silo.project().join("addon");
    fs::create_dir(&addon).expect("our own project");
    let source = "#include <node_api.h>\nnapi_value init(napi_env env, napi_value exports) { return exports; }\nNAPI_MODULE(addon, init)\n";
    fs::write(addon.join("addon.c"), source).expect("our own project");
    fs::write(addon.join("binding.gyp"), r#"{ "targets": [{ "target_name": "addon", "sources": ["addon.c"] }] }"#)
        .expect("our own project");
    fs::write(addon.join("package.json"), r#"{ "name": "addon", "version": "1.0.0" }"#).expect("our own project");
    let built = silo.run(["run", "--shim", "sh", "node", "-c", "cd addon && node-gyp rebuild"]);
    assert_ne!(built.code, 0, "{built:?}");
    assert!(built.err.ends_with("silo: make is not in the image of node\n  try: silo add g++ make python3 --for node\n"), "{built:?}");
}

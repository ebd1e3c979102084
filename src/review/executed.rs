//! Files that programs of this machine execute or obey when a person builds, tests, starts or publishes the project. `silo_guard::guarded_paths` has
//! the files on which programs act automatically.

/// Patterns of paths in any directory, with the reason; `*` matches any part of one name. A pattern of a directory covers its files.
pub const EXECUTED: &[(&str, &str)] = &[
    // Silo: `silo trust` approves it.
    ("recipes/*.toml", "recipe of Silo"),
    // Continuous integration: runs with the repository's secrets after a push.
    (".github/workflows", "CI workflow"),
    (".github/actions", "CI workflow"),
    (".github/dependabot.yml", "CI workflow"),
    (".github/dependabot.yaml", "CI workflow"),
    (".gitlab-ci.yml", "CI workflow"),
    (".gitlab-ci.yaml", "CI workflow"),
    (".gitlab/ci", "CI workflow"),
    (".circleci", "CI workflow"),
    (".travis.yml", "CI workflow"),
    ("azure-pipelines*.y*ml", "CI workflow"),
    ("bitbucket-pipelines.yml", "CI workflow"),
    ("Jenkinsfile*", "CI workflow"),
    (".drone.yml", "CI workflow"),
    (".woodpecker*", "CI workflow"),
    (".forgejo/workflows", "CI workflow"),
    (".gitea/workflows", "CI workflow"),
    ("appveyor.yml", "CI workflow"),
    (".appveyor.yml", "CI workflow"), // AppVeyor: appveyor.yml reference
    (".cirrus.y*ml", "CI workflow"),  // Cirrus CI: writing tasks
    (".cirrus.star", "CI workflow"),
    (".build.yml", "CI workflow"), // builds.sr.ht manual: build manifests
    (".builds", "CI workflow"),
    ("buildspec*.y*ml", "CI workflow"), // AWS CodeBuild: build specification reference
    (".buildkite", "CI workflow"),
    ("cloudbuild.yaml", "CI workflow"),
    ("renovate.json*", "CI workflow"),
    ("action.yml", "CI workflow"),
    ("action.yaml", "CI workflow"),
    // Build scripts and task runners.
    ("Makefile*", "build script"),
    ("GNUmakefile", "build script"),
    ("*.mk", "build script"),
    ("*.mak", "build script"),
    ("justfile", "build script"),
    (".justfile", "build script"),
    ("Taskfile*.y*ml", "build script"), // Task: supported file names, also .dist
    ("taskfile*.y*ml", "build script"),
    ("Rakefile", "build script"),
    ("*.rake", "build script"),
    ("Gemfile", "build script"),
    ("gems.rb", "build script"), // Bundler: gemfile(5), the other name
    ("*.gemspec", "build script"),
    ("SConstruct", "build script"),
    ("SConscript", "build script"),
    ("wscript", "build script"),
    ("meson.build", "build script"),
    ("CMakeLists.txt", "build script"),
    ("*.cmake", "build script"),
    ("CMakePresets.json", "build script"),
    ("configure", "build script"),
    ("configure.ac", "build script"),
    ("*.am", "build script"),
    ("*.m4", "build script"),
    ("build.ninja", "build script"),
    ("BUILD", "build script"),
    ("BUILD.bazel", "build script"),
    ("WORKSPACE*", "build script"),
    ("MODULE.bazel", "build script"),
    ("*.bzl", "build script"),
    ("build.rs", "build script"),
    ("Cargo.toml", "build script: build.rs, dependencies and their build scripts"),
    ("rust-toolchain*", "build script: the compiler to use"),
    ("build.zig*", "build script"),
    ("build.xml", "build script"),
    ("pom.xml", "build script"),
    ("*.gradle", "build script"),
    ("buildSrc", "build script"), // Gradle: sharing build logic with buildSrc
    ("*.gradle.kts", "build script"),
    ("gradle.properties", "build script"),
    ("gradle-wrapper.*", "build script"),
    ("gradlew*", "build script"),
    ("mvnw*", "build script"),
    (".mvn", "build script"),
    ("*.sbt", "build script"), // sbt: build definition, plugins
    ("project/*.scala", "build script"),
    ("project/build.properties", "build script"),
    ("project.clj", "build script"),
    ("deps.edn", "build script"),
    ("mix.exs", "build script"),
    ("config/*.exs", "build script"), // Mix: config/config.exs is evaluated before each task
    ("rebar.config", "build script"),
    ("dune-project", "build script"),
    ("dune", "build script"), // Dune: rules and actions
    ("dune-workspace", "build script"),
    ("dune.inc", "build script"),
    ("Package.swift", "build script"),
    ("*.csproj", "build script"),
    ("*.fsproj", "build script"),
    ("*.vcxproj", "build script"),
    ("*.sln", "build script"),
    ("*.targets", "build script"),
    ("*.props", "build script"),
    ("Podfile", "build script"),
    ("composer.json", "build script"),
    ("Setup.hs", "build script"),
    ("*.cabal", "build script"),
    ("flake.nix", "build script"),
    ("default.nix", "build script"),
    ("shell.nix", "build script"),
    ("go.work", "build script"),
    ("Vagrantfile", "build script"),
    ("Dockerfile*", "container build"),
    ("Containerfile*", "container build"),
    ("*.dockerfile", "container build"),
    ("docker-compose*.y*ml", "container build"),
    ("compose*.y*ml", "container build"),
    ("Tiltfile", "build script"),
    ("Procfile*", "build script"),
    ("Earthfile", "build script"),
    ("config.nims", "build script"), // Nim: NimScript configuration files
    ("*.nims", "build script"),
    ("*.nimble", "build script"),
    ("latexmkrc", "build script"), // latexmk(1): configuration files are Perl
    (".latexmkrc", "build script"),
    // Shells: files that a .envrc includes, and those that direnv makes and includes. direnv-stdlib(1): source_env_if_exists, direnv_layout_dir.
    (".envrc.*", "direnv includes it"),
    (".direnv", "direnv includes it"),
    // Programs that tools keep in hidden files.
    (".pdm-python", "PDM: the Python interpreter to execute"), // PDM: working with virtual environments
    (".sconsign*", "SCons loads it as a Python object"),       // SCons user guide: SConsignFile
    // Python: executed by an install, at each start of an interpreter, or by a test runner that an editor starts.
    ("setup.py", "build script"),
    ("setup.cfg", "build script"),
    ("pyproject.toml", "build script: build backend, tools and their plugins"),
    ("conftest.py", "test setup, which editors run when they look for tests"),
    ("sitecustomize.py", "start of each Python interpreter"),
    ("usercustomize.py", "start of each Python interpreter"),
    ("*.pth", "start of each Python interpreter"),
    ("pytest.ini", "test setup, which editors run when they look for tests"),
    ("tox.ini", "build script"),
    ("noxfile.py", "build script"),
    ("tasks.py", "build script"),
    ("hatch_build.py", "build script"), // Hatch: custom build hook
    ("conanfile.py", "build script"),   // Conan: conanfile.py reference
    ("fabfile.py", "build script"),
    ("manage.py", "build script"),
    ("requirements*.txt", "list of packages to install"),
    ("Pipfile", "list of packages to install"),
    ("environment.y*ml", "list of packages to install"),
    // JavaScript: configuration that is a program, and is loaded by editors and tools.
    (".npmrc", "npm settings: registry, script shell"),
    (".yarnrc*", "yarn settings: path of yarn itself, plugins"),
    (".yarn/releases", "yarn itself"),
    (".yarn/plugins", "yarn plugin"),
    (".pnpmfile.*", "pnpm hook"),
    ("pnpm-workspace.yaml", "pnpm settings: packages that may run install scripts"),
    ("*.config.js", "configuration that is a program"),
    ("*.config.cjs", "configuration that is a program"),
    ("*.config.mjs", "configuration that is a program"),
    ("*.config.ts", "configuration that is a program"),
    ("*.config.mts", "configuration that is a program"),
    ("*.config.cts", "configuration that is a program"),
    (".*rc.js", "configuration that is a program"),
    (".*rc.cjs", "configuration that is a program"),
    (".*rc.mjs", "configuration that is a program"),
    ("Gruntfile.*", "build script"),
    ("gulpfile.*", "build script"),
    ("gulpfile.*.js", "build script"),
    ("binding.gyp", "build script"),
    ("deno.json*", "build script"),
    ("bunfig.toml", "bun settings: preloaded programs"),
    (".yarn/cache", "packages that yarn executes from their archives"), // Yarn: Zero-Installs
    (".yarn/unplugged", "packages that yarn executes"),
    (".storybook", "configuration that is a program"), // Storybook: configure
    ("jsconfig.json", "editor settings: plugins of the language server"), // TypeScript: jsconfig.json
    ("analysis_options.yaml", "editor settings: plugins of the analyzer"), // Dart: customizing static analysis
    ("lerna.json", "build script"),
    ("nx.json", "build script"),
    ("turbo.json", "build script"),
];

/// Lock files whose format does not name install scripts, with the reason.
pub const LOCKS: &[(&str, &str)] = &[
    ("yarn.lock", "lock file: packages that can have install scripts"),
    ("pnpm-lock.yaml", "lock file: packages that can have install scripts"),
    ("bun.lock*", "lock file: packages that can have install scripts"),
    ("npm-shrinkwrap.json", "lock file: packages that can have install scripts"),
    ("Cargo.lock", "lock file: packages that can have build scripts"),
    ("Gemfile.lock", "lock file: packages that can have native extensions"),
    ("composer.lock", "lock file: packages that can be plugins"),
    ("poetry.lock", "lock file: packages that can run code when they are installed"),
    ("uv.lock", "lock file: packages that can run code when they are installed"),
    ("pdm.lock", "lock file: packages that can run code when they are installed"),
    ("Pipfile.lock", "lock file: packages that can run code when they are installed"),
    ("flake.lock", "lock file: sources of build scripts"),
];

/// Directories of programs that tools make from other files of the project. Editors execute some of them without a question.
pub const MADE: &[&str] =
    &["node_modules", ".venv", "venv", "vendor", "target", "dist", "build", "out", ".tox", ".nox", "bin", "obj", "__pypackages__", "Pods"];

//! `silo lsp`.

use std::cell::Cell;
use std::ffi::OsString;
use std::process::ExitCode;

use crate::run::mounts::{self, CacheInputs};
use crate::run::server_messages::ImageFiles;
use crate::run::target::{self, ParsedWords, Target};
use silo_build::image::ImageId;
use silo_model::recipe::kept_dirs::{self, KeptDir};
use silo_tool::definition::Scope;
use silo_tool::ecosystems;
use silo_tool::language_server::{self, Server};
use silo_tool::lock_files::Resolving;
use silo_tool::record::Installed;
use silo_tool::{View, projects};

use super::context::{Globals, Setting, setting};
use super::error::Failure;
use super::flags::Verbosity;
use super::run::{self, SILO_FAILED};
use super::{apart, env, server_process, trust, ui};

/// Run a tool's language server in the sandbox of `silo run`
///
/// An editor starts it and talks to it on standard input and output; `silo ide` configures editors. The project has the same path inside.
/// Files of the image and of caches, such as a standard library, have read-only copies for the editor in ~/.silo/sources.
/// The server is built at its first use, or by `silo install --lsp`, on top of the tool's image, and follows the tool's version.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    visible: run::HostArgs,
    /// Only build the server
    #[arg(long)]
    build: bool,
    /// Run the server itself, without the relay of its messages
    #[arg(long, hide = true)]
    direct: bool,
    /// With --build: fail if there is no lock
    #[arg(long, requires = "build")]
    frozen: bool,
    /// The tool, and more arguments for its server
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "TOOL [ARGUMENTS]...")]
    words: Vec<OsString>,
}

/// Minimum memory of a server: one for TypeScript or Python holds a whole project.
const LEAST_MEMORY_MB: u64 = 2048;

pub fn run(globals: &Globals, args: Args) -> Result<ExitCode, Failure> {
    let (build, frozen) = (args.build, args.frozen);
    if build {
        return built(globals, &args, Resolving::of_flag(frozen));
    }
    let scope = args.visible.scope();
    if !args.direct
        && let Some(relayed) = server_process::relayed(|| image_files(globals, &args.words, scope))
    {
        return relayed.map_err(|failure| failure.or_code(SILO_FAILED));
    }
    let words = args.words;
    run::launched(globals, args.visible, |setting, visible| {
        let scope = visible.scope();
        let (target, server) = found(globals, setting, &words, scope)?;
        selected_target(globals, setting, target, server, (&words, scope))
    })
    .map_err(|failure| failure.or_code(SILO_FAILED))
}

/// Finds the tool and its language server.
fn found(globals: &Globals, setting: &Setting, words: &[OsString], scope: Scope) -> Result<(Target, Server), Failure> {
    let word = words.first().map(OsString::as_os_str).unwrap_or_default();
    let hint = run::hints(Verbosity::of_flag(globals.quiet));
    let target = target::find(setting.view(), ParsedWords { word, program: None, rest: Vec::new(), scope, hint: &hint })?;
    let tool = &target.tool.name;
    let server = of_tool(setting.view(), tool, scope)?;
    Ok((target, server))
}

/// Returns a tool's language server; fails if it has none.
fn of_tool(view: View<'_>, tool: &str, scope: Scope) -> Result<Server, Failure> {
    language_server::of(view, tool, scope)?.ok_or_else(|| {
        let hint = format!("define one in [lsp] of a recipe, or in [overrides.{tool}.lsp] of silo.toml");
        Failure::found(format!("{tool} has no language server"), hint)
    })
}

/// Fails if one of these tools has no language server.
pub fn require<'a>(view: View<'_>, mut tools: impl Iterator<Item = &'a str>) -> Result<(), Failure> {
    tools.try_for_each(|tool| of_tool(view, tool, Scope::Global).map(drop))
}

/// Builds the language server of an installed tool, and returns its image. A server that the tool's own image has needs none.
pub fn build_of_installed(setting: &Setting, tool: &Installed, resolving: Resolving) -> Result<ImageId, Failure> {
    let server = of_tool(setting.view(), &tool.name, Scope::Global)?;
    if server.is_in_tool() { Ok(tool.image) } else { build_server(setting, &server, resolving) }
}

fn build_server(setting: &Setting, server: &Server, resolving: Resolving) -> Result<ImageId, Failure> {
    setting.with(|context| {
        ecosystems::learn_for_steps(context, server.definition());
        Ok(language_server::build(context, server, resolving)?)
    })
}

/// Returns the files of the image of a server that runs.
fn image_files(globals: &Globals, words: &[OsString], scope: Scope) -> Option<ImageFiles> {
    let setting = setting(globals).ok()?;
    let (mut target, server) = found(globals, &setting, words, scope).ok()?;
    let image = if server.is_in_tool() { Some(target.tool.image) } else { server.known(setting.view()).ok()? }?;
    let root = silo_build::image::root(&setting.home, image);
    add_caches(&mut target, server.lsp.cache);
    let caches = mounts::caches(&CacheInputs {
        home: &setting.home,
        settings: &setting.settings,
        tool: &target.tool.name,
        run: target.recipe.as_ref().map(|recipe| &recipe.run),
        project: &setting.project,
        user_home: &env::caller().ok()?.user.home,
    });
    let sources = setting.home.sources();
    let of_caches = sources.join(format!("{image}.{}", projects::id(&setting.project)));
    Some(ImageFiles { root, copies: sources.join(image.to_string()), caches, of_caches, copied: Cell::default(), project: setting.project })
}

/// Adds the caches of a server to those of its tool.
fn add_caches(target: &mut Target, caches: Vec<KeptDir>) {
    if let Some(recipe) = &mut target.recipe {
        recipe.run.cache = kept_dirs::over(std::mem::take(&mut recipe.run.cache), caches);
    }
}

/// Turns the run of a tool into a run of its server. Builds the server first if it is missing.
fn selected_target(
    globals: &Globals,
    setting: &Setting,
    mut target: Target,
    server: Server,
    typed: (&[OsString], Scope),
) -> Result<Target, Failure> {
    let (words, scope) = typed;
    if scope == Scope::Project {
        trust::require(setting, Some(&server.tool))?;
    }
    if !server.is_in_tool() {
        target.tool.image = match server.known(setting.view())? {
            Some(image) => image,
            None => {
                build_apart(globals, &words[0], scope)?;
                let mend = format!("silo lsp --build {}", server.tool);
                // The build wrote a new lock: read the settings again.
                let fresh = super::context::setting(globals)?;
                if scope == Scope::Project {
                    trust::require(&fresh, Some(&server.tool))?;
                }
                let again = language_server::of(fresh.view(), &server.tool, scope)?;
                let image = again.map(|server| server.known(fresh.view())).transpose()?.flatten();
                image.ok_or_else(|| Failure::found(format!("the language server of {} is missing", server.tool), mend))?
            }
        };
    }
    add_caches(&mut target, server.lsp.cache);
    // The server's output is read by a program.
    target.env.push(("TERM".to_owned(), "dumb".to_owned()));
    target.env.extend(server.lsp.env);
    target.least_memory_mb = LEAST_MEMORY_MB;
    target.argv = server.lsp.command.into_iter().map(OsString::from).chain(words[1..].iter().cloned()).collect();
    Ok(target)
}

/// Builds the server in a process of its own.
fn build_apart(globals: &Globals, word: &OsString, scope: Scope) -> Result<(), Failure> {
    let again = format!("silo lsp --build {}", word.to_string_lossy());
    let words = ["--build"].into_iter().chain((scope == Scope::Global).then_some("--no-project")).map(OsString::from);
    apart::run(globals, "lsp", words.chain([word.clone()]), ("the language server could not be built", &again))
}

fn built(globals: &Globals, args: &Args, resolving: Resolving) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let scope = args.visible.scope();
    let (target, server) = found(globals, &setting, &args.words, scope)?;
    if scope == Scope::Project {
        trust::require(&setting, Some(&server.tool))?;
    }
    let image = if server.is_in_tool() { target.tool.image } else { build_server(&setting, &server, resolving)? };
    ui::data(&line(&server.tool, image))?;
    Ok(ExitCode::SUCCESS)
}

/// Describes a server that was built.
pub fn line(tool: &str, image: ImageId) -> String {
    format!("the language server of {tool} is built (image {:.12})\n", image.to_string())
}

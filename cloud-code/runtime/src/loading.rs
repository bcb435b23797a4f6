//! From files to handlers: compiling scripts, importing modules, and registering hooks.
//!
//! A script is evaluated once, as a module. That gives each of its functions an environment of its own (the functions
//! and imports of its file), which a handler brings along wherever it is called; a plain `FnPtr::call` would start with
//! an empty one.

use crate::engine::{Raised, engine, place};
use crate::pace::Pace;
use crate::request::Trigger;
use rhai::{AST, Dynamic, Engine, EvalAltResult, FnPtr, Module, NativeCallContext, Position, Scope, Shared};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use tidings_protocol::ClassName;

/// Larger scripts are surely not scripts.
const MAX_SCRIPT: u64 = 1 << 20;
/// Files below `lib/` that a reload looks at.
const MAX_FILES: usize = 1_000;

/// Why scripts could not be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    /// File and line, as far as known: `main.rhai:12`.
    pub place: String,
    pub message: String,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl std::error::Error for LoadError {}

/// One loaded state of the scripts.
pub(crate) struct Program {
    pub(crate) engine: Arc<Engine>,
    handlers: HashMap<ClassName, [Option<Arc<Handler>>; Trigger::ALL.len()]>,
}

pub(crate) struct Handler {
    pub(crate) trigger: Trigger,
    pub(crate) class: ClassName,
    pub(crate) function: FnPtr,
    /// The functions of the file that registered it, each with its environment.
    pub(crate) functions: AST,
    pub(crate) source: Arc<str>,
    /// Where it was registered.
    pub(crate) at: Position,
    pub(crate) pace: Pace,
}

impl Program {
    pub(crate) fn empty() -> Self {
        Self { engine: Arc::new(engine()), handlers: HashMap::new() }
    }

    pub(crate) fn handler(&self, class: &str, trigger: Trigger) -> Option<&Arc<Handler>> {
        self.handlers.get(class)?[trigger as usize].as_ref()
    }

    pub(crate) fn handlers(&self) -> impl Iterator<Item = &Arc<Handler>> {
        self.handlers.values().flatten().flatten()
    }

    /// Compiles and evaluates `script`; imports come from below `root`.
    pub(crate) fn load(engine: Arc<Engine>, root: Option<&Path>, name: &str, script: &str) -> Result<Self, LoadError> {
        LOADING.set(Some(Loading { root: root.map(Path::to_path_buf), ..Loading::default() }));
        let evaluated = evaluate(&engine, name, script);
        let loading = LOADING.take().unwrap_or_default();
        let main = evaluated.map_err(|error| load_error(name, &error))?;

        let mut handlers: HashMap<ClassName, [Option<Arc<Handler>>; 2]> = HashMap::new();
        for registration in loading.registrations {
            let module = if registration.source == name {
                Some(main.clone())
            } else {
                loading.modules.get(&registration.source).cloned().flatten()
            };
            let Some(module) = module else { continue };
            let handler = Handler {
                trigger: registration.trigger,
                class: registration.class.clone(),
                function: registration.function,
                functions: AST::new_from_module(module),
                source: registration.source.into(),
                at: registration.at,
                pace: Pace::default(),
            };
            handlers.entry(registration.class).or_default()[registration.trigger as usize] = Some(Arc::new(handler));
        }
        Ok(Self { engine, handlers })
    }
}

#[derive(Default)]
struct Loading {
    root: Option<PathBuf>,
    registrations: Vec<Registration>,
    /// By path below the root; `None` while being loaded.
    modules: HashMap<String, Option<Shared<Module>>>,
    /// Of every function, the names of its parameters: those of captured variables come first.
    parameters: HashMap<String, Vec<String>>,
}

struct Registration {
    class: ClassName,
    trigger: Trigger,
    function: FnPtr,
    source: String,
    at: Position,
}

thread_local! {
    static LOADING: RefCell<Option<Loading>> = const { RefCell::new(None) };
}

fn with_loading<T>(work: impl FnOnce(&mut Loading) -> T) -> Option<T> {
    LOADING.with_borrow_mut(|loading| loading.as_mut().map(work))
}

fn evaluate(engine: &Engine, name: &str, script: &str) -> Raised<Shared<Module>> {
    let mut ast = engine.compile(script).map_err(|error| {
        EvalAltResult::ErrorInModule(
            name.to_owned(),
            Box::new(EvalAltResult::ErrorParsing(*error.0, error.1)),
            Position::NONE,
        )
    })?;
    ast.set_source(name);
    with_loading(|loading| {
        for function in ast.iter_functions() {
            let parameters = function.params.iter().map(|&name| name.to_owned()).collect();
            loading.parameters.insert(function.name.to_owned(), parameters);
        }
    });
    Module::eval_ast_as_new(Scope::new(), &ast, engine)
        .map(Shared::new)
        .map_err(|error| Box::new(EvalAltResult::ErrorInModule(name.to_owned(), error, Position::NONE)))
}

/// Finds `import "lib/…"` while scripts are loaded. A running hook imports nothing: that would be IO in every call.
pub(crate) struct Resolver;

impl rhai::ModuleResolver for Resolver {
    fn resolve(
        &self,
        engine: &Engine,
        _source: Option<&str>,
        path: &str,
        at: Position,
    ) -> Result<Shared<Module>, Box<EvalAltResult>> {
        let refuse = |text: String| Box::new(EvalAltResult::ErrorRuntime(text.into(), at));
        let name = module_name(path)
            .ok_or_else(|| refuse(format!("import \"{path}\": modules are imported by their path below lib/")))?;
        let known = with_loading(|loading| match loading.modules.get(&name) {
            Some(Some(module)) => Ok(Some(module.clone())),
            Some(None) => Err(refuse(format!("import \"{path}\": the module imports itself"))),
            None => {
                loading.modules.insert(name.clone(), None);
                Ok(None)
            }
        });
        match known {
            None => return Err(refuse("import belongs to the top of a script, not into a function".to_owned())),
            Some(Err(error)) => return Err(error),
            Some(Ok(Some(module))) => return Ok(module),
            Some(Ok(None)) => {}
        }
        let root = with_loading(|loading| loading.root.clone()).flatten();
        let root = root.ok_or_else(|| refuse(format!("import \"{path}\": there is no folder to import from")))?;
        let script = read(&root.join(&name)).map_err(|problem| refuse(format!("import \"{path}\": {problem}")))?;
        let module = evaluate(engine, &name, &script)?;
        with_loading(|loading| loading.modules.insert(name, Some(module.clone())));
        Ok(module)
    }
}

/// `lib/a/b.rhai` for `lib/a/b`; nothing that leads out of `lib/`.
fn module_name(path: &str) -> Option<String> {
    let parts: Option<Vec<&str>> = Path::new(path)
        .components()
        .map(|component| match component {
            Component::Normal(part) => part.to_str(),
            _ => None,
        })
        .collect();
    let parts = parts.filter(|parts| parts.len() > 1 && parts[0] == "lib")?;
    let name = parts.join("/");
    Some(if name.ends_with(".rhai") { name } else { format!("{name}.rhai") })
}

/// Reads a script.
pub(crate) fn read(path: &Path) -> Result<String, String> {
    let size = path.metadata().map_err(|error| error.to_string())?.len();
    if size > MAX_SCRIPT {
        return Err(format!("a script has at most {MAX_SCRIPT} bytes, this one has {size}"));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

/// What a reload compares: the files with their times and sizes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Fingerprint(Vec<(PathBuf, Option<SystemTime>, u64)>);

impl Fingerprint {
    pub(crate) fn of(root: &Path, main: &Path) -> Self {
        let mut files = vec![main.to_path_buf()];
        let mut folders = vec![root.join("lib")];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = folder.read_dir() else { continue };
            for entry in entries.flatten().take(MAX_FILES) {
                let path = entry.path();
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() && folders.len() < MAX_FILES => folders.push(path),
                    Ok(_) if path.extension().is_some_and(|extension| extension == "rhai") => files.push(path),
                    _ => {}
                }
            }
            if files.len() > MAX_FILES {
                break;
            }
        }
        files.sort();
        Self(
            files
                .into_iter()
                .map(|path| match path.metadata() {
                    Ok(data) => (path, data.modified().ok(), data.len()),
                    Err(_) => (path, None, 0),
                })
                .collect(),
        )
    }
}

/// The names that scripts register hooks with.
pub(crate) fn register(engine: &mut Engine) {
    for trigger in Trigger::ALL {
        engine.register_fn(trigger.name(), move |context: NativeCallContext, class: &str, handler: FnPtr| {
            register_hook(&context, trigger, class, handler)
        });
        engine.register_fn(
            trigger.name(),
            move |_: NativeCallContext, _: Dynamic, _: Dynamic, _: Dynamic| -> Raised<()> {
                Err(format!("{}: validators are not supported yet", trigger.name()).into())
            },
        );
    }
    for name in [
        "before_delete",
        "after_delete",
        "before_find",
        "after_find",
        "before_login",
        "after_login",
        "after_logout",
        "before_password_reset_request",
        "before_save_file",
        "after_save_file",
        "before_delete_file",
        "after_delete_file",
        "before_connect",
        "before_subscribe",
        "after_live_query_event",
        "on_live_query_event",
        "define",
        "job",
    ] {
        let refuse = move || -> Raised<()> { Err(format!("{name} is not supported yet").into()) };
        engine.register_fn(name, move |_: Dynamic| refuse());
        engine.register_fn(name, move |_: Dynamic, _: Dynamic| refuse());
        engine.register_fn(name, move |_: Dynamic, _: Dynamic, _: Dynamic| refuse());
    }
}

fn register_hook(context: &NativeCallContext, trigger: Trigger, class: &str, handler: FnPtr) -> Raised<()> {
    let name = trigger.name();
    let class = ClassName::parse(class).map_err(|error| format!("{name}: {}", error.message))?;
    if class == ClassName::SESSION {
        return Err(format!("{name}: the class {class} has no such hook").into());
    }
    let source = context.call_source().unwrap_or_default().to_owned();
    let at = context.call_position();
    with_loading(|loading| {
        let known = loading.parameters.get(handler.fn_name());
        if known.is_some_and(|parameters| parameters.len() != handler.curry().len() + 1) {
            return Err(format!("{name}: a handler has one parameter, |request|").into());
        }
        let function = without_shared_variables(handler, known.map_or(&[], Vec::as_slice))?;
        loading.registrations.push(Registration { class, trigger, function, source, at });
        Ok(())
    })
    .unwrap_or_else(|| Err(format!("{name} belongs to the top of a script, not into a hook").into()))
}

/// The function with its captured constants as values of its own. A captured variable would be shared by all runs, on
/// all threads, and end in a data race: it is refused.
fn without_shared_variables(mut function: FnPtr, parameters: &[String]) -> Raised<FnPtr> {
    let mut captured = Vec::with_capacity(function.curry().len());
    for (at, value) in function.curry().iter().enumerate() {
        let variable = parameters.get(at).map_or("?", String::as_str);
        if value.is_shared() && !value.is_read_only() {
            return Err(format!(
                "the handler uses the variable `{variable}` of the script around it, which all requests would share \
                 at the same time; make it a const, or keep such data in an object"
            )
            .into());
        }
        let mut value = value.clone().flatten();
        if let Some(inner) = value.clone().try_cast::<FnPtr>() {
            value = without_shared_variables(inner, &[])?.into();
        }
        captured.push(value);
    }
    function.set_curry(captured);
    Ok(function)
}

fn load_error(main: &str, error: &EvalAltResult) -> LoadError {
    let (source, at, inner) = innermost(main, error);
    let mut message = match inner {
        EvalAltResult::ErrorRuntime(value, _) => crate::api::thrown_text(value),
        other => {
            let mut bare = String::new();
            let text = other.to_string();
            // The position stands in front already.
            bare.push_str(text.rsplit_once(" (line ").map_or(text.as_str(), |(text, _)| text));
            bare
        }
    };
    if let EvalAltResult::ErrorParsing(kind, _) = inner {
        message = kind.to_string();
    }
    LoadError { place: place(&source, at), message }
}

/// The error that all the others wrap, with the script and line that it comes from.
pub(crate) fn innermost<'a>(source: &str, error: &'a EvalAltResult) -> (String, Position, &'a EvalAltResult) {
    let mut source = source.to_owned();
    let mut at = Position::NONE;
    let mut error = error;
    loop {
        if !error.position().is_none() {
            at = error.position();
        }
        match error {
            EvalAltResult::ErrorInFunctionCall(_, inner_source, inner, _) => {
                if !inner_source.is_empty() {
                    source.clone_from(inner_source);
                }
                error = inner;
            }
            EvalAltResult::ErrorInModule(name, inner, _) => {
                // rhai names the module as it was imported; ours are wrapped once more, by their file.
                if name.ends_with(".rhai") || !matches!(**inner, EvalAltResult::ErrorInModule(..)) {
                    source.clone_from(name);
                }
                at = Position::NONE;
                error = inner;
            }
            inner => return (source, at, inner),
        }
    }
}

//! HTTP: what the interfaces of OpenAI and Anthropic promise, on one model.

mod body;
mod chat;
mod completions;
pub(crate) mod error;
pub(crate) mod fields;
mod guard;
pub(crate) mod ids;
mod listen;
mod messages;
mod metrics;
mod models;
mod page;
mod record;
mod responses;
mod settings;
mod sse;
mod tokens;
mod usage;

#[cfg(test)]
mod tests;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::{self, Next};
use axum::routing::{get, post};
use clap::Args;
use futures_util::FutureExt;
use serde_json::Value;
use tokio::sync::watch;

use super::args::duration;
use super::dialogue::{Ask, Choice, Failed, Model, Prepared};
use super::scheduler::Scheduler;
use super::start::Served;
use crate::failure::Failure;
use body::Limits;
use error::{ApiError, Vendor};
use guard::Guard;
use listen::{Peer, Socket};
use metrics::Metrics;
use record::{LogFormat, Record, Recorded};

/// Heading of help texts.
const HTTP: &str = "HTTP";

/// The variable that holds the key where the command line does not.
const KEY: &str = "GEMMA4_API_KEY";

/// Time that answers have to end when the server is told to.
const DRAIN: Duration = Duration::from_secs(30);

/// Requests whose prompts are made at once; more wait. Each may take a while and some memory.
const BLOCKING: usize = 16;

/// How the server is reached.
#[derive(Args, Debug, Clone)]
pub(crate) struct HttpArgs {
    /// Address to listen on; others than this machine's own need a key
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), help_heading = HTTP)]
    pub(crate) host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 8080, help_heading = HTTP)]
    pub(crate) port: u16,
    /// Listen on a Unix socket instead, which only this user may use
    #[arg(long, value_name = "PATH", conflicts_with_all = ["host", "port"], help_heading = HTTP)]
    pub(crate) unix: Option<PathBuf>,
    /// Key that requests must show, as `Authorization: Bearer KEY` or `x-api-key: KEY` [default: that of the
    /// variable `GEMMA4_API_KEY`, which other users of this machine cannot read]
    #[arg(long, value_name = "KEY", help_heading = HTTP)]
    pub(crate) api_key: Option<String>,
    /// Origin whose web pages may ask, such as <https://chat.example>; `*` for all; may be repeated
    #[arg(long, value_name = "ORIGIN", help_heading = HTTP)]
    pub(crate) cors: Vec<String>,
    /// What the model is called [default: the name of its file]
    #[arg(long, value_name = "NAME", help_heading = HTTP)]
    pub(crate) alias: Option<String>,
    /// Let the model think where a request does not say whether to
    #[arg(long, help_heading = HTTP)]
    pub(crate) think: bool,
    /// Largest body of a request, MiB
    #[arg(long, value_name = "MIB", default_value_t = 16, help_heading = HTTP)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) max_body: u16,
    /// Longest time for an answer, waiting included, such as 90s, 10m or 2h
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration, help_heading = HTTP)]
    pub(crate) request_timeout: Duration,
    /// One line a request on stderr, without a word of prompts and answers
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text, help_heading = HTTP)]
    pub(crate) log: LogFormat,
}

/// The server's state.
#[derive(Debug)]
pub(crate) struct App {
    model: Model,
    scheduler: Scheduler,
    guard: Guard,
    limits: Limits,
    /// Longest time for an answer.
    time: Duration,
    log: LogFormat,
    metrics: Arc<Metrics>,
    /// When the server started, seconds since 1970.
    started: u64,
    /// Responses that may be continued.
    responses: Mutex<responses::Store>,
}

type Shared = Arc<App>;

/// A response, or an error in the words of the path's vendor.
type Answer = Result<Response<Body>, ApiError>;

impl App {
    fn new(args: &HttpArgs, key: Option<String>, model: Model, scheduler: Scheduler) -> Self {
        Self {
            model,
            scheduler,
            guard: Guard {
                key,
                local_only: args.unix.is_none() && args.host.is_loopback(),
                origins: args.cors.iter().map(|origin| origin.trim_end_matches('/').to_owned()).collect(),
            },
            limits: Limits { bytes: usize::from(args.max_body) << 20, time: Duration::from_mins(1) },
            time: args.request_timeout,
            log: args.log,
            metrics: Arc::default(),
            started: record::unix_time(),
            responses: Mutex::default(),
        }
    }

    /// Reads the JSON body of a request.
    async fn json(&self, request: Request) -> Result<Value, ApiError> {
        body::json(request, self.limits).await
    }

    /// Does what needs the processor, not the network: templates, tokens, grammars.
    async fn prepare(self: &Arc<Self>, ask: Ask) -> Result<Prepared, ApiError> {
        let app = Arc::clone(self);
        Ok(blocking(move || app.model.prepare(ask)).await??)
    }

    /// Hands a request over as often as choices are wanted. If one is refused, all are.
    fn submit(&self, prepared: &Prepared, choices: u32) -> Result<Vec<Choice>, Failed> {
        (0..choices).map(|nth| self.model.submit(&self.scheduler, prepared, nth, Some(self.time))).collect()
    }
}

/// Runs what takes long apart from the network. A panic there is one request's.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    let failed = |_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "this request made the server fail");
    tokio::task::spawn_blocking(work).await.map_err(failed)
}

/// All paths.
fn router(app: &Shared) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/favicon.ico", get(page::icon))
        .route("/health", get(models::health))
        .route("/v1/health", get(models::health))
        .route("/metrics", get(models::counts))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/v1/chat/completions", post(chat::handle))
        .route("/v1/completions", post(completions::handle))
        .route("/v1/responses", post(responses::handle))
        .route("/v1/responses/input_tokens", post(responses::input_tokens))
        .route("/v1/responses/{id}", get(responses::get).delete(responses::delete))
        .route("/v1/messages", post(messages::handle))
        .route("/v1/messages/count_tokens", post(messages::count_tokens))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/apply-template", post(tokens::apply_template))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(Arc::clone(app), around))
        .with_state(Arc::clone(app))
}

async fn unknown(request: Request) -> Response<Body> {
    let path: String = request.uri().path().chars().take(100).collect();
    let text =
        format!("there is nothing at {path}; the interfaces are under /v1, and a page to chat on is at /");
    ApiError::new(StatusCode::NOT_FOUND, text).code("unknown_url").response(Vendor::of(&path))
}

async fn wrong_method(request: Request) -> Response<Body> {
    let path = request.uri().path();
    let text = format!("{path} does not take {}", request.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, text).code("wrong_method").response(Vendor::of(path))
}

/// What every request passes: the guard, the log, and a net for panics.
async fn around(State(app): State<Shared>, mut request: Request, next: Next) -> Response<Body> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.clone()).unwrap_or_default();
    let record = Record::new(method.as_str(), &path, peer, app.log, Arc::clone(&app.metrics));
    let vendor = Vendor::of(&path);
    let cors = app.guard.headers(request.headers());
    let mut response = match app.guard.check(&method, &path, request.headers()) {
        Err(error) => {
            record.failed(error.code.unwrap_or("refused"));
            error.response(vendor)
        }
        Ok(()) if method == Method::OPTIONS => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        Ok(()) => {
            request.extensions_mut().insert(record.clone());
            AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(|_| {
                record.failed("panic");
                let text = "this request made the server fail; others are not affected";
                ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, text).response(vendor)
            })
        }
    };
    record.status(response.status().as_u16());
    let headers = response.headers_mut();
    headers.extend(cors);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(id) = HeaderValue::from_str(record.id()) {
        headers.insert("request-id", id.clone());
        headers.insert("x-request-id", id);
    }
    response.map(|body| Recorded::body(body, record))
}

/// A handler's result as a response.
fn answer(record: &Record, vendor: Vendor, answer: Answer) -> Response<Body> {
    answer.unwrap_or_else(|error| {
        record.failed(error.code.unwrap_or("invalid_request"));
        error.response(vendor)
    })
}

/// A JSON response.
fn reply(value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// What is wrong with the command line.
fn key(args: &HttpArgs) -> Result<Option<String>, Failure> {
    let given = args.api_key.clone().or_else(|| std::env::var(KEY).ok());
    let key = given.map(|key| key.trim().to_owned()).filter(|key| !key.is_empty());
    if key.is_none() && args.unix.is_none() && !args.host.is_loopback() {
        return Err(Failure::usage(format!(
            "--host {} lets other machines ask, so a key is needed: set {KEY} or give --api-key",
            args.host
        )));
    }
    if key.as_deref().is_some_and(|key| !key.bytes().all(|b| b.is_ascii_graphic())) {
        return Err(Failure::usage(
            "the API key holds what no header can, expected visible ASCII characters",
        ));
    }
    Ok(key)
}

/// Whether the command line makes sense, before anything is loaded.
pub(crate) fn check(args: &HttpArgs) -> Result<(), Failure> {
    key(args).map(drop)
}

/// Serves until a signal ends it.
pub(crate) fn run(args: &HttpArgs, name: String, served: Served) -> Result<ExitCode, Failure> {
    let key = key(args)?;
    let Served { scheduler, speaker, context, vocab } = served;
    let model = Model::new(speaker, name, context, vocab, args.think);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING)
        .enable_all()
        .build()?;
    let app = Arc::new(App::new(args, key, model, scheduler));
    let code = runtime.block_on(async {
        let socket = bind(args).await?;
        // Programs that start this one find the address here, also that of port 0.
        crate::text::print(format!("listening on {}\n", socket.name()))?;
        let (end, ended) = watch::channel(false);
        let (drained, all_drained) = watch::channel(false);
        let serving = tokio::spawn(listen::serve(socket, router(&app), ended, all_drained));
        let loading = app.scheduler.clone();
        let loaded = tokio::task::spawn_blocking(move || loading.loaded());
        tokio::select! {
            loaded = loaded => {
                loaded??;
                say(app.log, &format!("ready: {}, context {}", app.model.name, app.model.context));
                signal().await;
            }
            () = signal() => {}
        }
        say(app.log, &format!("ending; answers have {} s, a second signal ends at once", DRAIN.as_secs()));
        // Nobody listens any more if all connections have ended already.
        let _ = end.send(true);
        let scheduler = app.scheduler.clone();
        let drain = tokio::task::spawn_blocking(move || scheduler.drain(DRAIN));
        tokio::select! {
            _ = drain => {}
            () = signal() => return Ok(ExitCode::from(130)),
        }
        let _ = drained.send(true);
        let _ = serving.await;
        Ok::<_, Failure>(ExitCode::SUCCESS)
    });
    // Blocking work that nobody waits for must not hold the program.
    runtime.shutdown_background();
    code
}

/// A remark for whoever runs the server.
fn say(log: LogFormat, text: &str) {
    if log == LogFormat::Text {
        // Whoever closed stderr does not want to know.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

async fn bind(args: &HttpArgs) -> Result<Socket, Failure> {
    #[cfg(unix)]
    if let Some(path) = &args.unix {
        return Socket::unix(path).await.map_err(|error| {
            Failure::Failed(format!("cannot listen on {}: {error}", path.display()).into())
        });
    }
    #[cfg(not(unix))]
    if args.unix.is_some() {
        return Err(Failure::usage("this system has no Unix sockets; use --host and --port"));
    }
    let address = SocketAddr::new(args.host, args.port);
    Socket::tcp(address).await.map_err(|error| {
        Failure::Failed(
            format!("cannot listen on {address}: {error}; --port takes another one, 0 any free one").into(),
        )
    })
}

/// Waits for Ctrl-C, or on Unix for SIGTERM.
async fn signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

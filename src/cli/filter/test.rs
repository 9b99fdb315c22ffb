//! `pixelgate filter test`: one event through one filter.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::cli::{Ended, GatewayArgs, say, say_json, tell};
use crate::config::{self, FilterLimits, Surroundings};
use crate::event::decode::{self, GraphRequest};
use crate::event::{Arrival, Event, OnFault, Scalar};
use crate::filter::{Chain, Context, FilterHost, Filtered, LoadError, Program, Stage};
use crate::telemetry::{LogStyle, start_log};

/// An event for authors who have none at hand.
const SAMPLE: &str = r#"{
    "event_name": "Purchase", "event_time": 1700000000, "event_id": "sample-1", "action_source": "website",
    "event_source_url": "https://shop.example/thanks?order=1", "referrer_url": "https://shop.example/cart",
    "user_data": { "em": ["62a14e44f765419d10fea99367361a727c12365e2520f32218d505ed9aa0f62f"],
        "fbp": "fb.1.1677024568192.220088425", "client_user_agent": "Mozilla/5.0" },
    "custom_data": { "value": 19.5, "currency": "EUR", "content_ids": ["sku-1"], "content_type": "product" } }"#;

/// What the filter is called here.
const NAME: &str = "test";
/// How the reason of a fault begins here.
const FAULT_PREFIX: &str = "filter:test: ";

#[derive(clap::Args)]
pub(in crate::cli) struct Args {
    /// A component (.wasm) or a script (.js)
    filter: PathBuf,
    /// The event, as JSON of the Conversions API; without it a sample
    #[arg(long, value_name = "FILE")]
    event: Option<PathBuf>,
    /// The settings, as JSON; without them `{}`
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// A signal such as consent=marketing; may be given again
    #[arg(long = "signal", value_name = "NAME=VALUE", value_parser = signal)]
    signals: Vec<(String, Scalar)>,
    /// The component that runs scripts; without it that of the configuration, which $PIXELGATE_SCRIPT_RUNNER moves
    #[arg(long, value_name = "FILE")]
    script_runner: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

pub(super) fn run(gateway: &GatewayArgs, args: Args) -> anyhow::Result<Ended> {
    // What the filter itself logs; its faults are in the verdict.
    start_log(LogStyle::Text, "off,filter=debug,filter::fault=off")?;
    let written = config::filter_limits(&gateway.config, &Surroundings::of_process());
    let mut limits = FilterLimits { threads: 2, ..written };
    if let Some(runner) = &args.script_runner {
        limits.script_runner = std::path::absolute(runner)?;
    }
    let host = FilterHost::start(crate::server::filter_options(&limits, None), Arc::new(Silent))?;
    let stage = stage(&args)?;
    let account = "test".parse()?;
    let chain = match host.compile(&account, vec![stage]) {
        Ok(chain) => chain,
        Err(errors) => {
            for error in errors {
                let (file, remedy) = (args.filter.display(), remedy(&error.error, &args));
                tell(format_args!("{file}: {}\n  → {remedy}", error.error));
            }
            return Ok(Ended::Bad);
        }
    };
    let context = Context {
        account,
        pixel: "1".parse()?,
        host: "events.shop.example".to_owned(),
        signals: args.signals.clone(),
        sources: Vec::new(),
    };
    let event = event(args.event.as_deref())?;
    let before = to_json(&event)?;
    let filtered = run_once(&chain, context, event)?;
    print(filtered, &before, args.json)
}

// === impl Args ===

impl Args {
    fn is_script(&self) -> bool {
        self.filter.extension().is_some_and(|extension| extension == "js")
    }
}

/// Nobody counts here.
struct Silent;

impl crate::filter::Observer for Silent {}

/// What to do here, where there is no configuration to correct.
fn remedy(error: &LoadError, args: &Args) -> String {
    match (error, &args.settings) {
        (LoadError::NotWasm(_), _) => "name a component (.wasm), or a script: its name ends in .js".to_owned(),
        (LoadError::Refused(_), None) if args.is_script() => {
            "correct the script as it says, or give it settings: a file of JSON, with --settings".to_owned()
        }
        (LoadError::Refused(_), None) => {
            "give it the settings that it wants: a file of JSON, with --settings".to_owned()
        }
        (LoadError::Refused(_), Some(settings)) if args.is_script() => {
            format!("correct the script or {} as it says", settings.display())
        }
        (LoadError::Refused(_), Some(settings)) => format!("correct {} as it says", settings.display()),
        (LoadError::InitFault { .. }, _) => {
            "let `init` do less: it has the limits of a call, and 20 times its deadline".to_owned()
        }
        (LoadError::RunnerUnreadable { .. } | LoadError::Runner { .. }, _) => {
            "name it with --script-runner, the environment's PIXELGATE_SCRIPT_RUNNER or [filters] script_runner; `make \
             plugins` makes it"
                .to_owned()
        }
        (error, _) => error.remedy().to_owned(),
    }
}

fn stage(args: &Args) -> anyhow::Result<Stage> {
    let bytes = read(&args.filter)?;
    let program = if args.is_script() {
        Program::Script(String::from_utf8(bytes).context("a script is UTF-8")?.into())
    } else {
        Program::Component(bytes.into())
    };
    let settings = match &args.settings {
        Some(path) => {
            let value: Value = serde_json::from_slice(&read(path)?).with_context(|| path.display().to_string())?;
            value.to_string()
        }
        None => "{}".to_owned(),
    };
    Ok(Stage { name: NAME.to_owned(), program, settings, on_fault: OnFault::Hold })
}

/// The event as the gateway would have decoded it.
fn event(path: Option<&Path>) -> anyhow::Result<Event> {
    let text = path.map_or_else(|| Ok(SAMPLE.as_bytes().to_vec()), read)?;
    let whose = || path.map_or_else(|| "the sample".to_owned(), |path| path.display().to_string());
    let value: Value = serde_json::from_slice(&text).with_context(|| format!("{}: no JSON", whose()))?;
    let body = json!({ "data": [value] }).to_string();
    let request =
        GraphRequest { content_type: Some("application/json"), query: "", body: body.as_bytes(), bearer: None };
    let arrival = Arrival { now_ms: crate::clock::now_ms(), ..Arrival::default() };
    let decoded = decode::graph::decode(request, &arrival, 1)?;
    decoded.events.into_iter().next().context("no event")
}

fn run_once(chain: &Chain, context: Context, event: Event) -> anyhow::Result<Filtered> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let filtered = runtime.block_on(chain.run(Arc::new(context), vec![event]));
    filtered.into_iter().next().context("the filter gave nothing back")
}

fn print(filtered: Filtered, before: &Value, as_json: bool) -> anyhow::Result<Ended> {
    let (ended, document) = match filtered {
        Filtered::Pass(event) => {
            let event = to_json(&event)?;
            let verdict = if event == *before { "pass" } else { "modify" };
            (Ended::Fine, json!({ "verdict": verdict, "event": event }))
        }
        Filtered::Drop { reason, .. } => (Ended::Fine, json!({ "verdict": "drop", "reason": reason })),
        Filtered::Hold { reason, message, .. } => {
            (Ended::Bad, json!({ "verdict": "fault", "reason": reason, "message": message }))
        }
    };
    if as_json {
        say_json(&document)?;
    } else {
        let text = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or_default();
        let reason = text("reason").strip_prefix(FAULT_PREFIX).unwrap_or(text("reason"));
        let said = [text("verdict"), reason, text("message")];
        say(said.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": "))?;
        if let Some(event) = document.get("event") {
            say_json(event)?;
        }
    }
    Ok(ended)
}

fn to_json(event: &Event) -> anyhow::Result<Value> {
    let mut text = Vec::new();
    event.encode(&mut text);
    Ok(serde_json::from_slice(&text)?)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| path.display().to_string())
}

fn signal(text: &str) -> Result<(String, Scalar), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), Scalar::Text(value.to_owned())))
}

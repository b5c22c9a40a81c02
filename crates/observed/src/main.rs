//! `kuramori-observed`: looks ten times a second and tells the gate what it sees.
//!
//! It can only close: by not saying ok, or by saying nothing. It holds no credential and no right that could
//! open anything, and it needs nobody to tell it that a window is open.
//!
//! **Invariant:** depends on neither `gate` nor `gated`.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddrV4},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::Parser;
use kuramori_model::{
    clock::{Random, SystemClock, SystemRandom},
    gate::Seen,
};
use kuramori_observe::{
    probe::{From, Target},
    watch::{Watched, Watcher},
};
use serde::Deserialize;

/// The observer of the gate.
#[derive(Debug, Parser)]
#[command(name = "kuramori-observed", version)]
struct Arguments {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/kuramori/observed.toml")]
    config: PathBuf,
    /// Look once, print what is seen as one line of JSON, and end.
    #[arg(long)]
    once: bool,
}

/// A gate that takes no words for this long is left and called again.
const PATIENCE: Duration = Duration::from_millis(500);

/// All of `observed.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The gate's observer socket.
    socket: PathBuf,
    /// The approved flow's other end.
    target: SocketAddrV4,
    /// What must never answer.
    #[serde(default)]
    never: Vec<SocketAddrV4>,
    /// The namespace that probes start from.
    namespace: Option<PathBuf>,
    /// The address that probes start from.
    source: Option<Ipv4Addr>,
    /// Further flows and further things that must never answer, each from a place of its own: a restore
    /// window's receiver, the vault as seen from the production side.
    #[serde(default)]
    also: Vec<Also>,
    /// The guarded interface.
    interface: String,
    /// Time between two looks at the approved flows.
    #[serde(default = "tenth")]
    interval_ms: u64,
    /// How long an answer may take.
    #[serde(default = "patience")]
    patience_ms: u64,
    /// Where the kernel shows its interfaces.
    #[serde(default = "sys_class_net")]
    sys_class_net: PathBuf,
}

/// One more thing to probe.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Also {
    /// Whom.
    address: SocketAddrV4,
    /// True: it must never answer. False: it is the other end of a flow that a window may open.
    never: bool,
    /// The namespace that the probe starts from.
    namespace: Option<PathBuf>,
    /// The address that it starts from.
    source: Option<Ipv4Addr>,
}

const fn tenth() -> u64 {
    100
}

const fn patience() -> u64 {
    400
}

fn sys_class_net() -> PathBuf {
    PathBuf::from("/sys/class/net")
}

impl Config {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs_err::read_to_string(path)?;
        let config: Self = toml::from_str(&text).with_context(|| format!("`{}`", path.display()))?;
        ensure!((50..=1000).contains(&config.interval_ms), "`interval_ms` must be 50 to 1000");
        ensure!((50..=900).contains(&config.patience_ms), "`patience_ms` must be 50 to 900");
        ensure!(!config.never.contains(&config.target), "`never` names the `target`");
        Ok(config)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("KURAMORI_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .init();
    match Config::read(&arguments.config).and_then(|config| run(config, arguments.once)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(1)
        }
    }
}

fn run(config: Config, once: bool) -> anyhow::Result<()> {
    let clock = SystemClock;
    let mut run = [0; 8];
    SystemRandom.fill(&mut run);
    let from = From { namespace: config.namespace, source: config.source };
    let mut flows = vec![Target { address: config.target, from: from.clone() }];
    let mut never: Vec<Target> =
        config.never.iter().map(|address| Target { address: *address, from: from.clone() }).collect();
    for also in config.also {
        let target =
            Target { address: also.address, from: From { namespace: also.namespace, source: also.source } };
        if also.never { &mut never } else { &mut flows }.push(target);
    }
    let watched = Watched {
        flows,
        never,
        interface: config.interface,
        sys_class_net: config.sys_class_net,
        patience: Duration::from_millis(config.patience_ms),
        interval: Duration::from_millis(config.interval_ms),
    };
    let mut watcher = Watcher::new(watched, u64::from_le_bytes(run), &clock);
    if once {
        let mut out = std::io::stdout().lock();
        serde_json::to_writer(&mut out, &watcher.look(&clock))?;
        out.write_all(b"\n")?;
        return Ok(());
    }
    let mut gate: Option<UnixStream> = None;
    let mut before: Option<(bool, bool, Vec<String>)> = None;
    loop {
        for seen in watcher.turn(&clock) {
            let now = (seen.path_open, seen.ok, seen.unapproved.clone());
            if before.as_ref() != Some(&now) {
                if seen.ok {
                    tracing::info!(path_open = seen.path_open, "seen");
                } else {
                    tracing::warn!(path_open = seen.path_open, unapproved = ?seen.unapproved, "seen: not ok");
                }
                before = Some(now);
            }
            if let Err(error) = tell(&mut gate, &config.socket, &seen, PATIENCE) {
                tracing::debug!(%error, "the gate does not listen");
                gate = None;
            }
        }
    }
}

/// A gate that does not read must not stop the looking.
fn tell(
    gate: &mut Option<UnixStream>,
    socket: &Path,
    seen: &Seen,
    patience: Duration,
) -> std::io::Result<()> {
    let stream = match gate {
        Some(stream) => stream,
        none => {
            let stream = UnixStream::connect(socket)?;
            stream.set_write_timeout(Some(patience))?;
            none.insert(stream)
        }
    };
    let mut line = serde_json::to_vec(seen)?;
    line.push(b'\n');
    stream.write_all(&line)
}

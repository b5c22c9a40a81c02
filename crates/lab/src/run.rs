//! `kuramori-lab run`: raise the hospital, do the main job, and stay until somebody has seen enough.

use std::{
    io::Write,
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use kuramori_lab::{
    Files, Lab, Role, Scale, What, down,
    job::{self, Door, Product, Story, Summary},
    needs,
};
use kuramori_model::{
    clock::{Clock, SystemClock},
    fault::Exit,
};

/// How a run is to be.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// End after the job instead of leaving the console open
    #[arg(long)]
    once: bool,
    /// Some megabytes of data instead of the full amount (also KURAMORI_LAB_SMALL=1)
    #[arg(long)]
    small: bool,
    /// Where all generated data come from
    #[arg(long, default_value_t = 2026)]
    seed: u64,
    /// The port of the console on this machine's loopback; 0 for any
    #[arg(long, default_value_t = 8080)]
    port: u16,
}

/// Does it all; the lab is taken down whatever happens.
pub(crate) fn run(root: &Path, run: &Run, json: bool) -> anyhow::Result<ExitCode> {
    let story = Story::new(false);
    let lacks = needs(root);
    if !lacks.is_empty() {
        for lack in &lacks {
            let _ = writeln!(std::io::stderr(), "{}: {}", lack.what, lack.remedy);
        }
        return Ok(ExitCode::from(Exit::Fix as u8));
    }
    let product = Product::beside_this()?;
    // What an earlier run left is taken away; its folder holds generated data only.
    if root.join("lab.json").exists() {
        down(root, Files::Remove)?;
    }
    let program = std::env::current_exe().context("this program's own path is unknown")?;
    let scale = if run.small { Scale::Small } else { Scale::from_environment() };
    let prefix = format!("km{}", std::process::id() % 1_000_000);
    story.tell(
        "病院を立ち上げています(実物のサーバー、生成データ)",
        "raising the hospital (real servers, generated data)",
    );
    let lab = Lab::up(&prefix, root, What::everything(scale, run.seed, program))?;
    let stop = stop_on_signal()?;
    let console: SocketAddr = (Role::Srv.address(), 8080).into();
    let door = Door::open(&lab, Role::Srv, if run.once { 0 } else { run.port }, console);
    if let Ok(door) = &door {
        story.tell(
            &format!("この機器からの画面: http://{}/", door.address()),
            &format!("console from this machine: http://{}/", door.address()),
        );
    }
    let outcome = job::run(&lab, &product, &story);
    if let (Ok(summary), false) = (&outcome, json) {
        say(summary)?;
    }
    if !run.once && outcome.is_ok() {
        story.tell("画面を開いたままにします。終了は Ctrl-C", "the console stays open; Ctrl-C ends");
        while !stop.load(Ordering::Relaxed) {
            SystemClock.sleep(Duration::from_millis(200));
        }
    }
    let taken = lab.down(Files::Keep)?;
    let summary = outcome?;
    if json {
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&summary)?)?;
    }
    for difference in &taken.differences {
        let _ = writeln!(std::io::stderr(), "the machine is not as before: {difference}");
    }
    let good = summary.good() && taken.differences.is_empty();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(Exit::Damaged as u8) })
}

/// The end of the story for people.
fn say(summary: &Summary) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for fault in summary.faults() {
        writeln!(out, "✗ {fault}")?;
    }
    for back in &summary.restored {
        let mark = if back.identical && back.running { "✓" } else { "✗" };
        writeln!(out, "{mark} {} ← {} ({}), {:.1} s", back.name, back.from, back.generation, back.rto_s)?;
    }
    for sheet in &summary.evidence {
        writeln!(out, "{}", sheet.display())?;
    }
    Ok(())
}

fn stop_on_signal() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // A second signal ends the process at once; `kuramori-lab down` then takes the lab away.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

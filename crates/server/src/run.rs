//! Starting and ending: catalog first (it refuses a second server), then the sockets, then the work.

use std::{sync::Arc, time::Duration};

use kuramori_model::fault::chain;
use kuramori_serve::{Limits, Mode};
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    App, ServerError, admin, config::Config, console, drills, ears, error::Result, job, look, post, receive,
    report, results, retention, schedule, wal, watchman,
};

/// How long threads that still block may take when everything else has ended.
const LAST: Duration = Duration::from_secs(5);

/// A server that listens. Dropping it ends everything without ceremony; [`Running::stop`] ends it well.
#[derive(Debug)]
pub struct Running {
    app: App,
    tasks: JoinSet<()>,
    /// Where the console listens (a port of 0 in the configuration becomes a real one).
    pub console: std::net::SocketAddr,
    /// Where the repository server listens.
    pub serve: std::net::SocketAddr,
    /// Where the door for agents is, if there is one.
    pub agents: Option<std::net::SocketAddr>,
}

/// Runs until SIGTERM or SIGINT; blocks.
pub fn run(config: Config) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(ServerError::file("start the runtime"))?;
    let outcome = runtime.block_on(async {
        let running = start(config).await?;
        tracing::info!(console = %running.console, serve = %running.serve, "the server is ready");
        signalled().await?;
        tracing::info!("the server ends");
        running.stop().await;
        Ok(())
    });
    runtime.shutdown_timeout(LAST);
    outcome
}

async fn signalled() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let wrong = ServerError::file("wait for signals");
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate()).map_err(&wrong)?, signal(SignalKind::interrupt()).map_err(&wrong)?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Opens everything and starts the work.
pub async fn start(config: Config) -> Result<Running> {
    let app = App::open(config).await?;
    let socket = admin::listen(&app.config.socket)?;
    let bind = |address: std::net::SocketAddr| async move {
        TcpListener::bind(address).await.map_err(|error| ServerError::File {
            action: "listen",
            source: std::io::Error::new(error.kind(), format!("{address}: {error}")),
        })
    };
    let (console, repositories) = (bind(app.config.console).await?, bind(app.config.serve.listen).await?);
    let address = |listener: &TcpListener| listener.local_addr().map_err(ServerError::file("listen"));
    let (console_address, serve_address) = (address(&console)?, address(&repositories)?);

    // Alone on the catalog, everybody else is gone. Beside others, only their leases say who is.
    if !app.catalog.is_shared() {
        for run in app.catalog.abandon_others(&app.owner).await? {
            tracing::warn!(run = %run.id, system = %run.system, "its server died; the run is taken back");
        }
    }
    let mut tasks = ears::open(&app).await?;
    let adopted = job::adopt(&app).await?;
    if adopted > 0 {
        tracing::warn!(
            adopted,
            "restore points that were committed and not yet registered are registered now"
        );
    }
    report::catch_up(&app).await?;
    results::catch_up(&app).await?;
    if adopted > 0 || !app.repository_folder(kuramori_model::ids::CONTROL_REPOSITORY).join("config").exists()
    {
        app.export_control().await?;
    }

    let agents = crate::agents::open(&app).await?;
    let stop = |app: &App| {
        let mut stopping = app.stopping.subscribe();
        async move {
            let _ = stopping.wait_for(|stopping| *stopping).await;
        }
    };
    let (ear, events) = receive::ear();
    let serve = kuramori_serve::Config {
        root: app.config.repositories.clone(),
        mode: Mode::Store,
        tls: app.keys.tls.clone(),
        logins: app.logins.clone(),
        watch: Arc::new(ear),
        clock: app.clock.clone(),
        random: app.random.clone(),
        limits: Limits::default(),
    };
    let shutdown = stop(&app);
    tasks.spawn(async move {
        if let Err(error) = kuramori_serve::run(serve, repositories, shutdown).await {
            tracing::error!("the repository server ended: {}", chain(&error));
        }
    });
    let router = console::router(Arc::new(app.clone()), app.config.language, app.config.zone.clone());
    let shutdown = stop(&app);
    tasks.spawn(async move {
        let _ = axum::serve(console, router).with_graceful_shutdown(shutdown).await;
    });
    let (router, shutdown) = (admin::router(app.clone()), stop(&app));
    tasks.spawn(async move {
        let _ = axum::serve(socket, router).with_graceful_shutdown(shutdown).await;
    });
    tasks.spawn(until(stop(&app), receive::listen(app.clone(), events)));
    tasks.spawn(until(stop(&app), watchman::run(app.clone())));
    tasks.spawn(until(stop(&app), post::run(app.clone())));
    tasks.spawn(until(stop(&app), retention::run(app.clone())));
    tasks.spawn(until(stop(&app), drills::run(app.clone())));
    tasks.spawn(until(stop(&app), wal::run(app.clone())));
    if let Some(gate) = app.config.gate.clone() {
        tasks.spawn(until(stop(&app), look::watch(app.clone(), gate)));
    }
    tasks.spawn(schedule::run(app.clone()));
    Ok(Running { app, tasks, console: console_address, serve: serve_address, agents })
}

async fn until(stop: impl Future<Output = ()>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stop => {}
        () = work => {}
    }
}

impl Running {
    /// The shared parts, for tests and tools in this process.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Ends well: jobs give up and record it, requests are answered, the catalog is closed.
    pub async fn stop(mut self) {
        let _ = self.app.stopping.send(true);
        while self.tasks.join_next().await.is_some() {}
        let _ = fs_err::remove_file(&self.app.config.socket);
        self.app.catalog.clone().close().await;
    }
}

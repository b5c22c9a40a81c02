//! Accepting connections until the owner says stop.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    Config, Outcome, ServeError, Verb,
    connection::{Patient, Place, Places},
    handler::Server,
    reply::Report,
};

/// How often the source of logins is looked at.
const REFRESH: Duration = Duration::from_secs(1);
/// Pause after the system refused to accept (no file descriptors left, say).
const BREATH: Duration = Duration::from_millis(100);

/// Serves a folder on a listening socket until `shutdown` ends; then gives running requests
/// [`Limits::drain`](crate::Limits::drain) to end. What is cut off by then has left nothing.
///
/// # Errors
/// The folder cannot be used, is not empty (receiver), or another server has it.
pub async fn run(
    config: Config,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let server = tokio::task::spawn_blocking(move || Server::open(config))
        .await
        .map_err(|error| ServeError::Bug(error.to_string()))??;
    let server = Arc::new(server);
    let limits = server.config.limits;
    let places = Places::new(limits.connections, limits.connections_per_address);
    let acceptor = TlsAcceptor::from(server.config.tls.clone());
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let refresher = tokio::spawn(refresh(server.clone()));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        let Some(place) = places.take(peer.ip()) else {
            server.connection_event(peer, Outcome::Busy);
            continue;
        };
        connections.spawn(connection(server.clone(), acceptor.clone(), stream, peer, place, stopped.clone()));
    }
    drop(listener);
    refresher.abort();
    let _ = stop.send(true);
    let ended = timeout(limits.drain, async { while connections.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        connections.shutdown().await;
    }
    tokio::task::spawn_blocking(move || server.shelf.close())
        .await
        .map_err(|error| ServeError::Bug(error.to_string()))
}

async fn connection(
    server: Arc<Server>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
    _place: Place,
    mut stopped: watch::Receiver<bool>,
) {
    let limits = server.config.limits;
    let _ = stream.set_nodelay(true);
    let stream = Patient::new(stream, limits.stall);
    let Ok(Ok(stream)) = timeout(limits.handshake, acceptor.accept(stream)).await else {
        server.connection_event(peer, Outcome::Broken);
        return;
    };
    let service = service_fn(|request| {
        let server = server.clone();
        async move { Ok::<_, Infallible>(server.handle(peer, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.idle).max_buf_size(limits.header.max(8192));
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        // The value is set once, to stop; an error means that the server is gone.
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// Looks after the source of logins, so that no request waits for a disk.
async fn refresh(server: Arc<Server>) {
    loop {
        tokio::time::sleep(REFRESH).await;
        let logins = server.config.logins.clone();
        let outcome = match tokio::task::spawn_blocking(move || logins.refresh()).await {
            Ok(Ok(false)) => continue,
            Ok(Ok(true)) => Outcome::Done,
            Ok(Err(error)) => Outcome::Failed(error.to_string()),
            Err(error) => Outcome::Failed(error.to_string()),
        };
        Report::about(&server.config.watch, &server.config.clock, Verb::Reload).send(outcome, 0);
    }
}

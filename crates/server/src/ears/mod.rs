//! Ears for what other backup products say in words: mail and syslog to ports of our own.
//!
//! **In** come mails and messages from the hosts that the register names; everybody else is turned away before
//! anything is read. **Out** go results, recorded and judged as those that come by file or by post. What cannot
//! be used is told (`foreign.bad-result`) and never counts as a success.
//!
//! Nothing is answered but what the protocols ask for, and nothing is stored but the result.

mod mail;
mod syslog;

use std::{net::IpAddr, sync::Mutex, time::Duration};

use kuramori_model::{fault::chain, ids::SystemId};
use kuramori_source::{
    config::Product,
    said::{By, Hear, Heard, Said, hear},
};
use tokio::{net::TcpListener, task::JoinSet};

use crate::{App, ServerError, config::Results, error::Result, results};

/// How long the register's word of who may speak is remembered.
const REMEMBERED: Duration = Duration::from_secs(2);

/// A system and who may speak for it.
type May = (SystemId, Product, Vec<Hear>);

/// Who may speak, as the register says.
#[derive(Debug, Default)]
struct Known(Mutex<Option<(Duration, Vec<May>)>>);

/// What all ears share.
#[derive(Debug, Clone)]
struct Ear {
    app: App,
    known: std::sync::Arc<Known>,
}

impl Ear {
    async fn who(&self) -> Result<Vec<May>> {
        let now = self.app.clock.boot();
        let lock = || self.known.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((at, known)) = lock().as_ref()
            && now.saturating_sub(*at) < REMEMBERED
        {
            return Ok(known.clone());
        }
        let mut all = Vec::new();
        for registered in self.app.catalog.systems().await? {
            if let Some(foreign) = results::of(&registered.system).filter(|foreign| !foreign.hear.is_empty())
            {
                all.push((registered.system.id, foreign.product, foreign.hear));
            }
        }
        *lock() = Some((now, all.clone()));
        Ok(all)
    }

    /// Those who may speak from an address on one way.
    async fn at(&self, by: By, host: IpAddr) -> Result<Vec<May>> {
        // A listener for both families sees IPv4 in IPv6's clothes.
        let host = host.to_canonical();
        let mut all = self.who().await?;
        all.retain(|(_, _, hears)| hears.iter().any(|hear| hear.by == by && hear.host == host));
        Ok(all)
    }

    /// Takes a message: a result for one system or several, or a word to people that it cannot be used.
    async fn take(&self, said: &Said) -> Result<()> {
        let now = self.app.clock.now();
        let (mut unusable, mut used) = (Vec::new(), false);
        for (system, product, hears) in self.at(said.by, said.host).await? {
            match hear(&system, product, &hears, said, now, &self.app.config.zone) {
                Heard::NotOurs => {}
                Heard::Unusable(why) => unusable.push((system, why)),
                Heard::Result(result) => {
                    used = true;
                    self.app.record_result(*result, said.by.as_str()).await?;
                }
            }
        }
        for (system, why) in unusable.into_iter().filter(|_| !used) {
            results::refuse(&self.app, &system, &format!("{}: {why}", said.by.as_str()));
        }
        Ok(())
    }
}

async fn bind(address: std::net::SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| wrong(address, &error))
}

fn wrong(address: std::net::SocketAddr, error: &std::io::Error) -> ServerError {
    let source = std::io::Error::new(error.kind(), format!("{address}: {error}"));
    ServerError::File { action: "listen for results", source }
}

/// Listens on the ports that the configuration names, until the task is dropped.
///
/// # Errors
/// A port cannot be had.
pub(crate) async fn open(app: &App) -> Result<JoinSet<()>> {
    let ear = Ear { app: app.clone(), known: std::sync::Arc::default() };
    let Results { mail, mail_bytes, syslog_udp, syslog_tcp } = app.config.results.clone();
    let mut tasks = JoinSet::new();
    let app = app.clone();
    if let Some(address) = mail {
        tasks.spawn(until(app.clone(), mail::listen(ear.clone(), bind(address).await?, mail_bytes)));
    }
    if let Some(address) = syslog_tcp {
        tasks.spawn(until(app.clone(), syslog::streams(ear.clone(), bind(address).await?)));
    }
    if let Some(address) = syslog_udp {
        let socket = tokio::net::UdpSocket::bind(address).await.map_err(|error| wrong(address, &error))?;
        tasks.spawn(until(app, syslog::datagrams(ear, socket)));
    }
    Ok(tasks)
}

/// Until the server ends.
async fn until(app: App, work: impl Future<Output = ()>) {
    let mut stopping = app.stopping.subscribe();
    tokio::select! {
        _ = stopping.wait_for(|stopping| *stopping) => {}
        () = work => {}
    }
}

/// A message that could not be taken because of ourselves; it comes again, or the judge sees its absence.
fn log(what: &str, error: &ServerError) {
    tracing::error!("{what} could not be taken: {}", chain(error));
}

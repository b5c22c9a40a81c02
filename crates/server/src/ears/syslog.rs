//! Syslog over UDP (RFC 5426) and TCP (RFC 6587).

use std::{net::IpAddr, sync::Arc, time::Duration};

use kuramori_source::{
    said::{By, Said, When},
    syslog,
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
};

use super::{Ear, log};

/// Bytes of one message.
const MOST: usize = 16 << 10;
/// Connections at the same time.
const CONNECTIONS: usize = 32;
/// A host may be so long without a word.
const SILENCE: Duration = Duration::from_hours(25);
/// Time between two accepts when the system has no room for more.
const PAUSE: Duration = Duration::from_millis(200);

async fn take(ear: &Ear, by: By, host: IpAddr, bytes: &[u8]) {
    let said = match syslog::read(bytes) {
        Some(message) => {
            Said { by, host, from: None, at: message.at, head: message.text, body: String::new() }
        }
        // Told as something that fits nothing.
        None => Said { by, host, from: None, at: When::Unsaid, head: String::new(), body: String::new() },
    };
    if let Err(error) = ear.take(&said).await {
        log("a syslog message", &error);
    }
}

pub(super) async fn datagrams(ear: Ear, socket: UdpSocket) {
    let mut buffer = vec![0; MOST + 1];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, peer)) => {
                let host = peer.ip().to_canonical();
                match ear.at(By::SyslogUdp, host).await {
                    Ok(may) if may.is_empty() || length > MOST => {}
                    Ok(_) => take(&ear, By::SyslogUdp, host, &buffer[..length]).await,
                    Err(error) => log("a syslog message", &error),
                }
            }
            Err(error) => {
                tracing::warn!(%error, "syslog over UDP");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

pub(super) async fn streams(ear: Ear, listener: TcpListener) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (ear, host) = (ear.clone(), peer.ip().to_canonical());
                tokio::spawn(async move {
                    stream_of(&ear, host, stream).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "syslog over TCP");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn stream_of(ear: &Ear, host: IpAddr, mut stream: TcpStream) {
    match ear.at(By::SyslogTcp, host).await {
        Ok(may) if may.is_empty() => {
            tracing::warn!(%host, "syslog from a host that no system names was turned away");
            return;
        }
        Ok(_) => {}
        Err(error) => return log("a syslog connection", &error),
    }
    let mut stopping = ear.app.stopping.subscribe();
    let (mut held, mut buffer) = (Vec::new(), vec![0; 8 << 10]);
    loop {
        let read = tokio::select! {
            read = tokio::time::timeout(SILENCE, stream.read(&mut buffer)) => read,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        let Ok(Ok(length)) = read else { return };
        held.extend(&buffer[..length]);
        loop {
            match syslog::next_frame(&held, MOST) {
                Ok(Some((used, message))) => {
                    take(ear, By::SyslogTcp, host, message).await;
                    held.drain(..used);
                }
                Ok(None) => break,
                Err(()) => {
                    take(ear, By::SyslogTcp, host, b"").await;
                    return;
                }
            }
        }
        if length == 0 {
            // Without a line's end: cut, and nobody knows where.
            if !held.is_empty() {
                take(ear, By::SyslogTcp, host, b"").await;
            }
            return;
        }
    }
}

//! A small port for mail (RFC 5321): it takes mails about jobs from hosts and senders that the register names,
//! relays nothing, and keeps nothing but the result. STARTTLS with the server's own certificate.

use std::{net::IpAddr, sync::Arc, time::Duration};

use kuramori_source::{
    mail,
    said::{By, Said, When},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;

use super::{Ear, May, log};

/// Connections at the same time.
const CONNECTIONS: usize = 16;
/// Bytes of a command's line.
const LINE: u64 = 2000;
/// Mails in one connection.
const MAILS: u32 = 100;
/// A client may be so long without a word.
const SILENCE: Duration = Duration::from_mins(2);
/// Time between two accepts when the system has no room for more.
const PAUSE: Duration = Duration::from_millis(200);

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

pub(super) async fn listen(ear: Ear, listener: TcpListener, most: u64) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (ear, host) = (ear.clone(), peer.ip().to_canonical());
                tokio::spawn(async move {
                    let mut stopping = ear.app.stopping.subscribe();
                    tokio::select! {
                        outcome = serve(&ear, host, stream, most) => {
                            if let Err(error) = outcome {
                                tracing::info!(%host, %error, "a mail connection ended early");
                            }
                        }
                        _ = stopping.wait_for(|stopping| *stopping) => {}
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the port for mail");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn serve(ear: &Ear, host: IpAddr, mut stream: TcpStream, most: u64) -> std::io::Result<()> {
    let may = match ear.at(By::Mail, host).await {
        Ok(may) => may,
        Err(error) => {
            log("a mail connection", &error);
            return stream.write_all(b"421 4.3.0 not now\r\n").await;
        }
    };
    if may.is_empty() {
        tracing::warn!(%host, "mail from a host that no system names was turned away");
        return stream.write_all(b"554 5.7.1 you are not known here\r\n").await;
    }
    stream.write_all(b"220 kuramori\r\n").await?;
    let mut session = Session { ear, host, may, most, from: None, to: false, mails: 0 };
    let wire: Box<dyn Wire> = Box::new(stream);
    if let Some(plain) = session.talk(wire, true).await? {
        let acceptor = TlsAcceptor::from(ear.app.keys.tls.clone());
        let sealed = tokio::time::timeout(SILENCE, acceptor.accept(plain)).await??;
        // Whatever was said in the clear does not count any more (RFC 3207, 4.2).
        (session.from, session.to) = (None, false);
        session.talk(Box::new(sealed), false).await?;
    }
    Ok(())
}

struct Session<'a> {
    ear: &'a Ear,
    host: IpAddr,
    may: Vec<May>,
    most: u64,
    from: Option<String>,
    to: bool,
    mails: u32,
}

/// One line, with its end; none at the end of the stream.
async fn line(reader: &mut BufReader<Box<dyn Wire>>, most: u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let mut limited = reader.take(most);
    let length = tokio::time::timeout(SILENCE, limited.read_until(b'\n', &mut bytes)).await??;
    if length as u64 == most && bytes.last() != Some(&b'\n') {
        return Err(std::io::Error::other("a line is too long"));
    }
    Ok((length > 0).then_some(bytes))
}

impl Session<'_> {
    /// Talks until the end; gives the stream back where TLS is to begin.
    async fn talk(&mut self, wire: Box<dyn Wire>, plain: bool) -> std::io::Result<Option<Box<dyn Wire>>> {
        let mut reader = BufReader::new(wire);
        while let Some(bytes) = line(&mut reader, LINE).await? {
            let text = String::from_utf8_lossy(&bytes);
            let text = text.trim();
            let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
            let answer = match verb.to_ascii_uppercase().as_str() {
                "HELO" => "250 kuramori".to_owned(),
                "EHLO" => {
                    let tls = if plain { "250-STARTTLS\r\n" } else { "" };
                    format!("250-kuramori\r\n{tls}250-SIZE {}\r\n250 8BITMIME", self.most)
                }
                "STARTTLS" if plain => {
                    // What was sent ahead of TLS could have been put there by anybody.
                    if !reader.buffer().is_empty() {
                        return Err(std::io::Error::other("commands ahead of TLS"));
                    }
                    reader.get_mut().write_all(b"220 2.0.0 go ahead\r\n").await?;
                    return Ok(Some(reader.into_inner()));
                }
                "MAIL" => self.mail_from(rest),
                "RCPT" if self.from.is_some() => {
                    self.to = true;
                    "250 2.1.5 ok".to_owned()
                }
                "DATA" if self.to => {
                    reader.get_mut().write_all(b"354 go ahead\r\n").await?;
                    self.data(&mut reader).await?
                }
                "RCPT" | "DATA" => "503 5.5.1 not yet".to_owned(),
                "RSET" => {
                    (self.from, self.to) = (None, false);
                    "250 2.0.0 ok".to_owned()
                }
                "NOOP" => "250 2.0.0 ok".to_owned(),
                "QUIT" => {
                    reader.get_mut().write_all(b"221 2.0.0 bye\r\n").await?;
                    let _ = reader.get_mut().shutdown().await;
                    return Ok(None);
                }
                _ => "502 5.5.1 not known here".to_owned(),
            };
            reader.get_mut().write_all(format!("{answer}\r\n").as_bytes()).await?;
            reader.get_mut().flush().await?;
        }
        Ok(None)
    }

    fn mail_from(&mut self, rest: &str) -> String {
        (self.from, self.to) = (None, false);
        if self.mails >= MAILS {
            return "452 4.3.1 enough for now".to_owned();
        }
        let address = rest.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
        let Some((address, parameters)) = address else { return "501 5.5.4 from whom?".to_owned() };
        let size = parameters
            .split_whitespace()
            .find_map(|parameter| parameter.to_ascii_uppercase().strip_prefix("SIZE=")?.parse::<u64>().ok());
        if size.is_some_and(|size| size > self.most) {
            return "552 5.3.4 too large".to_owned();
        }
        let known = self.may.iter().flat_map(|(_, _, hears)| hears).any(|hear| {
            hear.by == By::Mail
                && hear.host == self.host
                && hear.from.as_ref().is_some_and(|from| from.eq_ignore_ascii_case(address))
        });
        if !known {
            tracing::warn!(host = %self.host, "mail from a sender that no system names was turned away");
            return "550 5.7.1 this sender is not known here".to_owned();
        }
        self.from = Some(address.to_owned());
        "250 2.1.0 ok".to_owned()
    }

    async fn data(&mut self, reader: &mut BufReader<Box<dyn Wire>>) -> std::io::Result<String> {
        let (mut bytes, mut over) = (Vec::new(), false);
        loop {
            let Some(row) = line(reader, 64 << 10).await? else {
                return Err(std::io::Error::other("a mail that is cut"));
            };
            // Only a dot between two whole line ends is the end.
            if row == b".\r\n" {
                break;
            }
            let row = row.strip_prefix(b".").unwrap_or(&row);
            over |= bytes.len() as u64 + row.len() as u64 > self.most;
            if over {
                bytes.clear();
            } else {
                bytes.extend(row);
            }
        }
        let from = self.from.take();
        self.to = false;
        self.mails += 1;
        if over {
            return Ok("552 5.3.4 too large".to_owned());
        }
        let mail = mail::read(&bytes);
        let at = mail.date.map_or(When::Unsaid, When::At);
        let said = Said { by: By::Mail, host: self.host, from, at, head: mail.subject, body: mail.text };
        Ok(match self.ear.take(&said).await {
            Ok(()) => "250 2.0.0 taken".to_owned(),
            Err(error) => {
                log("a mail", &error);
                "451 4.3.0 again, please".to_owned()
            }
        })
    }
}

//! The agents' door: accepts, admits, and hands each connection to what it is for.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{PoisonError, mpsc::TrySendError},
    time::Duration,
};

use kuramori_model::fault::{Fault, chain};
use kuramori_wire::{
    Error as WireError,
    frame::{FrameReader, send},
    identity::Holder,
    line::{self, Peer, Reader, Writer},
    message::{Hello, Message, VERSION, Welcome, short},
    receive::{self, Incoming},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::runtime::Handle as Runtime;

use super::{AgentsError, authority, places::Place};
use crate::{App, ServerError, error::Result};

/// How long the first message may take.
const FIRST: Duration = Duration::from_secs(15);
/// How long a control connection may be silent.
const SILENT: Duration = Duration::from_mins(1);
/// A sign of life goes out after so long.
const PING: Duration = Duration::from_secs(10);

/// Binds the door and serves it on threads of its own until the server stops.
pub(crate) async fn open(app: &App) -> Result<Option<SocketAddr>> {
    let Some(address) = app.config.agents.listen else { return Ok(None) };
    // Made now, so that nobody waits for it at the door.
    app.authorities().await?;
    let wrong = |error: std::io::Error| ServerError::File {
        action: "listen for agents",
        source: std::io::Error::new(error.kind(), format!("{address}: {error}")),
    };
    let listener = TcpListener::bind(address).map_err(wrong)?;
    listener.set_nonblocking(true).map_err(wrong)?;
    let address = listener.local_addr().map_err(wrong)?;
    let (app, runtime) = (app.clone(), Runtime::current());
    std::thread::Builder::new()
        .name("agents-door".to_owned())
        .spawn(move || accept(&app, &listener, &runtime))
        .map_err(wrong)?;
    Ok(Some(address))
}

fn stopping(app: &App) -> bool {
    *app.stopping.borrow()
}

fn accept(app: &App, listener: &TcpListener, runtime: &Runtime) {
    let mut turned_away = 0_u64;
    while !stopping(app) {
        let wait = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
        let ready = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&wait));
        if !matches!(ready, Ok(1..)) {
            continue;
        }
        let (socket, address) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => {
                tracing::warn!("an agent could not be let in: {error}");
                app.clock.sleep(Duration::from_millis(100));
                continue;
            }
        };
        let Some(place) = app.agents.places.come(address.ip()) else {
            turned_away += 1;
            // A flood must not become one in the log.
            if turned_away.is_power_of_two() {
                tracing::warn!(%address, turned_away, "too many connections of strangers; this one is closed");
            }
            continue;
        };
        let (one, runtime) = (app.clone(), runtime.clone());
        let spawned = std::thread::Builder::new().name("agents-line".to_owned()).spawn(move || {
            match serve(&one, &runtime, socket, place) {
                Ok(()) => {}
                Err(ServerError::Agents(AgentsError::Wire(error))) if error.is_line() => {
                    tracing::debug!(%address, "a line of an agent ended: {error}");
                }
                Err(error) => {
                    tracing::warn!(%address, code = error.code(), "an agent's line: {}", chain(&error));
                }
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(%address, "an agent could not be let in: {error}");
        }
    }
}

fn serve(app: &App, runtime: &Runtime, socket: TcpStream, mut place: Place) -> Result<()> {
    let half = authority::OWN / 2;
    let tls = match app.agents.tls(app.clock.now(), half) {
        Some(tls) => tls,
        None => {
            let all = runtime.block_on(app.authorities())?;
            let now = app.clock.now();
            let tls = app.door_tls(&all, now)?;
            app.agents.set_tls(tls.clone(), now);
            tls
        }
    };
    let (reader, mut writer, peer) = line::accept(socket, &tls)?;
    let mut reader = FrameReader::new(reader, false);
    let outcome = match peer {
        Peer::Stranger => stranger(app, runtime, &mut reader, &mut writer).map(|()| Then::Close),
        Peer::Agent(holder) => match runtime.block_on(app.admit(&holder))? {
            Ok(()) if place.admit(&holder.name) => {
                admitted(app, runtime, &holder, reader, &mut writer, place)
            }
            Ok(()) => {
                tracing::warn!(agent = holder.name, "too many connections of this agent; this one is closed");
                Ok(Then::Close)
            }
            Err((code, why)) => {
                tracing::warn!(agent = holder.name, code, why, "an agent is refused");
                refuse(&mut writer, code, why).map(|()| Then::Close)
            }
        },
    };
    if let Err(ServerError::Agents(AgentsError::Wire(error))) = &outcome
        && !error.is_line()
    {
        let _ = refuse(&mut writer, error.code(), chain(error));
    }
    if !matches!(outcome, Ok(Then::HandedOver)) {
        writer.close();
    }
    outcome.map(drop)
}

fn refuse(writer: &mut Writer, code: &str, why: String) -> Result<()> {
    Ok(send(writer, &Message::Refused { code: code.to_owned(), why })?)
}

/// The first message, which has to come soon.
fn first(app: &App, reader: &mut FrameReader<Reader>) -> Result<Message> {
    let since = app.clock.boot();
    let message = reader.message(&mut |_| {
        let silent = app.clock.boot().saturating_sub(since);
        if stopping(app) {
            Err(WireError::Cancelled)
        } else if silent >= FIRST {
            Err(WireError::Silent { seconds: silent.as_secs() })
        } else {
            Ok(())
        }
    });
    Ok(message?)
}

fn stranger(
    app: &App,
    runtime: &Runtime,
    reader: &mut FrameReader<Reader>,
    writer: &mut Writer,
) -> Result<()> {
    let Message::Enrol { secret, request } = first(app, reader)? else {
        return Err(WireError::Protocol("a stranger may only enrol".to_owned()).into());
    };
    match runtime.block_on(app.enrol_agent(secret, &request))? {
        Ok((name, certificate, authorities)) => {
            tracing::info!(agent = name, "an agent is enrolled");
            Ok(send(writer, &Message::Issued { certificate, authorities })?)
        }
        Err((code, why)) => {
            tracing::warn!(code, why, "an enrolment is refused");
            refuse(writer, code, why)
        }
    }
}

fn admitted(
    app: &App,
    runtime: &Runtime,
    holder: &Holder,
    mut reader: FrameReader<Reader>,
    writer: &mut Writer,
    place: Place,
) -> Result<Then> {
    let agent = &holder.name;
    let closed = |outcome: Result<()>| outcome.map(|()| Then::Close);
    match first(app, &mut reader)? {
        Message::Hello(hello) => closed(control(app, runtime, holder, &hello, &mut reader, writer)),
        Message::Main { session } => match app.agents.session(session, agent) {
            Some(handle) if !handle.is_over() => {
                let incoming = Incoming { reader, writer: writer.clone(), held: Box::new(place) };
                let sender = handle.mains.lock().unwrap_or_else(PoisonError::into_inner).clone();
                drop(handle);
                match sender.try_send(incoming) {
                    Ok(()) => Ok(Then::HandedOver),
                    // Two wait already: whoever opens more is not an agent of ours. It may come again.
                    Err(TrySendError::Full(_)) => Ok(Then::Close),
                    Err(TrySendError::Disconnected(_)) => {
                        closed(refuse(writer, "no-session", "this session is over".to_owned()))
                    }
                }
            }
            _ => match app.agents.finished(session, agent) {
                // It ended well just as the line was cut: the agent only missed the last answer.
                Some(number) => Ok(send(writer, &Message::Applied { number }).map(|()| Then::Close)?),
                None => {
                    let why = "there is no such session of this agent".to_owned();
                    closed(refuse(writer, "no-session", why))
                }
            },
        },
        Message::Lane { session } => match app.agents.session(session, agent) {
            Some(handle) if !handle.is_over() => {
                reader.allow_chunks();
                let going = || !handle.is_over() && !stopping(app);
                let number = handle.lane_arrives(writer.clone());
                let outcome = receive::lane(&mut reader, writer, handle.shelf.as_ref(), &going);
                handle.lane_leaves(number);
                match outcome {
                    Err(WireError::Cancelled) => Ok(Then::Close),
                    other => Ok(other.map(|()| Then::Close)?),
                }
            }
            _ => closed(refuse(writer, "no-session", "there is no such session of this agent".to_owned())),
        },
        other => Err(WireError::Protocol(format!("{} first", receive::name(&other))).into()),
    }
}

/// What becomes of a connection.
#[derive(Debug, PartialEq, Eq)]
enum Then {
    Close,
    /// The job's thread has it now, and closes it.
    HandedOver,
}

fn control(
    app: &App,
    runtime: &Runtime,
    holder: &Holder,
    hello: &Hello,
    reader: &mut FrameReader<Reader>,
    writer: &mut Writer,
) -> Result<()> {
    let agent = &holder.name;
    if !(hello.oldest..=hello.newest).contains(&VERSION) {
        let why = format!(
            "the agent speaks versions {} to {}, this server speaks {VERSION}",
            hello.oldest, hello.newest
        );
        return refuse(writer, "version", why);
    }
    runtime.block_on(app.note_agent(agent, &hello.program, hello.now, &hello.units))?;
    let all = runtime.block_on(app.authorities())?;
    let welcome = Welcome {
        version: VERSION,
        name: agent.clone(),
        now: app.clock.now().as_second(),
        authorities: authority::bundle(&all),
        renew: runtime.block_on(app.should_renew(holder))?,
    };
    send(writer, &Message::Welcome(welcome))?;
    let number = app.agents.arrive(agent, hello.start, writer.clone());
    tracing::info!(agent, program = short(&hello.program), "an agent is connected");
    let outcome = listen(app, runtime, agent, number, reader, writer);
    app.agents.leave(agent, number);
    tracing::info!(agent, "an agent is gone");
    outcome
}

fn listen(
    app: &App,
    runtime: &Runtime,
    agent: &str,
    number: u64,
    reader: &mut FrameReader<Reader>,
    writer: &mut Writer,
) -> Result<()> {
    let (mut heard, mut said) = (app.clock.boot(), app.clock.boot());
    loop {
        let mut pinger = writer.clone();
        let message = reader.message(&mut |came| {
            let now = app.clock.boot();
            if stopping(app) || !app.agents.is_current(agent, number) {
                return Err(WireError::Cancelled);
            }
            if came {
                heard = now;
            }
            if now.saturating_sub(said) >= PING {
                said = now;
                send(&mut pinger, &Message::Ping)?;
            }
            let silent = now.saturating_sub(heard);
            if silent >= SILENT { Err(WireError::Silent { seconds: silent.as_secs() }) } else { Ok(()) }
        });
        match message {
            Ok(Message::Ping) => {}
            Ok(Message::Renew { request }) => {
                let (certificate, authorities) = runtime.block_on(app.renew_agent(agent, &request))?;
                tracing::info!(agent, "a certificate is renewed");
                send(writer, &Message::Issued { certificate, authorities })?;
            }
            Ok(Message::Declined { session, code, why }) => {
                app.agents.decline(session, agent, short(&code), short(&why));
            }
            Ok(other) => {
                let why = format!("{} on the control connection", receive::name(&other));
                return Err(WireError::Protocol(why).into());
            }
            Err(WireError::Cancelled) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

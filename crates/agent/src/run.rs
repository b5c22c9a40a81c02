//! The agent's life: keep one control connection to the server, begin what is asked for, renew the certificate.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use kuramori_model::{
    clock::{Clock, Random},
    fault::{Fault, chain},
};
use kuramori_source::{Cancel, Config};
use kuramori_wire::{
    Error as WireError,
    frame::send,
    identity::{self, Pair},
    line::Writer,
    message::{Begin, Hello, Message, SessionId, Unit, VERSION, Welcome},
    receive,
};

use crate::{
    AgentError, File, Result,
    link::{Endpoint, Link},
    session::{self, Session},
    state::State,
};

/// The switch that ends an agent.
pub type Stop = Cancel;

/// How long the server may be silent on the control connection.
const SILENT: Duration = Duration::from_mins(1);
/// A sign of life goes out after so long.
const PING: Duration = Duration::from_secs(10);
/// First and longest pause before the server is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// Shortest pause after a server that spoke nonsense.
const NONSENSE: Duration = Duration::from_secs(1);

/// Works until `stop`, or until the server says that this agent is not one of its own.
///
/// # Errors
/// [`AgentError::NotEnrolled`], a refusal, a clock that is wrong. Lines that break are no error.
pub fn run(file: File, clock: &Arc<dyn Clock>, random: &dyn Random, stop: &Cancel) -> Result<()> {
    // Backup gives way to the department's own work; the unit file says it for disks, too.
    let _ = rustix::process::nice(19);
    let mut start = [0; 16];
    random.fill(&mut start);
    let state = State::read(&file.state)?;
    let mut agent = Agent {
        folder: file.state.clone(),
        memory: usize::try_from(file.memory.0).unwrap_or(usize::MAX),
        units: file.unit,
        endpoint: Endpoint { server: file.server, clock: clock.clone(), state: Arc::new(RwLock::new(state)) },
        start,
        session: None,
        renewing: None,
        skew: 0,
    };
    let mut pause = PAUSE.0;
    while !stop.is_cancelled() {
        let mut worked = false;
        let outcome = agent.control(stop, &mut worked);
        if worked {
            pause = PAUSE.0;
        }
        match outcome {
            Ok(()) => {}
            // Nonsense on this line is the server's fault and must not end us: the next server may be a good one.
            Err(error) if is_passing(&error) => {
                let code = error.code();
                tracing::warn!(code, "the server is tried again: {}", chain(&error));
                if !matches!(&error, AgentError::Wire(error) if error.is_line()) {
                    pause = pause.max(NONSENSE);
                }
                clock.sleep(pause);
                pause = (pause * 2).min(PAUSE.1);
            }
            Err(error) => {
                agent.end();
                return Err(error);
            }
        }
    }
    agent.end();
    Ok(())
}

/// Whether the next connection may go better.
fn is_passing(error: &AgentError) -> bool {
    match error {
        AgentError::Wire(WireError::Protocol(_) | WireError::Certificate { .. }) => true,
        AgentError::Wire(error) => error.is_line(),
        _ => false,
    }
}

struct Agent {
    folder: PathBuf,
    memory: usize,
    units: BTreeMap<String, Config>,
    endpoint: Endpoint,
    start: [u8; 16],
    session: Option<Session>,
    /// The key for which a certificate was asked.
    renewing: Option<identity::Secret>,
    /// The server's clock minus ours, in seconds.
    skew: i64,
}

impl Agent {
    fn end(&mut self) {
        if let Some(session) = self.session.take() {
            session.stop();
        }
    }

    fn control(&mut self, stop: &Cancel, worked: &mut bool) -> Result<()> {
        let clock = self.endpoint.clock.clone();
        let units = self
            .units
            .iter()
            .map(|(name, unit)| Unit { name: name.clone(), kind: File::kind(unit).to_owned() })
            .collect();
        let hello = Hello {
            oldest: VERSION,
            newest: VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            now: clock.now().as_second(),
            start: self.start,
            units,
        };
        let Link { mut reader, mut writer } = self.endpoint.open(&Message::Hello(hello))?;
        let (mut heard, mut said) = (clock.boot(), clock.boot());
        let mut greeted = false;
        loop {
            let mut pinger = writer.clone();
            let message = reader.message(&mut |came| {
                let now = clock.boot();
                if stop.is_cancelled() {
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
                if silent >= SILENT {
                    return Err(WireError::Silent { seconds: silent.as_secs() });
                }
                // Back to the loop below, which looks after the certificate.
                if self.renewing.is_none() && greeted && self.ends_soon() {
                    self.renew(&mut pinger)?;
                }
                Ok(())
            });
            let message = match message {
                Err(WireError::Cancelled) if stop.is_cancelled() => {
                    writer.close();
                    return Ok(());
                }
                other => other?,
            };
            match message {
                Message::Welcome(welcome) if !greeted => {
                    greeted = true;
                    *worked = true;
                    self.welcome(&welcome, &mut writer)?;
                }
                Message::Begin(begin) if greeted => self.begin(begin, &mut writer)?,
                Message::Cancel { session } if greeted => {
                    if let Some(running) = self.session.as_ref().filter(|running| running.id == session) {
                        tracing::info!("the server ends the session");
                        running.cancel();
                    }
                }
                Message::Issued { certificate, authorities } if greeted => {
                    self.issued(certificate, authorities)?;
                }
                Message::Ping => {}
                other => {
                    let why = format!("{} on the control connection", receive::name(&other));
                    return Err(WireError::Protocol(why).into());
                }
            }
        }
    }

    fn welcome(&mut self, welcome: &Welcome, writer: &mut Writer) -> Result<()> {
        if welcome.version != VERSION {
            return Err(WireError::Protocol(format!("version {}", welcome.version)).into());
        }
        self.skew = welcome.now - self.endpoint.clock.now().as_second();
        if self.skew.abs() > 60 {
            tracing::warn!(
                seconds = self.skew,
                "this machine's clock differs from the server's; times in the restore point are the server's"
            );
        }
        tracing::info!(name = welcome.name, server = self.endpoint.server, "with the server");
        let mut state = self.endpoint.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.authorities != welcome.authorities
            && !identity::certificates(&welcome.authorities)?.is_empty()
        {
            state.authorities.clone_from(&welcome.authorities);
            state.write(&self.folder)?;
            tracing::info!("the server's authorities changed");
        }
        drop(state);
        // An answer that was lost with its line is asked for anew.
        self.renewing = None;
        if welcome.renew || self.ends_soon() {
            self.renew(writer)?;
        }
        Ok(())
    }

    /// Whether less than a third of the certificate's time is left, by the server's clock.
    fn ends_soon(&self) -> bool {
        let state = self.endpoint.state.read().unwrap_or_else(PoisonError::into_inner);
        let now = self.endpoint.clock.now().as_second() + self.skew;
        let (from, until) = (state.holder.from.as_second(), state.holder.until.as_second());
        until - now < (until - from) / 3
    }

    fn renew(&mut self, writer: &mut Writer) -> kuramori_wire::Result<()> {
        let (key, request) = identity::request("kuramori-agent")?;
        self.renewing = Some(key);
        send(writer, &Message::Renew { request })
    }

    fn issued(&mut self, certificate: String, authorities: String) -> Result<()> {
        let Some(key) = self.renewing.take() else {
            return Err(WireError::Protocol("a certificate that was not asked for".to_owned()).into());
        };
        let state = State::new(Pair { certificate, key }, authorities)?;
        state.write(&self.folder)?;
        tracing::info!(until = %state.holder.until, "a new certificate");
        *self.endpoint.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        Ok(())
    }

    fn begin(&mut self, begin: Begin, writer: &mut Writer) -> Result<()> {
        if self.session.as_ref().is_some_and(Session::is_over) {
            self.session = None;
        }
        let decline = |session: SessionId, code: &str, why: String, writer: &mut Writer| {
            tracing::warn!(code, why, "an order is declined");
            send(writer, &Message::Declined { session, code: code.to_owned(), why })
        };
        let session = begin.session;
        if let Some(running) = &self.session {
            // The server gives one order at a time: one that it does not serve any more is nobody's.
            if !running.stands() {
                running.cancel();
            }
            let why = "another session is under way here".to_owned();
            return Ok(decline(session, "busy", why, writer)?);
        }
        // The name is looked up among what this machine's own file declares, and is used for nothing else.
        let Some(unit) = self.units.get(&begin.unit) else {
            let why = "this agent's own file declares no such unit".to_owned();
            return Ok(decline(session, "unknown-unit", why, writer)?);
        };
        let name = begin.unit.clone();
        match session::start(&self.endpoint, begin, unit, self.memory) {
            Ok(started) => {
                tracing::info!(unit = name, "a session begins");
                self.session = Some(started);
                Ok(())
            }
            Err(error) => Ok(decline(session, error.code(), chain(&error), writer)?),
        }
    }
}

//! Connections to the server: always outward, always checked.

use std::{
    net::{TcpStream, ToSocketAddrs},
    sync::{Arc, RwLock},
    time::Duration,
};

use kuramori_model::clock::Clock;
use kuramori_wire::{
    Error as WireError,
    frame::{FrameReader, send},
    identity,
    line::{self, Reader, Writer},
    message::Message,
    tls::{self, Trust},
};

use crate::{AgentError, Result, state::State};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Where the server is and how it is spoken to; shared by all threads.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) server: String,
    pub(crate) clock: Arc<dyn Clock>,
    /// Replaced when a new certificate comes.
    pub(crate) state: Arc<RwLock<State>>,
}

/// A connection with its two ends.
pub(crate) struct Link {
    pub(crate) reader: FrameReader<Reader>,
    pub(crate) writer: Writer,
}

/// A TCP connection to the first address that answers.
pub(crate) fn socket(server: &str) -> Result<TcpStream> {
    let broken = |why: String| AgentError::from(WireError::Broken(format!("{server}: {why}")));
    let addresses = server.to_socket_addrs().map_err(|error| broken(error.to_string()))?;
    let mut last = "it has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error.to_string(),
        }
    }
    Err(broken(last))
}

/// Whether the server's certificate is valid by our clock, within the tolerance.
pub(crate) fn check_time(holder: &identity::Holder, clock: &dyn Clock) -> Result<()> {
    let now = clock.now();
    if holder.valid_at(now, identity::TOLERANCE) {
        return Ok(());
    }
    Err(WireError::Clock { whose: "the server's", from: holder.from, until: holder.until, now }.into())
}

impl Endpoint {
    /// Connects as the enrolled agent and says the first message.
    pub(crate) fn open(&self, first: &Message) -> Result<Link> {
        let config = {
            let state = self.state.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            let authorities = identity::certificates(&state.authorities)?;
            tls::client(Trust::Authorities(authorities), Some(&state.own))?
        };
        let (reader, mut writer, holder) = line::connect(socket(&self.server)?, config)?;
        check_time(&holder, self.clock.as_ref())?;
        send(&mut writer, first)?;
        Ok(Link { reader: FrameReader::new(reader, false), writer })
    }
}

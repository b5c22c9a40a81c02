//! Becoming an agent of a server: once, with a token; and renewing the certificate before it ends.

use std::{path::Path, sync::Arc};

use kuramori_model::clock::Clock;
use kuramori_wire::{
    Error as WireError,
    frame::{FrameReader, send},
    identity::{self, Pair},
    line,
    message::Message,
    receive,
    tls::{self, Trust},
    token::Token,
};

use crate::{Result, link, state::State};

/// Spends a token: makes a key, gets a certificate for it and writes both. Gives the agent's name.
///
/// # Errors
/// [`WireError::Refused`] if the token is spent or too old, [`WireError::Untrusted`] if the server is not the
/// one that made it.
pub fn enrol(server: &str, token: &Token, folder: &Path, clock: &Arc<dyn Clock>) -> Result<String> {
    let config = tls::client(Trust::Pinned(token.authority), None)?;
    let (reader, mut writer, holder) = line::connect(link::socket(server)?, config)?;
    link::check_time(&holder, clock.as_ref())?;
    // The server takes the name from the token; this one is only for whoever looks at the request.
    let (key, request) = identity::request("kuramori-agent")?;
    send(&mut writer, &Message::Enrol { secret: token.secret, request })?;
    let since = clock.boot();
    let answer = FrameReader::new(reader, false).message(&mut |_| {
        let silent = clock.boot().saturating_sub(since).as_secs();
        if silent >= 30 { Err(WireError::Silent { seconds: silent }) } else { Ok(()) }
    });
    writer.close();
    match answer? {
        Message::Issued { certificate, authorities } => {
            let state = State::new(Pair { certificate, key }, authorities)?;
            state.write(folder)?;
            Ok(state.holder.name)
        }
        other => {
            let why = format!("{} as the answer to an enrolment", receive::name(&other));
            Err(WireError::Protocol(why).into())
        }
    }
}

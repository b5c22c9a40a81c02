//! A session of NETCONF (RFC 6241) over a secure shell (RFC 6242), in either framing: one request, its reply. An
//! answer that is not to our request, or that we do not understand, is an error, and its session is of no more use.

use std::time::Duration;

use super::{
    client::{Client, Login, Silence, Way},
    xml::{self, Element},
};
use crate::fault::ActuatorFault;

/// A longer answer is none to any of our questions.
const MOST: usize = 1 << 20;
/// The end of a message in the first form of framing (RFC 6242, 4.3); the hello always has it.
const END: &[u8] = b"]]>]]>";
const BASE: &str = "urn:ietf:params:xml:ns:netconf:base:1.0";
const BASE_1_1: &str = "urn:ietf:params:netconf:base:1.1";

/// One session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Client,
    bytes: Vec<u8>,
    /// Whether both sides know the second form of framing.
    chunked: bool,
    locked: bool,
    /// Whether the candidate was prepared to be open in this very session.
    pub(super) holds: bool,
    number: u64,
}

impl Session {
    /// Connects, and learns what the device can do.
    pub(super) fn start(way: &Way<'_>, login: &Login, limit: Duration) -> Result<Self, ActuatorFault> {
        let client = Client::start(way, login, limit, "-Ts", &["netconf"])?;
        let mut session =
            Self { client, bytes: Vec::new(), chunked: false, locked: false, holds: false, number: 0 };
        session.send(&format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><hello xmlns=\"{BASE}\"><capabilities>\
             <capability>urn:ietf:params:netconf:base:1.0</capability><capability>{BASE_1_1}</capability>\
             </capabilities></hello>"
        ))?;
        let hello = session.receive()?;
        let capabilities: Vec<&str> = hello.all("capability").iter().map(|one| one.text.as_str()).collect();
        let has = |wanted: &str| capabilities.iter().any(|one| one.starts_with(wanted));
        let commits = [
            "urn:ietf:params:netconf:capability:confirmed-commit:1.0",
            "urn:ietf:params:netconf:capability:confirmed-commit:1.1",
        ];
        if !has("urn:ietf:params:netconf:capability:candidate:1.0") || !commits.into_iter().any(has) {
            let what = "it knows no confirmed commit (`:candidate` and `:confirmed-commit`): it cannot be used by NETCONF";
            return Err(session.client.fault(what));
        }
        session.chunked = capabilities.contains(&BASE_1_1);
        Ok(session)
    }

    /// Keeps others from the candidate.
    pub(super) fn lock(&mut self) -> Result<(), ActuatorFault> {
        if !self.locked {
            self.ask("<lock><target><candidate/></target></lock>")?;
            self.locked = true;
        }
        Ok(())
    }

    /// Lets others have it again.
    pub(super) fn unlock(&mut self) -> Result<(), ActuatorFault> {
        self.locked = false;
        self.ask("<unlock><target><candidate/></target></unlock>").map(drop)
    }

    /// One request; the reply, if it is no error.
    pub(super) fn ask(&mut self, operation: &str) -> Result<Element, ActuatorFault> {
        self.number += 1;
        let number = self.number.to_string();
        self.send(&format!("<rpc message-id=\"{number}\" xmlns=\"{BASE}\">{operation}</rpc>"))?;
        let reply = self.receive()?;
        if reply.name != "rpc-reply" || reply.message_id.as_deref() != Some(&number) {
            return Err(self.client.fault("its reply is not to our request"));
        }
        let errors = reply.all("rpc-error");
        let real = errors.into_iter().find(|one| one.leaf("error-severity") != Some("warning"));
        match real {
            None => Ok(reply),
            Some(one) => {
                let word = |name| one.leaf(name).unwrap_or_default();
                let verb =
                    operation.trim_start_matches('<').split([' ', '>', '/']).next().unwrap_or_default();
                let text = format!("`{verb}` was refused: {} {}", word("error-tag"), word("error-message"));
                Err(self.client.fault(text.trim_end()))
            }
        }
    }

    fn send(&mut self, text: &str) -> Result<(), ActuatorFault> {
        let framed = if self.chunked {
            format!("\n#{}\n{text}\n##\n", text.len()).into_bytes()
        } else {
            [text.as_bytes(), END].concat()
        };
        self.client.send(&framed)
    }

    fn receive(&mut self) -> Result<Element, ActuatorFault> {
        loop {
            match unframe(&self.bytes, self.chunked) {
                Ok(Some((message, used))) => {
                    self.bytes.drain(..used);
                    let text = String::from_utf8_lossy(&message);
                    return xml::parse(&text)
                        .map_err(|what| self.client.fault(&format!("its answer is not XML: {what}")));
                }
                Ok(None) => {}
                Err(what) => return Err(self.client.fault(what)),
            }
            match self.client.hear() {
                Ok(bytes) if self.bytes.len() + bytes.len() <= MOST => self.bytes.extend(bytes),
                Ok(_) => return Err(self.client.fault("it answers without end")),
                Err(Silence::Late) => return Err(self.client.fault("no answer came in time")),
                Err(Silence::Ended(why)) => return Err(why),
            }
        }
    }
}

/// The first whole message in `bytes` and how many of them it took; none if there is more to come.
fn unframe(bytes: &[u8], chunked: bool) -> Result<Option<(Vec<u8>, usize)>, &'static str> {
    if !chunked {
        let end = bytes.windows(END.len()).position(|part| part == END);
        return Ok(end.map(|end| (bytes[..end].to_vec(), end + END.len())));
    }
    let wrong = "its framing is not that of RFC 6242";
    let (mut message, mut at) = (Vec::new(), 0);
    loop {
        let rest = &bytes[at..];
        let prefix = &rest[..rest.len().min(2)];
        if !b"\n#".starts_with(prefix) {
            return Err(wrong);
        }
        let Some(end) = rest.iter().skip(2).position(|byte| *byte == b'\n') else {
            return if rest.len() > 16 { Err(wrong) } else { Ok(None) };
        };
        let size = &rest[2..2 + end];
        at += end + 3;
        if size == b"#" {
            return Ok(Some((message, at)));
        }
        let size: Option<usize> = std::str::from_utf8(size).ok().and_then(|size| size.parse().ok());
        let size = size.filter(|size| (1..=MOST).contains(size)).ok_or(wrong)?;
        let Some(chunk) = bytes.get(at..at + size) else { return Ok(None) };
        message.extend_from_slice(chunk);
        at += size;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_come_out_of_both_framings_whole_or_not_at_all() {
        assert_eq!(unframe(b"<a/>]]>]]><b", false).unwrap(), Some((b"<a/>".to_vec(), 10)));
        assert_eq!(unframe(b"<a/>]]>]]", false).unwrap(), None);
        let two = b"\n#3\n<a>\n#4\n</a>\n##\n\n#";
        assert_eq!(unframe(two, true).unwrap(), Some((b"<a></a>".to_vec(), 19)));
        for cut in 0..19 {
            assert_eq!(unframe(&two[..cut], true).unwrap(), None, "{cut}");
        }
        for bad in ["x", "\n#0\n", "\n#x\n", "\n#99999999\n", "\n#1\nab", "\n#12345678901234567890"] {
            assert!(unframe(bad.as_bytes(), true).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(bytes in "[\n#0-9a]{0,40}") {
            let _ = unframe(bytes.as_bytes(), true);
        }
    }
}

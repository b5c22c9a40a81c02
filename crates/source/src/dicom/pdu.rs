//! The upper layer's messages (PS3.8, section 9.3): what an association is asked with, what comes back, and
//! the frames in which data travels.

use bytes::{Buf, Bytes};

/// Largest frame that we let a peer send.
pub(super) const FRAME: u32 = 256 << 10;
/// No frame is larger, whatever a peer makes of our limit.
pub(super) const LARGEST: usize = 4 << 20;

/// Kinds of messages.
pub(super) const ASSOCIATE_AC: u8 = 2;
pub(super) const ASSOCIATE_RJ: u8 = 3;
pub(super) const DATA: u8 = 4;
pub(super) const RELEASE_RQ: u8 = 5;
pub(super) const RELEASE_RP: u8 = 6;
pub(super) const ABORT: u8 = 7;

const DICOM: &str = "1.2.840.10008.3.1.1.1";

/// What is proposed: a service and one way to write its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proposal {
    pub(super) service: String,
    pub(super) syntax: String,
    /// The archive sends to us in this one (C-GET).
    pub(super) reverse: bool,
}

/// What both agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreed {
    pub(super) id: u8,
    pub(super) service: String,
    pub(super) syntax: String,
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    [&[kind, 0][..], &length.to_be_bytes(), body].concat()
}

fn item(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    [&[kind, 0][..], &length.to_be_bytes(), body].concat()
}

/// An application's title: 16 characters, padded.
fn title(text: &str) -> [u8; 16] {
    let mut title = [b' '; 16];
    for (to, from) in title.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    title
}

/// The number of a proposal: odd, 1 to 255.
fn number(place: usize) -> u8 {
    u8::try_from(place * 2 + 1).unwrap_or(255)
}

/// Asks for an association; at most 128 proposals.
pub(super) fn request(called: &str, calling: &str, proposals: &[Proposal], implementation: &str) -> Vec<u8> {
    let mut body = vec![0, 1, 0, 0];
    body.extend(title(called));
    body.extend(title(calling));
    body.extend([0; 32]);
    body.extend(item(0x10, DICOM.as_bytes()));
    for (place, proposal) in proposals.iter().enumerate() {
        let mut context = vec![number(place), 0, 0, 0];
        context.extend(item(0x30, proposal.service.as_bytes()));
        context.extend(item(0x40, proposal.syntax.as_bytes()));
        body.extend(item(0x20, &context));
    }
    let mut user = item(0x51, &FRAME.to_be_bytes());
    user.extend(item(0x52, implementation.as_bytes()));
    let mut roles: Vec<&str> = proposals
        .iter()
        .filter(|proposal| proposal.reverse)
        .map(|proposal| proposal.service.as_str())
        .collect();
    roles.dedup();
    for service in roles {
        let length = u16::try_from(service.len()).unwrap_or(u16::MAX);
        // We may serve this one, and do not use it.
        user.extend(item(0x54, &[&length.to_be_bytes()[..], service.as_bytes(), &[0, 1]].concat()));
    }
    user.extend(item(0x55, b"KURAMORI"));
    body.extend(item(0x50, &user));
    message(1, &body)
}

/// Reads the answer: what was agreed on and the largest frame that the peer takes (0: any).
pub(super) fn accepted(mut body: Bytes, proposals: &[Proposal]) -> Option<(Vec<Agreed>, u32)> {
    if body.len() < 68 {
        return None;
    }
    body.advance(68);
    let (mut agreed, mut frame) = (Vec::new(), 0);
    while body.len() >= 4 {
        let (kind, inner) = next(&mut body)?;
        match kind {
            0x21 => {
                let mut inner = inner;
                if inner.len() < 4 {
                    return None;
                }
                let (id, result) = (inner[0], inner[2]);
                inner.advance(4);
                let place = usize::from(id) / 2;
                let proposal = proposals.get(place).filter(|_| id % 2 == 1)?;
                if result == 0 {
                    let (_, syntax) = next(&mut inner)?;
                    let syntax = String::from_utf8_lossy(&syntax).trim_matches(['\0', ' ']).to_owned();
                    // One was offered; another one cannot be the answer.
                    if syntax == proposal.syntax {
                        agreed.push(Agreed { id, service: proposal.service.clone(), syntax });
                    }
                }
            }
            0x50 => {
                let mut inner = inner;
                while inner.len() >= 4 {
                    let (kind, value) = next(&mut inner)?;
                    if kind == 0x51 {
                        frame = u32::from_be_bytes(value.get(..4)?.try_into().ok()?);
                    }
                }
            }
            _ => {}
        }
    }
    Some((agreed, frame))
}

fn next(bytes: &mut Bytes) -> Option<(u8, Bytes)> {
    let length = usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]));
    let kind = bytes[0];
    if bytes.len() < 4 + length {
        return None;
    }
    bytes.advance(4);
    Some((kind, bytes.split_to(length)))
}

/// Why an association was refused (PS3.8, 9.3.4), in words.
pub(super) fn refusal(body: &[u8]) -> String {
    let (source, reason) = (body.get(2).copied().unwrap_or(0), body.get(3).copied().unwrap_or(0));
    match (source, reason) {
        (1, 3) => "it does not know our AE title (`calling`)".to_owned(),
        (1, 7) => "it does not go by this AE title (`called`)".to_owned(),
        (1, 2) => "it does not speak this application".to_owned(),
        (3, 1) => "it is too busy".to_owned(),
        (3, 2) => "it has as many connections as it takes".to_owned(),
        (source, reason) => format!("it gave no reason that helps (source {source}, reason {reason})"),
    }
}

/// A piece of a command or of data.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) context: u8,
    pub(super) command: bool,
    pub(super) last: bool,
    pub(super) bytes: Bytes,
}

/// The pieces of a data frame; none if they do not fit.
pub(super) fn pieces(mut body: Bytes) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    while !body.is_empty() {
        let length = usize::try_from(u32::from_be_bytes(body.get(..4)?.try_into().ok()?)).ok()?;
        body.advance(4);
        if length < 2 || body.len() < length {
            return None;
        }
        let mut bytes = body.split_to(length);
        let (context, control) = (bytes[0], bytes[1]);
        bytes.advance(2);
        pieces.push(Piece { context, command: control & 1 == 1, last: control & 2 == 2, bytes });
    }
    Some(pieces)
}

/// A data frame with one piece.
pub(super) fn data(context: u8, command: bool, last: bool, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len() + 2).unwrap_or(u32::MAX);
    let control = u8::from(command) | u8::from(last) << 1;
    message(DATA, &[&length.to_be_bytes()[..], &[context, control], bytes].concat())
}

/// Ends an association in good order.
pub(super) fn release() -> Vec<u8> {
    message(RELEASE_RQ, &[0; 4])
}

/// Agrees to its end.
pub(super) fn released() -> Vec<u8> {
    message(RELEASE_RP, &[0; 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_says_is_read_or_refused_and_never_trusted() {
        let proposals: Vec<Proposal> = (0..3)
            .map(|n| Proposal { service: format!("1.{n}"), syntax: "9.9".into(), reverse: n > 0 })
            .collect();
        let request = request("PACS", "KURAMORI", &proposals, "2.25.1");
        assert_eq!(
            usize::try_from(u32::from_be_bytes(request[2..6].try_into().unwrap())).unwrap(),
            request.len() - 6
        );
        assert_eq!(
            (&request[10..26], &request[26..42]),
            (&b"PACS            "[..], &b"KURAMORI        "[..])
        );
        let mut answer = vec![0; 68];
        answer.extend(item(0x21, &[&[1, 0, 0, 0][..], &item(0x40, b"9.9")].concat()));
        answer.extend(item(0x21, &[&[3, 0, 4, 0][..], &item(0x40, b"")].concat()));
        answer.extend(item(0x21, &[&[5, 0, 0, 0][..], &item(0x40, b"8.8")].concat()));
        answer.extend(item(0x50, &item(0x51, &16384u32.to_be_bytes())));
        let (agreed, frame) = accepted(answer.clone().into(), &proposals).unwrap();
        assert_eq!(
            (agreed.len(), agreed[0].id, frame),
            (1, 1, 16384),
            "a syntax that nobody offered is none"
        );
        for cut in 0..answer.len() {
            let _ = accepted(Bytes::copy_from_slice(&answer[..cut]), &proposals);
        }
        answer[72] = 7;
        assert_eq!(accepted(answer.into(), &proposals), None, "a number that was not proposed");

        let frame = Bytes::from(data(1, true, true, b"abc")).slice(6..);
        let read = pieces(frame.clone()).unwrap();
        assert!(read.len() == 1 && read[0].command && read[0].last && read[0].bytes == b"abc"[..]);
        for cut in 1..frame.len() {
            assert!(pieces(frame.slice(..cut)).is_none(), "{cut}");
        }
    }
}

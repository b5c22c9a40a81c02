//! Reading a file or a part of it.

use std::io::{self, Read, Seek, SeekFrom};

use bytes::Bytes;
use hyper::header::HeaderValue;
use tokio::sync::mpsc;

/// Read from the disk and handed to the network in pieces of this size.
const PIECE: usize = 256 << 10;
/// Pieces that wait for the network.
const WAITING: usize = 3;

/// Which bytes of a file to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    /// First byte and length.
    Range(u64, u64),
    /// Nothing of what was asked for exists.
    Outside,
}

/// Reads a `Range` header (RFC 9110 section 14): one range of bytes. Several ranges or another unit are
/// passed over, as the RFC allows, and the whole file is sent.
pub(crate) fn part(header: Option<&HeaderValue>, size: u64) -> Part {
    let range = header.and_then(|header| header.to_str().ok()).and_then(|text| text.strip_prefix("bytes="));
    let Some((first, last)) = range.and_then(|range| range.split_once('-')) else { return Part::Whole };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    match (first.trim(), last.trim()) {
        ("", last) => match number(last) {
            None => Part::Whole,
            Some(0) => Part::Outside,
            Some(_) if size == 0 => Part::Outside,
            Some(tail) => Part::Range(size - tail.min(size), tail.min(size)),
        },
        (first, "") => match number(first) {
            None => Part::Whole,
            Some(first) if first >= size => Part::Outside,
            Some(first) => Part::Range(first, size - first),
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => {
                if first >= size {
                    Part::Outside
                } else {
                    Part::Range(first, last.min(size - 1) - first + 1)
                }
            }
            _ => Part::Whole,
        },
    }
}

/// Starts a thread that reads `length` bytes from `start` and gives the queue that they come through.
pub(crate) fn pieces(mut file: fs_err::File, start: u64, length: u64) -> mpsc::Receiver<io::Result<Bytes>> {
    let (send, receive) = mpsc::channel(WAITING);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = file.seek(SeekFrom::Start(start)) {
            let _ = send.blocking_send(Err(error));
            return;
        }
        let mut left = length;
        while left > 0 {
            let size = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let mut piece = vec![0; size];
            let read = file.read_exact(&mut piece).map(|()| Bytes::from(piece));
            let failed = read.is_err();
            // Nobody listens any more, or the file ended early: the network side knows what to make of it.
            if send.blocking_send(read).is_err() || failed {
                return;
            }
            left -= size as u64;
        }
    });
    receive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_the_rfc_has_them() {
        let ask = |text: &str, size| part(Some(&HeaderValue::from_str(text).unwrap()), size);
        assert_eq!(part(None, 10), Part::Whole);
        assert_eq!(ask("bytes=0-0", 10), Part::Range(0, 1));
        assert_eq!(ask("bytes=3-7", 10), Part::Range(3, 5));
        assert_eq!(ask("bytes=3-", 10), Part::Range(3, 7));
        assert_eq!(ask("bytes=3-99", 10), Part::Range(3, 7));
        assert_eq!(ask("bytes=-4", 10), Part::Range(6, 4));
        assert_eq!(ask("bytes=-40", 10), Part::Range(0, 10));
        for outside in ["bytes=10-", "bytes=10-12", "bytes=-0"] {
            assert_eq!(ask(outside, 10), Part::Outside, "{outside}");
        }
        assert_eq!(ask("bytes=0-0", 0), Part::Outside);
        for whole in
            ["bytes=5-3", "bytes=0-1,3-4", "lines=0-1", "bytes=", "bytes=a-b", "bytes=-99999999999999999999"]
        {
            assert_eq!(ask(whole, 10), Part::Whole, "{whole}");
        }
        assert_eq!(ask(&format!("bytes=0-{}", u64::MAX), 10), Part::Range(0, 10));
    }
}

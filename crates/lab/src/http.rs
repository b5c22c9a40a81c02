//! Just enough HTTP/1.1 to talk to Orthanc: one request per connection.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::error::{LabError, Result};

/// The longest silence of a server that is no failure.
const SILENCE: Duration = Duration::from_mins(1);

/// Where and as whom to ask.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    pub(crate) user: &'static str,
    pub(crate) password: String,
}

impl Site {
    pub(crate) fn get(&self, path: &str) -> Result<Vec<u8>> {
        self.ask("GET", path, &[])
    }

    pub(crate) fn post(&self, path: &str, body: &[u8]) -> Result<Vec<u8>> {
        self.ask("POST", path, body)
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>> {
        let login = BASE64_STANDARD.encode(format!("{}:{}", self.user, self.password));
        let mut stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(SILENCE))?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Basic {login}\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        parse(answer)
    }
}

/// Status 200 and a body of the announced length, or it did not happen.
fn parse(mut answer: Vec<u8>) -> Result<Vec<u8>> {
    let wrong = |what: &str| LabError::Answer { server: "the HTTP server", answer: what.to_owned() };
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(|| wrong("no header"))?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let first = head.lines().next().unwrap_or_default();
    let body = answer.split_off(end + 4);
    if first.split(' ').nth(1) != Some("200") {
        return Err(wrong(first));
    }
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return unchunk(&body).ok_or_else(|| wrong("a broken chunk"));
    }
    match header("content-length").map(|length| length.parse::<usize>()) {
        Some(Ok(length)) if length == body.len() => Ok(body),
        None => Ok(body),
        _ => Err(wrong("a body of another length than announced")),
    }
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n")?;
        let size =
            usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?.split(';').next()?.trim(), 16)
                .ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Some(whole);
        }
        whole.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_whole_or_refused() {
        let answer = |text: &str| parse(text.as_bytes().to_vec());
        assert_eq!(answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").unwrap(), b"hi");
        assert_eq!(
            answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n1\r\n!\r\n0\r\n\r\n")
                .unwrap(),
            b"hi!"
        );
        for bad in [
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi",
            "HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhi",
            "hello",
        ] {
            assert!(answer(bad).is_err(), "{bad}");
        }
    }
}

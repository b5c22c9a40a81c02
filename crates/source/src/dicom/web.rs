//! An archive with DICOMweb (PS3.18): QIDO-RS to list, WADO-RS to get, STOW-RS to give back.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    sync::Arc,
};

use jiff::civil::Date;
use serde_json::Value;

use super::{
    archive::{Archive, Fetch, Listed, Listing},
    site::{ACCEPT_JSON, Site},
};
use crate::{Control, Error, config::DicomConfig, control::Bucket};

/// Rows of one answer.
const PAGE: usize = 500;
/// Rows of one list.
const MOST: usize = 2_000_000;
/// Bytes of a part's own head lines.
const LINES: usize = 16 << 10;
/// As the archive has it, whatever way of writing that is.
const AS_STORED: &str = "multipart/related; type=\"application/dicom\"; transfer-syntax=*";

pub(super) struct Web {
    site: Site,
    control: Control,
    bucket: Arc<Bucket>,
}

impl Web {
    pub(super) fn connect(
        config: &DicomConfig,
        control: &Control,
        bucket: &Arc<Bucket>,
    ) -> Result<Self, Error> {
        let site = Site::new(config, control)?;
        let web = Self { site, control: control.clone(), bucket: Arc::clone(bucket) };
        web.page("/studies?limit=1")?;
        Ok(web)
    }

    fn page(&self, path: &str) -> Result<Vec<Value>, Error> {
        let bytes = self.site.get_as(path, 0, ACCEPT_JSON)?;
        if bytes.is_empty() {
            return Ok(Vec::new());
        }
        serde_json::from_slice(&bytes).map_err(|error| self.strange(path, &error.to_string()))
    }

    /// All rows of a list, by a UID that each must have. A server that does not turn pages shows the same
    /// again: then that is all.
    fn list(&self, path: &str, uid: &str) -> Result<BTreeMap<String, Value>, Error> {
        let mut rows = BTreeMap::new();
        let mut offset = 0;
        loop {
            let mark = if path.contains('?') { '&' } else { '?' };
            let page = self.page(&format!("{path}{mark}limit={PAGE}&offset={offset}"))?;
            let (came, before) = (page.len(), rows.len());
            for row in page {
                let name = text(&row, uid);
                if super::is_uid(&name) {
                    rows.insert(name, row);
                }
            }
            // Servers may hold pages shorter than asked for; only an empty one, or nothing new, is the end.
            if came == 0 || rows.len() == before {
                return Ok(rows);
            }
            offset += came;
            if rows.len() > MOST {
                return Err(self.strange(path, "its list does not end"));
            }
        }
    }

    fn strange(&self, path: &str, why: &str) -> Error {
        Error::Protocol {
            server: self.site.server().to_owned(),
            why: format!("`{path}` is not what was expected: {why}"),
        }
    }

    /// One instance, streamed. False if the archive does not have it.
    fn one(&self, study: &str, series: &str, sop: &str, take: &mut dyn Fetch) -> Result<bool, Error> {
        let path = format!("/studies/{study}/series/{series}/instances/{sop}");
        let mut response = match self.site.open_as(&path, 64 << 20, AS_STORED) {
            Ok(response) => response,
            // It lists what it cannot give.
            Err(Error::Server { code, .. }) if matches!(code.as_str(), "404" | "410" | "500" | "400") => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok());
        let boundary = kind.and_then(boundary).ok_or_else(|| self.strange(&path, "no multipart"))?;
        take.begin(sop)?;
        let mut part = Part::new(&boundary);
        let mut buffer = vec![0; 128 << 10];
        while !part.over {
            let length = response.read(&mut buffer).map_err(|error| Error::ConnectionLost {
                server: self.site.server().to_owned(),
                what: sop.to_owned(),
                why: error.to_string(),
            })?;
            if length == 0 {
                return Err(Error::ConnectionLost {
                    server: self.site.server().to_owned(),
                    what: sop.to_owned(),
                    why: "it ended in the middle of a picture".to_owned(),
                });
            }
            self.brake(length as u64)?;
            part.feed(&buffer[..length], &mut |bytes| take.write(bytes))
                .map_err(|why| why.unwrap_or_else(|| self.strange(&path, "the parts make no sense")))?;
        }
        take.end(sop)?;
        Ok(true)
    }

    fn brake(&self, bytes: u64) -> Result<(), Error> {
        let wait = self.bucket.take(bytes);
        if !wait.is_zero() {
            self.control.clock.sleep(wait);
        }
        if self.control.cancel.is_cancelled() {
            return Err(Error::Cancelled("the archive".into()));
        }
        Ok(())
    }
}

fn listed((uid, row): (String, Value)) -> Listed {
    Listed { uid, said: text(&row, "00201208").parse().ok() }
}

/// A value of the JSON model (PS3.18, F).
fn text(row: &Value, tag: &str) -> String {
    match &row[tag]["Value"][0] {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    }
}

fn boundary(kind: &str) -> Option<String> {
    let lower = kind.to_ascii_lowercase();
    if !lower.starts_with("multipart/") {
        return None;
    }
    let at = lower.find("boundary=")? + "boundary=".len();
    let rest = kind.get(at..)?;
    let name = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?,
        None => rest.split([';', ' ']).next()?,
    };
    (!name.is_empty() && name.len() <= 200).then(|| name.to_owned())
}

/// The first part of a multipart answer (RFC 2046, 5.1), read as it comes.
struct Part {
    /// `\r\n--boundary`
    end: Vec<u8>,
    held: Vec<u8>,
    inside: bool,
    over: bool,
}

impl Part {
    fn new(boundary: &str) -> Self {
        // The first boundary need not have a line in front.
        Self {
            end: format!("\r\n--{boundary}").into_bytes(),
            held: b"\r\n".to_vec(),
            inside: false,
            over: false,
        }
    }

    /// Takes bytes; gives the part's content on. The error is empty where the form is wrong.
    fn feed(
        &mut self,
        bytes: &[u8],
        give: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Option<Error>> {
        if self.over {
            return Ok(());
        }
        self.held.extend(bytes);
        if !self.inside {
            let Some(first) = find(&self.held, &self.end) else {
                return if self.held.len() > LINES { Err(None) } else { Ok(()) };
            };
            let after = first + self.end.len();
            let Some(lines) = find(&self.held[after..], b"\r\n\r\n") else {
                return if self.held.len() > 2 * LINES { Err(None) } else { Ok(()) };
            };
            self.held.drain(..after + lines + 4);
            self.inside = true;
        }
        if let Some(end) = find(&self.held, &self.end) {
            give(&self.held[..end])?;
            self.held.clear();
            self.over = true;
            return Ok(());
        }
        // The end's first bytes may be the last that came.
        let safe = self.held.len().saturating_sub(self.end.len());
        give(&self.held[..safe])?;
        self.held.drain(..safe);
        Ok(())
    }
}

fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        from += hay.get(from..)?.iter().position(|byte| *byte == needle[0])?;
        if hay[from..].starts_with(needle) {
            return Some(from);
        }
        from += 1;
    }
}

impl Archive for Web {
    fn about(&mut self) -> Result<(String, String), Error> {
        Ok((self.site.server().to_owned(), "DICOMweb".to_owned()))
    }

    fn studies(&mut self, days: Option<(Date, Date)>) -> Result<(Vec<(String, Listed)>, bool), Error> {
        let days = days.map_or_else(String::new, |days| format!("&StudyDate={}", super::range(days)));
        let rows = self.list(&format!("/studies?includefield=00201208{days}"), "0020000D")?;
        let listed = |(uid, row): (String, Value)| (uid.clone(), listed((uid, row)));
        Ok((rows.into_iter().map(listed).collect(), true))
    }

    fn too_many(&self, days: &str) -> Error {
        super::too_many(self.site.server(), days)
    }

    fn study(&mut self, uid: &str) -> Result<Option<Listed>, Error> {
        let rows =
            self.list(&format!("/studies?StudyInstanceUID={uid}&includefield=00201208"), "0020000D")?;
        Ok(rows.into_iter().map(listed).find(|listed| listed.uid == uid))
    }

    fn instances(&mut self, study: &str) -> Result<Listing, Error> {
        let mut listing = Listing::default();
        let rows = match self.list(&format!("/studies/{study}/instances"), "00080018") {
            Ok(rows) => rows,
            // It has no such study.
            Err(Error::Server { code, .. }) if matches!(code.as_str(), "404" | "410") => BTreeMap::new(),
            // One study that it cannot list does not keep us from the others.
            Err(Error::Server { message, .. }) => {
                listing.cut = Some(format!("it does not list the pictures: {message}"));
                BTreeMap::new()
            }
            Err(error) => return Err(error),
        };
        for (sop, row) in rows {
            let series = text(&row, "0020000E");
            if super::is_uid(&series) {
                listing.instances.insert(sop, series);
            }
        }
        Ok(listing)
    }

    fn fetch(
        &mut self,
        study: &str,
        listing: &Listing,
        take: &mut dyn Fetch,
    ) -> Result<BTreeSet<String>, Error> {
        let mut missing = BTreeSet::new();
        for (sop, series) in &listing.instances {
            let mut tries = 0;
            let came = loop {
                tries += 1;
                match self.one(study, series, sop, take) {
                    Err(Error::ConnectionLost { .. }) if tries < 3 => {}
                    other => break other?,
                }
            };
            if !came {
                missing.insert(sop.clone());
            }
        }
        Ok(missing)
    }

    fn store(&mut self, sop: &str, file: &[u8]) -> Result<(), Error> {
        // Random enough: made from the content, and looked for in it.
        let mut boundary = format!("kuramori-{sop}");
        while find(file, boundary.as_bytes()).is_some() {
            boundary.push('x');
        }
        let head = format!("--{boundary}\r\nContent-Type: application/dicom\r\n\r\n");
        let body = [head.as_bytes(), file, format!("\r\n--{boundary}--\r\n").as_bytes()].concat();
        let kind = format!("multipart/related; type=\"application/dicom\"; boundary={boundary}");
        self.site.post("/studies", &kind, body.into()).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_cut_out_wherever_the_line_cuts_it() {
        let content: Vec<u8> =
            (0..5000u32).map(|n| if n % 7 == 0 { b'\r' } else { (n % 251) as u8 }).collect();
        let content = [&content[..], b"\r\n--bo", b"\r\n--"].concat();
        let whole =
            [b"--bou\r\nContent-Type: application/dicom\r\n\r\n", &content[..], b"\r\n--bou--\r\n"].concat();
        for step in [1, 2, 7, 100, 4096, 1 << 20] {
            let (mut part, mut got) = (Part::new("bou"), Vec::<u8>::new());
            for piece in whole.chunks(step) {
                part.feed(piece, &mut |bytes| {
                    got.extend(bytes);
                    Ok(())
                })
                .unwrap();
            }
            assert!(part.over && got == content, "{step}");
        }
        let mut part = Part::new("bou");
        part.feed(&whole[..whole.len() - 12], &mut |_| Ok(())).unwrap();
        assert!(!part.over, "what is cut is not whole");
        assert!(Part::new("other").feed(&vec![b'x'; 40 << 10], &mut |_| Ok(())).is_err());
        assert_eq!(boundary("multipart/related; type=\"a/b\"; boundary=\"x y\"").as_deref(), Some("x y"));
        assert_eq!(boundary("text/html; boundary=x"), None);
    }
}

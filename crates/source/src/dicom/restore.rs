//! Gives studies back to an archive: every instance of a bundle is compared with the bundle's digest, stored,
//! read back, and compared again.
//!
//! `tar xf part-000.tar` and DCMTK's `storescu` (or `curl --data-binary`) do the same without us.

use std::io::Read;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;

use super::{
    bundle::{Digests, FORMAT, Table},
    site::Site,
};
use crate::{Control, Error, config::DicomConfig};

/// Instances of a bundle that are held until the digests at its end have come.
const LARGEST: u64 = 512 << 20;
/// A table is never larger.
const TABLE: u64 = 64 << 20;

/// What became of a bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GivenBack {
    /// Study Instance UID.
    pub study: String,
    /// Instances that the archive holds now, identical.
    pub identical: u64,
    /// Among them those that it held already.
    pub already: u64,
    /// Bytes of instances.
    pub bytes: u64,
    /// SOP Instance UIDs that differ, in the bundle or in the archive, with the reason.
    pub wrong: Vec<(String, String)>,
}

/// One member of an archive.
struct Member {
    name: String,
    content: Bytes,
}

/// Reads the next member; none at the archive's end.
fn member(from: &mut dyn Read) -> Result<Option<Member>, Error> {
    let broken = |why: &str| Error::Manifest(format!("the bundle cannot be read: {why}"));
    let mut block = [0; 512];
    from.read_exact(&mut block).map_err(|error| broken(&error.to_string()))?;
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let text = |from: usize, to: usize| {
        let field = &block[from..to];
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
        String::from_utf8_lossy(&field[..end]).into_owned()
    };
    let size = u64::from_str_radix(text(124, 136).trim(), 8).map_err(|_| broken("a size without sense"))?;
    if size > LARGEST {
        return Err(broken("a member is larger than any that we write"));
    }
    let length = usize::try_from(size).map_err(|_| broken("too large"))?;
    let mut content = Vec::new();
    (&mut *from).take(size).read_to_end(&mut content).map_err(|error| broken(&error.to_string()))?;
    if content.len() != length {
        return Err(broken("it ends in the middle of a member"));
    }
    let mut rest = [0; 512];
    let pad = length.next_multiple_of(512) - length;
    from.read_exact(&mut rest[..pad]).map_err(|error| broken(&error.to_string()))?;
    Ok(Some(Member { name: text(0, 100), content: content.into() }))
}

/// Stores all instances of a bundle in the archive that `target` names.
pub fn give_back(bundle: &mut dyn Read, target: &DicomConfig, control: &Control) -> Result<GivenBack, Error> {
    let site = Site::new(target, control)?;
    let broken = |why: String| Error::Manifest(format!("the bundle cannot be read: {why}"));
    let first =
        member(bundle)?.filter(|first| first.name == "offsets.json" && first.content.len() as u64 <= TABLE);
    let first = first.ok_or_else(|| broken("it does not begin with its table".into()))?;
    let table: Table = serde_json::from_slice(&first.content).map_err(|error| broken(error.to_string()))?;
    if table.format != FORMAT {
        return Err(broken(format!("its form is `{}`", table.format)));
    }
    let mut back = GivenBack { study: table.study.clone(), ..GivenBack::default() };
    let mut sums = Vec::new();
    for row in &table.instances {
        if control.cancel.is_cancelled() {
            return Err(Error::Cancelled(row.sop.clone()));
        }
        let found = member(bundle)?.filter(|found| found.content.len() as u64 == row.size);
        let found = found.ok_or_else(|| broken(format!("`{}` is not where the table says", row.sop)))?;
        let sum = hex::encode(digest(&SHA256, &found.content));
        sums.push(sum.clone());
        back.bytes += row.size;
        let answer = site.store(found.content)?;
        let stored = answer["ID"].as_str().unwrap_or_default().to_owned();
        let there = site.get(&format!("/instances/{stored}/file"), row.size)?;
        if hex::encode(digest(&SHA256, &there)) == sum {
            back.identical += 1;
            back.already += u64::from(answer["Status"] == "AlreadyStored");
        } else {
            back.wrong.push((row.sop.clone(), "the archive holds something else under this UID".into()));
        }
    }
    let last = member(bundle)?.filter(|last| last.name == "digests.json");
    let last = last.ok_or_else(|| broken("it does not end with its digests".into()))?;
    let digests: Digests =
        serde_json::from_slice(&last.content).map_err(|error| broken(error.to_string()))?;
    for (number, row) in table.instances.iter().enumerate() {
        if digests.sha256.get(number) != sums.get(number) {
            back.wrong.push((row.sop.clone(), "its content is not what was read from the archive".into()));
        }
    }
    Ok(back)
}

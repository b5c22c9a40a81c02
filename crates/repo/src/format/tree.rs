//! Tree blobs: a folder as JSON, byte for byte as Go writes it.

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use kuramori_model::tree::FileTime;
use serde::Deserialize;

use super::{
    Flaw,
    blob::BlobId,
    gojson,
    node::{Node, NodeKind},
};

/// A folder.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tree {
    /// Its items, strictly ascending by name.
    pub nodes: Vec<Node>,
}

/// Writes the tree's JSON: compact, `{"nodes":[...]}` and a line feed. Refuses names out of order.
pub fn encode(nodes: &[Node]) -> Result<Vec<u8>, Flaw> {
    check_names(nodes.iter().map(|node| node.name.as_slice()))?;
    let mut out = Vec::with_capacity(64 + nodes.len() * 400);
    out.extend_from_slice(b"{\"nodes\":[");
    for (position, node) in nodes.iter().enumerate() {
        if position > 0 {
            out.push(b',');
        }
        encode_node(&mut out, node);
    }
    out.extend_from_slice(b"]}\n");
    Ok(out)
}

pub(super) fn encode_node_for_compare(node: &Node) -> Vec<u8> {
    let mut out = Vec::new();
    encode_node(&mut out, node);
    out
}

fn encode_node(out: &mut Vec<u8>, node: &Node) {
    fn key(out: &mut Vec<u8>, key: &str) {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(b"\":");
    }
    fn number(out: &mut Vec<u8>, name: &str, value: u64) {
        key(out, name);
        out.extend_from_slice(value.to_string().as_bytes());
    }
    fn some_number(out: &mut Vec<u8>, name: &str, value: u64) {
        if value != 0 {
            number(out, name, value);
        }
    }
    fn some_text(out: &mut Vec<u8>, name: &str, value: &str) {
        if !value.is_empty() {
            key(out, name);
            gojson::string(out, value);
        }
    }
    fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
        out.push(b'"');
        out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
        out.push(b'"');
    }
    fn id(out: &mut Vec<u8>, id: &BlobId) {
        out.push(b'"');
        let start = out.len();
        out.resize(start + 64, 0);
        // Cannot fail: the space has twice the length.
        let _ = hex::encode_to_slice(id.0, &mut out[start..]);
        out.push(b'"');
    }

    out.extend_from_slice(b"{\"name\":");
    gojson::string(out, &gojson::quote(&node.name));
    key(out, "type");
    gojson::string(out, node.kind.word());
    some_number(out, "mode", u64::from(node.mode));
    for (name, time) in [("mtime", node.mtime), ("atime", node.atime), ("ctime", node.ctime)] {
        key(out, name);
        encode_time(out, time);
    }
    number(out, "uid", u64::from(node.uid));
    number(out, "gid", u64::from(node.gid));
    some_text(out, "user", &node.user);
    some_text(out, "group", &node.group);
    some_number(out, "inode", node.inode);
    some_number(out, "device_id", node.device_id);
    some_number(out, "size", node.size);
    some_number(out, "links", node.links);
    if !node.link_target.is_empty() {
        some_text(out, "linktarget", &String::from_utf8_lossy(&node.link_target));
        if std::str::from_utf8(&node.link_target).is_err() {
            key(out, "linktarget_raw");
            base64(out, &node.link_target);
        }
    }
    if !node.xattrs.is_empty() {
        key(out, "extended_attributes");
        for (position, (name, value)) in node.xattrs.iter().enumerate() {
            out.extend_from_slice(if position == 0 { b"[{\"name\":" } else { b",{\"name\":" });
            gojson::string(out, &String::from_utf8_lossy(name));
            key(out, "value");
            base64(out, value);
            out.push(b'}');
        }
        out.push(b']');
    }
    if let Some(generic) = &node.generic {
        key(out, "generic_attributes");
        out.extend_from_slice(generic.get().as_bytes());
    }
    some_number(out, "device", node.device);
    key(out, "content");
    match &node.content {
        None => out.extend_from_slice(b"null"),
        Some(content) => {
            out.reserve(content.len() * 67);
            out.push(b'[');
            for (position, blob) in content.iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                id(out, blob);
            }
            out.push(b']');
        }
    }
    if let Some(subtree) = &node.subtree {
        key(out, "subtree");
        id(out, subtree);
    }
    some_text(out, "error", &node.error);
    out.push(b'}');
}

/// RFC 3339 with as many digits as needed, in UTC; a year outside of 0 to 9999 is moved to the border, as
/// restic does, because Go cannot write it.
fn encode_time(out: &mut Vec<u8>, time: FileTime) {
    const YEAR_0: i64 = -62_167_219_200;
    const YEAR_9999_END: i64 = 253_402_207_200 - 1;
    let seconds = time.seconds.clamp(YEAR_0, YEAR_9999_END);
    let nanos = i32::try_from(time.nanos.min(999_999_999)).unwrap_or(0);
    let stamp = Timestamp::new(seconds, nanos).unwrap_or(Timestamp::UNIX_EPOCH);
    out.push(b'"');
    out.extend_from_slice(stamp.to_string().as_bytes());
    out.push(b'"');
}

fn decode_time(text: &str) -> Result<FileTime, Flaw> {
    let stamp: Timestamp =
        text.parse().map_err(|_| Flaw::new(format!("`{}` is no time", text.escape_debug())))?;
    let nanos = stamp.as_nanosecond();
    let seconds = i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or(0);
    Ok(FileTime { seconds, nanos: u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0) })
}

#[derive(Deserialize)]
struct WireTree {
    nodes: Option<Vec<WireNode>>,
}

#[derive(Deserialize)]
struct WireNode {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    mode: u32,
    mtime: Option<String>,
    atime: Option<String>,
    ctime: Option<String>,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    #[serde(default)]
    user: String,
    #[serde(default)]
    group: String,
    #[serde(default)]
    inode: u64,
    #[serde(default)]
    device_id: u64,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    links: u64,
    #[serde(default)]
    linktarget: String,
    linktarget_raw: Option<String>,
    extended_attributes: Option<Vec<WireXattr>>,
    generic_attributes: Option<Box<serde_json::value::RawValue>>,
    #[serde(default)]
    device: u64,
    content: Option<Vec<BlobId>>,
    subtree: Option<BlobId>,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
struct WireXattr {
    name: String,
    value: Option<String>,
}

/// Reads a tree's JSON and checks it: names, order, times, and that files have content and folders a tree.
pub fn decode(json: &[u8]) -> Result<Tree, Flaw> {
    let wire: WireTree = serde_json::from_slice(json)?;
    let nodes =
        wire.nodes.unwrap_or_default().into_iter().map(decode_node).collect::<Result<Vec<_>, Flaw>>()?;
    check_names(nodes.iter().map(|node| node.name.as_slice()))?;
    Ok(Tree { nodes })
}

fn decode_node(wire: WireNode) -> Result<Node, Flaw> {
    let name = gojson::unquote(&wire.name)?;
    let shown = || String::from_utf8_lossy(&name).into_owned();
    let kind = NodeKind::from_word(&wire.kind).ok_or_else(|| {
        Flaw::new(format!("`{}` has the unknown type `{}`", shown(), wire.kind.escape_debug()))
    })?;
    let time = |text: &Option<String>| text.as_deref().map_or(Ok(FileTime::default()), decode_time);
    let base64 = |text: &str| {
        STANDARD.decode(text).map_err(|_| Flaw::new(format!("an attribute of `{}` is not base64", shown())))
    };
    let link_target = match &wire.linktarget_raw {
        Some(raw) => base64(raw)?,
        None => wire.linktarget.into_bytes(),
    };
    let xattrs = wire
        .extended_attributes
        .unwrap_or_default()
        .into_iter()
        .map(|attribute| {
            Ok((attribute.name.into_bytes(), base64(attribute.value.as_deref().unwrap_or_default())?))
        })
        .collect::<Result<_, Flaw>>()?;
    match kind {
        NodeKind::File if wire.content.is_none() => {
            return Err(Flaw::new(format!("the file `{}` has no list of its content", shown())));
        }
        NodeKind::Dir if wire.subtree.is_none() => {
            return Err(Flaw::new(format!("the folder `{}` has no tree", shown())));
        }
        _ => {}
    }
    Ok(Node {
        mode: wire.mode,
        mtime: time(&wire.mtime)?,
        atime: time(&wire.atime)?,
        ctime: time(&wire.ctime)?,
        uid: wire.uid,
        gid: wire.gid,
        user: wire.user,
        group: wire.group,
        inode: wire.inode,
        device_id: wire.device_id,
        size: wire.size,
        links: wire.links,
        link_target,
        xattrs,
        generic: wire.generic_attributes,
        device: wire.device,
        content: wire.content,
        subtree: wire.subtree,
        error: wire.error,
        name,
        kind,
    })
}

/// Names are single path parts in strictly ascending order: nothing can leave the folder or appear twice.
fn check_names<'a>(names: impl Iterator<Item = &'a [u8]>) -> Result<(), Flaw> {
    let mut last: &[u8] = b"";
    for name in names {
        let shown = || String::from_utf8_lossy(name).into_owned();
        if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') || name.contains(&0) {
            return Err(Flaw::new(format!("`{}` is not a name", shown().escape_debug())));
        }
        if name <= last {
            return Err(Flaw::new(format!("the name `{}` is out of order or there twice", shown())));
        }
        last = name;
    }
    Ok(())
}

//! Golden bytes and properties of the pure codecs.

use kuramori_model::tree::FileTime;
use kuramori_repo::{
    format::{
        blob::{BlobId, BlobKind, PackedBlob},
        compress,
        crypto::{Cipher, KeyBytes},
        index, key, lock,
        node::{Node, NodeKind, go_mode, unix_mode},
        pack, snapshot, tree, unpacked,
    },
    store::FileId,
};
use proptest::prelude::*;

fn cipher() -> Cipher {
    let bytes: [u8; 64] = std::array::from_fn(|i| i as u8);
    Cipher::new(&KeyBytes::from_slice(&bytes)).unwrap()
}

/// Made with Python's `cryptography`: AES-256-CTR and Poly1305 over AES-128-ECB of the IV.
#[test]
fn seals_as_restic_does_also_when_the_counter_wraps() {
    let plain: Vec<u8> = (0..100_u32).map(|i| (i * 7) as u8).collect();
    for (iv, body) in [
        (
            "00112233445566778899aabbccddeeff",
            "8ea5b9df4d446f8ed2c30fdd1f1202e08608f077c062166bd1a21bef8a966ba2c05ce8e6dc33d66458699f32dbf44ec7e135af75ae1872a99cecfe75aff9e2c0119a5aa60815bd12a9dacbf94e6394d6c72d98d9f09002f0885832551087234b51090eda56dd1f7e4e6764ea20523db30720f230",
        ),
        (
            "ffffffffffffffffffffffffffffffff",
            "e99eea0850845aeb6bb8573609d4358782e77e33a6da0571015c2cd719e5a55910ba985bb6ba95f4bee9bd1c7cf974745eebebbbd95ff93c80273fa8bc87232012849886f4628ade7861b58ed1e47f7f7e68d8f966a1e2675bac07884545fbd709a0ef537165241e99349383f18cd8261feb6fd9",
        ),
        (
            "0100000000000000ffffffffffffffff",
            "19ab25461abcb738122ec29e34f56c4e4192e1deb4ed0654412435d5006c5bfcc5589839c997c93e1155139fd32d75a324a6b5c6b70edb25cf9086e5871befddfe13e0f5ed544371e20f464d4f577c921ef1e1d2fe5509269cd08c5059f320a52724be07ed8b353c0290ecbeeaafccb8848cd8f5",
        ),
        (
            "fffffffffffffffffffffffffffffffe",
            "63e2ba17a93d62ecc2d2bf93cd97452d99ee9a98c034ea7bfb28a7c6994485371277ee43d64a95c1b1ecbc47e91535c9a00a28cb26cae5642e790dacec698484ce7b7b0b69cf694cf057af380c37b3b0e274681664d23a4ee8f1c5fe4174cfcfeef84809859e8862306bce4332f55145be90c1d2",
        ),
    ] {
        let mut start = [0; 16];
        hex::decode_to_slice(iv, &mut start).unwrap();
        let sealed = cipher().seal(start, &plain).unwrap();
        assert_eq!(hex::encode(&sealed), format!("{iv}{body}"));
        assert_eq!(cipher().open_vec(sealed).unwrap(), plain);
    }
    let long: Vec<u8> = (0..(3_u32 << 20 | 5)).map(|i| (i * 31 + (i >> 8)) as u8).collect();
    let sealed = cipher().seal([0xFF; 16], &long).unwrap();
    assert_eq!(
        FileId::of(&sealed).to_string(),
        "9b147fb0fdb360e007aa5af155abef299a8ed822738a8fd82d4b62c76309fde3"
    );
}

#[test]
fn every_flipped_bit_of_a_sealed_text_is_noticed() {
    let sealed = cipher().seal([7; 16], b"sixteen bytes and some").unwrap();
    for bit in 0..sealed.len() * 8 {
        let mut changed = sealed.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(cipher().open(&mut changed).is_err(), "bit {bit}");
    }
    for len in 0..sealed.len() {
        assert!(cipher().open(&mut sealed[..len].to_vec()).is_err(), "length {len}");
    }
    assert!(cipher().seal([0; 16], b"x").is_err(), "an all-zero IV");
}

/// A key file that restic 0.14 wrote.
#[test]
fn opens_a_key_file_of_restic() {
    let json = r#"{"created":"2026-11-22T14:46:03.276680813Z","username":"root","hostname":"vm","kdf":"scrypt","N":32768,"r":8,"p":1,"salt":"ktRn3GANDSVNIIjUpe5DQPQlyCD9O2OVhsCW/mk5EdA81zyGm6LTVThsqXFfIfa5W1sQOJWsRCu9vgqgbVnLUA==","data":"Hjfjt2iEjjCHqejt69JPu5KtiAv1P3mdQ+QwXJtNVzwq6xDkcL2hUN9U7UaHVHDTGy7WQGBR2bDXPbe/s3wo+d9AQczJp9TY01svqMtgRh1aoMezoglxN9KDkIKtb9xgng5qlLgqDAA1fN7WtIRi3MWuGnmY6b5Vs9P1p7lTnKkoG5DKuvScy4yipNU+TrsamReLsdC/I97rUHty+6ne3g=="}"#;
    let file = key::decode(json.as_bytes()).unwrap();
    let master = key::open(&file, b"geheim").unwrap().unwrap();
    assert_eq!(
        hex::encode(master.encrypt),
        "27dd38a666ca357cf9edca58204897e610f62f743e7ca18b91e68808425e1867"
    );
    assert_eq!(hex::encode(master.mac_k), "000e1455c90984434c52bb3556438d4f");
    assert_eq!(hex::encode(master.mac_r), "6c42fe0000f7090f0cacad03c0378b09");
    assert!(key::open(&file, b"Geheim").unwrap().is_none());
}

#[test]
fn a_pack_header_has_these_bytes() {
    let blob = |n: u8, kind, offset, length, plain_length| PackedBlob {
        id: BlobId([n; 32]),
        kind,
        offset,
        length,
        plain_length,
    };
    let blobs = [
        blob(1, BlobKind::Data, 0, 0x1234, None),
        blob(2, BlobKind::Tree, 0x1234, 33, None),
        blob(3, BlobKind::Data, 0x1255, 0x100, Some(0x0010_0000)),
        blob(4, BlobKind::Tree, 0x1355, 40, Some(9)),
    ];
    let header = pack::encode_header(&blobs);
    let expected = format!(
        "0034120000{}0121000000{}020001000000001000{}032800000009000000{}",
        "01".repeat(32),
        "02".repeat(32),
        "03".repeat(32),
        "04".repeat(32)
    );
    assert_eq!(hex::encode(&header), expected);
    let body = 0x1355 + 40;
    assert_eq!(pack::decode_header(&header, body).unwrap(), blobs);
    assert!(pack::decode_header(&header, body + 1).is_err());
    assert!(pack::decode_header(&[], 0).is_err());
    for len in 1..header.len() {
        assert!(pack::decode_header(&header[..len], body).is_err(), "{len}");
    }
    assert!(pack::header_place(100, 96_u32.to_le_bytes()).is_err(), "no room for a blob");
    assert!(pack::header_place(1 << 30, (17_u32 << 20).to_le_bytes()).is_err(), "too long");
}

#[test]
fn an_index_has_this_json() {
    let packs = [index::IndexedPack {
        id: FileId([1; 32]),
        blobs: vec![
            PackedBlob {
                id: BlobId([2; 32]),
                kind: BlobKind::Data,
                offset: 0,
                length: 38,
                plain_length: None,
            },
            PackedBlob {
                id: BlobId([3; 32]),
                kind: BlobKind::Tree,
                offset: 38,
                length: 112,
                plain_length: Some(511),
            },
        ],
    }];
    let json = String::from_utf8(index::encode(&packs).unwrap()).unwrap();
    let (a, b, c) = ("01".repeat(32), "02".repeat(32), "03".repeat(32));
    assert_eq!(
        json,
        format!(
            r#"{{"packs":[{{"id":"{a}","blobs":[{{"id":"{b}","type":"data","offset":0,"length":38}},{{"id":"{c}","type":"tree","offset":38,"length":112,"uncompressed_length":511}}]}}]}}"#
        )
    );
    assert_eq!(index::decode(json.as_bytes()).unwrap(), packs);
    let other = json.replace("{\"packs\"", &format!("{{\"supersedes\":[\"{a}\"],\"packs\""));
    assert_eq!(index::decode(other.as_bytes()).unwrap(), packs);
    assert!(index::decode(json.replace("\"length\":38", "\"length\":4294967295").as_bytes()).is_ok());
    assert!(
        index::decode(
            json.replace("\"offset\":38,\"length\":112", "\"offset\":4294967295,\"length\":112").as_bytes()
        )
        .is_err()
    );
    assert!(index::decode(json.replace("\"length\":38", "\"length\":32").as_bytes()).is_err());
}

#[test]
fn snapshots_and_locks_have_this_json() {
    let tree = "04".repeat(32);
    let minimal = format!(r#"{{"time":"2026-03-01T02:03:04.000000005Z","tree":"{tree}","paths":["/srv"]}}"#);
    let decoded = snapshot::decode(minimal.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(snapshot::encode(&decoded).unwrap()).unwrap(), minimal);
    let foreign = format!(
        r#"{{"time":"2026-03-01T11:03:04+09:00","tree":"{tree}","paths":null,"tags":null,"future":1}}"#
    );
    let decoded = snapshot::decode(foreign.as_bytes()).unwrap();
    assert_eq!(decoded.time, "2026-03-01T02:03:04Z".parse().unwrap());
    let held = r#"{"time":"2026-03-01T02:03:04Z","exclusive":false,"hostname":"pacs","username":"root","pid":7,"uid":0,"gid":0}"#;
    let decoded = lock::decode(held.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(lock::encode(&decoded).unwrap()).unwrap(), held);
}

#[test]
fn unpacked_files_are_bounded_and_of_known_form() {
    let json = format!("[{}]", "0,".repeat(100_000) + "0").into_bytes();
    let plain = unpacked::encode(&json).unwrap();
    assert_eq!(plain[0], 2);
    assert_eq!(unpacked::decode(plain.clone(), 1 << 20).unwrap(), json);
    assert!(unpacked::decode(plain, 1000).is_err(), "a bomb");
    assert_eq!(unpacked::decode(b"{}".to_vec(), 10).unwrap(), b"{}");
    for bad in [&b""[..], b"x", b"\x01{}", b"\x02not zstd"] {
        assert!(unpacked::decode(bad.to_vec(), 10).is_err());
    }
}

#[test]
fn a_compressed_blob_must_have_its_announced_length() {
    let plain = vec![7; 100_000];
    let packed = compress::compress(1, &plain).unwrap();
    assert_eq!(compress::decompress_exact(&packed, 100_000).unwrap(), plain);
    for wrong in [0, 1, 99_999, 100_001] {
        assert!(compress::decompress_exact(&packed, wrong).is_err(), "{wrong}");
    }
}

#[test]
fn names_that_could_leave_a_folder_are_refused() {
    let good = Node::new("a", NodeKind::Fifo, 0o600);
    for name in ["", ".", "..", "a/b", "a\0"] {
        assert!(tree::encode(&[Node::new(name, NodeKind::Fifo, 0o600)]).is_err(), "{name:?}");
        let json = String::from_utf8(tree::encode(std::slice::from_ref(&good)).unwrap()).unwrap();
        let bad = json.replace("\"name\":\"a\"", &format!("\"name\":\"{}\"", name.replace('\0', "\\\\x00")));
        assert!(tree::decode(bad.as_bytes()).is_err(), "{name:?}");
    }
    assert!(tree::encode(&[good.clone(), good]).is_err(), "twice");
}

fn times() -> impl Strategy<Value = FileTime> {
    (-62_167_219_200_i64..253_402_207_199, 0_u32..1_000_000_000)
        .prop_map(|(seconds, nanos)| FileTime { seconds, nanos })
}

prop_compose! {
    fn nodes()(
        name in proptest::collection::vec(any::<u8>().prop_filter("not a separator", |b| *b != 0 && *b != b'/'), 1..40)
            .prop_filter("not a dot", |name| name != b"." && name != b".."),
        kind in proptest::sample::select(&NodeKind::ALL[..]),
        unix in 0_u32..0o10000,
        (mtime, atime, ctime) in (times(), times(), times()),
        numbers in any::<(u32, u32, u64, u64, u64, u64)>(),
        (user, group, error) in (".*", ".*", ".*"),
        target in proptest::collection::vec(any::<u8>(), 0..20),
        xattrs in proptest::collection::vec((".{1,9}", proptest::collection::vec(any::<u8>(), 0..9)), 0..3),
        content in proptest::collection::vec(any::<[u8; 32]>(), 0..4),
    ) -> Node {
        let mut node = Node::new(name, kind, unix);
        (node.mtime, node.atime, node.ctime) = (mtime, atime, ctime);
        (node.uid, node.gid, node.inode, node.device_id, node.size, node.links) = numbers;
        (node.user, node.group, node.error) = (user, group, error);
        node.link_target = if kind == NodeKind::Symlink { target } else { Vec::new() };
        node.xattrs = xattrs.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect();
        match kind {
            NodeKind::File => node.content = Some(content.into_iter().map(BlobId).collect()),
            NodeKind::Dir => node.subtree = Some(BlobId([9; 32])),
            NodeKind::Device | NodeKind::CharDevice => node.device = numbers.2,
            _ => {}
        }
        node
    }
}

proptest! {
    #[test]
    fn any_tree_comes_back(mut nodes in proptest::collection::vec(nodes(), 0..8)) {
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes.dedup_by(|a, b| a.name == b.name);
        let json = tree::encode(&nodes).unwrap();
        let back = tree::decode(&json).unwrap();
        prop_assert_eq!(&tree::encode(&back.nodes).unwrap(), &json);
        for (before, after) in nodes.iter().zip(&back.nodes) {
            prop_assert_eq!(&before.name, &after.name);
            prop_assert_eq!(&before.link_target, &after.link_target);
            prop_assert_eq!((before.mtime, before.atime, before.ctime), (after.mtime, after.atime, after.ctime));
            prop_assert_eq!(before, after);
        }
    }

    #[test]
    fn permissions_come_back(unix in 0_u32..0o10000, kind in proptest::sample::select(&NodeKind::ALL[..])) {
        prop_assert_eq!(unix_mode(go_mode(kind, unix)), unix);
    }

    #[test]
    fn decoders_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), body in any::<u64>()) {
        let _ = pack::decode_header(&bytes, body);
        let _ = tree::decode(&bytes);
        let _ = index::decode(&bytes);
        let _ = snapshot::decode(&bytes);
        let _ = lock::decode(&bytes);
        let _ = key::decode(&bytes);
        let _ = unpacked::decode(bytes.clone(), 1000);
        let _ = compress::decompress_exact(&bytes, 1000);
        let _ = cipher().open(&mut bytes.clone());
    }

    #[test]
    fn damaged_json_never_panics(mut nodes in proptest::collection::vec(nodes(), 1..3), at in any::<proptest::sample::Index>(), byte in any::<u8>()) {
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes.dedup_by(|a, b| a.name == b.name);
        let mut json = tree::encode(&nodes).unwrap();
        let at = at.index(json.len());
        json[at] = byte;
        let _ = tree::decode(&json);
    }
}

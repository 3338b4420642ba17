//! Messages to compare on: every kind that the guard tells apart, and the fuzz target's seeds.

use std::collections::BTreeMap;
use std::path::Path;

/// Type A.
pub const A: u16 = 1;
/// Class IN.
pub const IN: u16 = 1;
/// An incremental zone transfer, the one query with a record in its authority section.
pub const IXFR: u16 = 251;
/// Recursion desired.
pub const RD: u16 = 0x0100;

/// A header: id, flags, the four counts.
pub fn header(id: u16, flags: u16, counts: [u16; 4]) -> Vec<u8> {
    let fields = [id, flags].into_iter().chain(counts);
    fields.flat_map(u16::to_be_bytes).collect()
}

/// A question.
fn question(labels: &[&[u8]], qtype: u16, qclass: u16) -> Vec<u8> {
    let mut out = Vec::new();
    for label in labels {
        out.push(u8::try_from(label.len()).expect("a label's length"));
        out.extend(*label);
    }
    out.push(0);
    out.extend(qtype.to_be_bytes());
    out.extend(qclass.to_be_bytes());
    out
}

/// An OPT record.
pub fn opt(udp: u16, version: u8, flags: u16, options: &[u8]) -> Vec<u8> {
    let length = u16::try_from(options.len()).expect("an option's length");
    let numbers = [
        udp.to_be_bytes(),
        [0, version],
        flags.to_be_bytes(),
        length.to_be_bytes(),
    ];
    [&[0, 0, 41], numbers.as_flattened(), options].concat()
}

/// A query for A.
fn query(labels: &[&[u8]]) -> Vec<u8> {
    [header(0x1234, RD, [1, 0, 0, 0]), question(labels, A, IN)].concat()
}

/// An SOA with these names in its data.
fn soa(owner: &[u8], names: &[u8]) -> Vec<u8> {
    let data = [names, &[0; 20]].concat();
    let len = u16::try_from(data.len())
        .expect("a record's length")
        .to_be_bytes();
    [owner, &[0, 6, 0, 1, 0, 0, 0, 0], &len, &data].concat()
}

/// Messages of every kind that the guard tells apart, by name.
pub fn corpus() -> BTreeMap<String, Vec<u8>> {
    let labels: &[&[u8]] = &[b"wWw", b"Example", b"com"];
    let one = |qtype, qclass| question(labels, qtype, qclass);
    let with_opt = |options: &[u8]| {
        let front = header(7, RD, [1, 0, 0, 1]);
        [front, one(28, IN), opt(1232, 0, 0x8000, options)].concat()
    };
    let mut all = BTreeMap::new();
    let mut add = |name: &str, message: Vec<u8>| {
        all.insert(name.to_owned(), message);
    };
    for qtype in [
        1, 2, 5, 6, 12, 15, 16, 28, 33, 35, 41, 64, 65, 251, 252, 255, 257, 0, 65280,
    ] {
        let front = header(qtype, RD, [1, 0, 0, 0]);
        add(&format!("type-{qtype}"), [front, one(qtype, IN)].concat());
    }
    for qclass in [0, 2, 3, 4, 254, 255] {
        let front = header(1, RD, [1, 0, 0, 0]);
        add(&format!("class-{qclass}"), [front, one(A, qclass)].concat());
    }
    for opcode in 1..16u16 {
        let front = header(1, RD | opcode << 11, [1, 0, 0, 0]);
        add(&format!("opcode-{opcode}"), [front, one(6, IN)].concat());
    }
    for flags in [
        0, 0x8000, 0x0400, 0x0200, 0x0080, 0x0040, 0x0020, 0x0010, 0x000f, 0x07ff,
    ] {
        let front = header(1, flags, [1, 0, 0, 0]);
        add(&format!("flags-{flags:04x}"), [front, one(A, IN)].concat());
    }
    add("edns", with_opt(&[]));
    add("edns-cookie", with_opt(b"\x00\x0a\x00\x0812345678"));
    add(
        "edns-subnet",
        with_opt(b"\x00\x08\x00\x07\x00\x01\x18\x00\xc0\x00\x02"),
    );
    add(
        "edns-padding",
        with_opt(&[&[0, 12, 0, 200][..], &[0; 200]].concat()),
    );
    add(
        "edns-nsid-unknown",
        with_opt(b"\x00\x03\x00\x00\xfd\xe9\x00\x06secret"),
    );
    add("edns-cut-option", with_opt(b"\x00\x0a\x00\x09short"));
    for version in [1, 255] {
        let message = [
            header(1, RD, [1, 0, 0, 1]),
            one(A, IN),
            opt(0, version, 0, &[]),
        ];
        add(&format!("edns-version-{version}"), message.concat());
    }
    let two = [opt(512, 0, 0, &[]), opt(4096, 0, 0, &[])].concat();
    add(
        "edns-twice",
        [header(1, RD, [1, 0, 0, 2]), one(A, IN), two].concat(),
    );
    let mut named = opt(512, 0, 0, &[]);
    named.splice(0..1, [1, b'a', 0]);
    add(
        "edns-named",
        [header(1, RD, [1, 0, 0, 1]), one(A, IN), named].concat(),
    );
    for (name, counts) in [
        ("no-question", [0, 0, 0, 0]),
        ("two-questions", [2, 0, 0, 0]),
        ("an-answer", [1, 1, 0, 0]),
        ("an-authority", [1, 0, 1, 0]),
        ("an-additional", [1, 0, 0, 1]),
        ("too-many", [0xffff; 4]),
    ] {
        let record = [&one(16, IN)[..], b"\0\0\0\0\0\x05\x04leak"].concat();
        let rest = if counts[0] == 2 { one(A, IN) } else { record };
        add(name, [header(1, RD, counts), one(A, IN), rest].concat());
    }
    add("trailing", [query(labels), b"payload".to_vec()].concat());
    for (name, owner, names) in [
        ("ixfr", &[0xc0, 12][..], &[0, 0][..]),
        (
            "ixfr-spelled",
            b"\x03www\x07example\x03com\0",
            b"\x02ns\xc0\x0c\0",
        ),
        ("ixfr-loop", &[0xc0, 12], &[0xc0, 0xff, 0]),
        ("ixfr-other-owner", &[0xc0, 16], &[0, 0]),
    ] {
        let front = header(1, RD, [1, 0, 1, 0]);
        add(name, [front, one(IXFR, IN), soa(owner, names)].concat());
    }
    let bare = |name: &[u8]| [&header(1, RD, [1, 0, 0, 0]), name, &[0, 1, 0, 1]].concat();
    for (name, bytes) in [
        ("pointer-self", &[0xc0, 12][..]),
        ("pointer-header", &[0xc0, 0]),
        ("pointer-forward", &[0xc0, 14, 1, b'a', 0]),
        ("pointer-pair", &[0xc0, 14, 0xc0, 12]),
        ("pointer-behind-label", &[1, b'a', 0xc0, 12]),
        ("label-type-01", &[0x41, b'a', 0]),
        ("label-type-10", &[0x81, b'a', 0]),
        ("label-of-64", &[64, 0]),
        ("root", &[0]),
        ("nul", b"\x03a\0b\x07example\0"),
        ("dot", b"\x03a.b\x07example\0"),
        ("backslash", b"\x03a\\b\x07example\0"),
        ("line-break", b"\x03a\r\n\x07example\0"),
        ("escape", b"\x05\x1b[31m\x07example\0"),
        ("eight-bit", b"\x02\xff\xfe\x07example\0"),
        ("number", b"\x03127\x010\x010\x011\0"),
        ("underscore", b"\x04_sip\x04_tcp\x07example\0"),
        ("ace", b"\x0axn--bcher-kva\x07example\0"),
    ] {
        add(name, bare(bytes));
    }
    let longest: Vec<&[u8]> = vec![&[b'a'; 63], &[b'b'; 63], &[b'c'; 63], &[b'd'; 61]];
    add("name-of-255", query(&longest));
    let mut longer = longest.clone();
    longer[3] = &[b'd'; 62];
    add("name-of-256", query(&longer));
    add("labels-127", query(&vec![b"a".as_slice(); 127]));
    add("labels-128", query(&vec![b"a".as_slice(); 128]));
    add("empty", Vec::new());
    all.extend(committed());
    all
}

/// The seeds of the fuzz target, so that what a fuzzer once found stays found.
fn committed() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/dns_query");
    let entries = std::fs::read_dir(&folder).expect("the corpus is in the repository");
    let seeds: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("seed-"))
        })
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    assert!(seeds.len() >= 3, "{folder:?} holds {} seeds", seeds.len());
    seeds
}

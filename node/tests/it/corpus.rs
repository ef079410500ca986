//! Replays the corpus of the BTF reader's fuzz target through the function that the target runs.

use std::path::PathBuf;

use crate::fuzz;

/// Most files a corpus may have: they are replayed with every test run.
const MAX_FILES: usize = 40;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/btf")
}

#[test]
fn type_information() {
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        std::fs::create_dir_all(folder()).unwrap();
        for (name, data) in seeds() {
            std::fs::write(folder().join(name), data).unwrap();
        }
    }
    let files: Vec<_> = std::fs::read_dir(folder()).unwrap().map(Result::unwrap).collect();
    assert!((10..=MAX_FILES).contains(&files.len()), "btf has {} files", files.len());
    for file in files {
        fuzz::btf(&std::fs::read(file.path()).unwrap());
    }
}

/// Writes types as `Documentation/bpf/btf.rst` has them.
struct Writer {
    types: Vec<u8>,
    strings: Vec<u8>,
    strings_before: usize,
}

impl Writer {
    fn base() -> Self {
        Self { types: Vec::new(), strings: vec![0], strings_before: 0 }
    }

    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = self.strings_before + self.strings.len();
        self.strings.extend(text.as_bytes());
        self.strings.push(0);
        u32::try_from(at).unwrap()
    }

    fn words(&mut self, words: &[u32]) {
        words.iter().for_each(|word| self.types.extend(word.to_le_bytes()));
    }

    /// Kind 1 int, 2 pointer, 3 array, 4 structure, 5 union, 6 enumeration, 8 other name.
    fn head(&mut self, name: &str, kind: u32, count: usize, size: u32) {
        let name = self.string(name);
        self.words(&[name, kind << 24 | u32::try_from(count).unwrap(), size]);
    }

    /// Members: name, type, byte.
    fn members(&mut self, name: &str, kind: u32, size: u32, members: &[(&str, u32, u32)]) {
        let named: Vec<_> = members.iter().map(|(name, ..)| self.string(name)).collect();
        self.head(name, kind, members.len(), size);
        for (name, (_, kind, at)) in named.into_iter().zip(members) {
            self.words(&[name, *kind, at * 8]);
        }
    }

    fn array(&mut self, of: u32, length: u32) {
        self.head("", 3, 0, 0);
        self.words(&[of, 1, length]);
    }

    fn finish(&self) -> Vec<u8> {
        let (types, strings) = (self.types.len(), self.strings.len());
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, types, types, strings] {
            bytes.extend(u32::try_from(word).unwrap().to_le_bytes());
        }
        [&bytes[..], &self.types, &self.strings].concat()
    }
}

/// A kernel of a few types: 1 int, 2 address (union), 3 side, 4 tuple, 5 hash, 6 hashes, 7 seen,
/// 8 seens, 9 tcp, 10 proto (union), 11 connection, 12 namespace's common part, 13 namespace,
/// 14 packet, 15 byte, 16 bytes, 17 extensions, 18 their numbers.
fn kernel() -> Writer {
    let mut kernel = Writer::base();
    kernel.head("int", 1, 0, 4);
    kernel.words(&[32]);
    kernel.members("", 5, 16, &[("ip", 1, 0), ("all", 1, 0)]);
    kernel.members("", 4, 20, &[("u3", 2, 0), ("u", 1, 16)]);
    kernel.members("nf_conntrack_tuple", 4, 40, &[("src", 3, 0), ("dst", 3, 20)]);
    kernel.members("nf_conntrack_tuple_hash", 4, 56, &[("node", 1, 0), ("tuple", 4, 16)]);
    kernel.array(5, 2);
    kernel.members("seen", 4, 20, &[("flags", 1, 8)]);
    kernel.array(7, 2);
    kernel.members("tcp", 4, 48, &[("seen", 8, 0), ("state", 1, 40)]);
    kernel.members("proto", 5, 48, &[("tcp", 9, 0)]);
    let members = [("status", 1, 128), ("tuplehash", 6, 16), ("", 10, 200), ("proto", 10, 200)];
    kernel.members("nf_conn", 4, 248, &members);
    kernel.members("ns_common", 4, 16, &[("inum", 1, 12)]);
    kernel.members("net", 4, 4096, &[("ns", 12, 136)]);
    kernel.members("sk_buff", 4, 232, &[("", 10, 24), ("_nfct", 1, 104)]);
    kernel.head("char", 1, 0, 1);
    kernel.words(&[8]);
    kernel.array(15, 10);
    kernel.members("nf_ct_ext", 4, 16, &[("offset", 16, 0)]);
    let numbers = ["NF_CT_EXT_HELPER", "NF_CT_EXT_ACCT"].map(|name| kernel.string(name));
    kernel.head("nf_ct_ext_id", 6, 2, 4);
    kernel.words(&[numbers[0], 0, numbers[1], 3]);
    kernel
}

fn seed(base: &[u8], split: &[u8]) -> Vec<u8> {
    let length = u16::try_from(base.len()).unwrap().to_le_bytes();
    [&length[..], base, split].concat()
}

/// The inputs that start the corpus: good ones, and damaged ones of every kind.
fn seeds() -> Vec<(String, Vec<u8>)> {
    let writer = kernel();
    let base = writer.finish();
    let before = writer.strings.len();
    let mut module = Writer { types: Vec::new(), strings: Vec::new(), strings_before: before };
    module.members("nf_conn_acct", 4, 32, &[("counter", 1, 0)]);
    module.members("nf_conn", 4, 256, &[("status", 1, 136), ("tuplehash", 6, 24)]);
    let module = module.finish();

    let mut endless = Writer::base();
    endless.members("", 4, 4, &[("", 1, 0); 200]);
    endless.members("nf_conn", 4, 4, &[("", 1, 0), ("status", 1, 0)]);
    let mut names = Writer::base();
    names.head("nf_conn", 8, 0, 1);
    names.members("nf_ct_ext", 4, 4, &[("offset", 1, 0)]);
    let mut arrays = Writer::base();
    arrays.array(1, u32::MAX);
    arrays.members("nf_conn", 4, 4, &[("tuplehash", 1, 0), ("status", 9, u32::MAX / 8)]);
    let mut unknown = kernel();
    unknown.head("", 27, 0, 0);
    let damaged = |at: usize| {
        let mut bytes = base.clone();
        bytes[at] ^= 0x55;
        bytes
    };
    let all = [
        ("kernel", seed(&base, &[])),
        ("kernel-and-module", seed(&base, &module)),
        ("module-cut", seed(&base, &module[..module.len() - 9])),
        ("module-alone", seed(&module, &[])),
        ("kernel-cut", seed(&base[..base.len() / 2], &[])),
        ("header-only", seed(&base[..24], &[])),
        ("header-damaged", seed(&damaged(9), &[])),
        ("types-damaged", seed(&damaged(100), &[])),
        ("members-damaged", seed(&damaged(260), &module)),
        ("strings-damaged", seed(&damaged(base.len() - 20), &[])),
        ("endless", seed(&endless.finish(), &[])),
        ("names-of-themselves", seed(&names.finish(), &[])),
        ("arrays-of-themselves", seed(&arrays.finish(), &[])),
        ("unknown-kind", seed(&unknown.finish(), &[])),
        ("nothing", vec![0, 0]),
    ];
    all.map(|(name, data)| (name.to_owned(), data)).to_vec()
}

#[test]
fn the_good_seeds_are_read() {
    let (kernel, seeds) = (kernel().finish(), seeds());
    let btf = crate::btf::Btf::parse(&kernel, None).unwrap();
    assert_eq!(btf.member("nf_conn", "tuplehash[1].tuple").unwrap().at, 16 + 56 + 16);
    assert_eq!(btf.member("nf_conn", "proto.tcp.seen[1].flags").unwrap().at, 200 + 20 + 8);
    assert_eq!(btf.member("sk_buff", "_nfct").unwrap().at, 104);
    assert_eq!(btf.enumerator("nf_ct_ext_id", "NF_CT_EXT_ACCT"), Ok(Some(3)));
    let (_, both) = seeds.iter().find(|(name, _)| name == "kernel-and-module").unwrap();
    let (base, split) = both[2..].split_at(kernel.len());
    let btf = crate::btf::Btf::parse(base, Some(split)).unwrap();
    assert_eq!(btf.member("nf_conn", "tuplehash[1].tuple").unwrap().at, 24 + 56 + 16);
}

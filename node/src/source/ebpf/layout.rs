//! Where things lie in the running kernel's conntrack structures: read from its type information
//! or from a file, checked, and used to take entries apart.

use std::path::Path;

use ebpf_abi::{Entry, SPAN_MAX};
use serde::{Deserialize, Serialize};

use super::btf::{Btf, BtfError};

/// Offsets in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// `struct nf_conn`.
    pub nf_conn: ConnLayout,
    /// `struct nf_conntrack_tuple`.
    pub tuple: TupleLayout,
    /// `struct nf_ct_ext`.
    pub nf_ct_ext: ExtLayout,
    /// `net.ns.inum`.
    pub net_inum: u32,
    /// `sk_buff._nfct`.
    pub skb_nfct: u32,
}

/// Offsets in `struct nf_conn`. What a kernel is built without is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnLayout {
    /// Size of the whole.
    pub size: u32,
    /// `ct_general.use`.
    pub references: u32,
    /// `status`.
    pub status: u32,
    /// `tuplehash[0].tuple`.
    pub orig: u32,
    /// `tuplehash[1].tuple`.
    pub reply: u32,
    /// `ct_net.net`.
    pub net: u32,
    /// `ext`.
    pub ext: u32,
    /// `proto.tcp.state`.
    pub tcp_state: u32,
    /// `proto.tcp.seen[0].flags`.
    pub tcp_orig_flags: u32,
    /// `proto.tcp.seen[1].flags`.
    pub tcp_reply_flags: u32,
    /// `mark`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<u32>,
    /// `zone`: an id of 16 bits, then flags and a direction of 8 bits each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<u32>,
}

/// Offsets in `struct nf_conntrack_tuple`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TupleLayout {
    /// `src.u3`.
    pub src: u32,
    /// `src.u`.
    pub sport: u32,
    /// `src.l3num`.
    pub l3num: u32,
    /// `dst.u3`.
    pub dst: u32,
    /// `dst.u`.
    pub dport: u32,
    /// `dst.protonum`.
    pub proto: u32,
    /// `dst.dir`.
    pub dir: u32,
}

/// Offsets in `struct nf_ct_ext`, each of the byte that says where an extension begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtLayout {
    /// `offset[NF_CT_EXT_ACCT]`.
    pub acct: u32,
    /// `offset[NF_CT_EXT_TSTAMP]`.
    pub tstamp: u32,
}

/// Why there is no layout.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A file could not be read.
    #[error("{file} cannot be read")]
    Unreadable {
        /// The file.
        file: String,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// The type information does not say it.
    #[error("{file} does not describe conntrack")]
    Btf {
        /// The file.
        file: String,
        /// What is missing.
        #[source]
        error: BtfError,
    },
    /// The kernel was built without something that is needed.
    #[error("this kernel was built without {what}")]
    Without {
        /// What.
        what: &'static str,
    },
    /// A layout file is not one.
    #[error("{file} is no layout ({problem}); `conntracct-node layout` writes one")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it, in one line: the library's own text shows the place in several.
        problem: String,
    },
    /// An offset lies beyond what is read of an entry.
    #[error("the layout puts {what} at byte {at}, beyond what can be read")]
    Beyond {
        /// What.
        what: &'static str,
        /// Where.
        at: u32,
    },
}

impl Layout {
    /// The running kernel's layout, from `/sys/kernel/btf`.
    ///
    /// # Errors
    /// When the kernel does not describe itself, or lacks something.
    pub fn of_kernel() -> Result<Self, LayoutError> {
        let folder = Path::new("/sys/kernel/btf");
        let module = folder.join("nf_conntrack");
        let module = module.exists().then_some(module);
        Self::of_files(&folder.join("vmlinux"), module.as_deref())
    }

    /// The layout of the kernel that a BTF file describes; `module` is the split part of the
    /// module `nf_conntrack`, where it is one.
    ///
    /// # Errors
    /// When the file is not there, is no BTF, or does not describe conntrack.
    pub fn of_files(base: &Path, module: Option<&Path>) -> Result<Self, LayoutError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| LayoutError::Unreadable {
                file: path.display().to_string(),
                error,
            })
        };
        let bytes = read(base)?;
        let split = module.map(read).transpose()?;
        let file = base.display().to_string();
        let error = |error| LayoutError::Btf { file: file.clone(), error };
        let btf = Btf::parse(&bytes, split.as_deref()).map_err(error)?;
        let ext = Exts::of(&btf).map_err(error)?;
        let (Some(acct), Some(tstamp)) = (ext.acct, ext.tstamp) else {
            let what = match ext.acct {
                None => "connection accounting",
                Some(_) => "connection timestamps (CONFIG_NF_CONNTRACK_TIMESTAMP)",
            };
            return Err(LayoutError::Without { what });
        };
        let layout = Self::of_btf(&btf, ExtLayout { acct, tstamp }).map_err(error)?;
        layout.checked()
    }

    /// The layout in a file that [`Layout::to_toml`] made.
    ///
    /// # Errors
    /// When it cannot be read, or is no layout.
    pub fn of_toml(path: &Path) -> Result<Self, LayoutError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| LayoutError::Unreadable { file: file.clone(), error })?;
        let layout: Self = toml::from_str(&text).map_err(|error| {
            let problem = error.message().replace(char::is_control, " ");
            LayoutError::File { file, problem }
        })?;
        layout.checked()
    }

    /// The layout as a file.
    ///
    /// # Errors
    /// None that is known: numbers in tables are always TOML.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    /// How many bytes of an entry are read.
    #[must_use]
    pub fn span(&self) -> u32 {
        self.places().map(|(_, at, size)| at + size).max().unwrap_or(0)
    }

    fn of_btf(btf: &Btf<'_>, nf_ct_ext: ExtLayout) -> Result<Self, BtfError> {
        let conn = |path: &str| btf.member("nf_conn", path).map(|place| place.at);
        // Without CONFIG_NF_CONNTRACK_MARK, CONFIG_NF_CONNTRACK_ZONES.
        let perhaps = |path: &str| match conn(path) {
            Err(BtfError::NoMember { .. }) => Ok(None),
            other => other.map(Some),
        };
        let tuple = |path: &str| btf.member("nf_conntrack_tuple", path).map(|place| place.at);
        Ok(Self {
            nf_conn: ConnLayout {
                size: btf.size(btf.structure("nf_conn")?)?,
                references: conn("ct_general.use")?,
                status: conn("status")?,
                orig: conn("tuplehash[0].tuple")?,
                reply: conn("tuplehash[1].tuple")?,
                net: conn("ct_net.net")?,
                ext: conn("ext")?,
                tcp_state: conn("proto.tcp.state")?,
                tcp_orig_flags: conn("proto.tcp.seen[0].flags")?,
                tcp_reply_flags: conn("proto.tcp.seen[1].flags")?,
                mark: perhaps("mark")?,
                zone: perhaps("zone.id")?,
            },
            tuple: TupleLayout {
                src: tuple("src.u3")?,
                sport: tuple("src.u")?,
                l3num: tuple("src.l3num")?,
                dst: tuple("dst.u3")?,
                dport: tuple("dst.u")?,
                proto: tuple("dst.protonum")?,
                dir: tuple("dst.dir")?,
            },
            nf_ct_ext,
            net_inum: btf.member("net", "ns.inum")?.at,
            skb_nfct: btf.member("sk_buff", "_nfct")?.at,
        })
    }

    /// Every place in an entry that is read: what, where, how long.
    fn places(&self) -> impl Iterator<Item = (&'static str, u32, u32)> {
        let (conn, tuple) = (self.nf_conn, self.tuple);
        let in_entry = [
            ("nf_conn.ct_general.use", conn.references, 4),
            ("nf_conn.status", conn.status, 8),
            ("nf_conn.ct_net.net", conn.net, 8),
            ("nf_conn.ext", conn.ext, 8),
            ("nf_conn.proto.tcp.state", conn.tcp_state, 1),
            ("nf_conn.proto.tcp.seen[0].flags", conn.tcp_orig_flags, 1),
            ("nf_conn.proto.tcp.seen[1].flags", conn.tcp_reply_flags, 1),
            ("nf_conn.mark", conn.mark.unwrap_or(0), 4),
            ("nf_conn.zone", conn.zone.unwrap_or(0), 4),
        ];
        let in_tuple = [
            ("the tuple's source address", tuple.src, 16),
            ("the tuple's source port", tuple.sport, 2),
            ("the tuple's family", tuple.l3num, 2),
            ("the tuple's destination address", tuple.dst, 16),
            ("the tuple's destination port", tuple.dport, 2),
            ("the tuple's protocol", tuple.proto, 1),
            ("the tuple's direction", tuple.dir, 1),
        ];
        let tuples = [conn.orig, conn.reply].into_iter().flat_map(move |begin| {
            in_tuple.into_iter().map(move |(what, at, size)| (what, begin.saturating_add(at), size))
        });
        in_entry.into_iter().chain(tuples)
    }

    /// The layout, if everything lies within what is read.
    fn checked(self) -> Result<Self, LayoutError> {
        let most = self.nf_conn.size.min(SPAN_MAX_U32);
        if let Some((what, at, _)) =
            self.places().find(|(_, at, size)| at.checked_add(*size).is_none_or(|end| end > most))
        {
            return Err(LayoutError::Beyond { what, at });
        }
        let head = size_of_val(&EMPTY_EXT);
        for (what, at) in [
            ("nf_ct_ext.offset[NF_CT_EXT_ACCT]", self.nf_ct_ext.acct),
            ("nf_ct_ext.offset[NF_CT_EXT_TSTAMP]", self.nf_ct_ext.tstamp),
        ] {
            if at as usize >= head {
                return Err(LayoutError::Beyond { what, at });
            }
        }
        for (what, at) in [("net.ns.inum", self.net_inum), ("sk_buff._nfct", self.skb_nfct)] {
            if at > MAX_STRUCTURE {
                return Err(LayoutError::Beyond { what, at });
            }
        }
        Ok(self)
    }
}

/// Where `nf_ct_ext` says that extensions begin; what the kernel was built without is `None`.
struct Exts {
    acct: Option<u32>,
    tstamp: Option<u32>,
}

impl Exts {
    fn of(btf: &Btf<'_>) -> Result<Self, BtfError> {
        let offsets = btf.member("nf_ct_ext", "offset")?;
        let bytes = match btf.array(offsets.kind)? {
            Some((element, length)) if btf.size(element)? == 1 => length,
            _ => {
                let member = "offset[] of bytes".to_owned();
                return Err(BtfError::NoMember { name: "struct nf_ct_ext".to_owned(), member });
            }
        };
        let at = |name: &str| {
            let id = btf.enumerator("nf_ct_ext_id", name)?;
            Ok(id.filter(|id| *id < bytes).map(|id| offsets.at + id))
        };
        Ok(Self { acct: at("NF_CT_EXT_ACCT")?, tstamp: at("NF_CT_EXT_TSTAMP")? })
    }
}

/// What is copied of an entry's extensions: their offsets.
const EMPTY_EXT: [u8; 16] = [0; 16];
const _: () = assert!(size_of::<Entry>() > size_of_val(&EMPTY_EXT) + SPAN_MAX);

#[expect(clippy::cast_possible_truncation, reason = "256")]
const SPAN_MAX_U32: u32 = SPAN_MAX as u32;

/// No structure of the kernel's is longer: a longer offset is a mistake.
const MAX_STRUCTURE: u32 = 64 << 10;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What `pahole` says of Linux 6.12 in Debian 13.
    pub(crate) fn linux_6_12() -> Layout {
        Layout {
            nf_conn: ConnLayout {
                size: 248,
                references: 0,
                status: 128,
                orig: 24,
                reply: 80,
                net: 136,
                ext: 176,
                tcp_state: 224,
                tcp_orig_flags: 201,
                tcp_reply_flags: 221,
                mark: Some(168),
                zone: Some(12),
            },
            tuple: TupleLayout {
                src: 0,
                sport: 16,
                l3num: 18,
                dst: 20,
                dport: 36,
                proto: 38,
                dir: 39,
            },
            nf_ct_ext: ExtLayout { acct: 3, tstamp: 5 },
            net_inum: 148,
            skb_nfct: 104,
        }
    }

    #[test]
    fn a_file_is_read_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("layout.toml");
        let layout = linux_6_12();
        std::fs::write(&file, layout.to_toml().unwrap()).unwrap();
        assert_eq!(Layout::of_toml(&file).unwrap(), layout);
        assert_eq!(layout.span(), 225);
        std::fs::write(&file, "net_inum = 3\n").unwrap();
        let error = Layout::of_toml(&file).unwrap_err();
        assert!(matches!(error, LayoutError::File { .. }), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }

    #[test]
    fn what_lies_beyond_is_refused() {
        let beyond = |change: fn(&mut Layout)| {
            let mut layout = linux_6_12();
            change(&mut layout);
            matches!(layout.checked(), Err(LayoutError::Beyond { .. }))
        };
        assert!(!beyond(|_| {}));
        assert!(beyond(|l| l.nf_conn.ext = 241));
        assert!(beyond(|l| l.nf_conn.reply = 220));
        assert!(beyond(|l| l.nf_conn.reply = u32::MAX));
        assert!(beyond(|l| l.nf_conn.mark = Some(300)));
        assert!(beyond(|l| l.nf_ct_ext.tstamp = 16));
        assert!(beyond(|l| l.net_inum = 1 << 20));
    }

    #[test]
    fn the_running_kernel_describes_conntrack() {
        let file = Path::new("/sys/kernel/btf/vmlinux");
        let module = Path::new("/sys/kernel/btf/nf_conntrack");
        if !file.exists()
            || (!module.exists() && Path::new("/sys/module/nf_conntrack/sections").exists())
        {
            return;
        }
        let layout = Layout::of_kernel().unwrap();
        assert_eq!(layout.nf_conn.reply - layout.nf_conn.orig, 56, "{layout:?}");
        assert!((184..=256).contains(&layout.nf_conn.size), "{layout:?}");
    }
}

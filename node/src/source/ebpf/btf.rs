//! The kernel's type information (BTF): a pure reader of offsets, over bytes.
//!
//! One object is the base (`vmlinux`); a module's may stand on it ("split"): strings and types
//! from the base's ends on are then the module's. Format: `Documentation/bpf/btf.rst` and
//! `include/uapi/linux/btf.h` in the kernel. The bytes may come from a file that a user gives:
//! every length is checked, nothing is followed without a bound.

use std::ops::Range;

/// A type's number; 0 is `void`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeId(u32);

/// A member of a structure: where it lies, in bytes, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Bytes from the structure's beginning.
    pub at: u32,
    /// Its type.
    pub kind: TypeId,
}

/// Why type information could not be read, or does not say what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// Not BTF, or cut, or of another byte order.
    #[error("it is no BTF of this machine's byte order")]
    Header,
    /// A type of a kind that this reader does not know, so the next one's place is unknown.
    #[error("type {id} has the unknown kind {kind}")]
    Kind {
        /// The type.
        id: u32,
        /// Its kind.
        kind: u32,
    },
    /// A type or string that ends beyond the end.
    #[error("type {id} is cut")]
    Cut {
        /// The type.
        id: u32,
    },
    /// Unnamed structures within each other without an end.
    #[error("type {id} has more members within it than any structure of a kernel")]
    Endless {
        /// The type.
        id: u32,
    },
    /// There is no such structure or enumeration.
    #[error("there is no {name}")]
    NoType {
        /// What was looked for.
        name: String,
    },
    /// The structure has no such member.
    #[error("{name} has no member {member}")]
    NoMember {
        /// The structure.
        name: String,
        /// The member that was looked for.
        member: String,
    },
}

/// Type information, with its types' places.
pub struct Btf<'a> {
    base: Part<'a>,
    split: Option<Part<'a>>,
}

struct Part<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins in `types`.
    starts: Vec<u32>,
}

/// A type's head and what follows it.
#[derive(Clone, Copy)]
struct Type<'a> {
    name: u32,
    kind: u32,
    /// Members, values or parameters.
    count: usize,
    flag: bool,
    /// Size or type, depending on the kind.
    size: u32,
    rest: &'a [u8],
}

impl<'a> Btf<'a> {
    /// Reads a base, and a module's part that stands on it.
    ///
    /// # Errors
    /// When either is not whole and sound BTF.
    pub fn parse(base: &'a [u8], split: Option<&'a [u8]>) -> Result<Self, BtfError> {
        let base = Part::parse(base, 1)?;
        let first = base.starts.len() as u64 + 1;
        let first = u32::try_from(first).map_err(|_too_many| BtfError::Header)?;
        let split = split.map(|bytes| Part::parse(bytes, first)).transpose()?;
        Ok(Self { base, split })
    }

    /// The structure with this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn structure(&self, name: &str) -> Result<TypeId, BtfError> {
        self.named(name, &[STRUCT])
            .ok_or_else(|| BtfError::NoType { name: format!("struct {name}") })
    }

    /// The value of an enumerator; `None` where the enumeration has none of this name.
    ///
    /// # Errors
    /// When there is no such enumeration.
    pub fn enumerator(&self, name: &str, value: &str) -> Result<Option<u32>, BtfError> {
        let id = self
            .named(name, &[ENUM])
            .ok_or_else(|| BtfError::NoType { name: format!("enum {name}") })?;
        let found = self.get(id)?;
        let values = found.rest.chunks_exact(8).take(found.count);
        let mut values = values.map(|value| (number(value, 0), number(value, 4)));
        Ok(values.find(|(name, _)| self.is_string(*name, value)).map(|(_, value)| value))
    }

    /// The member at a path like `tuplehash[1].tuple.dst.u3`; unnamed structures and unions on
    /// the way are looked through.
    ///
    /// # Errors
    /// When there is no such member, or it does not begin at a byte.
    pub fn member(&self, structure: &str, path: &str) -> Result<Place, BtfError> {
        let missing =
            || BtfError::NoMember { name: format!("struct {structure}"), member: path.to_owned() };
        let mut place = Place { at: 0, kind: self.structure(structure)? };
        let mut looks = MEMBERS;
        for step in path.split('.') {
            let (name, index) = match step.split_once('[') {
                Some((name, index)) => {
                    let index = index.strip_suffix(']').and_then(|text| text.parse::<u32>().ok());
                    (name, Some(index.ok_or_else(missing)?))
                }
                None => (step, None),
            };
            let found = self.find(place.kind, name, DEPTH, &mut looks)?.ok_or_else(missing)?;
            place = Place { at: place.at.checked_add(found.at).ok_or_else(missing)?, ..found };
            if let Some(index) = index {
                let (element, length) = self.array(place.kind)?.ok_or_else(missing)?;
                let offset = self.size(element)?.checked_mul(index).filter(|_| index < length);
                let at = offset.and_then(|offset| place.at.checked_add(offset));
                place = Place { at: at.ok_or_else(missing)?, kind: element };
            }
        }
        Ok(place)
    }

    /// The element type and length of an array; `None` where it is none.
    ///
    /// # Errors
    /// When the type is not sound.
    pub fn array(&self, id: TypeId) -> Result<Option<(TypeId, u32)>, BtfError> {
        let (_, found) = self.resolve(id)?;
        if found.kind != ARRAY || found.rest.len() < 12 {
            return Ok(None);
        }
        Ok(Some((TypeId(number(found.rest, 0)), number(found.rest, 8))))
    }

    /// A type's size in bytes.
    ///
    /// # Errors
    /// When the type has none, or is not sound.
    pub fn size(&self, id: TypeId) -> Result<u32, BtfError> {
        let (id, found) = self.resolve(id)?;
        let cut = BtfError::Cut { id: id.0 };
        match found.kind {
            INT | STRUCT | UNION | ENUM | FLOAT | ENUM64 => Ok(found.size),
            PTR => Ok(8),
            ARRAY => {
                let (element, length) = self.array(id)?.ok_or_else(|| cut.clone())?;
                // An array of arrays is as deep as the kernel's code is: two.
                let (_, inner) = self.resolve(element)?;
                let size = if inner.kind == PTR { 8 } else { inner.size };
                let size = if inner.kind == ARRAY { None } else { size.checked_mul(length) };
                size.ok_or(cut)
            }
            _ => Err(cut),
        }
    }

    /// The member of a structure, or of an unnamed one within it; `looks` is how many members may
    /// yet be looked at.
    fn find(
        &self,
        id: TypeId,
        name: &str,
        depth: u32,
        looks: &mut u32,
    ) -> Result<Option<Place>, BtfError> {
        let (_, found) = self.resolve(id)?;
        if !matches!(found.kind, STRUCT | UNION) || depth == 0 {
            return Ok(None);
        }
        for member in found.rest.chunks_exact(12).take(found.count) {
            *looks = looks.checked_sub(1).ok_or(BtfError::Endless { id: id.0 })?;
            let (named, kind) = (number(member, 0), TypeId(number(member, 4)));
            // With the flag set, the upper 8 bits are a bit field's width.
            let bits = number(member, 8) & if found.flag { 0x00ff_ffff } else { u32::MAX };
            let at = bits / 8;
            if named != 0 && self.is_string(named, name) {
                return Ok(bits.is_multiple_of(8).then_some(Place { at, kind }));
            }
            if named == 0
                && let Some(inner) = self.find(kind, name, depth - 1, looks)?
            {
                let at = at.checked_add(inner.at).ok_or(BtfError::Cut { id: id.0 })?;
                return Ok(Some(Place { at, ..inner }));
            }
        }
        Ok(None)
    }

    /// Follows names and qualifiers to the type itself.
    fn resolve(&self, id: TypeId) -> Result<(TypeId, Type<'a>), BtfError> {
        let mut id = id;
        for _ in 0..DEPTH {
            let found = self.get(id)?;
            match found.kind {
                TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => id = TypeId(found.size),
                _ => return Ok((id, found)),
            }
        }
        Err(BtfError::Cut { id: id.0 })
    }

    fn get(&self, id: TypeId) -> Result<Type<'a>, BtfError> {
        let cut = BtfError::Cut { id: id.0 };
        let index = (id.0 as usize).checked_sub(1).ok_or_else(|| cut.clone())?;
        let (part, index) = match index.checked_sub(self.base.starts.len()) {
            None => (Some(&self.base), index),
            Some(index) => (self.split.as_ref(), index),
        };
        part.and_then(|part| part.get(index)).ok_or(cut)
    }

    /// The first type of one of these kinds with this name; the module's before the base's.
    fn named(&self, name: &str, kinds: &[u32]) -> Option<TypeId> {
        let base = self.base.starts.len();
        let parts = [(self.split.as_ref(), base), (Some(&self.base), 0)];
        parts.into_iter().find_map(|(part, before)| {
            let part = part?;
            let is_it = |index: &usize| {
                part.get(*index).is_some_and(|found| {
                    kinds.contains(&found.kind) && self.is_string(found.name, name)
                })
            };
            let index = (0..part.starts.len()).find(is_it)?;
            u32::try_from(before + index + 1).ok().map(TypeId)
        })
    }

    fn is_string(&self, at: u32, text: &str) -> bool {
        let at = at as usize;
        let bytes = match at.checked_sub(self.base.strings.len()) {
            None => self.base.strings.get(at..),
            Some(at) => self.split.as_ref().and_then(|split| split.strings.get(at..)),
        };
        bytes.is_some_and(|bytes| {
            bytes.starts_with(text.as_bytes()) && bytes.get(text.len()) == Some(&0)
        })
    }
}

impl<'a> Part<'a> {
    fn parse(bytes: &'a [u8], first: u32) -> Result<Self, BtfError> {
        if bytes.len() < HEADER || bytes[..2] != MAGIC.to_ne_bytes() || bytes[2] != 1 {
            return Err(BtfError::Header);
        }
        let header = number(bytes, 4);
        let section = |offset: usize, length: usize| {
            let begin = u64::from(header) + u64::from(number(bytes, offset));
            let end = begin + u64::from(number(bytes, length));
            let range =
                Range { start: usize::try_from(begin).ok()?, end: usize::try_from(end).ok()? };
            bytes.get(range)
        };
        let types = section(8, 12).ok_or(BtfError::Header)?;
        let strings = section(16, 20).ok_or(BtfError::Header)?;
        let mut starts = Vec::new();
        let mut at = 0;
        while at < types.len() {
            let id = first.wrapping_add(u32::try_from(starts.len()).unwrap_or(u32::MAX));
            let cut = BtfError::Cut { id };
            let head = types.get(at..at + TYPE).ok_or_else(|| cut.clone())?;
            let length = TYPE + follow(id, number(head, 4))?;
            starts.push(u32::try_from(at).map_err(|_too_long| cut.clone())?);
            at += length;
            if at > types.len() {
                return Err(cut);
            }
        }
        Ok(Self { types, strings, starts })
    }

    fn get(&self, index: usize) -> Option<Type<'a>> {
        let at = *self.starts.get(index)? as usize;
        let head = self.types.get(at..at + TYPE)?;
        let info = number(head, 4);
        let length = follow(0, info).ok()?;
        let rest = self.types.get(at + TYPE..at + TYPE + length)?;
        Some(Type {
            name: number(head, 0),
            kind: info >> 24 & 0x1f,
            count: (info & 0xffff) as usize,
            flag: info >> 31 != 0,
            size: number(head, 8),
            rest,
        })
    }
}

/// Bytes that follow a type's head.
fn follow(id: u32, info: u32) -> Result<usize, BtfError> {
    let count = (info & 0xffff) as usize;
    match info >> 24 & 0x1f {
        PTR | FWD | TYPEDEF | VOLATILE | CONST | RESTRICT | FUNC | FLOAT | TYPE_TAG => Ok(0),
        INT | VAR | DECL_TAG => Ok(4),
        ARRAY => Ok(12),
        STRUCT | UNION | DATASEC | ENUM64 => Ok(12 * count),
        ENUM | FUNC_PROTO => Ok(8 * count),
        kind => Err(BtfError::Kind { id, kind }),
    }
}

/// The 32-bit number at `at`, 0 where the bytes end before.
fn number(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    four.map_or(0, |four| u32::from_ne_bytes(*four))
}

/// Names, qualifiers and unnamed structures within each other; the kernel has a handful.
const DEPTH: u32 = 16;

/// Members that are looked at for one question. The longest way in a kernel is a few hundred.
const MEMBERS: u32 = 100_000;

const MAGIC: u16 = 0xeb9f;
/// `struct btf_header`, `struct btf_type`.
const HEADER: usize = 24;
const TYPE: usize = 12;

// `BTF_KIND_*`
const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FWD: u32 = 7;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const FLOAT: u32 = 16;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Writes type information: heads and what follows them, and strings.
    #[derive(Default)]
    struct Writer {
        types: Vec<u8>,
        strings: Vec<u8>,
        /// What a base has, for a split part.
        strings_before: usize,
    }

    impl Writer {
        fn new() -> Self {
            Self { strings: vec![0], ..Self::default() }
        }

        fn string(&mut self, text: &str) -> u32 {
            let at = self.strings_before + self.strings.len();
            self.strings.extend(text.as_bytes());
            self.strings.push(0);
            u32::try_from(at).unwrap()
        }

        fn head(&mut self, name: u32, kind: u32, count: usize, flag: bool, size: u32) {
            let info = kind << 24 | u32::try_from(count).unwrap() | u32::from(flag) << 31;
            for word in [name, info, size] {
                self.words(&[word]);
            }
        }

        fn words(&mut self, words: &[u32]) {
            words.iter().for_each(|word| self.types.extend(word.to_ne_bytes()));
        }

        fn structure(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) {
            let name = if name.is_empty() { 0 } else { self.string(name) };
            let names: Vec<u32> = members
                .iter()
                .map(|(name, ..)| if name.is_empty() { 0 } else { self.string(name) })
                .collect();
            self.head(name, STRUCT, members.len(), false, size);
            for (name, (_, kind, at)) in names.into_iter().zip(members) {
                self.words(&[name, *kind, at * 8]);
            }
        }

        fn finish(&self) -> Vec<u8> {
            let mut bytes = Vec::new();
            bytes.extend(MAGIC.to_ne_bytes());
            bytes.extend([1, 0]);
            let (types, strings) = (self.types.len(), self.strings.len());
            for word in [24, 0, types, types, strings] {
                bytes.extend(u32::try_from(word).unwrap().to_ne_bytes());
            }
            bytes.extend(&self.types);
            bytes.extend(&self.strings);
            bytes
        }
    }

    /// 1 int, 2 inner {int x, y}, 3 unnamed {int deep}, 4 inner[2], 5 outer, 6 colours
    fn base() -> Writer {
        let mut writer = Writer::new();
        let name = writer.string("int");
        writer.head(name, INT, 0, false, 4);
        writer.words(&[32]);
        writer.structure("inner", 8, &[("x", 1, 0), ("y", 1, 4)]);
        writer.structure("", 4, &[("deep", 1, 0)]);
        writer.head(0, ARRAY, 0, false, 0);
        writer.words(&[2, 1, 2]);
        writer.structure("outer", 24, &[("", 3, 0), ("list", 4, 4), ("last", 1, 20)]);
        let (name, red, blue) =
            (writer.string("colours"), writer.string("RED"), writer.string("BLUE"));
        writer.head(name, ENUM, 2, false, 4);
        writer.words(&[red, 3, blue, 7]);
        writer
    }

    #[test]
    fn members_are_found_through_arrays_and_unnamed_structures() {
        let bytes = base().finish();
        let btf = Btf::parse(&bytes, None).unwrap();
        let at = |path| btf.member("outer", path).map(|place| place.at);
        assert_eq!(at("deep"), Ok(0));
        assert_eq!(at("list"), Ok(4));
        assert_eq!(at("list[1].y"), Ok(16));
        assert_eq!(at("last"), Ok(20));
        assert_eq!(btf.size(btf.structure("outer").unwrap()), Ok(24));
        assert_eq!(btf.size(btf.member("outer", "list").unwrap().kind), Ok(16));
        assert!(matches!(at("list[2].y"), Err(BtfError::NoMember { .. })));
        assert!(matches!(at("inner"), Err(BtfError::NoMember { .. })));
        assert!(matches!(btf.structure("nothing"), Err(BtfError::NoType { .. })));
        assert_eq!(btf.enumerator("colours", "BLUE"), Ok(Some(7)));
        assert_eq!(btf.enumerator("colours", "GREEN"), Ok(None));
    }

    #[test]
    fn a_module_stands_on_the_base() {
        let base = base();
        let mut split = Writer { strings_before: base.strings.len(), ..Writer::default() };
        // 7 in the whole numbering; its member is the base's type 5.
        split.structure("of_module", 32, &[("own", 5, 8)]);
        let (base, split) = (base.finish(), split.finish());
        let btf = Btf::parse(&base, Some(&split)).unwrap();
        assert_eq!(btf.member("of_module", "own.list[1].x").unwrap().at, 8 + 12);
        assert_eq!(btf.member("outer", "last").unwrap().at, 20);
        assert!(Btf::parse(&base, None).unwrap().structure("of_module").is_err());
    }

    #[test]
    fn what_is_unknown_ends_with_an_error() {
        let mut writer = base();
        writer.head(0, 27, 0, false, 0);
        let error = Btf::parse(&writer.finish(), None).err();
        assert_eq!(error, Some(BtfError::Kind { id: 7, kind: 27 }));
        assert_eq!(Btf::parse(b"\x7fELF", None).err(), Some(BtfError::Header));
        // A name for itself.
        let mut writer = Writer::new();
        let name = writer.string("loop");
        writer.head(name, TYPEDEF, 0, false, 1);
        let bytes = writer.finish();
        assert!(Btf::parse(&bytes, None).unwrap().size(TypeId(1)).is_err());
    }

    #[test]
    fn structures_that_hold_themselves_end_with_an_error() {
        let mut writer = Writer::new();
        // An unnamed structure of a thousand unnamed members, each of which is itself.
        writer.structure("", 4, &[("", 1, 0); 1_000]);
        writer.structure("all", 4, &[("", 1, 0)]);
        let bytes = writer.finish();
        let found = Btf::parse(&bytes, None).unwrap().member("all", "x");
        assert!(matches!(found, Err(BtfError::Endless { .. })), "{found:?}");
    }

    proptest! {
        #[test]
        fn damage_never_panics(at in 0usize..400, with in any::<[u8; 4]>(), cut in 0usize..500) {
            let mut bytes = base().finish();
            for (place, byte) in bytes.iter_mut().skip(at).zip(with) {
                *place = byte;
            }
            bytes.truncate(cut);
            if let Ok(btf) = Btf::parse(&bytes, None) {
                let _ = btf.member("outer", "list[1].y");
                let _ = btf.enumerator("colours", "BLUE");
                let _ = btf.structure("outer").and_then(|outer| btf.size(outer));
            }
        }
    }
}

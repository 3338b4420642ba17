//! What the operator wrote: each rule's text and where it stands, for records and explanations.

use std::cmp::Ordering;
use std::fmt;

use super::rule::RuleId;

/// Longest text of a rule, in bytes. The longest name in its own script is not a third as long.
const MAX_TEXT_BYTES: u16 = 4095;
/// Most files, flags and variables of one policy.
pub(crate) const MAX_SOURCES: usize = 65_535;

const FLAG_DENIES: u16 = 1 << 15;
/// The text is the rule's base name, which the name table has already.
const FLAG_IS_BASE: u16 = 1 << 14;
const LEN_BITS: u16 = 0xfff;

const _: () =
    assert!(MAX_TEXT_BYTES & (FLAG_DENIES | FLAG_IS_BASE) == 0 && MAX_TEXT_BYTES <= LEN_BITS);

/// A rule as the operator wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleInfo<'p> {
    /// The target as written, such as `*.example.org` or `db.corp.example:5432`.
    pub text: &'p str,
    /// Where it stands.
    pub source: RuleSource<'p>,
    /// Whether it denies.
    pub denies: bool,
}

/// Where a rule stands: shown as `file:line`, or as the flag `--allow x`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleSource<'p> {
    /// The file, or the whole flag.
    pub path: &'p str,
    /// The line, from 1; 0 for a flag.
    pub line: u32,
}

impl fmt::Display for RuleSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(self.path),
            line => write!(f, "{}:{line}", self.path),
        }
    }
}

/// A place that has no line.
impl<'p> From<&'p str> for RuleSource<'p> {
    fn from(path: &'p str) -> RuleSource<'p> {
        RuleSource { path, line: 0 }
    }
}

/// Where a rule was written: the source's number, and the line, 0 for a flag.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub source: u16,
    pub line: u32,
}

/// Texts and places of all rules: twelve bytes a rule, and the text only where it is not simply the
/// name.
#[derive(Debug, Default)]
pub(crate) struct Infos {
    rows: Vec<Info>,
    texts: String,
    sources: Vec<Box<str>>,
}

#[derive(Clone, Copy, Debug)]
struct Info {
    /// Where the text begins: in `texts`, or in the name table.
    at: u32,
    line: u32,
    source: u16,
    len: u16,
}

const _: () = assert!(size_of::<Info>() == 12, "a million rules should stay small");

impl Infos {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// All texts; only while rules are added.
    pub fn texts(&self) -> &str {
        &self.texts
    }

    /// Adds a text that is no rule's own, and returns where it begins.
    pub fn text(&mut self, text: &str) -> Result<u32, String> {
        let at = u32::try_from(self.texts.len())
            .map_err(|_| "the texts of all rules together are too long".to_owned())?;
        self.texts.push_str(text);
        Ok(at)
    }

    /// Adds a rule; returns where its text begins.
    pub fn push(
        &mut self,
        text: &str,
        Place { source, line }: Place,
        denies: bool,
    ) -> Result<(RuleId, u32), String> {
        let id = u32::try_from(self.rows.len()).map_err(|_| "too many rules".to_owned())?;
        let len = u16::try_from(text.len())
            .ok()
            .filter(|len| *len <= MAX_TEXT_BYTES);
        let len = len.ok_or_else(|| format!("a rule is longer than {MAX_TEXT_BYTES} bytes"))?;
        let at = self.text(text)?;
        self.rows.push(Info {
            at,
            line,
            source,
            len: if denies { len | FLAG_DENIES } else { len },
        });
        Ok((RuleId(id), at))
    }

    /// Orders two rules by what is written and where.
    pub fn order(&self, sources: &[Box<str>], a: RuleId, b: RuleId) -> Ordering {
        let key = |id: RuleId| {
            let info = self.rows.get(id.0 as usize)?;
            let path = sources.get(usize::from(info.source))?;
            Some((self.own_text(*info), path, info.line, id))
        };
        key(a).cmp(&key(b))
    }

    fn own_text(&self, info: Info) -> &str {
        let at = info.at as usize;
        let len = usize::from(info.len & LEN_BITS);
        self.texts.get(at..at + len).unwrap_or_default()
    }

    /// Drops the texts that the name table has as well; `places` says where they lie there,
    /// [`NOT_A_NAME`] for the others.
    pub fn settle(&mut self, places: &[u32], sources: Vec<Box<str>>) {
        let all = std::mem::take(&mut self.texts);
        for (info, &place) in self.rows.iter_mut().zip(places) {
            if place != NOT_A_NAME {
                info.at = place;
                info.len |= FLAG_IS_BASE;
                continue;
            }
            let at = info.at as usize;
            let text = all.get(at..at + usize::from(info.len & LEN_BITS));
            // no longer than it was
            info.at = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
            self.texts.push_str(text.unwrap_or_default());
        }
        self.rows.shrink_to_fit();
        self.texts.shrink_to_fit();
        self.sources = sources;
    }

    /// A rule's text and source; `base` finds a text in the name table.
    pub fn get<'p>(
        &'p self,
        id: RuleId,
        base: impl FnOnce(usize, usize) -> &'p str,
    ) -> Option<RuleInfo<'p>> {
        let info = *self.rows.get(id.0 as usize)?;
        let text = if info.len & FLAG_IS_BASE != 0 {
            base(info.at as usize, usize::from(info.len & LEN_BITS))
        } else {
            self.own_text(info)
        };
        let path = self.sources.get(usize::from(info.source))?;
        Some(RuleInfo {
            text,
            source: RuleSource {
                path,
                line: info.line,
            },
            denies: info.len & FLAG_DENIES != 0,
        })
    }
}

/// The place of a text that is not its rule's base name.
pub(crate) const NOT_A_NAME: u32 = u32::MAX;

//! A scenario file as a tree of lines: what is indented below a line belongs to it.

use std::time::Duration;

/// One line and what stands below it.
#[derive(Clone, Debug)]
pub struct Line {
    pub number: usize,
    pub text: String,
    pub below: Vec<Line>,
}

impl Line {
    /// The line's words.
    pub fn words(&self) -> Vec<&str> {
        self.text.split_whitespace().collect()
    }

    /// Fails, naming the line.
    pub fn wrong(&self, why: impl std::fmt::Display) -> ! {
        panic!("line {}: `{}`: {why}", self.number, self.text)
    }
}

/// Reads a file: the sentence of intent at its top, and its lines.
pub fn read(text: &str) -> (String, Vec<Line>) {
    let (mut intent, mut flat) = (String::new(), Vec::new());
    for (index, raw) in text.lines().enumerate() {
        let trimmed = raw.trim_end();
        if let Some(comment) = trimmed.trim_start().strip_prefix('#') {
            if flat.is_empty() {
                intent.push_str(comment);
            }
        } else if !trimmed.is_empty() {
            let text = trimmed.trim_start();
            let depth = trimmed.len() - text.len();
            flat.push((depth, index + 1, text.to_owned()));
        }
    }
    let mut rest = flat.into_iter().peekable();
    let lines = block(&mut rest, 0);
    if let Some((_, number, text)) = rest.next() {
        panic!("line {number}: `{text}`: indented less than what is above it");
    }
    (intent.trim().to_owned(), lines)
}

type Flat = std::iter::Peekable<std::vec::IntoIter<(usize, usize, String)>>;

fn block(rest: &mut Flat, depth: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    while let Some((_, number, text)) = rest.next_if(|(at, ..)| *at == depth) {
        let below = match rest.peek() {
            Some((deeper, ..)) if *deeper > depth => {
                let deeper = *deeper;
                block(rest, deeper)
            }
            _ => Vec::new(),
        };
        lines.push(Line {
            number,
            text,
            below,
        });
    }
    lines
}

/// `300 ms`, `2 s`, `5 min`, `24 h`; several are added up: `1 min 500 ms`.
pub fn duration(line: &Line, words: &[&str]) -> Duration {
    let mut total = Duration::ZERO;
    for pair in words.chunks(2) {
        let number: u64 = match pair[0].parse() {
            Ok(number) => number,
            Err(_) => line.wrong("a number was expected"),
        };
        total += match pair.get(1) {
            Some(&"ms") => Duration::from_millis(number),
            Some(&"s") => Duration::from_secs(number),
            Some(&"min") => Duration::from_secs(number * 60),
            Some(&"h") => Duration::from_secs(number * 3_600),
            _ => line.wrong("a time is a number and ms, s, min or h"),
        };
    }
    total
}

/// One byte of a message, or a place where several will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Byte {
    Is(u8),
    /// A letter of a name: upper case is the same.
    Letter(u8),
    Any,
}

impl Byte {
    pub fn fits(self, byte: u8) -> bool {
        match self {
            Byte::Is(exactly) => byte == exactly,
            Byte::Letter(letter) => byte.eq_ignore_ascii_case(&letter),
            Byte::Any => true,
        }
    }

    /// For a message to be sent: every byte is known.
    pub fn known(self, line: &Line) -> u8 {
        match self {
            Byte::Is(byte) | Byte::Letter(byte) => byte,
            Byte::Any => line.wrong("`xx` stands for no byte that could be sent"),
        }
    }
}

/// Bytes: `01ff` in hexadecimal, `xx` for any, `"www"` a label behind its length, `.` the root that
/// ends a name, `'text'` as it stands, `|` nothing.
pub fn bytes(line: &Line, words: &[&str]) -> Vec<Byte> {
    let mut out = Vec::new();
    for word in words {
        if let Some(label) = quoted(word, '"') {
            out.push(Byte::Is(label.len() as u8));
            out.extend(label.bytes().map(Byte::Letter));
        } else if let Some(text) = quoted(word, '\'') {
            out.extend(text.bytes().map(Byte::Is));
        } else if *word == "." {
            out.push(Byte::Is(0));
        } else if *word != "|" {
            for pair in word.as_bytes().chunks(2) {
                let pair = std::str::from_utf8(pair).unwrap_or_default();
                out.push(match (pair, u8::from_str_radix(pair, 16)) {
                    ("xx", _) => Byte::Any,
                    (_, Ok(byte)) if pair.len() == 2 => Byte::Is(byte),
                    _ => line.wrong(format!("`{word}` is not hexadecimal")),
                });
            }
        }
    }
    out
}

/// What stands between two marks.
pub fn quoted(word: &str, mark: char) -> Option<&str> {
    word.strip_prefix(mark)?.strip_suffix(mark)
}

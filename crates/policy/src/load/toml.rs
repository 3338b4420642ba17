//! TOML policies, with the span of every key and value.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::{Entry, MAX_DEPTH, Node, SyntaxError, Value};
use super::source::SourceId;

pub(super) fn parse(source: SourceId, text: &str) -> Result<Node, Vec<SyntaxError>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let errors = errors.iter().map(|error| syntax_error(source, error));
    let mut errors: Vec<_> = errors.collect();
    let place = source.at(table.span());
    match table_value(source, table.get_ref(), 0) {
        Ok(value) if errors.is_empty() => return Ok(Node { place, value }),
        Ok(_) => {}
        Err(error) => errors.push(error),
    }
    Err(errors)
}

fn syntax_error(source: SourceId, error: &toml::de::Error) -> SyntaxError {
    let message = match error.message() {
        message if message.starts_with("invalid unquoted key") => {
            "a name with a `*` must be quoted: \"*.example.org\""
        }
        message => message,
    };
    SyntaxError {
        place: source.at(error.span().unwrap_or(0..0)),
        message: message.to_owned(),
    }
}

fn table_value(source: SourceId, table: &DeTable<'_>, depth: usize) -> Result<Value, SyntaxError> {
    let mut entries = Vec::with_capacity(table.len());
    for (key, value) in table {
        entries.push(Entry {
            place: source.at(key.span()),
            key: key.get_ref().clone().into_owned(),
            node: node(source, value, depth + 1)?,
        });
    }
    entries.sort_by_key(|entry| entry.place.start);
    Ok(Value::Table(entries))
}

fn node(
    source: SourceId,
    spanned: &Spanned<DeValue<'_>>,
    depth: usize,
) -> Result<Node, SyntaxError> {
    let place = source.at(spanned.span());
    if depth > MAX_DEPTH {
        return Err(SyntaxError::too_deep(place));
    }
    let value = match spanned.get_ref() {
        DeValue::String(text) => Value::Text(text.clone().into_owned()),
        DeValue::Integer(number) => {
            let number = i64::from_str_radix(number.as_str(), number.radix());
            number.map_or(Value::Other("a number that is too large"), Value::Integer)
        }
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Boolean(truth) => Value::Bool(*truth),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(list) => {
            let items = list.iter().map(|item| node(source, item, depth + 1));
            Value::List(items.collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => table_value(source, table, depth)?,
    };
    Ok(Node { place, value })
}

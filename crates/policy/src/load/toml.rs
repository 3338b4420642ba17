//! TOML policies, with the span of every key and value.

use toml::de::{DeTable, DeValue};

use super::document::{Key, MAX_DEPTH, Node, SyntaxError, Value};

type Spanned<T> = toml::Spanned<T>;

pub(super) fn parse(text: &str) -> Result<Node, Vec<SyntaxError>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut errors: Vec<_> = errors.iter().map(syntax_error).collect();
    let span = table.span();
    match table_value(table.get_ref(), 0) {
        Ok(value) if errors.is_empty() => return Ok(Node { span, value }),
        Ok(_) => {}
        Err(error) => errors.push(error),
    }
    Err(errors)
}

fn syntax_error(error: &toml::de::Error) -> SyntaxError {
    let message = match error.message() {
        message if message.starts_with("invalid unquoted key") => {
            "a name with a `*` is written in quotes: \"*.example.org\""
        }
        message => message,
    };
    SyntaxError {
        span: error.span().unwrap_or(0..0),
        message: message.to_owned(),
    }
}

fn table_value(table: &DeTable<'_>, depth: usize) -> Result<Value, SyntaxError> {
    let mut entries = Vec::with_capacity(table.len());
    for (key, value) in table {
        let key = Key {
            span: key.span(),
            text: key.get_ref().clone().into_owned(),
        };
        entries.push((key, node(value, depth + 1)?));
    }
    entries.sort_by_key(|(key, _)| key.span.start);
    Ok(Value::Table(entries))
}

fn node(spanned: &Spanned<DeValue<'_>>, depth: usize) -> Result<Node, SyntaxError> {
    let span = spanned.span();
    if depth > MAX_DEPTH {
        return Err(SyntaxError {
            span,
            message: "this is nested too deeply".into(),
        });
    }
    let value = match spanned.get_ref() {
        DeValue::String(text) => Value::Text(text.clone().into_owned()),
        DeValue::Integer(number) => {
            let digits = number.as_str();
            match i64::from_str_radix(digits, number.radix()) {
                Ok(number) => Value::Integer(number),
                Err(_) => Value::Other("a number that is too large"),
            }
        }
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Boolean(truth) => Value::Bool(*truth),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(list) => Value::List(
            list.iter()
                .map(|item| node(item, depth + 1))
                .collect::<Result<_, _>>()?,
        ),
        DeValue::Table(table) => table_value(table, depth)?,
    };
    Ok(Node { span, value })
}

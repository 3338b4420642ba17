//! What the program is told inside an inspected connection: the same words as everywhere
//! (`refuse`), as an answer of the protocol that is spoken there.

use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONNECTION, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode, Version};

use super::body::Down;
use crate::refuse::{Format, Refusal};

/// Fields of a refusal; there are fewer.
const MAX_REFUSAL_FIELDS: usize = 16;

/// A refusal as an answer to this request. In HTTP/1.1 the connection ends with it, as on every
/// other way in; in HTTP/2 the stream does.
pub(super) fn answer(
    refusal: &Refusal<'_>,
    method: &Method,
    version: Version,
    fields: &HeaderMap,
) -> Response<Down> {
    let accept = fields.get(ACCEPT).map(HeaderValue::as_bytes);
    let words = refusal.response(Format::wanted(accept), method != Method::HEAD);
    let mut answer = read(&words).unwrap_or_else(|| {
        let mut failed = Response::new(Down::Words(None));
        *failed.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        failed
    });
    if version == Version::HTTP_2 {
        answer.headers_mut().remove(CONNECTION);
    }
    answer
}

/// Our own words in HTTP/1.1, taken apart.
fn read(words: &[u8]) -> Option<Response<Down>> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_REFUSAL_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(len) = response.parse(words).ok()? else {
        return None;
    };
    let body = &words[len..];
    let body = (!body.is_empty()).then(|| Bytes::copy_from_slice(body));
    let mut answer = Response::new(Down::Words(body));
    *answer.status_mut() = StatusCode::from_u16(response.code?).ok()?;
    for field in response.headers.iter() {
        answer.headers_mut().append(
            HeaderName::from_bytes(field.name.as_bytes()).ok()?,
            HeaderValue::from_bytes(field.value).ok()?,
        );
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_policy::Reason;
    use portcullis_record::{Event, Recorder};

    #[test]
    fn every_refusal_is_an_answer_in_both_versions() {
        let id = Recorder::null().decision(Event::default());
        for &reason in Reason::ALL {
            if reason.proxy_status().is_empty() {
                continue;
            }
            let refusal = Refusal::new(reason, id);
            for version in [Version::HTTP_11, Version::HTTP_2] {
                let none = HeaderMap::new();
                let answer = answer(&refusal, &Method::GET, version, &none);
                assert_eq!(answer.status().as_u16(), reason.http_status(), "{reason}");
                let status = answer.headers()["proxy-status"].to_str().unwrap();
                assert!(status.contains(reason.proxy_status()), "{status}");
                assert!(matches!(answer.body(), Down::Words(Some(_))));
                let closes = answer.headers().contains_key(CONNECTION);
                assert_eq!(closes, version == Version::HTTP_11);
            }
        }
    }
}

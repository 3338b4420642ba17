//! Refusals as answers of the protocol that is spoken inside an inspected connection.

use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONNECTION, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode, Version};

use super::body::Down;
use crate::request::{Format, Refusal};

/// A refusal as an answer to this request. In HTTP/1.1 the connection ends with it, as on every
/// other way in; in HTTP/2 the stream does.
pub(super) fn answer(
    refusal: &Refusal,
    method: &Method,
    version: Version,
    fields: &HeaderMap,
) -> Response<Down> {
    let accept = fields.get(ACCEPT).map(HeaderValue::as_bytes);
    let said = refusal.answer(Format::wanted(accept));
    let body = (method != Method::HEAD).then(|| Bytes::from(said.body));
    let mut answer = Response::new(Down::Own(body));
    let status = StatusCode::from_u16(said.status);
    *answer.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in said.fields {
        if let Ok(value) = HeaderValue::try_from(&*value) {
            answer
                .headers_mut()
                .append(HeaderName::from_static(name), value);
        }
    }
    if version != Version::HTTP_2 {
        let close = HeaderValue::from_static("close");
        answer.headers_mut().insert(CONNECTION, close);
    }
    answer
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use portcullis_policy::Reason;
    use portcullis_record::{Event, Recorder};

    use super::*;
    use crate::meter::OverLimit;
    use crate::open_error::OpenError;

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
                assert!(matches!(answer.body(), Down::Own(Some(_))));
                let closes = answer.headers().contains_key(CONNECTION);
                assert_eq!(closes, version == Version::HTTP_11);
            }
        }
    }

    #[test]
    fn a_rule_s_limit_says_when_to_come_again() {
        let id = Recorder::null().decision(Event::default());
        let limit = OpenError::Limited(OverLimit {
            reason: Reason::TotalBytesUsed,
            detail: "total_bytes of the rule",
            retry_after: Duration::from_secs(60),
        });
        let refusal = Refusal::failed(&limit, id);
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let answer = answer(&refusal, &Method::GET, version, &HeaderMap::new());
            assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(answer.headers()["retry-after"], "60");
        }
    }
}

//! Fields of a query, an urlencoded body and a multipart body.

use std::borrow::Cow;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body_util::{BodyDataStream, Full};
use multer::Multipart;

use super::DecodeError;

/// Fields of one request; the pixel's longest have about a hundred.
const FIELDS_MAX: usize = 2_000;

/// The parts of a request that can carry fields.
///
/// It holds raw identifiers, so it doesn't print.
#[derive(Clone, Copy, Default)]
pub struct Form<'a> {
    /// The query, without `?`.
    pub query: &'a str,
    /// The `Content-Type` header.
    pub content_type: Option<&'a str>,
    /// The body, inflated; empty for a `GET`.
    pub body: &'a [u8],
}

/// A field's name and value.
pub(super) type Field<'a> = (Cow<'a, str>, Cow<'a, str>);

// === impl Form ===

impl<'a> Form<'a> {
    /// All fields, those of the query first. A body that is not multipart is read as urlencoded, whatever its type:
    /// beacons send text.
    pub(super) fn fields(&self) -> Result<Vec<Field<'a>>, DecodeError> {
        let mut fields = urlencoded(self.query.as_bytes())?;
        match self.content_type.and_then(|content_type| multer::parse_boundary(content_type).ok()) {
            Some(boundary) => fields.extend(multipart(self.body, boundary)?),
            None => fields.extend(urlencoded(self.body)?),
        }
        match fields.len() {
            0..=FIELDS_MAX => Ok(fields),
            _ => Err(TOO_MANY),
        }
    }
}

const TOO_MANY: DecodeError = DecodeError::TooMany { what: "fields", max: FIELDS_MAX };

/// The fields of a query or an urlencoded body; what is not UTF-8 is replaced.
pub(super) fn urlencoded(text: &[u8]) -> Result<Vec<Field<'_>>, DecodeError> {
    let fields: Vec<_> = form_urlencoded::parse(text).take(FIELDS_MAX + 1).collect();
    if fields.len() > FIELDS_MAX { Err(TOO_MANY) } else { Ok(fields) }
}

/// The parts of a multipart body that have a name, as text.
fn multipart(body: &[u8], boundary: String) -> Result<Vec<Field<'static>>, DecodeError> {
    let read = pin!(async {
        let stream = BodyDataStream::new(Full::<Bytes>::new(Bytes::copy_from_slice(body)));
        let mut parts = Multipart::new(stream, boundary);
        let mut fields = Vec::new();
        while let Some(part) = parts.next_field().await? {
            let Some(name) = part.name().map(str::to_owned) else { continue };
            fields.push((Cow::Owned(name), Cow::Owned(part.text().await?)));
            if fields.len() > FIELDS_MAX {
                break;
            }
        }
        Ok::<_, multer::Error>(fields)
    });
    // All of the body is here, so the first poll is the last.
    match read.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(fields)) if fields.len() > FIELDS_MAX => Err(TOO_MANY),
        Poll::Ready(Ok(fields)) => Ok(fields),
        Poll::Ready(Err(_)) | Poll::Pending => Err(DecodeError::NotMultipart),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MULTIPART: &[u8] = b"--b\r\nContent-Disposition: form-data; name=\"cd[a]\"\r\n\r\n1\r\n2\r\n--b\r\n\
        Content-Disposition: form-data; name=\"data\"; filename=\"blob\"\r\nContent-Type: application/json\r\n\r\n[]\r\n--b--\r\n";

    fn fields(form: Form<'_>) -> Vec<(String, String)> {
        form.fields().unwrap().into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
    }

    #[test]
    fn the_three_syntaxes_say_the_same() {
        let expected =
            [("q".to_owned(), "ü".to_owned()), ("cd[a]".into(), "1\r\n2".into()), ("data".into(), "[]".into())];
        let form = Form { query: "q=%C3%BC", content_type: Some("multipart/form-data; boundary=b"), body: MULTIPART };
        assert_eq!(fields(form), expected);
        let body = b"cd%5Ba%5D=1%0D%0A2&data=%5B%5D";
        for content_type in [None, Some("text/plain;charset=UTF-8"), Some("application/x-www-form-urlencoded")] {
            assert_eq!(fields(Form { query: "q=%C3%BC", content_type, body }), expected);
        }
    }

    #[test]
    fn a_broken_multipart_body_is_an_error() {
        let content_type = Some("multipart/form-data; boundary=b");
        for cut in [0, 1, 10, 60, MULTIPART.len() - 6] {
            let body = MULTIPART.get(..cut).unwrap();
            let result = Form { query: "", content_type, body }.fields();
            assert_eq!(result.unwrap_err(), DecodeError::NotMultipart, "{cut}");
        }
    }

    #[test]
    fn fields_are_counted() {
        let body = b"a&".repeat(FIELDS_MAX + 1);
        assert_eq!(Form { body: &body, ..Form::default() }.fields().unwrap_err(), TOO_MANY);
        assert!(Form { body: b"a&".repeat(FIELDS_MAX).as_slice(), ..Form::default() }.fields().is_ok());
        assert_eq!(fields(Form { body: b"%ff=%00&\xfe", ..Form::default() }).len(), 2);
    }
}

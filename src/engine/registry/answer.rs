//! What a registry's answer says: by its status and the codes of its document, never by its words.
//!
//! The document is that of the distribution specification, `{"errors": [{"code", "message"}]}`; some
//! registries have codes of their own, and what stands before one answers without any document.

use std::time::Duration;

use reqwest::Response;
use serde::Deserialize;

/// Nothing that is longer is the document of an error.
const LONGEST_DOCUMENT: usize = 64 << 10;

/// How many characters of a text that is no document are shown.
const LONGEST_TEXT: usize = 200;

/// An answer that is no success.
#[derive(Debug)]
pub(super) struct Answer {
    /// The status.
    pub status: u16,
    /// How long it asks to wait.
    pub wait: Option<Duration>,
    errors: Vec<CodedError>,
    text: String,
}

/// What an answer says about the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The image, or its whole repository, is not there.
    Absent,
    /// Not with these credentials.
    Denied,
    /// Not now.
    Busy,
    /// A blob of a push is not there yet: another client uploads it, or an upload was lost.
    Unfinished,
    /// Not at all.
    Refused,
}

#[derive(Debug, Deserialize)]
struct Document {
    errors: Vec<CodedError>,
}

#[derive(Debug, Deserialize)]
struct CodedError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// Codes that say what an answer means whatever its status is; beside the specification's those of
/// Harbor (`NOT_FOUND`), ECR (`RepositoryNotFoundException`, `TooManyRequestsException`) and cloud
/// gateways (`RESOURCE_EXHAUSTED`). Compared without case and underscores.
const CODES: [(&str, Meaning); 18] = [
    ("MANIFEST_UNKNOWN", Meaning::Absent),
    ("NAME_UNKNOWN", Meaning::Absent),
    ("NOT_FOUND", Meaning::Absent),
    ("REPOSITORY_NOT_FOUND", Meaning::Absent),
    ("REPOSITORY_NOT_FOUND_EXCEPTION", Meaning::Absent),
    ("IMAGE_NOT_FOUND_EXCEPTION", Meaning::Absent),
    ("PROJECT_NOT_FOUND", Meaning::Absent),
    ("BLOB_UNKNOWN", Meaning::Unfinished),
    ("MANIFEST_BLOB_UNKNOWN", Meaning::Unfinished),
    ("BLOB_UPLOAD_UNKNOWN", Meaning::Unfinished),
    ("DIGEST_INVALID", Meaning::Unfinished),
    ("TOO_MANY_REQUESTS", Meaning::Busy),
    ("TOO_MANY_REQUESTS_EXCEPTION", Meaning::Busy),
    ("THROTTLING_EXCEPTION", Meaning::Busy),
    ("RESOURCE_EXHAUSTED", Meaning::Busy),
    ("UNAVAILABLE", Meaning::Busy),
    ("UNAUTHORIZED", Meaning::Denied),
    ("DENIED", Meaning::Denied),
];

impl Answer {
    /// Reads what came.
    pub(super) async fn read(mut response: Response) -> Answer {
        let status = response.status().as_u16();
        let wait = crate::retry::retry_after(response.headers());
        let mut body = Vec::new();
        // A document that breaks off is none; the status stands.
        while let Ok(Some(piece)) = response.chunk().await {
            body.extend_from_slice(&piece);
            if body.len() > LONGEST_DOCUMENT {
                break;
            }
        }
        Answer::new(status, wait, &body)
    }

    pub(super) fn new(status: u16, wait: Option<Duration>, body: &[u8]) -> Answer {
        let document = serde_json::from_slice::<Document>(body);
        let errors = document.map_or_else(|_| Vec::new(), |document| document.errors);
        let text = String::from_utf8_lossy(body).trim().to_owned();
        Answer { status, wait, errors, text }
    }

    /// Tells what it means, for a push or for what is read.
    pub(super) fn meaning(&self, pushing: bool) -> Meaning {
        let meaning = match (self.coded(), self.status) {
            // A status that says "not there" is meant also where the code is about rights: so
            // registries hide what somebody may not see.
            (Some(Meaning::Denied), 404 | 410) => Meaning::Absent,
            (Some(meaning), _) => meaning,
            (None, 404 | 410) => Meaning::Absent,
            (None, 408 | 429 | 500..) => Meaning::Busy,
            // So GitHub says that there were too many requests.
            (None, 403) if self.wait.is_some() => Meaning::Busy,
            (None, 401 | 403) => Meaning::Denied,
            (None, _) => Meaning::Refused,
        };
        match meaning {
            Meaning::Unfinished if !pushing && self.status < 500 => Meaning::Absent,
            // An error of the server that has a code for "denied" is one that may pass.
            Meaning::Denied if self.status >= 500 => Meaning::Busy,
            meaning => meaning,
        }
    }

    fn coded(&self) -> Option<Meaning> {
        let same = |a: &str, b: &str| {
            let plain = |text: &str| text.replace('_', "").to_ascii_lowercase();
            plain(a) == plain(b)
        };
        self.errors.iter().find_map(|error| {
            CODES.iter().find(|(code, _)| same(code, &error.code)).map(|(_, meaning)| *meaning)
        })
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "it answered {}", self.status)?;
        for error in &self.errors {
            write!(f, "; {}: {}", error.code, error.message)?;
        }
        // Pages are for browsers.
        if self.errors.is_empty() && !self.text.is_empty() && !self.text.starts_with('<') {
            let shown: String = self.text.chars().take(LONGEST_TEXT).collect();
            write!(f, "; {shown}")?;
        }
        if let Some(wait) = self.wait {
            write!(f, "; it asks to wait {} s", wait.as_secs())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coded(code: &str) -> String {
        format!(r#"{{"errors":[{{"code":"{code}","message":"in its own words","detail":{{}}}}]}}"#)
    }

    #[test]
    fn what_is_absent_is_known_by_code_or_status_of_every_registry() {
        let answers = [
            (404, coded("MANIFEST_UNKNOWN")),
            (404, coded("NAME_UNKNOWN")),
            (404, coded("MANIFEST_BLOB_UNKNOWN")),
            (404, coded("NOT_FOUND")),
            (404, coded("RepositoryNotFoundException")),
            (400, coded("NAME_UNKNOWN")),
            (404, coded("UNAUTHORIZED")),
            (404, "<html><body>404 page not found</body></html>".to_owned()),
            (404, "404 page not found\n".to_owned()),
            (404, String::new()),
            (404, coded("SOMETHING_OF_ITS_OWN")),
            (410, String::new()),
        ];
        for (status, body) in answers {
            let answer = Answer::new(status, None, body.as_bytes());
            assert_eq!(answer.meaning(false), Meaning::Absent, "{status} {body}");
        }
    }

    #[test]
    fn what_is_denied_and_what_may_pass_are_told_apart() {
        let minute = Some(Duration::from_secs(60));
        let answers = [
            (401, None, coded("UNAUTHORIZED"), Meaning::Denied),
            (401, None, String::new(), Meaning::Denied),
            (403, None, coded("DENIED"), Meaning::Denied),
            (403, None, "<html></html>".to_owned(), Meaning::Denied),
            (403, minute, "secondary rate limit".to_owned(), Meaning::Busy),
            (403, None, coded("TOOMANYREQUESTS"), Meaning::Busy),
            (429, minute, coded("TOOMANYREQUESTS"), Meaning::Busy),
            (429, None, "<html></html>".to_owned(), Meaning::Busy),
            (408, None, String::new(), Meaning::Busy),
            (500, None, coded("UNKNOWN"), Meaning::Busy),
            (503, None, coded("UNAVAILABLE"), Meaning::Busy),
            (503, None, coded("DENIED"), Meaning::Busy),
            (502, None, "<html></html>".to_owned(), Meaning::Busy),
            (400, None, coded("NAME_INVALID"), Meaning::Refused),
            (405, None, coded("UNSUPPORTED"), Meaning::Refused),
        ];
        for (status, wait, body, meaning) in answers {
            assert_eq!(
                Answer::new(status, wait, body.as_bytes()).meaning(false),
                meaning,
                "{status} {body}"
            );
        }
        // A manifest whose blobs are on their way.
        let early = Answer::new(400, None, coded("MANIFEST_BLOB_UNKNOWN").as_bytes());
        assert_eq!(early.meaning(true), Meaning::Unfinished);
        let nowhere = Answer::new(404, None, coded("NAME_UNKNOWN").as_bytes());
        assert_eq!(nowhere.meaning(true), Meaning::Absent);
    }

    #[test]
    fn an_answer_is_shown_with_its_codes_and_without_pages() {
        let answer = Answer::new(429, Some(Duration::from_secs(3)), coded("DENIED").as_bytes());
        assert_eq!(
            answer.to_string(),
            "it answered 429; DENIED: in its own words; it asks to wait 3 s"
        );
        assert_eq!(Answer::new(502, None, b"<html>").to_string(), "it answered 502");
        assert_eq!(Answer::new(500, None, b"oops").to_string(), "it answered 500; oops");
    }
}

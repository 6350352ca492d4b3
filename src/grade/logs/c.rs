//! C and C++: redis' Tcl suite, jq, doctest, micropython, googletest.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::{Context, Form, ReadError, Row, StatusMap, TestStatus, regex, set_by, strip};

pub(super) const ROWS: &[Row] = &[
    (&["parse_log_redis"], Form::Line(redis)),
    (&["parse_log_jq"], Form::Line(jq)),
    (&["parse_log_doctest"], Form::Text(doctest)),
    (&["parse_log_micropython_test"], Form::Line(micropython)),
    (&["parse_log_googletest"], Form::Line(googletest)),
];

fn redis(line: &str, map: &mut StatusMap) {
    let found = regex!(r"^\[(ok|err|skip|ignore)\]:\s(.+?)(?:\s\((\d+\s*m?s)\))?$");
    let Some(found) = found.captures(strip(line)) else { return };
    match &found[1] {
        "ok" => map.set(&found[2], TestStatus::Passed),
        // A failure is followed by its file.
        "err" => map.set(&regex!(r"\s+in\s+\S+$").replace(&found[2], ""), TestStatus::Failed),
        _ => map.set(&found[2], TestStatus::Skipped),
    }
}

fn jq(line: &str, map: &mut StatusMap) {
    if let Some(found) = regex!(r"^\s*(PASS|FAIL):\s(.+)$").captures(strip(line)) {
        let table = [("PASS", TestStatus::Passed), ("FAIL", TestStatus::Failed)];
        set_by(map, &found[2], &found[1], &table);
    }
}

fn micropython(line: &str, map: &mut StatusMap) {
    if let Some(found) = regex!(r"^(pass|FAIL|skip)\s+(.+)$").captures(strip(line)) {
        let table = [
            ("pass", TestStatus::Passed),
            ("FAIL", TestStatus::Failed),
            ("skip", TestStatus::Skipped),
        ];
        set_by(map, &found[2], &found[1], &table);
    }
}

fn googletest(line: &str, map: &mut StatusMap) {
    if !line.contains('[') {
        return;
    }
    if let Some(found) = regex!(r"^.*\[\s*(OK|FAILED)\s*\]\s(.*)\s\(.*\)$").captures(strip(line)) {
        let table = [("OK", TestStatus::Passed), ("FAILED", TestStatus::Failed)];
        set_by(map, &found[2], &found[1], &table);
    }
}

/// An element whose result counts.
struct Open {
    tag: String,
    name: String,
}

/// doctest's XML reporter: a subcase passes when every expression below it does.
fn doctest(log: &str, _: &Context<'_>, map: &mut StatusMap) -> Result<(), ReadError> {
    const CLOSE: &str = "</doctest>";
    let Some(start) = log.find("<doctest") else { return Ok(()) };
    let malformed = || ReadError::Malformed { parser: "parse_log_doctest", format: "XML" };
    let Some(end) = log[start..].find(CLOSE) else { return Err(malformed()) };
    let xml = &log[start..start + end + CLOSE.len()];
    let mut reader = Reader::from_str(xml);
    let mut stack: Vec<Open> = Vec::new();
    // Subcases that are open, with whether all their expressions passed so far.
    let mut subcases: Vec<(usize, String, bool)> = Vec::new();
    let mut results: Vec<(String, bool)> = Vec::new();
    loop {
        let event = reader.read_event().map_err(|_| malformed())?;
        match event {
            Event::Start(ref tag) | Event::Empty(ref tag) => {
                let open = Open {
                    tag: String::from_utf8_lossy(tag.name().as_ref()).into_owned(),
                    name: attribute(tag, "name").unwrap_or_else(|| "None".to_owned()),
                };
                if open.tag == "Expression" && attribute(tag, "success").as_deref() != Some("true")
                {
                    for (_, _, passed) in &mut subcases {
                        *passed = false;
                    }
                }
                if open.tag == "SubCase" {
                    for case in stack.iter().filter(|above| above.tag == "TestCase") {
                        let name = format!("{} > {}", case.name, open.name);
                        subcases.push((stack.len(), name, true));
                    }
                }
                stack.push(open);
                if matches!(event, Event::Empty(_)) {
                    close(&mut stack, &mut subcases, &mut results);
                }
            }
            Event::End(_) => close(&mut stack, &mut subcases, &mut results),
            Event::Eof => break,
            _ => {}
        }
    }
    if !stack.is_empty() {
        return Err(malformed());
    }
    for (test, passed) in results {
        map.set(&test, if passed { TestStatus::Passed } else { TestStatus::Failed });
    }
    Ok(())
}

fn close(
    stack: &mut Vec<Open>,
    subcases: &mut Vec<(usize, String, bool)>,
    results: &mut Vec<(String, bool)>,
) {
    stack.pop();
    while subcases.last().is_some_and(|(depth, ..)| *depth == stack.len()) {
        let (_, name, passed) = subcases.pop().expect("it was looked at");
        results.push((name, passed));
    }
}

fn attribute(tag: &BytesStart<'_>, name: &str) -> Option<String> {
    let value = tag.try_get_attribute(name).ok()??;
    let text = String::from_utf8_lossy(&value.value);
    let unescaped = quick_xml::escape::unescape(&text).map(std::borrow::Cow::into_owned);
    Some(unescaped.unwrap_or_else(|_| text.into_owned()))
}

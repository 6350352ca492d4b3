//! JUnit's XML, as test runners write it: `testcase` elements with a `classname` and a `name`.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::{Case, CaseStatus};

/// Reads a file; `None` where it is not whole.
pub(super) fn read(bytes: &[u8]) -> Option<Vec<Case>> {
    let text = String::from_utf8_lossy(bytes);
    let mut reader = Reader::from_str(&text);
    let mut cases: Vec<Case> = Vec::new();
    let mut depth = 0_usize;
    let mut roots = 0_usize;
    let mut open: Option<(usize, Case)> = None;
    loop {
        let event = reader.read_event().ok()?;
        match &event {
            Event::Start(tag) | Event::Empty(tag) => {
                roots += usize::from(depth == 0);
                depth += 1;
                match tag.local_name().as_ref() {
                    b"testcase" => open = Some((depth, case(tag))),
                    name => {
                        if let Some((_, case)) = &mut open {
                            mark(case, name);
                        }
                    }
                }
            }
            Event::Eof => break,
            _ => {}
        }
        if matches!(event, Event::Empty(_) | Event::End(_)) {
            if let Some((_, case)) = open.take_if(|(at, _)| *at == depth) {
                cases.push(case);
            }
            depth = depth.checked_sub(1)?;
        }
    }
    (depth == 0 && roots > 0).then_some(cases)
}

fn case(tag: &BytesStart<'_>) -> Case {
    let attribute = |name: &str| {
        let value = tag.try_get_attribute(name).ok().flatten()?;
        let text = String::from_utf8_lossy(&value.value);
        let unescaped = quick_xml::escape::unescape(&text).map(|text| text.into_owned());
        Some(unescaped.unwrap_or_else(|_| text.into_owned()))
    };
    let short = attribute("name").unwrap_or_default();
    let name = match attribute("classname").filter(|group| !group.is_empty()) {
        Some(group) => format!("{group}.{short}"),
        None => short.clone(),
    };
    // Go, vitest and others say it in an attribute.
    let status = match attribute("status").or_else(|| attribute("result")).as_deref() {
        Some("failed" | "fail" | "error") => CaseStatus::Failed,
        Some("skipped" | "disabled" | "notrun" | "suppressed") => CaseStatus::Skipped,
        _ => CaseStatus::Passed,
    };
    Case { name, short, status }
}

/// Takes what stands in a `testcase`.
fn mark(case: &mut Case, element: &[u8]) {
    match element {
        b"failure" | b"error" => case.status = CaseStatus::Failed,
        b"skipped" if case.status == CaseStatus::Passed => case.status = CaseStatus::Skipped,
        _ => {}
    }
}

/// Returns how pytest's JUnit file calls the test of a node id: the path with dots and without its
/// `.py`, the classes, the test.
pub(super) fn name_of_node(id: &str) -> String {
    let (address, parameters) = match id.find('[') {
        Some(at) => id.split_at(at),
        None => (id, ""),
    };
    let mut parts = address.split("::");
    let file = parts.next().unwrap_or_default().replace('/', ".");
    let mut name = file.strip_suffix(".py").unwrap_or(&file).to_owned();
    for part in parts {
        name.push('.');
        name.push_str(part);
    }
    name + parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_are_called_as_pytest_calls_them() {
        assert_eq!(name_of_node("a/b.py::C::d[x::y/z]"), "a.b.C.d[x::y/z]");
        assert_eq!(name_of_node("a/b.rst::b.rst"), "a.b.rst.b.rst");
    }

    #[test]
    fn only_whole_documents_are_read() {
        assert!(read(b"").is_none());
        assert!(read(b"no xml").is_none());
        assert!(read(b"<testsuite><testcase name='a'>").is_none());
        assert!(read(b"<testsuite></testsuites>").is_none());
        assert_eq!(read(b"<testsuite/>").unwrap(), []);
    }

    #[test]
    fn what_is_nested_in_a_test_is_of_the_test() {
        let xml = "<s><testcase name='a'><properties><property/></properties><flakyFailure/>\
                   </testcase><testcase name='b' status='failed'/><testcase name='c'>\
                   <failure/><rerunFailure/></testcase></s>";
        let cases = read(xml.as_bytes()).unwrap();
        let failed: Vec<bool> =
            cases.iter().map(|case| case.status == CaseStatus::Failed).collect();
        assert_eq!(failed, [false, true, true]);
    }
}

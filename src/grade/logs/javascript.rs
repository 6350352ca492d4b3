//! JavaScript: jest, vitest, mocha, karma, TAP, and the runners of single repositories.

use std::collections::HashMap;

use serde_json::Value;

use super::{
    Context, Form, LineParser, ReadError, Row, StatusMap, TestStatus, is_space, regex, set_by,
    strip, strip_start, without_colours,
};

pub(super) const ROWS: &[Row] = &[
    (&["parse_log_calypso"], Form::Text(calypso)),
    (&["parse_log_chart_js"], Form::Line(chart_js)),
    (&["parse_log_marked"], Form::Line(marked)),
    (&["parse_log_p5js"], Form::Text(p5js)),
    (&["parse_log_carbon", "parse_log_react_pdf"], Form::Line(pass_fail)),
    (&["parse_log_jest"], Form::Line(jest)),
    (&["parse_log_jest_json"], Form::Line(jest_json)),
    (&["parse_log_vitest"], Form::Line(vitest)),
    (&["parse_log_karma"], Form::Lines(|| Box::<Karma>::default())),
    (&["parse_log_tap"], Form::Line(tap)),
    (&["parse_log_immutable_js"], Form::Chosen(immutable_js)),
    (&["parse_log_bpmn_js"], Form::Text(bpmn_js)),
    (&["parse_log_eslint"], Form::Text(eslint)),
    (&["parse_log_grommet"], Form::Text(grommet)),
    (&["parse_log_highlightjs"], Form::Lines(|| Box::<Highlight>::default())),
    (&["parse_log_lighthouse"], Form::Text(lighthouse)),
    (&["parse_log_next"], Form::Text(next)),
    (&["parse_log_openlayers"], Form::Text(openlayers)),
    (&["parse_log_prismjs"], Form::Text(prismjs)),
    (&["parse_log_quarto_cli"], Form::Lines(|| Box::<Quarto>::default())),
];

fn one_blank(text: &str) -> String {
    strip(&regex!(r"\s+").replace_all(text, " ")).to_owned()
}

// Runners that print a line a test.

fn jest(line: &str, map: &mut StatusMap) {
    if let Some(found) = regex!(r"^\s*(✓|✕|○)\s(.+?)(?:\s\((\d+\s*m?s)\))?$").captures(strip(line))
    {
        let table =
            [("✓", TestStatus::Passed), ("✕", TestStatus::Failed), ("○", TestStatus::Skipped)];
        set_by(map, strip(&found[2]), &found[1], &table);
    }
}

fn jest_json(line: &str, map: &mut StatusMap) {
    if let Some(found) = regex!(r"^\[(PASSED|FAILED)\]\s(.+)$").captures(strip(line)) {
        map.set(&found[2], TestStatus::of(&found[1]));
    }
}

fn vitest(line: &str, map: &mut StatusMap) {
    let found = regex!(r"^\s*(✓|×|↓)\s(.+?)(?:\s(\d+\s*m?s?|\[skipped\]))?$");
    if let Some(found) = found.captures(strip(line)) {
        let table =
            [("✓", TestStatus::Passed), ("×", TestStatus::Failed), ("↓", TestStatus::Skipped)];
        set_by(map, &found[2], &found[1], &table);
    }
}

fn tap(line: &str, map: &mut StatusMap) {
    if let Some(found) = regex!(r"^(ok|not ok) (\d+) (.+)$").captures(strip(line)) {
        let table = [("ok", TestStatus::Passed), ("not ok", TestStatus::Failed)];
        set_by(map, &found[3], &found[1], &table);
    }
}

fn marked(line: &str, map: &mut StatusMap) {
    if let Some(found) = regex!(r"^\d+\)\s(.*)").captures(line) {
        map.set(strip(&found[1]), TestStatus::Failed);
    }
}

fn chart_js(line: &str, map: &mut StatusMap) {
    let line = without_colours(line);
    let found = regex!(r"Chrome\s[\d\.]+[^\S\r\n]\(.+?\)[^\S\r\n](.*)FAILED$").captures(&line);
    if let Some(found) = found {
        map.set(&found[1], TestStatus::Failed);
    }
}

/// jest without `--verbose` names files.
fn pass_fail(line: &str, map: &mut StatusMap) {
    for (word, status) in [("PASS", TestStatus::Passed), ("FAIL", TestStatus::Failed)] {
        let Some(rest) = line.strip_prefix(word).filter(|rest| rest.starts_with(is_space)) else {
            continue;
        };
        let rest = &rest[rest.chars().next().map_or(0, char::len_utf8)..];
        let timed = [
            regex!(r"^(.*)\s\([\d\.]+ms\)"),
            regex!(r"^(.*)\s\([\d\.]+\ss\)"),
            regex!(r"^(.*)\s\([\d\.]+s\)"),
        ];
        let found = timed.iter().find_map(|pattern| pattern.captures(rest));
        let test = found.map_or(rest.to_owned(), |found| found[1].to_owned());
        return map.set(&test, status);
    }
}

/// All failures first, then all passes, so that a pass wins.
fn grommet(log: &str, _: &Context<'_>, map: &mut StatusMap) -> Result<(), ReadError> {
    let words = [
        (regex!(r"(?m)^FAIL\s(.*)"), TestStatus::Failed),
        (regex!(r"(?m)^PASS\s(.*)"), TestStatus::Passed),
    ];
    for (pattern, status) in words {
        for found in pattern.captures_iter(log) {
            let name = strip(&found[1]);
            let name = regex!(r"\s\([\d\.]+\s?(?:ms|s)\)$").replace(name, "");
            map.set(&name, status.clone());
        }
    }
    Ok(())
}

/// immutable.js has another runner in each of its instances.
fn immutable_js(context: &Context<'_>) -> Option<&'static str> {
    match context.instance_id.rsplit('-').next()? {
        "2006" => Some("parse_log_jest"),
        "2005" => Some("parse_log_jest_json"),
        _ => None,
    }
}

// Runners that name suites by indentation.

/// The suites around a test, innermost last, each with its indentation.
#[derive(Default)]
struct Suites(Vec<(String, usize)>);

impl Suites {
    /// Takes a line that names a suite; a line without indentation is none.
    fn enter(&mut self, line: &str) {
        let indent = line.chars().count() - strip_start(line).chars().count();
        if indent == 0 {
            return;
        }
        if !self.0.is_empty() {
            while self.0.last().is_some_and(|(_, outer)| *outer >= indent) {
                self.0.pop();
            }
        }
        self.0.push((strip(line).to_owned(), indent));
    }

    fn join(&self) -> String {
        self.0.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" - ")
    }

    fn name(&self, test: &str) -> String {
        match self.0.as_slice() {
            [] => test.to_owned(),
            _ => format!("{} - {test}", self.join()),
        }
    }
}

fn calypso(log: &str, _: &Context<'_>, map: &mut StatusMap) -> Result<(), ReadError> {
    let mut suites = Suites::default();
    for run in log.split(" ./node_modules/.bin/jest ").skip(1) {
        for line in run.split('\n') {
            if line.starts_with("Test Suites") || line.starts_with("  ● ") {
                break;
            }
            let marks = [("✓", TestStatus::Passed), ("✕", TestStatus::Failed)];
            let mark = marks.into_iter().find(|(mark, _)| strip(line).starts_with(mark));
            let Some((mark, status)) = mark else {
                suites.enter(line);
                continue;
            };
            let timed = regex!(r"\(\d+ms\)").is_match(line);
            let found = match (mark, timed) {
                ("✓", true) => regex!(r"^\s+✓\s(.*)\(\d+ms\)$").captures(line),
                ("✓", false) => regex!(r"^\s+✓\s(.*)").captures(line),
                (_, true) => regex!(r"^\s+✕\s(.*)\(\d+ms\)$").captures(line),
                (_, false) => regex!(r"^\s+✕\s(.*)").captures(line),
            };
            if let Some(found) = found {
                let name = format!("{} - {}", suites.join(), &found[1]);
                map.set(strip(&name), status);
            }
        }
    }
    Ok(())
}

fn next(log: &str, context: &Context<'_>, map: &mut StatusMap) -> Result<(), ReadError> {
    match context.version {
        "1.27" => next_cypress(log, map),
        _ => next_karma(log, map),
    }
    Ok(())
}

fn next_karma(log: &str, map: &mut StatusMap) {
    let log = without_colours(log);
    let log = regex!(r"(?s)AssertionError:\s+#(.*?)\n\n").replace_all(&log, "");
    let mut suites = Suites::default();
    for run in log.split(" xvfb-run ").skip(1) {
        let run = run.rsplit("Starting browser Chrome").next().unwrap_or(run);
        for line in run.split('\n') {
            if line.starts_with("TOTAL") {
                break;
            }
            let noise = ["ERROR", "LOG", "WARN", "Check", "in"];
            if noise.iter().any(|word| strip(line).starts_with(word)) {
                continue;
            }
            if let Some(found) = regex!(r"^.*?✗\s*(.*)").captures(line) {
                map.set(&suites.name(&found[1]), TestStatus::Failed);
            } else if let Some(found) = regex!(r"^.*?✓\s*(.*)").captures(line) {
                map.set(&suites.name(&found[1]), TestStatus::Passed);
            } else {
                suites.enter(line);
            }
        }
    }
}

fn next_cypress(log: &str, map: &mut StatusMap) {
    let heads: Vec<_> = regex!(r"Running\:(.*)\)\n{3}\s{2}(.*)\n").captures_iter(log).collect();
    for (at, head) in heads.iter().enumerate() {
        let from = head.get(0).expect("group 0 is the match").end();
        let to = heads
            .get(at + 1)
            .map_or(log.len(), |next| next.get(0).expect("group 0 is the match").start());
        let (suite, text) = (&head[2], &log[from..to]);
        for found in regex!(r"(?m)^\s{4}\d+\)\s(.*)").captures_iter(text) {
            map.set(&format!("{suite}: {}", strip(&found[1])), TestStatus::Failed);
        }
        for found in regex!(r"(?m)^\s{4}✓\s(.*)\(").captures_iter(text) {
            map.set(&format!("{suite}: {}", strip(&found[1])), TestStatus::Passed);
        }
    }
}

fn lighthouse(log: &str, context: &Context<'_>, map: &mut StatusMap) -> Result<(), ReadError> {
    if ["9.5", "10.0", "10.2"].contains(&context.version) {
        lighthouse_mocha(log, map);
        return Ok(());
    }
    let version: f64 = context.version.trim().parse().map_err(|_| ReadError::UnknownInstance {
        parser: "parse_log_lighthouse",
        instance_id: context.instance_id.to_owned(),
    })?;
    if version >= 3.0 {
        for line in log.split('\n') {
            pass_fail(line, map);
        }
        return Ok(());
    }
    for run in log.split("./node_modules/.bin/mocha --reporter json").skip(1) {
        let lists = [
            ("\"passes\": [", "]", TestStatus::Passed),
            ("\"failures\": [", "],", TestStatus::Failed),
        ];
        for (begin, end, status) in lists {
            let list = run.rsplit(begin).next().unwrap_or(run);
            let list = list.rsplit_once(end).map_or(list, |(list, _)| list);
            for found in regex!(r#""fullTitle":\s"(.*)",\n"#).captures_iter(list) {
                map.set(&found[1], status.clone());
            }
        }
    }
    Ok(())
}

fn lighthouse_mocha(log: &str, map: &mut StatusMap) {
    for run in regex!(r"running\s\d+\stest\sfiles").split(log).skip(1) {
        let run = strip(regex!(r"\d+\spassing").split(run).next().unwrap_or(run));
        let mut suites = Suites::default();
        for line in run.split('\n') {
            let patterns = [
                (regex!(r"^✔\s(.*)\s\(\d+m+s\)"), TestStatus::Passed),
                (regex!(r"^✔\s(.*)"), TestStatus::Passed),
                (regex!(r"^\d+\)\s(.*)\s\(\d+m+s\)"), TestStatus::Failed),
                (regex!(r"^\d+\)\s(.*)"), TestStatus::Failed),
            ];
            let stripped = strip(line);
            let found = patterns
                .into_iter()
                .find_map(|(pattern, status)| Some((pattern.captures(stripped)?, status)));
            match found {
                Some((found, status)) => map.set(&suites.name(&found[1]), status),
                None => suites.enter(line),
            }
        }
    }
}

/// mocha's `spec` reporter, until its summary.
#[derive(Default)]
struct Highlight {
    suite: Option<String>,
    lines: usize,
    ended: bool,
}

impl LineParser for Highlight {
    fn line(&mut self, line: &str, map: &mut StatusMap) {
        self.lines += 1;
        self.ended |= self.lines > 1 && regex!(r"^[ \t]*\d+ passing").is_match(line);
        if self.ended {
            return;
        }
        let stripped = strip(line);
        let untimed = |text: &str| strip(&regex!(r"\(\d+ms\)").replace_all(text, "")).to_owned();
        let full = |test: String| match &self.suite {
            Some(suite) => format!("{suite}.{test}"),
            None => test,
        };
        let check = ["✓", "✔"].into_iter().find(|check| stripped.starts_with(check));
        if let Some((_, test)) = check.and_then(|check| line.split_once(check)) {
            map.set(&full(untimed(test)), TestStatus::Passed);
        } else if regex!(r"^\d+\)").is_match(stripped) {
            let test = line.split_once(')').map_or("", |(_, test)| test);
            map.set(&full(untimed(test)), TestStatus::Failed);
        } else if line.starts_with("  ") {
            self.suite = Some(stripped.to_owned());
        }
    }
}

#[derive(Default)]
struct Karma {
    indent: Option<usize>,
    suites: Vec<String>,
    started: bool,
    ended: bool,
}

impl LineParser for Karma {
    fn line(&mut self, line: &str, map: &mut StatusMap) {
        self.ended |= line.starts_with("SUMMARY:");
        if self.ended {
            return;
        }
        if line.contains("Starting browser") {
            self.started = true;
            return;
        }
        let Some(found) = regex!(r"^(\s*)?([✔✖])?\s(.*)$").captures(line).filter(|_| self.started)
        else {
            return;
        };
        let indent = found.get(1).map_or(0, |indent| indent.as_str().chars().count());
        let (mark, name) = (found.get(2).map(|mark| mark.as_str()), &found[3]);
        if indent > 0 && mark.is_none() {
            match self.indent {
                Some(current) if indent < current => {
                    self.indent = Some(indent);
                    self.suites.pop();
                    return;
                }
                Some(current) if indent == current => {}
                _ => {
                    self.indent = Some(indent);
                    self.suites.push(name.to_owned());
                }
            }
        }
        if let Some(mark) = mark {
            let mut names: Vec<&str> = self.suites.iter().map(String::as_str).collect();
            names.push(name);
            let table = [("✔", TestStatus::Passed), ("✖", TestStatus::Failed)];
            set_by(map, &names.join(" > "), mark, &table);
        }
    }
}

// Runners of which only failures are read.

fn bpmn_js(log: &str, _: &Context<'_>, map: &mut StatusMap) -> Result<(), ReadError> {
    let patterns = [
        (regex!(r"2KPhantomJS\s[\d\.]+\s\(Linux\s[\d\.]+\)\s(.*)FAILED\n"), 1),
        (regex!(r"2KPhantomJS\s[\d\.]+\s\(Linux\sx86_64\)\s(.*)FAILED\n"), 1),
        (regex!(r"Chrome\sHeadless\s(.*)\s\(Linux\sx86_64\)\s(.*)FAILED\n"), 2),
        (regex!(r"HeadlessChrome\s[\d\.]+\s\(Linux\s[\d\.]+\)\s(.*)FAILED\n"), 1),
    ];
    for (pattern, group) in patterns {
        for found in pattern.captures_iter(log) {
            map.set(&found[group], TestStatus::Failed);
        }
    }
    Ok(())
}

fn eslint(log: &str, _: &Context<'_>, map: &mut StatusMap) -> Result<(), ReadError> {
    for found in regex!(r"(\s{2}\d+\))((?s:.)*?)\s+(?:(.*)Error)").captures_iter(log) {
        map.set(&one_blank(&found[2]), TestStatus::Failed);
    }
    Ok(())
}

fn openlayers(log: &str, _: &Context<'_>, map: &mut StatusMap) -> Result<(), ReadError> {
    let patterns = [
        regex!(r"Chrome\sHeadless\s[\d\.]+\s\(Linux\s[\d\._\S]+\)\s(.*)\sFAILED\n"),
        regex!(r"Chrome\s[\d\.]+\s\(Linux\s[\d\._\S]+\)\s(.*)FAILED\n"),
        regex!(r"(?m)^\s{2}\d+\)((?s:.)*?)Error:"),
        regex!(r"(?m)^case\s(.*):\smismatch"),
    ];
    for pattern in patterns {
        for found in pattern.captures_iter(log) {
            map.set(&one_blank(&found[1]), TestStatus::Failed);
        }
    }
    Ok(())
}

fn prismjs(log: &str, _: &Context<'_>, map: &mut StatusMap) -> Result<(), ReadError> {
    let malformed = || ReadError::Malformed { parser: "parse_log_prismjs", format: "JSON" };
    for run in log.split("./node_modules/.bin/mocha tests/run.js --reporter json").skip(1) {
        let inner = run.split_once('{').map_or(run, |(_, rest)| rest);
        let inner = inner.rsplit_once('}').map_or(inner, |(rest, _)| rest);
        let results: Value =
            serde_json::from_str(&format!("{{{inner}}}")).map_err(|_| malformed())?;
        for (list, status) in [("failures", TestStatus::Failed), ("passes", TestStatus::Passed)] {
            for test in results[list].as_array().ok_or_else(malformed)? {
                map.set(test["fullTitle"].as_str().ok_or_else(malformed)?, status.clone());
            }
        }
    }
    Ok(())
}

#[derive(Default)]
struct Quarto {
    ended: bool,
    temporary: HashMap<String, usize>,
}

impl LineParser for Quarto {
    fn line(&mut self, line: &str, map: &mut StatusMap) {
        self.ended |= line.contains("ERRORS") || line.contains("failures:");
        if self.ended || !regex!(r"\[(smoke|unit)\]").is_match(line) {
            return;
        }
        // Names of temporary files differ from run to run.
        let mut line = line.to_owned();
        for pattern in [regex!(r"/tmp/(\w+)\.qmd"), regex!(r"/tmp/(\w+)/")] {
            let Some(found) = pattern.find(&line).map(|found| found.as_str().to_owned()) else {
                continue;
            };
            let count = self.temporary.len();
            let number = *self.temporary.entry(found).or_insert(count);
            line = pattern.replace_all(&line, format!("/tmp/{number}")).into_owned();
        }
        let test = strip(line.split("...").next().unwrap_or(&line));
        let rejected = line.starts_with("test result:")
            || ["passed", "failed", "steps"].iter().all(|word| line.contains(word))
            || line.contains("34mINFO");
        if rejected {
            return;
        }
        if line.contains("32mok") {
            map.set(test, TestStatus::Passed);
        } else if line.contains("31mFAILED") || map.get(test).is_none() {
            // A test without a status has failed.
            map.set(test, TestStatus::Failed);
        }
    }
}

fn p5js(log: &str, _: &Context<'_>, map: &mut StatusMap) -> Result<(), ReadError> {
    let log = without_json_blocks(&without_colours(log));
    let log = without_xml_blocks(log);
    let mut at = 0;
    while let Some(found) = regex!(r"(?m)^\s*(\d+)\)").find_at(&log, at) {
        // A name is at most 1000 characters, up to a colon.
        let rest = &log[found.end()..];
        let colon = rest.char_indices().take(1001).find(|(_, c)| *c == ':').map(|(at, _)| at);
        let Some(colon) = colon else {
            at = found.end();
            continue;
        };
        let name = &rest[..colon];
        let mut indent = 0;
        let deeper = name.split('\n').all(|line| {
            let own = line.chars().count() - strip_start(line).chars().count();
            let deeper = own > indent;
            indent = own;
            deeper
        });
        if deeper {
            let parts: Vec<&str> = name.split('\n').map(strip).collect();
            map.set(&parts.join(":"), TestStatus::Failed);
        }
        at = found.end() + colon + 1;
    }
    Ok(())
}

fn without_json_blocks(log: &str) -> String {
    let (mut in_object, mut in_list) = (false, false);
    let mut kept: Vec<&str> = Vec::new();
    for line in log.split('\n') {
        let end = line.trim_end_matches(is_space);
        if end.ends_with('{') {
            in_object = true;
        } else if end.ends_with('[') {
            in_list = true;
        } else if end == "}" && in_object {
            in_object = false;
        } else if end == "]" && in_list {
            in_list = false;
        } else if !(in_object
            || in_list
            || end.starts_with('{') && end.ends_with('}')
            || end.starts_with('[') && end.ends_with(']'))
        {
            kept.push(line);
        }
    }
    kept.join("\n")
}

/// Removes each element with its content; as many opening tags as it holds of its own name stay.
fn without_xml_blocks(mut log: String) -> String {
    let mut from = 0;
    while let Some(found) = regex!(r"<(\w+)>").captures_at(&log, from) {
        let open = found.get(0).expect("group 0 is the match");
        let (start, after, name) = (open.start(), open.end(), found[1].to_owned());
        let close = format!("</{name}>");
        let Some(at) = log[after..].find(&close) else {
            // No element begins here; the search goes on behind the bracket.
            from = start + 1;
            continue;
        };
        let end = after + at + close.len();
        let tag = format!("<{name}>");
        let nested = log[start..end].matches(&tag).count().saturating_sub(1);
        log.replace_range(start..end, &tag.repeat(nested));
        // What stays may close with what follows, and with what stood open before.
        from = 0;
    }
    log
}

//! How long instances took in an earlier run, read from the reports that it wrote.

use std::collections::HashMap;

use quick_junit::Report;
use serde::Deserialize;

/// A report that does not say how long instances took.
#[derive(Debug, thiserror::Error)]
pub enum DurationsError {
    /// It begins as XML, and is no JUnit report.
    #[error("it is no JUnit report")]
    Junit(#[from] quick_junit::DeserializeError),
    /// It is no report of a run.
    #[error("it is neither a JUnit report nor the report of a run")]
    Report(#[from] serde_json::Error),
}

/// Reads how many milliseconds instances took: from `junit.xml`, or from the report of a model,
/// `<model>.<run_id>.json`. An instance that is there several times has the mean; one that took no
/// time was not run and is left out.
///
/// # Errors
/// It is neither.
pub fn read(text: &str) -> Result<HashMap<String, u64>, DurationsError> {
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let seconds = match text.starts_with('<') {
        true => of_junit(text)?,
        false => of_report(text)?,
    };
    let mut sums: HashMap<String, (f64, u32)> = HashMap::new();
    for (id, seconds) in seconds.into_iter().filter(|(_, seconds)| *seconds > 0.0) {
        let sum = sums.entry(id).or_default();
        *sum = (sum.0 + seconds, sum.1 + 1);
    }
    let mean = |(sum, count): (f64, u32)| ((sum / f64::from(count)) * 1000.0).round() as u64;
    Ok(sums.into_iter().map(|(id, sum)| (id, mean(sum).max(1))).collect())
}

fn of_junit(text: &str) -> Result<Vec<(String, f64)>, DurationsError> {
    let report = Report::deserialize_from_str(text)?;
    let cases = report.test_suites.iter().flat_map(|suite| &suite.test_cases);
    let time = |time: Option<std::time::Duration>| time.map_or(0.0, |time| time.as_secs_f64());
    Ok(cases.map(|case| (case.name.as_str().to_owned(), time(case.time))).collect())
}

fn of_report(text: &str) -> Result<Vec<(String, f64)>, DurationsError> {
    #[derive(Deserialize)]
    struct Whole {
        imgforge: Own,
    }
    #[derive(Deserialize)]
    struct Own {
        instances: Vec<Row>,
    }
    #[derive(Deserialize)]
    struct Row {
        instance_id: String,
        #[serde(default)]
        test_seconds: f64,
        #[serde(default)]
        build_seconds: f64,
    }
    let whole: Whole = serde_json::from_str(text)?;
    let rows = whole.imgforge.instances.into_iter();
    Ok(rows.map(|row| (row.instance_id, row.test_seconds + row.build_seconds)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{harness, junit, testing};

    #[test]
    fn both_reports_of_a_run_say_the_same() {
        let report = testing::report();
        let of_xml = read(&junit::junit(&report)).unwrap();
        let of_json = read(&harness::run_report(&report, report.models()[0]).to_string()).unwrap();
        assert!(!of_xml.is_empty());
        for (id, milliseconds) in &of_json {
            let row = report.results.iter().find(|row| row.instance_id == *id).unwrap();
            let whole = (row.test_seconds + row.build_seconds) * 1000.0;
            assert_eq!(*milliseconds, whole.round() as u64, "{id}");
            assert_eq!(of_xml[id], (row.test_seconds * 1000.0).round() as u64, "{id}");
        }
    }

    #[test]
    fn an_instance_of_several_models_has_the_mean_and_one_without_time_is_left_out() {
        let text = r#"<testsuites name="r"><testsuite name="a" tests="2" errors="0" failures="0">
            <testcase name="x-1" time="1.000"/><testcase name="x-2" time="0.000"/></testsuite>
            <testsuite name="b" tests="1" errors="0" failures="0">
            <testcase name="x-1" time="3.000"/></testsuite></testsuites>"#;
        assert_eq!(read(text).unwrap(), HashMap::from([("x-1".to_owned(), 2000)]));
    }

    #[test]
    fn what_is_no_report_is_refused() {
        for text in ["", "[]", "{}", "<html/>", "<testsuites", r#"{"imgforge": {"instances": 1}}"#]
        {
            assert!(read(text).is_err(), "{text}");
        }
    }
}

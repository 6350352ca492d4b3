//! The lines of a terminal that change: what they say in the room that there is. Pure.

use std::borrow::Cow;

use super::rate::Rate;
use super::time;

/// Makes what a program printed harmless: without colours and other control characters, and of a
/// line that was written over what was written last.
pub(super) fn clean(line: &str) -> String {
    let plain = console::strip_ansi_codes(line);
    let last = plain.split('\r').rfind(|part| !part.trim().is_empty()).unwrap_or_default();
    let kept = last.chars().map(|letter| if letter == '\t' { ' ' } else { letter });
    kept.filter(|letter| !letter.is_control() && !is_invisible(*letter)).collect()
}

/// Characters that change how others are shown, such as the direction of writing.
fn is_invisible(letter: char) -> bool {
    matches!(letter, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Returns a node's id as it is shown while it runs: tests by their instance.
pub(super) fn name(id: &str) -> &str {
    id.strip_prefix("evaluation:").unwrap_or(id)
}

/// Cuts text to so many columns; what is cut off leaves a mark.
pub(super) fn cut(text: &str, columns: usize) -> Cow<'_, str> {
    console::truncate_str(text, columns, "…")
}

/// Cuts out of the middle of text: names differ at their ends.
fn cut_middle(text: &str, columns: usize) -> String {
    let letters: Vec<char> = text.chars().collect();
    if console::measure_text_width(text) <= columns || columns < 5 {
        return cut(text, columns).into_owned();
    }
    let end = columns / 2;
    let begin = columns - end - 1;
    let end: String = letters[letters.len().saturating_sub(end)..].iter().collect();
    let begin: String = letters[..begin.min(letters.len())].iter().collect();
    cut(&format!("{begin}…{end}"), columns).into_owned()
}

/// Returns the line of a running node: its name, its step, and what it printed last.
pub(super) fn running(id: &str, step: &str, line: &str, columns: usize) -> String {
    let name = cut_middle(name(id), (columns * 11 / 20).max(12));
    let mut text = name;
    for part in [step, line] {
        if !part.is_empty() {
            text.push_str(if text.ends_with(':') { " " } else { ": " });
            text.push_str(part);
        }
    }
    cut(&text, columns).into_owned()
}

/// What the line of the run says.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Total {
    /// Nodes that have ended.
    pub done: usize,
    /// Nodes to do.
    pub of: usize,
    /// Nodes that run.
    pub running: usize,
    /// Nodes that failed.
    pub failed: usize,
    /// Seconds since the beginning.
    pub elapsed: f64,
    /// Seconds that are left, where that is known.
    pub left: Option<f64>,
    /// Bytes that were moved, and those of a second.
    pub moved: (u64, u64),
}

/// Returns the line of the run; what has no room is left out, the least important first.
pub(super) fn total(total: &Total, columns: usize) -> String {
    let count = format!("{}/{}", total.done, total.of);
    let running = format!("{} running", total.running);
    let failed = (total.failed > 0).then(|| format!("{} failed", total.failed));
    let elapsed = time::clock(total.elapsed as u64);
    let left = total.left.map(|left| format!("about {} left", time::about(left)));
    let short = total.left.map(|left| format!("~{} left", time::about(left)));
    let moved = Some(Rate::text(total.moved)).filter(|_| total.moved.1 > 0);
    let join = |parts: [Option<&String>; 5]| {
        let parts = parts.into_iter().flatten().map(String::as_str);
        std::iter::once(count.as_str()).chain(parts).collect::<Vec<&str>>().join(", ")
    };
    let choices = [
        [Some(&running), failed.as_ref(), moved.as_ref(), Some(&elapsed), left.as_ref()],
        [Some(&running), failed.as_ref(), None, Some(&elapsed), left.as_ref()],
        [None, failed.as_ref(), None, Some(&elapsed), left.as_ref()],
        [None, failed.as_ref(), None, Some(&elapsed), short.as_ref()],
        [None, failed.as_ref(), None, None, short.as_ref()],
    ];
    let texts = choices.map(join);
    let fits = texts.iter().find(|text| text.chars().count() <= columns);
    cut(fits.unwrap_or(&texts[4]), columns).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_print_cannot_move_the_cursor() {
        for (line, shown) in [
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            (" 10%\r 50%\r100%", "100%"),
            ("done\r", "done"),
            ("a\tb\u{7}\u{8}", "a b"),
            ("\u{1b}]0;title\u{7}text", "text"),
            ("\u{202e}abc", "abc"),
        ] {
            assert_eq!(clean(line), shown, "{line:?}");
        }
    }

    #[test]
    fn a_line_has_the_room_that_there_is() {
        let id = "evaluation:imgforge__abacus-1+gold";
        let (step, line) = ("run the tests", "tests/test_a.py::test_one PASSED");
        assert_eq!(
            running(id, step, line, 71),
            "imgforge__abacus-1+gold: run the tests: tests/test_a.py::test_one PASS…"
        );
        assert_eq!(running(id, step, line, 31), "imgforge…s-1+gold: run the tes…");
        for columns in 1..200 {
            for line in [line, "模型模型模型模型模型模型模型模型模型模型模型模型模型模型模型模型"]
            {
                let text = running("env:a/模型模型模型模型@1", step, line, columns);
                assert!(console::measure_text_width(&text) <= columns, "{columns} {text}");
            }
        }
    }

    #[test]
    fn the_line_of_the_run_leaves_out_what_has_no_room() {
        let run = Total {
            done: 3,
            of: 26,
            running: 2,
            failed: 1,
            elapsed: 62.4,
            left: Some(301.0),
            moved: (5 << 20, 1 << 20),
        };
        assert_eq!(
            total(&run, 80),
            "3/26, 2 running, 1 failed, 5.00 MiB, 1.00 MiB/s, 1:02, about 5m left"
        );
        assert_eq!(total(&run, 60), "3/26, 2 running, 1 failed, 1:02, about 5m left");
        assert_eq!(total(&run, 40), "3/26, 1 failed, 1:02, about 5m left");
        assert_eq!(total(&run, 28), "3/26, 1 failed, ~5m left");
        assert_eq!(
            total(&Total { left: None, failed: 0, moved: (9, 0), ..run }, 60),
            "3/26, 2 running, 1:02"
        );
    }
}

//! What an agent is told after an action.

use super::action::Action;
use super::text::lines;

/// What an agent is told whose answer has no function, letter by letter as R2E-Gym has it.
const CONTINUE: &str = "\nYou forgot to use a function call in your response. \n\
     YOU MUST USE A FUNCTION CALL IN EACH RESPONSE.\n\n\
     IMPORTANT: YOU SHOULD NEVER ASK FOR HUMAN HELP.\n";

/// What an agent is told after `finish` and `submit`.
const FINISHED: &str = "<<< Finished >>>";

/// Of a longer output the first and the last lines are told, so many of each.
const KEPT: usize = 40;

/// Returns what an agent is told of an output and its exit code. That of `execute_bash` and `bash` has the code
/// before it, and of more than 80 lines the first and the last 40.
pub fn observation(action: &Action, output: &str, code: &str) -> String {
    let name = &action.function;
    match name.as_str() {
        "" => CONTINUE.to_owned(),
        "finish" | "submit" => FINISHED.to_owned(),
        "execute_bash" | "bash" => {
            let output = shortened(output);
            format!("Exit code: {code}\nExecution output of [{name}]:\n{output}")
        }
        _ => format!("Execution output of [{name}]:\n{output}"),
    }
}

fn shortened(output: &str) -> String {
    let lines = lines(output);
    if lines.len() <= 2 * KEPT {
        return output.to_owned();
    }
    let divider = "-".repeat(50);
    let (head, tail) = (lines[..KEPT].join("\n"), lines[lines.len() - KEPT..].join("\n"));
    let middle = "<Observation truncated in middle for saving context>";
    [head.as_str(), &divider, middle, &divider, &tail].join("\n")
}

//! Words of a Dockerfile: quotes, escapes and variables, as Docker's own shell lexer takes them
//! (<https://github.com/moby/buildkit/blob/master/frontend/dockerfile/shell/lex.go>).

/// How deep variables may lie in the defaults of others.
const DEEPEST: usize = 32;

/// Splits text into words, without their quotes and with variables expanded.
pub(super) fn words(
    text: &str,
    value: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<String>, String> {
    let mut lexer = Lexer { rest: text, value, depth: 0 };
    let mut words = Vec::new();
    loop {
        lexer.rest = lexer.rest.trim_start();
        if lexer.rest.is_empty() {
            return Ok(words);
        }
        words.push(lexer.word(true)?);
    }
}

/// Expands variables and removes quotes in text that is one word, whatever is in it.
pub(super) fn expand(text: &str, value: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    Lexer { rest: text, value, depth: 0 }.word(false)
}

/// Splits `NAME=value …`, or the older `NAME value`, into pairs.
pub(super) fn pairs(
    text: &str,
    value: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<(String, String)>, String> {
    let first = text.split_whitespace().next().unwrap_or("");
    if !first.contains('=') {
        let rest = text.trim_start()[first.len()..].trim();
        return match (first, rest) {
            ("", _) | (_, "") => Err(format!("`{}` has no value", text.trim())),
            _ => Ok(vec![(first.to_owned(), expand(rest, value)?)]),
        };
    }
    let split = |word: String| match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{word}` is not NAME=value")),
    };
    words(text, value)?.into_iter().map(split).collect()
}

struct Lexer<'a> {
    rest: &'a str,
    value: &'a dyn Fn(&str) -> Option<String>,
    depth: usize,
}

impl Lexer<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.rest.chars().next()?;
        self.rest = &self.rest[next.len_utf8()..];
        Some(next)
    }

    fn word(&mut self, split: bool) -> Result<String, String> {
        let mut word = String::new();
        while let Some(next) = self.rest.chars().next() {
            if split && next.is_whitespace() {
                break;
            }
            self.next();
            match next {
                '\'' => loop {
                    match self.next() {
                        Some('\'') => break,
                        Some(other) => word.push(other),
                        None => return Err("a single quote is not closed".to_owned()),
                    }
                },
                '"' => self.quoted(&mut word)?,
                '\\' => word.extend(self.next()),
                '$' => word.push_str(&self.variable()?),
                other => word.push(other),
            }
        }
        Ok(word)
    }

    fn quoted(&mut self, word: &mut String) -> Result<(), String> {
        loop {
            match self.next() {
                Some('"') => return Ok(()),
                Some('\\') => match self.next() {
                    Some(escaped @ ('"' | '$' | '\\')) => word.push(escaped),
                    Some(other) => word.extend(['\\', other]),
                    None => word.push('\\'),
                },
                Some('$') => word.push_str(&self.variable()?),
                Some(other) => word.push(other),
                None => return Err("a double quote is not closed".to_owned()),
            }
        }
    }

    fn variable(&mut self) -> Result<String, String> {
        if let Some(after) = self.rest.strip_prefix('{') {
            let mut depth = 1;
            let end = after.char_indices().find(|(_, c)| {
                depth += i32::from(*c == '{') - i32::from(*c == '}');
                depth == 0
            });
            let Some((end, _)) = end else { return Err("`${` is not closed".to_owned()) };
            let inside = &after[..end];
            self.rest = &after[end + 1..];
            return self.substitute(inside);
        }
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = self.rest.find(|c| !word(c)).unwrap_or(self.rest.len());
        let (name, after) = self.rest.split_at(end);
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        self.rest = after;
        Ok((self.value)(name).unwrap_or_default())
    }

    fn substitute(&self, inside: &str) -> Result<String, String> {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = inside.find(|c| !word(c)).unwrap_or(inside.len());
        let (name, modifier) = inside.split_at(end);
        let found = (self.value)(name);
        let full = found.clone().filter(|value| !value.is_empty());
        let other = |text: &str| {
            let depth = self.depth + 1;
            match depth > DEEPEST {
                true => Err(format!("variables are nested more than {DEEPEST} times")),
                false => Lexer { rest: text, value: self.value, depth }.word(false),
            }
        };
        if modifier.is_empty() {
            return Ok(found.unwrap_or_default());
        }
        for (mark, found) in [(":", &full), ("", &found)] {
            let Some(rest) = modifier.strip_prefix(mark) else { continue };
            if let Some(default) = rest.strip_prefix('-') {
                return found.clone().map_or_else(|| other(default), Ok);
            }
            if let Some(text) = rest.strip_prefix('+') {
                return if found.is_some() { other(text) } else { Ok(String::new()) };
            }
            if let Some(message) = rest.strip_prefix('?') {
                let message = other(message)?;
                return found.clone().ok_or_else(|| format!("`{name}`: {message}"));
            }
        }
        Err(format!("`${{{inside}}}` is not a substitution that is known here"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str) -> Option<String> {
        match name {
            "A" => Some("a b".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn words_are_split_outside_quotes_and_variables_are_expanded() {
        let of = |text| words(text, &value).unwrap();
        assert_eq!(of("a  b\tc"), ["a", "b", "c"]);
        assert_eq!(of(r#"x="1 2" y='$A' z=\$A"#), ["x=1 2", "y=$A", "z=$A"]);
        assert_eq!(of(r#"$A ${A}x "${A}""#), ["a b", "a bx", "a b"]);
        assert_eq!(of(r#""a\"b\n" $"#), [r#"a"b\n"#, "$"]);
        assert!(words("'a", &value).is_err());
        assert!(words("${A", &value).is_err());
    }

    #[test]
    fn defaults_and_alternatives_are_taken() {
        let of = |text| expand(text, &value).unwrap();
        assert_eq!(of("${NO:-x$A}"), "xa b");
        assert_eq!(of("${EMPTY:-x}${EMPTY-y}"), "x");
        assert_eq!(of("${A:+yes}${EMPTY:+no}${EMPTY+set}"), "yesset");
        assert_eq!(expand("${NO:?is needed}", &value).unwrap_err(), "`NO`: is needed");
        assert!(expand("${A/x/y}", &value).is_err());
    }

    #[test]
    fn variables_are_nested_only_so_deep() {
        let nested = |times: usize| "${NO:-".repeat(times) + "x" + &"}".repeat(times);
        assert_eq!(expand(&nested(DEEPEST), &value).unwrap(), "x");
        let error = expand(&nested(20_000), &value).unwrap_err();
        assert_eq!(error, "variables are nested more than 32 times");
    }

    #[test]
    fn pairs_have_two_forms() {
        let of = |text| pairs(text, &value).unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(of("A=1 B=\"2 3\""), [pair("A", "1"), pair("B", "2 3")]);
        assert_eq!(of("PATH /x:$A"), [pair("PATH", "/x:a b")]);
        assert!(pairs("A", &value).is_err());
    }
}

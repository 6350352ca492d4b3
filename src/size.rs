//! Amounts of bytes, as people write them: one spelling means one amount, on the command line and in
//! `images.toml`.

/// What engines refuse as too little to start a process.
const LEAST_MEMORY: u64 = 6 << 20;

/// Reads an amount of bytes: a number with `k`, `m`, `g` or `t` as powers of 1024 (as `docker run
/// --memory` and GNU programs do), with `KB` to `TB` as powers of 1000 (as disks are sold), and with
/// `KiB` to `TiB` as powers of 1024.
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (digits, unit) = lower.split_at(end);
    let unit = unit.trim();
    let (letter, base) = match unit.strip_suffix("ib").or(unit.strip_suffix('i')) {
        Some(letter) => (letter, 1024.0),
        None => match unit.strip_suffix('b') {
            Some(letter) => (letter, 1000.0),
            None => (unit, 1024.0),
        },
    };
    let power = ["", "k", "m", "g", "t"].iter().position(|known| *known == letter);
    match (digits.parse::<f64>(), power) {
        (Ok(number), Some(power)) => Ok((number * f64::powi(base, power as i32)) as u64),
        _ => Err(format!("`{text}` is not an amount of bytes: write it as 4g, 64GiB or 500GB")),
    }
}

/// Reads the memory of a container, see [`bytes`].
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn memory(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        bytes if bytes >= LEAST_MEMORY => Ok(bytes),
        _ => Err(format!("`{text}` is too little: at least 6m are needed")),
    }
}

/// A bound of something that may have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// At most so many.
    Most(u64),
    /// Without an end.
    None,
}

impl Bound {
    /// Returns the most, where there is one.
    pub fn most(self) -> Option<u64> {
        match self {
            Bound::Most(most) => Some(most),
            Bound::None => None,
        }
    }
}

/// Reads the most bytes that may be written, at least a mebibyte, or `none`.
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn bytes_bound(text: &str) -> Result<Bound, String> {
    if text == "none" {
        return Ok(Bound::None);
    }
    match bytes(text)? {
        bytes if bytes >= 1 << 20 => Ok(Bound::Most(bytes)),
        _ => Err(format!("`{text}` is too little: at least 1m is needed, or `none`")),
    }
}

/// Reads the most files that may be made, at least a hundred, or `none`.
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn files_bound(text: &str) -> Result<Bound, String> {
    if text == "none" {
        return Ok(Bound::None);
    }
    match text.trim().parse::<u64>() {
        Ok(number) if number >= 100 => Ok(Bound::Most(number)),
        Ok(_) => Err(format!("`{text}` is too few: at least 100 are needed, or `none`")),
        Err(error) => Err(format!("{error}: expected a number, or `none`")),
    }
}

/// Reads processors, such as `1.5`, in thousandths.
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn milli_cpus(text: &str) -> Result<u64, String> {
    match text.trim().parse::<f64>() {
        Ok(number) if (0.01..=4096.0).contains(&number) => Ok((number * 1000.0).round() as u64),
        Ok(_) => Err("it must be at least 0.01".to_owned()),
        Err(error) => Err(format!("{error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_of_bytes_has_one_meaning() {
        let amounts = [
            ("12", 12),
            ("12b", 12),
            ("2g", 2 << 30),
            ("1.5G", 3 << 29),
            ("512m", 512 << 20),
            ("100GB", 100_000_000_000),
            ("1.5 TB", 1_500_000_000_000),
            ("64GiB", 64 << 30),
            ("512Mi", 512 << 20),
        ];
        for (text, expected) in amounts {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for wrong in ["", "lots", "5 potatoes", "GB", "-1G", "1.2.3", "1e", "ib"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_bound_is_an_amount_or_none() {
        assert_eq!(bytes_bound("20g"), Ok(Bound::Most(20 << 30)));
        assert_eq!(bytes_bound("none").unwrap().most(), None);
        assert!(bytes_bound("0").is_err());
        assert_eq!(files_bound("1000000").unwrap().most(), Some(1_000_000));
        assert_eq!(files_bound("none"), Ok(Bound::None));
        assert!(files_bound("3").is_err());
        assert!(files_bound("1g").is_err());
    }

    #[test]
    fn memory_and_processors_have_a_least() {
        assert_eq!(memory("4g"), Ok(4 << 30));
        assert!(memory("1k").is_err());
        assert!(memory("5m").is_err());
        assert_eq!(milli_cpus("1.5"), Ok(1500));
        assert!(milli_cpus("0").is_err());
        assert!(milli_cpus("many").is_err());
    }
}

//! Shards: the parts of a run that several machines share.
//!
//! A cut is a pure function of what is planned. Nothing of a machine enters, neither its state nor its
//! clock, so that all shards of a run compute the same one.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The most shards of a run.
const MOST: u32 = 100_000;

/// One of the parts that a run is cut into, written `3/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Shard {
    index: u32,
    count: u32,
}

/// A text that names no shard.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no shard: write I/N, such as 3/8, with I from 1 to N")]
pub struct NotAShard(String);

impl Shard {
    /// Returns the shard of a number from 1 to `count`; `None` for any other.
    pub fn new(index: u32, count: u32) -> Option<Shard> {
        ((1..=count).contains(&index) && count <= MOST).then_some(Shard { index, count })
    }

    /// Returns its number, from 1.
    pub fn index(self) -> u32 {
        self.index
    }

    /// Returns how many shards there are.
    pub fn count(self) -> u32 {
        self.count
    }

    /// Returns it as files and directories are named, such as `3-of-8`.
    pub fn file_name(self) -> String {
        format!("{}-of-{}", self.index, self.count)
    }

    /// Reads what [`Shard::file_name`] gives.
    pub fn of_file_name(text: &str) -> Option<Shard> {
        let (index, count) = text.split_once("-of-")?;
        let shard = Shard::new(index.parse().ok()?, count.parse().ok()?)?;
        (shard.file_name() == text).then_some(shard)
    }

    /// Returns its part of a list of things with these weights, in their order: all shards together
    /// have each thing once. With equal weights the parts differ by one thing at most; otherwise a
    /// thing belongs to the part in which its middle lies.
    pub fn slice(self, weights: &[u64]) -> Range<usize> {
        let total: u128 = weights.iter().map(|weight| u128::from(*weight).max(1)).sum();
        let (mut before, mut start, mut end) = (0, 0, 0);
        for (at, weight) in weights.iter().enumerate() {
            let weight = u128::from(*weight).max(1);
            let part = (2 * before + weight) * u128::from(self.count) / (2 * total);
            if part < u128::from(self.index - 1) {
                start = at + 1;
            }
            if part < u128::from(self.index) {
                end = at + 1;
            }
            before += weight;
        }
        start..end
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = NotAShard;

    fn from_str(text: &str) -> Result<Shard, NotAShard> {
        let read = || {
            let (index, count) = text.trim().split_once('/')?;
            Shard::new(index.parse().ok()?, count.parse().ok()?)
        };
        read().ok_or_else(|| NotAShard(text.to_owned()))
    }
}

impl From<Shard> for String {
    fn from(shard: Shard) -> String {
        shard.to_string()
    }
}

impl TryFrom<String> for Shard {
    type Error = NotAShard;

    fn try_from(text: String) -> Result<Shard, NotAShard> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slices(weights: &[u64], count: u32) -> Vec<Range<usize>> {
        (1..=count).map(|index| Shard::new(index, count).unwrap().slice(weights)).collect()
    }

    proptest! {
        #[test]
        fn every_thing_is_in_one_part_and_parts_keep_the_order(
            weights in prop::collection::vec(0..1_000_000_u64, 0..300), count in 1..70_u32,
        ) {
            let mut next = 0;
            for slice in slices(&weights, count) {
                prop_assert_eq!(slice.start, next);
                prop_assert!(slice.end >= slice.start);
                next = slice.end;
            }
            prop_assert_eq!(next, weights.len());
        }

        #[test]
        fn parts_of_equal_things_differ_by_one_at_most(
            things in 0..2000_usize, count in 1..70_u32, weight in 0..u64::MAX,
        ) {
            let sizes = slices(&vec![weight; things], count).into_iter().map(|slice| slice.len());
            let (least, most) = sizes.fold((usize::MAX, 0), |(least, most), size| {
                (least.min(size), most.max(size))
            });
            prop_assert!(most - least <= 1, "{} to {}", least, most);
        }

        #[test]
        fn no_part_is_heavier_than_its_share_and_the_heaviest_thing(
            weights in prop::collection::vec(1..1_000_000_u64, 1..300), count in 1..70_u32,
        ) {
            let total: u64 = weights.iter().sum();
            let heaviest = weights.iter().max().unwrap();
            for slice in slices(&weights, count) {
                let weight: u64 = weights[slice].iter().sum();
                prop_assert!(weight <= total.div_ceil(u64::from(count)) + heaviest);
            }
        }

        #[test]
        fn a_shard_is_read_as_it_is_written(count in 1..=MOST, at in 0..u32::MAX) {
            let shard = Shard::new(at % count + 1, count).unwrap();
            prop_assert_eq!(shard.to_string().parse(), Ok(shard));
            prop_assert_eq!(Shard::of_file_name(&shard.file_name()), Some(shard));
        }
    }

    #[test]
    fn what_is_no_shard_is_refused() {
        for text in ["", "3", "0/8", "9/8", "1/0", "-1/8", "1/8/2", "a/b", "1/100001", "1 / 2"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
        for text in ["", "1-of-", "01-of-2", "3-of-2", "1/2"] {
            assert_eq!(Shard::of_file_name(text), None, "{text}");
        }
    }
}

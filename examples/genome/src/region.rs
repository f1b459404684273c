//! Regions as samtools has them: `chr1`, `chr1:1000`, `chr1:1,000-2,000`, `*`.

/// A part of a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Region {
    /// Positions counted from 0, without the last.
    On { reference: usize, from: i64, to: i64 },
    /// What has no reference.
    Unplaced,
}

impl Region {
    /// The region of this text.
    ///
    /// # Errors
    /// If there is no such reference, or the positions are none.
    pub fn parse(text: &str, find: impl Fn(&[u8]) -> Option<usize>) -> Result<Region, String> {
        if text == "*" {
            return Ok(Region::Unplaced);
        }
        // Names may have colons.
        if let Some(reference) = find(text.as_bytes()) {
            return Ok(Region::On { reference, from: 0, to: i64::MAX });
        }
        let unknown = || format!("there is no reference {text}");
        let (name, range) = text.rsplit_once(':').ok_or_else(unknown)?;
        let reference = find(name.as_bytes()).ok_or_else(unknown)?;
        let (from, to) = range.split_once('-').unwrap_or((range, ""));
        let number = |text: &str, default: i64| match text {
            "" => Ok(default),
            text => {
                let digits: String = text.chars().filter(|letter| *letter != ',').collect();
                let number = digits.parse::<u32>().map(i64::from);
                number
                    .map_err(|_| format!("{range} are no positions: write FROM-TO, counted from 1"))
            }
        };
        let (from, to) = (number(from, 1)?, number(to, i64::MAX)?);
        if from > to {
            return Err(format!("{range} ends before it begins"));
        }
        Ok(Region::On { reference, from: (from - 1).max(0), to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_counted_from_one_and_names_may_have_colons() {
        let find = |name: &[u8]| [&b"a"[..], b"b:1"].iter().position(|known| *known == name);
        let on = |reference, from, to| Ok(Region::On { reference, from, to });
        assert_eq!(Region::parse("a", find), on(0, 0, i64::MAX));
        assert_eq!(Region::parse("a:11", find), on(0, 10, i64::MAX));
        assert_eq!(Region::parse("a:1,001-2,000", find), on(0, 1000, 2000));
        assert_eq!(Region::parse("b:1", find), on(1, 0, i64::MAX));
        assert_eq!(Region::parse("b:1:5-6", find), on(1, 4, 6));
        assert_eq!(Region::parse("*", find), Ok(Region::Unplaced));
        for wrong in ["c", "a:x", "a:5-4", "b:2"] {
            assert!(Region::parse(wrong, find).is_err(), "{wrong}");
        }
    }
}

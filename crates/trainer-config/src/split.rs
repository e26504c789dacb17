//! The value of `split`: which split of a data set is used, and which part of it.
//!
//! The syntax is that of the `datasets` library: a name, or a name and a slice
//! in square brackets, several of them joined by `+`. Bounds are rows or percent;
//! negative ones count from the end.

/// One or more parts of splits, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitSpec {
    /// The parts; never empty.
    pub parts: Vec<SplitPart>,
}

/// A split, or a slice of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitPart {
    /// Name of the split.
    pub name: String,
    /// First row; from the first when absent.
    pub from: Option<Bound>,
    /// The row after the last; to the end when absent.
    pub to: Option<Bound>,
}

/// A bound of a slice; below 0, counted from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// A number of rows.
    Rows(i64),
    /// A percentage of the rows, from -100 to 100.
    Percent(i64),
}

impl Bound {
    /// The bound as a row number of a split of `rows` rows. A percentage is
    /// rounded to the nearest row.
    ///
    /// # Errors
    /// A number of rows beyond the split.
    pub fn resolve(self, rows: usize) -> Result<usize, String> {
        // Rows of a file fit into 63 bits.
        let total = i128::from(u64::try_from(rows).unwrap_or(u64::MAX));
        let (distance, negative) = match self {
            Self::Rows(n) => (i128::from(n).abs(), n < 0),
            Self::Percent(p) => ((i128::from(p).abs() * total + 50) / 100, p < 0),
        };
        if distance > total {
            return Err(format!("row {distance} of {total}"));
        }
        let row = if negative { total - distance } else { distance };
        Ok(usize::try_from(row).unwrap_or(rows))
    }
}

impl SplitPart {
    /// Whether the part is the whole split.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.from.is_none() && self.to.is_none()
    }

    /// The rows of the part, of a split of `rows` rows.
    ///
    /// # Errors
    /// A bound beyond the split.
    pub fn range(&self, rows: usize) -> Result<std::ops::Range<usize>, String> {
        let from = self.from.map_or(Ok(0), |bound| bound.resolve(rows))?;
        let to = self.to.map_or(Ok(rows), |bound| bound.resolve(rows))?;
        Ok(from..to.max(from))
    }
}

impl SplitSpec {
    /// Reads the value of `split`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split('+').map(part).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { parts })
    }

    /// The whole split of a name.
    #[must_use]
    pub fn whole(name: &str) -> Self {
        Self {
            parts: vec![SplitPart {
                name: name.to_owned(),
                from: None,
                to: None,
            }],
        }
    }
}

fn part(text: &str) -> Result<SplitPart, String> {
    let text = text.trim();
    let (name, slice) = match text.split_once('[') {
        Some((name, rest)) => match rest.strip_suffix(']') {
            Some(slice) => (name.trim_end(), Some(slice)),
            None => return Err(format!("`{text}` has no `]` at its end")),
        },
        None => (text, None),
    };
    let letters = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || !name.chars().all(letters) {
        return Err(format!("`{name}` is no name of a split"));
    }
    let (from, to) = match slice {
        None => (None, None),
        Some(slice) => {
            let (from, to) = slice
                .split_once(':')
                .ok_or_else(|| format!("`[{slice}]` has no `:` between its bounds"))?;
            (bound(from)?, bound(to)?)
        }
    };
    if let (Some(Bound::Rows(_)), Some(Bound::Percent(_)))
    | (Some(Bound::Percent(_)), Some(Bound::Rows(_))) = (from, to)
    {
        return Err(format!("`{text}` mixes rows and percent"));
    }
    Ok(SplitPart {
        name: name.to_owned(),
        from,
        to,
    })
}

fn bound(text: &str) -> Result<Option<Bound>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let (digits, percent) = match text.strip_suffix('%') {
        Some(digits) => (digits.trim_end(), true),
        None => (text, false),
    };
    // Underscores between digits are allowed, as in Python.
    let number: i64 = digits
        .replace('_', "")
        .parse()
        .map_err(|_| format!("`{text}` is neither a whole number nor a percentage"))?;
    if percent && !(-100..=100).contains(&number) {
        return Err(format!("`{text}` is beyond 100%"));
    }
    Ok(Some(if percent {
        Bound::Percent(number)
    } else {
        Bound::Rows(number)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_as_the_datasets_library_cuts_them() {
        for (text, rows, expected) in [
            ("train", 7, 0..7),
            ("train[:1%]", 250, 0..3),
            ("train[:1%]", 40, 0..0),
            ("train[10:20]", 30, 10..20),
            ("train[-5%:]", 100, 95..100),
            ("train[-5:]", 7, 2..7),
            ("train[:-2]", 7, 0..5),
            ("train[ 1_0 : ]", 30, 10..30),
            ("train[33%:66%]", 10, 3..7),
            ("train[5:2]", 10, 5..5),
        ] {
            let spec = SplitSpec::parse(text).unwrap();
            assert_eq!(spec.parts[0].range(rows), Ok(expected), "{text}");
        }
        let spec = SplitSpec::parse("train[:50%] + test").unwrap();
        assert_eq!(spec.parts[1], SplitSpec::whole("test").parts[0]);
        assert_eq!(
            SplitSpec::parse("train[:8]").unwrap().parts[0].range(7),
            Err("row 8 of 7".to_owned())
        );
    }

    #[test]
    fn what_is_wrong_with_a_split() {
        for (text, expected) in [
            ("", "`` is no name of a split"),
            ("train+", "`` is no name of a split"),
            ("a b", "`a b` is no name of a split"),
            ("train[:10", "`train[:10` has no `]` at its end"),
            ("train[10]", "`[10]` has no `:` between its bounds"),
            (
                "train[:x]",
                "`x` is neither a whole number nor a percentage",
            ),
            ("train[:200%]", "`200%` is beyond 100%"),
            ("train[5:10%]", "`train[5:10%]` mixes rows and percent"),
            (
                "train[:99999999999999999999]",
                "`99999999999999999999` is neither a whole number nor a percentage",
            ),
        ] {
            assert_eq!(SplitSpec::parse(text).unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn percentages_of_a_split_cover_it() {
        for rows in [0, 1, 7, 99, 100, 101, 1_000_003] {
            let mut next = 0;
            for percent in (0..100).step_by(10) {
                let text = format!("train[{percent}%:{}%]", percent + 10);
                let range = SplitSpec::parse(&text).unwrap().parts[0]
                    .range(rows)
                    .unwrap();
                assert_eq!(range.start, next);
                next = range.end;
            }
            assert_eq!(next, rows);
        }
    }
}

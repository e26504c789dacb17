//! The columns of a row.
//!
//! Those of Parquet and Arrow files are decoded when they are asked for: a column
//! that nothing reads costs nothing, and what is wrong with it stops nothing.

use std::fmt;
use std::ops::Index;
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value};

use super::table::Batch;
use crate::{DataError, values};

/// The columns of a row by their names, in file order.
///
/// A value without a meaning as JSON (bytes that are no text, a date) is an object
/// that no reader takes for what it wants, so that reading it is an error and
/// leaving it alone is none.
#[derive(Clone)]
pub struct Columns(Inner);

#[derive(Clone)]
enum Inner {
    Ready(Map<String, Value>),
    Stored {
        batch: Arc<Batch>,
        row: usize,
        cells: Box<[OnceLock<Value>]>,
    },
}

/// What a column that is not there holds.
static NOTHING: Value = Value::Null;

impl Columns {
    /// A row of a batch.
    pub(super) fn stored(batch: Arc<Batch>, row: usize) -> Self {
        let cells = batch.names().iter().map(|_| OnceLock::new()).collect();
        Self(Inner::Stored { batch, row, cells })
    }

    /// The value of a column, if the row has it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        match &self.0 {
            Inner::Ready(map) => map.get(name),
            Inner::Stored { batch, .. } => {
                let place = batch.names().iter().position(|other| other == name)?;
                self.cell(place)
            }
        }
    }

    /// The value at a place of a batch.
    fn cell(&self, place: usize) -> Option<&Value> {
        let Inner::Stored { batch, row, cells } = &self.0 else {
            return None;
        };
        Some(cells.get(place)?.get_or_init(|| batch.value(place, *row)))
    }

    /// Whether the row has a column; nothing is decoded.
    #[must_use]
    pub fn contains_key(&self, name: &str) -> bool {
        match &self.0 {
            Inner::Ready(map) => map.contains_key(name),
            Inner::Stored { batch, .. } => batch.names().iter().any(|other| other == name),
        }
    }

    /// The names of the columns; nothing is decoded.
    pub fn keys(&self) -> Box<dyn Iterator<Item = &String> + '_> {
        match &self.0 {
            Inner::Ready(map) => Box::new(map.keys()),
            Inner::Stored { batch, .. } => Box::new(batch.names().iter()),
        }
    }

    /// Names and values of all columns, which decodes them.
    pub fn iter(&self) -> Box<dyn Iterator<Item = (&String, &Value)> + '_> {
        match &self.0 {
            Inner::Ready(map) => Box::new(map.iter()),
            Inner::Stored { batch, .. } => {
                let names = batch.names().iter().enumerate();
                Box::new(names.filter_map(|(place, name)| Some((name, self.cell(place)?))))
            }
        }
    }

    /// Names and values of the columns that were asked for so far.
    pub(crate) fn asked(&self) -> Box<dyn Iterator<Item = (&String, &Value)> + '_> {
        match &self.0 {
            Inner::Ready(map) => Box::new(map.iter()),
            Inner::Stored { batch, cells, .. } => {
                let names = batch.names().iter().zip(cells);
                Box::new(names.filter_map(|(name, cell)| Some((name, cell.get()?))))
            }
        }
    }

    /// What is wrong with the file, where a column that was asked for could not be
    /// decoded.
    pub(crate) fn damage(&self) -> Option<DataError> {
        match &self.0 {
            Inner::Ready(_) => None,
            Inner::Stored { batch, cells, .. } => {
                let mut asked = cells.iter().enumerate();
                asked.find_map(|(place, cell)| {
                    cell.get()?;
                    batch.damage(place)
                })
            }
        }
    }

    /// Number of columns.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Inner::Ready(map) => map.len(),
            Inner::Stored { cells, .. } => cells.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All columns as a map, which decodes them.
    #[must_use]
    pub fn into_map(self) -> Map<String, Value> {
        match self.0 {
            Inner::Ready(map) => map,
            Inner::Stored { .. } => {
                let all = self.iter();
                all.map(|(name, value)| (name.clone(), value.clone()))
                    .collect()
            }
        }
    }

    /// The list of objects in another column that has this one in it, where the
    /// rows stand inside an object.
    pub(super) fn wrapping(&self, column: &str) -> Option<&String> {
        let Inner::Ready(map) = &self.0 else {
            return None;
        };
        let mut lists = map.iter();
        lists
            .find(|(_, value)| value.get(0).is_some_and(|row| row.get(column).is_some()))
            .map(|(name, _)| name)
    }
}

impl Default for Columns {
    fn default() -> Self {
        Map::new().into()
    }
}

impl From<Map<String, Value>> for Columns {
    fn from(map: Map<String, Value>) -> Self {
        Self(Inner::Ready(map))
    }
}

impl PartialEq for Columns {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self
                .iter()
                .all(|(name, value)| other.get(name) == Some(value))
    }
}

impl fmt::Debug for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.asked()).finish()
    }
}

impl Index<&str> for Columns {
    type Output = Value;

    /// The value of a column; null where there is none.
    fn index(&self, name: &str) -> &Value {
        self.get(name).unwrap_or(&NOTHING)
    }
}

/// About how many bytes a row takes up.
pub(super) fn size(columns: &Columns) -> usize {
    match &columns.0 {
        Inner::Ready(map) => map.values().map(values::size).sum(),
        Inner::Stored { batch, .. } => batch.bytes_of_a_row(),
    }
}

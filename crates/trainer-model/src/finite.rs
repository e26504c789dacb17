//! Numbers that are not finite: NaN passes every comparison, so that it is looked for
//! wherever numbers come in from files or go out to them.

use burn::module::Module;

use crate::error::{ModelError, Result};
use crate::parameters::visit_values;

/// What is wrong with numbers that are not all finite, for a message that begins with
/// the name of their tensor; `None` where all are.
pub(crate) fn not_finite(values: &[f32]) -> Option<String> {
    let first = values.iter().position(|value| !value.is_finite())?;
    let count = values[first..].iter().filter(|x| !x.is_finite()).count();
    Some(format!(
        "has numbers that are not finite: {count} of {}, the first {} at place {first}",
        values.len(),
        values[first]
    ))
}

/// Checks that every number of every parameter is finite.
///
/// # Errors
/// The first parameter that has others.
pub fn check_finite<M: Module>(model: &M) -> Result<()> {
    visit_values(model, |name, value| {
        for piece in value.pieces() {
            if piece.as_ref().iter().any(|number| !number.is_finite()) {
                return Err(ModelError::NotFinite {
                    tensor: name.to_owned(),
                });
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_is_counted() {
        assert_eq!(not_finite(&[]), None);
        assert_eq!(not_finite(&[f32::MAX, -0.0, f32::MIN_POSITIVE]), None);
        assert_eq!(
            not_finite(&[1.0, f32::NEG_INFINITY, 2.0, f32::NAN]).unwrap(),
            "has numbers that are not finite: 2 of 4, the first -inf at place 1"
        );
    }
}

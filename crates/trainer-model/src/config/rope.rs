//! Rotary position embeddings as `config.json` describes them.

use super::Reader;
use crate::error::Result;

/// Rotary position embedding: base, width and scaling of the frequencies.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the geometric series of frequencies.
    pub theta: f64,
    /// Leading dimensions of a head that are rotated; even, at least two.
    pub rotary_dim: usize,
    /// How the frequencies are changed for longer contexts.
    pub scaling: RopeScaling,
}

/// Changes to the rotary frequencies.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// All frequencies divided by `factor` (position interpolation, arXiv
    /// 2306.15595).
    Linear {
        /// Divisor of the frequencies.
        factor: f64,
    },
    /// The base grows with the longest position of a batch ("dynamic NTK").
    Dynamic {
        /// Growth of the base.
        factor: f64,
        /// Context length from which on it grows.
        max_position_embeddings: f64,
    },
    /// YaRN (arXiv 2309.00071): interpolation for the dimensions that turn
    /// rarely over the original context, none for those that turn often.
    Yarn {
        /// Divisor of the interpolated frequencies.
        factor: f64,
        /// Factor of the rotated vectors.
        attention_factor: f64,
        /// Turns above which a dimension is kept.
        beta_fast: f64,
        /// Turns below which a dimension is interpolated.
        beta_slow: f64,
        /// Whether the passage between them starts and ends at whole dimensions.
        truncate: bool,
        /// Context length the model was first trained on.
        original_max_position_embeddings: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a
    /// smooth passage between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are high frequencies.
        high_freq_factor: f64,
        /// Context length the model was first trained on.
        original_max_position_embeddings: f64,
    },
    /// LongRoPE (arXiv 2402.13753): a divisor for each frequency, one set for
    /// batches within the original context and one for longer ones.
    LongRope {
        /// Divisors within the original context, one a pair of dimensions.
        short_factor: Vec<f64>,
        /// Divisors beyond it.
        long_factor: Vec<f64>,
        /// Factor of the rotated vectors.
        attention_factor: f64,
        /// Context length the model was first trained on.
        original_max_position_embeddings: f64,
    },
}

impl RopeConfig {
    /// Reads `rope_parameters` (transformers 5) or `rope_theta` and
    /// `rope_scaling` (before).
    pub(crate) fn read(read: &Reader<'_>, head_dim: usize, default_theta: f64) -> Result<Self> {
        let inner = match read.object("rope_parameters")? {
            Some(inner) => Some(inner),
            None => read.object("rope_scaling")?,
        };
        Self::read_object(read, inner.as_ref(), head_dim, "rope_theta", default_theta)
    }

    /// Reads the parameters in `inner`; what it does not hold is a key of the
    /// file, the base under `theta_key`.
    pub(crate) fn read_object(
        read: &Reader<'_>,
        inner: Option<&Reader<'_>>,
        head_dim: usize,
        theta_key: &str,
        default_theta: f64,
    ) -> Result<Self> {
        let number = |key: &str| match inner.map(|inner| inner.number(key)).transpose()? {
            Some(Some(x)) => Ok(Some(x)),
            _ => read.number(key),
        };
        let theta = match inner.map(|inner| inner.number("rope_theta")).transpose()? {
            Some(Some(theta)) => theta,
            _ => read.number(theta_key)?.unwrap_or(default_theta),
        };
        if !(theta.is_finite() && theta > 1.0) {
            return Err(read.error(theta_key, format!("{theta} is not above 1")));
        }
        let part = number("partial_rotary_factor")?.unwrap_or(1.0);
        let rotary_dim = (head_dim as f64 * part) as usize;
        if !(part > 0.0 && part <= 1.0) || rotary_dim < 2 || !rotary_dim.is_multiple_of(2) {
            let message = format!(
                "{part} of head_dim, {head_dim}, are not an even number of dimensions from 2 to head_dim"
            );
            return Err(read.error("partial_rotary_factor", message));
        }
        Ok(Self {
            theta,
            rotary_dim,
            scaling: match inner {
                Some(inner) => scaling(read, inner, rotary_dim)?,
                None => RopeScaling::Default,
            },
        })
    }
}

fn scaling(read: &Reader<'_>, inner: &Reader<'_>, rotary_dim: usize) -> Result<RopeScaling> {
    let (kind, key) = match inner.text("rope_type")? {
        Some(kind) => (kind, "rope_type"),
        None => match inner.text("type")? {
            Some(kind) => (kind, "type"),
            None => return Ok(RopeScaling::Default),
        },
    };
    // The original context is a key of its own in some files, and the context
    // where it is nowhere.
    let original = || match inner.positive("original_max_position_embeddings")? {
        Some(n) => Ok(n),
        None => match read.positive("original_max_position_embeddings")? {
            Some(n) => Ok(n),
            None => read.required("max_position_embeddings"),
        },
    };
    match kind.as_str() {
        "default" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear {
            factor: inner.required("factor")?,
        }),
        "dynamic" => Ok(RopeScaling::Dynamic {
            factor: inner.required("factor")?,
            max_position_embeddings: read.required("max_position_embeddings")?,
        }),
        "yarn" => yarn(read, inner, original()?),
        "llama3" => {
            let low = inner.required("low_freq_factor")?;
            let high = inner.required("high_freq_factor")?;
            if high <= low {
                return Err(inner.error(
                    "high_freq_factor",
                    format!("{high} is not above low_freq_factor, {low}"),
                ));
            }
            Ok(RopeScaling::Llama3 {
                factor: inner.required("factor")?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: inner
                    .required("original_max_position_embeddings")?,
            })
        }
        // "su" is the name of Phi-3's first files.
        "longrope" | "su" => long_rope(read, inner, rotary_dim, original()?),
        other => Err(inner.error(
            key,
            format!(
                "\"{other}\" is not supported; supported: default, linear, dynamic, yarn, llama3, \
                 longrope"
            ),
        )),
    }
}

fn yarn(read: &Reader<'_>, inner: &Reader<'_>, original: f64) -> Result<RopeScaling> {
    let factor = match inner.positive("factor")? {
        Some(factor) => factor,
        None => read.required("max_position_embeddings")? / original,
    };
    let scale_of = |weight: f64| {
        if factor <= 1.0 {
            1.0
        } else {
            0.1 * weight * factor.ln() + 1.0
        }
    };
    let weights = (inner.positive("mscale")?, inner.positive("mscale_all_dim")?);
    let attention_factor = match (inner.positive("attention_factor")?, weights) {
        (Some(given), _) => given,
        (None, (Some(mscale), Some(all))) => scale_of(mscale) / scale_of(all),
        (None, _) => scale_of(1.0),
    };
    Ok(RopeScaling::Yarn {
        factor,
        attention_factor,
        beta_fast: inner.positive("beta_fast")?.unwrap_or(32.0),
        beta_slow: inner.positive("beta_slow")?.unwrap_or(1.0),
        truncate: inner.flag("truncate")?.unwrap_or(true),
        original_max_position_embeddings: original,
    })
}

fn long_rope(
    read: &Reader<'_>,
    inner: &Reader<'_>,
    rotary_dim: usize,
    original: f64,
) -> Result<RopeScaling> {
    let factors = |key: &str| -> Result<Vec<f64>> {
        let list = inner
            .list(key, "positive numbers", |value| {
                value.as_f64().filter(|x| x.is_finite() && *x > 0.0)
            })?
            .ok_or_else(|| inner.error(key, "is missing".into()))?;
        if list.len() != rotary_dim / 2 {
            let message = format!("has {} entries, expected {}", list.len(), rotary_dim / 2);
            return Err(inner.error(key, message));
        }
        Ok(list)
    };
    let factor = match inner.positive("factor")? {
        Some(factor) => factor,
        None => read.required("max_position_embeddings")? / original,
    };
    let attention_factor = match inner.positive("attention_factor")? {
        Some(given) => given,
        None => long_attention(factor, original),
    };
    Ok(RopeScaling::LongRope {
        short_factor: factors("short_factor")?,
        long_factor: factors("long_factor")?,
        attention_factor,
        original_max_position_embeddings: original,
    })
}

/// LongRoPE's factor of rotated vectors where a file gives none.
pub(super) fn long_attention(factor: f64, original: f64) -> f64 {
    match factor <= 1.0 {
        true => 1.0,
        false => (1.0 + factor.ln() / original.ln()).sqrt(),
    }
}

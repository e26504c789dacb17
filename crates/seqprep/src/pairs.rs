//! Collation for preference training: pairs of an answer that is preferred and
//! one that is not, and single answers with a verdict.
//!
//! A loss on preferences needs the sum of log-probabilities of each document by
//! itself, so a batch comes with the place of every document in it. Padded
//! batches hold one document a row, first all chosen ones, then all rejected
//! ones. Packed batches hold several pairs a row, the two documents of a pair
//! side by side, so that no pair is ever torn apart.
//!
//! Each document brings its own prompt, except in forked batches
//! ([`collate_forked_pairs`]): there the rejected answer of a pair goes on from the
//! prompt of the chosen one. Segment ids cannot say that, so such a batch comes with
//! a list of its [`Fork`]s.
//!
//! Invariants: those of [`collate`](mod@crate::collate); the places are
//! distinct, and together they cover every document of the batch.

use std::borrow::Borrow;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::collate::{CollateError, CollateOptions, PaddingSide, collate, collate_packed};
use crate::preference::{PreferencePair, StepSample};
use crate::sample::{Batch, Sample};

/// Where a document lies in a batch: the tokens of that row with that segment
/// id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Row of the batch, from 0.
    pub row: u32,
    /// Segment id in the row, from 1.
    pub segment: u32,
}

/// A batch of pairs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairBatch {
    /// The tokens.
    pub batch: Batch,
    /// The preferred document of each pair.
    pub chosen: Vec<Place>,
    /// The other document of each pair, in the same order.
    pub rejected: Vec<Place>,
    /// Documents that bring no prompt of their own.
    pub forks: Vec<Fork>,
}

/// An answer that goes on from the prompt of another document in its row, and must
/// see that prompt, but not the answer between the two. Ranges are of flat indices
/// (`row · width + token`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    /// The prompt.
    pub prompt: Range<u32>,
    /// The answer, which is all of its document.
    pub answer: Range<u32>,
}

/// A batch of documents, each with a verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgedBatch {
    /// The tokens.
    pub batch: Batch,
    /// Each document.
    pub documents: Vec<Place>,
    /// Whether the document is desirable, in the same order.
    pub desirable: Vec<bool>,
}

/// Why documents make no batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    /// A document has no tokens, and so no place in a batch.
    #[error("document {document} of the batch ({role}) has no tokens; drop empty rows first")]
    Empty {
        /// Number of the pair or the document, from 0.
        document: usize,
        /// `chosen`, `rejected` or `completion`.
        role: &'static str,
    },
    /// The documents do not fit into a rectangle.
    #[error(transparent)]
    Collate(#[from] CollateError),
}

/// One document a row: the chosen ones, then the rejected ones.
///
/// ```
/// use seqprep::{CollateOptions, PreferencePair, collate_pairs};
///
/// let pair = PreferencePair {
///     prompt: vec![1, 2],
///     chosen: vec![3, 9],
///     rejected: vec![4, 5, 9],
///     margin: None,
/// };
/// let batch = collate_pairs(&[pair.documents()], &CollateOptions::default())?;
/// assert_eq!(batch.batch.input_ids, [1, 2, 3, 9, 0, 1, 2, 4, 5, 9]);
/// # Ok::<(), seqprep::PairError>(())
/// ```
///
/// # Errors
/// See [`PairError`].
pub fn collate_pairs<S: Borrow<Sample>>(
    pairs: &[(S, S)],
    options: &CollateOptions,
) -> Result<PairBatch, PairError> {
    check_pairs(pairs.iter())?;
    let chosen = pairs.iter().map(|pair| pair.0.borrow());
    let rejected = pairs.iter().map(|pair| pair.1.borrow());
    let documents: Vec<&Sample> = chosen.chain(rejected).collect();
    let row = |row: usize| Place {
        row: row as u32,
        segment: 1,
    };
    Ok(PairBatch {
        batch: collate(&documents, options)?,
        chosen: (0..pairs.len()).map(row).collect(),
        rejected: (pairs.len()..documents.len()).map(row).collect(),
        forks: Vec::new(),
    })
}

/// Several pairs a row, each as its chosen document and its rejected one. The
/// pairs of the result are in the order of the rows.
///
/// ```
/// use seqprep::{
///     CollateOptions, Sample, best_fit_decreasing, collate_packed_pairs, pair_lengths,
/// };
///
/// let document = |len| Sample::all_trained(vec![1; len]);
/// let pairs = [(document(3), document(2)), (document(5), document(4)), (document(2), document(2))];
/// let packing = best_fit_decreasing(&pair_lengths(&pairs), 9)?;
/// let rows: Vec<Vec<(&Sample, &Sample)>> = packing
///     .bins()
///     .map(|bin| bin.iter().map(|&pair| &pairs[pair as usize]).map(|(c, r)| (c, r)).collect())
///     .collect();
/// let batch = collate_packed_pairs(&rows, &CollateOptions::default())?;
/// assert_eq!((batch.batch.rows, batch.batch.documents()), (2, 6));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// See [`PairError`].
pub fn collate_packed_pairs<S: Borrow<Sample>, R: AsRef<[(S, S)]>>(
    rows: &[R],
    options: &CollateOptions,
) -> Result<PairBatch, PairError> {
    check_pairs(rows.iter().flat_map(|row| row.as_ref()))?;
    let documents: Vec<Vec<&Sample>> = rows
        .iter()
        .map(|row| {
            let pairs = row.as_ref().iter();
            pairs.flat_map(|(c, r)| [c.borrow(), r.borrow()]).collect()
        })
        .collect();
    let mut pairs = PairBatch {
        batch: collate_packed(&documents, options)?,
        ..PairBatch::default()
    };
    for (place, document) in places(&documents).enumerate() {
        match place % 2 {
            0 => pairs.chosen.push(document),
            _ => pairs.rejected.push(document),
        }
    }
    Ok(pairs)
}

/// Several pairs a row, each as its prompt, the chosen answer and the rejected one:
/// the work on the prompt is done once.
///
/// Positions of the rejected answer go on from those of the prompt. Its first token
/// has no label, as in every document, though the end of the prompt predicts it. A
/// pair without a prompt, or whose rejected answer is empty, has no fork.
///
/// ```
/// use seqprep::{CollateOptions, PreferencePair, collate_forked_pairs};
///
/// let pair = PreferencePair {
///     prompt: vec![1, 2],
///     chosen: vec![3, 9],
///     rejected: vec![4, 5, 9],
///     margin: None,
/// };
/// let batch = collate_forked_pairs(&[[pair]], &CollateOptions::default())?;
/// assert_eq!(batch.batch.input_ids, [1, 2, 3, 9, 4, 5, 9]);
/// assert_eq!(batch.batch.position_ids, [0, 1, 2, 3, 2, 3, 4]);
/// assert_eq!((batch.forks[0].prompt.clone(), batch.forks[0].answer.clone()), (0..2, 4..7));
/// # Ok::<(), seqprep::PairError>(())
/// ```
///
/// # Errors
/// See [`PairError`].
pub fn collate_forked_pairs<P: Borrow<PreferencePair>, R: AsRef<[P]>>(
    rows: &[R],
    options: &CollateOptions,
) -> Result<PairBatch, PairError> {
    let rows: Vec<Vec<(Sample, Sample)>> = rows
        .iter()
        .map(|row| row.as_ref().iter().map(|p| forked(p.borrow())).collect())
        .collect();
    let mut pairs = collate_packed_pairs(&rows, options)?;
    for (row, documents) in rows.iter().enumerate() {
        let lengths = documents.iter().map(|(c, r)| c.len() + r.len());
        let padding = pairs.batch.width - lengths.sum::<usize>();
        let mut first = (row * pairs.batch.width) as u32;
        if options.padding_side == PaddingSide::Left {
            first += padding as u32;
        }
        for (chosen, rejected) in documents {
            let start = first + chosen.len() as u32;
            let end = start + rejected.len() as u32;
            if let Some(&prompt) = rejected.position_ids.as_ref().and_then(|p| p.first()) {
                pairs.forks.push(Fork {
                    prompt: first..first + prompt,
                    answer: start..end,
                });
            }
            first = end;
        }
    }
    Ok(pairs)
}

/// The documents of a pair, of which the rejected one has positions where it leaves
/// its prompt to the other.
fn forked(pair: &PreferencePair) -> (Sample, Sample) {
    let (chosen, mut rejected) = pair.documents();
    let prompt = pair.prompt.len();
    if prompt > 0 && !pair.rejected.is_empty() {
        let end = rejected.len() as u32;
        rejected.input_ids.drain(..prompt);
        rejected.labels.drain(..prompt);
        rejected.position_ids = Some((prompt as u32..end).collect());
    }
    (chosen, rejected)
}

/// One document a row, with its verdict.
///
/// # Errors
/// See [`PairError`].
pub fn collate_judged<S: Borrow<Sample>>(
    documents: &[(S, bool)],
    options: &CollateOptions,
) -> Result<JudgedBatch, PairError> {
    let rows: Vec<&[(S, bool)]> = documents.chunks(1).collect();
    collate_packed_judged(&rows, options)
}

/// Several documents a row, with their verdicts.
///
/// # Errors
/// See [`PairError`].
pub fn collate_packed_judged<S: Borrow<Sample>, R: AsRef<[(S, bool)]>>(
    rows: &[R],
    options: &CollateOptions,
) -> Result<JudgedBatch, PairError> {
    let all = || rows.iter().flat_map(|row| row.as_ref());
    if let Some(document) = all().position(|(sample, _)| sample.borrow().is_empty()) {
        return Err(PairError::Empty {
            document,
            role: "completion",
        });
    }
    let documents: Vec<Vec<&Sample>> = rows
        .iter()
        .map(|row| row.as_ref().iter().map(|(s, _)| s.borrow()).collect())
        .collect();
    Ok(JudgedBatch {
        batch: collate_packed(&documents, options)?,
        documents: places(&documents).collect(),
        desirable: all().map(|(_, desirable)| *desirable).collect(),
    })
}

/// Judged steps, one sample a row. Labels are verdicts on the token they stand
/// at, so that of a first token stays, unlike in other batches.
///
/// # Errors
/// See [`CollateError`].
pub fn collate_steps<S: Borrow<StepSample>>(
    samples: &[S],
    options: &CollateOptions,
) -> Result<Batch, CollateError> {
    let rows: Vec<&[S]> = samples.chunks(1).collect();
    collate_packed_steps(&rows, options)
}

/// Judged steps, several samples a row; see [`collate_steps`].
///
/// # Errors
/// See [`CollateError`].
pub fn collate_packed_steps<S: Borrow<StepSample>, R: AsRef<[S]>>(
    rows: &[R],
    options: &CollateOptions,
) -> Result<Batch, CollateError> {
    let documents: Vec<Vec<Sample>> = rows
        .iter()
        .map(|row| {
            let samples = row.as_ref().iter().map(Borrow::borrow);
            let document = |sample: &StepSample| Sample {
                input_ids: sample.input_ids.clone(),
                labels: sample.labels.clone(),
                position_ids: None,
            };
            samples.map(document).collect()
        })
        .collect();
    let mut batch = collate_packed(&documents, options)?;
    for (row, documents) in documents.iter().enumerate() {
        let tokens: usize = documents.iter().map(Sample::len).sum();
        let mut first = row * batch.width
            + match options.padding_side {
                PaddingSide::Right => 0,
                PaddingSide::Left => batch.width - tokens,
            };
        for document in documents {
            if let Some(&verdict) = document.labels.first() {
                batch.labels[first] = verdict;
            }
            first += document.len();
        }
    }
    Ok(batch)
}

/// Tokens of both documents of each pair, for a packer. A sum past 32 bits is
/// given as `u32::MAX`.
pub fn pair_lengths<S: Borrow<Sample>>(pairs: &[(S, S)]) -> Vec<u32> {
    pairs
        .iter()
        .map(|(chosen, rejected)| {
            let len = chosen
                .borrow()
                .len()
                .saturating_add(rejected.borrow().len());
            u32::try_from(len).unwrap_or(u32::MAX)
        })
        .collect()
}

fn check_pairs<'a, S: Borrow<Sample> + 'a>(
    pairs: impl Iterator<Item = &'a (S, S)>,
) -> Result<(), PairError> {
    for (document, (chosen, rejected)) in pairs.enumerate() {
        for (role, sample) in [("chosen", chosen), ("rejected", rejected)] {
            if sample.borrow().is_empty() {
                return Err(PairError::Empty { document, role });
            }
        }
    }
    Ok(())
}

/// The places of documents with tokens, row by row.
fn places(rows: &[Vec<&Sample>]) -> impl Iterator<Item = Place> {
    rows.iter().zip(0..).flat_map(|(documents, row)| {
        (1..=documents.len() as u32).map(move |segment| Place { row, segment })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(first: u32, len: u32) -> Sample {
        Sample::all_trained((first..first + len).collect())
    }

    fn pairs() -> [(Sample, Sample); 2] {
        [
            (sample(10, 2), sample(20, 3)),
            (sample(30, 1), sample(40, 2)),
        ]
    }

    fn place(row: u32, segment: u32) -> Place {
        Place { row, segment }
    }

    #[test]
    fn chosen_rows_come_before_rejected_ones() {
        let batch = collate_pairs(&pairs(), &CollateOptions::default()).unwrap();
        assert_eq!(
            batch.batch.input_ids,
            [10, 11, 0, 30, 0, 0, 20, 21, 22, 40, 41, 0]
        );
        assert_eq!(batch.chosen, [place(0, 1), place(1, 1)]);
        assert_eq!(batch.rejected, [place(2, 1), place(3, 1)]);
    }

    #[test]
    fn a_packed_pair_lies_side_by_side() {
        assert_eq!(pair_lengths(&pairs()), [5, 3]);
        let batch = collate_packed_pairs(&[pairs()], &CollateOptions::default()).unwrap();
        assert_eq!(batch.batch.input_ids, [10, 11, 20, 21, 22, 30, 40, 41]);
        assert_eq!(batch.batch.segment_ids, [1, 1, 2, 2, 2, 3, 4, 4]);
        assert_eq!(batch.batch.position_ids, [0, 1, 0, 1, 2, 0, 0, 1]);
        assert_eq!(batch.chosen, [place(0, 1), place(0, 3)]);
        assert_eq!(batch.rejected, [place(0, 2), place(0, 4)]);
    }

    fn pair(prompt: u32, chosen: u32, rejected: u32) -> PreferencePair {
        PreferencePair {
            prompt: (10..10 + prompt).collect(),
            chosen: (20..20 + chosen).collect(),
            rejected: (30..30 + rejected).collect(),
            margin: None,
        }
    }

    #[test]
    fn a_forked_pair_has_its_prompt_once() {
        let rows = [vec![pair(2, 1, 2), pair(1, 2, 1)], vec![pair(3, 1, 1)]];
        for (padding_side, shift) in [(PaddingSide::Right, 0), (PaddingSide::Left, 4)] {
            let options = CollateOptions {
                padding_side,
                ..CollateOptions::default()
            };
            let batch = collate_forked_pairs(&rows, &options).unwrap();
            assert_eq!(
                batch.batch.input_ids[..9],
                [10, 11, 20, 30, 31, 10, 20, 21, 30]
            );
            assert_eq!(batch.batch.segment_ids[..9], [1, 1, 1, 2, 2, 3, 3, 3, 4]);
            assert_eq!(batch.batch.position_ids[..9], [0, 1, 2, 2, 3, 0, 1, 2, 1]);
            let fork = |prompt, answer| Fork { prompt, answer };
            assert_eq!(
                batch.forks,
                [
                    fork(0..2, 3..5),
                    fork(5..6, 8..9),
                    fork(9 + shift..12 + shift, 13 + shift..14 + shift),
                ]
            );
            assert_eq!(batch.chosen, [place(0, 1), place(0, 3), place(1, 1)]);
            assert_eq!(batch.rejected, [place(0, 2), place(0, 4), place(1, 2)]);
        }
    }

    #[test]
    fn what_cannot_be_forked_brings_its_prompt() {
        let rows = [vec![pair(0, 1, 2), pair(2, 1, 0), pair(2, 0, 1)]];
        let batch = collate_forked_pairs(&rows, &CollateOptions::default()).unwrap();
        assert_eq!(
            batch.batch.input_ids,
            [20, 30, 31, 10, 11, 20, 10, 11, 10, 11, 30]
        );
        let fork = Fork {
            prompt: 8..10,
            answer: 10..11,
        };
        assert_eq!(batch.forks, [fork]);
        let empty = [[pair(0, 1, 0)]];
        let error = collate_forked_pairs(&empty, &CollateOptions::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "document 0 of the batch (rejected) has no tokens; drop empty rows first"
        );
    }

    #[test]
    fn verdicts_go_with_their_documents() {
        let documents = [(sample(10, 2), true), (sample(20, 1), false)];
        let batch = collate_judged(&documents, &CollateOptions::default()).unwrap();
        assert_eq!(batch.documents, [place(0, 1), place(1, 1)]);
        assert_eq!(batch.desirable, [true, false]);
        let packed = collate_packed_judged(&[documents], &CollateOptions::default()).unwrap();
        assert_eq!(packed.documents, [place(0, 1), place(0, 2)]);
        assert_eq!(packed.batch.width, 3);
    }

    #[test]
    fn the_verdict_on_a_first_token_stays() {
        let steps = |labels: &[i32]| StepSample {
            input_ids: vec![5; labels.len()],
            labels: labels.to_vec(),
        };
        let samples = [steps(&[1, -100, 0]), steps(&[0]), steps(&[])];
        for (padding_side, expected) in [
            (PaddingSide::Right, [1, -100, 0, 0, -100, -100]),
            (PaddingSide::Left, [1, -100, 0, -100, -100, 0]),
        ] {
            let options = CollateOptions {
                padding_side,
                ..CollateOptions::default()
            };
            let batch = collate_steps(&samples, &options).unwrap();
            assert_eq!(batch.labels[..6], expected);
            assert_eq!(batch.labels[6..], [-100; 3]);
        }
        let packed = collate_packed_steps(&[samples], &CollateOptions::default()).unwrap();
        assert_eq!(packed.labels, [1, -100, 0, 0]);
        assert_eq!(packed.segment_ids, [1, 1, 1, 2]);
    }

    #[test]
    fn a_document_without_tokens_has_no_place() {
        let mut torn = pairs();
        torn[1].1 = Sample::default();
        let expected = "document 1 of the batch (rejected) has no tokens; drop empty rows first";
        let options = CollateOptions::default();
        for result in [
            collate_pairs(&torn, &options),
            collate_packed_pairs(&[torn], &options),
        ] {
            assert_eq!(result.unwrap_err().to_string(), expected);
        }
        let documents = [(Sample::default(), true)];
        assert!(matches!(
            collate_judged(&documents, &options),
            Err(PairError::Empty {
                document: 0,
                role: "completion"
            })
        ));
    }
}

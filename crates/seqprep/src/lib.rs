#![doc = include_str!("../README.md")]
//!
//! # Modules, in the order in which a row passes through them
//!
//! | module | what it does |
//! |---|---|
//! | [`sample`] | the [`Sample`] and the [`Batch`] that everything else reads and writes |
//! | [`source`] | samples wherever they are, read one at a time |
//! | [`labels`] | count, weigh and require trained tokens |
//! | [`length`] | drop, truncate or refuse rows outside the length limits |
//! | [`position`] | position ids, plain and positional skip-wise (PoSE) |
//! | [`order`] | seeds, seeded permutation, sequential order |
//! | [`batching`] | order by length, batches by a budget of tokens, even shares |
//! | [`packing`] | put several documents into one row: bins of indices |
//! | [`stream`] | packing of an iterator with bounded memory |
//! | [`mod@collate`] | rows to a padded rectangle with segment ids |
//! | [`preference`] | samples of preference and reward training, and their length rules |
//! | [`pairs`] | collation of preference pairs, judged documents and judged steps |
//! | [`steps`] | how many optimizer steps a run takes |

pub mod batching;
pub mod collate;
pub mod labels;
pub mod length;
pub mod order;
pub mod packing;
pub mod pairs;
pub mod position;
pub mod preference;
pub mod sample;
pub mod source;
pub mod steps;
pub mod stream;

pub use batching::{BudgetError, TokenBudget, balance, by_tokens, group_by_length};
pub use collate::{
    CollateError, CollateOptions, PadTo, PaddingSide, collate, collate_flattened, collate_packed,
};
pub use labels::{
    drop_no_trainable_tokens, trained_tokens, weighted_label_mask, weighted_label_masks,
};
pub use length::{
    DEFAULT_MIN_SEQUENCE_LEN, DEFAULT_SEQUENCE_LEN, LengthCounts, LengthError, LengthOutcome,
    LengthStrategy, apply_length_strategy, drop_long_seq, drop_long_seq_batch, lengths, raise,
    truncate,
};
pub use order::{SeedStream, SplitMix64, permutation, sequential_order};
pub use packing::{
    FirstFitOptions, Packing, PackingError, PackingReport, best_fit_decreasing,
    best_fit_decreasing_limited, first_fit, sequential,
};
pub use pairs::{
    Fork, JudgedBatch, PairBatch, PairError, Place, collate_forked_pairs, collate_judged,
    collate_packed_judged, collate_packed_pairs, collate_packed_steps, collate_pairs,
    collate_steps, pair_lengths,
};
pub use position::{
    DEFAULT_MAX_CONTEXT_LEN, PoseError, PoseOptions, PoseVariant, add_pose_position_ids,
    add_pose_position_ids_batch, add_position_ids, add_position_ids_batch,
};
pub use preference::{
    KtoSample, PreferencePair, Preferences, StepSample, drop_long_kto, drop_long_pair,
    truncate_answer, truncate_kto, truncate_pair, truncate_steps,
};
pub use sample::{Batch, IGNORE_INDEX, Sample};
pub use source::{AnySamples, SampleSource, SourceError};
pub use steps::{StepCount, StepPlan, StepsError, calculate_total_num_steps, num_micro_batches};
pub use stream::pack_stream;

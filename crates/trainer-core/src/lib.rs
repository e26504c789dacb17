#![doc = include_str!("../README.md")]

mod adapter;
mod allocator;
pub mod backend;
mod batch_plan;
mod batches;
mod checkpoint;
mod error;
pub mod estimate;
mod feed;
mod generation;
mod history;
mod kwargs;
mod lock;
pub mod losses;
pub mod memory;
pub mod optimizer;
mod preference_batches;
mod schedule;
mod tokenizer;
mod trained;
mod trainer;

pub use adapter::{Adapter, quantization};
pub use allocator::{Allocator, keep_freed_memory};
pub use batch_plan::{BatchOptions, EpochPlan, Order, PackingOptions};
pub use batches::{BatchSource, Batches};
pub use error::{GivenUp, Result, TrainerError};
pub use feed::{EvalData, OpenStream, RowStream, TrainData};
pub use generation::{SAMPLES, generation_options};
pub use history::{LogRow, Observer, Phases, Requests, RunPlan, Several, Silent, StepReport};
pub use schedule::{Schedule, warmup_steps};
pub use tokenizer::{IdTokenizer, TrainerTokenizer};
pub use trained::unfreeze;
pub use trainer::{
    AnyModel, CausalTrainer, PreferenceTrainer, Probe, Trained, Trainer, check_settings,
    evaluate_preferences, evaluate_samples, save_options, setup_trainer,
};

//! The crate from outside: samples against recorded ones, label masks, chat
//! templates, and the message of every error.

#[path = "cases/bundled.rs"]
mod bundled;
#[path = "cases/cache.rs"]
mod cache;
#[path = "cases/chat.rs"]
mod chat;
#[path = "cases/chat_lost.rs"]
mod chat_lost;
#[path = "cases/chat_messages.rs"]
mod chat_messages;
#[path = "cases/chat_roles.rs"]
mod chat_roles;
#[path = "cases/chat_rules.rs"]
mod chat_rules;
#[path = "cases/chat_values.rs"]
mod chat_values;
#[path = "cases/columnar.rs"]
mod columnar;
#[path = "cases/conversations.rs"]
mod conversations;
#[path = "cases/errors.rs"]
mod errors;
#[path = "cases/hostile.rs"]
mod hostile;
#[path = "cases/masks.rs"]
mod masks;
#[path = "cases/named_templates.rs"]
mod named_templates;
#[path = "cases/one_path.rs"]
mod one_path;
#[path = "cases/parquet_files.rs"]
mod parquet_files;
#[path = "cases/pipeline.rs"]
mod pipeline;
#[path = "cases/preference_rules.rs"]
mod preference_rules;
#[path = "cases/preferences.rs"]
mod preferences;
#[path = "cases/preview.rs"]
mod preview;
#[path = "cases/prompts.rs"]
mod prompts;
#[path = "cases/recorded.rs"]
mod recorded;
#[path = "cases/resume.rs"]
mod resume;
#[path = "cases/row_rules.rs"]
mod row_rules;
#[path = "cases/row_settings.rs"]
mod row_settings;
#[path = "cases/row_splits.rs"]
mod row_splits;
#[path = "cases/saved.rs"]
mod saved;
#[path = "cases/selection.rs"]
mod selection;
#[path = "cases/sources.rs"]
mod sources;
#[path = "cases/strategies.rs"]
mod strategies;
#[path = "cases/stream.rs"]
mod stream;
#[path = "cases/support.rs"]
mod support;
#[path = "cases/tables.rs"]
mod tables;
#[path = "cases/templates.rs"]
mod templates;
#[path = "cases/tokenizers.rs"]
mod tokenizers;

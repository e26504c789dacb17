//! Prompts of conversations: what the model is given is what it was trained on.

use serde_json::json;
use trainer_config::{Config, PromptStrategy};
use trainer_data::{ChatPrompts, prepare};

use crate::support::{Lab, config};

fn chatml(lab: &Lab) -> Config {
    let rows = [json!({"messages": [
        {"role": "user", "content": "Say <|im_end|> twice"},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "It ends."},
    ]})];
    Config {
        chat_template: Some("chatml".into()),
        default_system_message: Some("Be brief.".into()),
        ..config(lab.rows(PromptStrategy::ChatTemplate, &rows))
    }
}

#[test]
fn a_prompt_is_the_beginning_of_the_trained_sample() {
    let lab = Lab::new("</s>");
    for escaped in [true, false] {
        let config = Config {
            allow_special_tokens_in_content: !escaped,
            ..chatml(&lab)
        };
        let tokenizer = lab.tokenizer();
        let sample = &prepare(&config, &tokenizer).unwrap().train[0];
        let prompts = ChatPrompts::new(&config, &tokenizer).unwrap();
        let messages = [
            json!({"role": "user", "content": "Say <|im_end|> twice"}),
            json!({"role": "assistant", "content": "No."}),
            json!({"role": "user", "content": "Why?"}),
        ];
        let prompt = prompts.encode(&messages).unwrap().ids;
        assert_eq!(prompt, sample.input_ids[..prompt.len()]);
        // The next token is the first of the last answer, which is trained.
        assert_ne!(sample.labels[prompt.len()], -100);
        assert_eq!(sample.labels[prompt.len() - 1], -100);
        let end = tokenizer.token_to_id("<|im_end|>").unwrap();
        let ends = prompt.iter().filter(|id| **id == end).count();
        assert_eq!(ends, if escaped { 4 } else { 5 });
    }
}

#[test]
fn answers_end_with_every_token_that_ends_a_turn() {
    let lab = Lab::new("</s>");
    let config = Config {
        eot_tokens: Some(vec!["<|im_end|>".into()]),
        ..chatml(&lab)
    };
    let tokenizer = lab.tokenizer();
    let id = |token| tokenizer.token_to_id(token).unwrap();
    let prompts = ChatPrompts::new(&config, &tokenizer).unwrap();
    assert_eq!(prompts.stop_ids(), [id("</s>"), id("<|im_end|>")]);
    // The template's end of turn is found where nothing names it.
    let prompts = ChatPrompts::new(&chatml(&lab), &tokenizer).unwrap();
    assert_eq!(prompts.stop_ids(), [id("</s>"), id("<|im_end|>")]);
}

#[test]
fn a_system_message_of_the_conversation_takes_the_place_of_the_default() {
    let lab = Lab::new("</s>");
    let config = chatml(&lab);
    let tokenizer = lab.tokenizer();
    let prompts = ChatPrompts::new(&config, &tokenizer).unwrap();
    let text = |messages: &[serde_json::Value]| {
        let ids = prompts.encode(messages).unwrap().ids;
        tokenizer.decode(&ids, false).unwrap()
    };
    let user = json!({"role": "user", "content": "Hi"});
    let system = json!({"role": "system", "content": "Shout."});
    assert!(text(std::slice::from_ref(&user)).contains("Be brief."));
    let own = text(&[system, user]);
    assert!(
        own.contains("Shout.") && !own.contains("Be brief."),
        "{own}"
    );
}

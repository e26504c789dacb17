//! The dialect of Hugging Face's templates.

use serde_json::json;
use trainer_config::{Config, Dataset};
use trainer_data::{ChatTemplate, DataError};

use crate::support::Lab;

fn render(source: &str) -> Result<String, DataError> {
    let messages = json!([
        {"role": "user", "content": " a <b> & 'c' é "},
        {"role": "assistant", "content": "x", "extra": {"z": [1, 2.5, null, true], "a": {}}},
    ]);
    ChatTemplate::new("test", source, [("eos_token", "</s>")])?.render(&messages, true)
}

#[test]
fn tojson_prints_what_python_prints() {
    assert_eq!(
        render("{{ messages[1].extra | tojson }}").unwrap(),
        r#"{"z": [1, 2.5, null, true], "a": {}}"#
    );
    assert_eq!(
        render("{{ messages[0].content | tojson }}").unwrap(),
        r#"" a <b> & 'c' é ""#
    );
    assert_eq!(
        render("{{ messages[1].extra.z[:2] | tojson(indent=2) }}").unwrap(),
        "[\n  1,\n  2.5\n]"
    );
}

#[test]
fn tojson_and_its_options() {
    for (options, expected) in [
        ("", r#"{"z": [1, 2.5, null, true], "a": {}}"#),
        ("sort_keys=true", r#"{"a": {}, "z": [1, 2.5, null, true]}"#),
        ("separators=(',', ':')", r#"{"z":[1,2.5,null,true],"a":{}}"#),
        (
            "indent=1",
            "{\n \"z\": [\n  1,\n  2.5,\n  null,\n  true\n ],\n \"a\": {}\n}",
        ),
    ] {
        let source = format!("{{{{ messages[1].extra | tojson({options}) }}}}");
        assert_eq!(render(&source).unwrap(), expected);
    }
    assert_eq!(
        render("{{ 'é🦀<' | tojson(ensure_ascii=true) }}").unwrap(),
        r#""\u00e9\ud83e\udd80<""#
    );
    assert_eq!(
        render(
            "{{ [1e16, 1.5e-7, 0.0001, 100.0, -2.5e+300, 0.0, 12345678901234567890] | tojson }}"
        )
        .unwrap(),
        "[1e+16, 1.5e-07, 0.0001, 100.0, -2.5e+300, 0.0, 12345678901234567890]"
    );
}

#[test]
fn values_print_as_in_python() {
    for (source, expected) in [
        (
            "{{ none }} {{ true }} {{ 1.0 }} {{ 7 // 2 }}",
            "None True 1.0 3",
        ),
        ("{{ ['x', 1, none] }}", "['x', 1, None]"),
        ("{{ {'a': 'b', 'c': [true]} }}", "{'a': 'b', 'c': [True]}"),
        ("{{ 'x' in missing }}|{{ missing }}|", "False||"),
        ("{{ missing is defined }}", "False"),
    ] {
        assert_eq!(
            render(source).map_err(|e| e.to_string()),
            Ok(expected.to_owned()),
            "{source}"
        );
    }
}

#[test]
fn blocks_take_their_lines_with_them() {
    let source = "{% for m in messages %}\n    {% if loop.first %}\n{{ m.role }}\n    {% endif %}\n{% endfor %}\nend";
    assert_eq!(render(source).unwrap(), "user\nend");
}

#[test]
fn python_methods_and_loop_controls() {
    assert_eq!(
        render("{% for m in messages %}{% if m.role == 'assistant' %}{% break %}{% endif %}{{ m.content.strip().split(' ')[0].upper() }}{% endfor %}").unwrap(),
        "A"
    );
    assert_eq!(
        render("{% for k, v in messages[1].items() %}{{ k }},{% endfor %}").unwrap(),
        "role,content,extra,"
    );
    assert_eq!(
        render("{% set ns = namespace(n=0) %}{% for m in messages[::-1] %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}").unwrap(),
        "2"
    );
    assert_eq!(render("{{ 'ab'.startswith('a') }}").unwrap(), "True");
    assert_eq!(
        render("{{ 'abcab'.removeprefix('ab') }} {{ 'abcab'.removesuffix('ab') }} {{ 'b'.removeprefix('a') }}").unwrap(),
        "cab abc b"
    );
    assert!(render("{{ [1].removeprefix('a') }}").is_err());
}

#[test]
fn generation_blocks_are_rendered_through() {
    assert_eq!(
        render("a {%- generation -%} b {% endgeneration %} c {{ '{%' }}").unwrap(),
        "ab  c {%"
    );
}

#[test]
fn variables_of_transformers() {
    assert_eq!(
        render("{{ eos_token }}{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}{{ bos_token }}").unwrap(),
        "</s>TrueTrueTrue"
    );
    let year = render("{{ strftime_now('%Y') }}").unwrap();
    assert!(year.parse::<u32>().unwrap() >= 2024);
}

#[test]
fn failures_say_what_the_template_says() {
    let message = |source| render(source).unwrap_err().to_string();
    assert_eq!(
        message("\n{{ raise_exception('roles must alternate') }}"),
        "chat template test, line 2: roles must alternate"
    );
    assert_eq!(
        message("{% for m in messages %}"),
        "chat template test, line 1: unexpected end of input, expected end of block"
    );
    assert_eq!(
        message(
            "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}"
        ),
        "chat template test, line 1: it does not come to an end"
    );
    assert_eq!(
        message("{{ strftime_now('%!') }}"),
        "chat template test, line 1: strftime_now cannot use the format \"%!\""
    );
}

fn resolve(
    lab: &Lab,
    top: [Option<&str>; 2],
    own: [Option<&str>; 2],
) -> Result<ChatTemplate, DataError> {
    let config = Config {
        chat_template: top[0].map(Into::into),
        chat_template_jinja: top[1].map(Into::into),
        ..Config::default()
    };
    let dataset = Dataset {
        chat_template: own[0].map(Into::into),
        chat_template_jinja: own[1].map(Into::into),
        ..Dataset::default()
    };
    ChatTemplate::resolve(&config, Some(&dataset), &lab.tokenizer())
}

#[test]
fn the_data_set_goes_before_the_configuration_before_the_tokenizer() {
    let lab = Lab::new("</s>");
    lab.write("chat_template.jinja", "{{ 'tokenizer' }}");
    let source = |top, own| resolve(&lab, top, own).unwrap().source().to_owned();
    let none = [None, None];
    assert_eq!(source(none, none), "{{ 'tokenizer' }}");
    assert_eq!(source([None, Some("{{ 1 }}")], none), "{{ 1 }}");
    assert_eq!(
        source([None, Some("{{ 1 }}")], [Some("jinja"), Some("{{ 2 }}")]),
        "{{ 2 }}"
    );
    assert_eq!(
        source(
            [Some("jinja"), Some("{{ 1 }}")],
            [Some("tokenizer_default"), None]
        ),
        "{{ 'tokenizer' }}"
    );
    assert_eq!(
        source([Some("tokenizer_default_fallback_chatml"), None], none),
        "{{ 'tokenizer' }}"
    );
    let file = lab.write("mine.jinja", "{{ 3 }}").display().to_string();
    assert_eq!(source([None, Some(&file)], none), "{{ 3 }}");
}

#[test]
fn chatml_is_bundled() {
    let lab = Lab::new("</s>");
    let messages =
        json!([{"role": "user", "content": "hi\n"}, {"role": "assistant", "content": "yo"}]);
    for name in ["chatml", "tokenizer_default_fallback_chatml"] {
        let template = resolve(&lab, [Some(name), None], [None, None]).unwrap();
        assert_eq!(
            template.render(&messages, true).unwrap(),
            "<|im_start|>user\nhi\n<|im_end|>\n<|im_start|>assistant\nyo<|im_end|>\n<|im_start|>assistant\n"
        );
    }
}

#[test]
fn a_template_that_cannot_be_found() {
    let lab = Lab::new("</s>");
    let message = |top| lab.message(&resolve(&lab, top, [None, None]).unwrap_err());
    assert_eq!(
        message([None, None]),
        "the tokenizer in FOLDER has no chat template; set `chat_template` to the name of a bundled one (such as chatml), or give one as `chat_template_jinja`"
    );
    assert_eq!(
        message([Some("chatmel"), None]),
        "chat template `chatmel` is not bundled; choose tokenizer_default, one of alpaca, aya, chatml, cohere, deepseek_v2, deepseek_v3, exaone, exaone4, falcon_h1, gemma, gemma3, gemma3n, gemma4, gemma4_unified, jamba, llama3, llama3_2_vision, llama4, llava, metharme, mistral_v1, mistral_v2v3, mistral_v3_tekken, mistral_v7_tekken, nemotron_h, phi_3, phi_35, pixtral, qwen2_vl, qwen3, qwen3_5, qwen_25, or give the template as `chat_template_jinja`"
    );
    assert_eq!(
        message([Some("jinja"), None]),
        "`chat_template: jinja` needs `chat_template_jinja`: the template itself, or the path of a file that holds it"
    );
    lab.write("mine.jinja", "{{ 3 }}");
    let path = lab.path().join("mein.jinja").display().to_string();
    assert_eq!(
        message([None, Some(&path)]),
        "chat template mein.jinja does not exist; did you mean mine.jinja?"
    );
}

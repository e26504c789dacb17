//! Texts on which two ways of tokenizing are compared.
//!
//! They are many small texts and not one, so that each begins and ends in
//! another way; what follows what is drawn at random, from a fixed seed.

use seqprep::SplitMix64;

/// Texts put together by hand: what pre-tokenizers are known to treat
/// differently.
const BY_HAND: &[&str] = &[
    "",
    " ",
    "  ",
    "\n",
    " \n \n\n  x",
    "a",
    "Hello, world! It's what they'll say; I'd've THEY'RE we'Re'S 'tis 'D.",
    "The quick brown fox jumps over the lazy dog.   Three spaces,\ttabs\t\tand\r\nlines\r\n\r\n  indented\n\n\n\tend \n ",
    "1 12 123 1234 12345 1234567890 3.14159 1,000,000 0x1F 1e-9 v2.0 2nd 10th a1b2 \u{661}\u{662}\u{663} \u{0967}\u{0968} \u{00bd} \u{2167} \u{00b2} \u{1d7d8}",
    "fn main() {\n    let x: Vec<&str> = s.split(\"::\").collect(); // ok?\n\tif x != y && !z { return -1; }\n}\n",
    "def f(x):\n        return x**2 if x >= 0 else None  # comment\n\n\nclass A_b(C): pass",
    "{\"key\": [1, 2.5, null], \"text\": \"a\\nb\\u00e9\"}\n<div class=\"x\">&nbsp;</div>\n$\\frac{a}{b}$ ~~~ ### **bold** --- ===",
    "https://example.org/path?q=1&r=%20#top someone@example.com C:\\dir\\file.txt",
    "Gr\u{00fc}\u{00df}e aus M\u{00fc}nchen, \u{00e9}t\u{00e9}, na\u{00ef}ve, \u{0141}\u{00f3}d\u{017a}, \u{0130}stanbul, \u{01c5}, \u{017f}'\u{017f}, \u{212a}",
    "cafe\u{0301} e\u{0301}'s \u{0301}x a\u{0323}\u{0307} \u{1e0b}\u{0323}",
    "\u{041f}\u{0440}\u{0438}\u{0432}\u{0435}\u{0442}, \u{043c}\u{0438}\u{0440}! \u{0393}\u{03b5}\u{03b9}\u{03ac} \u{03c3}\u{03bf}\u{03c5}",
    "\u{4f60}\u{597d}\u{ff0c}\u{4e16}\u{754c}\u{ff01} \u{3053}\u{3093}\u{306b}\u{3061}\u{306f}\u{3000}\u{4e16}\u{754c} \u{c548}\u{b155} \u{1112}\u{1161}\u{11ab}",
    "\u{0645}\u{0631}\u{062d}\u{0628}\u{0627} \u{05e9}\u{05dc}\u{05d5}\u{05dd} \u{0928}\u{092e}\u{0938}\u{094d}\u{0924}\u{0947} \u{0e2a}\u{0e27}\u{0e31}\u{0e2a}\u{0e14}\u{0e35} \u{0bb5}\u{0ba3}",
    "\u{1f600}\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467} \u{1f1e9}\u{1f1ea} \u{2764}\u{fe0f}\u{1f44d}\u{1f3fd} \u{1f600}",
    "a\u{a0}b\u{2003}c\u{3000}d\u{2028}e\u{2029}f\u{85}g\u{b}h\u{c}i\u{200b}j\u{feff}k\u{1680}l\u{180e}m\u{1c}n\u{1f}o",
    "\u{0}\u{1}\u{7f}\u{ad}\u{fffd}\u{e000}\u{10ffff} zero\u{0}byte",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "                                                                                                    x",
    "----------------------------------------------------------------------------------------------------",
    "\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n x \u{a0}\u{a0} y\u{3000}\u{3000}z \t\n ",
];

/// Inclusive ranges of characters to draw from.
const CHARACTERS: &[(u32, u32)] = &[
    (0x20, 0x7e),
    (0x61, 0x7a),
    (0x41, 0x5a),
    (0x30, 0x39),
    (0x00, 0x20),
    (0x80, 0xff),
    (0x100, 0x24f),
    (0x300, 0x36f),
    (0x370, 0x52f),
    (0x590, 0x6ff),
    (0x900, 0xdff),
    (0xe00, 0xfff),
    (0x1100, 0x11ff),
    (0x1e00, 0x1fff),
    (0x2000, 0x206f),
    (0x2070, 0x218f),
    (0x2190, 0x27bf),
    (0x3000, 0x30ff),
    (0x4e00, 0x9fff),
    (0xa640, 0xabff),
    (0xac00, 0xd7a3),
    (0xf900, 0xffef),
    (0x10000, 0x1ffff),
    (0x20000, 0x2ffff),
];

/// Pieces that are drawn more often than chance would have them.
const PIECES: &[&str] = &[
    " ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\u{a0}", "\u{3000}", "'s", "'S",
    "'ll", "'re", "'", "\u{2019}", "1", "12", "345", "the", " the", "Word", ".", ", ", "!!",
    "\u{0301}", "_", "<", "|",
];

/// All texts; `added` are the tokens that a tokenizer cuts out of a text.
pub(super) fn texts(added: &[&str]) -> Vec<String> {
    let mut texts: Vec<String> = BY_HAND.iter().map(|&text| text.to_owned()).collect();
    // Some of the added tokens, spread over all of them.
    let some = added.iter().step_by(added.len().div_ceil(32).max(1));
    for token in some {
        texts.push((*token).to_owned());
        texts.push(format!(" {token}  a{token}{token}\n{token}1 {token} \n"));
        if let Some((end, _)) = token.char_indices().next_back() {
            texts.push(format!("x {} {token}{}", &token[..end], &token[..end]));
        }
    }
    let mut rng = SplitMix64::new(0x746f_6b65_6e73);
    let mut below = |count: usize| rng.up_to(count as u64 - 1) as usize;
    for text in 0..160 {
        // Every other text stays within one range, the others mix all.
        let range = below(CHARACTERS.len());
        let mut drawn = String::new();
        for _ in 0..1 + below(80) {
            let dice = below(8);
            if dice == 0 && !added.is_empty() && text % 4 == 0 {
                drawn.push_str(added[below(added.len())]);
            } else if dice < 3 {
                drawn.push_str(PIECES[below(PIECES.len())]);
            } else {
                let range = if text % 2 == 0 {
                    range
                } else {
                    below(CHARACTERS.len())
                };
                let (first, last) = CHARACTERS[range];
                let offset = below((last - first + 1) as usize) as u32;
                drawn.extend(char::from_u32(first + offset));
            }
        }
        texts.push(drawn);
    }
    texts
}

//! A fast way to the same ids: byte-level BPE with every word looked up.
//!
//! The tokenizers library spends most of its time on strings that remember
//! their alignment, and on a backtracking regular expression. Here a text is
//! cut into words by a finite automaton, the ids of each word are kept, and
//! only a word that was not seen lately goes through the library's model.
//! Offsets follow from the number of bytes of each token.
//!
//! Invariants: a tokenizer gets this path only if its configuration is one
//! whose meaning is known here, and ids and offsets of all probes are those of
//! the library; a text that this path cannot handle is left to the library, so
//! that the result is the same whichever path was taken.

use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use aho_corasick::{AhoCorasick, MatchKind};
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, PatternID};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{Model, ModelWrapper, SplitDelimiterBehavior};
use unicode_normalization_alignments::is_nfc;

use super::words::{Known, KnownWords, Token};
use super::{Encoded, probes};

/// What a byte-level pre-tokenizer splits by when it splits at all.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// How the patterns in use end. An automaton cannot look ahead; what this asks
/// for is done by hand, see [`Words::end`].
const BEFORE_A_WORD: &str = r"|\s+(?!\S)|\s+";

/// Memory of an automaton's states, in bytes: enough for texts of many scripts.
const AUTOMATON: usize = 8 << 20;

/// The fast path of one tokenizer.
pub(super) struct Fast {
    /// The added tokens, in two passes as the library makes them: first those
    /// that match the text as given, then those that match normalized text.
    added: Vec<Added>,
    /// Whether the text has to be in normalization form C.
    composed: bool,
    stages: Vec<Stage>,
    /// The character that stands for each byte in the model's vocabulary.
    chars: [char; 256],
    /// What is put around every sequence.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    /// One for each thread that has been at work at once.
    scratch: Mutex<Vec<Scratch>>,
}

/// Added tokens that are cut out of the text before it is split into words.
struct Added {
    finder: AhoCorasick,
    ids: Vec<u32>,
}

/// One of the pre-tokenizers, which cut each piece further.
enum Stage {
    Words(Words),
    /// Every numeric character alone, or runs of them.
    Digits {
        alone: bool,
    },
}

/// Splits a piece into the matches of a pattern.
struct Words {
    automaton: Box<DFA>,
    /// Whether letters, with or without a blank in front, are a word.
    letters: bool,
}

/// What a thread needs to work with.
struct Scratch {
    automata: Vec<Cache>,
    words: KnownWords,
    /// The tokens of a new word.
    tokens: Vec<Token>,
    mapped: String,
}

/// Where tokens go.
struct Output<'a> {
    ids: &'a mut Vec<u32>,
    offsets: Option<&'a mut Vec<Range<usize>>>,
}

impl fmt::Debug for Fast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fast").finish_non_exhaustive()
    }
}

impl Fast {
    /// The fast path of a tokenizer, if it has one that gives the same as the
    /// library for all probes.
    pub(super) fn new(tokenizer: &tokenizers::Tokenizer) -> Option<Self> {
        let fast = Self::of(tokenizer)?;
        let added = tokenizer.get_added_vocabulary().get_vocab();
        let mut added: Vec<&str> = added.keys().map(String::as_str).collect();
        added.sort_unstable();
        let model = tokenizer.get_model();
        let texts = probes::texts(&added);
        let mut handled = 0;
        for text in &texts {
            for special in [false, true] {
                // What is left to the library is right, but gains nothing.
                if let Some(encoded) = fast.encode(model, text, special, true) {
                    handled += 1;
                    let expected = tokenizer.encode(text.as_str(), special).ok()?;
                    let offsets = expected.get_offsets().iter();
                    let offsets = offsets.map(|&(start, end)| start..end);
                    if encoded.ids != expected.get_ids() || !offsets.eq(encoded.offsets) {
                        return None;
                    }
                }
            }
        }
        (handled > texts.len()).then_some(fast)
    }

    /// The path for a configuration whose meaning is known here.
    fn of(tokenizer: &tokenizers::Tokenizer) -> Option<Self> {
        let ModelWrapper::BPE(model) = tokenizer.get_model() else {
            return None;
        };
        if model.dropout.is_some_and(|dropout| dropout > 0.0) {
            return None;
        }
        let composed = match tokenizer.get_normalizer() {
            None => false,
            Some(NormalizerWrapper::NFC(_)) => true,
            Some(_) => return None,
        };
        let mut added = [const { Vec::new() }; 2];
        let vocabulary = tokenizer.get_added_vocabulary();
        if vocabulary.get_encode_special_tokens() {
            return None;
        }
        for (&id, token) in vocabulary.get_added_tokens_decoder() {
            if token.lstrip || token.rstrip || token.single_word {
                return None;
            }
            if token.normalized && composed && !is_nfc(&token.content) {
                return None;
            }
            added[usize::from(token.normalized)].push((token.content.as_str(), id));
        }
        let added = added.into_iter().filter(|tokens| !tokens.is_empty());
        let added: Option<Vec<Added>> = added.map(Added::new).collect();
        let mut stages = Vec::new();
        add_stages(tokenizer.get_pre_tokenizer()?, &mut stages, false)?;

        // The text is a single letter, so that the library's tokens around it
        // can be told from its own.
        let plain = tokenizer.encode("a", false).ok()?;
        let whole = tokenizer.encode("a", true).ok()?;
        let (plain, whole) = (plain.get_ids(), whole.get_ids());
        let at = whole
            .windows(plain.len().max(1))
            .position(|ids| ids == plain)?;
        Some(Self {
            added: added?,
            composed,
            stages,
            chars: byte_chars(),
            prefix: whole[..at].to_vec(),
            suffix: whole[at + plain.len()..].to_vec(),
            scratch: Mutex::default(),
        })
    }

    /// The tokens of a text; offsets only if asked for. `None` where the text
    /// has to be left to the library.
    pub(super) fn encode(
        &self,
        model: &ModelWrapper,
        text: &str,
        add_special_tokens: bool,
        with_offsets: bool,
    ) -> Option<Encoded> {
        if self.composed && !text.is_ascii() && !is_nfc(text) {
            return None;
        }
        let mut scratch = self.lock().pop().unwrap_or_else(|| self.scratch());
        let mut encoded = Encoded::default();
        // Most texts have fewer tokens.
        let room = text.len() / 3;
        encoded.ids.reserve(room);
        if with_offsets {
            encoded.offsets.reserve(room);
        }
        let mut output = Output {
            ids: &mut encoded.ids,
            offsets: with_offsets.then_some(&mut encoded.offsets),
        };
        let (prefix, suffix) = match add_special_tokens {
            true => (&self.prefix[..], &self.suffix[..]),
            false => (&[][..], &[][..]),
        };
        output.around(prefix);
        let done = self.pieces(model, text, 0..text.len(), 0, &mut scratch, &mut output);
        output.around(suffix);
        self.lock().push(scratch);
        done.map(|()| encoded)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Scratch>> {
        // A scratch is taken out while it is in use, so none can be half done.
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn scratch(&self) -> Scratch {
        let automata = self.stages.iter().filter_map(|stage| match stage {
            Stage::Words(words) => Some(words.automaton.create_cache()),
            Stage::Digits { .. } => None,
        });
        Scratch {
            automata: automata.collect(),
            words: KnownWords::default(),
            tokens: Vec::new(),
            mapped: String::new(),
        }
    }

    /// Cuts added tokens out of a piece, beginning with the given pass.
    fn pieces(
        &self,
        model: &ModelWrapper,
        text: &str,
        piece: Range<usize>,
        pass: usize,
        scratch: &mut Scratch,
        output: &mut Output<'_>,
    ) -> Option<()> {
        let Some(added) = self.added.get(pass) else {
            return self.words(model, text, piece, scratch, output);
        };
        let mut start = piece.start;
        for found in added.finder.find_iter(&text[piece.clone()]) {
            let token = piece.start + found.start()..piece.start + found.end();
            if start < token.start {
                self.pieces(model, text, start..token.start, pass + 1, scratch, output)?;
            }
            start = token.end;
            output.ids.push(added.ids[found.pattern().as_usize()]);
            if let Some(offsets) = &mut output.offsets {
                offsets.push(token);
            }
        }
        if start < piece.end {
            self.pieces(model, text, start..piece.end, pass + 1, scratch, output)?;
        }
        Some(())
    }

    fn words(
        &self,
        model: &ModelWrapper,
        text: &str,
        piece: Range<usize>,
        scratch: &mut Scratch,
        output: &mut Output<'_>,
    ) -> Option<()> {
        let Scratch {
            automata,
            words,
            tokens,
            mapped,
        } = scratch;
        let mut keep = |word: Range<usize>| {
            let bytes = &text.as_bytes()[word.clone()];
            match words.get(bytes) {
                Some(Known::Slot(ids, lens)) => {
                    let lens = lens.iter().map(|&len| usize::from(len));
                    output.word(text, word.start, ids.iter().copied(), lens);
                    return Some(());
                }
                Some(Known::Map(tokens)) => {
                    output.tokens(text, word.start, tokens);
                    return Some(());
                }
                None => {}
            }
            mapped.clear();
            mapped.extend(bytes.iter().map(|&byte| self.chars[usize::from(byte)]));
            let made = model.tokenize(mapped).ok()?;
            tokens.clear();
            let mut covered = 0;
            for token in &made {
                let len = mapped
                    .get(token.offsets.0..token.offsets.1)?
                    .chars()
                    .count();
                tokens.push(Token {
                    id: token.id,
                    len: u32::try_from(len).ok()?,
                });
                covered += len;
            }
            // Else a byte that the vocabulary lacks: tokens and bytes do not match.
            (covered == bytes.len()).then(|| {
                output.tokens(text, word.start, tokens);
                words.keep(bytes, tokens);
            })
        };
        split(&self.stages, automata, text, piece, &mut keep)
    }
}

impl Output<'_> {
    /// The tokens of a word that starts at a byte of the text: ids, and bytes.
    fn word(
        &mut self,
        text: &str,
        start: usize,
        ids: impl Iterator<Item = u32>,
        lens: impl Iterator<Item = usize>,
    ) {
        self.ids.extend(ids);
        if let Some(offsets) = &mut self.offsets {
            let mut at = start;
            offsets.extend(lens.map(|len| {
                let end = at + len;
                let whole = text.floor_char_boundary(at)..text.ceil_char_boundary(end);
                at = end;
                whole
            }));
        }
    }

    fn tokens(&mut self, text: &str, start: usize, tokens: &[Token]) {
        let ids = tokens.iter().map(|token| token.id);
        self.word(
            text,
            start,
            ids,
            tokens.iter().map(|token| token.len as usize),
        );
    }

    /// Tokens that stand for nothing in the text.
    fn around(&mut self, ids: &[u32]) {
        self.ids.extend_from_slice(ids);
        if let Some(offsets) = &mut self.offsets {
            offsets.extend(ids.iter().map(|_| 0..0));
        }
    }
}

impl Added {
    fn new(tokens: Vec<(&str, u32)>) -> Option<Self> {
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|token| token.0));
        Some(Self {
            finder: finder.ok()?,
            ids: tokens.into_iter().map(|token| token.1).collect(),
        })
    }
}

impl Words {
    /// Only patterns that an automaton follows exactly as a backtracking
    /// engine does.
    fn new(pattern: &str) -> Option<Self> {
        if has_possessive(pattern) {
            return None;
        }
        let mut patterns = vec![pattern];
        if let Some(rest) = pattern.strip_suffix(BEFORE_A_WORD) {
            patterns = vec![rest, r"\s+"];
        }
        let automaton = DFA::builder()
            .configure(DFA::config().cache_capacity(AUTOMATON))
            .syntax(syntax::Config::new())
            .build_many(&patterns);
        Some(Self {
            automaton: Box::new(automaton.ok()?),
            letters: has_letters(pattern),
        })
    }

    /// End of the word that starts at a byte of a piece.
    fn end(&self, cache: &mut Cache, piece: &str, start: usize) -> Option<usize> {
        if self.letters
            && let Some(end) = letters_end(piece.as_bytes(), start)
        {
            return Some(end);
        }
        let input = Input::new(piece).range(start..).anchored(Anchored::Yes);
        let found = self.automaton.try_search_fwd(cache, &input).ok()??;
        let mut end = found.offset();
        // White space before a word leaves its last character to the word,
        // unless it is the only one.
        if found.pattern() != PatternID::ZERO && end < piece.len() {
            let last = piece[start..end].chars().next_back()?.len_utf8();
            if end - last > start {
                end -= last;
            }
        }
        (end > start).then_some(end)
    }
}

/// Whether a pattern takes letters, with or without a blank in front, for a word,
/// as far as they go: an alternative says so, and those before it are contractions,
/// which begin with an apostrophe.
fn has_letters(pattern: &str) -> bool {
    const CONTRACTIONS: [&str; 3] = [
        "'s|'t|'re|'ve|'m|'ll|'d|",
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|",
        "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|",
    ];
    const LETTERS: [&str; 2] = [r" ?\p{L}+|", r"[^\r\n\p{L}\p{N}]?\p{L}+|"];
    let contractions = CONTRACTIONS.iter();
    let rest = contractions
        .filter_map(|alternatives| pattern.strip_prefix(alternatives))
        .next()
        .unwrap_or(pattern);
    LETTERS.iter().any(|letters| rest.starts_with(letters))
}

/// The end of ASCII letters, with or without a blank in front, if it is plain that
/// they end there.
fn letters_end(piece: &[u8], start: usize) -> Option<usize> {
    let first = start + usize::from(piece.get(start) == Some(&b' '));
    let rest = piece.get(first..)?;
    let count = rest
        .iter()
        .position(|byte| !byte.is_ascii_alphabetic())
        .unwrap_or(rest.len());
    // A letter of another script may follow, or an accent.
    let ended = rest.get(count).is_none_or(u8::is_ascii);
    (count > 0 && ended).then_some(first + count)
}

/// Whether a pattern may hold possessive repetition, which would be read as
/// something else here.
fn has_possessive(pattern: &str) -> bool {
    pattern.match_indices('+').any(|(at, _)| {
        let before = &pattern[..at];
        // `\p{L}+` is plain repetition of a class, `x{1,3}+` is not.
        let counted = || {
            before
                .rfind('{')
                .is_some_and(|open| before[open + 1..].starts_with(|c: char| c.is_ascii_digit()))
        };
        before.ends_with(['+', '*', '?']) || (before.ends_with('}') && counted())
    })
}

/// Hands each word of a piece on, cut by all stages. `None` as soon as a word
/// cannot be handled.
fn split(
    stages: &[Stage],
    automata: &mut [Cache],
    text: &str,
    piece: Range<usize>,
    keep: &mut dyn FnMut(Range<usize>) -> Option<()>,
) -> Option<()> {
    let Some((stage, stages)) = stages.split_first() else {
        return keep(piece);
    };
    let haystack = &text[piece.clone()];
    match stage {
        Stage::Words(words) => {
            let (cache, automata) = automata.split_first_mut()?;
            let mut start = 0;
            while start < haystack.len() {
                let end = words.end(cache, haystack, start)?;
                let word = piece.start + start..piece.start + end;
                split(stages, automata, text, word, keep)?;
                start = end;
            }
        }
        Stage::Digits { alone } => {
            let mut start = piece.start;
            let mut before = None;
            for (at, c) in haystack.char_indices() {
                let at = piece.start + at;
                let numeric = c.is_numeric();
                let apart = before.is_some_and(|before| before != numeric || (*alone && numeric));
                if apart {
                    split(stages, automata, text, start..at, keep)?;
                    start = at;
                }
                before = Some(numeric);
            }
            if start < piece.end {
                split(stages, automata, text, start..piece.end, keep)?;
            }
        }
    }
    Some(())
}

/// Adds the stages of a pre-tokenizer; the last one has to map bytes.
fn add_stages(
    pre_tokenizer: &PreTokenizerWrapper,
    stages: &mut Vec<Stage>,
    inner: bool,
) -> Option<()> {
    match pre_tokenizer {
        PreTokenizerWrapper::Sequence(sequence) if !inner => {
            let (last, others) = sequence.as_ref().split_last()?;
            if !matches!(last, PreTokenizerWrapper::ByteLevel(_)) {
                return None;
            }
            for pre_tokenizer in others {
                if matches!(pre_tokenizer, PreTokenizerWrapper::ByteLevel(_)) {
                    return None;
                }
                add_stages(pre_tokenizer, stages, true)?;
            }
            add_stages(last, stages, true)
        }
        PreTokenizerWrapper::ByteLevel(ByteLevel {
            add_prefix_space: false,
            use_regex,
            ..
        }) => {
            if *use_regex {
                stages.push(Stage::Words(Words::new(GPT2)?));
            }
            Some(())
        }
        PreTokenizerWrapper::Digits(digits) if inner => {
            stages.push(Stage::Digits {
                alone: digits.individual_digits,
            });
            Some(())
        }
        PreTokenizerWrapper::Split(Split {
            pattern: SplitPattern::Regex(pattern),
            behavior: SplitDelimiterBehavior::Isolated,
            invert: false,
            ..
        }) if inner => {
            stages.push(Stage::Words(Words::new(pattern)?));
            Some(())
        }
        _ => None,
    }
}

/// GPT-2's table: printable bytes stand for themselves, the others for the
/// characters from 256 on.
fn byte_chars() -> [char; 256] {
    let mut others = 256..;
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
            _ => others.next().and_then(char::from_u32).unwrap_or_default(),
        }
    })
}

#[cfg(test)]
#[path = "fast_tests.rs"]
mod tests;

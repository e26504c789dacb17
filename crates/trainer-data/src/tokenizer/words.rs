//! The tokens of words that were seen lately, for one thread.
//!
//! Most words are short and make few tokens: these lie in a table in which each
//! has one slot, so that a look-up touches one line of the processor's cache.
//! A slot is taken over by the next word that belongs there. What does not fit
//! into a slot is kept in a map.

use std::collections::HashMap;

use foldhash::fast::RandomState;

/// Slots of the table, 64 bytes each: 2 MB.
const SLOTS: usize = 1 << 15;

/// Tokens in a slot.
const TOKENS: usize = 8;

/// Longer words are not kept, in bytes.
const LONGEST_KEPT: usize = 64;

/// Words kept in the map; then it starts over.
const MOST_KEPT: usize = 1 << 14;

/// The tokens of the words that were seen lately.
pub(super) struct KnownWords {
    slots: Box<[Slot]>,
    long: HashMap<Box<[u8]>, Box<[Token]>, RandomState>,
}

/// A token of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) id: u32,
    /// Its bytes.
    pub(super) len: u32,
}

#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Slot {
    /// The bytes of the word.
    key: [u64; 2],
    ids: [u32; TOKENS],
    lens: [u8; TOKENS],
    /// Bytes in the word; 0 where there is none.
    len: u8,
    tokens: u8,
}

/// Tokens, wherever they are kept.
pub(super) enum Known<'a> {
    Slot(&'a [u32], &'a [u8]),
    Map(&'a [Token]),
}

impl Default for KnownWords {
    fn default() -> Self {
        Self {
            slots: vec![Slot::default(); SLOTS].into_boxed_slice(),
            long: HashMap::default(),
        }
    }
}

impl KnownWords {
    /// The tokens of a word, if they are kept.
    pub(super) fn get(&self, word: &[u8]) -> Option<Known<'_>> {
        let Some(key) = key(word) else {
            return self.long.get(word).map(|tokens| Known::Map(tokens));
        };
        let slot = &self.slots[place(key, word.len())];
        if slot.key == key && usize::from(slot.len) == word.len() {
            let tokens = usize::from(slot.tokens);
            return Some(Known::Slot(&slot.ids[..tokens], &slot.lens[..tokens]));
        }
        // A short word of many tokens.
        self.long.get(word).map(|tokens| Known::Map(tokens))
    }

    /// Keeps the tokens of a word, which may push out another.
    pub(super) fn keep(&mut self, word: &[u8], tokens: &[Token]) {
        match key(word) {
            Some(key) if tokens.len() <= TOKENS => {
                let slot = &mut self.slots[place(key, word.len())];
                slot.key = key;
                slot.len = word.len() as u8;
                slot.tokens = tokens.len() as u8;
                for (at, token) in tokens.iter().enumerate() {
                    slot.ids[at] = token.id;
                    // Within a word of 16 bytes.
                    slot.lens[at] = token.len as u8;
                }
            }
            _ if word.len() <= LONGEST_KEPT => {
                if self.long.len() >= MOST_KEPT {
                    self.long.clear();
                }
                self.long.insert(word.into(), tokens.into());
            }
            _ => {}
        }
    }
}

/// The bytes of a word of 1 to 16 bytes, which tell it from others of its length.
fn key(word: &[u8]) -> Option<[u64; 2]> {
    let length = word.len();
    if let (Some(first), Some(last)) = (word.first_chunk::<8>(), word.last_chunk::<8>()) {
        let key = [u64::from_le_bytes(*first), u64::from_le_bytes(*last)];
        return (length <= 16).then_some(key);
    }
    if let (Some(first), Some(last)) = (word.first_chunk::<4>(), word.last_chunk::<4>()) {
        let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
        return Some([u64::from(first) | u64::from(last) << 32, 0]);
    }
    let (first, last) = (word.first()?, word.last()?);
    let bytes = [*first, word[length / 2], *last, 0];
    Some([u64::from(u32::from_le_bytes(bytes)), 0])
}

/// The slot of a word.
fn place(key: [u64; 2], length: usize) -> usize {
    // The two halves of a product of odd constants, which mix every bit of the
    // key into the lowest ones.
    let mixed = u128::from(key[0] ^ 0x9E37_79B9_7F4A_7C15)
        * u128::from(key[1] ^ 0xD1B5_4A32_D192_ED03 ^ (length as u64) << 56);
    let folded = (mixed >> 64) as u64 ^ mixed as u64;
    (folded ^ folded >> 32) as usize & (SLOTS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens(known: Known<'_>) -> Vec<Token> {
        match known {
            Known::Map(tokens) => tokens.to_vec(),
            Known::Slot(ids, lens) => ids
                .iter()
                .zip(lens)
                .map(|(&id, &len)| Token {
                    id,
                    len: u32::from(len),
                })
                .collect(),
        }
    }

    #[test]
    fn a_slot_is_a_line_of_the_cache() {
        assert_eq!(size_of::<Slot>(), 64);
    }

    #[test]
    fn words_of_all_lengths_are_told_apart() {
        let words = KnownWords::default();
        assert!((1..100).all(|length| words.get(&vec![0; length]).is_none()));
        let mut words = KnownWords::default();
        for length in 1..80_usize {
            let token = |len| Token {
                id: length as u32,
                len,
            };
            let many = vec![token(1); length];
            words.keep(&vec![0; length], &many);
            // What is kept of a word is never that of another length.
            let known = words.get(&vec![0; length]).map(tokens);
            assert_eq!(known, (length <= LONGEST_KEPT).then_some(many), "{length}");
        }
    }

    proptest! {
        #[test]
        fn what_is_known_is_right(words in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..24), 1..300)) {
            let mut known = KnownWords::default();
            let of = |word: &[u8]| -> Vec<Token> {
                let pieces = word.chunks(3);
                pieces.map(|piece| Token { id: u32::from(piece[0]), len: piece.len() as u32 }).collect()
            };
            for word in &words {
                if let Some(found) = known.get(word) {
                    prop_assert_eq!(tokens(found), of(word));
                }
                known.keep(word, &of(word));
                prop_assert_eq!(tokens(known.get(word).unwrap()), of(word));
            }
        }
    }
}

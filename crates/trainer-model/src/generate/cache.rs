//! Keys and values of the tokens that a layer has seen, in buffers that grow by
//! halves: a token is written once, and copied a bounded number of times however
//! long the text becomes.
//!
//! Shape suffixes: `b` rows, `t` new tokens, `s` tokens so far, `c` capacity,
//! `g` key-value heads, `k` head width.

use burn::prelude::*;

/// Tokens that a buffer has room for beyond those it was made for.
const ROOM: usize = 64;

/// The cache of one layer.
#[derive(Debug, Clone, Default)]
pub(crate) struct KvCache {
    keys: Buffer,
    values: Buffer,
}

impl KvCache {
    /// Appends the new tokens and returns those so far, `[b, s, g, k]` each.
    pub(crate) fn extend(
        &mut self,
        k_btgk: Tensor<4>,
        v_btgk: Tensor<4>,
    ) -> (Tensor<4>, Tensor<4>) {
        (self.keys.extend(k_btgk), self.values.extend(v_btgk))
    }

    /// Keeps the rows of these indices alone.
    pub(super) fn keep_rows(&mut self, rows: &Tensor<1, Int>) {
        self.keys.keep_rows(rows);
        self.values.keep_rows(rows);
    }
}

#[derive(Debug, Clone, Default)]
struct Buffer {
    /// `[b, c, g, k]`; what lies behind `length` has no meaning.
    data: Option<Tensor<4>>,
    length: usize,
}

impl Buffer {
    fn extend(&mut self, new_btgk: Tensor<4>) -> Tensor<4> {
        let [b, t, g, k] = new_btgk.dims();
        let length = self.length + t;
        let buffer_bcgk = match self.data.take() {
            Some(buffer) if length <= buffer.dims()[1] => buffer,
            old => {
                let capacity = length + length / 2 + ROOM;
                let fresh =
                    Tensor::zeros([b, capacity, g, k], (&new_btgk.device(), new_btgk.dtype()));
                match old {
                    Some(old) => {
                        fresh.slice_assign(s![.., 0..self.length], old.narrow(1, 0, self.length))
                    }
                    None => fresh,
                }
            }
        };
        // Nothing else holds the buffer here, so that this writes in place.
        let buffer_bcgk = buffer_bcgk.slice_assign(s![.., self.length..length], new_btgk);
        self.length = length;
        let seen_bsgk = buffer_bcgk.clone().narrow(1, 0, length);
        self.data = Some(buffer_bcgk);
        seen_bsgk
    }

    fn keep_rows(&mut self, rows: &Tensor<1, Int>) {
        self.data = self.data.take().map(|data| data.select(0, rows.clone()));
    }
}

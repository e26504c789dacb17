//! Causal attention within documents, a block of queries at a time: the square
//! of scores never exists, and keys outside of a block's documents are never
//! touched.
//!
//! A query sees the keys from its `start` to itself, but for a gap between the two
//! where it has one. Scores of the backward pass are computed again from the
//! logarithm of the softmax's sum.
//!
//! Layouts: queries and output `[b, t, h, k]`, keys and values `[b, s, g, k]`;
//! query `i` of a row stands at key `i + s - t`. References: arXiv 2205.14135
//! (blocks and recomputation), 2305.13245 (grouped heads).

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder, s};
use rayon::prelude::*;

use super::math::{exp_shifted, softmax_numerators};
use super::product::product;

/// Queries of a block.
const BLOCK: usize = 64;

/// Sizes of one attention.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Sizes {
    pub(in crate::ops) rows: usize,
    pub(in crate::ops) queries: usize,
    pub(in crate::ops) keys: usize,
    /// Keys from one row to the next: more than `keys` where a cache has room.
    pub(in crate::ops) row_keys: usize,
    pub(in crate::ops) heads: usize,
    pub(in crate::ops) kv_heads: usize,
    pub(in crate::ops) width: usize,
    /// Factor of the scores.
    pub(in crate::ops) scale: f32,
    /// Scores become `cap · tanh(scores / cap)`.
    pub(in crate::ops) softcap: Option<f32>,
}

impl Sizes {
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// One head as a matrix of tokens by width; its row begins at token `first`.
    fn head<'a>(
        &self,
        values: &'a [f32],
        first: usize,
        head: usize,
        of: (usize, usize),
    ) -> ArrayView2<'a, f32> {
        let (tokens, heads) = of;
        let start = (first * heads + head) * self.width;
        let end = start + ((tokens - 1) * heads + 1) * self.width;
        ArrayView2::from_shape(
            (tokens, self.width).strides((heads * self.width, 1)),
            &values[start..end],
        )
        .expect("the strides are those of the layout")
    }

    fn query_head<'a>(&self, values: &'a [f32], row: usize, head: usize) -> ArrayView2<'a, f32> {
        let of = (self.queries, self.heads);
        self.head(values, row * self.queries, head, of)
    }

    fn key_head<'a>(&self, values: &'a [f32], row: usize, head: usize) -> ArrayView2<'a, f32> {
        let of = (self.keys, self.kv_heads);
        self.head(values, row * self.row_keys, head, of)
    }

    /// Blocks of queries, each with the keys that any of them sees.
    fn blocks<'a>(&'a self, seen: &'a [Seen]) -> impl Iterator<Item = Block> + 'a {
        let past = self.keys - self.queries;
        (0..self.queries).step_by(BLOCK).map(move |from| {
            let to = (from + BLOCK).min(self.queries);
            let last = to + past;
            let mut block = Block {
                from,
                to,
                first: last,
                last,
                skipped: (0, last),
            };
            for (seen, place) in seen[from..to].iter().zip(from + past..) {
                let gap = seen.gap(place);
                block.first = block.first.min(seen.start);
                block.skipped.0 = block.skipped.0.max(gap.start);
                block.skipped.1 = block.skipped.1.min(gap.end);
            }
            if block.skipped.0 >= block.skipped.1 {
                block.skipped = (last, last);
            }
            block
        })
    }

    /// Puts `[k-major]` results of single heads into a tensor of all heads.
    fn gather(&self, parts: &[Vec<f32>], tokens: usize, heads: usize) -> Vec<f32> {
        let mut all = vec![0.0; self.rows * tokens * heads * self.width];
        all.par_chunks_mut(heads * self.width)
            .enumerate()
            .for_each(|(index, out)| {
                let (row, token) = (index / tokens, index % tokens);
                for (head, out) in out.chunks_exact_mut(self.width).enumerate() {
                    let part = &parts[row * heads + head];
                    out.copy_from_slice(&part[token * self.width..][..self.width]);
                }
            });
        all
    }
}

/// The keys that a query sees: those from `start` to itself that are not in the gap,
/// which may be empty. It always sees itself.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Seen {
    pub(in crate::ops) start: usize,
    /// First key of the gap, and one past its last.
    pub(in crate::ops) gap: (usize, usize),
}

impl Seen {
    /// The gap between the start and the query, which stands at key `place`.
    fn gap(self, place: usize) -> Range<usize> {
        let start = self.gap.0.max(self.start).min(place);
        start..self.gap.1.clamp(start, place)
    }
}

#[derive(Debug, Clone, Copy)]
struct Block {
    from: usize,
    to: usize,
    /// First key that is read.
    first: usize,
    /// One past the last key that is read.
    last: usize,
    /// Keys between the two that no query sees: the first, and one past the last.
    /// Both are `last` where there are none.
    skipped: (usize, usize),
}

impl Block {
    /// The columns that query `from + index` sees, from its first to itself, and those
    /// between them that it does not see.
    fn visible(&self, seen: &[Seen], index: usize, past: usize) -> (Range<usize>, Range<usize>) {
        let query = self.from + index;
        let (seen, place) = (seen[query], query + past);
        let gap = seen.gap(place);
        (
            self.column(seen.start)..self.column(place + 1),
            self.column(gap.start)..self.column(gap.end),
        )
    }

    /// The column of a key that some query sees, or of one past such a key.
    fn column(&self, key: usize) -> usize {
        let (from, to) = self.skipped;
        match key >= to {
            true => key - self.first - (to - from),
            false => key - self.first,
        }
    }

    /// Number of keys that are read.
    fn keys(&self) -> usize {
        self.column(self.last)
    }

    /// The keys that are read, in one run or two: columns, and where they come from.
    fn parts(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let (from, to) = self.skipped;
        let middle = from - self.first;
        let parts = [
            (0..middle, self.first..from),
            (middle..self.keys(), to..self.last),
        ];
        parts.into_iter().filter(|(columns, _)| !columns.is_empty())
    }
}

/// Output and, for the backward pass, the logarithm of each softmax's sum,
/// `[b, h, t]`. `seen` is `[b, t]`.
pub(in crate::ops) fn forward(
    sizes: Sizes,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    seen: &[Seen],
) -> (Vec<f32>, Vec<f32>) {
    let (t, width) = (sizes.queries, sizes.width);
    let past = sizes.keys - t;
    let (outputs, log_sums): (Vec<Vec<f32>>, Vec<Vec<f32>>) = (0..sizes.rows * sizes.heads)
        .into_par_iter()
        .map(|index| {
            let (row, head) = (index / sizes.heads, index % sizes.heads);
            let seen = &seen[row * t..(row + 1) * t];
            let q = sizes.query_head(q, row, head);
            let k = sizes.key_head(k, row, head / sizes.group());
            let v = sizes.key_head(v, row, head / sizes.group());
            let mut output = vec![0.0; t * width];
            let mut log_sums = vec![0.0; t];
            let mut buffer = Vec::new();
            for block in sizes.blocks(seen) {
                let mut scores = block_scores(&mut buffer, &sizes, &block, q, k);
                let mut inverse = [0.0; BLOCK];
                for (index, mut scores) in scores.rows_mut().into_iter().enumerate() {
                    let (visible, gap) = block.visible(seen, index, past);
                    let scores = scores.as_slice_mut().expect("rows are contiguous");
                    if let Some(cap) = sizes.softcap {
                        soft_cap(&mut scores[visible.clone()], cap);
                    }
                    scores[gap.clone()].fill(f32::NEG_INFINITY);
                    let (max, sum) = softmax_numerators(&mut scores[visible.clone()]);
                    for hidden in [0..visible.start, gap, visible.end..block.keys()] {
                        scores[hidden].fill(0.0);
                    }
                    inverse[index] = 1.0 / sum;
                    log_sums[block.from + index] = max + sum.ln();
                }
                let n = block.to - block.from;
                let part = &mut output[block.from * width..block.to * width];
                let mut out = ArrayViewMut2::from_shape((n, width), part).expect("a block of rows");
                let mut before = false;
                for (columns, keys) in block.parts() {
                    let weights = scores.slice(s![.., columns]);
                    product(1.0, &weights, &v.slice(s![keys, ..]), before, &mut out);
                    before = true;
                }
                for (mut out, inverse) in out.rows_mut().into_iter().zip(inverse) {
                    out *= inverse;
                }
            }
            (output, log_sums)
        })
        .unzip();
    (sizes.gather(&outputs, t, sizes.heads), log_sums.concat())
}

fn block_scores<'a>(
    buffer: &'a mut Vec<f32>,
    sizes: &Sizes,
    block: &Block,
    q: ArrayView2<'_, f32>,
    k: ArrayView2<'_, f32>,
) -> ArrayViewMut2<'a, f32> {
    let n = block.to - block.from;
    buffer.resize(n * block.keys(), 0.0);
    let mut scores = ArrayViewMut2::from_shape((n, block.keys()), buffer.as_mut_slice())
        .expect("the buffer has this size");
    let q = q.slice(s![block.from..block.to, ..]);
    for (columns, keys) in block.parts() {
        let (k, mut scores) = (k.slice(s![keys, ..]), scores.slice_mut(s![.., columns]));
        product(sizes.scale, &q, &k.t(), false, &mut scores);
    }
    scores
}

/// Caps scores softly.
fn soft_cap(scores: &mut [f32], cap: f32) {
    for score in scores {
        *score = cap * (*score / cap).tanh();
    }
}

/// What the forward pass read and made.
pub(in crate::ops) struct Saved<'a> {
    pub(in crate::ops) q: &'a [f32],
    pub(in crate::ops) k: &'a [f32],
    pub(in crate::ops) v: &'a [f32],
    pub(in crate::ops) seen: &'a [Seen],
    pub(in crate::ops) output: &'a [f32],
    pub(in crate::ops) log_sums: &'a [f32],
}

/// Gradients of one key-value head of a row and of the query heads that share it.
struct GroupGradients {
    dq_of_heads: Vec<Vec<f32>>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

/// Gradients of queries, keys and values.
pub(in crate::ops) fn backward(
    sizes: Sizes,
    saved: &Saved<'_>,
    upstream: &[f32],
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let (t, width, group) = (sizes.queries, sizes.width, sizes.group());
    let past = sizes.keys - t;
    // A group shares its keys and values, whose gradients are sums over it.
    let groups: Vec<GroupGradients> = (0..sizes.rows * sizes.kv_heads)
        .into_par_iter()
        .map(|index| {
            let (row, kv_head) = (index / sizes.kv_heads, index % sizes.kv_heads);
            let seen = &saved.seen[row * t..(row + 1) * t];
            let k = sizes.key_head(saved.k, row, kv_head);
            let v = sizes.key_head(saved.v, row, kv_head);
            let mut dk = vec![0.0; sizes.keys * width];
            let mut dv = vec![0.0; sizes.keys * width];
            let mut dq_of_heads = Vec::with_capacity(group);
            let (mut weights_buffer, mut slopes_buffer) = (Vec::new(), Vec::new());
            let mut cap_slopes = Vec::new();
            for head in kv_head * group..(kv_head + 1) * group {
                let q = sizes.query_head(saved.q, row, head);
                let output = sizes.query_head(saved.output, row, head);
                let upstream = sizes.query_head(upstream, row, head);
                let log_sums = &saved.log_sums[(row * sizes.heads + head) * t..][..t];
                let mut dq = vec![0.0; t * width];
                for block in sizes.blocks(seen) {
                    let n = block.to - block.from;
                    let mut weights = block_scores(&mut weights_buffer, &sizes, &block, q, k);
                    let d_out = upstream.slice(s![block.from..block.to, ..]);
                    let out = output.slice(s![block.from..block.to, ..]);
                    slopes_buffer.resize(n * block.keys(), 0.0);
                    let mut slopes =
                        ArrayViewMut2::from_shape((n, block.keys()), slopes_buffer.as_mut_slice())
                            .expect("the buffer has this size");
                    for (columns, keys) in block.parts() {
                        let (v, mut slopes) =
                            (v.slice(s![keys, ..]), slopes.slice_mut(s![.., columns]));
                        product(1.0, &d_out, &v.t(), false, &mut slopes);
                    }
                    for index in 0..n {
                        let (visible, gap) = block.visible(seen, index, past);
                        let mut weights = weights.row_mut(index);
                        let weights = weights.as_slice_mut().expect("rows are contiguous");
                        let mut slopes = slopes.row_mut(index);
                        let slopes = slopes.as_slice_mut().expect("rows are contiguous");
                        if let Some(cap) = sizes.softcap {
                            let scores = &mut weights[visible.clone()];
                            soft_cap(scores, cap);
                            cap_slopes.clear();
                            cap_slopes.extend(scores.iter().map(|x| 1.0 - (x / cap) * (x / cap)));
                        }
                        exp_shifted(&mut weights[visible.clone()], log_sums[block.from + index]);
                        let mean = d_out.row(index).dot(&out.row(index));
                        let scale = sizes.scale;
                        let visible_slopes = &mut slopes[visible.clone()];
                        for (slope, weight) in
                            visible_slopes.iter_mut().zip(&weights[visible.clone()])
                        {
                            *slope = weight * (*slope - mean) * scale;
                        }
                        // Empty without a cap.
                        for (slope, cap_slope) in visible_slopes.iter_mut().zip(&cap_slopes) {
                            *slope *= cap_slope;
                        }
                        for hidden in [0..visible.start, gap, visible.end..block.keys()] {
                            weights[hidden.clone()].fill(0.0);
                            slopes[hidden].fill(0.0);
                        }
                    }
                    let q_block = q.slice(s![block.from..block.to, ..]);
                    let part = &mut dq[block.from * width..block.to * width];
                    let mut dq =
                        ArrayViewMut2::from_shape((n, width), part).expect("a block of rows");
                    let mut before = false;
                    for (columns, keys) in block.parts() {
                        let weights = weights.slice(s![.., columns.clone()]);
                        let slopes = slopes.slice(s![.., columns]);
                        let by_key = (keys.len(), width);
                        let values = keys.start * width..keys.end * width;
                        let mut dv = ArrayViewMut2::from_shape(by_key, &mut dv[values.clone()])
                            .expect("a range of keys");
                        product(1.0, &weights.t(), &d_out, true, &mut dv);
                        let mut dk = ArrayViewMut2::from_shape(by_key, &mut dk[values])
                            .expect("a range of keys");
                        product(1.0, &slopes.t(), &q_block, true, &mut dk);
                        let k_block = k.slice(s![keys, ..]);
                        product(1.0, &slopes, &k_block, before, &mut dq);
                        before = true;
                    }
                }
                dq_of_heads.push(dq);
            }
            GroupGradients {
                dq_of_heads,
                dk,
                dv,
            }
        })
        .collect();
    let (mut dq, mut dk, mut dv) = (Vec::new(), Vec::new(), Vec::new());
    for group in groups {
        dq.extend(group.dq_of_heads);
        dk.push(group.dk);
        dv.push(group.dv);
    }
    (
        sizes.gather(&dq, t, sizes.heads),
        sizes.gather(&dk, sizes.keys, sizes.kv_heads),
        sizes.gather(&dv, sizes.keys, sizes.kv_heads),
    )
}

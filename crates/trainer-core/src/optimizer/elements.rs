//! Rules that treat each element of a parameter alone.
//!
//! Such a rule is written twice: for slices, which is one pass over memory on all
//! cores, and for tensors of any backend. Its state can be kept in 8 bits; then
//! it is unpacked and packed again a piece at a time, in the memory of this
//! process whatever the backend.

use std::fmt::Debug;

use burn::prelude::*;
use rayon::prelude::*;

use super::eight_bit::{BLOCK, Codes, Part};
use super::engine::{At, Parameter, Rule};
use super::state::{Buffer, Kept, slice, slice_mut};
use crate::backend::in_host_memory;

/// Elements that a thread takes at a time, whole blocks of [`Codes`]; a cache
/// holds the slices of a piece.
const PIECE: usize = 64 * BLOCK;

/// Parameters with fewer elements keep their state in 32 bits, as in
/// bitsandbytes.
const SMALLEST_IN_8_BITS: usize = 4096;

/// What is kept for each element.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value {
    pub(super) name: &'static str,
    /// Whether it can be negative.
    pub(super) signed: bool,
}

/// How elements change. Both forms compute the same, up to rounding.
pub(super) trait PerElement: Debug + Sync {
    /// What is kept for each element; zero before the first step.
    fn values(&self) -> Vec<Value>;

    /// Changes `value` and `state`, one slice for each of [`Self::values`], all of
    /// one length. To be inlined, so that it is compiled for the processor's widest
    /// vectors.
    fn on_slices(&self, at: &At, value: &mut [f32], gradient: &[f32], state: &mut [&mut [f32]]);

    /// The same on tensors.
    fn on_tensors(
        &self,
        at: &At,
        value: Tensor<1>,
        gradient: Tensor<1>,
        state: &mut [Tensor<1>],
    ) -> Tensor<1>;
}

/// Width of a value of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bits {
    ThirtyTwo,
    Eight,
}

/// A rule for elements as one for parameters.
#[derive(Debug)]
pub(super) struct Elements<E> {
    rule: E,
    bits: Bits,
}

impl<E: PerElement> Elements<E> {
    pub(super) fn new(rule: E, bits: Bits) -> Self {
        Self { rule, bits }
    }

    /// Whether the state of `n` elements is kept in 8 bits.
    fn keeps_codes(&self, n: usize) -> bool {
        self.bits == Bits::Eight && n >= SMALLEST_IN_8_BITS
    }

    /// One pass over slices. `state` is in this process, all of it in slices or
    /// all of it in codes.
    fn in_pieces(&self, at: &At, value: &mut [f32], gradient: &[f32], state: &mut [Buffer]) {
        let mut pieces: Vec<Piece<'_>> = value
            .chunks_mut(PIECE)
            .zip(gradient.chunks(PIECE))
            .map(|(value, gradient)| Piece {
                value,
                gradient,
                slices: Vec::new(),
                codes: Vec::new(),
            })
            .collect();
        for buffer in state {
            match &mut buffer.kept {
                Kept::Slice(values) => {
                    let parts = values.chunks_mut(PIECE);
                    pieces
                        .iter_mut()
                        .zip(parts)
                        .for_each(|(piece, part)| piece.slices.push(part));
                }
                Kept::Codes(codes) => {
                    let parts = codes.chunks_mut(PIECE);
                    pieces
                        .iter_mut()
                        .zip(parts)
                        .for_each(|(piece, part)| piece.codes.push(part));
                }
                Kept::Tensor(_) => unreachable!("the state is in this process"),
            }
        }
        pieces.into_par_iter().for_each(|piece| {
            let mut codes = piece.codes;
            let mut unpacked: Vec<Vec<f32>> = codes.iter().map(Part::unpack).collect();
            let mut slices: Vec<&mut [f32]> = piece.slices;
            slices.extend(unpacked.iter_mut().map(Vec::as_mut_slice));
            pulp::Arch::new().dispatch(
                #[inline(always)]
                || {
                    let scaled: Vec<f32>;
                    let mut gradient = piece.gradient;
                    if at.gradient_factor != 1.0 {
                        let factor = at.gradient_factor as f32;
                        scaled = gradient.iter().map(|g| g * factor).collect();
                        gradient = &scaled;
                    }
                    self.rule.on_slices(at, piece.value, gradient, &mut slices);
                },
            );
            for (codes, values) in codes.iter_mut().zip(&unpacked) {
                codes.pack(values);
            }
        });
    }
}

/// What a thread works on.
struct Piece<'a> {
    value: &'a mut [f32],
    gradient: &'a [f32],
    slices: Vec<&'a mut [f32]>,
    codes: Vec<Part<'a>>,
}

impl<E: PerElement> Rule for Elements<E> {
    fn fresh(&self, parameter: &Parameter, device: &Device) -> Vec<Buffer> {
        let n = parameter.elements();
        let in_codes = self.keeps_codes(n);
        let buffer = |Value { name, signed }| {
            let kept = if in_codes {
                Kept::Codes(Codes::zeros(n, signed))
            } else if in_host_memory(device) {
                Kept::Slice(vec![0.0; n])
            } else {
                return Buffer::tensor(name, &parameter.shape, device);
            };
            Buffer {
                name,
                shape: parameter.shape.clone(),
                kept,
            }
        };
        self.rule.values().into_iter().map(buffer).collect()
    }

    fn bytes(&self, parameter: &Parameter) -> u64 {
        let n = parameter.elements();
        let each = match self.keeps_codes(n) {
            true => Codes::bytes(n),
            false => 4 * n as u64,
        };
        each * self.rule.values().len() as u64
    }

    fn apply(
        &self,
        _parameter: &Parameter,
        at: &At,
        value: Tensor<1>,
        gradient: Tensor<1>,
        state: &mut [Buffer],
    ) -> Tensor<1> {
        let in_process = match state.first() {
            Some(buffer) => !matches!(buffer.kept, Kept::Tensor(_)),
            None => in_host_memory(&value.device()),
        };
        if in_process {
            let device = value.device();
            let (mut value, gradient) = (value.into_data(), gradient.into_data());
            self.in_pieces(at, slice_mut(&mut value), slice(&gradient), state);
            return Tensor::from_data(value, &device);
        }
        let tensors = state.iter().map(|buffer| match &buffer.kept {
            Kept::Tensor(values) => values.clone(),
            _ => unreachable!("the state is on the device"),
        });
        let mut tensors: Vec<Tensor<1>> = tensors.collect();
        let gradient = at.scaled(gradient);
        let value = self.rule.on_tensors(at, value, gradient, &mut tensors);
        for (buffer, values) in state.iter_mut().zip(tensors) {
            buffer.kept = Kept::Tensor(values);
        }
        value
    }
}

/// The items of a state whose number the rule's [`PerElement::values`] fixes.
pub(super) fn exactly<T, const N: usize>(state: &mut [T]) -> &mut [T; N] {
    match state.try_into() {
        Ok(state) => state,
        Err(_) => unreachable!("the rule says what it keeps"),
    }
}

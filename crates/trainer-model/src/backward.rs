//! One pass forward and back: from a batch and a loss to the gradients of the
//! parameters, with the activations kept or computed anew.
//!
//! Recomputation goes through the decoder twice. The first time nothing is
//! recorded, and of each layer only what goes into it is kept. Then, from the last
//! layer to the first, a layer runs again with its operations recorded, and the
//! gradient of what came out of it goes back through that record, which is gone
//! before the layer below runs. So there is the record of one layer at a time,
//! in place of all of them (arXiv 1604.06174, with a segment for each layer).
//!
//! Both ways run the same functions on the same values and give the same bits.
//! What a layer draws at random must follow from its input alone, since it is
//! drawn twice.
//!
//! Shape suffixes: `b` rows, `t` tokens, `n` tokens of all rows, `v` vocabulary, `d`
//! model width, `e` experts.

use std::collections::HashMap;
use std::time::Instant;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::prelude::*;
use burn::tensor::{FloatDType, Gradients, IndexingUpdateOp};

use crate::decoder::{CausalLm, Decoder};
use crate::feed_forward::Balance;
use crate::input::ModelInput;
use crate::parameters::{FlattenAll, ParameterGradients, parameters};
use crate::reward::RewardModel;

/// A decoder with a head.
pub trait DecoderModel: Module {
    /// Everything below the head.
    fn decoder(&self) -> &Decoder;

    /// What the head takes of the decoder's final hidden states.
    fn for_head(&self, hidden_btd: Tensor<3>) -> Tensor<3> {
        hidden_btd
    }
}

impl DecoderModel for CausalLm {
    fn decoder(&self) -> &Decoder {
        &self.model
    }

    fn for_head(&self, hidden_btd: Tensor<3>) -> Tensor<3> {
        Self::for_head(self, hidden_btd)
    }
}

impl DecoderModel for RewardModel {
    fn decoder(&self) -> &Decoder {
        &self.model
    }
}

/// What becomes of the values between the operations of a layer, which its backward
/// pass needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activations {
    /// They stay in memory.
    #[default]
    Kept,
    /// Those of a layer are computed a second time when its turn comes.
    Recomputed,
}

/// What a pass forward and back gives.
#[derive(Debug)]
pub struct Backward<T> {
    /// Value of the loss, with that of the experts' balance.
    pub loss: f64,
    /// The experts' balance in it.
    pub balance: f64,
    /// What the loss function returned beside the loss.
    pub output: T,
    /// Gradients of all parameters.
    pub gradients: ParameterGradients,
    /// Seconds until the loss was known.
    pub forward_seconds: f64,
}

/// Gradients of a loss of the final hidden states.
///
/// `loss` makes of the hidden states, `[b, t, d]`, as the head of `model` takes them,
/// a loss, `[1]`, and whatever else is wanted. It is called once. Where the
/// configuration asks for it, the load-balancing loss of the experts is added.
///
/// Where the loss depends on no parameter that is trained, there is no gradient.
#[must_use]
pub fn backward<M: DecoderModel, T>(
    model: &M,
    input: &ModelInput,
    activations: Activations,
    loss: impl FnOnce(Tensor<3>) -> (Tensor<1>, T),
) -> Backward<T> {
    match activations {
        Activations::Kept => kept(model, input, loss),
        Activations::Recomputed => recomputed(model, input, loss),
    }
}

fn kept<M: DecoderModel, T>(
    model: &M,
    input: &ModelInput,
    loss: impl FnOnce(Tensor<3>) -> (Tensor<1>, T),
) -> Backward<T> {
    let started = Instant::now();
    let decoder = model.decoder();
    let vectors_btd = vectors(decoder, input);
    let (hidden_btd, balance) = decoder.hidden_of_vectors(vectors_btd.clone(), input);
    let (mut loss, output) = loss(model.for_head(hidden_btd));
    let mut value = scalar(&loss);
    let mut balance_value = 0.0;
    if let Some(balance) = balance {
        balance_value = scalar(&balance);
        value += balance_value;
        loss = loss + balance;
    }
    let forward_seconds = started.elapsed().as_secs_f64();
    let mut found = Found::default();
    if loss.is_tracked() {
        let mut gradients = loss.backward();
        let upstream = vectors_btd.grad_remove(&mut gradients);
        found.add(model, &mut gradients);
        if let Some(upstream) = upstream {
            found.add_vectors(decoder, input, upstream);
        }
    }
    Backward {
        loss: value,
        balance: balance_value,
        output,
        gradients: found.in_order(model),
        forward_seconds,
    }
}

fn recomputed<M: DecoderModel, T>(
    model: &M,
    input: &ModelInput,
    loss: impl FnOnce(Tensor<3>) -> (Tensor<1>, T),
) -> Backward<T> {
    let started = Instant::now();
    let decoder = model.decoder();
    let input = input.clone().without_autodiff();
    // Below the lowest part that is trained, nothing goes back.
    let lowest = if is_trained(&decoder.embed_tokens) {
        Some(0)
    } else {
        let layers = decoder.layers.iter();
        layers
            .into_iter()
            .position(is_trained)
            .map(|index| index + 1)
    };
    // Whether the input of a layer needs a gradient; that of the norm comes last.
    let goes_below = |layer: usize| lowest.is_some_and(|lowest| lowest <= layer);

    // Not `valid()`: off the autodiff device some operations have kernels of their own,
    // which differ in the last bit.
    let silent = decoder.clone().no_grad();
    let mut balance = decoder.balance_coefficient().map(|_| Balance::default());
    let mut layer_inputs = Vec::new();
    let mut x_btd = silent.embed(&input);
    for (index, layer) in silent.layers.iter().enumerate() {
        if goes_below(index + 1) {
            layer_inputs.push(x_btd.clone());
        }
        x_btd = layer.forward(x_btd, &input, None, balance.as_mut());
    }
    drop(silent);
    let (balance, slopes_e) = balance_and_slopes(decoder, balance);

    let mut found = Found::default();
    let top = leaf(x_btd, goes_below(decoder.layers.len()));
    let hidden_btd = decoder.norm.forward(top.clone());
    let (loss, output) = loss(model.for_head(hidden_btd));
    let value = scalar(&loss) + balance;
    let forward_seconds = started.elapsed().as_secs_f64();
    let mut upstream = None;
    if loss.is_tracked() {
        let mut gradients = loss.backward();
        upstream = top.grad_remove(&mut gradients);
        found.add(model, &mut gradients);
    }
    drop((loss, top));

    let layers = decoder.layers.iter().enumerate().rev();
    for ((index, layer), x_btd) in layers.zip(layer_inputs.into_iter().rev()) {
        let x_btd = leaf(x_btd, goes_below(index));
        let mut own = slopes_e.as_ref().map(|_| Balance::default());
        let y_btd = layer.forward(x_btd.clone(), &input, None, own.as_mut());
        let mut back = upstream.take().map(|upstream| back_from(y_btd, upstream));
        if let (Some(probs_e), Some(slopes_e)) = (own.and_then(Balance::probabilities), &slopes_e) {
            let more = back_from(probs_e, slopes_e.clone());
            back = Some(match back {
                Some(back) => back + more,
                None => more,
            });
        }
        // A trained expert that no token was sent to leaves no record.
        let Some(back) = back.filter(Tensor::is_tracked) else {
            continue;
        };
        let mut gradients = back.backward();
        upstream = x_btd.grad_remove(&mut gradients);
        found.add(layer, &mut gradients);
    }
    if is_trained(&decoder.embed_tokens)
        && let Some(upstream) = upstream
    {
        let vectors_btd = vectors(decoder, &input);
        let x_btd = decoder.first_input(vectors_btd.clone(), &input);
        let mut gradients = back_from(x_btd, upstream).backward();
        if let Some(upstream) = vectors_btd.grad_remove(&mut gradients) {
            found.add_vectors(decoder, &input, upstream);
        }
    }
    Backward {
        loss: value,
        balance,
        output,
        gradients: found.in_order(model),
        forward_seconds,
    }
}

/// The load-balancing loss and its derivative with respect to the sum of each
/// expert's probabilities, `[e]`.
fn balance_and_slopes(decoder: &Decoder, balance: Option<Balance>) -> (f64, Option<Tensor<1>>) {
    let (Some(coefficient), Some(balance)) = (decoder.balance_coefficient(), balance) else {
        return (0.0, None);
    };
    let mut probs_e = None;
    let balance = balance.map_probabilities(|sum_e| {
        let sum_e = leaf(sum_e, true);
        probs_e = Some(sum_e.clone());
        sum_e
    });
    let Some(loss) = balance.loss().map(|loss| loss * coefficient) else {
        return (0.0, None);
    };
    let value = scalar(&loss);
    let mut gradients = loss.backward();
    let slopes_e = probs_e.and_then(|probs_e| probs_e.grad_remove(&mut gradients));
    (value, slopes_e)
}

/// A value at which a record starts.
fn leaf<const D: usize>(x: Tensor<D>, wants_gradient: bool) -> Tensor<D> {
    x.autodiff().set_require_grad(wants_gradient)
}

/// The vectors of the tokens as the start of a record. The embedding is not in it: its
/// gradient would be a table of zeros but for the tokens' rows.
fn vectors(decoder: &Decoder, input: &ModelInput) -> Tensor<3> {
    let table = &decoder.embed_tokens;
    leaf(
        table.clone().no_grad().forward(input.ids_bt.clone()),
        is_trained(table),
    )
}

/// A number whose gradient with respect to `output` is `upstream`.
fn back_from<const D: usize>(output: Tensor<D>, upstream: Tensor<D>) -> Tensor<1> {
    (output * upstream).sum().cast(FloatDType::F32)
}

fn scalar(loss: &Tensor<1>) -> f64 {
    f64::from(loss.clone().into_scalar::<f32>())
}

fn is_trained<M: Module>(module: &M) -> bool {
    parameters(module).iter().any(|info| info.trainable)
}

/// Gradients by parameter. A parameter that several parts use, such as an embedding
/// that is the output head too, has their sum.
#[derive(Default)]
struct Found(HashMap<ParamId, Tensor<1>>);

impl Found {
    /// Takes those of the parameters of a module.
    fn add<M: Module>(&mut self, module: &M, gradients: &mut Gradients) {
        module.visit(&mut Add {
            found: self,
            gradients,
        });
    }

    /// Adds the gradients of the tokens' vectors to the rows of the embedding's: those of
    /// an embedding that is the output head too are there already.
    fn add_vectors(&mut self, decoder: &Decoder, input: &ModelInput, upstream_btd: Tensor<3>) {
        let weight = &decoder.embed_tokens.weight;
        let [v, d] = weight.dims();
        let n = input.ids_bt.shape().num_elements();
        let sum = self.0.remove(&weight.id);
        // Not `zeros`, which flex makes of bytes and copies for their alignment.
        let sum = sum.unwrap_or_else(|| Tensor::full([v * d], 0.0, &upstream_btd.device()));
        let sum_vd = sum.reshape([v, d]).select_assign(
            0,
            input.ids_bt.clone().reshape([n]),
            upstream_btd.reshape([n, d]),
            IndexingUpdateOp::Add,
        );
        self.0.insert(weight.id, sum_vd.flatten_all());
    }

    fn in_order<M: Module>(self, model: &M) -> ParameterGradients {
        let mut ordered = InOrder {
            found: self,
            flat: Vec::new(),
        };
        model.visit(&mut ordered);
        ParameterGradients { flat: ordered.flat }
    }
}

struct Add<'a> {
    found: &'a mut Found,
    gradients: &'a mut Gradients,
}

impl ModuleVisitor for Add<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = param.val().grad_remove(self.gradients) else {
            return;
        };
        let gradient = gradient.flatten_all();
        let sum = match self.found.0.remove(&param.id) {
            Some(sum) => gradient + sum,
            None => gradient,
        };
        self.found.0.insert(param.id, sum);
    }
}

struct InOrder {
    found: Found,
    flat: Vec<Option<Tensor<1>>>,
}

impl ModuleVisitor for InOrder {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.flat.push(self.found.0.remove(&param.id));
    }
}

//! `adapter_config.json` and `adapter_model.safetensors`, as PEFT reads and writes
//! them.
//!
//! The name of a tensor is that of the parameter behind [`PREFIX`]; numbers are
//! stored as trained, in `f32`.

use std::collections::BTreeMap;
use std::path::Path;

use burn::prelude::*;

use super::adapter::LoraAdapter;
use super::config::{FILE, LoraConfig, WEIGHTS};
use super::lora::Start;
use crate::error::{ModelError, Result};
use crate::files::{
    EMBEDDING, HEAD, PYTORCH, WeightFile, WrittenFile, differs, write_atomically, write_tensors,
};
use crate::parameters::{fill_values, parameters, visit_values};
use crate::pretrained::Pretrained;

/// What PEFT puts before the names of a model's parameters.
const PREFIX: &str = "base_model.model.";

/// What follows the name of a map in those of its factors.
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";

/// The first values of factors that were made of weights, by the names of their maps.
type Starts = BTreeMap<String, Start>;

/// Which factor; as a number, the dimension of it that is the rank.
#[derive(Debug, Clone, Copy)]
enum FactorName {
    A = 0,
    B = 1,
}

impl FactorName {
    /// The factor of twice the rank that is this one and what it was at first, whose
    /// product is taken away: its second factor with the sign turned.
    fn joined(self, shape: &[usize], values: &[f32], start: &Start) -> (Vec<usize>, Vec<f32>) {
        let host = |x: &Tensor<2>| x.clone().into_data().iter::<f32>().collect::<Vec<f32>>();
        let mut shape = shape.to_vec();
        let joined = match self {
            Self::A => [values, &host(&start.a)].concat(),
            Self::B => {
                let first = host(&start.b.clone().neg());
                let rank = shape[1];
                let rows = values.chunks(rank).zip(first.chunks(rank));
                rows.flat_map(|(now, first)| [now, first].concat())
                    .collect()
            }
        };
        shape[self as usize] *= 2;
        (shape, joined)
    }

    /// The two factors that were joined; `rows` is the number of rows of each.
    fn halves(self, values: &[f32], rows: usize) -> [Vec<f32>; 2] {
        match self {
            Self::A => {
                let (now, first) = values.split_at(values.len() / 2);
                [now.to_vec(), first.to_vec()]
            }
            Self::B => {
                let columns = values.len() / rows.max(1);
                let half = |from: usize, to: usize| {
                    let rows = values.chunks(columns.max(1));
                    rows.flat_map(|row| row[from..to].to_vec()).collect()
                };
                [half(0, columns / 2), half(columns / 2, columns)]
            }
        }
    }
}

/// The weights of an adapter.
fn open(folder: &Path) -> Result<WeightFile> {
    let path = folder.join(WEIGHTS);
    if !path.is_file() {
        return Err(ModelError::MissingFile {
            folder: folder.to_path_buf(),
            name: WEIGHTS.into(),
            hint: format!("an adapter is a folder with this file and {FILE}"),
        });
    }
    WeightFile::open(&path)
}

/// Whether an adapter has an output head apart from the embedding. In PEFT each of the
/// two is a copy of its own once it is trained, unless it is told to tie them.
fn divides(file: &mut WeightFile, config: &LoraConfig) -> Result<bool> {
    let [embedding, head] = [EMBEDDING, HEAD].map(|name| format!("{PREFIX}{name}"));
    match (file.shape(&embedding), file.shape(&head)) {
        (Some(_), Some(_)) => apart(file, &embedding, &head),
        (Some(_), None) => Ok(!config.ensure_weight_tying),
        (None, head) => Ok(head.is_some()),
    }
}

/// Whether two tensors of a file, where there are both, are different.
fn apart(file: &mut WeightFile, one: &str, other: &str) -> Result<bool> {
    if file.shape(one).is_none() || file.shape(other).is_none() {
        return Ok(false);
    }
    let values = file.read_f32(one)?;
    differs(file, other, &values)
}

fn starts<M: Pretrained>(model: &M) -> Starts {
    let mut starts = Starts::new();
    let found = model.clone().each_linear("", &mut |name, linear| {
        if let Some(start) = &linear.lora_start {
            starts.insert(name.to_owned(), start.clone());
        }
        Ok(())
    });
    debug_assert!(found.is_ok(), "looking cannot fail");
    starts
}

/// What a parameter was at first, where it is a factor that was made of a weight.
fn start_of<'a>(starts: &'a Starts, parameter: &str) -> Option<(&'a Start, FactorName)> {
    let (map, factor) = match parameter.strip_suffix(A) {
        Some(map) => (map, FactorName::A),
        None => (parameter.strip_suffix(B)?, FactorName::B),
    };
    Some((starts.get(map)?, factor))
}

impl LoraAdapter {
    /// Writes the adapter that `model` carries. Each file appears under its name
    /// only once it is complete, the weights last.
    ///
    /// Factors that were made of weights are written together with what they were at
    /// first, as an adapter of twice the rank on the model as it was.
    ///
    /// Returns the file of weights.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn save<M: Pretrained>(&self, model: &M, folder: &Path) -> Result<WrittenFile> {
        let starts = starts(model);
        let config = match starts.is_empty() {
            true => self.config.clone(),
            false => self.config.doubled(),
        };
        let path = folder.join(FILE);
        write_atomically(&path, |temporary| {
            let text = format!(
                "{:#}\n",
                config.to_json(
                    model.task_type(),
                    &self.plan.target_modules,
                    &self.plan.modules_to_save
                )
            );
            std::fs::write(temporary, text).map_err(ModelError::io(&path))
        })?;

        let mut tensors: BTreeMap<String, TensorData> = BTreeMap::new();
        visit_values(model, |name, value| {
            if self.has(name) {
                let mut shape = value.shape().to_vec();
                let mut values = value.read();
                if let Some((start, factor)) = start_of(&starts, name) {
                    (shape, values) = factor.joined(&shape, &values, start);
                }
                let data = TensorData::new(values, shape);
                for name in self.names_of(name) {
                    tensors.insert(format!("{PREFIX}{name}"), data.clone());
                }
            }
            Ok(())
        })?;
        let tensors = tensors.iter().map(|(name, data)| (name.clone(), data));
        write_tensors(&folder.join(WEIGHTS), &[PYTORCH], tensors.collect())
    }

    /// Attaches the adapter of a folder to the model it was trained for. Where the output
    /// head of the model is the embedding, and the adapter has trained the two apart, the
    /// model gets a head of its own.
    ///
    /// # Errors
    /// When a file is missing or damaged, asks for something that is not supported,
    /// or does not fit the model.
    pub fn load<M: Pretrained>(model: M, folder: &Path) -> Result<(M, Self)> {
        let config = LoraConfig::from_folder(folder)?;
        let model = match model.is_tied() && divides(&mut open(folder)?, &config)? {
            true => model.untied(),
            false => model,
        };
        // The seed draws values that the file then replaces.
        let (model, adapter) = Self::attach(model, config, 0)?;
        let model = adapter.restore(model, folder)?;
        Ok((model, adapter))
    }

    /// `model`, which carries this adapter, with the weights of a folder.
    ///
    /// # Errors
    /// When the file is missing or damaged, or does not fit the adapter.
    pub fn restore<M: Pretrained>(&self, model: M, folder: &Path) -> Result<M> {
        let mut model = model;
        let mut file = open(folder)?;
        // What PEFT saves without being asked for another form has the rank of the run.
        let mut starts = starts(&model);
        starts.retain(|map, start| {
            let shape = file.shape(&format!("{PREFIX}{map}{A}"));
            shape.is_some_and(|shape| shape.first() == Some(&(2 * start.a.dims()[0])))
        });
        self.check(&model, &mut file, folder, &starts)?;
        model.each_linear("", &mut |map, linear| {
            if starts.contains_key(map) {
                let [outputs, inputs] = linear.weight.shape();
                let device = linear.weight.device().without_autodiff();
                let mut second = |name: &str, factor: FactorName, rows| -> Result<Tensor<2>> {
                    let values = file.read_f32(&format!("{PREFIX}{map}{name}"))?;
                    let half = factor.halves(&values, rows)[1].clone();
                    let columns = half.len() / rows;
                    let data = TensorData::new(half, [rows, columns]);
                    Ok(Tensor::from_data(data, &device))
                };
                let b = second(B, FactorName::B, outputs)?.neg();
                let a = second(A, FactorName::A, b.dims()[1])?;
                debug_assert_eq!(a.dims()[1], inputs);
                linear.lora_start = Some(Start { a, b });
            }
            Ok(())
        })?;
        fill_values(model, |name| {
            if !self.has(name) {
                return Ok(None);
            }
            let values = file.read_f32(&format!("{PREFIX}{name}"))?;
            Ok(Some(match start_of(&starts, name) {
                Some((start, factor)) => {
                    let rows = match factor {
                        FactorName::A => start.a.dims()[0],
                        FactorName::B => start.b.dims()[0],
                    };
                    factor.halves(&values, rows)[0].clone()
                }
                None => values,
            }))
        })
    }

    /// Compares what a file holds with what the model's adapter needs.
    /// The factors of the maps in `starts` have twice the rank there.
    fn check<M: Pretrained>(
        &self,
        model: &M,
        file: &mut WeightFile,
        folder: &Path,
        starts: &Starts,
    ) -> Result<()> {
        let mut problems = Vec::new();
        let mut wanted: Vec<String> = Vec::new();
        for parameter in parameters(model) {
            if !self.has(&parameter.name) {
                continue;
            }
            let mut want = parameter.shape.clone();
            if let Some((_, factor)) = start_of(starts, &parameter.name) {
                want[factor as usize] *= 2;
            }
            for (place, name) in self.names_of(&parameter.name).enumerate() {
                let name = format!("{PREFIX}{name}");
                match file.shape(&name) {
                    None if place > 0 && self.config.ensure_weight_tying => {}
                    None => problems.push(format!("  missing: {name} {want:?}")),
                    Some(shape) if shape != want.as_slice() => problems.push(format!(
                        "  wrong shape: {name} is {shape:?}, the model needs {want:?}"
                    )),
                    Some(_) => {}
                }
                wanted.push(name);
            }
        }
        let mut unexpected: Vec<&str> = file
            .names()
            .filter(|name| !wanted.iter().any(|wanted| wanted == name))
            .collect();
        unexpected.sort_unstable();
        problems.extend(
            unexpected
                .iter()
                .map(|name| format!("  unexpected: {name}")),
        );
        if problems.is_empty() {
            let [embedding, head] = [EMBEDDING, HEAD].map(|name| format!("{PREFIX}{name}"));
            if model.is_tied() && wanted.contains(&head) && apart(file, &embedding, &head)? {
                problems.push(format!(
                    "  {head} is not {embedding}, which are one tensor of the model"
                ));
            }
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(ModelError::AdapterTensors {
            folder: folder.to_path_buf(),
            problems,
        })
    }
}

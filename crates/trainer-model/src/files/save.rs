//! From a model to a folder that transformers loads.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::atomic::{Pending, write_atomically};
use super::digest::{Digest, WrittenFile};
use super::layout::{self, GENERATION, INDEX, SINGLE};
use super::load::differs;
use super::safetensors::{PYTORCH, SaveDtype, Writer};
use crate::error::{ModelError, Result};
use crate::parameters::{parameters, visit_values};
use crate::pretrained::Pretrained;
use crate::weight::Weight;

/// How weights are saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaveOptions {
    /// Number format.
    pub dtype: SaveDtype,
    /// Largest file of weights in bytes. Larger models are divided into several,
    /// a tensor into none.
    pub max_shard_bytes: u64,
}

impl SaveOptions {
    /// 5 GB, which file systems and hosts take without complaint.
    pub const MAX_SHARD_BYTES: u64 = 5_000_000_000;
}

impl From<SaveDtype> for SaveOptions {
    fn from(dtype: SaveDtype) -> Self {
        Self {
            dtype,
            max_shard_bytes: Self::MAX_SHARD_BYTES,
        }
    }
}

/// Writes `config.json`, `generation_config.json` and the weights:
/// `model.safetensors`, or shards with `model.safetensors.index.json`. A number
/// format alone stands for files of up to 5 GB.
///
/// Each file gets its name once it is complete, and the weights last: those of
/// an earlier save stay until all of the new ones are written. Tensors are copied to
/// the host piece by piece.
///
/// Returns the files of weights.
///
/// # Errors
/// A model that carries an adapter or quantized weights, which files of this layout do
/// not hold; what the file system reports.
pub fn save_model<M: Pretrained>(
    model: &M,
    folder: &Path,
    options: impl Into<SaveOptions>,
) -> Result<Vec<WrittenFile>> {
    let options = options.into();
    check_whole(model)?;
    let mut config = model.saved_config();
    // Both names are read by one or another version of transformers.
    config.remove("torch_dtype");
    config.insert("dtype".into(), Value::from(options.dtype.torch_name()));
    let mut generation = model.config().generation.clone();
    for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        if let Some(id) = config.get(key).filter(|id| !id.is_null()) {
            generation.entry(key).or_insert_with(|| id.clone());
        }
    }
    write_json(&folder.join("config.json"), &Value::Object(config))?;
    write_json(&folder.join(GENERATION), &Value::Object(generation))?;
    save_weights(model, folder, options)
}

/// Checks that the parameters of a model are all that it is.
///
/// # Errors
/// A map that has factors of an adapter, or whose weight is quantized.
pub(super) fn check_whole<M: Pretrained>(model: &M) -> Result<()> {
    model.clone().each_linear("", &mut |name, linear| {
        let message = match (&linear.weight, linear.factors()) {
            (_, Some(_)) => format!(
                "{name} carries factors of an adapter, which files of whole models do not hold: \
                 merge them into the weights first"
            ),
            (Weight::Quantized(_), None) => format!(
                "{name} is quantized, and files of models hold numbers: load the model without \
                 quantization"
            ),
            (Weight::Full(_), None) => return Ok(()),
        };
        Err(ModelError::Unwritable { message })
    })
}

/// Checks that the weights of a folder are those of `model`, each number rounded to the
/// format that they were saved in.
///
/// # Errors
/// The first tensor that is another; when a file is missing or damaged.
pub fn check_saved<M: Pretrained>(model: &M, folder: &Path, dtype: SaveDtype) -> Result<()> {
    let mut files = layout::open_weights(folder)?;
    visit_values(model, |name, value| {
        let mut values = value.read();
        if dtype == SaveDtype::Bf16 {
            let rounded = |x: &mut f32| *x = half::bf16::from_f32(*x).to_f32();
            values.iter_mut().for_each(rounded);
        }
        let holder = files.iter_mut().find(|file| file.shape(name).is_some());
        let same = match holder {
            Some(file) => !differs(file, name, &values)?,
            None => false,
        };
        match same {
            true => Ok(()),
            false => Err(ModelError::Tensors {
                folder: folder.to_path_buf(),
                problems: vec![format!("  {name} is not what was to be written")],
            }),
        }
    })
}

fn save_weights<M: Pretrained>(
    model: &M,
    folder: &Path,
    options: SaveOptions,
) -> Result<Vec<WrittenFile>> {
    let tensors = parameters(model)
        .into_iter()
        .map(|info| (info.name, info.shape))
        .collect();
    let mut writer = WeightsWriter::create(folder, tensors, options)?;
    visit_values(model, |_, value| writer.append(value.pieces()))?;
    writer.finish()
}

/// The weights of a folder, written one tensor after the other.
pub(super) struct WeightsWriter {
    folder: PathBuf,
    dtype: SaveDtype,
    /// Names of the files, each with its tensors.
    shards: Vec<(String, Vec<Described>)>,
    /// Complete but for their names.
    done: Vec<(Pending, Digest)>,
    /// The file that is written, and how many tensors it lacks.
    current: Option<(Pending, Writer, usize)>,
}

/// Name and shape of a tensor.
type Described = (String, Vec<usize>);

impl WeightsWriter {
    /// Begins the weights of a folder; tensors come in this order.
    pub(super) fn create(
        folder: &Path,
        tensors: Vec<Described>,
        options: SaveOptions,
    ) -> Result<Self> {
        let shards = divide(tensors, options);
        let count = shards.len();
        let name = |shard: usize| match count {
            1 => SINGLE.to_owned(),
            n => format!("model-{shard:05}-of-{n:05}.safetensors"),
        };
        Ok(Self {
            folder: folder.to_path_buf(),
            dtype: options.dtype,
            shards: (1..).map(name).zip(shards).collect(),
            done: Vec::new(),
            current: None,
        })
    }

    /// The values of the next tensor, piece by piece.
    pub(super) fn append(
        &mut self,
        pieces: impl IntoIterator<Item = impl AsRef<[f32]>>,
    ) -> Result<()> {
        if self.current.is_none()
            && let Some((name, tensors)) = self.shards.get(self.done.len())
        {
            let file = Pending::create(&self.folder.join(name))?;
            let described: Vec<_> = tensors
                .iter()
                .map(|(name, shape)| (name.as_str(), self.dtype.stored(), shape.as_slice()))
                .collect();
            let writer = Writer::create(file.temporary(), &[PYTORCH], &described)?;
            self.current = Some((file, writer, tensors.len()));
        }
        if let Some((_, writer, left)) = &mut self.current {
            for piece in pieces {
                writer.append(piece.as_ref(), self.dtype)?;
            }
            *left -= 1;
            if *left == 0
                && let Some((file, writer, _)) = self.current.take()
            {
                let digest = writer.finish()?;
                file.sync()?;
                self.done.push((file, digest));
            }
        }
        Ok(())
    }

    /// Gives all files their names, and removes those of an earlier save.
    pub(super) fn finish(self) -> Result<Vec<WrittenFile>> {
        let single = self.shards.len() == 1;
        let index = match single {
            true => None,
            false => {
                let file = Pending::create(&self.folder.join(INDEX))?;
                write_text(file.temporary(), &index(&self.shards, self.dtype))?;
                file.sync()?;
                Some(file)
            }
        };
        let mut written = Vec::with_capacity(self.done.len());
        for (file, digest) in self.done {
            written.push(WrittenFile::new(file.path(), digest));
            file.commit()?;
        }
        if let Some(index) = index {
            index.commit()?;
        }
        let names: Vec<&str> = written.iter().map(|file| file.name.as_str()).collect();
        layout::remove_stale_weights(&self.folder, &names, single)?;
        Ok(written)
    }
}

/// Fills shards in order.
fn divide(tensors: Vec<Described>, options: SaveOptions) -> Vec<Vec<Described>> {
    let mut shards: Vec<Vec<Described>> = Vec::new();
    let mut size = 0;
    for tensor in tensors {
        let bytes = (elements(&tensor) * options.dtype.width()) as u64;
        match shards.last_mut() {
            Some(shard) if size + bytes <= options.max_shard_bytes => {
                shard.push(tensor);
                size += bytes;
            }
            _ => {
                shards.push(vec![tensor]);
                size = bytes;
            }
        }
    }
    shards
}

fn elements((_, shape): &Described) -> usize {
    shape.iter().product()
}

fn index(shards: &[(String, Vec<Described>)], dtype: SaveDtype) -> Value {
    let mut total = 0;
    let mut map = Map::new();
    for (file, tensors) in shards {
        for tensor in tensors {
            total += elements(tensor);
            map.insert(tensor.0.clone(), Value::from(file.as_str()));
        }
    }
    json!({
        "metadata": {"total_parameters": total, "total_size": total * dtype.width()},
        "weight_map": map,
    })
}

pub(super) fn write_json(path: &Path, value: &Value) -> Result<()> {
    write_atomically(path, |temporary| write_text(temporary, value))
}

fn write_text(path: &Path, value: &Value) -> Result<()> {
    std::fs::write(path, format!("{value:#}\n")).map_err(ModelError::io(path))
}

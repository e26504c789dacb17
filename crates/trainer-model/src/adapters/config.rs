//! The settings of a LoRA adapter and `adapter_config.json`, the file in which
//! PEFT keeps them.
//!
//! What PEFT knows and this crate does not is an error when a file asks for it:
//! an adapter either behaves here as it did there, or is not loaded.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::config::is_empty;
use crate::error::{ModelError, Result};
use crate::files::{ADAPTER, has_weights};

/// The file's name.
pub(super) const FILE: &str = ADAPTER;

/// The file of the weights.
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";

/// Settings of a LoRA adapter, under PEFT's names.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank of the factors.
    pub r: usize,
    /// The product is scaled by `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Probability that an input of the first factor is dropped in training.
    pub lora_dropout: f64,
    /// Which maps get factors.
    pub target_modules: TargetModules,
    /// Modules that are trained as a whole and saved with the adapter: ends of
    /// their names.
    pub modules_to_save: Vec<String>,
    /// Ranks of maps whose name, from the start or from a dot on, matches a regular
    /// expression; the first that matches counts.
    pub rank_pattern: Vec<(String, usize)>,
    /// As `rank_pattern`, for `lora_alpha`.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Numbers of the layers whose maps get factors; all when empty.
    pub layers_to_transform: Vec<usize>,
    /// Names of the lists of layers that the numbers count in; any when empty.
    pub layers_pattern: Vec<String>,
    /// Scale by `lora_alpha / √r` (arXiv 2312.03732).
    pub use_rslora: bool,
    /// Train a magnitude for each output beside its direction (arXiv 2402.09353).
    pub use_dora: bool,
    /// An output head that is the embedding stays so where the embedding is trained. Of
    /// use in files alone: an adapter that is made here does so anyway.
    pub ensure_weight_tying: bool,
    /// First values of the factors.
    pub init_lora_weights: LoraInit,
    /// Folder or name of the model that the adapter belongs to.
    pub base_model_name_or_path: String,
}

/// Which maps get factors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetModules {
    /// A regular expression that matches the whole name of a map.
    Pattern(String),
    /// Names of maps, or ends of them from a dot on.
    Names {
        /// The names. One with characters of a regular expression is one, for the
        /// whole name.
        names: Vec<String>,
        /// Every map but the output head, the experts of a mixture and its router.
        all_linear: bool,
    },
}

/// First values of the factors; the model computes the same with any of them. Where
/// they are made of the weight, their product is taken away from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoraInit {
    /// `A` uniform in ±1/√in (Kaiming's with a = √5), `B` zero.
    Default,
    /// `A` from N(0, 1/r²), `B` zero.
    Gaussian,
    /// The leading singular vectors of the weight, each with the root of its value
    /// (PiSSA, arXiv 2404.02948).
    Pissa {
        /// Iterations of a randomized decomposition; `None`: until it is exact.
        iterations: Option<usize>,
    },
    /// `B` orthonormal columns of the weight, `A` what the weight is in them (OLoRA,
    /// arXiv 2406.01775).
    Olora,
}

/// What stands before the number of iterations in the name of PiSSA's fast form.
const PISSA_FAST: &str = "pissa_niter_";

impl LoraInit {
    /// The value of `init_lora_weights` or `peft_init_lora_weights`.
    ///
    /// # Errors
    /// A message for a name that is not known.
    pub fn parse(value: &Value) -> Result<Self, String> {
        const SUPPORTED: &str = "supported: true, gaussian, pissa, pissa_niter_N, olora";
        match value {
            Value::Bool(true) => Ok(Self::Default),
            Value::String(name) => match name.to_lowercase().as_str() {
                "true" | "default" => Ok(Self::Default),
                "gaussian" => Ok(Self::Gaussian),
                "pissa" => Ok(Self::Pissa { iterations: None }),
                "olora" => Ok(Self::Olora),
                name => match name.strip_prefix(PISSA_FAST).map(str::parse) {
                    Some(Ok(iterations @ 1..=1000)) => Ok(Self::Pissa {
                        iterations: Some(iterations),
                    }),
                    Some(_) => Err(format!(
                        "\"{name}\" does not name a number of iterations from 1 to 1000"
                    )),
                    None => Err(format!("\"{name}\" is not supported; {SUPPORTED}")),
                },
            },
            other => Err(format!("{other} is not supported; {SUPPORTED}")),
        }
    }

    fn to_json(self) -> Value {
        match self {
            Self::Default => Value::Bool(true),
            named => Value::from(named.to_string()),
        }
    }
}

impl fmt::Display for LoraInit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("true"),
            Self::Gaussian => f.write_str("gaussian"),
            Self::Pissa { iterations: None } => f.write_str("pissa"),
            Self::Pissa {
                iterations: Some(n),
            } => write!(f, "{PISSA_FAST}{n}"),
            Self::Olora => f.write_str("olora"),
        }
    }
}

impl Default for LoraConfig {
    /// PEFT's values.
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: TargetModules::Names {
                names: Vec::new(),
                all_linear: true,
            },
            modules_to_save: Vec::new(),
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            layers_to_transform: Vec::new(),
            layers_pattern: Vec::new(),
            use_rslora: false,
            use_dora: false,
            ensure_weight_tying: false,
            init_lora_weights: LoraInit::Default,
            base_model_name_or_path: String::new(),
        }
    }
}

impl LoraConfig {
    /// The same with twice the rank and the same scale: what an adapter is on the model
    /// as it was where its first factors were taken away. They follow, the second with
    /// its sign turned, in the other half of the ranks.
    pub(super) fn doubled(&self) -> Self {
        // The divisor of alpha is the rank, or its root.
        let factor = if self.use_rslora { 2_f64.sqrt() } else { 2.0 };
        let ranks = self.rank_pattern.iter();
        let alphas = self.alpha_pattern.iter();
        Self {
            r: 2 * self.r,
            lora_alpha: factor * self.lora_alpha,
            rank_pattern: ranks.map(|(name, r)| (name.clone(), 2 * r)).collect(),
            alpha_pattern: alphas.map(|(name, x)| (name.clone(), factor * x)).collect(),
            init_lora_weights: LoraInit::Default,
            ..self.clone()
        }
    }

    /// The text of `adapter_config.json`, in which PEFT finds maps and modules by the
    /// names given.
    pub(super) fn to_json(
        &self,
        task_type: &str,
        target_modules: &Value,
        modules_to_save: &[String],
    ) -> Value {
        let names = |names: &[String]| match names {
            [] => Value::Null,
            names => json!(names),
        };
        // Whole numbers are written as such, as Python's are.
        let number = |x: f64| {
            if x.fract() == 0.0 {
                json!(x as i64)
            } else {
                json!(x)
            }
        };
        let alphas = self.alpha_pattern.iter();
        let alphas: Map<_, _> = alphas.map(|(key, x)| (key.clone(), number(*x))).collect();
        let ranks = self.rank_pattern.iter();
        let ranks: Map<_, _> = ranks.map(|(key, r)| (key.clone(), json!(r))).collect();
        let layers = match self.layers_to_transform.as_slice() {
            [] => Value::Null,
            layers => json!(layers),
        };
        json!({
            "alora_invocation_tokens": null,
            "alpha_pattern": alphas,
            "arrow_config": null,
            "auto_mapping": null,
            "base_model_name_or_path": self.base_model_name_or_path,
            "bias": "none",
            "corda_config": null,
            "ensure_weight_tying": self.ensure_weight_tying,
            "eva_config": null,
            "exclude_modules": null,
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": self.init_lora_weights.to_json(),
            "kasa_config": null,
            "layer_replication": null,
            "layers_pattern": names(&self.layers_pattern),
            "layers_to_transform": layers,
            "loftq_config": {},
            "lora_alpha": number(self.lora_alpha),
            "lora_bias": false,
            "lora_dropout": self.lora_dropout,
            "lora_ga_config": null,
            "megatron_config": null,
            "megatron_core": "megatron.core",
            "modules_to_save": names(modules_to_save),
            "monteclora_config": null,
            "peft_type": "LORA",
            "peft_version": "0.21.2",
            "qalora_group_size": 16,
            "r": self.r,
            "rank_pattern": ranks,
            "revision": null,
            "target_modules": target_modules,
            "target_parameters": null,
            "task_type": task_type,
            "trainable_token_indices": null,
            "use_bdlora": null,
            "use_dora": self.use_dora,
            "use_qalora": false,
            "use_rslora": self.use_rslora,
            "velora_config": null,
        })
    }

    /// Reads `adapter_config.json` of a folder.
    ///
    /// # Errors
    /// When the file is missing, is not JSON, or asks for something that is not
    /// supported.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        if !path.is_file() {
            return Err(ModelError::MissingFile {
                folder: folder.to_path_buf(),
                name: FILE.into(),
                hint: match has_weights(folder) {
                    true => "it holds a whole model, which needs no other to be loaded".into(),
                    false => format!("an adapter is a folder with this file and {WEIGHTS}"),
                },
            });
        }
        let text = std::fs::read_to_string(&path).map_err(ModelError::io(&path))?;
        let value: Value = serde_json::from_str(&text).map_err(|e| ModelError::Json {
            path: path.clone(),
            message: e.to_string(),
        })?;
        let Value::Object(raw) = value else {
            return Err(ModelError::Json {
                path,
                message: "expected a JSON object".into(),
            });
        };
        Reader { raw: &raw, path }.read()
    }
}

/// Keys that say nothing of what an adapter computes.
const NEUTRAL: &[&str] = &[
    "auto_mapping",
    // How first values were found, which the file has replaced: `init_lora_weights` says
    // whether the weights beneath were left as they were.
    "corda_config",
    "eva_config",
    "lora_ga_config",
    "loftq_config",
    // PEFT itself takes it for false at linear maps.
    "fan_in_fan_out",
    "inference_mode",
    "megatron_core",
    "peft_version",
    // Of `use_qalora` alone.
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
];

/// Keys that are read, in one place or another of [`Reader::read`].
const READ: &[&str] = &[
    "alpha_pattern",
    "base_model_name_or_path",
    "bias",
    "ensure_weight_tying",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "use_dora",
    "use_rslora",
];

/// Keys of features of PEFT's that are not supported.
const UNSUPPORTED: &[&str] = &[
    "alora_invocation_tokens",
    "arrow_config",
    "exclude_modules",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
];

/// First values that left the weights beneath as they were; the file has replaced them.
const LEFT_AS_IT_WAS: &[&str] = &["eva", "mica", "orthogonal"];

/// First values that were taken away from the weights beneath, or put others in their
/// place.
const CHANGED: &[&str] = &["corda", "loftq", "lora_ga"];

struct Reader<'a> {
    raw: &'a Map<String, Value>,
    path: PathBuf,
}

impl Reader<'_> {
    fn read(&self) -> Result<LoraConfig> {
        match self.get("peft_type").and_then(Value::as_str) {
            Some("LORA") => {}
            other => {
                let found = other.unwrap_or("nothing");
                return Err(self.error("peft_type", format!("expected LORA, found {found}")));
            }
        }
        for (key, value) in self.raw {
            let has = |keys: &[&str]| keys.contains(&key.as_str());
            if has(READ) || has(NEUTRAL) || is_empty(value) {
                continue;
            }
            let message = match has(UNSUPPORTED) {
                true => format!("{value} is not supported"),
                false => format!(
                    "{value} is a setting that is not known here, and may change what the adapter \
                     computes; if it does not, remove it from the file"
                ),
            };
            return Err(self.error(key, message));
        }
        match self.get("bias").and_then(Value::as_str) {
            None | Some("none" | "") => {}
            Some(other) => return Err(self.error("bias", format!("\"{other}\" is not supported"))),
        }
        let init = self.init()?;
        let lora_dropout = self.number("lora_dropout")?.unwrap_or(0.0);
        if !(0.0..1.0).contains(&lora_dropout) {
            return Err(self.error(
                "lora_dropout",
                format!("{lora_dropout} is not at least 0 and below 1"),
            ));
        }
        Ok(LoraConfig {
            r: self.rank("r", self.get("r"))?.unwrap_or(8),
            lora_alpha: self.number("lora_alpha")?.unwrap_or(8.0),
            lora_dropout,
            target_modules: self.targets()?,
            modules_to_save: self.names("modules_to_save")?.unwrap_or_default(),
            rank_pattern: self
                .patterns("rank_pattern", |key, value| self.rank(key, Some(value)))?,
            alpha_pattern: self
                .patterns("alpha_pattern", |key, value| self.as_number(key, value))?,
            layers_to_transform: self.layers()?,
            layers_pattern: match self.get("layers_pattern") {
                Some(Value::String(one)) => vec![one.clone()],
                _ => self.names("layers_pattern")?.unwrap_or_default(),
            },
            use_rslora: self.flag("use_rslora")?,
            use_dora: self.flag("use_dora")?,
            ensure_weight_tying: self.flag("ensure_weight_tying")?,
            init_lora_weights: init,
            base_model_name_or_path: self
                .get("base_model_name_or_path")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
        })
    }

    /// How the factors began: of interest only where their first product is not in the
    /// weights beneath any more.
    fn init(&self) -> Result<LoraInit> {
        const KEY: &str = "init_lora_weights";
        let named = match self.get(KEY) {
            // The values come from the file.
            None | Some(Value::Bool(_)) => return Ok(LoraInit::Default),
            Some(value) => value,
        };
        let name = named.as_str().unwrap_or_default().to_lowercase();
        if LEFT_AS_IT_WAS.contains(&name.as_str()) {
            return Ok(LoraInit::Default);
        }
        let changed = |name: &str, how: &str| {
            let message = format!(
                "{name} {how} the weights of the model, which nothing but that run knows: save the \
                 adapter in PEFT with path_initial_model_for_weight_conversion, or give the model \
                 that was saved with it as the base and write `true` here"
            );
            Err(self.error(KEY, message))
        };
        if CHANGED.iter().any(|way| name.starts_with(way)) {
            return changed(&name, "changed");
        }
        let init = LoraInit::parse(named).map_err(|message| self.error(KEY, message))?;
        match init {
            LoraInit::Pissa {
                iterations: Some(_),
            } => changed(&name, "took random factors away from"),
            init => Ok(init),
        }
    }

    fn targets(&self) -> Result<TargetModules> {
        const KEY: &str = "target_modules";
        match self.get(KEY) {
            Some(Value::String(name)) if name == "all-linear" => Ok(TargetModules::Names {
                names: Vec::new(),
                all_linear: true,
            }),
            Some(Value::String(pattern)) => Ok(TargetModules::Pattern(pattern.clone())),
            _ => match self.names(KEY)? {
                Some(names) if !names.is_empty() => Ok(TargetModules::Names {
                    names,
                    all_linear: false,
                }),
                _ => Err(self.error(KEY, "is missing".into())),
            },
        }
    }

    fn error(&self, key: &str, message: String) -> ModelError {
        ModelError::Config {
            path: self.path.clone(),
            key: key.into(),
            message,
        }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.raw.get(key).filter(|v| !v.is_null())
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            Some(value) => self.as_number(key, value),
            None => Ok(None),
        }
    }

    fn as_number(&self, key: &str, value: &Value) -> Result<Option<f64>> {
        match value.as_f64() {
            Some(number) if number.is_finite() => Ok(Some(number)),
            _ => Err(self.error(key, format!("expected a number, found {value}"))),
        }
    }

    fn flag(&self, key: &str) -> Result<bool> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.error(key, format!("expected true or false, found {other}"))),
        }
    }

    fn patterns<T>(
        &self,
        key: &str,
        read: impl Fn(&str, &Value) -> Result<Option<T>>,
    ) -> Result<Vec<(String, T)>> {
        let map = match self.get(key) {
            None => return Ok(Vec::new()),
            Some(Value::Object(map)) => map,
            Some(other) => {
                return Err(self.error(key, format!("expected an object, found {other}")));
            }
        };
        let mut patterns = Vec::new();
        for (pattern, value) in map {
            if let Some(value) = read(key, value)? {
                patterns.push((pattern.clone(), value));
            }
        }
        Ok(patterns)
    }

    fn layers(&self) -> Result<Vec<usize>> {
        const KEY: &str = "layers_to_transform";
        let Some(value) = self.get(KEY) else {
            return Ok(Vec::new());
        };
        let numbers = match value {
            Value::Array(items) => items.iter().map(Value::as_u64).collect(),
            one => one.as_u64().map(|one| vec![one]),
        };
        match numbers {
            Some(numbers) => Ok(numbers.into_iter().map(|n| n as usize).collect()),
            None => Err(self.error(KEY, format!("expected numbers of layers, found {value}"))),
        }
    }

    fn rank(&self, key: &str, value: Option<&Value>) -> Result<Option<usize>> {
        let Some(value) = value else {
            return Ok(None);
        };
        match value.as_u64() {
            // Bounded, so that no allocation follows a number of the file.
            Some(r @ 1..=65_536) => Ok(Some(r as usize)),
            _ => Err(self.error(
                key,
                format!("expected a whole number from 1 to 65536, found {value}"),
            )),
        }
    }

    fn names(&self, key: &str) -> Result<Option<Vec<String>>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let names = value.as_array().and_then(|items| {
            items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()
        });
        match names {
            Some(names) => Ok(Some(names)),
            None => Err(self.error(key, format!("expected a list of names, found {value}"))),
        }
    }
}

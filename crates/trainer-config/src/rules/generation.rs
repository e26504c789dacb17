//! Rules about generated text.

use super::Rules;

impl Rules<'_> {
    /// Keys that say how tokens are drawn, where none are.
    pub(super) fn generation(&mut self) {
        if self.config.generation.generation_do_sample {
            return;
        }
        for key in [
            "generation_temperature",
            "generation_top_k",
            "generation_top_p",
            "generation_min_p",
        ] {
            if self.is_set(key) && self.usable(&["generation_do_sample", key]) {
                let labels = [
                    self.key(
                        "generation_do_sample",
                        "takes the likeliest token each time",
                    ),
                    self.key(key, "says how tokens are drawn"),
                ];
                self.error(
                    &format!("`{key}` has no effect with `generation_do_sample: false`"),
                    labels,
                    "keep one of them",
                );
            }
        }
    }
}

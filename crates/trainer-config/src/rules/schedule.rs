//! Rules about the learning rate.

use super::Rules;
use crate::diagnostic::Diagnostic;
use crate::schema::LrScheduler;

impl Rules<'_> {
    pub(super) fn warmup(&mut self) {
        self.exclusive(
            "warmup_steps",
            "warmup_ratio",
            "keep one: both say how long the warmup is",
        );
        let c = self.config;
        if let (Some(warmup), Some(steps)) = (c.warmup_steps, c.max_steps)
            && warmup > steps
            && self.usable(&["warmup_steps", "max_steps"])
        {
            let labels = [
                self.value("warmup_steps", "longer than the run"),
                self.value("max_steps", "the whole run"),
            ];
            self.report(
                Diagnostic::warning("the learning rate never reaches its peak"),
                labels,
                "lower `warmup_steps`",
            );
        }
    }

    pub(super) fn schedule(&mut self) {
        let c = self.config;
        if !self.usable(&["lr_scheduler"]) {
            return;
        }
        let cosine = c.lr_scheduler == LrScheduler::Cosine;
        let other = format!("is `{}`", c.lr_scheduler);
        let needs = |rules: &mut Self, key: &str, names: &str| {
            let labels = [
                rules.key(key, "has no effect"),
                rules.value("lr_scheduler", &other),
            ];
            rules.error(
                &format!("`{key}` needs `lr_scheduler: {names}`"),
                labels,
                &format!("remove `{key}`, or change `lr_scheduler`"),
            );
        };
        if c.lr_quadratic_warmup && !cosine {
            needs(self, "lr_quadratic_warmup", "cosine");
        }
        if c.cosine_constant_lr_ratio.is_some() && !cosine {
            needs(self, "cosine_constant_lr_ratio", "cosine");
        }
        if c.cosine_min_lr_ratio.is_some() && !cosine && c.lr_scheduler != LrScheduler::Rex {
            needs(self, "cosine_min_lr_ratio", "cosine` or `rex");
        }
        if c.lr_quadratic_warmup && cosine && c.cosine_min_lr_ratio.is_some() {
            let labels = [
                self.key("cosine_min_lr_ratio", "a lowest learning rate"),
                self.key("lr_quadratic_warmup", "falls to zero"),
            ];
            self.error(
                "`lr_quadratic_warmup` and `cosine_min_lr_ratio` cannot be combined",
                labels,
                "keep one",
            );
        }
        if c.cosine_constant_lr_ratio.is_some()
            && c.cosine_min_lr_ratio.is_none()
            && self.usable(&["cosine_min_lr_ratio"])
        {
            let label = self.key("cosine_constant_lr_ratio", "stays at which learning rate?");
            self.error(
                "`cosine_constant_lr_ratio` needs `cosine_min_lr_ratio`",
                [label],
                "add a line such as `cosine_min_lr_ratio: 0.1`",
            );
        }
    }

    pub(super) fn jagged(&mut self) {
        const PARTS: [&str; 2] = ["jagged_restart_warmup_steps", "jagged_restart_anneal_steps"];
        let c = self.config;
        if !self.usable(&["jagged_restart_steps", PARTS[0], PARTS[1]]) {
            return;
        }
        let Some(period) = c.jagged_restart_steps else {
            for key in PARTS {
                if self.is_set(key) {
                    let label = self.key(key, "restarts after how many steps?");
                    self.error(
                        &format!("`{key}` needs `jagged_restart_steps`"),
                        [label],
                        "add `jagged_restart_steps`",
                    );
                }
            }
            return;
        };
        let warmup = c.jagged_restart_warmup_steps.unwrap_or(10);
        let anneal = c.jagged_restart_anneal_steps.unwrap_or(1);
        if warmup.saturating_add(anneal) > period {
            let labels = [
                self.value("jagged_restart_steps", "steps between restarts"),
                self.value(PARTS[0], "steps of rising"),
                self.value(PARTS[1], "steps of falling"),
            ];
            self.error(
                &format!(
                    "a restart takes {warmup} + {anneal} steps, but there is one every {period}"
                ),
                labels,
                "raise `jagged_restart_steps`, or lower the other two",
            );
        }
    }
}

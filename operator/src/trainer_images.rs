//! The images of trainer pods whose spec names none.

use stic_contract::StepName;
use stic_crds::status::Resolved;

use crate::validated::Validated;

/// The trainer for CPUs, and that for GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainerImages {
    pub cpu: String,
    pub gpu: String,
}

impl TrainerImages {
    /// These, unless the run is under way and has pinned others.
    #[must_use]
    pub fn pinned(&self, resolved: Option<&Resolved>) -> Self {
        let Some(cpu) = resolved.and_then(|resolved| resolved.trainer_image.clone()) else {
            return self.clone();
        };
        // An earlier version of the operator had one image for all pods.
        let gpu = resolved.and_then(|resolved| resolved.trainer_gpu_image.clone());
        Self { gpu: gpu.unwrap_or_else(|| cpu.clone()), cpu }
    }

    /// The image for the pods of `step`, by what they request.
    #[must_use]
    pub fn of_step(self, run: &Validated, step: StepName) -> String {
        if run.gpus(step).is_some() { self.gpu } else { self.cpu }
    }
}
